"""Fixtures shared by all tests."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from support.source import ROOT


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
