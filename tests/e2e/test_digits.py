"""The shipped digit classifier, from ONNX to answers in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import kopt

BATCHES = (1, 8)

ANSWER = """
import json, sys
import numpy as np
import kopt

session = kopt.load(sys.argv[1])
with np.load(sys.argv[2]) as arrays:
    image = arrays["image"]
answers = session.run({"image": image})
np.savez(sys.argv[3], **answers)
print(json.dumps({"tier": session.tier, "outputs": list(answers)}))
"""

BLOCKED = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnxruntime", "openvino", "onnxscript"):
            raise ImportError(f"{name} is not installed")
        return None

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def artifact(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.kopt"
    compiled = kopt.compile(str(digits_model), target="cpu", output=str(path), batch=BATCHES, measure=False)
    assert Path(compiled.path) == path
    return path


@pytest.fixture(scope="module")
def peer(digits_model: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(digits_model, providers=["CPUExecutionProvider"])


def answers_of_fresh_process(
    artifact: Path, image: np.ndarray, directory: Path, *, prelude: str = ""
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    np.savez(directory / "in.npz", image=image)
    command = [sys.executable, "-c", prelude + ANSWER, str(artifact), str(directory / "in.npz"), str(directory / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(directory / "out.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}, json.loads(done.stdout)


def test_held_out_digits_are_read(artifact: Path, digits_heldout: tuple[np.ndarray, np.ndarray]) -> None:
    image, label = digits_heldout
    session = kopt.load(str(artifact))
    logits = np.concatenate([session.run({"image": image[start : start + 8]})["logits"] for start in range(0, len(image), 8)])
    assert logits.shape == (len(image), 10)
    assert (logits.argmax(-1) == label).mean() >= 0.98


@pytest.mark.parametrize("batch", BATCHES)
def test_a_fresh_process_answers_like_onnxruntime(artifact, peer, digits_heldout, tmp_path, batch) -> None:
    image = digits_heldout[0][:batch]
    found, facts = answers_of_fresh_process(artifact, image, tmp_path)
    assert facts == {"tier": "native", "outputs": ["logits"]}
    (expected,) = peer.run(None, {"image": image})
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_an_artifact_runs_without_the_peers(artifact, peer, digits_heldout, tmp_path) -> None:
    image = digits_heldout[0][:8]
    found, facts = answers_of_fresh_process(artifact, image, tmp_path, prelude=BLOCKED)
    assert facts["tier"] == "native"
    (expected,) = peer.run(None, {"image": image})
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_two_compilations_are_the_same_program(artifact: Path, digits_model: Path, tmp_path: Path) -> None:
    again = kopt.compile(str(digits_model), target="cpu", output=str(tmp_path / "again.kopt"), batch=BATCHES, measure=False)
    first, second = (json.loads((Path(path) / "manifest.json").read_text()) for path in (artifact, again.path))
    assert first["signature"] == second["signature"]
    assert first["files"]["weights.safetensors"] == second["files"]["weights.safetensors"]
    assert first["files"]["model.onnx"] == second["files"]["model.onnx"]


def test_no_file_of_an_artifact_is_a_pickle(artifact: Path) -> None:
    for path in artifact.rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:1] != b"\x80", path


@pytest.mark.parametrize("position", [0.0, 0.31, 0.5, 0.999999])
def test_any_changed_byte_is_refused(artifact: Path, tmp_path: Path, position: float) -> None:
    for source in sorted(path for path in artifact.rglob("*") if path.is_file()):
        copy = copy_of(artifact, tmp_path / f"{source.name}-{position}")
        changed = copy / source.relative_to(artifact)
        content = bytearray(changed.read_bytes())
        content[int(position * len(content))] ^= 0x20
        changed.write_bytes(content)
        with pytest.raises(kopt.KoptError):
            kopt.load(str(copy))


def copy_of(artifact: Path, target: Path) -> Path:
    for path in artifact.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(artifact)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target
