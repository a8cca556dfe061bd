"""GroupQueryAttention and RotaryEmbedding of ONNX Runtime's own, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from support.contrib import agrees, contrib_model, normal
from support.node_cases import run_model

B, N, G, H = 2, 4, 2, 16


def _tables(pairs: int = H // 2) -> tuple[np.ndarray, np.ndarray]:
    angles = np.random.default_rng(9).uniform(-3, 3, (16, pairs)).astype(np.float32)
    return np.cos(angles), np.sin(angles)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved: int) -> None:
    positions = np.random.default_rng(0).integers(0, 16, (B, 5))
    agrees("RotaryEmbedding", normal(B, 5, N * H), positions, *_tables(), interleaved=interleaved)
    agrees("RotaryEmbedding", normal(B, N, 5, H), positions, *_tables(), interleaved=interleaved)
    agrees("RotaryEmbedding", normal(B, 5, N * H), np.asarray([3]), *_tables(), interleaved=interleaved)


def test_rotary_embedding_of_some_channels() -> None:
    positions = np.random.default_rng(0).integers(0, 16, (B, 5))
    agrees("RotaryEmbedding", normal(B, 5, N * H), positions, *_tables(2), num_heads=N, rotary_embedding_dim=4)


def _agrees(seq: int, lengths: list[int], past: int, *rest: np.ndarray | None, packed: bool = False, **attrs: Any) -> None:
    """Compare on the rows that a sequence really has; the others are unspecified."""
    batch, total = len(lengths), max(lengths)
    width = (N + 2 * G) * H if packed else N * H
    keys = (None, None) if packed else (normal(batch, seq, G * H, seed=1), normal(batch, seq, G * H, seed=2))
    caches = (normal(batch, G, past, H, seed=3), normal(batch, G, past, H, seed=4)) if past else (None, None)
    counts = (np.asarray(lengths, np.int32) - 1, np.asarray(total, np.int32))
    arrays = (normal(batch, seq, width), *keys, *caches, *counts, *rest)
    attrs |= {"num_heads": N, "kv_num_heads": G}
    model = contrib_model("GroupQueryAttention", arrays, [f"o{k}" for k in range(4 if attrs.get("qk_output") else 3)], **attrs)
    fed = {f"i{k}": array for k, array in enumerate(arrays) if array is not None}
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fed)
    results = run_model(model, *fed.values())
    first = seq == total
    for result, wanted in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (wanted.dtype, wanted.shape)
    for row, length in enumerate(lengths):
        valid = min(seq, length) if first else seq
        np.testing.assert_allclose(results[0][row, :valid], expected[0][row, :valid], rtol=1e-4, atol=1e-5)
        for result, wanted in zip(results[1:3], expected[1:3], strict=True):
            np.testing.assert_allclose(result[row, :, :length], wanted[row, :, :length], rtol=1e-5, atol=1e-6)
        for result, wanted in zip(results[3:], expected[3:], strict=True):
            np.testing.assert_allclose(result[row, :, :valid, :length], wanted[row, :, :valid, :length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [0, 1])
def test_prompt(rotary: int, packed: bool) -> None:
    _agrees(5, [5, 3], 0, *(_tables() if rotary else ()), packed=packed, do_rotary=rotary)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_next_token(interleaved: int) -> None:
    _agrees(1, [7, 5], 6, *_tables(), do_rotary=1, rotary_interleaved=interleaved)
    _agrees(1, [7, 5], 12, *_tables(), do_rotary=1, rotary_interleaved=interleaved)


def test_several_tokens() -> None:
    _agrees(3, [7], 4, *_tables(), do_rotary=1)


@pytest.mark.parametrize("window", [1, 2, 4, 10])
def test_window(window: int) -> None:
    _agrees(5, [5, 5], 0, local_window_size=window)
    _agrees(1, [7, 5], 6, local_window_size=window)


def test_cap_scale_and_smoothing() -> None:
    _agrees(5, [5, 4], 0, softcap=2.0, scale=0.7)
    _agrees(5, [5, 4], 0, smooth_softmax=1)
    _agrees(5, [5, 4], 0, None, None, None, None, normal(N, seed=7))


def test_positions_bias_and_scores() -> None:
    positions = np.asarray([[2], [3]])
    _agrees(1, [7, 5], 6, *_tables(), positions, normal(B, 1, 1, 7, seed=8), do_rotary=1)


def test_both_directions() -> None:
    _agrees(5, [5, 5], 0, causal=0)


@pytest.mark.parametrize("kind", [1, 2])
def test_scores_and_weights(kind: int) -> None:
    _agrees(5, [5, 5], 0, qk_output=kind, causal=0)
