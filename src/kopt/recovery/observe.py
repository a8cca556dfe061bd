"""Watching values inside a graph while it runs on calibration inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kopt.ir.graph import Graph, Value
from kopt.passes.base import PassContext
from kopt.passes.bind_shapes import BindShapes
from kopt.passes.pipeline import Pipeline
from kopt.passes.spec import parse_passes
from kopt.targets.lowering.walk import run_graph
from kopt.targets.reference import evaluate_node

_PREPARING = "fold-constants,cleanup,fold-batch-norm,cleanup"


def prepared(graph: Graph) -> Graph:
    """A model in the form that is pruned and recovered: constants folded, normalizations folded into convolutions."""
    return Pipeline(parse_passes(_PREPARING)).run(graph, PassContext(evaluate_node=evaluate_node))[0]


def bound(graph: Graph, feed: Mapping[str, np.ndarray]) -> Graph:
    """The graph at the shapes of some inputs; its weights keep their names."""
    shapes = {name: array.shape for name, array in feed.items()}
    return BindShapes(shapes=shapes).run(graph, PassContext(evaluate_node=evaluate_node))


def watching(graph: Graph, names: Sequence[str]) -> tuple[Graph, list[str]]:
    """The graph with more outputs: the float values of these names that its nodes make, as far as there are such."""
    made = {value.name: value for node in graph.nodes for value in node.outputs if value is not None}
    inputs = {value.name: value for value in graph.inputs}
    found = [name for name in names if name in made or name in inputs]
    return graph.replace(outputs=(*graph.outputs, *((made | inputs)[name] for name in found))), found


def grams(
    graph: Graph, feeds: Iterable[Mapping[str, np.ndarray]], wanted: Collection[tuple[Value, int]]
) -> dict[tuple[Value, int], np.ndarray]:
    """E[x x^T] over everything but one axis, (C, C) f64, of values inside a graph.

    Args:
        graph: what runs.
        feeds: inputs of each call, one after the other.
        wanted: values, each with the axis that stays.
    """
    order = sorted(wanted, key=lambda item: (item[0].name, item[1]))
    sums: dict[int, Any] = {}
    counts: dict[int, int] = {}
    programs: dict[tuple[Any, ...], Any] = {}
    with jax.enable_x64(True):
        for feed in feeds:
            key = tuple((name, array.shape) for name, array in feed.items())
            if key not in programs:
                programs[key] = _moments(graph, feed, order)
            names, call = programs[key]
            for index, (total, count) in call([feed[name] for name in names]).items():
                sums[index] = sums.get(index, 0.0) + np.asarray(total, np.float64)
                counts[index] = counts.get(index, 0) + int(count)
    return {order[index]: total / max(counts[index], 1) for index, total in sums.items()}


def _moments(graph: Graph, feed: Mapping[str, np.ndarray], order: Sequence[tuple[Value, int]]) -> Any:
    """The inputs' names, and a compiled function from inputs to sums of products and how many were summed, by position."""
    static = bound(graph, feed)
    watched, found = watching(static, list(dict.fromkeys(value.name for value, _ in order)))
    first = len(static.outputs)

    def call(inputs: list[Any]) -> dict[int, Any]:
        values = dict(zip(found, run_graph(watched, inputs)[first:], strict=True))
        result = {}
        for index, (value, axis) in enumerate(order):
            if value.name in values:
                x = values[value.name]
                rows = jnp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(np.float32)
                result[index] = (rows.T @ rows, rows.shape[0])
        return result

    return [value.name for value in static.inputs], jax.jit(call)
