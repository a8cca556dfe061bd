"""The tvm backend end to end: compile, artifact, session, and whole small models against the reference."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import kopt
from kopt.errors import UnsupportedModelError, UsageError
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.specialize import Recipe, specialize
from kopt.targets.base import backend


def mlp(seed=0, features=37):
    rng = np.random.default_rng(seed)
    weights = {"w1": rng.standard_normal((features, 64)), "b1": rng.standard_normal(64), "w2": rng.standard_normal((64, 10))}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["a", "b1"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def compiled(model, **shapes):
    recipe = Recipe.of_preset("xla-kernels", backend="tvm")
    return specialize(load(model), recipe, Target.parse("cpu"), shapes=shapes).compile()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("tvm") / "mlp.kopt"
    return kopt.compile(mlp(), output=path, batch=[1, 8], backend="tvm", measure=False)


def reference(x, model=None):
    return ReferenceEvaluator(model or mlp()).run(None, {"x": x})[0]


def test_artifact_runs_from_its_native_code(artifact):
    x = np.random.default_rng(1).standard_normal((8, 37)).astype(np.float32)
    session = kopt.load(artifact.path, require="native")
    np.testing.assert_allclose(session.run({"x": x})["y"], reference(x), rtol=1e-5, atol=1e-6)
    assert {program.backend for program in artifact.manifest.programs} == {"tvm"}


def test_artifact_pads_and_compiles_other_batches(artifact):
    session = kopt.load(artifact.path)
    for rows in (3, 9):
        x = np.random.default_rng(rows).standard_normal((rows, 37)).astype(np.float32)
        np.testing.assert_allclose(session.run({"x": x})["y"], reference(x), rtol=1e-5, atol=1e-6)


def test_artifact_loads_without_any_compiler(artifact):
    code = (
        "import sys, numpy as np\n"
        "sys.modules['tvm'] = sys.modules['tvm_ffi'] = sys.modules['jax'] = sys.modules['onnx'] = None\n"
        "import kopt, kopt.runners\n"
        f"kopt.runners._import_runtime('kopt', {str(artifact.path)!r})\n"
        f"y = kopt.load({str(artifact.path)!r}, require='native').run({{'x': np.ones((1, 37), np.float32)}})['y']\n"
        "print(repr(float(y[0, 0])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(float(reference(np.ones((1, 37), np.float32))[0, 0]), rel=1e-5)


def test_calls_from_many_threads_do_not_mix():
    executable = compiled(mlp(), x=(16, 37))
    inputs = [np.random.default_rng(seed).standard_normal((16, 37)).astype(np.float32) for seed in range(8)]
    wanted = [executable([x])[0] for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = list(pool.map(lambda x: executable([x])[0], inputs))
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one, other)


def test_unaligned_and_strided_inputs_are_copied():
    executable = compiled(mlp(), x=(5, 37))
    held = np.random.default_rng(2).standard_normal((5, 75)).astype(np.float32)
    x = held[:, 1::2]
    np.testing.assert_allclose(executable([x])[0], reference(np.ascontiguousarray(x)), rtol=1e-5, atol=1e-6)


def test_every_node_without_a_translation_is_listed():
    nodes = [helper.make_node("Det", ["x"], ["a"], name="first"), helper.make_node("Det", ["x"], ["b"], name="second")]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in "ab"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(UnsupportedModelError, match=r"first.*\n.*second") as caught:
        compiled(model, x=(3, 3))
    assert caught.value.exit_code == 6
    assert len(backend("tvm").supports(load(model), Target.parse("cpu")).unsupported) == 2


def test_types_without_code_are_refused():
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "half", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(UnsupportedModelError, match="f16"):
        compiled(model, x=(3,))


@pytest.mark.parametrize("wrong", [{"backend": "onnx"}, {"backend": "tvm", "precision": "bf16"}, {"backend": "tvm", "target": "cuda"}])
def test_what_it_does_not_do_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match="backend"):
        kopt.compile(mlp(), output=tmp_path / "x.kopt", **wrong)


def test_inputs_constants_and_repeated_values_as_outputs():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in [("c", [4]), ("y", [2, 3]), ("z", [3, 2])]]
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Transpose", ["x"], ["z"])]
    graph = helper.make_graph(nodes, "odd", [x], [*outputs, x], [numpy_helper.from_array(np.arange(4, dtype=np.float32), "c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    given = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)
    constant, positive, turned, same = compiled(model, x=(2, 3))([given])
    np.testing.assert_array_equal(constant, np.arange(4))
    np.testing.assert_array_equal(positive, np.maximum(given, 0))
    np.testing.assert_array_equal(turned, given.T)
    np.testing.assert_array_equal(same, given)
