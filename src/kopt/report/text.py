"""The report as a terminal table (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

NOT_MEASURED = "not measured"
_COLUMNS = (
    "batch",
    "p50",
    "p90",
    "p99",
    "rows/s",
    "ONNX Runtime p50",
    "ratio",
    "GFLOP/s",
    "of peak",
    "error",
    "compile",
    "load",
    "first",
    "memory",
)


def duration(microseconds: float | None) -> str:
    """Three significant digits with a fitting unit; None is "not estimable"."""
    if microseconds is None:
        return "not estimable"
    for limit, unit, scale in ((1e3, "us", 1), (1e6, "ms", 1e3)):
        if microseconds < limit:
            return f"{microseconds / scale:.3g} {unit}"
    return f"{microseconds / 1e6:.3g} s"


def size(num_bytes: float) -> str:
    """Bytes with a fitting unit."""
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


def number(value: float) -> str:
    """At most three digits with k, M or G: 1500 is "1.5k"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per bucket, in the order of the table's columns."""
    return [_row(bucket) for bucket in report["buckets"]]


def _row(bucket: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = bucket.get("accuracy")
    error = f"{accuracy['relative']:.1e}" if accuracy else "not compared"
    compiled = duration(bucket["compile_s"] * 1e6) if "compile_s" in bucket else "on the device"
    latency = bucket.get("latency")
    if latency is None:
        return (str(bucket["batch"]), *[NOT_MEASURED] * 8, error, compiled, *[NOT_MEASURED] * 3)
    base = bucket["baseline"]
    measured = "ratio" in base
    return (
        str(bucket["batch"]),
        *(duration(latency[key]) for key in ("p50_us", "p90_us", "p99_us")),
        f"{bucket['throughput_per_s']:.4g}",
        duration(base["latency"]["p50_us"]) if measured else base["missing"],
        f"{base['ratio']:.2f} [{base['ratio_lower']:.2f}, {base['ratio_upper']:.2f}]" if measured else "-",
        f"{bucket['gflops']:.3g}",
        f"{bucket['peak_share']:.0%}",
        error,
        compiled,
        duration(bucket["load_s"] * 1e6),
        duration(bucket["first_s"] * 1e6),
        size(bucket["peak_bytes"]),
    )


def heading(report: Mapping[str, Any]) -> list[str]:
    """What was compiled, for what, and where it was measured."""
    model, machine, target = report["model"], report["machine"], report["target"]
    lines = [
        f"{model['name']}: {model['num_nodes']} nodes, {model['num_parameters'] / 1e6:.3g} M parameters, "
        f"weights {size(model['weights_bytes'])}, {report['precision']} for {target['device']}",
        f"{machine['cpu']}, {machine['cores']} cores"
        + (f", measured peak {machine['peak_gflops']:.0f} GFLOP/s" if "peak_gflops" in machine else ""),
    ]
    if not target["present"]:
        lines.append(f"no {target['device']} device here: the portable tier was written; the first load where one is compiles it")
    return lines


def notes(report: Mapping[str, Any]) -> list[str]:
    """Below the table: the reference, what ran elsewhere, which passes did something."""
    found = []
    references = {bucket["accuracy"]["reference"] for bucket in report["buckets"] if "accuracy" in bucket}
    if references:
        found.append(f"errors are relative to the largest output of {', '.join(sorted(references))}")
    applied = {rule: count for entry in report["passes"] for rule, count in entry["rewrites"].items()}
    if applied:
        found.append("rewrites: " + ", ".join(f"{rule} {count}" for rule, count in applied.items()))
    if report["host_nodes"]:
        found.append(f"on the host: {', '.join(report['host_nodes'])}")
    return found


def renderable(report: Mapping[str, Any]) -> RenderableType:
    """The report for a terminal: one table, turned on its side so that it fits 80 columns."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    content = rows(report)
    for _ in content:
        table.add_column(justify="right")
    for index, name in enumerate(_COLUMNS):
        table.add_row(name, *(row[index] for row in content))
    parts: list[RenderableType] = [*heading(report), "", table, *_operators(report), "", *notes(report)]
    return Group(*parts)


def _operators(report: Mapping[str, Any]) -> list[RenderableType]:
    for bucket in report["buckets"]:
        if bucket.get("operators"):
            table = Table(box=None, pad_edge=False)
            table.add_column("operator")
            table.add_column("share", justify="right")
            for entry in bucket["operators"][:12]:
                table.add_row(entry["operator"], f"{entry['share']:.1%}")
            return ["", f"time by operator, batch {bucket['batch']}", table]
    return []


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines: list[str] = [*heading(report), "", _line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, rows(report)), ""]
    for bucket in report["buckets"]:
        if bucket.get("operators"):
            lines += [f"Time by operator, batch {bucket['batch']}:", "", _line(("operator", "share")), _line(("---", "---"))]
            lines += [_line((entry["operator"], f"{entry['share']:.1%}")) for entry in bucket["operators"][:12]] + [""]
    return "\n".join([*lines, *(f"- {note}" for note in notes(report)), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the report."""
    console.print(renderable(report), soft_wrap=False, highlight=False)
