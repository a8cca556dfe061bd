"""A headless browser for tests of pages: Chromium with its driver, as Debian and Ubuntu package them."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A fresh browser with its profile in ``folder``; skips the test with the reason where there is none."""
    program = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def open_page(found: Any, page: Path, *, width: int, dark: bool, touch: bool = False) -> None:
    """Show a file as a screen of that width does, in the light or dark scheme."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": touch}
    found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    found.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})
    found.get(page.resolve().as_uri())


def screenshot(found: Any, path: Path, width: int) -> None:
    """The whole page as a PNG."""
    height = found.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = found.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(taken["data"]))


def until(found: Any, condition: Callable[[], bool], limit_s: float = 30) -> None:
    """Wait for what the page does by itself, such as answering an event."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(found, limit_s, poll_frequency=0.05).until(lambda _: condition())
