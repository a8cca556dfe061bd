"""Kills `kopt tune` at random points, in the search of kernels and in that of programs, and counts trials that are lost.

    python benchmarks/tuning_kills.py --work DIR [--kills 50] [--budget 16s] --output results/tuning-kills.json

One database outlives all tuners. A trial counts as finished when the tuner has told of it; every one must be a row afterwards, the
database must be sound, and no process may be left. In the end one search runs to its end on what the killed ones left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from kopt.autotune.database import TrialDatabase

CHANNELS = ((16, 32), (32, 32), (32, 64))
TOLD = re.compile(r"^tuning( kernels)?: trial (\d+)")


def model(path: Path) -> None:
    """Three convolutions of 3x3 on images of 28x28."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number, (given, made) in enumerate(CHANNELS):
        kernel = rng.normal(0, 0.05, (made, given, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last = f"r{number}"
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 28, 28])]
    ends.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 64, 28, 28]))
    graph = helper.make_graph(nodes, "convs", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def tune(folder: Path, budget: str, seed: int) -> subprocess.Popen[str]:
    """A tuner of the model in a process of its own."""
    command = [sys.executable, "-m", "kopt", "tune", "convs.onnx", "--budget", budget, "--db", "t.db", "--no-measure", "--resume"]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "300", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, "--seed", str(seed)], cwd=folder, env=environment, text=True, **pipes)


def rows(path: Path) -> int:
    """Trials in the database, which must be sound."""
    if not path.exists():
        return 0
    with sqlite3.connect(path) as connection:
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
    if sound != "ok":
        raise SystemExit(f"the database is damaged: {sound}")
    with TrialDatabase(path) as database:
        return len(database.trials())


def killed(folder: Path, budget: str, seed: int, longest_s: float) -> dict[str, Any]:
    """One tuner, killed; what it told of and what is there."""
    before, moment = rows(folder / "t.db"), random.Random(seed).uniform(0.5, longest_s)
    process, start = tune(folder, budget, seed), time.monotonic()
    while process.poll() is None and time.monotonic() - start < moment:
        time.sleep(0.005)
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    told = [found for line in process.communicate()[1].splitlines() if (found := TOLD.match(line))]
    _, left = psutil.wait_procs(family, timeout=10)
    new = rows(folder / "t.db") - before
    kernels, programs = (max((int(one.group(2)) for one in told if bool(one.group(1)) is kind), default=0) for kind in (True, False))
    facts = {"seed": seed, "at_s": round(moment, 2), "ended_itself": ended, "told_kernels": kernels, "told_programs": programs}
    return {**facts, "new_rows": new, "lost": max(0, kernels + programs - new), "orphans": len(left)}


def main() -> None:
    """Kill, count, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--budget", default="12s")
    parser.add_argument("--longest", type=float, default=16.0, help="latest moment of a kill, seconds after the start")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model(options.work / "convs.onnx")
    kills = []
    for seed in range(options.kills):
        kills.append(killed(options.work, options.budget, seed, options.longest))
        print(json.dumps(kills[-1]), flush=True)
    last = tune(options.work, options.budget, options.kills)
    last.communicate()
    sums = {key: sum(one[key] for one in kills) for key in ("told_kernels", "told_programs", "new_rows", "lost", "orphans")}
    facts = {"kills": len(kills), **sums, "last_exit_code": last.returncode, "runs": kills}
    options.output.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps({key: value for key, value in facts.items() if key != "runs"}))


if __name__ == "__main__":
    main()
