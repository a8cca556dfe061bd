"""False alarms and power of the gate on this machine: real artifacts in real processes, in a protocol of at most 8 s a run.

The slowdown is real work: chains of equal layers, of which the slower artifact has one, two or six more.

Usage: python benchmarks/gate/real.py [--seconds 50] [--runs 200] [--only aa]     continues results/real.jsonl where it stopped
       python benchmarks/gate/real.py --record quiet [--seconds 40]               records a trace for traces.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import kopt
from kopt.check.judge import judge_regression
from kopt.check.measure_pairs import PairProtocol, ProcessRun, measure_process
from kopt.check.sequence import MeasuringTime
from kopt.hardware import available_cores, cpu_name
from kopt.runners import Runner

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real.jsonl"
SHORT = PairProtocol(processes=2, quads=6, block_s=0.02, min_calls=5, max_block_s=0.1, warmup_s=0.1, max_warmup_s=0.2, time_limit_s=8.0)
LAYERS = {"base": 19, "slower 5 %": 20, "slower 10 %": 21, "slower 30 %": 25, "faster 10 %": 17}
KINDS = {"aa": "base", **{name: name for name in LAYERS if name != "base"}}
"""Kind of run -> the candidate; the baseline is always the same artifact."""

ROWS, WIDTH = 64, 256


def chain(layers: int) -> onnx.ModelProto:
    """Equal layers one after the other: the time grows with their number, less the overhead of a call."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number in range(layers):
        entries = rng.normal(0, (2 / WIDTH) ** 0.5, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(entries, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Relu", [f"m{number}"], [f"r{number}"]))
        last = f"r{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in ("x", last)]
    graph = helper.make_graph(nodes, f"chain{layers}", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def artifacts(folder: Path) -> dict[str, Path]:
    """The compiled chains, made where they are missing."""
    paths = {name: folder / f"chain{layers}.kopt" for name, layers in LAYERS.items()}
    for name, path in paths.items():
        if not path.exists():
            kopt.compile(chain(LAYERS[name]), output=path, measure=False)
    return paths


def gate_run(baseline: Path, candidate: Path, number: int) -> dict[str, Any]:
    """One run of the gate, an artifact beside another (or beside itself, which ``kopt check`` would not measure)."""
    feeds = {"x": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)}

    def measure(process: int, _: bool, max_block_s: float, within_s: float) -> ProcessRun:
        return measure_process(
            baseline,
            candidate,
            feeds,
            number=process,
            threads=available_cores(),
            protocol=SHORT,
            max_block_s=max_block_s,
            seed=number,
            within_s=within_s,
        )

    start = time.monotonic()
    first, confirmation = MeasuringTime(measure, SHORT, SHORT.time_limit_s).regression(0.05, number)
    found = judge_regression(first, confirmation, 0.05, seed=number, protocol=SHORT)
    figures = {"effect": found.value, "lower": found.lower, "upper": found.upper, "p": found.p_value}
    return {
        "number": number,
        "verdict": found.verdict.value,
        **{key: None if np.isnan(value) else round(value, 5) for key, value in figures.items()},
        "pairs": found.num_pairs,
        "processes": [len(first), len(confirmation)],
        "seconds": round(time.monotonic() - start, 2),
        "note": found.note,
    }


def record(artifact: Path, name: str, seconds: float) -> None:
    """Every call of one process for a while, as a trace."""
    feeds = {"x": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)}
    calls: list[int] = []
    with Runner("kopt", artifact, feeds, threads=available_cores()) as runner:
        runner.block(1.0, 10)
        while sum(calls) < seconds * 1e9:
            calls += runner.block(1.0, 10)
    (HERE / "recordings").mkdir(exist_ok=True)
    np.savez_compressed(HERE / "recordings" / f"{name}.npz", call_ns=np.array(calls, np.uint32))


def summary(lines: list[dict[str, Any]]) -> str:
    """A line per kind of run."""
    text = []
    for kind in KINDS:
        own = [line for line in lines if line["kind"] == kind]
        if own:
            counts = dict(Counter(line["verdict"] for line in own))
            effects = [line["effect"] for line in own if line["effect"] is not None]
            slowest = max(line["seconds"] for line in own)
            text.append(f"{kind:12} {len(own):4} runs  {counts}  median effect {np.median(effects):+.1%}  slowest run {slowest:.1f} s")
    return "\n".join(text)


def main() -> None:
    """Run what is missing until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=50, help="start no run after so long; 0 only sums up")
    parser.add_argument("--runs", type=int, default=200, help="of every kind")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of run")
    parser.add_argument("--folder", type=Path, default=Path("build/gate"), help="where the artifacts are made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--record", metavar="NAME", help="record a trace instead")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    made = artifacts(options.folder) if options.seconds > 0 else {}
    if options.record:
        record(made["base"], options.record, options.seconds)
        return
    options.out.parent.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = Counter(line["kind"] for line in lines)
    wanted = [options.only] if options.only else list(KINDS)
    while time.monotonic() + SHORT.time_limit_s < end and any(done[kind] < options.runs for kind in wanted):
        kind = min(wanted, key=lambda one: done[one])
        line = {"kind": kind, "machine": cpu_name(), **gate_run(made["base"], made[KINDS[kind]], done[kind])}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        lines.append(line)
        done[kind] += 1
    print(summary(lines))
    print("everything is done" if all(done[kind] >= options.runs for kind in wanted) else "there is more to run")


if __name__ == "__main__":
    sys.exit(main())
