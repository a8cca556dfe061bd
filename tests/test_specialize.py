import numpy as np
import pytest

from kopt.errors import DynamicShapeError, UsageError
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.passes.pipeline import preset
from kopt.specialize import Recipe, shape_inputs, specialize
from kopt.targets.base import BACKENDS
from support.fakes import expected_mlp, mlp

CPU = Target.parse("cpu")


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setitem(BACKENDS, "fake", "support.fakes:FakeBackend")


@pytest.mark.parametrize("backend", ["fake", "reference", "xla"])
def test_a_graph_is_bound_transformed_and_compiled(rng, backend):
    graph = mlp(rng)
    recipe = Recipe.of_preset("import" if backend != "xla" else "xla", backend=backend)
    done = specialize(graph, recipe, CPU, shapes={"x": (3, 16)})
    assert done.lowered.graph.inputs[0].shape == (3, 16)
    assert [record.name for record in done.records] == [
        "bind-shapes",
        *(pass_.name for pass_ in preset("import" if backend != "xla" else "xla")),
    ]
    x = rng.standard_normal((3, 16)).astype(np.float32)
    for found, expected in zip(done.compile()([x]), expected_mlp(graph, x), strict=True):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-5)


def test_an_open_dimension_is_refused(rng):
    with pytest.raises(DynamicShapeError, match="'N'"):
        specialize(mlp(rng), Recipe("fake"), CPU, shapes={})


def test_a_recipe_survives_json():
    recipe = Recipe.of_preset("xla", options={"conv3x3": "winograd"})
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(UsageError, match="how its programs were made"):
        Recipe.from_json({"backend": "xla"})


def test_inputs_that_decide_shapes_are_found():
    b = Builder()
    x, rows, start, scale = (
        b.input("x", "f32", [6, "N"]),
        b.input("rows", "i64", [1]),
        b.input("start", "i64", [1]),
        b.input("scale", "f32", [1]),
    )
    shape = b.emit("Concat", b.emit("Add", rows, start), b.constant(np.array([-1])), attrs={"axis": 0})
    y = b.emit("Reshape", b.emit("Mul", x, scale), shape)
    z = b.emit("Reshape", y, b.emit("Shape", x))
    graph = b.graph("g", [x, rows, start, scale], [z])
    assert shape_inputs(graph) == ("rows", "start")
