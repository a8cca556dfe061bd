"""What the HTML report shows, as plain values: made from stored reports, or from a comparison of runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kopt.report.points import Point, Source, batch_name, by_series, knee, points, searched
from kopt.report.text import NOT_MEASURED, duration, heading, number, size

Row = tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Everything on the page but its looks.

    Attributes:
        title: the model's name, or what is compared.
        lines: below the title.
        points: what was measured.
        buckets: (label, bucket of a report) for time by operator and the roofline.
        machine: whose peaks bound the roofline.
        search: the search section of the first report that has one.
        searched: the batch curves that searches measured.
        accuracy: rows of the accuracy table.
        environment: a header row, then one row per fact with a cell per source.
        passes: of the first report.
    """

    title: str
    lines: Sequence[str]
    points: Sequence[Point]
    buckets: Sequence[tuple[str, Mapping[str, Any]]] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    searched: Sequence[Point] = ()
    accuracy: Sequence[Row] = ()
    environment: Sequence[Row] = ()
    passes: Sequence[Row] = ()


def of_reports(sources: Sequence[Source]) -> Page:
    """The page of one report, or of several side by side."""
    names = list(dict.fromkeys(source.report["model"]["name"] for source in sources))
    machine: Mapping[str, Any] = next((source.report["machine"] for source in sources if "peak_gflops" in source.report["machine"]), {})
    lines = heading(sources[0].report) if len(sources) == 1 else [f"{source.name}: {heading(source.report)[0]}" for source in sources]
    return Page(
        ", ".join(names),
        lines,
        points(sources),
        [entry for source in sources if _same_machine(source.report["machine"], machine) for entry in _buckets(source, len(sources) == 1)],
        machine,
        next((source.report["search"] for source in sources if source.report.get("search")), {}),
        [point for source in sources for point in searched(source)],
        [row for source in sources for row in _accuracy(source, len(sources) == 1)],
        _environment([(source.name, source.report) for source in sources]),
        list(_passes(sources[0].report)),
    )


def of_comparison(results: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], versions: Mapping[str, str]) -> Page:
    """The page of what ``kopt bench`` measured: its results, and the machine and versions of this process."""
    models = list(dict.fromkeys(result["model"] for result in results))
    found = []
    for result in results:
        for entry in result["runners"]:
            series = f"{entry['runner']} {entry['version']}".strip()
            named = series if len(models) == 1 else f"{result['model']} in {series}"
            found.append(Point(named, result["batch"], entry["latency"], entry, is_peer=entry["runner"] != "kopt"))
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads",
        "every runtime in a process of its own, on the same inputs, in alternating blocks",
    ]
    return Page(", ".join(models), lines, found, environment=_environment([("", {"machine": machine, "versions": versions})]))


def _same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("cpu", "threads", "fingerprint")) or not other


def _buckets(source: Source, alone: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for bucket in source.report["buckets"]:
        yield (batch_name(bucket["batch"]) if alone else f"{source.name}, {batch_name(bucket['batch'])}"), bucket


def _accuracy(source: Source, alone: bool) -> Iterator[Row]:
    for label, bucket in _buckets(source, alone):
        found = bucket.get("accuracy")
        if found:
            errors = (f"{found[key]:.2e}" if key in found else "-" for key in ("relative", "max_abs", "mean_abs", "tolerance"))
            yield label, source.report["precision"], found.get("reference", "-"), found.get("worst", "-"), *errors
        else:
            yield label, source.report["precision"], "not compared", "-", "-", "-", "-", "-"


def _environment(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Row]:
    """A row per fact; a first row of names where there are several."""
    facts: dict[str, dict[int, str]] = {}
    for column, (_, report) in enumerate(reports):
        target = {f"target {key}": value for key, value in report.get("target", {}).items()}
        versions = {f"{name} version": value for name, value in report.get("versions", {}).items()}
        for key, value in {**report["machine"], **target, **versions}.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:.4g}" if isinstance(value, float) else str(value)
            facts.setdefault(key.replace("_", " "), {})[column] = text
    rows = [(key, *(cells.get(column, "-") for column in range(len(reports)))) for key, cells in facts.items()]
    return rows if len(reports) == 1 else [("", *(name for name, _ in reports)), *rows]


def _passes(report: Mapping[str, Any]) -> Iterator[Row]:
    for entry in report["passes"]:
        rewrites = ", ".join(f"{rule} {count}" for rule, count in entry["rewrites"].items()) or "-"
        skips = "; ".join(f"{', '.join(skip.get('nodes', ()))}: {skip.get('reason', '')}" for skip in entry["skips"]) or "-"
        nodes = " to ".join(map(str, entry.get("nodes", ()))) or "-"
        yield entry["pass"], duration(entry.get("seconds", 0.0) * 1e6), nodes, rewrites, skips


def cards(page: Page) -> list[tuple[str, str, str]]:
    """The numbers one looks for first: title, value, and what it belongs to."""
    own = [point for point in page.points if not point.is_peer] or list(page.points)
    if not own:
        return [("Latency", NOT_MEASURED, "compile without --no-measure")]
    fastest = min(own, key=lambda point: point.p50_us)
    found = [("Median latency", duration(fastest.p50_us), fastest.label)]
    if any(point.batch for point in own):
        most = max(own, key=lambda point: point.throughput_per_s)
        found.append(("Throughput", f"{number(most.throughput_per_s)} rows/s", most.label))
        bends = [(name, knee([one.batch for one in line], [one.throughput_per_s for one in line])) for name, line in by_series(own).items()]
        found += [("Knee", f"batch {bend}", f"{name}: larger batches bring little") for name, bend in bends if bend is not None][:1]
    ratios = [point.facts["baseline"] for point in own if "ratio" in point.facts.get("baseline", {})]
    if ratios:
        low, high = min(one["ratio"] for one in ratios), max(one["ratio"] for one in ratios)
        text = f"{low:.2f}" if len(ratios) == 1 else f"{low:.2f} to {high:.2f}"
        found.append(("Latency over ONNX Runtime's", text, "below 1 is faster"))
    errors = [point.error for point in own if point.error is not None]
    if errors:
        found.append(("Largest error", f"{max(errors):.1e}", "of the largest output"))
    peaks = [point.facts["peak_bytes"] for point in own if "peak_bytes" in point.facts]
    if peaks:
        found.append(("Peak memory", size(max(peaks)), "of the process that runs it"))
    return found


def latency_rows(page: Page) -> list[Row]:
    """One row per point: percentiles with intervals, rate, start-up and memory."""
    rows = []
    for point in page.points:
        start = (duration(point.facts[key] * 1e6) if key in point.facts else "-" for key in ("load_s", "first_s"))
        memory = size(point.facts["peak_bytes"]) if "peak_bytes" in point.facts else "-"
        texts = (point.text(percent) for percent in (50, 90, 99))
        count = point.latency.get("num_samples", point.measurement.num_samples)
        rows.append((point.series, str(point.batch or "-"), *texts, number(point.throughput_per_s), str(count), *start, memory))
    return rows


def search_lines(search: Mapping[str, Any]) -> list[str]:
    """What was asked for, what it took, and what was chosen."""
    if not search:
        return []
    facts = [f"{len(search['trials'])} trials"]
    facts += [f"of {search['num_combinations']} possible programs"] if "num_combinations" in search else []
    facts += [f"in {duration(search['seconds'] * 1e6)}"] if "seconds" in search else []
    facts += [f"of {duration(search['budget_s'] * 1e6)}"] if "budget_s" in search else []
    failures = ", ".join(f"{count} {kind}" for kind, count in search.get("failures", {}).items())
    lines = [" ".join(facts) + (f"; failed: {failures}" if failures else "")]
    return lines + ([f"chosen: {_spelled(search['chosen'])}"] if search.get("chosen") else [])


def race_rows(search: Mapping[str, Any]) -> list[Row]:
    """The finalists, fastest first."""
    return [(_spelled(one["config"]), duration(one["p50_us"]), f"{one['ratio']:.3f}") for one in search.get("race", ())]


def kernel_rows(search: Mapping[str, Any]) -> list[Row]:
    """The workloads that kernels do, those that take most of the model's time first."""
    found = [one for one in search.get("kernels", {}).get("workloads", ()) if one.get("p50_us")]
    return [
        (
            one["workload"],
            str(one["calls"]),
            " ".join((one.get("implementation", ""), _spelled(one.get("config", {})) or "as without a search")),
            duration(one["p50_us"]),
            duration(one["default_us"]) if one.get("default_us") else "-",
            number(one["gflops"]) if one.get("gflops") else "-",
            f"{one['of_peak']:.0%}" if one.get("of_peak") else "-",
            str(one["trials"]),
        )
        for one in sorted(found, key=lambda one: -one["calls"] * one["p50_us"])
    ]


def _spelled(config: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={choice}" for name, choice in config.items())
