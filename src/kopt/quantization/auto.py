"""Which layers to quantize within a budget of accuracy: sensitivities, a greedy search with true evaluations, and its front."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kopt.calibration import Feed
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.quantization.metrics import Judge
from kopt.quantization.switched import Switched
from kopt.specialize import Programs, Recipe

_CALLS = 9
_FASTER = 0.97
"""A quantized program must take less than this part of the original's time to count as faster."""


@dataclass
class Search:
    """What a search found.

    Attributes:
        keep: names of layers that stay f32.
        front: choices of growing speed, each within the budget or not: layers in 8 bits, share of operations, drop, and its interval.
        sensitivity: noise that each layer alone adds to the outputs, relative to their size, by name.
        drop: of the choice.
        interval: half of its 95 % interval.
    """

    keep: tuple[str, ...] = ()
    front: list[dict[str, Any]] = field(default_factory=list)
    sensitivity: dict[str, float] = field(default_factory=dict)
    drop: float = 0.0
    interval: float = 0.0


def search(switched: Switched, feeds: Sequence[Feed], judge: Judge, max_drop: float, operations: Mapping[str, float]) -> Search:
    """Quantize layers in the order of noise per operation saved, and leave out those with which the budget does not hold.

    Args:
        switched: the graph with a switch per layer.
        feeds: to judge with; all of them at once.
        judge: what counts.
        max_drop: the budget.
        operations: of each layer, by name.
    """
    layers = switched.layers
    exact = _outputs(switched, feeds, [False] * len(layers))
    size = sum(float(np.square(one, dtype=np.float64).sum()) for one in exact) or 1.0
    result = Search()
    noise: list[float] = []
    for k, layer in enumerate(layers):
        found = _outputs(switched, feeds, [index == k for index in range(len(layers))])
        noise.append(sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(exact, found, strict=True)) / size)
        result.sensitivity[layer.name] = noise[-1]
    work = [operations[layer.name] for layer in layers]
    chosen = [False] * len(layers)
    for k in sorted(range(len(layers)), key=lambda k: noise[k] / work[k]):
        trial = [one or index == k for index, one in enumerate(chosen)]
        found = _outputs(switched, feeds, trial)
        drop, interval = judge.drop(exact, found), judge.interval(exact, found)
        within = drop <= max_drop
        share = sum(one for one, is_in in zip(work, trial, strict=True) if is_in) / sum(work)
        result.front.append(
            {
                "added": layers[k].name,
                "layers": sum(trial),
                "operations": round(share, 4),
                "drop": drop,
                "interval": interval,
                "within": within,
            }
        )
        if within:
            chosen, result.drop, result.interval = trial, drop, interval
    result.keep = tuple(layer.name for layer, one in zip(layers, chosen, strict=True) if not one)
    return result


def _outputs(switched: Switched, feeds: Sequence[Feed], chosen: Sequence[bool]) -> list[np.ndarray]:
    """Outputs over all feeds, rows joined."""
    each = [switched(feed, chosen) for feed in feeds]
    joined = [np.concatenate(parts) if parts[0].ndim else np.stack(parts) for parts in zip(*each, strict=True)]
    return [one for one in joined if one.dtype.kind == "f"] or joined


def time_ratio(original: Graph, changed: Graph, feed: Feed) -> tuple[float, float, float]:
    """Seconds per call of both programs as compiled for this machine, least of several in turn, and their ratio."""
    recipe, target = Recipe.of_preset("xla-kernels", options={"kernels": True}), Target.parse("cpu")
    programs = [Programs(graph, recipe, target) for graph in (original, changed)]
    inputs = [feed[value.name] for value in original.inputs]
    least = [float("inf"), float("inf")]
    for index in range(_CALLS + 2):
        for side, program in enumerate(programs):
            start = time.perf_counter()
            for array in program(inputs):
                np.asarray(array)
            if index >= 2:  # the first calls compile and touch memory for the first time
                least[side] = min(least[side], time.perf_counter() - start)
    return least[0], least[1], least[1] / least[0]


def is_faster(ratio: float) -> bool:
    """Whether a ratio of times is worth the change of numbers."""
    return ratio < _FASTER
