"""Every command on a small model: results on stdout, exact exit codes for what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from kopt.cli.main import invoke
from support import graphs

MODEL = "m (float[N,3] x) => (float[N,3] y) { a = Identity(x) y = Relu(a) }"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    onnx.save(graphs.model(MODEL), folder / "m.onnx")
    assert (
        invoke(["compile", str(folder / "m.onnx"), "-o", str(folder / "m.kopt"), "--no-measure", "--markdown", str(folder / "m.md")]) == 0
    )
    return folder


@pytest.fixture
def kopt(made, tmp_path, monkeypatch, invoked):
    """Runs a command in a copy of the folder; gives its exit code, stdout and stderr."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)

    return invoked


def test_compile(kopt) -> None:
    code, out, err = kopt("compile m.onnx --batch 2 --no-measure -o two.kopt --json")
    assert (code, json.loads(out)["buckets"][0]["batch"]) == (0, 2)
    assert "compiling batch 2" in err
    assert "| batch |" in Path("m.md").read_text()


def test_run(kopt) -> None:
    np.savez("in.npz", x=np.float32([[-1, 2, -3]]))
    code, out, _ = kopt("run m.kopt --inputs in.npz -o out.npz --json")
    assert (code, json.loads(out)["outputs"]) == (0, {"y": {"dtype": "float32", "shape": [1, 3]}})
    with np.load("out.npz") as found:
        np.testing.assert_array_equal(found["y"], [[0, 2, 0]])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((1, 3), np.float32)}, ("'z'", "x")),
        ({"x": np.zeros((1, 3), np.float64)}, ("'x'", "float64", "float32")),
        ({"x": np.zeros((1, 4), np.float32)}, ("'x'", "4")),
        ({"x": np.zeros(3, np.float32)}, ("'x'",)),
        ({}, ("x",)),
    ],
)
def test_run_refuses_inputs_that_do_not_fit(kopt, arrays, words) -> None:
    np.savez("in.npz", **arrays)
    code, out, err = kopt("run m.kopt --inputs in.npz -o out.npz")
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err
    assert not Path("out.npz").exists()


def test_verify(kopt) -> None:
    onnx.save(graphs.model(MODEL.replace("Relu", "Neg")), "other.onnx")
    code, out, _ = kopt("verify m.kopt --against m.onnx --json")
    assert (code, json.loads(out)["passed"]) == (0, True)
    code, _, err = kopt("verify m.kopt --against other.onnx")
    assert (code, "'y' differs" in err) == (4, True)
    assert kopt("verify m.kopt --against other.onnx --atol 100")[0] == 0


@pytest.mark.parametrize("command", ["inspect broken.kopt", "inspect broken.kopt --stage graph", "export onnx broken.kopt -o o"])
def test_a_directory_without_a_manifest_is_no_artifact(kopt, command) -> None:
    Path("broken.kopt").mkdir(exist_ok=True)
    code, _, err = kopt(command)
    assert code == 5
    assert "'broken.kopt' is not a kopt artifact" in err


def test_inspect(kopt) -> None:
    code, out, _ = kopt("inspect m.onnx --json")
    facts = json.loads(out)
    assert (code, facts["inputs"], facts["operators"]) == (0, {"x": "f32[N,3]"}, {"Identity": 1, "Relu": 1})
    assert (facts["flops"], facts["flops_shapes"]) == (3 * 2 - 3, {"x": [1, 3]})
    assert facts["unsupported"] == {"xla": [], "reference": []}
    assert "Relu" in kopt("inspect m.onnx --stage graph")[1]
    assert "stablehlo" in kopt("inspect m.onnx --stage lowered")[1]
    assert json.loads(kopt("inspect m.kopt --json")[1])["schema"] == 1
    assert "program" in kopt("inspect m.kopt")[1]


def test_optimize(kopt) -> None:
    assert kopt("optimize m.onnx -o small.onnx")[0] == 0
    assert [node.op_type for node in onnx.load("small.onnx").graph.node] == ["Relu"]
    assert kopt("optimize m.onnx -o eight.onnx --rebatch 8 --json")[0] == 0
    assert onnx.load("eight.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 8


def test_export(kopt) -> None:
    assert kopt("export onnx m.kopt -o out.onnx")[0] == 0
    onnx.checker.check_model(onnx.load("out.onnx"))
    assert kopt("export stablehlo m.onnx --batch 3 -o out.mlir")[0] == 0
    assert "tensor<3x3xf32>" in Path("out.mlir").read_text()


def test_doctor(kopt) -> None:
    code, out, _ = kopt("doctor --json")
    facts = json.loads(out)
    assert code == 0
    assert facts["cores"] >= 1
    assert facts["packages"]["jax"] != "not installed"
    assert "cores: " in kopt("doctor")[1]


def test_finish_refuses_what_is_no_artifact(kopt) -> None:
    assert kopt("finish m.onnx -o b.kopt")[0] == 5
    assert kopt("finish absent.kopt -o b.kopt")[0] == 74


@pytest.mark.parametrize("command", ["compile {} --no-measure -o o", "inspect {}", "optimize {} -o o", "export onnx {} -o o"])
@pytest.mark.parametrize(("kind", "code"), [("absent", 74), ("empty", 6), ("text", 6), ("cut", 6), ("fifo", 74), ("folder", 74)])
def test_bad_models_give_one_error(kopt, command, kind, code) -> None:
    path = f"{kind}.onnx"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        Path(path).mkdir()
    elif kind != "absent":
        whole = Path("m.onnx").read_bytes()
        Path(path).write_bytes({"empty": b"", "text": b"no model", "cut": whole[:-9]}[kind])
    if kind == "folder" and command.startswith(("inspect", "export")):
        code = 5  # these take artifacts too, and a folder can be nothing else
    found, out, err = kopt(command.format(path))
    assert (found, out) == (code, "")
    assert err.count("error: ") == 1
    assert path in err
    assert not Path("o").exists()
    assert not list(Path().glob(".*"))


def test_unknown_operators_are_all_named(kopt) -> None:
    model = graphs.model("m (float[2] x) => (float[2] y) { b = com.acme.Odd(x) y = com.acme.Other(b) }")
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    onnx.save(model, "odd.onnx")
    code, _, err = kopt("compile odd.onnx --no-measure -o o")
    assert code == 6
    assert "Odd" in err
    assert "Other" in err
    code, out, err = kopt("inspect odd.onnx")
    assert "Odd" in out + err
    assert "Other" in out + err
