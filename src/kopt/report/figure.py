"""What all charts share: plotly's figures in JSON types, colours, axes, and texts that are not read as tags."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kopt.report.text import number

COLORS = ("#3b82f6", "#e8833a", "#21a179", "#b072e0", "#e0567f", "#8d99ae", "#c9a227", "#2fb5c7")
"""Readable on white and on near-black."""

Figure = dict[str, Any]


def finish(figure: go.Figure, height: int = 380, **layout: Any) -> Figure:
    """The figure as JSON types, without the template that the page's colours would fight."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"namelength": -1},
        **layout,
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    content = json.loads(figure.to_json())
    content["layout"].pop("template", None)
    return {"data": content["data"], "layout": content["layout"]}


def plain(name: str) -> str:
    """A user's name inside a chart, where plotly reads tags."""
    return html.escape(name, quote=False)


def short(name: str, most: int = 26) -> str:
    """A user's name for an axis: the middle of a long one is left out."""
    kept = name if len(name) <= most else f"{name[: most // 2 - 1]}...{name[-(most // 2 - 2) :]}"
    return plain(kept)


def color_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for every name, in order."""
    return {name: COLORS[index % len(COLORS)] for index, name in enumerate(dict.fromkeys(names))}


def faint(color: str) -> str:
    """A colour of ``COLORS`` at a third of its strength, for areas."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.33)"


def rounded(values: Any) -> list[float]:
    """Five significant digits: more would only lengthen the file."""
    return [float(f"{value:.5g}") for value in np.asarray(values, float)]


def log_axis(title: str, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """A logarithmic axis over the values, with ticks at 1, 2 and 5 where they span less than three decades."""
    low, high = min(values), max(values)
    mantissas = (1, 2, 5) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
    return {"type": "log", "title": {"text": title}, "tickvals": ticks, "ticktext": [number(tick) for tick in ticks], **more}
