"""report.json: what was compiled, how, and what was measured. Schema 1; every field is documented in docs/measuring.md."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kopt.errors import UsageError
from kopt.hardware import Target, available_cores, cpu_features, cpu_name
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


def check(content: Any, where: str) -> dict[str, Any]:
    """``content`` when it has the shape of a report of this schema.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(content, dict) or not isinstance(content.get("buckets"), list):
        raise UsageError("this is no report of kopt", where=where, next_step="give an artifact, or the report.json inside one")
    if content.get("schema") != SCHEMA:
        raise UsageError(
            f"the report has schema {content.get('schema')}, this kopt reads {SCHEMA}", where=where, next_step="compile the model again"
        )
    wrong = next((problem for number, bucket in enumerate(content["buckets"]) if (problem := _wrong(bucket, number))), "")
    wrong = wrong or next((key for key in ("model", "target", "machine", "versions") if not isinstance(content.get(key), dict)), "")
    if not wrong and not _is_list_of(content.get("passes"), {"pass": str, "rewrites": dict, "skips": list}):
        wrong = "passes"
    if wrong:
        raise UsageError(f"the report is malformed: {wrong}", where=where, next_step="restore it from where it came, or compile again")
    return content


_BUCKET: dict[str, type | tuple[type, ...]] = {"batch": int, "shapes": dict, "latency": dict, "baseline": dict, "accuracy": dict}


def _wrong(bucket: Any, number: int) -> str:
    """The first malformed field of a bucket, "" where all are as ``build`` writes them."""
    where = f"buckets[{number}]"
    if not isinstance(bucket, dict) or not isinstance(bucket.get("batch"), int):
        return f"{where}.batch"
    for key, kind in _BUCKET.items():
        if key in bucket and not isinstance(bucket[key], kind):
            return f"{where}.{key}"
    for latency in (bucket.get("latency"), bucket.get("baseline", {}).get("latency")):
        if latency is not None and not (isinstance(latency, dict) and _positive(latency.get("p50_us"))):
            return f"{where}.latency.p50_us"
    if "accuracy" in bucket and not isinstance(bucket["accuracy"].get("relative"), int | float):
        return f"{where}.accuracy.relative"
    levels = (level for level in ("operator", "node") if not _is_list_of(bucket.get(f"{level}s", []), {level: str, "share": (int, float)}))
    return next((f"{where}.{level}s" for level in levels), "")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _is_list_of(content: Any, fields: Mapping[str, type | tuple[type, ...]]) -> bool:
    return isinstance(content, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in fields.items()) for entry in content
    )
