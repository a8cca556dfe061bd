"""Normalizations of ONNX Runtime's own, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from support.contrib import agrees, normal


def _ids(*shape: int, top: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape, np.int32)


def _bert(with_segments: bool) -> list[np.ndarray | None]:
    segments = [_ids(2, 5, top=2), normal(2, 8, seed=3)] if with_segments else [None, None]
    return [_ids(2, 5, top=11), segments[0], normal(11, 8), normal(9, 8, seed=2), segments[1], normal(8, seed=4), normal(8, seed=5)]


@pytest.mark.parametrize("with_segments", [True, False])
def test_embedding_layer(with_segments: bool) -> None:
    inputs = _bert(with_segments)
    agrees("EmbedLayerNormalization", *inputs, outputs=2, epsilon=1e-5)
    agrees("EmbedLayerNormalization", *inputs, outputs=3, epsilon=1e-5)
    mask = np.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    agrees("EmbedLayerNormalization", *inputs, mask, outputs=2, mask_index_type=1)
    agrees("EmbedLayerNormalization", *inputs, mask, _ids(2, 5, top=9, seed=6), outputs=2)


@pytest.mark.parametrize("outputs", [1, 2])
def test_simplified_layer_normalization(outputs: int) -> None:
    agrees("SimplifiedLayerNormalization", normal(2, 3, 8), normal(8, seed=1), outputs=outputs, epsilon=1e-4, domain="")


@pytest.mark.parametrize("shape", [(1, 3, 8), (3, 8)])
def test_skip_of_fewer_batches(shape: tuple[int, ...]) -> None:
    agrees("SkipLayerNormalization", normal(2, 3, 8), normal(*shape, seed=1), normal(8, seed=2), normal(8, seed=3), epsilon=1e-5)
