"""Pruning to a measured latency: the search, with measurements made up, and one that really compiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kopt.errors import UsageError
from kopt.ir.graph import Graph
from kopt.measure import Measurement, Ratio
from kopt.pruning import latency, prune
from support import graphs

GRAPH = graphs.graph("m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
MODEL = Path(__file__).parents[2] / "benchmarks" / "compression" / "models" / "digits_plain.onnx"


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Latency falls by 0.8 of what is pruned; gives the shares that were measured."""
    measured: list[float] = []

    class Fake(latency.Timed):
        def __init__(self, graph: Graph, folder: Path, name: str) -> None:
            self.share = float(graph.metadata.get("share", "0"))

        def __exit__(self, *_: object) -> None:
            pass

    def ratio(first: Fake, second: Fake) -> tuple[Ratio, Measurement]:
        assert second.share == 0
        measured.append(first.share)
        value = 1 - 0.8 * first.share
        return Ratio(value, value, value, 6), Measurement(((1000,),))

    monkeypatch.setattr(latency, "Timed", Fake)
    monkeypatch.setattr(latency, "measured_ratio", ratio)
    return measured


def candidate(share: float) -> Graph:
    return GRAPH.replace(metadata={"share": str(share)})


@pytest.mark.parametrize(("target", "share"), [(0.9, 0.15), (0.6, 0.5), (0.3, 0.9)])
def test_the_least_pruning_that_is_fast_enough(made_up: list[float], target: float, share: float) -> None:
    told: list[str] = []
    found = latency.least_pruning(GRAPH, candidate, target, told.append)
    assert found.share == share
    assert found.graph.metadata["share"] == str(share)
    assert found.ratio.value <= target
    assert len(made_up) == len(set(made_up)) == len(told) <= 6
    assert found.before_us == 1.0


def test_a_latency_out_of_reach_is_told_after_one_measurement(made_up: list[float]) -> None:
    with pytest.raises(UsageError, match=r"still 0\.28 of the original's"):
        latency.least_pruning(GRAPH, candidate, 0.1, lambda _: None)
    assert len(made_up) == 1


def test_candidates_are_compiled_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SHARES", (0.5,))
    monkeypatch.setattr(latency, "ROUNDS", 2)
    pruned = prune(str(MODEL), latency=0.99)
    assert pruned.report["ratio"] == 0.5
    assert pruned.report["latency"]["ratio"] <= 0.99
    assert np.isfinite(pruned.report["latency"]["before_us"])
