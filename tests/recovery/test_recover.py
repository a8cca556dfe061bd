"""Recovery: small students come back, files stay what they were, and an interrupted one goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kopt.errors import UsageError
from kopt.frontend.export import save, to_model
from kopt.frontend.load import load
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph
from kopt.pruning import prune
from kopt.recovery.api import recover
from kopt.recovery.checkpoint import State, load_state, save_state
from kopt.recovery.observe import prepared
from support import graphs
from support.transformer import transformer

MLP = """
m (float[N,8] x, float[8,32] w1, float[32] b1, float[32,32] w2, float[32] b2, float[32,4] w3) => (float[N,4] y)
{
    a1 = Gemm(x, w1, b1)
    h1 = Relu(a1)
    a2 = Gemm(h1, w2, b2)
    h2 = Relu(a2)
    y = MatMul(h2, w3)
}
"""


def mlp(seed: int = 0) -> Graph:
    """A random perceptron."""
    rng = np.random.default_rng(seed)
    graph = graphs.graph(MLP)
    made = {value: Constant.of((rng.normal(size=value.shape) / np.sqrt(value.shape[0])).astype(np.float32)) for value in graph.inputs[1:]}
    return graph.replace(inputs=graph.inputs[:1], constants={**graph.constants, **made})


def inputs(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(to_model(graph).SerializeToString()).run(None, {"x": x})[0]


def loss(graph: Graph, teacher: Graph, x: np.ndarray) -> float:
    wanted = run(teacher, x)
    return float(np.square(run(graph, x) - wanted).mean() / wanted.var())


def test_a_pruned_model_comes_back(tmp_path: Path) -> None:
    teacher = mlp()
    student = prune(teacher, ratio=0.5).graph
    path = tmp_path / "back.onnx"
    told: list[str] = []
    recovered = recover(student, teacher, {"x": inputs(256)}, path, max_steps=150, progress=told.append)
    fresh = inputs(100, seed=2)
    assert loss(load(str(path)), teacher, fresh) < 0.3 * loss(student, teacher, fresh)
    assert recovered.report["error_after"] < recovered.report["error_before"]
    assert [value.tensor for value in load(str(path)).constants] == [value.tensor for value in recovered.graph.constants]
    assert any("held-out" in line for line in told)
    assert [entry.name for entry in tmp_path.iterdir()] == ["back.onnx"]


def test_heads_and_neurons_of_a_transformer_come_back() -> None:
    rng = np.random.default_rng(0)
    teacher = transformer(rng)
    x = rng.normal(size=(300, 5, 12)).astype(np.float32)
    student = prune(teacher, ratio=0.5, calib={"x": x[:200]}).graph
    back = recover(student, teacher, {"x": x[:200]}, max_steps=150).graph
    assert loss(back, teacher, x[200:]) < 0.85 * loss(student, teacher, x[200:])


def test_zeros_stay_unless_they_may_grow() -> None:
    teacher = mlp()
    student = prune(teacher, ratio=0.6, method="unstructured").graph
    fresh = inputs(100, seed=2)
    for frozen in (True, False):
        back = recover(student, teacher, {"x": inputs(256)}, max_steps=80, freeze_masks=frozen).graph
        zeros = [
            np.array_equal(back.constants[value].array() == 0, constant.array() == 0)
            for value, constant in student.constants.items()
            if constant.array().ndim == 2
        ]
        assert zeros == [frozen] * 3
        assert loss(back, teacher, fresh) < 0.5 * loss(student, teacher, fresh)


def quantized(teacher: Graph, levels: int) -> onnx.ModelProto:
    """Weights as 4-bit integers of few levels, one scale per column, and one activation quantized to 8 bits."""
    model = to_model(teacher, opset=21)
    nodes, stored = [], []
    for tensor in list(model.graph.initializer):
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 2:
            scale = np.abs(array).max(0) / levels
            steps = np.clip(np.round(array / scale), -levels, levels)
            model.graph.initializer.remove(tensor)
            stored += [
                onnx.helper.make_tensor(f"{tensor.name}.q", onnx.TensorProto.INT4, array.shape, steps.astype(np.int8).ravel().tolist()),
                onnx.numpy_helper.from_array(scale, f"{tensor.name}.scale"),
            ]
            nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{tensor.name}.q", f"{tensor.name}.scale"], [tensor.name], axis=1))
    scale = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in (("s", np.float32(0.03)), ("z", np.uint8(0)))]
    nodes.append(onnx.helper.make_node("QuantizeLinear", ["h1", "s", "z"], ["h1.q"]))
    nodes.append(onnx.helper.make_node("DequantizeLinear", ["h1.q", "s", "z"], ["h1.dq"]))
    rest = list(model.graph.node)
    for node in rest:
        node.input[:] = ["h1.dq" if name == "h1" else name for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-2], *rest[:2], *nodes[-2:], *rest[2:]])
    model.graph.initializer.extend([*stored, *scale])
    onnx.checker.check_model(model)
    return model


def test_integers_of_weights_are_trained_and_scales_stay() -> None:
    teacher = prepared(mlp())
    model = quantized(teacher, levels=1)
    student = load(model)
    back = recover(student, teacher, {"x": inputs(512)}, max_steps=300).graph
    fresh = inputs(100, seed=2)
    assert loss(back, teacher, fresh) < 0.6 * loss(student, teacher, fresh)
    before, after = ({v.name: c.array() for v, c in g.constants.items()} for g in (prepared(student), back))
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        if name.endswith("scale") or name in ("s", "z"):
            assert np.array_equal(after[name], array)
        if name.endswith(".q"):
            assert np.abs(after[name].astype(np.int8)).max() <= 1
            assert not np.array_equal(after[name], array)


def test_a_fixed_batch_is_mapped_over(tmp_path: Path) -> None:
    text = MLP.replace("float[N,8] x", "float[2,8] x").replace("(float[N,4] y)", "(float[2,4] y)")
    graph = graphs.graph(text)
    held = {value.name: constant for value, constant in mlp().constants.items()}
    teacher = graph.replace(inputs=graph.inputs[:1], constants={value: held[value.name] for value in graph.inputs[1:]})
    student = prune(teacher, ratio=0.5).graph
    back = recover(student, teacher, {"x": inputs(256)}, max_steps=100).graph
    fresh = inputs(2, seed=2)
    assert loss(back, teacher, fresh) < loss(student, teacher, fresh)


def test_an_interrupted_recovery_goes_on(tmp_path: Path) -> None:
    teacher, path = mlp(), tmp_path / "back.onnx"
    student = prune(teacher, ratio=0.5).graph
    save(teacher, tmp_path / "teacher.onnx")

    def interrupt(line: str) -> None:
        if "step" in line and "going on" not in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(student, teacher, {"x": inputs(256)}, path, max_steps=100, progress=interrupt)
    assert [entry.name for entry in tmp_path.iterdir() if "recovery" in entry.name]
    told: list[str] = []
    recover(student, teacher, {"x": inputs(256)}, path, max_steps=100, progress=told.append)
    assert any(line.startswith("going on after step") for line in told)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["back.onnx", "teacher.onnx"]


def test_a_checkpoint_of_something_else_is_not_used(tmp_path: Path) -> None:
    state = State({"w": np.ones(3, np.float32)}, {}, {}, {}, 3, 1.5, 0.1, 2, 0.5)
    path = tmp_path / "c.safetensors"
    save_state(path, state, "key")
    found = load_state(path, "key")
    assert found is not None
    assert (found.step, found.best_error, found.params["w"].tolist()) == (3, 0.1, [1, 1, 1])
    assert load_state(path, "other") is None
    path.write_bytes(path.read_bytes()[:20])
    assert load_state(path, "key") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calib": {"x": inputs(4)}}, "too few"),
        ({"teacher": graphs.graph("m (float[N,8] x) => (float[N,8] y) { y = Relu(x) }")}, "different inputs or outputs"),
        ({"budget_s": 0.0}, "recovers nothing"),
    ],
)
def test_mistakes_are_told(change: dict[str, object], message: str) -> None:
    given = {"student": mlp(), "teacher": mlp(), "calib": {"x": inputs(64)}, **change}
    with pytest.raises(UsageError, match=message):
        recover(**given)
