"""Charts of where the time of a program goes: by operator, and each node under the machine's roofline; and of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kopt.report.figure import COLORS, Figure, finish, log_axis, plain, rounded, short
from kopt.report.text import duration, size

Bucket = Mapping[str, Any]


def operators(buckets: Sequence[tuple[str, Bucket]], most: int = 10) -> Figure | None:
    """Shares of the time by operator, one bar per batch; what is beyond the first ``most`` is one bar of its own."""
    shown = [(name, bucket) for name, bucket in buckets if bucket.get("operators")]
    if not shown:
        return None
    totals: dict[str, float] = {}
    for _, bucket in shown:
        for entry in bucket["operators"]:
            totals[entry["operator"]] = max(totals.get(entry["operator"], 0.0), entry["share"])
    kept = sorted(totals, key=lambda name: -totals[name])[:most]
    rest = "all others" if len(totals) > most else None
    names = [*kept, *([rest] if rest else [])]
    figure = go.Figure()
    for index, (name, bucket) in enumerate(shown):
        shares = {entry["operator"]: entry["share"] for entry in bucket["operators"]}
        values = [shares.get(operator, 0.0) for operator in kept]
        values += [sum(shares.values()) - sum(values)] if rest else []
        figure.add_bar(
            y=list(range(len(names))),
            x=rounded([100 * value for value in values]),
            orientation="h",
            marker={"color": COLORS[index % len(COLORS)]},
            name=plain(name),
            hovertext=[f"{plain(one)}: {value:.1%}" for one, value in zip(names, values, strict=True)],
            hoverinfo="text+name",
        )
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(names))), ticktext=[short(one) for one in names])
    figure.update_xaxes(title={"text": "per cent of the time"})
    return finish(figure, height=140 + len(names) * (14 + 9 * len(shown)), barmode="group", bargap=0.25)


def roofline(buckets: Sequence[tuple[str, Bucket]], machine: Mapping[str, Any]) -> Figure | None:
    """Every node by its operations a byte and the rate it reached, under what the machine was seen to reach.

    The time of a node is its share of the median latency; bytes are those of its inputs and outputs. None where the report lacks any of it.
    """
    shown = [(name, found) for name, bucket in buckets if (found := _rates(bucket))]
    if not shown or "peak_gflops" not in machine:
        return None
    peak, bandwidth = machine["peak_gflops"], machine.get("peak_gbytes_per_s")
    figure = go.Figure()
    intensities = [node["intensity"] for _, nodes in shown for node in nodes] + ([peak / bandwidth] if bandwidth else [])
    x = np.geomspace(min(intensities) / 1.5, max(intensities) * 2, 60)
    roof = np.minimum(peak, x * bandwidth) if bandwidth else np.full(len(x), peak)
    title = f"{peak:.0f} GFLOP/s" + (f", {bandwidth:.3g} GB/s" if bandwidth else "; memory not measured")
    figure.add_scatter(x=rounded(x), y=rounded(roof), mode="lines", line={"color": "#8d99ae", "width": 2}, name=title, hoverinfo="name")
    for index, (name, nodes) in enumerate(shown):
        figure.add_scatter(
            x=rounded([node["intensity"] for node in nodes]),
            y=rounded([node["gflops"] for node in nodes]),
            mode="markers",
            marker={
                "color": COLORS[index % len(COLORS)],
                "size": rounded([7 + 25 * node["share"] ** 0.5 for node in nodes]),
                "opacity": 0.8,
            },
            name=plain(name),
            visible=True if index in (0, len(shown) - 1) else "legendonly",
            hovertext=[_node_text(name, node) for node in nodes],
            hoverinfo="text",
        )
    rates = [node["gflops"] for _, nodes in shown for node in nodes]
    figure.update_xaxes(**log_axis("operations a byte", list(x)))
    figure.update_yaxes(**log_axis("GFLOP/s", [min(rates) / 2, peak * 1.5]))
    return finish(figure, height=430)


def _rates(bucket: Bucket) -> list[dict[str, Any]]:
    """Nodes whose rate is known and that take at least a thousandth of the time."""
    if "latency" not in bucket:
        return []
    seconds = bucket["latency"]["p50_us"] / 1e6
    return [
        {
            **node,
            "intensity": node["flops"] / node["bytes"],
            "gflops": node["flops"] / (node["share"] * seconds) / 1e9,
            "us": node["share"] * seconds * 1e6,
        }
        for node in bucket.get("nodes", ())
        if node.get("flops") and node.get("bytes") and node["share"] > 1e-3
    ]


def _node_text(name: str, node: Mapping[str, Any]) -> str:
    lines = [f"{plain(node['node'])} ({plain(node.get('operator', 'other'))})", plain(name)]
    lines += [
        f"{duration(node['us'])}, {node['share']:.1%} of the time",
        f"{node['gflops']:.3g} GFLOP/s",
        f"{size(node['bytes'])} in and out",
    ]
    return "<br>".join(lines)


def kernel_search(search: Mapping[str, Any]) -> Figure | None:
    """The sum of the fastest times of all kernels over the time of their search."""
    progress = search.get("kernels", {}).get("progress", ())
    if not progress:
        return None
    figure = go.Figure()
    times = [one["model_us"] / 1e3 for one in progress]
    line = {"color": COLORS[1], "width": 2, "shape": "hv"}
    figure.add_scatter(x=rounded([one["elapsed_s"] for one in progress]), y=rounded(times), mode="lines", line=line, name="all kernels")
    figure.update_xaxes(title={"text": "seconds into the search of kernels"})
    figure.update_yaxes(**log_axis("milliseconds a call, all kernels", times))
    return finish(figure)


def search(progress: Mapping[str, Any]) -> Figure | None:
    """Every trial of a search over the time it was made, with the best so far; trials without a time lie on the lower edge."""
    trials = progress.get("trials", ())
    done = [trial for trial in trials if trial.get("p50_us")]
    if not done:
        return None
    rest = [trial for trial in trials if not trial.get("p50_us")]
    marks = {
        "given up as slow": ("line-ns-open", COLORS[5], [trial for trial in rest if trial.get("kind") == "slow"]),
        "failed": ("x", COLORS[4], [trial for trial in rest if trial.get("kind") != "slow"]),
    }
    figure = go.Figure()
    best = np.minimum.accumulate([trial["p50_us"] / 1e3 for trial in done])
    figure.add_scatter(
        x=rounded([trial["elapsed_s"] for trial in done]),
        y=rounded([trial["p50_us"] / 1e3 for trial in done]),
        mode="markers",
        marker={"color": COLORS[0], "size": 6, "opacity": 0.55},
        name="trial",
        hovertext=[f"{duration(trial['p50_us'])}<br>{plain(str(trial.get('config', '')))}" for trial in done],
        hoverinfo="text",
    )
    line = {"color": COLORS[1], "width": 2, "shape": "hv"}
    figure.add_scatter(x=rounded([trial["elapsed_s"] for trial in done]), y=rounded(best), mode="lines", line=line, name="best so far")
    for name, (symbol, color, shown) in marks.items():
        if shown:
            figure.add_scatter(
                x=rounded([trial["elapsed_s"] for trial in shown]),
                y=rounded([min(best)] * len(shown)),
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 7},
                name=name,
                hovertext=[f"{plain(str(one.get('failure', name)))}<br>{plain(str(one.get('config', '')))}" for one in shown],
                hoverinfo="text",
            )
    figure.update_xaxes(title={"text": "seconds into the search"})
    figure.update_yaxes(**log_axis("milliseconds a call (p50)", [trial["p50_us"] / 1e3 for trial in done]))
    return finish(figure)
