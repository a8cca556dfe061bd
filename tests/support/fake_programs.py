"""`kopt tune` with made-up programs: children that sleep instead of computing, and crash, hang or lie where told.

Usage: ``python -m support.fake_programs ARGUMENTS OF KOPT``; FAKE_SABOTAGE=1 in the environment breaks three in ten candidates.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kopt.trial import Candidate
from support.landscapes import unit

BEST = {"program": "xla", "xla": "program-order"}


def cost_s(recipe: Mapping[str, Any]) -> float:
    """What a call takes: least for one recipe, and a fixed random time for the others."""
    options = recipe["options"]
    right = "fuse-epilogue" not in recipe["passes"], "fuse-attention" not in recipe["passes"], "compiler_options" in options
    ordered = "xla_cpu_enable_concurrency_optimized_scheduler" in options.get("compiler_options", {})
    return 1e-3 + 1e-3 * (3 - sum(right)) + (0.0 if ordered else 1.5e-3) + 1e-4 * unit({"recipe": json.dumps(recipe, sort_keys=True)})


def build(payload: Mapping[str, Any]) -> Candidate:
    """The entry of fake trials."""
    recipe = payload["recipe"]
    seconds = cost_s(recipe) * sum(next(iter(shapes.values()))[0] ** 0.5 for shapes in payload["shapes"])
    draw = unit({"recipe": json.dumps(recipe, sort_keys=True)}, "sabotage")
    broken = "FAKE_SABOTAGE" in os.environ and draw < 0.3 and cost_s(recipe) > 1.2e-3
    how = ("crash", "hang", "wrong")[int(draw / 0.1)] if broken else ""
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "hang":
        time.sleep(600)
    with np.load(Path(payload["model"]).with_name("reference.npz")) as stored:
        arrays = [stored[str(k)] + (1.0 if how == "wrong" else 0.0) for k in range(len(stored.files))]
    return Candidate(lambda: time.sleep(seconds), lambda: arrays)


def install(setattr_: Any = setattr) -> None:
    """Make ``kopt.tune`` try fake programs, and give up hanging ones soon."""
    from kopt import tune
    from kopt.trial import Limits

    setattr_(tune, "_MODULE", "support.fake_programs")
    setattr_(tune, "_ENTRY", "support.fake_programs:build")
    setattr_(tune, "_TRIAL_BLOCK_S", 0.03)
    setattr_(tune, "_RACE_BLOCK_S", 0.03)
    setattr_(tune._ProgramSearch, "limits", lambda self: Limits(seconds=1.5))


if __name__ == "__main__":
    install()
    from kopt.cli.main import invoke

    sys.exit(invoke(sys.argv[1:]))
