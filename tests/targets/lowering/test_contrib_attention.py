"""Attention of ONNX Runtime's own, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.contrib import agrees, contrib_model, normal
from support.node_cases import run_model

B, S, N, H = 2, 5, 3, 4
RAGGED = np.asarray([3, 5], np.int32)


def _masks() -> dict[str, np.ndarray]:
    columns = np.arange(S)
    rows = (columns < RAGGED[:, None]).astype(np.int32)
    return {
        "ends": RAGGED,
        "ends and starts": np.asarray([4, 5, 1, 2], np.int32),
        "keys": rows,
        "rows and keys": np.random.default_rng(5).integers(0, 2, (B, S, S)).astype(np.int32) | np.eye(S, dtype=np.int32),
    }


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, *_masks()])
def test_attention(mask: str | None, causal: int) -> None:
    inputs = (normal(B, S, 6), normal(6, 3 * N * H, seed=1), normal(3 * N * H, seed=2), _masks().get(mask or ""))
    agrees("Attention", *inputs, num_heads=N, unidirectional=causal)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_past(causal: int) -> None:
    inputs = (normal(B, S, 6), normal(6, 3 * N * H, seed=1), normal(3 * N * H, seed=2), None, normal(2, B, N, 7, H, seed=3))
    agrees("Attention", *inputs, outputs=2, num_heads=N, unidirectional=causal)
    scores = normal(1, N, S, S, seed=4)
    agrees("Attention", *inputs[:4], None, scores, num_heads=N, scale=0.3, unidirectional=causal)


def test_attention_with_other_values() -> None:
    sizes = [N * H, N * H, N * 2]
    agrees("Attention", normal(B, S, 6), normal(6, sum(sizes)), normal(sum(sizes)), num_heads=N, qkv_hidden_sizes=sizes)


def _quantized(**attrs: Any) -> None:
    random = np.random.default_rng(0)
    x, w = random.integers(0, 255, (B, S, 6), np.uint8), random.integers(-128, 127, (6, 3 * N * H), np.int8)
    scales = (np.asarray(0.02, np.float32), np.asarray(0.01, np.float32))
    zeros = (np.asarray(128, np.uint8), np.asarray(3, np.int8))
    agrees("QAttention", x, w, normal(3 * N * H), *scales, None, *zeros, num_heads=N, **attrs)
    agrees("QAttention", x, w, normal(3 * N * H), *scales, RAGGED, *zeros, num_heads=N, **attrs)


@pytest.mark.parametrize("causal", [0, 1])
def test_quantized_attention(causal: int) -> None:
    _quantized(unidirectional=causal)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "ends", "keys", "rows and keys"])
def test_multi_head(mask: str | None, causal: int) -> None:
    q, k, v = (normal(B, S, N * H, seed=seed) for seed in range(3))
    agrees("MultiHeadAttention", q, k, v, None, _masks().get(mask or ""), num_heads=N, unidirectional=causal)


def test_multi_head_with_bias_and_past() -> None:
    q, k, v = normal(B, S, N * H), normal(B, 2, N * H, seed=1), normal(B, 2, N * 3, seed=2)
    bias, scores = normal(2 * N * H + N * 3, seed=3), normal(1, N, S, 6, seed=4)
    past = (normal(B, N, 4, H, seed=5), normal(B, N, 4, 3, seed=6))
    agrees("MultiHeadAttention", q, k, v, bias, num_heads=N)
    same = normal(B, 2, N * H, seed=2)
    agrees("MultiHeadAttention", q, k, same, None, None, scores, past[0], normal(B, N, 4, H, seed=6), outputs=3, num_heads=N)
    agrees("MultiHeadAttention", q, k, same, None, None, normal(B, 1, S, 2, seed=4), num_heads=N, outputs=4, floats=[3], scale=0.2)


def _run(*arrays: np.ndarray) -> np.ndarray:
    return run_model(contrib_model("MultiHeadAttention", arrays, ["y"], num_heads=N), *arrays)[0]


def test_multi_head_on_packed_projections() -> None:
    """ONNX Runtime has no kernel for these on the CPU."""
    q, k, v = (normal(B, S, N, H, seed=seed) for seed in range(3))
    expected = _run(*(x.reshape(B, S, N * H) for x in (q, k, v)))
    np.testing.assert_allclose(_run(q.reshape(B, S, N * H), np.stack([k, v], 3)), expected, rtol=1e-6)
    np.testing.assert_allclose(_run(np.stack([q, k, v], 3)), expected, rtol=1e-6)


def test_multi_head_on_keys_by_head() -> None:
    agrees("MultiHeadAttention", normal(B, S, N * H), normal(B, N, 7, H, seed=1), normal(B, N, 7, H, seed=2), num_heads=N)
