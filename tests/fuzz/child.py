"""A process that loads, compiles and runs models one after the other, and says how each went.

Reads ``<length> <whether to run>`` lines, each followed by the bytes of a model; answers every model with one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import traceback
import warnings
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from kopt.errors import KoptError, UnsupportedModelError
from kopt.frontend.load import load
from kopt.ir.graph import Graph
from kopt.ir.types import DType, TensorType
from kopt.onnx_backend import Prepared
from kopt.passes.base import PassContext
from kopt.passes.pipeline import Pipeline, preset
from kopt.targets.reference import evaluate_node

ADDRESS_BYTES = 12 * 2**30
"""More than any model needs, so that one gone wild cannot take the machine with it."""

MAX_INPUT_ELEMENTS = 100_000


def attempt(content: bytes, run: bool) -> str:
    """How a model went: "ran", "loaded", "too large to feed", or "refused".

    Raises:
        Exception: whatever is not an error of kopt's with its three parts; the defect.
    """
    try:
        graph, _ = Pipeline(preset("import")).run(load(content), PassContext(evaluate_node=evaluate_node))
        if not run:
            return "loaded"
        inputs = inputs_of(graph)
        if inputs is None:
            return "too large to feed"
        from kopt.hardware import Target

        Prepared(graph, Target.parse("cpu")).run(inputs)
    except KoptError as error:
        if type(error).exit_code == 70:
            raise  # a defect of kopt
        missing = [part for part in ("what", "where", "next_step") if not str(getattr(error, part)).strip()]
        if isinstance(error, UnsupportedModelError) and all(str(location) for _, location in error.nodes):
            missing = [part for part in missing if part != "where"]  # it names a place per node
        if missing:
            raise ValueError(f"an error lacks its {missing}: {error}") from error
        return "refused"
    return "ran"


def inputs_of(graph: Graph) -> dict[str, Any] | None:
    """Small arrays for every input; None where they would be large or are no tensors."""
    rng, found = np.random.default_rng(0), {}
    for value in graph.inputs:
        type_ = value.type
        if not isinstance(type_, TensorType):
            return None
        shape = tuple(dim if isinstance(dim, int) else 2 for dim in type_.shape or ())
        if prod(shape) > MAX_INPUT_ELEMENTS:
            return None
        if type_.dtype is DType.STRING:
            found[value.name] = np.full(shape, "text", object)
        elif type_.dtype.is_integer:
            found[value.name] = rng.choice(np.asarray([0, 1, 2, 3, 7]), shape).astype(type_.dtype.numpy)
        else:
            found[value.name] = rng.standard_normal(shape).astype(type_.dtype.numpy)
    return found


def peak_bytes() -> int:
    """The most memory that was resident since the last call."""
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    warnings.simplefilter("ignore")  # numpy's, about numbers at the limits
    peak_bytes()
    while line := sys.stdin.buffer.readline():
        length, run = map(int, line.split())
        content = sys.stdin.buffer.read(length)
        try:
            outcome, detail = attempt(content, bool(run)), ""
        except BaseException as error:  # anything is what the parent wants to know
            outcome, detail = "defect", "".join(traceback.format_exception(error)[-14:])
        sys.stdout.write(json.dumps({"outcome": outcome, "detail": detail, "peak_bytes": peak_bytes()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
