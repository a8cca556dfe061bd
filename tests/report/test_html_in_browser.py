"""The HTML report in a real browser: drawn without an error, in both schemes, on a screen and on a phone, without loading anything.

Screenshots stay in pytest's temporary folder (``--basetemp`` says where).
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kopt.report import html
from kopt.report.page import of_reports
from kopt.report.points import Source
from support import browser as browsers
from support.browser import browser, screenshot, until
from support.reports import bucket, report

CHARTS = ("distribution", "percentiles", "throughput", "front", "operators", "roofline", "search", "kernel_search")
DRAWN = "return document.body.dataset.drawn === 'all'"
SCREENS = {"light": (1200, False, False), "dark": (1200, True, False), "phone": (375, False, True), "dark-phone": (375, True, True)}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    content = report()
    content["buckets"] = [bucket(batch, 100.0 * cost, 90.0 * cost) for batch, cost in ((1, 1.0), (4, 1.6), (16, 6.1))]
    content["search"] = {"trials": [{"elapsed_s": 1.0 * step, "p50_us": 300.0 / step} for step in range(1, 9)]}
    workload = {"workload": "product 128x768 128x3072 f32", "calls": 12, "implementation": "Strassen", "config": {"rows": 8, "panel": 48}}
    workload |= {"p50_us": 2600.0, "default_us": 2900.0, "gflops": 205.0, "of_peak": 0.93, "trials": 24}
    progress = [{"elapsed_s": 1.0 * step, "model_us": 100.0 / step} for step in range(1, 9)]
    content["search"]["kernels"] = {"progress": progress, "workloads": [workload]}
    content["model"]["name"] = "a_model_whose_name_has_no_place_to_break_" * 4
    content["buckets"][0]["operators"][0]["operator"] = "com.example.an_operator_with_a_long_name<b>"
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.render(of_reports([Source("artifact.kopt", content)])))
    return path


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def open_page(window, page, **screen) -> None:
    """Show the page and wait until it has drawn its charts."""
    browsers.open_page(window, page, **screen)
    until(window, lambda: window.execute_script(DRAWN))


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_on_a_screen(window, page, tmp_path, screen) -> None:
    width, dark, touch = SCREENS[screen]
    open_page(window, page, width=width, dark=dark, touch=touch)
    assert window.get_log("browser") == []  # errors, warnings, and requests the page's policy refused
    for key in CHARTS:
        drawn = window.execute_script(
            "const place = document.getElementById('chart-' + arguments[0]), box = place.getBoundingClientRect();"
            "return [place.querySelectorAll('.main-svg .trace, .main-svg .bars').length, place.scrollWidth <= innerWidth, box.height]",
            key,
        )
        assert drawn[0] > 0, key
        assert drawn[1], key
        assert drawn[2] > 200, key
    assert window.execute_script("return performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:')).length") == 0
    assert window.execute_script("return document.documentElement.scrollWidth") <= width
    screenshot(window, tmp_path / f"{screen}.png", width)
    with Image.open(tmp_path / f"{screen}.png") as image:
        pixels = np.asarray(image.convert("L"), float)
    assert pixels.shape[1] == width
    background = np.median(pixels)
    assert (background < 60) if dark else (background > 200)
    assert pixels.std() > 10  # something is drawn on it


def test_the_charts_follow_when_the_scheme_changes(window, page) -> None:
    color = "return getComputedStyle(document.querySelector('#chart-throughput .xtitle')).fill"
    open_page(window, page, width=1200, dark=False)
    light = window.execute_script(color)
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    until(window, lambda: window.execute_script(color) != light)


def test_a_finger_scrolls_over_charts(window, page) -> None:
    open_page(window, page, width=375, dark=False, touch=True)
    modes = window.execute_script("return [...document.querySelectorAll('.chart')].map(one => one.layout.dragmode)")
    assert set(modes) == {False}


def test_names_are_text(window, page) -> None:
    open_page(window, page, width=1200, dark=False)
    ticks = window.execute_script("return [...document.querySelectorAll('#chart-operators .ytick text')].map(one => one.textContent)")
    assert "com.example....ong_name<b>" in ticks
