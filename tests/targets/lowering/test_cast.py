"""Conversions of element types against numpy, ml_dtypes and onnx.reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kopt.errors import InvalidModelError
from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets.xla import evaluate_graph, evaluate_node
from support.node_cases import cases_of, check

WIDE = ("bool", "u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64")


def _run(x: np.ndarray, to: str, op: str = "Cast", **attrs: Any) -> np.ndarray:
    """On a known array, and compiled on a fed one: both must agree to the bit."""
    b = Builder()
    value = b.input("x", DType.from_numpy(x.dtype), x.shape)
    graph = b.graph("g", [value], [b.emit(op, value, attrs={"to": DType(to).onnx, **attrs})])
    (known,), (fed,) = evaluate_node(b.nodes[0], [x]), evaluate_graph(graph, [x])
    assert known.dtype == fed.dtype == DType(to).numpy
    assert known.tobytes() == fed.tobytes()
    return fed


def _values(dtype: str, to: str) -> np.ndarray:
    """Values that both types hold, negative ones where both are signed."""
    signed = not (dtype.startswith("u") or to.startswith("u") or "bool" in (dtype, to))
    values = np.array([[0, 1, 2, 100], [-1 if signed else 1, -100 if signed else 7, 3, 64]])
    return values.astype(DType(dtype).numpy)


@pytest.mark.parametrize("to", WIDE)
@pytest.mark.parametrize("dtype", WIDE)
def test_values_that_both_hold(dtype: str, to: str) -> None:
    x = _values(dtype, to)
    np.testing.assert_array_equal(_run(x, to).astype(np.float64), x.astype(DType(to).numpy).astype(np.float64))


@pytest.mark.parametrize("to", ["u8", "i8", "u16", "i32"])
def test_integers_wrap(to: str) -> None:
    x = np.array([-(2**40) + 3, -129, 200, 300, 2**33 + 5], np.int64)
    assert _run(x, to).tolist() == x.astype(DType(to).numpy).tolist()


@pytest.mark.parametrize("to", ["i32", "i64", "i8"])
def test_fractions_are_cut_off(to: str) -> None:
    assert _run(np.array([-1.9, -0.5, 0.5, 1.9], np.float32), to).tolist() == [-1, 0, 0, 1]


def test_what_is_not_zero_is_true() -> None:
    x = np.array([0.0, -0.0, 1e-30, np.nan, np.inf, -2], np.float32)
    assert _run(x, "bool").tolist() == [False, False, True, True, True, True]


def test_large_integers_keep_every_bit() -> None:
    x = np.array([2**62 + 1, -(2**63), 2**53 + 1], np.int64)
    assert _run(x, "u64").tolist() == [2**62 + 1, 2**63, 2**53 + 1]
    np.testing.assert_array_equal(_run(x, "f64"), x.astype(np.float64))


@pytest.mark.parametrize("to", ["f16", "bf16"])
def test_floats_round_to_even_and_overflow_to_infinity(to: str) -> None:
    x = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 7e4, -3.4e38, 1e-7, 0.1, np.nan, -np.inf], np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(DType(to).numpy)
    assert _run(x, to).tobytes() == expected.tobytes()


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("to", ["f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz"])
def test_8_bit_floats(to: str, saturate: int) -> None:
    dtype = DType(to).numpy
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.array([0, 1, -1.1, 0.3, largest, largest * 4, -largest * 4, np.inf, -np.inf, np.nan], np.float32)
    result = _run(x, to, saturate=saturate).astype(np.float32)
    np.testing.assert_array_equal(result[:5], x[:5].astype(dtype).astype(np.float32))
    if saturate:
        assert result[5:9].tolist() == [largest, -largest, largest, -largest]
    else:
        np.testing.assert_array_equal(np.abs(result[5:9]), [np.inf if to == "f8e5m2" else np.nan] * 4)
    assert np.isnan(result[9])


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0)])
def test_scalars_and_nothing(shape: tuple[int, ...]) -> None:
    assert _run(np.ones(shape, np.float32), "i8").shape == shape


def test_like_another() -> None:
    b = Builder()
    x, like = np.array([1.5, -2.5], np.float32), np.zeros(3, np.int16)
    b.emit("CastLike", b.input("x", "f32", x.shape), b.input("like", "i16", like.shape))
    (result,) = evaluate_node(b.nodes[0], [x, like])
    assert result.dtype == np.int16
    assert result.tolist() == [1, -2]


SAME_WIDTH = [("bool", "u8"), ("u8", "i8"), ("f16", "i16"), ("bf16", "f16"), ("f32", "u32"), ("i64", "f64"), ("u8", "f8e5m2")]


@pytest.mark.parametrize(("dtype", "to"), [*SAME_WIDTH, *(pair[::-1] for pair in SAME_WIDTH[1:])])
def test_bits_stay(dtype: str, to: str) -> None:
    held = DType(dtype).numpy
    width = held.itemsize
    raw = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 256, (3, 5 * width)).astype(np.uint8)
    x = raw.view(held)
    assert _run(x, to, op="BitCast").tobytes() == x.tobytes()


def test_a_byte_that_is_not_zero_is_true() -> None:
    assert _run(np.array([0, 1, 2, 255], np.uint8), "bool", op="BitCast").tolist() == [False, True, True, True]


def test_widths_must_agree() -> None:
    with pytest.raises(InvalidModelError, match="BitCast"):
        _run(np.zeros(3, np.float32), "i64", op="BitCast")


@pytest.mark.parametrize("name", cases_of("Cast", "CastLike", "BitCast"))
def test_node_case(name: str) -> None:
    check(name)
