import json
import logging

import numpy as np
import pytest

from kopt.artifact import Artifact
from kopt.artifact.read import digest_line
from kopt.errors import IncompatibleArtifactError, TargetError
from kopt.session import load
from support.fakes import FakeBackend, artifact_of, expected_mlp, mlp


@pytest.fixture
def graph(rng):
    return mlp(rng)


@pytest.fixture
def artifact(graph, tmp_path):
    return artifact_of(graph, tmp_path / "m.kopt")


def edit(artifact, change):
    """The artifact with a changed manifest and a digest that fits."""
    path = artifact.path / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    (artifact.path / "manifest.sha256").write_bytes(digest_line(path.read_bytes()))
    return Artifact.open(artifact.path)


def check(session, graph):
    x = np.linspace(-2, 2, 64, dtype=np.float32).reshape(4, 16)
    for found, expected in zip(session.run({"x": x}).values(), expected_mlp(graph, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["requirements"]["compilers"].update(fake="fakec 0.9"), "needs exactly fakec 0.9, installed is fakec 1.0"),
        (lambda c: c["requirements"]["compilers"].clear(), "needs exactly unknown"),
        (lambda c: c["requirements"].update(features=["avx9999"]), "this CPU lacks avx9999"),
        (lambda c: c["requirements"].update(arch="m68k"), "it is for m68k"),
    ],
)
def test_what_does_not_fit_is_recompiled_and_logged(artifact, graph, change, reason, caplog):
    edit(artifact, change)
    FakeBackend.calls.clear()
    with caplog.at_level(logging.INFO, "kopt.session"):
        session = load(artifact.path)
    assert session.tier == "recompiled"
    assert reason in caplog.text
    assert FakeBackend.calls == ["compile_portable"]
    check(session, graph)
    with pytest.raises(IncompatibleArtifactError, match="required tier 'native'") as error:
        load(artifact.path, require="native")
    assert reason in str(error.value)


def test_what_was_recompiled_is_cached(artifact, graph):
    edit(artifact, lambda c: c["requirements"].update(arch="m68k"))
    load(artifact.path)
    FakeBackend.calls.clear()
    check(load(artifact.path), graph)
    assert FakeBackend.calls == ["load"]


def test_without_stablehlo_the_model_is_compiled_again(graph, tmp_path):
    artifact = artifact_of(graph, tmp_path / "m.kopt", native=False, portable=False)
    FakeBackend.calls.clear()
    session = load(artifact.path)
    assert session.tier == "recompiled"
    assert FakeBackend.calls == ["lower", "compile"]
    check(session, graph)


def test_code_the_compiler_refuses_is_recompiled(artifact, graph, monkeypatch):
    monkeypatch.setattr(FakeBackend, "broken", frozenset({"load"}))
    session = load(artifact.path)
    assert session.tier == "recompiled"
    check(session, graph)


def test_stablehlo_the_compiler_refuses_is_compiled_from_the_model(artifact, graph, monkeypatch):
    monkeypatch.setattr(FakeBackend, "broken", frozenset({"load", "compile_portable"}))
    session = load(artifact.path)
    assert session.tier == "recompiled"
    check(session, graph)


def test_the_reference_is_the_last_rung(artifact, graph, monkeypatch, caplog):
    monkeypatch.setattr(FakeBackend, "broken", frozenset({"load", "compile_portable", "compile"}))
    session = load(artifact.path)
    assert session.tier == "reference"
    assert "compile_portable is broken" in caplog.text
    check(session, graph)


@pytest.mark.parametrize("tier", ["native", "recompiled", "reference"])
def test_a_tier_can_be_required(artifact, graph, tier):
    session = load(artifact.path, require=tier)
    assert session.tier == tier
    check(session, graph)


def test_cuda_without_a_device_says_what_to_do(graph, tmp_path, monkeypatch):
    monkeypatch.setattr("kopt.hardware.cuda_device_present", lambda: False)
    artifact = artifact_of(graph, tmp_path / "m.kopt", device="cuda", native=False)
    with pytest.raises(TargetError, match="has no such device") as error:
        load(artifact.path)
    assert 'require="reference"' in str(error.value)
    session = load(artifact.path, require="reference")
    assert session.tier == "reference"
    check(session, graph)
