"""Inputs to calibrate with, checked against a model and read again on every pass over them."""

from __future__ import annotations

from kopt.calibration.feeds import BATCH, Calibration, Feed, calibration
from kopt.calibration.sources import Source, load_function

__all__ = ["BATCH", "Calibration", "Feed", "Source", "calibration", "load_function"]
