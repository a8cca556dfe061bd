import json
import os
import shutil

import numpy as np
import pytest

import kopt.session
from kopt.artifact import Artifact
from kopt.artifact.manifest import BLOCK_BYTES
from kopt.artifact.read import digest_line
from kopt.errors import CorruptArtifactError, FileError, KoptError
from kopt.targets.base import BACKENDS
from support.fakes import FakeBackend, artifact_of, mlp


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setitem(BACKENDS, "fake", "support.fakes:FakeBackend")
    monkeypatch.setattr(FakeBackend, "calls", [])


@pytest.fixture
def artifact(rng, tmp_path):
    return artifact_of(mlp(rng, width=8), tmp_path / "m.kopt")


def files_of(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_what_was_written_is_read(artifact, tmp_path):
    again = Artifact.open(tmp_path / "m.kopt")
    assert again.manifest.to_bytes() == artifact.manifest.to_bytes()
    assert again.report == {"latency": 1.5}
    assert again.self_test["0/input/x"].shape == (4, 16)
    (weight,) = again.program_weights(again.manifest.programs[0]).values()
    assert weight.shape == (16, 8)
    assert weight.ctypes.data % 64 == 0


def test_any_flipped_byte_is_refused_before_native_code_is_loaded(artifact):
    """Every byte of every file, one of its bits each."""
    FakeBackend.calls.clear()
    for path in files_of(artifact.path):
        original = path.read_bytes()
        changed = bytearray(original)
        for position in range(len(original)):
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            with pytest.raises(CorruptArtifactError):
                Artifact.open(artifact.path)
            changed[position] = original[position]
        path.write_bytes(original)
    for path in files_of(artifact.path):
        original = path.read_bytes()
        path.write_bytes(bytes([original[0] ^ 1]) + original[1:])
        with pytest.raises(CorruptArtifactError):
            kopt.session.load(artifact.path)
        path.write_bytes(original)
    assert FakeBackend.calls == []
    Artifact.open(artifact.path)


def test_truncated_extended_and_missing_files_are_refused(artifact):
    for path in files_of(artifact.path):
        original = path.read_bytes()
        for content in (original[:-1], original + b"\0", b""):
            path.write_bytes(content)
            with pytest.raises(CorruptArtifactError):
                Artifact.open(artifact.path)
        path.unlink()
        with pytest.raises(CorruptArtifactError):
            Artifact.open(artifact.path)
        path.write_bytes(original)


def test_swapped_files_are_refused(artifact):
    native, model = artifact.path / "native" / "0.bin", artifact.path / "model.onnx"
    one, other = native.read_bytes(), model.read_bytes()
    native.write_bytes(other)
    model.write_bytes(one)
    with pytest.raises(CorruptArtifactError):
        Artifact.open(artifact.path)


@pytest.mark.parametrize("name", ["extra", "native/extra", ".hidden", "native/deep/extra"])
def test_unlisted_files_are_refused(artifact, name):
    path = artifact.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(CorruptArtifactError, match="not listed"):
        Artifact.open(artifact.path)


def test_an_unlisted_directory_is_refused(artifact):
    (artifact.path / "empty").mkdir()
    with pytest.raises(CorruptArtifactError, match="not listed"):
        Artifact.open(artifact.path)


@pytest.mark.parametrize("name", ["model.onnx", "native/0.bin", "manifest.json", "manifest.sha256", "native"])
def test_symbolic_links_are_refused(artifact, tmp_path, name):
    path, outside = artifact.path / name, tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(CorruptArtifactError):
        Artifact.open(artifact.path)


def test_a_fifo_is_refused_without_waiting(artifact):
    path = artifact.path / "model.onnx"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptArtifactError, match="regular"):
        Artifact.open(artifact.path)


def test_a_manifest_that_names_files_outside_is_refused(artifact, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["../secret"] = content["files"]["report.json"]
    path.write_text(json.dumps(content))
    (artifact.path / "manifest.sha256").write_bytes(digest_line(path.read_bytes()))
    with pytest.raises(CorruptArtifactError, match="unusable"):
        Artifact.open(artifact.path)


def test_large_files_are_checked_in_every_block(rng, tmp_path):
    artifact = artifact_of(mlp(rng, width=2 * BLOCK_BYTES // 64 + 100), tmp_path / "m.kopt")
    assert len(artifact.manifest.files["weights.safetensors"].sha256) == 3
    path = artifact.path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    for position in (0, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES, len(content) - 1):
        content[position] ^= 16
        path.write_bytes(content)
        with pytest.raises(CorruptArtifactError):
            Artifact.open(artifact.path)
        content[position] ^= 16
    path.write_bytes(content)
    Artifact.open(artifact.path)


def test_other_things_are_no_artifact(tmp_path):
    with pytest.raises(FileError):
        Artifact.open(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name in ("file", "empty"):
        with pytest.raises(CorruptArtifactError, match="not a kopt artifact"):
            Artifact.open(tmp_path / name)


def test_a_link_to_an_artifact_may_be_opened(artifact, tmp_path):
    (tmp_path / "current").symlink_to(artifact.path)
    assert Artifact.open(tmp_path / "current").manifest.name == "mlp"


def test_a_program_whose_weights_are_not_stored_is_refused(artifact):
    program = artifact.manifest.programs[0]
    broken = type(program)(program.backend, program.signature, weights=(("w", "nowhere"),))
    with pytest.raises(KoptError, match="nowhere"):
        artifact.program_weights(broken)
    assert np.isfinite(next(iter(artifact.weights.values()))).all()
