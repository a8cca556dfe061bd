"""The digits networks come back: what `benchmarks/compression/recover_digits.py` measures, as a test without times."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from support.source import ROOT

HERE = ROOT / "benchmarks" / "compression"


def script(name: str) -> ModuleType:
    """A script of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # scripts import each other by these names
    spec.loader.exec_module(module)
    return module


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("damage", "points"), [("half of the channels", 0.3), ("70 % of the weights zero", 0.7), ("weights of 2 bits", 0.5)]
)
def test_accuracy_comes_back_without_labels(damage: str, points: float) -> None:
    pytest.importorskip("sklearn")
    from kopt.frontend.export import to_model
    from kopt.recovery.api import recover

    images = script("digits").digits()
    benchmark = script("recover_digits")
    model, calib = HERE / "models" / "digits_residual.onnx", {"image": images[0]}
    student = benchmark.DAMAGES[damage](model, calib)
    recovered = recover(student, str(model), calib, budget_s=3600.0, max_steps=400).graph
    accuracy = benchmark.accuracy(to_model(recovered).SerializeToString(), images[1], images[3])
    assert accuracy >= benchmark.accuracy(str(model), images[1], images[3]) - points
