"""Fixtures shared by all tests; what takes minutes runs only when asked for."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from support.source import ROOT


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m`` leave out what is marked as nightly."""
    if config.option.markexpr:
        return
    held = [item for item in items if item.get_closest_marker("nightly")]
    if held:
        config.hook.pytest_deselected(items=held)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers seeded by the test's own name: the same in every run, whatever runs before it."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def digits_model() -> Path:
    """The trained digit classifier shipped with the repository."""
    return ROOT / "examples" / "digits" / "digits.onnx"


@pytest.fixture(scope="session")
def digits_heldout() -> tuple[np.ndarray, np.ndarray]:
    """Held-out images, float32 (450, 1, 8, 8), and their labels, int64 (450,)."""
    with np.load(ROOT / "examples" / "digits" / "heldout.npz") as arrays:
        return arrays["image"], arrays["label"]
