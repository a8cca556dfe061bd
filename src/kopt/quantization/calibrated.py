"""Static 8 bits: smooth, find ranges, choose among them, choose layers where a budget says so, and write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.calibration import Calibration, Feed
from kopt.ir.graph import Graph
from kopt.passes.base import PassContext, PassRecord
from kopt.passes.pipeline import Pipeline
from kopt.passes.quantize.masks import ClampMasks
from kopt.passes.quantize.numbers import weight_scales
from kopt.passes.quantize.plan import Plan, plan
from kopt.passes.quantize.rounding import compensated
from kopt.passes.quantize.smooth import SmoothFeatures
from kopt.passes.quantize.static import QuantizeStatic
from kopt.quantization.auto import Search, is_faster, search, time_ratio
from kopt.quantization.choose import Choices, choose, strengths
from kopt.quantization.metrics import judge
from kopt.quantization.observe import Observer, feature_peaks, moments, spreads
from kopt.quantization.options import Options, Progress
from kopt.quantization.relevance import Relevance, relevance
from kopt.quantization.switched import Switched
from kopt.references import bound_graph

CHOICE_ROWS = 64
"""Samples on which ranges are compared with each other."""


def static(
    graph: Graph, feeds: Calibration, options: Options, progress: Progress, context: PassContext, notes: dict[str, Any]
) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph with layers in 8 bits, and what each pass did. What was chosen is written into ``notes``."""
    progress(f"calibrating with {feeds.num_rows} samples")
    few = feeds.take(CHOICE_ROWS)
    original = graph
    graph, records = Pipeline((ClampMasks(),)).run(graph, context)
    relevant = relevance(graph, plan(graph, options.keep), feeds)
    peaks = feature_peaks(graph, feeds, options.keep, relevant)
    smooth = SmoothFeatures(peaks, strengths(graph, peaks, few, options.keep, relevant), keep=options.keep)
    smoothed, more = Pipeline((smooth,)).run(graph, context)
    if len(smoothed.nodes) > len(graph.nodes):  # there are products with factors, whose results have names of their own
        relevant = relevance(smoothed, plan(smoothed, options.keep), feeds)
    graph = smoothed
    found = plan(graph, options.keep)
    held = spreads(graph, list(found.groups), feeds, relevant=relevant)
    progress("choosing ranges")
    codes = _codes(graph, found, feeds, options, relevant)
    chosen = choose(graph, found, held, few, relevant=relevant, codes=codes)
    notes["layers"] = {name: round(snr, 2) for name, snr in chosen.snr_db.items() if np.isfinite(snr)}
    notes["ranges"] = {name: method for name, method in chosen.methods.items() if method != "minmax"}
    notes["smoothed"] = dict(smooth.strengths)
    keep = options.keep
    if options.precision == "auto" and found.layers:
        progress("choosing layers")
        keep = (*keep, *_layers(graph, feeds, few, options, chosen, notes))
    result, last = Pipeline((QuantizeStatic(chosen.ranges, keep, chosen.shifts, codes),)).run(graph, context)
    if options.precision == "auto" and options.timed:
        progress("timing")
        if not _pays(original, result, few[0], notes):
            return original, records
    return result, (*records, *more, *last)


def _codes(graph: Graph, found: Plan, feeds: Calibration, options: Options, relevant: Relevance) -> dict[str, np.ndarray]:
    """Weights of products in i8 by layer name, rounded so that their results change least."""
    sums = moments(graph, feeds, options.keep, relevant)
    result = {}
    for layer in found.layers.values():
        if layer.name in sums:
            w = graph.constants[layer.w].array()
            result[layer.name] = compensated(w, layer.axis, weight_scales(w, layer.axis), sums[layer.name])
    return result


def _layers(graph: Graph, feeds: Calibration, few: list[Feed], options: Options, chosen: Choices, notes: dict[str, Any]) -> tuple[str, ...]:
    """Names of layers that stay f32 for the budget's sake."""
    bound = bound_graph(graph, {name: array.shape for name, array in few[0].items()})
    found = plan(bound, options.keep)
    every = list(feeds)
    output = Observer(graph)(every[0])[0][0]
    judged = judge(options.metric, feeds.labels, output)
    # The graph with open dimensions takes every feed; the bound one knows how much work its layers are.
    best: Search = search(
        Switched(graph, plan(graph, options.keep), chosen.ranges), every, judged, options.max_drop, dict(_work(found.layers.values()))
    )
    notes["auto"] = {
        "metric": judged.name,
        "max_drop": options.max_drop,
        "drop": best.drop,
        "interval": best.interval,
        "kept": list(best.keep),
        "sensitivity": best.sensitivity,
        "front": best.front,
    }
    return best.keep


def _work(layers: Any) -> list[tuple[str, float]]:
    from kopt.ir.flops import node_flops

    return [(layer.name, float(node_flops(layer.node) or 2 * layer.w.type.size)) for layer in layers]


def _pays(original: Graph, result: Graph, feed: Mapping[str, np.ndarray], notes: dict[str, Any]) -> bool:
    """Whether the quantized graph is faster on this machine; the times are noted."""
    if result is original or "auto" not in notes:
        return False
    before, after, ratio = time_ratio(original, result, dict(feed))
    notes["auto"]["time"] = {"fp32_s": before, "quantized_s": after, "ratio": round(ratio, 3), "used": is_faster(ratio)}
    if not is_faster(ratio):
        notes["auto"]["reason"] = f"8 bits take {ratio:.2f} times as long as fp32 on this machine: the model stays fp32"
    return is_faster(ratio)
