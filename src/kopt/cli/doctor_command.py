"""`kopt doctor`."""

from __future__ import annotations

import platform
from typing import Any

import typer

from kopt.cli.common import print_json

_PACKAGES = ("jax", "jaxlib", "numpy", "onnx", "onnx-ir", "safetensors", "onnxruntime", "openvino")


def run(json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """Versions, processor, threads and devices of this machine, and what is missing."""
    facts = examine()
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")


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
