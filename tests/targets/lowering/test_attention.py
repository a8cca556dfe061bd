"""Attention and rotary embeddings, against onnx.reference and against numpy where the reference has its own reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets import reference
from kopt.targets.xla import evaluate_node
from support.node_cases import cases_of, check

B, HEADS, GROUPS, ROWS, KEYS, WIDTH = 3, 6, 2, 5, 7, 4


def _random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _qkv(dtype: Any = np.float32, groups: int = HEADS, keys: int = KEYS) -> list[np.ndarray | None]:
    """Query, key, value, 4-D; the value is wider than the key."""
    shapes = ((B, HEADS, ROWS, WIDTH), (B, groups, keys, WIDTH), (B, groups, keys, WIDTH + 3))
    return [_random(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def _run(op: str, arrays: list[np.ndarray | None], outputs: int = 1, evaluator: Any = evaluate_node, **attrs: Any) -> Any:
    b = Builder()
    values = [None if a is None else b.input(f"x{k}", DType.from_numpy(a.dtype), a.shape) for k, a in enumerate(arrays)]
    b.emit_many(op, *values, attrs=attrs, num_outputs=outputs)
    return evaluator(b.nodes[0], arrays)


def _agrees(op: str, arrays: list[np.ndarray | None], outputs: int = 1, **attrs: Any) -> None:
    ours = _run(op, arrays, outputs, **attrs)
    theirs = _run(op, arrays, outputs, reference.evaluate_node, **attrs)
    for result, wanted in zip(ours, theirs, strict=True):
        assert (result.dtype, result.shape) == (wanted.dtype, wanted.shape)
        tolerance = {2: 4e-3, 4: 2e-5, 8: 1e-12}[result.dtype.itemsize]
        np.testing.assert_allclose(result.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)


def _masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    seen = rng.integers(0, 2, (ROWS, KEYS)).astype(bool)
    seen[:, 0], seen[2] = True, False  # row 2 sees nothing
    return {
        "bool": seen,
        "bool per head": rng.integers(0, 2, (HEADS, ROWS, KEYS)).astype(bool),
        "bool per image": rng.integers(0, 2, (B, 1, ROWS, KEYS)).astype(bool),
        "added": _random(ROWS, KEYS, seed=3),
        "added with -inf": np.where(seen, 0, -np.inf).astype(np.float32),
        "added to all": _random(B, HEADS, ROWS, KEYS, seed=3),
        "shorter than the keys": _random(ROWS, KEYS - 2, seed=3),
    }


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, *_masks()])
def test_masks(mask: str | None, causal: int) -> None:
    _agrees("Attention", [*_qkv(), *([] if mask is None else [_masks()[mask]])], is_causal=causal)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(dtype: Any) -> None:
    _agrees("Attention", _qkv(dtype), is_causal=1)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_grouped_queries(groups: int) -> None:
    _agrees("Attention", _qkv(groups=groups), scale=0.3)


@pytest.mark.parametrize("groups", [2, 6])
def test_three_axes(groups: int) -> None:
    q, k, v = _random(B, ROWS, HEADS * WIDTH), _random(B, KEYS, groups * WIDTH, seed=1), _random(B, KEYS, groups * 3, seed=2)
    _agrees("Attention", [q, k, v], q_num_heads=HEADS, kv_num_heads=groups, is_causal=1)


@pytest.mark.parametrize("softcap", [0.5, 30.0])
@pytest.mark.parametrize("mode", [1, 2, 3])
def test_softcap_comes_before_the_mask(mode: int, softcap: float) -> None:
    _agrees("Attention", [*_qkv(), _masks()["bool"]], 4, softcap=softcap, qk_matmul_output_mode=mode)


def test_raw_products_can_be_seen() -> None:
    q, k, v = _qkv()
    raw = _run("Attention", [q, k, v, _masks()["added"]], 4, softcap=0.5, qk_matmul_output_mode=0)[3]
    assert q is not None
    assert k is not None
    np.testing.assert_allclose(raw, q @ k.swapaxes(2, 3) / np.sqrt(WIDTH), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_unusual_scales(scale: float) -> None:
    q, k, v = _qkv()
    (y,) = _run("Attention", [q, k, v], scale=scale)
    assert q is not None
    assert k is not None
    scores = np.exp(scale * (q @ k.swapaxes(2, 3)).astype(np.float64))
    np.testing.assert_allclose(y, scores / scores.sum(-1, keepdims=True) @ v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("past", [0, 1, 4])
def test_cache(past: int, groups: int, causal: int) -> None:
    caches = [_random(B, groups, past, width, seed=7) for width in (WIDTH, WIDTH + 3)]
    _agrees("Attention", [*_qkv(groups=groups), None, *caches], 3, is_causal=causal)


@pytest.mark.parametrize("window", [{}, {"left_window_size": 2}, {"left_window_size": 1, "right_window_size": 1}])
@pytest.mark.parametrize("causal", [0, 1])
def test_lengths_of_a_padded_cache_and_windows(causal: int, window: dict[str, int]) -> None:
    _agrees("Attention", [*_qkv(groups=2), None, None, None, np.array([5, 7, 6])], is_causal=causal, **window)
    _agrees("Attention", [*_qkv(groups=2), _masks()["added"]], is_causal=causal, **window)


@pytest.mark.parametrize("precision", [1, 11])
def test_precision_of_the_softmax(precision: int) -> None:
    _agrees("Attention", _qkv(np.float16), softmax_precision=precision)


def test_a_row_that_sees_nothing_attends_to_nothing_even_beside_infinities() -> None:
    q, k, v = _qkv()
    assert k is not None
    k[:, :, 3] = np.inf
    (y,) = _run("Attention", [q, k, v, _masks()["bool"]])
    assert (y[:, :, 2] == 0).all()


def test_no_rows() -> None:
    q, k, v = _qkv()
    (y,) = _run("Attention", [None if a is None else a[:0] for a in (q, k, v)])
    assert y.shape == (0, HEADS, ROWS, WIDTH + 3)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary(flat: bool, width: int, interleaved: int) -> None:
    x = _random(B, ROWS, 2 * 8) if flat else _random(B, 2, ROWS, 8)
    positions = np.random.default_rng(1).integers(0, 11, (B, ROWS))
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": width, "num_heads": 2}
    tables = [_random(11, (width or 8) // 2, seed=seed) for seed in (1, 2)]
    _agrees("RotaryEmbedding", [x, *tables, positions], **attrs)
    _agrees("RotaryEmbedding", [x, *(table[positions] for table in tables)], **attrs)


@pytest.mark.parametrize("name", [name for name in cases_of("Attention", "RotaryEmbedding") if "16" not in name])
def test_node_case(name: str) -> None:
    check(name)
