"""What is no report is refused by the name of the field that is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import kopt
from kopt.errors import UsageError
from kopt.report import html
from kopt.report.diff import diff
from kopt.report.diff_types import Side
from kopt.report.page import of_reports
from kopt.report.points import Source
from kopt.report.stored import check
from kopt.report.text import markdown
from support import graphs
from support.reports import report


def stored() -> dict[str, Any]:
    """A report with all that the table of `kopt report` shows."""
    content = report()
    more = {"throughput_per_s": 8000.0, "gflops": 2.0, "peak_share": 0.02, "load_s": 0.1, "first_s": 0.01}
    content["buckets"][0] |= more
    content["buckets"][0]["baseline"] |= {"ratio": 1.1, "ratio_lower": 1.0, "ratio_upper": 1.2}
    return content


def paths(content: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a report is; of long lists the first entry."""
    items = content.items() if isinstance(content, dict) else list(enumerate(content))[:1] if isinstance(content, list) else ()
    return [path for key, value in items for path in [(*prefix, key), *paths(value, (*prefix, key))]]


def set_at(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def test_real_reports_pass(tmp_path) -> None:
    found = kopt.compile(
        graphs.model("m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), output=tmp_path / "m.kopt", measure=False
    ).report
    assert check(found, "here") is found
    content = stored()
    assert check(content, "here") is content


@pytest.mark.parametrize("value", [None, "text", -1, [], {}, [None], True])
def test_any_field_of_another_kind_is_named_or_can_be_shown(value) -> None:
    """No report makes a command fail by an exception of Python's own."""
    content = stored()
    content["search"] = {
        "trials": [{"elapsed_s": 1.0, "p50_us": 2.0, "config": "c"}],
        "batches": [{"batch": 2, "p50_us": 5.0}],
        "race": [{"config": {"tile": 8}, "p50_us": 5.0, "ratio": 1.0}],
        "failures": {"crash": 1},
        "chosen": {"tile": 8},
        "kernels": {
            "progress": [{"elapsed_s": 1.0, "model_us": 2.0}],
            "workloads": [{"workload": "w", "calls": 1, "implementation": "Conv", "config": {"rows": 1}, "p50_us": 1.0, "trials": 1}],
        },
    }
    named = 0
    for path in paths(content):
        changed = set_at(content, path, value)
        try:
            check(changed, "there")
        except UsageError:
            named += 1
            continue
        markdown(changed)
        diff(Side("a", content), Side("b", changed))
        diff(Side("a", changed), Side("b", content))
        page = of_reports([Source("a", changed)])
        html.cards(page)
        html.search_lines(page.search)
        html.race_rows(page.search)
        html.kernel_rows(page.search)
        if path[0] in ("buckets", "machine", "search"):
            html.charts_of(page)
    assert named > 20


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (("buckets", 0, "latency", "p50_us"), 0, "buckets[0].latency"),
        (("buckets", 0, "latency", "samples_ns"), [[0]], "buckets[0].latency"),
        (("buckets", 0, "nodes"), [{"node": 1}], "buckets[0].nodes"),
        (("buckets", 0, "baseline"), {"name": "onnxruntime"}, "buckets[0].baseline.missing"),
        (("buckets", 0), 3, "buckets[0]"),
        (("machine", "peak_gflops"), 0, "machine"),
    ],
)
def test_the_malformed_field_is_named(path, value, name) -> None:
    with pytest.raises(UsageError, match=r"malformed") as found:
        check(set_at(stored(), path, value), "there")
    assert str(found.value).splitlines()[0].endswith(f": {name}")
