"""Where the time of a program goes, by the user's node names, from XLA's own profiler.

XLA times each fused instruction; its metadata names the node its root was lowered from. A fusion of several nodes counts for
that one. Instructions that overlap on different threads each count in full, so shares are of the summed time.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?metadata=\{[^}]*op_name=\"([^\"]*)\"", re.MULTILINE)


def node_times_ns(call: Callable[[], object], hlo_text: str, runs: int = 5) -> dict[str, float]:
    """Nanoseconds of one call by node name, most expensive first.

    Args:
        call: runs the program once and waits.
        hlo_text: the compiled module's text.
        runs: calls under the profiler, after one outside it.
    """
    names = {instruction: _node(path) for instruction, path in _INSTRUCTION.findall(hlo_text)}
    call()
    with tempfile.TemporaryDirectory(prefix="kopt-profile-") as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                call()
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        times: Counter[str] = Counter()
        for file in files:
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
                for line in plane.lines:
                    for event in line.events:
                        operation = dict(event.stats).get("hlo_op")
                        if operation is not None and not event.name.startswith("end:"):
                            times[names.get(str(operation), str(operation))] += event.duration_ns
    return {name: total / runs for name, total in times.most_common()}


def _node(path: str) -> str:
    """The node's name in ``jit(kopt)/NODE/primitive``."""
    parts = [part for part in path.split("/") if not part.startswith(("jit(", "jvp(", "transpose("))]
    return parts[0] if parts else path
