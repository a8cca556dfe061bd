"""What compiled outputs are compared with.

ONNX Runtime where it is installed and can run the model, onnx.reference for small models, else kopt itself untransformed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kopt.errors import KoptError, ToolchainError, UnsupportedModelError
from kopt.hardware import Target, available_cores
from kopt.ir.flops import graph_flops
from kopt.ir.graph import Graph
from kopt.ir.types import TensorType
from kopt.ir.wrappers import leaves, on_host, same_form
from kopt.passes.base import PassContext
from kopt.passes.bind_shapes import BindShapes
from kopt.runners import Runner, available
from kopt.specialize import Recipe, specialize
from kopt.targets.base import backend

SMALL_FLOPS = 10**9
"""Models up to this size are run by onnx.reference, whose convolutions are Python loops."""


@dataclass(frozen=True)
class Reference:
    """Outputs and whose they are."""

    name: str
    outputs: list[np.ndarray]


def bound_graph(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph at concrete shapes, otherwise untransformed."""
    from kopt.targets.reference import evaluate_node

    return BindShapes(shapes={name: tuple(shape) for name, shape in shapes.items()}).run(graph, PassContext(evaluate_node=evaluate_node))


def reference_outputs(graph: Graph, shapes: Mapping[str, Sequence[int]], feeds: Mapping[str, np.ndarray]) -> Reference:
    """Outputs of the untransformed graph, by the most independent means at hand.

    Raises:
        ToolchainError: none of them can run the model.
    """
    bound = bound_graph(graph, shapes)
    if any(not isinstance(value.type, TensorType) for value in (*bound.inputs, *bound.outputs)):
        return _of_any_type(bound, feeds)
    if available("onnxruntime"):
        try:
            return _onnxruntime(bound, feeds)
        except (ToolchainError, UnsupportedModelError):
            pass  # it lacks an operator; the next one may not
    small = graph_flops(bound) <= SMALL_FLOPS
    for name in ("reference", "xla") if small else ("xla",):
        try:
            chosen, target = backend(name), Target.parse("cpu")
            executable = chosen.compile(chosen.lower(bound, target))
            outputs = [np.asarray(array) for array in executable([feeds[value.name] for value in bound.inputs])]
        except KoptError as error:
            last = error
            continue
        return Reference("onnx.reference" if name == "reference" else "kopt without passes", outputs)
    raise ToolchainError(f"nothing can run the model for comparison: {last.what}", where=graph.name)


def _of_any_type(bound: Graph, feeds: Mapping[str, Any]) -> Reference:
    """Outputs where sequences, optionals or maps go in or out, which the runtime's process does not take."""
    shapes = {value.name: value.shape for value in bound.inputs if isinstance(value.type, TensorType)}
    for recipe, name in ((Recipe("reference"), "onnx.reference"), (Recipe(), "kopt without passes")):
        try:
            executable = specialize(bound, recipe, Target.parse("cpu"), shapes=shapes).compile()
            return Reference(name, [on_host(item) for item in executable([feeds[value.name] for value in bound.inputs])])
        except KoptError as error:
            last = error
    raise ToolchainError(f"nothing can run the model for comparison: {last.what}", where=bound.name)


def _onnxruntime(bound: Graph, feeds: Mapping[str, np.ndarray]) -> Reference:
    from kopt.frontend.export import save

    with tempfile.TemporaryDirectory(prefix="kopt-reference-") as folder:
        path = Path(folder, "model.onnx")
        save(bound, path, external=True)
        with Runner("onnxruntime", path, feeds, threads=available_cores()) as runner:
            return Reference(f"ONNX Runtime {runner.started.version}", runner.outputs())


def compare(names: Sequence[str], outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, Any]:
    """The worst output's errors: absolute, mean, and relative to the largest expected magnitude; NaNs must agree."""
    worst: dict[str, Any] = {"worst": names[0] if names else "", "max_abs": 0.0, "mean_abs": 0.0, "relative": 0.0}
    for name, ours, theirs in _pairs(names, outputs, expected):
        if ours.dtype == object or ours.shape != theirs.shape:
            relative = 0.0 if ours.shape == theirs.shape and bool(np.all(ours == theirs)) else float("inf")
            found = {"worst": name, "max_abs": relative, "mean_abs": relative, "relative": relative}
        else:
            found = {"worst": name, **_errors(ours, theirs)}
        if not found["relative"] <= worst["relative"]:
            worst = found
    return worst


def _pairs(names: Sequence[str], outputs: Sequence[Any], expected: Sequence[Any]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Arrays to be compared: of sequences and maps their members, and where these differ in number something that differs."""
    for name, ours, theirs in zip(names, outputs, expected, strict=True):
        if same_form(ours, theirs):
            yield from ((name, one, other) for one, other in zip(leaves(ours), leaves(theirs), strict=True))
        else:
            yield name, np.zeros(0), np.zeros(1)


def _errors(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    if not ours.size:
        return {"max_abs": 0.0, "mean_abs": 0.0, "relative": 0.0}
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return {"max_abs": float("inf"), "mean_abs": float("inf"), "relative": float("inf")}
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    peak = float(difference.max())
    return {"max_abs": peak, "mean_abs": float(difference.mean()), "relative": peak / scale if scale else peak}
