"""Inputs whose values decide shapes: one program per value."""

import numpy as np
import pytest

from kopt.artifact.write import Contents, Program, write
from kopt.errors import InputError, ShapeNotCompiledError
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.session import load
from kopt.specialize import Recipe, specialize
from support.fakes import FakeBackend, requirements


@pytest.fixture
def path(tmp_path):
    """``y = reshape(x, s) * 2`` compiled for s = (2, 3)."""
    b = Builder()
    x, s = b.input("x", "f32", ["N"]), b.input("s", "i64", [2])
    graph = b.graph("reshape", [x, s], [b.emit("Mul", b.emit("Reshape", x, s), b.constant(np.float32(2)), hint="y")])
    recipe, values = Recipe("fake"), {"s": np.array([2, 3])}
    executable = specialize(graph, recipe, Target.parse("cpu"), shapes={"x": (6,)}, values=values).compile()
    code, weights = executable.save()
    program = Program("fake", executable.signature, values, code, b"", weights)
    return write(Contents(graph, [program], requirements(), config=recipe.to_json()), tmp_path / "m.kopt").path


def run(session, *shape):
    x = np.arange(np.prod(shape), dtype=np.float32)
    (found,) = session.run({"x": x, "s": np.array(shape)}).values()
    np.testing.assert_array_equal(found, 2 * x.reshape(shape))


def test_the_compiled_value_runs_natively(path):
    session = load(path, exact=True)
    FakeBackend.calls.clear()
    run(session, 2, 3)
    run(session, 2, 3)
    assert session.tier == "native"
    assert FakeBackend.calls == []


def test_another_value_is_another_program(path):
    session = load(path)
    FakeBackend.calls.clear()
    for _ in range(2):
        run(session, 3, 2)
        run(session, 2, 3)
        run(session, 2, 4)
    assert FakeBackend.calls == ["lower", "compile"] * 2
    with pytest.raises(ShapeNotCompiledError):
        run(load(path, exact=True), 3, 2)


def test_values_are_checked_like_other_inputs(path):
    with pytest.raises(InputError, match="dtype int32"):
        load(path).run({"x": np.zeros(6, np.float32), "s": np.array([2, 3], np.int32)})
