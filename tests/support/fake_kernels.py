"""Trials of kernels with made-up costs; with FAKE_SABOTAGE in the environment three in ten crash, hang, use up memory or lie."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.targets.kernels import alone
from kopt.targets.kernels.build import revived
from kopt.trial import Candidate
from support.landscapes import unit


def cost_us(kernel: Mapping[str, Any]) -> float:
    """Large register tiles are fast, and the rest is a fixed random part."""
    tiling = kernel["tiling"]
    first = next(tiling[name] for name in ("rows", "pixels", "tiles") if name in tiling)
    return 300.0 + 4000.0 / (first * tiling["panel"]) + 50.0 * unit({"tiling": json.dumps(tiling, sort_keys=True)})


def build(payload: Mapping[str, Any]) -> Candidate:
    """The entry of fake trials."""
    fields = json.loads(payload["kernel"])
    draw = unit({"tiling": json.dumps(fields["tiling"], sort_keys=True)}, "sabotage")
    fast = cost_us(fields) < 325.0  # the best ones work
    how = ("crash", "hang", "memory", "wrong")[int(draw / 0.075)] if "FAKE_SABOTAGE" in os.environ and draw < 0.3 and not fast else ""
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "hang":
        time.sleep(600)
    elif how == "memory":
        raise MemoryError("made up")
    kernel = revived(payload["kind"], fields)
    result = alone.reference(kernel) + np.float32(how == "wrong")
    return Candidate(lambda: time.sleep(cost_us(fields) / 1e6), lambda: [result])
