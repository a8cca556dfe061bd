"""What differs between two reports, and the reasons in order: each cause is planted and must come first."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from kopt.report import diff_text
from kopt.report.diff import diff
from kopt.report.diff_types import Diff, Side
from support.reports import bucket, latency, report


def manifest(program: str = "p" * 64) -> dict[str, Any]:
    files = {"model.onnx": {"size": 10, "sha256": ["a"]}, "weights.safetensors": {"size": 20, "sha256": ["b"]}}
    files["native/0.bin"] = {"size": 30, "sha256": [program[:4]]}
    return {
        "program": program,
        "files": files,
        "config": {"backend": "xla", "options": {}},
        "requirements": {"compilers": {"xla": "jaxlib 0.10.2"}},
    }


def compare(change: Callable[[dict[str, Any]], object], **after: Any) -> Diff:
    """A report against one with slower buckets and a planted change."""
    second = report(**after)
    change(second)
    return diff(Side("a", report()), Side("b", second))


def nothing(found: dict[str, Any]) -> None:
    """Plants no change."""


def test_equal_reports_differ_in_nothing() -> None:
    found = diff(Side("a", report()), Side("b", report()))
    assert not found.changes
    assert not found.passes
    assert not found.reasons
    assert found.same_program is None
    (timing,) = found.timings
    assert (timing.ratio, timing.is_different) == (1.0, False)
    assert all(part.delta_us == 0 for part in found.parts)
    assert diff_text.closing(found) == ["nothing differs that could change the latency"]


def test_a_slowdown_is_found_with_its_interval_and_noise_is_not() -> None:
    (slow,) = compare(nothing, p50_us=1100.0).timings
    assert slow.lower <= slow.ratio <= slow.upper
    assert slow.ratio == pytest.approx(1.1, rel=0.01)
    assert slow.is_different
    second = report()
    second["buckets"][0]["latency"] = latency(1000.0, seed=1)
    assert not diff(Side("a", report()), Side("b", second)).timings[0].is_different


def test_without_samples_there_is_no_interval() -> None:
    first, second = report(), report(p50_us=1040.0)
    for side in (first, second):
        del side["buckets"][0]["latency"]["samples_ns"]
    (timing,) = diff(Side("a", first), Side("b", second)).timings
    assert (timing.lower, timing.upper, timing.is_different) == (None, None, False)


def test_times_by_node_are_shares_of_the_median() -> None:
    def conv2_slows(found: dict[str, Any]) -> None:
        nodes = [{"node": "conv1", "share": 0.25}, {"node": "conv2", "share": 0.65}, {"node": "relu", "share": 0.1}]
        found["buckets"][0] |= {"nodes": nodes, "operators": [{"operator": "Conv", "share": 0.9}, {"operator": "Relu", "share": 0.1}]}

    found = compare(conv2_slows, p50_us=2000.0)
    worst = next(part for part in found.parts if part.level == "node")
    assert worst.name == "conv2"
    assert worst.delta_us == pytest.approx(1000, rel=0.01)
    place = [reason.text for reason in found.reasons if reason.kind == "place"]
    assert "operator Conv" in place[0]
    assert "node conv2" in place[1]


def test_a_node_outside_a_cut_list_is_unknown_and_absent_from_a_whole_list_is_zero() -> None:
    def cut(found: dict[str, Any]) -> None:
        found["buckets"][0]["nodes"] = [{"node": "conv1", "share": 0.5}, {"node": "new", "share": 0.1}]

    parts = {part.name: part for part in compare(cut).parts if part.level == "node"}
    assert parts["relu"].after_us is None
    assert parts["relu"].delta_us is None
    assert parts["new"].before_us == 0


def test_models_are_told_apart_by_structure_and_by_weights() -> None:
    first, second = report(), report(p50_us=1200.0)
    first["model"] |= {"structure": "s", "digest": "d"}
    second["model"] |= {"structure": "s", "digest": "e"}
    (weights,) = [reason for reason in diff(Side("a", first), Side("b", second)).reasons if reason.kind == "weights"]
    assert "only the values" in weights.text
    second["model"]["structure"] = "t"
    kinds = [reason.kind for reason in diff(Side("a", first), Side("b", second)).reasons]
    assert "model" in kinds
    assert "weights" not in kinds


CAUSES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "machine": (lambda found: found["machine"].update(cpu="B", fingerprint="g"), "'A' and 'B'"),
    "threads": (lambda found: found["machine"].update(threads=1), "2 threads became 1"),
    "precision": (lambda found: found.update(precision="bf16"), "fp32 became bf16"),
    "device": (lambda found: found["target"].update(isa="x86-64-v3"), "native became x86-64-v3"),
    "model": (lambda found: found["buckets"][0].update(flops=2_400_000), "1.20 times the operations"),
    "passes": (lambda found: found["passes"][1].update(rewrites={"gelu": 0}), "gelu 3 became 0"),
    "versions": (lambda found: found["versions"].update(jaxlib="0.11.0"), "jaxlib 0.10.2 became 0.11.0"),
    "host": (lambda found: found.update(host_nodes=["unique"]), "[] became ['unique']"),
    "peer": (lambda found: found["buckets"][0]["baseline"].update(latency={"p50_us": 1080.0}), "1.20 times as long"),
    "peak": (lambda found: found["machine"].update(peak_gflops=100.0 / 1.2), "from 100 to 83 GFLOP/s"),
}


@pytest.mark.parametrize("kind", CAUSES)
def test_a_planted_cause_comes_first(kind: str) -> None:
    change, text = CAUSES[kind]
    found = compare(change, p50_us=1200.0)
    assert found.reasons[0].kind == kind
    assert text in found.reasons[0].text
    assert list(found.reasons) == sorted(found.reasons, key=lambda reason: -reason.score)


def test_estimated_shares() -> None:
    peer = compare(CAUSES["peer"][0], p50_us=1440.0).reasons[0]
    assert peer.share == pytest.approx(0.5, abs=0.01)


def test_other_threads_explain_the_peer_and_the_peak() -> None:
    def change(found: dict[str, Any]) -> None:
        for kind in ("threads", "peer", "peak"):
            CAUSES[kind][0](found)

    assert not {"peer", "peak"} & {reason.kind for reason in compare(change, p50_us=1200.0).reasons}


def test_another_version_of_the_peer_says_nothing() -> None:
    found = compare(lambda second: second["buckets"][0]["baseline"].update(version="2", latency={"p50_us": 2000.0}))
    assert found.timings[0].peer_ratio is None


def test_passes_are_matched_by_name_and_occurrence() -> None:
    def change(found: dict[str, Any]) -> None:
        found["passes"][2]["rewrites"] = {"constant": 4}
        found["passes"][1] |= {"pass": "fuse{most=1}", "skips": [{"rule": "gelu", "nodes": ["n"], "reason": "two users"}]}
        found["passes"].append({"pass": "layout", "rewrites": {"Conv": 2}, "skips": []})

    fuse, fold, layout = compare(change).passes
    assert (fold.name, fold.rewrites) == ("fold", {"constant": (1, 4)})
    assert (fuse.before, fuse.after, fuse.skips) == ("fuse{most=2}", "fuse{most=1}", {"gelu": (0, 1)})
    assert (layout.before, layout.rewrites) == (None, {"Conv": (0, 2)})


def test_manifests_tell_programs_apart() -> None:
    first, second = manifest(), manifest("q" * 64)
    second["config"]["options"] = {"conv3x3": "winograd4"}
    same = diff(Side("a", report(), first), Side("b", report(p50_us=1300.0), manifest()))
    assert same.same_program
    assert same.reasons[0].kind == "equal"
    other = diff(Side("a", report(), first), Side("b", report(), second))
    assert other.same_program is False
    assert {change.key for change in other.changes} == {"program", "options"}
    assert [reason.kind for reason in other.reasons] == ["options"]


def test_small_changes_of_measured_numbers_are_noise() -> None:
    def change(found: dict[str, Any]) -> None:
        found["machine"]["peak_gflops"] = 95.0
        found["buckets"][0]["peak_bytes"] = 2 * 10**8

    assert [(one.section, one.key) for one in compare(change).changes] == [("batch 8", "peak_bytes")]


def test_batches_on_one_side_only_are_named() -> None:
    found = compare(lambda second: second["buckets"].append(bucket(16)))
    assert [one.batch for one in found.timings] == [8]
    assert ("program", "batches") in {(one.section, one.key) for one in found.changes}


def test_reports_without_measurements_or_reports_at_all() -> None:
    bare = report()
    for key in ("latency", "baseline", "operators", "nodes", "accuracy"):
        del bare["buckets"][0][key]
    found = diff(Side("a", bare), Side("b", {}, manifest()))
    assert not found.timings
    assert not found.parts


def test_terminal_markdown_and_json_hold_the_same() -> None:
    def change(found: dict[str, Any]) -> None:
        found["machine"]["threads"] = 1
        found["passes"][1]["rewrites"] = {"gelu [bold]": 2}
        found["buckets"][0]["nodes"][0]["node"] = "a|b"

    found = compare(change, p50_us=1200.0)
    stream = io.StringIO()
    diff_text.show(found, Console(file=stream, width=160, no_color=True))
    page, content = diff_text.markdown(found), json.loads(json.dumps(found.to_json(), allow_nan=False))
    for text in ("2 threads became 1", "gelu [bold] 0 -> 2", "1.20 [", "slower"):
        assert text in stream.getvalue()
        assert text in page
    assert "a\\|b" in page
    assert content["reasons"][0]["kind"] == "threads"
    assert set(content) == {"schema", "before", "after", "same_program", "timings", "parts", "passes", "changes", "reasons"}
