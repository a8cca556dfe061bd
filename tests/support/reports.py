"""Made-up reports: known latencies, peers, operators and nodes."""

from __future__ import annotations

from typing import Any

import numpy as np


def latency(p50_us: float, seed: int = 0) -> dict[str, Any]:
    """Ten blocks of 99 calls around a median: too few for p99."""
    rng = np.random.default_rng(seed)
    blocks = [[int(x) for x in 1e3 * p50_us * rng.lognormal(0, 0.01, 99)] for _ in range(10)]
    quantiles = {f"p{round(100 * q)}_us": float(np.quantile(blocks, q)) / 1e3 for q in (0.5, 0.9)}
    return {**quantiles, "p99_us": None, "num_samples": 990, "samples_ns": blocks}


def bucket(batch: int = 8, p50_us: float = 1000.0, peer_us: float = 900.0) -> dict[str, Any]:
    """A measured bucket with its peer."""
    operators = [{"operator": "Conv", "share": 0.8}, {"operator": "Relu", "share": 0.2}]
    nodes: list[dict[str, Any]] = [
        {"node": "conv1", "share": 0.5, "operator": "Conv", "flops": 1_200_000, "bytes": 40_000},
        {"node": "conv2", "share": 0.3, "operator": "Conv", "flops": 799_000, "bytes": 60_000},
        {"node": "relu", "share": 0.2, "operator": "Relu", "flops": 1000, "bytes": 8000},
    ]
    return {
        "batch": batch,
        "shapes": {"x": [batch, 3]},
        "flops": 2_000_000,
        "num_nodes": 3,
        "latency": latency(p50_us),
        "baseline": {"name": "onnxruntime", "version": "1.32.0", "latency": latency(peer_us, seed=2)},
        "operators": operators,
        "nodes": nodes,
        "accuracy": {
            "reference": "ONNX Runtime 1.32.0",
            "worst": "y",
            "relative": 1e-7,
            "max_abs": 1e-6,
            "mean_abs": 1e-7,
            "tolerance": 1e-4,
        },
        "peak_bytes": 10**8,
    }


def report(**bucket_facts: Any) -> dict[str, Any]:
    """A report of one bucket."""
    return {
        "schema": 1,
        "model": {"name": "m", "num_nodes": 3, "num_parameters": 3, "weights_bytes": 12},
        "precision": "fp32",
        "target": {"device": "cpu", "isa": "native", "present": True},
        "machine": {"cpu": "A", "cores": 2, "threads": 2, "fingerprint": "f", "peak_gflops": 100.0, "peak_gbytes_per_s": 20.0},
        "versions": {"kopt": "0.1.0", "jaxlib": "0.10.2"},
        "passes": [
            {"pass": "fold", "rewrites": {}, "skips": []},
            {"pass": "fuse{most=2}", "rewrites": {"gelu": 3}, "skips": []},
            {"pass": "fold", "rewrites": {"constant": 1}, "skips": []},
        ],
        "host_nodes": [],
        "buckets": [bucket(**bucket_facts)],
    }
