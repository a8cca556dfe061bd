"""False alarms and power of the gate on this machine: real artifacts in real processes, in a protocol of at most 8 s a run.

The slowdown is real work: chains of equal layers, of which the slower artifact has one, two or six more.

Usage: python benchmarks/gate/real.py [--seconds 50] [--runs 200] [--only aa]     continues results/real.jsonl where it stopped
       python benchmarks/gate/real.py --record quiet [--seconds 40]               records a trace for traces.py
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import kopt
from kopt.check.judge import judge_regression
from kopt.check.measure_pairs import Pair, PairProtocol, ProcessRun, measure_process
from kopt.check.sequence import MeasuringTime
from kopt.check.steady import State
from kopt.hardware import cpu_name
from kopt.runners import Runner

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real.jsonl"
SHORT = PairProtocol(processes=2, quads=10, block_s=0.005, min_calls=5, max_block_s=0.1, warmup_s=0.05, max_warmup_s=0.2, time_limit_s=8.0)
THREADS = 1
LAYERS = {"base": 19, "slower 5 %": 20, "slower 10 %": 21, "slower 30 %": 25, "faster 10 %": 17}
KINDS = {"aa": "base", **{name: name for name in LAYERS if name != "base"}}
"""Kind of run -> the candidate; the baseline is always the same artifact."""

FEW = ("slower 30 %", "faster 10 %")
"""Kinds that need a tenth of the runs: nothing comes near a limit."""

ROWS, WIDTH = 16, 256


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
    """The compiled chains, made where they are missing: loops, whose processes start in a third of the time that JAX needs."""
    paths = {name: folder / f"loops{layers}.kopt" for name, layers in LAYERS.items()}
    for name, path in paths.items():
        if not path.exists():
            kopt.compile(chain(LAYERS[name]), output=path, backend="tvm", measure=False)
    return paths


def gate_run(baseline: Path, candidate: Path, number: int) -> dict[str, Any]:
    """One run of the gate, an artifact beside another (or beside itself, which ``kopt check`` would not measure)."""
    feeds = {"x": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)}

    def measure(process: int, _: bool, max_block_s: float, within_s: float) -> ProcessRun:
        run = measure_process(
            baseline,
            candidate,
            feeds,
            number=process,
            threads=THREADS,
            protocol=SHORT,
            max_block_s=max_block_s,
            seed=number,
            within_s=within_s,
        )
        return rounded(run)

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
        "samples": pack([*first, *confirmation]),
    }


def rounded(run: ProcessRun) -> ProcessRun:
    """A run in tenths of microseconds, as it is stored and judged."""

    def tenths(block: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(min(round(sample / 100), 65535) * 100 for sample in block)

    pairs = (replace(pair, baseline_ns=tenths(pair.baseline_ns), candidate_ns=tenths(pair.candidate_ns)) for pair in run.pairs)
    return replace(run, pairs=tuple(pairs))


def pack(runs: list[ProcessRun]) -> dict[str, Any]:
    """Runs as JSON: facts of every process and pair, and all calls as compressed 16-bit tenths of microseconds in base64."""
    blocks = [block for run in runs for pair in run.pairs for block in (pair.baseline_ns, pair.candidate_ns)]
    calls = np.array([sample // 100 for block in blocks for sample in block], "<u2")
    return {
        "processes": [[len(run.pairs), run.baseline_first, run.baseline_warm_up, run.candidate_warm_up] for run in runs],
        "lengths": [len(block) for block in blocks],
        "disturbed": [number for number, pair in enumerate(pair for run in runs for pair in run.pairs) if pair.disturbed],
        "calls": base64.b64encode(zlib.compress(calls.tobytes(), 9)).decode(),
    }


def unpack(stored: dict[str, Any]) -> list[ProcessRun]:
    """What ``pack`` stored."""
    calls = np.frombuffer(zlib.decompress(base64.b64decode(stored["calls"])), "<u2").astype(int) * 100
    blocks = [tuple(one.tolist()) for one in np.split(calls, np.cumsum(stored["lengths"])[:-1])]
    pairs = [Pair(*blocks[2 * k : 2 * k + 2], throttled=int(k in stored["disturbed"])) for k in range(len(blocks) // 2)]
    runs = []
    for count, baseline_first, baseline_warm_up, candidate_warm_up in stored["processes"]:
        runs.append(ProcessRun(tuple(pairs[:count]), 0.0, 0, baseline_first, State(candidate_warm_up), State(baseline_warm_up)))
        pairs = pairs[count:]
    return runs


def judged_again(line: dict[str, Any]) -> str:
    """The verdict that the stored samples of a run give now."""
    runs, number = unpack(line["samples"]), line["number"]
    first, confirmation = runs[: line["processes"][0]], runs[line["processes"][0] :]
    return judge_regression(first, confirmation, 0.05, seed=number, protocol=SHORT).verdict.value


def record(artifact: Path, name: str, seconds: float) -> None:
    """Every call of one process for a while, as a trace."""
    feeds = {"x": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)}
    calls: list[int] = []
    with Runner("kopt", artifact, feeds, threads=THREADS) as runner:
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
    parser.add_argument("--runs", type=int, default=200, help="of every kind, a tenth of what is far from every limit")
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
    wanted = {kind: options.runs // (10 if kind in FEW else 1) for kind in KINDS if options.only in (None, kind)}
    while time.monotonic() + SHORT.time_limit_s < end and any(done[kind] < runs for kind, runs in wanted.items()):
        kind = min(wanted, key=lambda one: done[one] / wanted[one])
        line = {"kind": kind, "machine": cpu_name(), **gate_run(made["base"], made[KINDS[kind]], done[kind])}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        lines.append(line)
        done[kind] += 1
    print(summary(lines))
    changed = sum(judged_again(line) != line["verdict"] for line in lines)
    print(f"judged again from their samples, {changed} of {len(lines)} verdicts are others")
    print("everything is done" if all(done[kind] >= runs for kind, runs in wanted.items()) else "there is more to run")


if __name__ == "__main__":
    sys.exit(main())
