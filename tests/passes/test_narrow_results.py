import jax
import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.passes.base import PassContext
from kopt.passes.narrow_results import NarrowResults
from kopt.targets.lowering.walk import load_lowerings, run_graph

KOPT = "com.kopt"
BF16 = DType.BF16.onnx


def floats(*shape):
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(np.float32)


class Model:
    """Layers on 16-bit floats."""

    def __init__(self):
        self.b = Builder()
        self.x = self.b.input("x", "f32", (6, 8))

    def cast(self, value, to=BF16):
        return self.b.emit("Cast", value, attrs={"to": to})

    def layer(self, x, residual=None, width=8):
        w = self.b.constant(floats(8, width).astype(DType.BF16.numpy))
        attrs = {"transB": 0, "activation": "Relu"}
        return self.b.emit("ProductMixed", x, w, self.b.constant(floats(width)), residual, domain=KOPT, attrs=attrs)

    def rewritten(self, *outputs):
        before = self.b.graph("g", [self.x], outputs)
        after = NarrowResults().run(before, PassContext())
        after.verify()
        for one, other in zip(execute(before), execute(after), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-2)
            assert one.dtype == other.dtype
        return after


def execute(graph):
    load_lowerings()
    weights = {value: constant.array() for value, constant in graph.constants.items()}
    with jax.enable_x64(True):
        return [np.asarray(y) for y in jax.jit(lambda x: run_graph(graph, [x], weights=weights))(floats(6, 8))]


def shape_of(graph):
    """(operator, type of the result, whether it is asked for) of every node."""
    return [(node.op, str(node.output.tensor.dtype), node.attrs.get("narrow_result", 0)) for node in graph.nodes]


def test_layers_in_a_row_hand_over_16_bits():
    m = Model()
    after = m.rewritten(m.layer(m.cast(m.layer(m.cast(m.x)))))
    assert shape_of(after) == [("Cast", "bf16", 0), ("ProductMixed", "bf16", 1), ("ProductMixed", "f32", 0)]


def test_residuals_are_read_in_16_bits():
    m = Model()
    first = m.layer(m.cast(m.x))
    after = m.rewritten(m.layer(m.cast(m.layer(m.cast(first))), residual=first))
    assert [kind for _, kind, _ in shape_of(after)] == ["bf16", "bf16", "bf16", "f32"]


def test_a_result_that_is_only_added_is_narrow():
    m = Model()
    x = m.cast(m.x)
    after = m.rewritten(m.layer(x, residual=m.layer(x)))
    assert shape_of(after)[1:] == [("ProductMixed", "bf16", 1), ("ProductMixed", "f32", 0)]


@pytest.mark.parametrize("other", ["output", "add", "cast_output", "f16"])
def test_other_readers_keep_f32(other):
    m = Model()
    first = m.layer(m.cast(m.x))
    narrow = m.cast(first)
    more = {
        "output": lambda: [first],
        "add": lambda: [m.b.emit("Add", first, first)],
        "cast_output": lambda: [narrow],
        "f16": lambda: [m.cast(first, DType.F16.onnx)],
    }[other]()
    last = m.layer(narrow)
    before = m.b.graph("g", [m.x], [last, *more])
    assert NarrowResults().run(before, PassContext()) is before
