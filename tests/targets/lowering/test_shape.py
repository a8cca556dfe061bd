"""Shapes and data movement, against onnx.reference and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kopt.errors import DynamicShapeError, InvalidModelError
from kopt.ir.builder import Builder
from kopt.ir.constant import Constant
from kopt.ir.types import DType, TensorType
from kopt.targets import reference
from kopt.targets.xla import evaluate_graph, evaluate_node
from support.node_cases import cases_of, check


def _built(op: str, arrays: tuple[Any, ...], outputs: int, attrs: dict[str, Any]) -> Builder:
    """A node whose inputs are constants, so that its types are known."""
    b = Builder()
    b.emit_many(op, *(None if array is None else b.constant(array) for array in arrays), num_outputs=outputs, attrs=attrs)
    return b


def _run(op: str, *arrays: Any, outputs: int = 1, **attrs: Any) -> tuple[np.ndarray, ...]:
    b = _built(op, arrays, outputs, attrs)
    results = evaluate_node(b.nodes[0], list(arrays))
    for result, value in zip(results, b.nodes[0].outputs, strict=True):
        assert result.dtype == value.tensor.dtype.numpy
        assert result.shape == value.shape
    return results


def _agrees(op: str, *arrays: Any, outputs: int = 1, **attrs: Any) -> None:
    expected = reference.evaluate_node(_built(op, arrays, outputs, attrs).nodes[0], list(arrays))
    for result, wanted in zip(_run(op, *arrays, outputs=outputs, **attrs), expected, strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_array_equal(result, wanted)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _random(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(2).integers(-99, 99, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(6, 4), (0, -1), (2, 0, 1, 2, -1), (-1,), (24, 1, 1)])
def test_reshape(shape: tuple[int, ...]) -> None:
    _agrees("Reshape", _random(2, 3, 4), _ints(*shape))


@pytest.mark.parametrize(
    ("given", "shape", "allowzero"), [((0, 3), (3, 0), 1), ((0, 3), (0, 9), 1), ((2, 0), (0, 0, 5), 0), ((0, 4), (-1, 2), 0)]
)
def test_reshape_of_nothing(given: tuple[int, ...], shape: tuple[int, ...], allowzero: int) -> None:
    _agrees("Reshape", _random(*given), _ints(*shape), allowzero=allowzero)


@pytest.mark.parametrize("attrs", [{}, {"perm": (0, 2, 1)}, {"perm": (2, 0, 1)}])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 4)])
def test_transpose(shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    _agrees("Transpose", _random(*shape), **attrs)


@pytest.mark.parametrize("axis", [-3, -1, 0, 1, 3])
def test_flatten(axis: int) -> None:
    _agrees("Flatten", _random(2, 3, 4), axis=axis)
    (nothing,) = _run("Flatten", _random(0, 3, 4), axis=axis)
    before = (0, 3, 4)[:axis]
    assert nothing.shape == ((0, 12 // max(1, int(np.prod(before[1:])))) if before else (1, 0))


def test_axes_of_size_1() -> None:
    _agrees("Squeeze", _random(1, 3, 1, 4, 1))
    _agrees("Squeeze", _random(1, 3, 1, 4, 1), _ints(-1, 0))
    _agrees("Unsqueeze", _random(3, 4), _ints(0, -1, 2))
    _agrees("Unsqueeze", np.float32(3).reshape(()), _ints(0, 1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int) -> None:
    shapes = [[2, 3, 4] for _ in range(3)]
    for k, size in enumerate((5, 0, 1)):
        shapes[k][axis] = size
    _agrees("Concat", *(_random(*shape, dtype=np.int32) for shape in shapes), axis=axis)


@pytest.mark.parametrize("axis", [1, -1])
def test_split(axis: int) -> None:
    x = _random(3, 7, 7)
    _agrees("Split", x, _ints(2, 0, 5), outputs=3, axis=axis)
    _agrees("Split", x, outputs=3, num_outputs=3, axis=axis)  # 3, 3, and 1 is left


SLICES = [
    ((1,), (3,), (0,), (1,)),
    ((-100, 2), (100, 5), (1, 2), (1, 2)),
    ((-1,), (-100,), (1,), (-1,)),
    ((5, -1), (1, 0), (2, -2), (-2, -1)),
    ((3,), (1,), (0,), (1,)),
    ((0,), (2**62,), (-1,), (3,)),
    ((2**62,), (-(2**62),), (2,), (-3,)),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 0)])
def test_slice(shape: tuple[int, ...], starts: Any, ends: Any, axes: Any, steps: Any) -> None:
    _agrees("Slice", _random(*shape), _ints(*starts), _ints(*ends), _ints(*axes), _ints(*steps))


def test_slice_without_axes_and_steps() -> None:
    _agrees("Slice", _random(4, 5), np.array([1, -3], np.int32), np.array([3, 5], np.int32))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 1), (1, 1), (4,), (0, 3, 4)])
def test_expand(shape: tuple[int, ...]) -> None:
    _agrees("Expand", _random(3, 1), _ints(*shape))
    _agrees("Expand", np.float32(3).reshape(()), _ints(*shape))


@pytest.mark.parametrize("repeats", [(1, 2), (3, 0), (2, 1)])
def test_tile(repeats: tuple[int, ...]) -> None:
    _agrees("Tile", _random(3, 4), _ints(*repeats))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [(1, 2, 0, 1), (0, 0, 0, 0)])
def test_pad(pads: tuple[int, ...], mode: str) -> None:
    _agrees("Pad", _random(4, 5), _ints(*pads), mode=mode)


def test_negative_pads_cut() -> None:
    x = _random(4, 5)
    (result,) = _run("Pad", x, _ints(-1, 0, 2, -2))
    np.testing.assert_array_equal(result, np.pad(x[1:, :-2], [(0, 2), (0, 0)]))


def test_pad_with_a_value_along_some_axes() -> None:
    _agrees("Pad", _random(2, 4, 5, dtype=np.int32), _ints(1, 2, 0, 3), np.array(7, np.int32), _ints(-1, 0))


@pytest.mark.parametrize("attrs", [{}, {"start": 1}, {"start": -2, "end": -1}, {"start": 5}, {"end": 2}, {"start": 2, "end": 1}])
def test_shape_and_size(attrs: dict[str, int]) -> None:
    _agrees("Shape", _random(2, 0, 4), **attrs)
    _agrees("Size", _random(2, 3, 4))


@pytest.mark.parametrize(
    ("start", "limit", "delta", "dtype"),
    [
        (0, 7, 2, np.int64),
        (5, -3, -3, np.int32),
        (3, 3, 1, np.int64),
        (3, 1, 1, np.int16),
        (0.5, 2.5, 0.7, np.float32),
        (1.0, 0.0, -0.1, np.float64),
        (-32768, 32767, 13, np.int16),
    ],
)
def test_range(start: Any, limit: Any, delta: Any, dtype: Any) -> None:
    arrays = [np.array(value, dtype) for value in (start, limit, delta)]
    b = Builder()
    b.emit("Range", *(b.input(name, DType.from_numpy(np.dtype(dtype)), ()) for name in ("start", "limit", "delta")))
    (result,) = evaluate_node(b.nodes[0], arrays)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, np.arange(start, limit, delta), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("start", "limit", "delta"), [(2**62, 2**62 + 3, 1), (-(2**63), 2**63 - 1, 2**62 + 1), (2**62 + 5, 2**62, -2)])
def test_ranges_of_large_integers_are_exact(start: int, limit: int, delta: int) -> None:
    arrays = [np.array(value, np.int64) for value in (start, limit, delta)]
    b = Builder()
    b.emit("Range", *(b.input(name, "i64", ()) for name in ("start", "limit", "delta")))
    (result,) = evaluate_node(b.nodes[0], arrays)
    assert result.tolist() == list(range(start, limit, delta))


def test_a_range_that_goes_nowhere_is_refused() -> None:
    b = Builder()
    b.emit("Range", *(b.input(name, "i64", ()) for name in ("start", "limit", "delta")))
    with pytest.raises(InvalidModelError, match="step of 0"):
        evaluate_node(b.nodes[0], [np.array(0), np.array(5), np.array(0)])


@pytest.mark.parametrize("k", [-1, 0, 2])
def test_diagonals(k: int) -> None:
    _agrees("EyeLike", _random(3, 5), k=k)
    _agrees("EyeLike", _random(3, 5), k=k, dtype=DType.I64.onnx)
    for upper in (0, 1):
        _agrees("Trilu", _random(2, 3, 5), np.array(k), upper=upper)


def test_a_filled_shape() -> None:
    _agrees("ConstantOfShape", _ints(2, 0, 3))
    _agrees("ConstantOfShape", _ints(), value=Constant.of(np.array([7], np.int8)))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode: str) -> None:
    x = _random(3, 8, 3, 5)
    _agrees("DepthToSpace", x, blocksize=2, mode=mode)
    (wide,) = _run("DepthToSpace", x, blocksize=2, mode="DCR")
    np.testing.assert_array_equal(_run("SpaceToDepth", wide, blocksize=2)[0], x)


@pytest.mark.parametrize("shape", [(10, 4), (3, 9), (4, 7)])
def test_crop_and_pad_around_the_middle(shape: tuple[int, ...]) -> None:
    _agrees("CenterCropPad", _random(5, 7), _ints(*shape))
    _agrees("CenterCropPad", _random(2, 5, 7), _ints(*shape), axes=(1, -1))


@pytest.mark.parametrize(("batch_axis", "time_axis"), [(0, 1), (1, 0)])
def test_reversed_sequences(batch_axis: int, time_axis: int) -> None:
    _agrees("ReverseSequence", _random(3, 3, 4), _ints(1, 3, 2), batch_axis=batch_axis, time_axis=time_axis)


def test_shape_arithmetic_of_a_fed_tensor_is_known_when_compiling() -> None:
    b = Builder()
    x = b.input("x", "f32", (3, 4, 5))
    rows = b.emit("Slice", b.emit("Shape", x), b.constant(_ints(0)), b.constant(_ints(1)))
    target = b.emit("Concat", rows, b.constant(_ints(-1)), attrs={"axis": 0})
    graph = b.graph("g", [x], [b.emit("Reshape", x, target, types=[TensorType(DType.F32, (3, 20))])])
    array = _random(3, 4, 5)
    np.testing.assert_array_equal(evaluate_graph(graph, [array])[0], array.reshape(3, 20))


def test_a_shape_that_is_fed_cannot_be_compiled() -> None:
    b = Builder()
    x, shape = b.input("x", "f32", (3, 4)), b.input("shape", "i64", (1,))
    graph = b.graph("g", [x, shape], [b.emit("Reshape", x, shape, types=[TensorType(DType.F32, (12,))])])
    with pytest.raises(DynamicShapeError, match="input 1 \\('shape'\\) of Reshape decides shapes"):
        evaluate_graph(graph, [_random(3, 4), _ints(12)])


OPS = ("Reshape", "Squeeze", "Split", "Slice", "Pad", "CenterCropPad", "ReverseSequence", "Trilu", "Range")


@pytest.mark.parametrize("name", cases_of(*OPS))
def test_node_case(name: str) -> None:
    check(name)
