import json
from dataclasses import replace

import numpy as np
import pytest

from kopt.artifact.manifest import (
    BLOCK_BYTES,
    Manifest,
    Requirements,
    Rows,
    StoredFile,
    StoredProgram,
    check_path,
    program_digest,
)
from kopt.errors import CorruptArtifactError, IncompatibleArtifactError
from kopt.ir.types import DType, TensorType
from kopt.targets.base import Signature

STATIC = Signature((("x", TensorType(DType.F32, (2, 3))),), (("y", TensorType(DType.I64, ())),))
DYNAMIC = Signature((("x", TensorType(DType.F32, ("N", 3))), ("k", TensorType(DType.I64, (1,)))), (("y", TensorType(DType.I64, None)),))


@pytest.fixture
def manifest():
    files = {
        "model.onnx": StoredFile(3, ("ab",)),
        "weights.safetensors": StoredFile(BLOCK_BYTES + 1, ("cd", "ef")),
        "native/0.bin": StoredFile(0, ("00",)),
        "report.json": StoredFile(2, ("11",)),
    }
    program = StoredProgram("xla", STATIC, {"k": np.array([7])}, "native/0.bin", "", (("w", "stored"),))
    needs = Requirements("cpu", "x86_64", "native", ("avx2", "fma"), {"xla": "jaxlib 0.10.2"})
    return Manifest(
        "m", files, needs, DYNAMIC, (program,), "digest", Rows({"x": 0}, {"y": 1}), {"backend": "xla"}, {"made": "today"}, "0.1.0"
    )


def test_bytes_and_back(manifest):
    again = Manifest.from_bytes(manifest.to_bytes())
    np.testing.assert_array_equal(again.programs[0].values["k"], [7])
    assert again.to_bytes() == manifest.to_bytes()
    assert replace(again, programs=()) == replace(manifest, programs=())


def test_another_schema_is_incompatible(manifest):
    content = {**json.loads(manifest.to_bytes()), "schema": 99}
    with pytest.raises(IncompatibleArtifactError, match="version 99"):
        Manifest.from_bytes(json.dumps(content).encode())


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/../b", "a//b", "./a", "a/", "", "a\\b", "C:x", "a\n", "manifest.json", "manifest.sha256"]
)
def test_paths_outside_are_refused(path):
    with pytest.raises(ValueError, match="unusable"):
        check_path(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("files"),
        lambda c: c["files"].update({"../evil": {"size": 0, "sha256": [""]}}),
        lambda c: c["files"]["model.onnx"].update(size=-1),
        lambda c: c["files"]["model.onnx"].update(size=BLOCK_BYTES * 3),
        lambda c: c["files"].update({"model.onnx": 3}),
        lambda c: c["programs"][0].update(native="native/7.bin"),
        lambda c: c["programs"][0]["signature"]["inputs"][0].update(shape=["N", 3]),
        lambda c: c["programs"][0]["signature"]["inputs"][0].update(shape=None),
        lambda c: c["programs"][0]["signature"]["inputs"][0].update(dtype="f99"),
        lambda c: c["programs"][0].update(weights=[["a"]]),
        lambda c: c["programs"][0]["values"]["k"].update(hex="zz"),
        lambda c: c.update(rows={"inputs": {"x": "0"}, "outputs": {}}),
        lambda c: c.update(requirements=[]),
        lambda c: c.update(name=3),
        lambda c: c.update(signature={"inputs": [], "outputs": [{"name": "y", "dtype": "f32", "shape": [True]}]}),
    ],
)
def test_malformed_manifests_are_refused(manifest, change):
    content = json.loads(manifest.to_bytes())
    change(content)
    with pytest.raises(CorruptArtifactError):
        Manifest.from_bytes(json.dumps(content).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000])
def test_other_bytes_are_refused(raw):
    with pytest.raises(CorruptArtifactError):
        Manifest.from_bytes(raw)


def test_the_program_digest_leaves_out_report_and_portable_form(manifest):
    def of(files, programs=manifest.programs):
        return program_digest(files, manifest.signature, programs, manifest.config)

    base = of(manifest.files)
    assert of({**manifest.files, "report.json": StoredFile(9, ("77",))}) == base
    assert of({**manifest.files, "native/0.bin": StoredFile(9, ("77",))}) != base
    assert of({**manifest.files, "weights.safetensors": StoredFile(9, ("77",))}) != base
    assert of(manifest.files, (replace(manifest.programs[0], values={"k": np.array([8])}),)) != base
