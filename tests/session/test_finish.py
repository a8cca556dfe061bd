import json

import numpy as np
import pytest

from kopt.artifact.read import digest_line
from kopt.errors import IncompatibleArtifactError, TargetError
from kopt.session import load
from kopt.session.finish import finish
from kopt.targets.xla import XlaBackend
from support.fakes import FakeBackend, artifact_of, expected_mlp, mlp


@pytest.mark.parametrize("backend", [FakeBackend(), XlaBackend()], ids=["fake", "xla"])
def test_the_copy_runs_natively(rng, tmp_path, backend):
    graph = mlp(rng, width=512)
    bare = artifact_of(graph, tmp_path / "bare.kopt", (2, 4), native=False, backend=backend)
    assert load(bare.path).tier == "recompiled"
    done = finish(bare.path, tmp_path / "done.kopt")
    session = load(done.path)
    assert session.tier == "native"
    x = rng.standard_normal((4, 16)).astype(np.float32)
    for found, expected in zip(session.run({"x": x}).values(), expected_mlp(graph, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert load(bare.path).tier == "recompiled"
    assert session.run({"x": x[:3]})  # a shape it does not hold, compiled from the model inside


def test_code_of_another_machine_is_replaced(rng, tmp_path):
    artifact = artifact_of(mlp(rng), tmp_path / "m.kopt")
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text())
    content["requirements"].update(features=["avx9999"])
    path.write_text(json.dumps(content))
    (artifact.path / "manifest.sha256").write_bytes(digest_line(path.read_bytes()))
    finish(artifact.path, artifact.path)
    assert load(artifact.path, require="native").tier == "native"


def test_what_fits_is_kept(rng, tmp_path):
    artifact = artifact_of(mlp(rng), tmp_path / "m.kopt")
    FakeBackend.calls.clear()
    assert finish(artifact.path, tmp_path / "copy.kopt").manifest.program == artifact.manifest.program
    assert FakeBackend.calls == []


def test_without_a_portable_form_the_model_is_compiled(rng, tmp_path):
    artifact = artifact_of(mlp(rng), tmp_path / "m.kopt", native=False, portable=False)
    done = finish(artifact.path, tmp_path / "done.kopt")
    assert load(done.path, require="native").self_test()


def test_other_weights_are_refused(rng, tmp_path, monkeypatch):
    artifact = artifact_of(mlp(rng), tmp_path / "m.kopt", native=False, portable=False)
    monkeypatch.setattr("support.fakes.LARGE_BYTES", 1)
    with pytest.raises(IncompatibleArtifactError, match="takes other weights"):
        finish(artifact.path, tmp_path / "done.kopt")
    assert not (tmp_path / "done.kopt").exists()


def test_without_the_device_it_says_so(rng, tmp_path, monkeypatch):
    monkeypatch.setattr("kopt.hardware.cuda_device_present", lambda: False)
    artifact = artifact_of(mlp(rng), tmp_path / "m.kopt", native=False, device="cuda")
    with pytest.raises(TargetError):
        finish(artifact.path, tmp_path / "copy.kopt")
