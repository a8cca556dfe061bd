"""What users get wrong beyond the model: flags, artifacts and places of results. One error each, nothing half written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from kopt.cli.main import invoke
from support import graphs

MODEL = "m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flags")
    onnx.save(graphs.model(MODEL), folder / "m.onnx")
    assert invoke(["compile", str(folder / "m.onnx"), "-o", str(folder / "m.kopt"), "--no-measure"]) == 0
    np.savez(folder / "in.npz", x=np.float32([[-1, 2, -3]]))
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("x")
    return folder


@pytest.fixture
def fails(made, tmp_path, monkeypatch, capsys):
    """Runs a command that must fail; checks the form of its error and that no file came or went; gives the error's text."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(text: str, code: int) -> str:
        before = sorted(Path().rglob("*"))
        capsys.readouterr()
        assert invoke(text.split()) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert err.count("error: ") == 1
        assert "\n  " in err.partition("error: ")[2], f"no next step: {err}"
        assert sorted(Path().rglob("*")) == before
        return err

    return run


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("compile m.onnx -o o --no-measure --batch 0", 2, "positive"),
        ("compile m.onnx -o o --no-measure --batch 1,1", 2, "distinct"),
        ("compile m.onnx -o o --no-measure --batch one", 2, "'one' is not a list of batches"),
        ("compile m.onnx -o o --no-measure --shape z:1x3", 2, "no input 'z'"),
        ("compile m.onnx -o o --no-measure --shape x:1x4", 2, "[1, 4] does not fit input 'x'"),
        ("compile m.onnx -o o --no-measure --shape x:1x-4", 2, "not a shape"),
        ("compile m.onnx -o o --no-measure --threads 0", 2, "0 threads"),
        ("compile m.onnx -o o --no-measure --precision fp3", 2, "fp32, bf16, fp16"),
        ("compile m.onnx -o o --no-measure --target toaster", 7, "'toaster'"),
        ("compile m.onnx -o o --no-measure --cpu-isa mmx", 7, "mmx"),
        ("compile m.onnx -o o --no-measure --markdown absent/r.md", 74, "absent/r.md"),
        ("compile m.onnx -o mine --no-measure", 2, "'mine' exists"),
        ("compile m.onnx -o in.npz --no-measure", 2, "'in.npz' exists"),
        ("compile m.onnx --nothing", 2, "--nothing"),
        ("nothing", 2, "'nothing'"),
        ("bench m.onnx --runner kopt,tensorflow", 2, "unknown runner 'tensorflow'"),
        ("bench m.onnx --rounds 0", 2, "0 rounds"),
        ("bench m.onnx --threads 0", 2, "0 threads"),
        ("bench absent.onnx --runner onnxruntime", 74, "absent.onnx"),
        ("run m.kopt --inputs in.npz -o mine", 74, "mine"),
        ("run m.kopt --inputs in.npz -o absent/o.npz", 74, "absent"),
        ("run m.kopt --inputs absent.npz", 74, "absent.npz"),
        ("run m.kopt --inputs m.onnx", 2, "m.onnx"),
        ("run m.kopt --inputs in.npz --require gold", 2, "native, recompiled, reference"),
        ("run m.onnx --inputs in.npz", 5, "m.onnx"),
        ("run absent.kopt --inputs in.npz", 74, "absent.kopt"),
        ("verify m.kopt --against m.onnx --rtol nan", 2, "nan"),
        ("verify m.kopt --against m.onnx --atol -1", 2, "-1"),
        ("verify m.kopt --against absent.onnx", 74, "absent.onnx"),
        ("inspect m.onnx --stage machine", 2, "graph, lowered"),
        ("inspect m.onnx --stage lowered --batch 1,8", 2, "several batches"),
        ("export stablehlo m.onnx -o o --batch 1,8", 2, "several batches"),
        ("export pdf m.onnx -o o", 2, "onnx, stablehlo"),
        ("export stablehlo m.onnx -o mine", 74, "mine"),
        ("export onnx m.onnx -o absent/o.onnx", 74, "absent"),
        ("optimize m.onnx -o mine", 74, "mine"),
        ("optimize m.onnx -o o --passes magic", 2, "unknown pass 'magic'"),
        ("optimize m.onnx -o o --preset magic", 2, "unknown preset 'magic'"),
        ("optimize m.onnx -o o --rebatch -1", 2, "'-1'"),
        ("optimize m.onnx -o o --rebatch 0", 2, "0"),
        ("optimize m.onnx -o o --opset 99", 2, "99"),
    ],
)
def test_one_error_that_names_it(fails, command, code, words) -> None:
    assert words in fails(command, code)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.onnx", "report.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_artifacts(fails, name, damage) -> None:
    path = Path("m.kopt", name)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    for command in ("run m.kopt --inputs in.npz", "verify m.kopt --against m.onnx", "inspect m.kopt", "finish m.kopt -o o"):
        assert "m.kopt" in fails(command, 5)


def test_arrays_beside_the_inputs_are_left_out_aloud(made, monkeypatch, capsys) -> None:
    monkeypatch.chdir(made)
    np.savez("labelled.npz", x=np.float32([[-1, 2, -3]]), label=np.int64([1]))
    assert invoke(["run", "m.kopt", "--inputs", "labelled.npz"]) == 0
    assert "left out: label" in capsys.readouterr().err


def test_the_graph_of_an_artifact(made, monkeypatch, capsys) -> None:
    monkeypatch.chdir(made)
    assert invoke(["inspect", "m.kopt", "--stage", "graph"]) == 0
    assert "Relu" in capsys.readouterr().out
