"""What every lowering gets to know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kopt.errors import InvalidModelError
from kopt.ir.builder import Builder
from kopt.ir.graph import Attr
from kopt.ir.types import DType
from kopt.targets.xla import evaluate_node

SCALAR = np.zeros((), np.float32)
MATRIX = np.zeros((2, 3), np.float32)


def _emitted(op: str, arrays: Sequence[np.ndarray], attrs: dict[str, Attr]) -> Builder:
    b = Builder()
    b.emit(op, *(b.input(f"x{k}", DType.from_numpy(array.dtype), array.shape) for k, array in enumerate(arrays)), attrs=attrs)
    return b


@pytest.mark.parametrize(
    ("op", "arrays", "attrs"),
    [
        ("CumSum", [SCALAR, np.zeros((), np.int64)], {}),
        ("GatherElements", [SCALAR, np.zeros((), np.int64)], {}),
        ("ScatterElements", [SCALAR, np.zeros((), np.int64), SCALAR], {}),
        ("LpNormalization", [SCALAR], {}),
        ("MeanVarianceNormalization", [SCALAR], {"axes": (0,)}),
    ],
)
def test_scalars_have_no_axes(op: str, arrays: list[np.ndarray], attrs: dict[str, Attr]) -> None:
    b = _emitted(op, arrays, attrs)
    with pytest.raises(InvalidModelError, match=rf"{op} is asked for axis -?\d, but a scalar has none"):
        evaluate_node(b.nodes[0], arrays)


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_is_not_there_is_named(axis: int) -> None:
    arrays = [MATRIX, np.array(axis, np.int64)]
    with pytest.raises(InvalidModelError, match=f"CumSum is asked for axis {axis}, but its tensor has the axes -2 to 1"):
        evaluate_node(_emitted("CumSum", arrays, {}).nodes[0], arrays)


@pytest.mark.parametrize("axis", [1, -1])
def test_axes_count_from_both_ends(axis: int) -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(axis, np.int64)]
    (result,) = evaluate_node(_emitted("CumSum", arrays, {}).nodes[0], arrays)
    assert result.tolist() == [[0, 1, 3], [3, 7, 12]]
