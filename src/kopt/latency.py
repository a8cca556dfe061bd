"""Latency of an artifact beside ONNX Runtime, in child processes, and this machine's measured peak."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kopt.errors import ToolchainError
from kopt.ir.flops import node_flops
from kopt.ir.graph import Graph, Node
from kopt.ir.types import TensorType
from kopt.measure import Measurement, Protocol, block_ratio
from kopt.references import bound_graph
from kopt.runners import Runner, alternate, available


def measure_bucket(
    artifact: Path,
    graph: Graph,
    shapes: Mapping[str, Sequence[int]],
    feeds: Mapping[str, np.ndarray],
    folder: Path,
    *,
    threads: int,
    baseline: bool,
    protocol: Protocol,
) -> dict[str, Any]:
    """Latency, start-up and memory of the artifact at one shape, and its ratio to ONNX Runtime where that can run the model."""
    from kopt.frontend.export import save

    with ExitStack() as stack:
        ours = stack.enter_context(Runner("kopt", artifact, feeds, threads=threads))
        runners, missing = [ours], "" if baseline else "not asked for"
        if baseline and not available("onnxruntime"):
            missing = "onnxruntime is not installed"
        elif baseline:
            path = folder / "baseline.onnx"
            save(bound_graph(graph, shapes), path, external=True)
            try:
                runners.append(stack.enter_context(Runner("onnxruntime", path, feeds, threads=threads)))
            except ToolchainError as error:
                missing = error.what
        measured = alternate(runners, protocol)
        facts: dict[str, Any] = {
            "latency": latency(measured[0]),
            "import_s": ours.started.import_s,
            "load_s": ours.started.load_s,
            "first_s": ours.started.first_s,
            "peak_bytes": ours.peak_bytes(),
            "baseline": {"name": "onnxruntime", "missing": missing},
            **time_shares(bound_graph(graph, shapes), ours.node_times_ns()),
        }
        if len(runners) > 1:
            ratio = block_ratio(measured[0], measured[1])
            facts["baseline"] = {
                "name": "onnxruntime",
                "version": runners[1].started.version,
                "latency": latency(measured[1]),
                "ratio": ratio.value,
                "ratio_lower": ratio.lower,
                "ratio_upper": ratio.upper,
                "num_pairs": ratio.num_pairs,
            }
    return facts


def time_shares(graph: Graph, node_times_ns: Mapping[str, float], most: int = 100) -> dict[str, Any]:
    """Shares of the summed time by operator and by node; time that belongs to no node of the model is "other".

    Args:
        graph: the model at concrete shapes, from which operations and bytes of a node are taken.
        node_times_ns: by the node's name as the profiler spells it.
        most: nodes listed.
    """
    nodes = {node.name.replace("/", ".").strip("."): node for _, node in graph.walk()}
    total = sum(node_times_ns.values()) or 1.0
    by_operator: defaultdict[str, float] = defaultdict(float)
    for name, time in node_times_ns.items():
        by_operator[nodes[name].qualified_op if name in nodes else "other"] += time / total
    listed = [
        {"node": name, "share": time / total, **(_work(nodes[name]) if name in nodes else {})}
        for name, time in list(node_times_ns.items())[:most]
    ]
    return {
        "operators": [{"operator": name, "share": share} for name, share in sorted(by_operator.items(), key=lambda item: -item[1])],
        "nodes": listed,
    }


def _work(node: Node) -> dict[str, Any]:
    """Operator, operations, and bytes of inputs and outputs: the least that has to be moved. Unknown numbers are left out."""
    types = [value.type for value in dict.fromkeys((*node.inputs, *node.outputs)) if value is not None]
    work: dict[str, Any] = {"operator": node.qualified_op}
    if all(isinstance(one, TensorType) and one.is_static for one in types):
        work["flops"] = node_flops(node)
        work["bytes"] = sum(-(-one.size * one.dtype.num_bits // 8) for one in types if isinstance(one, TensorType))
    return work


def latency(measurement: Measurement) -> dict[str, Any]:
    """Quantiles in microseconds with the number of samples; p99 is None where it cannot be estimated."""
    quantiles = {f"p{round(q * 100)}_us": measurement.quantile_us(q) for q in (0.5, 0.9, 0.99)}
    return {**quantiles, "num_samples": measurement.num_samples, "samples_ns": [list(block) for block in measurement.blocks_ns]}


def measured_peaks(threads: int) -> dict[str, float]:
    """The best rates XLA reaches here, seen and not theoretical: ``peak_gflops`` and ``peak_gbytes_per_s``.

    An f32 product of 1024 x 1024 x 1024, and the maximum of 128 MiB, are timed for half a second each in a child process.

    Raises:
        ToolchainError: the child failed or hung.
    """
    import subprocess
    import sys

    from kopt.runners import child_environment

    try:
        done = subprocess.run(
            [sys.executable, "-m", "kopt.targets.xla_peak"],
            env=child_environment(threads),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError("the peak measurement did not end within two minutes", next_step="see `kopt doctor`") from None
    if done.returncode != 0:
        raise ToolchainError(f"the peak measurement exited with {done.returncode}", next_step="see `kopt doctor`")
    found = json.loads(done.stdout)
    return {"peak_gflops": found["gflops"], "peak_gbytes_per_s": found["gbytes_per_s"]}
