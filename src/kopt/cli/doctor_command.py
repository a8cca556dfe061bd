"""`kopt doctor`."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import typer

from kopt.cli.common import print_json, progress

if TYPE_CHECKING:
    from kopt.check.fitness import Noise

_PACKAGES = ("jax", "jaxlib", "numpy", "onnx", "apache-tvm", "safetensors", "onnxruntime", "openvino")


def run(
    json: bool = typer.Option(False, "--json", help="As JSON."),
    bench: bool = typer.Option(False, "--bench", help="Measure whether this machine can gate latencies (about 15 s)."),
) -> None:
    """Versions, processor, threads and devices of this machine, and what is missing."""
    facts = examine_bench() if bench else examine()
    if json:
        print_json(facts)
    elif bench:
        _show_bench(facts)
    else:
        for name, value in facts.items():
            typer.echo(f"{name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")


def examine_bench() -> dict[str, Any]:
    """What measuring depends on here, the noise of two equal programs, and what the gate could find, in JSON types."""
    from dataclasses import asdict

    from kopt.check import fitness
    from kopt.hardware import cpu_name

    found = fitness.conditions()
    with progress() as say:
        say("measuring two equal programs")
        noise, meanwhile = fitness.counted_noise()
    return {
        "processor": cpu_name(),
        "conditions": [asdict(one) for one in (*found, *meanwhile)],
        "noise": asdict(noise),
        "can_gate": noise.fit,
        "verdict": _bench_verdict(noise),
    }


def _bench_verdict(noise: Noise) -> str:
    seen = (
        f"slowdowns from {noise.smallest_slowdown:.1%} are found, unchanged artifacts pass from max_regression = {noise.passing_limit:.1%}"
    )
    if noise.fit:
        return f"this machine can gate: {seen}"
    return f"this machine is too noisy to gate: only {seen}; see the problems above, or use a quieter one"


def _show_bench(facts: dict[str, Any]) -> None:
    typer.echo(f"processor: {facts['processor']}")
    for one in facts["conditions"]:
        typer.echo(f"{one['name']}: {one['found']}{' - ' + one['problem'] if one['problem'] else ''}")
    typer.echo(f"noise: {facts['noise']['spread']:.1%} between pairs of equal programs, {facts['noise']['num_pairs']} pairs")
    typer.echo(facts["verdict"])


def examine() -> dict[str, Any]:
    """What this machine offers, in JSON types."""
    import os
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    from kopt import __version__
    from kopt.hardware import ISA_LEVELS, available_cores, cgroup_quota, cpu_features, cpu_name, cuda_device_present
    from kopt.targets.xla_internals import native_tier_available

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "kopt": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "processor": cpu_name(),
        "features": " ".join(sorted(cpu_features())),
        "levels": " ".join(name for name, needed in ISA_LEVELS.items() if needed <= cpu_features()) or "below x86-64-v3",
        "cores": available_cores(),
        "quota": cgroup_quota() or "none",
        "load": round(os.getloadavg()[0], 2),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB, {psutil.virtual_memory().available / 2**30:.1f} free",
        "cuda device": "present" if cuda_device_present() else "none",
        "native tier": native_tier_available() or "available",
    }
