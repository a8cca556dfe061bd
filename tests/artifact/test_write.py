import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from kopt.artifact import Artifact
from kopt.artifact import write as writing
from kopt.artifact.staging import Staging, check_writable
from kopt.artifact.write import Contents, rewrite, write
from kopt.errors import FileError, UsageError
from kopt.ir.builder import Builder
from support.fakes import artifact_of, compiled, expected_mlp, mlp, requirements


def siblings(path):
    return sorted(entry.name for entry in path.iterdir())


def test_the_model_inside_is_plain_onnx(rng, tmp_path):
    graph = mlp(rng)
    artifact = artifact_of(graph, tmp_path / "m.kopt")
    model = onnx.load(artifact.model_path)
    onnx.checker.check_model(model)
    x = rng.standard_normal((5, 16)).astype(np.float32)
    for found, expected in zip(ReferenceEvaluator(model).run(None, {"x": x}), expected_mlp(graph, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert artifact.model_path.stat().st_size < 2000


def test_equal_weights_are_stored_once(rng, tmp_path):
    graph = mlp(rng)
    copies = [
        replace(program, weights={f"copy{k}": array.copy() for k, array in enumerate(program.weights.values())})
        for program in compiled(graph, (1, 8))
    ]
    artifact = write(Contents(graph, copies, requirements()), tmp_path / "m.kopt")
    assert [array.shape for array in artifact.weights.values()] == [(16, 32)]
    assert [name for program in artifact.manifest.programs for name, _ in program.weights] == ["copy0", "copy0"]


def test_different_weights_of_one_name_are_kept_apart(rng, tmp_path):
    graph = mlp(rng)
    (program,) = compiled(graph, (1,))
    changed = replace(program, weights={name: array + 1 for name, array in program.weights.items()})
    artifact = write(Contents(graph, [program, changed], requirements()), tmp_path / "m.kopt")
    first, second = (next(iter(artifact.program_weights(stored).values())) for stored in artifact.manifest.programs)
    np.testing.assert_array_equal(first + 1, second)


def test_equal_contents_give_equal_programs(rng, tmp_path):
    graph = mlp(rng)
    first = artifact_of(graph, tmp_path / "a.kopt")
    second = artifact_of(graph, tmp_path / "b.kopt")
    other = artifact_of(graph, tmp_path / "c.kopt", (8,))
    assert first.manifest.program == second.manifest.program
    assert first.manifest.to_bytes() == second.manifest.to_bytes()
    assert first.manifest.program != other.manifest.program


def test_an_artifact_is_replaced_and_nothing_else_is(rng, tmp_path):
    graph = mlp(rng)
    artifact_of(graph, tmp_path / "m.kopt")
    again = artifact_of(graph, tmp_path / "m.kopt", (2, 3))
    assert len(again.manifest.programs) == 2
    assert siblings(tmp_path) == ["m.kopt"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / "link.kopt").symlink_to(tmp_path / "m.kopt")
    for name in ("precious", "link.kopt"):
        with pytest.raises(UsageError, match="not a kopt artifact"):
            artifact_of(graph, tmp_path / name)
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_a_failure_leaves_nothing_behind(rng, tmp_path, monkeypatch):
    graph = mlp(rng)
    before = artifact_of(graph, tmp_path / "m.kopt").manifest.program

    def full(*_):
        raise OSError(28, "No space left on device")

    for step in ("add", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(Staging, step, full)
            with pytest.raises(OSError, match="No space"):
                artifact_of(graph, tmp_path / "m.kopt", (8,))
        assert siblings(tmp_path) == ["m.kopt"]
        assert Artifact.open(tmp_path / "m.kopt").manifest.program == before


def test_a_full_disk_is_a_file_error(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_model", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        artifact_of(mlp(rng), tmp_path / "m.kopt")
    assert siblings(tmp_path) == []

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        artifact_of(mlp(rng), tmp_path / "m.kopt")
    assert siblings(tmp_path) == []


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from kopt.artifact.staging import Staging
with Staging(Path(sys.argv[1])) as staging:
    staging.add("model.onnx", [b"x"])
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(rng, tmp_path):
    command = [sys.executable, "-c", WRITE_SLOWLY, tmp_path / "m.kopt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as child:
        child.stdout.readline()
        child.kill()
    assert [name.endswith(".partial") for name in siblings(tmp_path)] == [True]
    artifact_of(mlp(rng), tmp_path / "m.kopt")
    assert siblings(tmp_path) == ["m.kopt"]


def test_rewriting_changes_the_report_alone(rng, tmp_path):
    artifact = artifact_of(mlp(rng), tmp_path / "m.kopt")
    again = rewrite(artifact, artifact.path, report={"latency": 2})
    assert again.report == {"latency": 2}
    assert again.manifest.program == artifact.manifest.program
    assert siblings(tmp_path) == ["m.kopt"]


def test_rewriting_adds_native_code(rng, tmp_path):
    bare = artifact_of(mlp(rng), tmp_path / "bare.kopt", native=False)
    assert bare.manifest.programs[0].native == ""
    done = rewrite(bare, tmp_path / "done.kopt", native={0: b"code"})
    assert bytes(done.read(done.manifest.programs[0].native)) == b"code"
    assert done.manifest.program != bare.manifest.program
    Artifact.open(bare.path)


def test_small_and_unusual_constants_stay_in_the_model(tmp_path):
    b = Builder()
    x = b.input("x", "f32", [2, 3])
    big = b.constant(np.full((400, 3), 2, np.float32), "kopt.padding.0")
    small = b.constant(np.ones(3, np.float32), "s")
    y = b.emit("Add", b.emit("MatMul", x, b.emit("Transpose", big, attrs={"perm": (1, 0)})), b.emit("ReduceSum", small))
    graph = b.graph("odd", [x], [y])
    artifact = write(Contents(graph, [], requirements()), tmp_path / "m.kopt")
    assert [array.shape for array in artifact.weights.values()] == [(400, 3)]
    (found,) = ReferenceEvaluator(onnx.load(artifact.model_path)).run(None, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_allclose(found, np.full((2, 400), 9))


def test_what_could_not_be_written_is_known_beforehand_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file" / "m.kopt", tmp_path / "file" / "deeper" / "m.kopt", tmp_path / ("n" * 300)):
        with pytest.raises(FileError, match="cannot write the artifact"):
            check_writable(output)
    with pytest.raises(UsageError, match="is not a kopt artifact"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folder" / "m.kopt")
    assert siblings(tmp_path) == ["file"]
