"""The report as one HTML file that needs nothing else: the charting library and all numbers are inside it.

Equal reports give equal bytes. What was not measured is said to be so in its place.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

from kopt import __version__
from kopt.errors import MissingDependencyError
from kopt.report.page import Page, cards, kernel_rows, latency_rows, race_rows, search_lines


def require() -> None:
    """Refuse, before anything is measured, what could not be drawn afterwards.

    Raises:
        MissingDependencyError: plotly or Jinja2 is not installed.
    """
    missing = [name for name in ("plotly", "jinja2") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"{' and '.join(missing)} must be installed for HTML", next_step="pip install 'kopt[report]'")


def render(page: Page) -> str:
    """The page as HTML.

    Raises:
        MissingDependencyError: plotly or Jinja2 is not installed.
    """
    require()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("kopt.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = charts_of(page)
    drawn = {key: chart for key, chart in charts.items() if chart is not None}
    return environment.get_template("report.html.j2").render(
        page=page,
        version=__version__,
        cards=cards(page),
        latency_rows=latency_rows(page),
        search_lines=search_lines(page.search),
        race=race_rows(page.search),
        kernels=kernel_rows(page.search),
        charts=charts,
        charts_json=_script_json(drawn),
        plotly_js=get_plotlyjs(),
    )


def charts_of(page: Page) -> dict[str, dict[str, Any] | None]:
    """Every chart by its place on the page, None where what it shows was not measured."""
    from kopt.report import charts, work_charts

    return {
        "distribution": charts.distribution(page.points),
        "percentiles": charts.percentiles(page.points),
        "throughput": charts.throughput([*page.points, *page.searched]),
        "front": charts.front([*page.points, *page.searched]),
        "accuracy_front": charts.front(page.points, against="error"),
        "operators": work_charts.operators(page.buckets),
        "roofline": work_charts.roofline(page.buckets, page.machine),
        "search": work_charts.search(page.search),
        "kernel_search": work_charts.kernel_search(page.search),
    }


def _script_json(content: Any) -> str:
    """JSON that cannot end the script it stands in."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
