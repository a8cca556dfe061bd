"""``kopt.prune``: a model in, a smaller one or one with zeros out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kopt.calibration import Source, calibration
from kopt.errors import UsageError
from kopt.ir.flops import graph_flops
from kopt.ir.graph import Graph, Value
from kopt.passes.prune.cut import cut
from kopt.passes.prune.groups import Dependencies, Place, dependencies
from kopt.passes.prune.masks import block_masks, block_pattern, magnitude_masks, masked, prunable
from kopt.passes.prune.rebuild import compensate
from kopt.passes.prune.record import recorded
from kopt.passes.prune.score import consumed_axis, consumed_input, kept_count, reconstruction_scores, selected, weight_scores
from kopt.pruning.latency import least_pruning
from kopt.recovery.observe import grams, prepared

Progress = Callable[[str], None]
LEAST_SAMPLES = 16
MOST_INPUTS = 8192
"""Consumers that sum over more keep their weights: the Gram matrix would not fit into memory."""
SIZE_ONLY = "zeros make a compressed file smaller; no runtime here is faster for them"


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes:
        graph: the model.
        report: what went: the method, parameters before and after, groups, and latencies where they were measured.
    """

    graph: Graph
    report: Mapping[str, Any] = field(repr=False)


def prune(
    model: Any,
    output: str | Path | None = None,
    *,
    ratio: float | None = None,
    latency: float | None = None,
    method: str = "structured",
    calib: Source | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Prune a model.

    Args:
        model: what ``kopt.compile`` takes.
        output: an .onnx file to write.
        ratio: share of channels, or of weights, that goes; half by default.
        latency: instead of a ratio, the wanted latency as a share of the original's, measured here; structured pruning only.
        method: "structured" cuts channels, heads and neurons; "unstructured" and "N:M" such as "2:4" write zeros.
        calib: inputs to choose by, and to rebuild the weights that remain of cut channels from: anything ``kopt.calibration`` reads.
        progress: is told what happens.

    Raises:
        UsageError: contradicting options, or nothing that can be pruned.
        KoptError: whatever is wrong with the model or the inputs.
    """
    from kopt.frontend.export import save
    from kopt.frontend.load import load

    say = progress or (lambda _: None)
    _check(ratio, latency, method)
    graph = prepared(load(model) if not isinstance(model, Graph) else model)
    share = 0.5 if ratio is None else ratio
    if method == "structured":
        result = _structured(graph, share, latency, calib, say)
    else:
        result = _masked(graph, share, method, calib, explicit=ratio is not None)
    if output is not None:
        save(result.graph, output)
    return result


def _check(ratio: float | None, latency: float | None, method: str) -> None:
    if ratio is not None and latency is not None:
        raise UsageError("a ratio and a latency are two targets", next_step="give one of --ratio and --latency")
    if ratio is not None and not 0 < ratio < 1:
        raise UsageError(f"a ratio of {ratio:g} is no share of channels", next_step="give a number between 0 and 1, such as 0.5")
    if latency is not None and not 0 < latency < 1:
        raise UsageError(f"a latency of {latency:g} of the original's is no target", next_step="write for instance --latency 0.6x")
    if method not in ("structured", "unstructured"):
        if ":" not in method:
            raise UsageError(f"unknown method '{method}'", next_step="choose structured, unstructured, or a pattern such as 2:4")
        block_pattern(method)
    if latency is not None and method != "structured":
        raise UsageError("zeros in weights do not change the latency", next_step="use --method structured, or --ratio")


def _masked(graph: Graph, ratio: float, method: str, calib: Source | None, *, explicit: bool) -> Pruned:
    pattern = "" if method == "unstructured" else method
    if pattern and explicit:
        raise UsageError(f"the pattern {pattern} says itself how many weights stay", next_step="leave out --ratio")
    energies = _energies(graph, calibration(calib, graph, least=LEAST_SAMPLES)) if calib is not None else {}
    masks = block_masks(graph, *block_pattern(pattern), energies) if pattern else magnitude_masks(graph, ratio, energies)
    if not masks:
        raise UsageError("the model has no such weights of products or convolutions", where=graph.name, next_step="nothing can be pruned")
    result = masked(graph, masks)
    zeros = sum(int((result.constants[value].array() == 0).sum()) for value in masks)
    sizes = {**_sizes(graph, result), "calibrated": bool(energies)}
    return Pruned(result, {**sizes, "method": method, "zeros": zeros, "size_only": True, "note": SIZE_ONLY})


def _energies(graph: Graph, feeds: Any) -> dict[Value, np.ndarray]:
    """E[x^2] of what each weight is multiplied with, along its summed axis."""
    places = [Place(value, axis, np.zeros(value.shape[axis], np.int64), node) for value, axis, node in prunable(graph)]
    return {place.value: np.diag(gram) for place, gram in _observed(graph, places, feeds).items()}


def _sizes(before: Graph, after: Graph) -> dict[str, Any]:
    """Parameters of both graphs, and operations where shapes are known."""
    counted = [sum(c.type.size for c in graph.constants.values() if c.type.dtype.is_float) for graph in (before, after)]
    return {"parameters": counted, "flops": [graph_flops(before), graph_flops(after)]}


def _structured(graph: Graph, ratio: float, latency: float | None, calib: Source | None, say: Progress) -> Pruned:
    found = dependencies(graph)
    if not found.groups:
        raise UsageError(
            "no channels of this model can be cut: each is an input, an output, or read by something that needs all of them",
            where=graph.name,
            next_step="use --method unstructured for a smaller file",
        )
    moments: Mapping[Place, np.ndarray] = {}
    if calib is not None:
        feeds = calibration(calib, graph, least=LEAST_SAMPLES)
        say(f"{len(found.groups)} groups of channels; {feeds.num_rows} samples")
        moments = _moments(found, feeds)
    scores = {index: _scores(graph, found, index, moments) for index in range(len(found.groups))}

    def candidate(share: float) -> Graph:
        removed = selected(found, scores, share)
        smaller = cut(found, removed)
        smaller = compensate(smaller, found, removed, moments) if moments else smaller
        return recorded(smaller, found, removed)

    report: dict[str, Any] = {"method": "structured", "size_only": False}
    if latency is None:
        result = candidate(ratio)
    else:
        fast = least_pruning(graph, candidate, latency, say)
        result, ratio = fast.graph, fast.share
        interval = {"ratio": fast.ratio.value, "ratio_lower": fast.ratio.lower, "ratio_upper": fast.ratio.upper}
        report["latency"] = {**interval, "wanted": latency, "before_us": fast.before_us, "tried": [list(one) for one in fast.tried]}
    report |= {"ratio": ratio, "groups": _widths(found, ratio), **_sizes(graph, result), "calibrated": bool(moments)}
    return Pruned(result, report)


def _scores(graph: Graph, found: Dependencies, index: int, moments: Mapping[Place, np.ndarray]) -> np.ndarray:
    group = found.groups[index]
    if any(place in moments for place in group.places):
        return reconstruction_scores(graph, group, moments)
    return weight_scores(graph, group)


def _moments(found: Dependencies, feeds: Any) -> dict[Place, np.ndarray]:
    """E[x x^T] of what every consumer sums over, by place."""
    return _observed(found.graph, [place for group in found.groups for place in group.places], feeds)


def _observed(graph: Graph, places: Sequence[Place], feeds: Any) -> dict[Place, np.ndarray]:
    small = [place for place in places if len(place.units) <= MOST_INPUTS]
    wanted = {place: (source, consumed_axis(place)) for place in small if (source := consumed_input(place)) is not None}
    held = grams(graph, feeds, set(wanted.values()))
    return {place: held[key] for place, key in wanted.items() if key in held}


def _widths(found: Dependencies, ratio: float) -> list[dict[str, Any]]:
    """Every group's node, kind, and units before and after."""
    return [
        {"node": group.name, "span": group.span, "before": len(group.units), "after": kept_count(len(group.units), ratio, group.span)}
        for group in found.groups
    ]
