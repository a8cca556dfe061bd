"""report.json: what was compiled, how, and what was measured. Schema 1; every field is documented in docs/measuring.md."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kopt.hardware import Target, available_cores, cpu_features, cpu_name
from kopt.ir.fingerprint import fingerprint, structure_fingerprint
from kopt.ir.graph import Graph
from kopt.ir.types import TensorType
from kopt.passes.base import PassRecord

SCHEMA = 1
_PACKAGES = ("kopt", "jax", "jaxlib", "numpy", "onnx", "onnxruntime")


def build(
    graph: Graph, target: Target, precision: str, records: Sequence[PassRecord], buckets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report before anything is measured."""
    return {
        "schema": SCHEMA,
        "model": {
            "name": graph.name,
            "opset": graph.metadata.get("onnx.opset", ""),
            "num_nodes": len(graph.nodes),
            "num_parameters": sum(constant.type.size for constant in graph.constants.values()),
            "weights_bytes": sum(constant.nbytes for constant in graph.constants.values()),
            "inputs": {value.name: str(value.type) for value in graph.inputs},
            "outputs": {value.name: str(value.type) for value in graph.outputs if isinstance(value.type, TensorType)},
        },
        "target": {"device": target.device, "arch": target.arch, "isa": target.isa, "present": target.present},
        "precision": precision,
        "machine": machine(),
        "versions": versions(),
        "passes": [_pass(record) for record in records],
        "host_nodes": [],
        "buckets": [dict(bucket) for bucket in buckets],
    }


def digests(graph: Graph) -> dict[str, str]:
    """What tells models apart, of the graph as it was read: ``digest`` with the values of weights, ``structure`` without."""
    return {"digest": fingerprint(graph), "structure": structure_fingerprint(graph)}


def machine() -> dict[str, Any]:
    """This machine, in JSON types."""
    return {
        "cpu": cpu_name(),
        "arch": platform.machine(),
        "cores": available_cores(),
        "features": sorted(cpu_features()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fingerprint": Target.parse("cpu").fingerprint,
    }


def versions() -> dict[str, str]:
    """Of kopt and the installed packages that matter."""
    return {name: found for name in _PACKAGES if (found := _version(name))}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _pass(record: PassRecord) -> dict[str, Any]:
    return {
        "pass": record.spec,
        "seconds": round(record.seconds, 4),
        "nodes": [record.num_nodes_before, record.num_nodes_after],
        "rewrites": dict(record.rewrites),
        "skips": [{"rule": rule, "nodes": list(nodes), "reason": reason} for rule, nodes, reason in record.skips[:20]],
    }


def add_rates(bucket: dict[str, Any], peak_gflops: float) -> None:
    """Throughput, and the rate reached as a share of the measured peak."""
    seconds = bucket["latency"]["p50_us"] / 1e6
    bucket["throughput_per_s"] = max(1, bucket["batch"]) / seconds
    bucket["gflops"] = bucket["flops"] / seconds / 1e9
    bucket["peak_share"] = bucket["gflops"] / peak_gflops
