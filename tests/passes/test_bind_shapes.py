import numpy as np
import pytest

from kopt.errors import DynamicShapeError, InvalidModelError, UsageError
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph
from kopt.ir.types import DType
from kopt.passes.base import PassContext
from kopt.passes.bind_shapes import BindShapes
from support.equivalence import assert_same_outputs, context, run_twice


def flatten_by_shape() -> Graph:
    """x[batch, seq, 4] -> Reshape(x, [Shape(x)[0], -1]), exporter style."""
    b = Builder()
    x = b.input("x", "f32", ("batch", "seq", 4))
    shape = b.emit("Shape", x)
    batch = b.emit("Gather", shape, b.constant(np.int64(0)), attrs={"axis": 0})
    row = b.emit("Unsqueeze", batch, b.constant(np.array([0])))
    target = b.emit("Concat", row, b.constant(np.array([-1])), attrs={"axis": 0})
    y = b.emit("Reshape", x, target, hint="y")
    return b.graph("flatten", [x], [y])


def test_binds_dims_and_folds_shape_arithmetic():
    graph = flatten_by_shape()
    after = BindShapes({"batch": 2, "seq": 5}).run(graph, context())
    assert [node.op for node in after.nodes] == ["Reshape"]
    assert after.inputs[0].shape == (2, 5, 4)
    assert after.outputs[0].shape == (2, 20)
    assert_same_outputs(graph, after, {"x": np.arange(40, dtype=np.float32).reshape(2, 5, 4)})


def test_binds_whole_shapes():
    after = BindShapes(shapes={"x": (7, 1, 4)}).run(flatten_by_shape(), context())
    assert after.outputs[0].shape == (7, 4)


def test_needs_no_evaluator():
    after = BindShapes(shapes={"x": (7, 1, 4)}).run(flatten_by_shape(), PassContext())
    assert [node.op for node in after.nodes] == ["Reshape"]


def test_unbound_dimension_names_input_dim_and_flag():
    with pytest.raises(DynamicShapeError) as caught:
        BindShapes({"batch": 2}).run(flatten_by_shape(), context())
    assert "'x'" in str(caught.value)
    assert "'seq'" in str(caught.value)
    assert "--shape x:2xSEQx4" in str(caught.value)


def test_partial_keeps_symbols():
    after = BindShapes({"batch": 2}, partial=True).run(flatten_by_shape(), context())
    assert after.inputs[0].tensor.shape == (2, "seq", 4)


@pytest.mark.parametrize(
    ("bind", "word"),
    [
        (BindShapes(shapes={"z": (1,)}), "no input 'z'"),
        (BindShapes({"height": 2}), "dimension 'height'"),
        (BindShapes(shapes={"x": (1, 2)}), "number of dimensions"),
        (BindShapes({"batch": -1}), "cannot be -1"),
        (BindShapes({"batch": 2}, shapes={"x": (3, 1, 4)}), "is 2 elsewhere"),
    ],
)
def test_refuses_what_does_not_fit(bind, word):
    with pytest.raises(UsageError, match=word):
        bind.run(flatten_by_shape(), context())


def test_overrides_a_fixed_shape():
    b = Builder()
    x = b.input("x", "f32", (1, 3))
    y = b.emit("Relu", x, hint="y")
    after = BindShapes(shapes={"x": (8, 3)}).run(b.graph("g", [x], [y]), context())
    assert after.outputs[0].shape == (8, 3)


def test_shapes_that_an_operator_refuses():
    b = Builder()
    x = b.input("x", "f32", ("m", "k"))
    w = b.constant(np.ones((4, 2), np.float32))
    y = b.emit("MatMul", x, w, hint="y")
    with pytest.raises(InvalidModelError, match="MatMul"):
        BindShapes(shapes={"x": (2, 3)}).run(b.graph("g", [x], [y]), context())


def test_input_value_becomes_constant():
    b = Builder()
    x = b.input("x", "f32", ("n", 6))
    k = b.input("k", "i64", (1,))
    values, indices = b.emit_many("TopK", x, k, num_outputs=2)
    graph = b.graph("g", [x, k], [values, indices])
    after = BindShapes({"n": 2}, values={"k": np.array([3])}).run(graph, context())
    assert [value.name for value in after.inputs] == ["x"]
    assert after.outputs[0].shape == (2, 3)
    assert after.outputs[1].tensor.dtype is DType.I64
    with pytest.raises(UsageError, match="'k' is i64"):
        BindShapes({"n": 2}, values={"k": np.array([3.0])}).run(graph, context())


def test_static_graph_stays_the_same_object():
    b = Builder()
    x = b.input("x", "f32", (2, 3))
    graph = b.graph("g", [x], [b.emit("Relu", x)])
    assert BindShapes().run(graph, context()) is graph


def test_same_result_twice():
    bound = BindShapes({"batch": 2, "seq": 5}).run(flatten_by_shape(), context())
    run_twice(BindShapes(), bound)


def test_zero_size():
    after = BindShapes({"batch": 2, "seq": 0}).run(flatten_by_shape(), context())
    assert after.outputs[0].shape == (2, 0)
