"""Choosing ranges per tensor by what they do to the outputs of the layers that read it, and what those lose on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kopt.calibration import Feed
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.ir.graph import Graph, Value
from kopt.ir.types import DType
from kopt.passes.quantize.numbers import Affine, affine, dequantize_weight, fake, quantize_weight, weight_scales
from kopt.passes.quantize.plan import Layer, Plan, plan
from kopt.passes.quantize.smooth import smoothing
from kopt.quantization.observe import MASKED, Observer, Spread, candidates
from kopt.quantization.relevance import EVERYTHING, Relevance
from kopt.specialize import Programs, Recipe

_GAIN = 0.97
"""Another range than the whole one must bring the error below this part of it: it cuts off what other inputs may reach."""
MAX_ELEMENTS = 1 << 21
"""Of an activation, as many numbers at most are looked at when choosing."""


class LayerRunner:
    """One layer by itself, without bias: x, w -> y."""

    def __init__(self, layer: Layer) -> None:
        builder = Builder()
        x = builder.input("x", DType.F32, [f"x{k}" for k in range(layer.x.tensor.rank or 0)])
        w = builder.input("w", DType.F32, layer.w.shape)
        y = builder.emit(layer.node.op, x, w, attrs=dict(layer.node.attrs))
        self._programs = Programs(builder.graph("layer", (x, w), (y,)), Recipe.of_preset("xla"), Target.parse("cpu"))

    def __call__(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The layer's result."""
        return np.asarray(self._programs([x, w])[0])


@dataclass
class Choices:
    """What was chosen.

    Attributes:
        ranges: by value name.
        methods: the name of each range's method, by value name.
        shifts: what to add to a layer's bias per output channel, by layer name.
        snr_db: of each layer's output with its input and weights in 8 bits, by layer name.
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    shifts: dict[str, np.ndarray] = field(default_factory=dict)
    snr_db: dict[str, float] = field(default_factory=dict)


def choose(
    graph: Graph,
    found: Plan,
    spreads: Mapping[Value, Spread],
    feeds: Sequence[Feed],
    *,
    relevant: Relevance = EVERYTHING,
    codes: Mapping[str, np.ndarray] | None = None,
) -> Choices:
    """A range per value, by the summed relative errors of the layers that read it; and biases corrected for the mean error.

    Args:
        graph: in f32.
        found: its layers and the values to quantize.
        spreads: what is known of each value's numbers.
        feeds: few inputs, to run layers with.
        relevant: rows that count.
        codes: weights in i8 by layer name, where they are not rounded to the nearest.
    """
    result = Choices()
    readers: dict[Value, list[Layer]] = {}
    for layer in found.layers.values():
        readers.setdefault(found.root(layer.x), []).append(layer)
    samples = _samples(graph, [layer.x for layer in found.layers.values()], feeds, relevant)
    for root, layers in readers.items():
        held = _merged(found, root, spreads)
        trials = [_Trial(graph, layer, samples[layer.x], (codes or {}).get(layer.name)) for layer in layers if layer.x in samples]
        ranges = candidates(held) if trials else {"minmax": (held.low, held.high)}
        errors = {name: sum(trial.error(affine(*limits)) for trial in trials) for name, limits in ranges.items()}
        best = min(errors, key=errors.__getitem__)
        name = best if errors[best] < _GAIN * errors["minmax"] else "minmax"
        for value in found.groups:
            if found.root(value) is root:
                result.ranges[value.name], result.methods[value.name] = ranges[name], name
        for trial in trials:
            trial.note(affine(*ranges[name]), result)
    for value in found.groups:
        if value.name not in result.ranges:
            result.ranges[value.name] = (spreads[value].low, spreads[value].high)
    return result


class _Trial:
    """One layer on some of its inputs, with its weights in 8 bits."""

    def __init__(self, graph: Graph, layer: Layer, x: np.ndarray, codes: np.ndarray | None) -> None:
        self.layer, self.x, self.runner = layer, x, LayerRunner(layer)
        w = graph.constants[layer.w].array()
        scale = weight_scales(w, layer.axis)
        self.w = dequantize_weight(quantize_weight(w, scale, layer.axis) if codes is None else codes, scale, layer.axis)
        self.y = self.runner(x, w)
        self.size = float(np.square(self.y, dtype=np.float64).sum()) or 1.0

    def difference(self, chosen: Affine) -> np.ndarray:
        """Exact minus quantized output."""
        return np.asarray(self.y - self.runner(fake(self.x, chosen), self.w))

    def error(self, chosen: Affine) -> float:
        """Squared error, relative to the output's size."""
        return float(np.square(self.difference(chosen), dtype=np.float64).sum()) / self.size

    def note(self, chosen: Affine, result: Choices) -> None:
        """Write down what remains and what is lost on average."""
        lost = self.difference(chosen)
        noise = float(np.square(lost, dtype=np.float64).sum())
        result.snr_db[self.layer.name] = float("inf") if noise == 0 else 10 * float(np.log10(self.size / noise))
        axis = 1 if self.layer.node.op == "Conv" else lost.ndim - 1
        result.shifts[self.layer.name] = lost.mean(tuple(k for k in range(lost.ndim) if k != axis), dtype=np.float64).astype(np.float32)


def _samples(graph: Graph, values: Sequence[Value], feeds: Sequence[Feed], relevant: Relevance) -> dict[Value, np.ndarray]:
    """Some of the numbers of each value, with masks as zeros: whole samples, or of what products read the rows that count."""
    convolved = {node.inputs[0] for node in graph.nodes if node.op == "Conv"}
    held: dict[Value, list[np.ndarray]] = {}
    room = dict.fromkeys(values, MAX_ELEMENTS)
    for index, arrays in enumerate(Observer(graph, values).each(feeds)):
        for value, every in arrays.items():
            array = every if value in convolved else relevant.kept(index, value, every).reshape(-1, every.shape[-1])
            if room[value] <= 0 or not array.size:
                continue
            some = array[: max(1, room[value] * len(array) // array.size)]
            held.setdefault(value, []).append(np.where(some > MASKED, some, np.float32(0)))
            room[value] -= some.size
    joined = {value: np.concatenate(parts) if len({part.shape[1:] for part in parts}) == 1 else parts[0] for value, parts in held.items()}
    return {value: array.reshape(*[1] * ((value.tensor.rank or array.ndim) - array.ndim), *array.shape) for value, array in joined.items()}


def _merged(found: Plan, root: Value, spreads: Mapping[Value, Spread]) -> Spread:
    """What is known of all values that share a scale: the root's histogram where it covers them all, else limits alone."""
    sharing = [spreads[value] for value in found.groups if found.root(value) is root and value in spreads]
    low, high = min(one.low for one in sharing), max(one.high for one in sharing)
    widest = next((one for one in sharing if one.low == low and one.high == high), None)
    return widest or Spread(low, high)


STRENGTHS = (0.3, 0.5, 0.7)
_SMOOTHER = 0.7
"""Smoothing inside the graph must bring the error below this part of it: a product with a vector is added."""


def strengths(
    graph: Graph, peaks: Mapping[str, np.ndarray], feeds: Sequence[Feed], keep: Sequence[str] = (), relevant: Relevance = EVERYTHING
) -> dict[str, float]:
    """By how much to smooth what products inside the graph read, by value name: only where that pays."""
    readers: dict[Value, list[Layer]] = {}
    for layer in plan(graph, keep).layers.values():
        if layer.node.op != "Conv" and layer.x not in graph.inputs:
            readers.setdefault(layer.x, []).append(layer)
    samples = _samples(graph, list(readers), feeds, relevant)
    result: dict[str, float] = {}
    for value, layers in readers.items():
        peak = peaks.get(value.name)
        if value not in samples or peak is None:
            continue
        x = samples[value].reshape(-1, samples[value].shape[-1])
        matrices = [graph.constants[layer.w].array() for layer in layers]
        axes = [layer.axis for layer in layers]
        plain = _smoothed_error(x, matrices, axes, np.ones(x.shape[1], np.float32))
        errors = {one: _smoothed_error(x, matrices, axes, smoothing(peak, matrices, axes, one)) for one in STRENGTHS}
        best = min(errors, key=errors.__getitem__)
        if errors[best] < _SMOOTHER * plain:
            result[value.name] = best
    return result


def _smoothed_error(x: np.ndarray, matrices: Sequence[np.ndarray], axes: Sequence[int], factor: np.ndarray) -> float:
    """Relative squared error of products in 8 bits after dividing features by ``factor``."""
    divided, total = x / factor, 0.0
    narrow = fake(divided, affine(float(divided.min(initial=0)), float(divided.max(initial=0))))
    for w, axis in zip(matrices, axes, strict=True):
        rows = (w if axis == 1 else w.T) * factor[:, None]
        scale = weight_scales(rows, 1)
        exact = divided @ rows
        error = narrow @ dequantize_weight(quantize_weight(rows, scale, 1), scale, 1) - exact
        total += float(np.square(error, dtype=np.float64).sum()) / (float(np.square(exact, dtype=np.float64).sum()) or 1.0)
    return total
