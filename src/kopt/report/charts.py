"""The charts of the page, as figures of plotly in JSON types. Colours of text and grid are set by the page, which knows the scheme."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from kopt.report.figure import Figure, color_of, faint, finish, log_axis, plain, rounded
from kopt.report.points import PERCENTILES, Point, batch_name, by_series, knee, pareto
from kopt.report.text import duration, number

_SYMBOLS = {50: "circle", 90: "diamond", 99: "triangle-up"}


def distribution(points: Sequence[Point]) -> Figure | None:
    """One hill per runtime and batch over the logarithm of the latency: how many calls took how long, with the percentiles marked."""
    shown = [point for point in points if point.measurement.num_samples > 1]
    if not shown:
        return None
    colors = color_of([point.series for point in shown])
    figure, named = go.Figure(), set()
    shown = sorted(shown, key=lambda point: point.batch)
    shown.reverse()  # rows count from below, the first named is on top
    for row, point in enumerate(shown):
        x, heights = _hill(point.measurement.samples_ns / 1e6)
        color, label = colors[point.series], plain(point.series)
        figure.add_scatter(x=rounded(x), y=[row] * len(x), mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False)
        figure.add_scatter(
            x=rounded(x),
            y=rounded(row + 0.85 * heights),
            mode="lines",
            line={"width": 1.2, "color": color, "shape": "spline", "smoothing": 0.4},
            fill="tonexty",
            fillcolor=faint(color),
            hoverinfo="skip",
            name=label,
            legendgroup=label,
            showlegend=label not in named,
            legendrank=1 + list(colors).index(point.series),
        )
        named.add(label)
        marks = [(percent, point.latency[f"p{percent}_us"]) for percent in PERCENTILES if point.latency.get(f"p{percent}_us")]
        figure.add_scatter(
            x=rounded([value / 1e3 for _, value in marks]),
            y=[row] * len(marks),
            mode="markers",
            marker={"color": color, "size": 8, "symbol": [_SYMBOLS[percent] for percent, _ in marks]},
            hovertext=[f"{plain(point.label)}<br>p{percent} {duration(value)}" for percent, value in marks],
            hoverinfo="text",
            showlegend=False,
        )
    rows: dict[int, list[int]] = {}
    for row, point in enumerate(shown):
        rows.setdefault(point.batch, []).append(row)
    figure.update_yaxes(
        tickvals=[float(np.mean(found)) + 0.3 for found in rows.values()],
        ticktext=[batch_name(batch) for batch in rows],
        range=[-0.2, len(shown)],
        zeroline=False,
        showgrid=False,
    )
    figure.update_xaxes(**log_axis("milliseconds a call", _spread(shown)))
    return finish(figure, height=130 + 54 * len(shown))


def _hill(samples_ms: np.ndarray, bins: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Bin centres and heights (largest 1) over the logarithm, from the 0.2nd to the 99.8th percentile."""
    low, high = np.quantile(samples_ms, [0.002, 0.998])
    low, high = max(low * 0.98, 1e-9), high * 1.02
    edges = np.geomspace(low, high, bins + 1)
    counts, _ = np.histogram(samples_ms, edges)
    smooth = np.convolve(np.pad(counts, 2), [0.1, 0.2, 0.4, 0.2, 0.1], "valid")
    centres = np.sqrt(edges[1:] * edges[:-1])
    return np.r_[low, centres, high], np.r_[0, smooth / max(smooth.max(), 1e-9), 0]


def _spread(points: Sequence[Point]) -> list[float]:
    return [float(value) for point in points for value in np.quantile(point.measurement.samples_ns / 1e6, [0.002, 0.998])]


def percentiles(points: Sequence[Point]) -> Figure | None:
    """p50, p90 and p99 of every runtime by batch, with their 95 % intervals."""
    if not points:
        return None
    batches = sorted({point.batch for point in points})
    series = by_series(points)
    colors, figure = color_of(list(series)), go.Figure()
    for index, (name, found) in enumerate(series.items()):
        shift = 0.5 * ((index + 0.5) / len(series) - 0.5)
        for percent in PERCENTILES:
            known = [point for point in found if point.latency.get(f"p{percent}_us")]
            values = [point.latency[f"p{percent}_us"] / 1e3 for point in known]
            bounds = [point.intervals_us[percent] for point in known]
            above = [bound[1] / 1e3 - value if bound else 0.0 for value, bound in zip(values, bounds, strict=True)]
            below = [value - bound[0] / 1e3 if bound else 0.0 for value, bound in zip(values, bounds, strict=True)]
            figure.add_scatter(
                x=[batches.index(point.batch) + shift + 0.06 * (percent - 70) / 25 for point in known],
                y=rounded(values),
                error_y={"type": "data", "symmetric": False, "array": rounded(above), "arrayminus": rounded(below), "thickness": 1.5},
                mode="markers",
                marker={"color": colors[name], "symbol": _SYMBOLS[percent], "size": 9},
                name=f"{plain(name)} p{percent}",
                legendgroup=plain(name),
                hovertext=[f"{plain(point.label)}<br>p{percent} {point.text(percent)}" for point in known],
                hoverinfo="text",
            )
    figure.update_xaxes(tickvals=list(range(len(batches))), ticktext=[batch_name(batch) for batch in batches], zeroline=False)
    every = [point.latency[f"p{percent}_us"] / 1e3 for point in points for percent in PERCENTILES if point.latency.get(f"p{percent}_us")]
    figure.update_yaxes(**log_axis("milliseconds", every))
    return finish(figure, height=420)


def throughput(points: Sequence[Point]) -> Figure | None:
    """Rows per second over the batch, with the knee marked; None unless something was measured at two batches."""
    series = {name: found for name, found in by_series(points).items() if len({point.batch for point in found if point.batch}) > 1}
    if not series:
        return None
    colors, figure = color_of(list(by_series(points))), go.Figure()
    for name, found in series.items():
        batches, rates = [point.batch for point in found], [point.throughput_per_s for point in found]
        figure.add_scatter(
            x=batches,
            y=rounded(rates),
            mode="lines+markers",
            line={"color": colors[name], "width": 2},
            marker={"size": 8},
            name=plain(name),
            hovertext=[
                f"{plain(point.label)}<br>{number(point.throughput_per_s)} rows/s<br>p50 {duration(point.p50_us)}" for point in found
            ],
            hoverinfo="text",
        )
        bend = knee(batches, rates)
        if bend is not None:
            figure.add_scatter(
                x=[bend],
                y=rounded([rates[batches.index(bend)]]),
                mode="markers",
                marker={"size": 18, "symbol": "circle-open", "color": colors[name], "line": {"width": 2.5}},
                name=f"knee of {plain(name)}: batch {bend}",
                hoverinfo="name",
            )
    every = sorted({point.batch for found in series.values() for point in found})
    figure.update_xaxes(type="log", title={"text": "rows a call"}, tickvals=every, ticktext=list(map(str, every)))
    figure.update_yaxes(title={"text": "rows per second"}, rangemode="tozero", exponentformat="SI")
    return finish(figure, height=400)


def front(points: Sequence[Point], *, against: str = "throughput") -> Figure | None:
    """Latency against throughput (or "error"), with the front of what no other point beats in both.

    None with fewer than two points, or where all are the same; for errors also with fewer than two programs.
    """
    shown = [point for point in points if against == "throughput" or point.error]
    if against != "throughput" and len({point.series for point in shown}) < 2:
        return None  # one program at several batches: its errors differ by rounding
    rank = [point.throughput_per_s if against == "throughput" else -(point.error or 0.0) for point in shown]
    if len(shown) < 2 or len(set(rank)) < 2:
        return None
    pairs = [(point.p50_us / 1e3, value) for point, value in zip(shown, rank, strict=True)]
    kept, colors, figure = pareto(pairs), color_of([point.series for point in points]), go.Figure()
    figure.add_scatter(
        x=rounded([pairs[index][0] for index in kept]),
        y=rounded([abs(pairs[index][1]) for index in kept]),
        mode="lines",
        line={"dash": "dot", "width": 1.5, "color": "#8d99ae", "shape": "hv"},
        name="front",
        hoverinfo="skip",
    )
    for name, found in by_series(shown).items():
        on_front = [shown.index(point) in kept for point in found]
        values = [point.throughput_per_s if against == "throughput" else point.error or 0.0 for point in found]
        figure.add_scatter(
            x=rounded([point.p50_us / 1e3 for point in found]),
            y=rounded(values),
            mode="markers",
            marker={
                "color": colors[name],
                "size": [12 if one else 8 for one in on_front],
                "opacity": [1 if one else 0.55 for one in on_front],
            },
            name=plain(name),
            hovertext=[_front_text(point, one) for point, one in zip(found, on_front, strict=True)],
            hoverinfo="text",
        )
    figure.update_xaxes(**log_axis("milliseconds a call (p50)", [pair[0] for pair in pairs]))
    title = "rows per second" if against == "throughput" else "relative error"
    figure.update_yaxes(**log_axis(title, [abs(pair[1]) for pair in pairs]))
    return finish(figure, height=400)


def _front_text(point: Point, on_front: bool) -> str:
    lines = [plain(point.label), f"p50 {duration(point.p50_us)}", f"{number(point.throughput_per_s)} rows/s"]
    lines += [f"error {point.error:.1e}"] if point.error is not None else []
    return "<br>".join([*lines, "on the front" if on_front else "beaten by another"])
