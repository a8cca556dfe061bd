"""Whole suites run only when asked for."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m`` leave out what is marked as nightly."""
    if config.option.markexpr:
        return
    held = [item for item in items if item.get_closest_marker("nightly")]
    if held:
        config.hook.pytest_deselected(items=held)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
