import numpy as np
import pytest

from kopt.errors import ToolchainError, UsageError
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.targets.base import backend
from kopt.targets.reference import evaluate_node


def test_a_graph_runs_and_saves():
    b = Builder()
    x = b.input("x", "f32", [2, 3])
    y = b.emit("Softmax", x, attrs={"axis": 0})
    reference, cpu = backend("reference"), Target.parse("cpu")
    executable = reference.compile(reference.lower(b.graph("g", [x], [y]), cpu))
    values = np.array([[0, 1, 2], [3, 4, 5]], np.float32)
    (result,) = executable([values])
    np.testing.assert_allclose(result.sum(0), np.ones(3), rtol=1e-6)
    code, weights = executable.save()
    np.testing.assert_array_equal(reference.load(code, weights, executable.signature, cpu)([values])[0], result)


def test_a_node_is_evaluated_with_absent_inputs():
    b = Builder()
    x = b.input("x", "f32", [3])
    b.emit("Clip", x, None, b.constant(np.float32(1.0)))
    (result,) = evaluate_node(b.nodes[0], [np.array([-2, 0.5, 3], np.float32), None, np.float32(1.0)])
    assert result.tolist() == [-2, 0.5, 1]


def test_operators_outside_the_standard_are_refused():
    b = Builder()
    x = b.input("x", "f32", [3])
    b.emit("FusedThing", x, domain="com.kopt", types=[x.type])
    with pytest.raises(UsageError, match=r"com\.kopt::FusedThing"):
        evaluate_node(b.nodes[0], [np.ones(3, np.float32)])


def test_a_failing_evaluation_names_the_node():
    b = Builder()
    x = b.input("x", "f32", [3])
    b.emit("MatMul", x, x)
    with pytest.raises(ToolchainError, match="MatMul"):
        evaluate_node(b.nodes[0], [np.ones(3, np.float32), np.ones(4, np.float32)])
