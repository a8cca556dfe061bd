"""What a result must say about where it was measured, and the files results are kept in."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from runtimes import PACKAGES, installed, versions

HERE = Path(__file__).parent
RESULTS = HERE / "results"
_TELLING = re.compile(r"^(avx\w*|amx\w*|fma|f16c|vnni|sve\w*|asimd\w*|bf16|i8mm)$")


def describe() -> dict[str, Any]:
    """Processor, features, cores, memory, system, versions and time."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    fields = dict(re.findall(r"^(model name|cpu family|model|stepping|flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE))
    flags = fields.get("flags", fields.get("Features", "")).split()
    found = {}
    for runtime in PACKAGES:
        if installed(runtime):
            found.update(versions(runtime))
    return {
        "cpu": fields.get("model name", platform.processor()),
        "family_model_stepping": [fields.get(key, "") for key in ("cpu family", "model", "stepping")],
        "features": sorted(flag for flag in flags if _TELLING.match(flag)),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": found,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],
    }


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def options(description: str) -> argparse.ArgumentParser:
    """The options all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--work", type=Path, help="where models and artifacts are kept between runs (default: a temporary directory)")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of every runtime")
    parser.add_argument("--output", type=Path, help="the JSON file (default: a dated one in benchmarks/results)")
    return parser


def write(name: str, settings: argparse.Namespace, machine: dict[str, Any], results: Any) -> Path:
    """Write a result file; returns its path."""
    path: Path = settings.output or RESULTS / f"{name}-{machine['date'][:10]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = {key: value for key, value in vars(settings).items() if key not in ("output", "work")}
    document = {"schema": 1, "benchmark": name, "machine": machine, "settings": shown, "results": results}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
