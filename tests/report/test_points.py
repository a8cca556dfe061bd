"""Points, the front and the knee."""

from __future__ import annotations

import pytest

from kopt.report.points import Source, by_series, knee, pareto, points
from support.reports import bucket, report


def test_a_report_gives_a_point_per_runtime_and_batch() -> None:
    content = report()
    content["buckets"] = [bucket(1, 100.0), bucket(8, 400.0)]
    found = points([Source("a.kopt", content)])
    assert [(one.label, one.is_peer) for one in found[:2]] == [("a.kopt, batch 1", False), ("onnxruntime 1.32.0, batch 1", True)]
    assert found[2].throughput_per_s == pytest.approx(8 / found[2].p50_us * 1e6)
    assert found[0].error == 1e-7
    assert found[1].error is None
    low, high = found[0].intervals_us[50]
    assert low < found[0].p50_us < high
    assert found[0].intervals_us[99] is None
    assert found[0].text(99) == "not estimable"
    assert found[0].text(50) == "99.9 us [99.8 us, 100 us]"
    both = points([Source("a.kopt", content), Source("b.kopt", content)])
    assert list(by_series(both)) == ["a.kopt", "onnxruntime 1.32.0 beside a.kopt", "b.kopt", "onnxruntime 1.32.0 beside b.kopt"]


def test_no_batch_axis_and_nothing_measured() -> None:
    content = report(batch=0)
    (own, _) = points([Source("a", content)])
    assert own.label == "a, no batch axis"
    assert own.throughput_per_s == pytest.approx(1e6 / own.p50_us)
    del content["buckets"][0]["latency"]
    assert points([Source("a", content), Source("b", {})]) == ()


@pytest.mark.parametrize(
    ("pairs", "front"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(2, 5), (1, 3), (3, 4)], [1, 0]),  # the third is slower and less than the first
        ([(1, 1), (1, 2), (1, 2)], [1]),
        ([(3, 3), (2, 2), (1, 1)], [2, 1, 0]),
    ],
)
def test_pareto(pairs, front) -> None:
    assert pareto(pairs) == front


@pytest.mark.parametrize(
    ("batches", "rates", "found"),
    [
        ((1, 2, 4, 8, 16), (100, 190, 340, 360, 370), 4),
        ((1, 2, 4, 8), (100, 200, 300, 400), None),  # it still rises
        ((1, 2, 4, 8), (100, 110, 150, 400), None),
        ((1, 2, 4), (100, 100, 100), 1),  # larger batches bring nothing
        ((1, 8), (100, 700), None),
        ((0, 1, 2), (1, 2, 3), None),
    ],
)
def test_knee(batches, rates, found) -> None:
    assert knee(batches, rates) == found
