"""A cut graph computes what the original does with zeros in every cut place of a weight that is summed over."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from kopt.frontend.export import to_model
from kopt.ir.builder import Builder
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Value
from kopt.passes.prune.cut import cut
from kopt.passes.prune.groups import Dependencies, dependencies
from support.transformer import transformer


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(to_model(graph).SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def zeroed(found: Dependencies, removed: set[int]) -> Graph:
    """The original with zeros where a node sums over a removed unit."""
    constants = dict(found.graph.constants)
    for place in {(p.value, p.axis): p for group in found.groups for p in group.places if p.consumer is not None}.values():
        array = constants[place.value].array().copy()
        np.moveaxis(array, place.axis, 0)[np.isin(place.units, list(removed))] = 0
        constants[place.value] = Constant.of(array)
    return found.graph.replace(constants=constants)


def assert_cut_like_zeros(graph: Graph, feeds: dict[str, np.ndarray], rng: np.random.Generator) -> Dependencies:
    """Cut a random part of every group and compare."""
    found = dependencies(graph)
    removed = {int(unit) for group in found.groups for unit in rng.permutation(group.units)[: rng.integers(1, len(group.units))]}
    assert removed
    smaller = cut(found, removed)
    smaller.verify()
    assert sum(c.nbytes for c in smaller.constants.values()) < sum(c.nbytes for c in graph.constants.values())
    for mine, wanted in zip(run(smaller, feeds), run(zeroed(found, removed), feeds), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=2e-4, atol=2e-4 * np.abs(wanted).max())
    return found


class Net:
    """Random graphs of convolutions."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder()
        self.image = self.b.input("image", "f32", ("N", 3, 8, 8))

    def weight(self, *shape: int) -> Value:
        return self.b.constant(self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32), "w")

    def vector(self, size: int) -> Value:
        return self.b.constant(self.rng.uniform(0.5, 1.5, size).astype(np.float32), "v")

    def conv(self, x: Value, width: int, kernel: int = 3, group: int = 1) -> Value:
        attrs = {"kernel_shape": (kernel, kernel), "pads": (kernel // 2,) * 4, "group": group}
        bias = self.vector(width) if self.rng.random() < 0.5 else None
        return self.b.emit(
            "Conv", x, self.weight(width, x.tensor.shape[1] // group, kernel, kernel), *([bias] if bias else []), attrs=attrs
        )

    def step(self, x: Value) -> Value:
        """One random layer."""
        width = int(x.tensor.shape[1])
        kind = self.rng.choice(["conv", "residual", "dense", "depthwise", "grouped", "norm", "gate", "shuffle", "split", "pool", "act"])
        if kind == "conv":
            return self.conv(x, int(self.rng.choice([4, 6, 8])))
        if kind == "residual":
            return self.b.emit("Add", x, self.conv(self.b.emit("Relu", self.conv(x, 8)), width))
        if kind == "dense":
            return self.b.emit_many("Concat", x, self.conv(x, 4), attrs={"axis": 1})[0]
        if kind == "depthwise":
            return self.conv(x, width * int(self.rng.choice([1, 2])), group=width)
        if kind == "grouped":
            return self.conv(x, width, group=2) if width % 2 == 0 else x
        if kind == "norm":
            return self.b.emit("BatchNormalization", x, *(self.vector(width) for _ in range(4)))
        if kind == "gate":
            pooled = self.conv(self.b.emit("GlobalAveragePool", x), 4, kernel=1)
            return self.b.emit("Mul", x, self.b.emit("Sigmoid", self.conv(self.b.emit("Relu", pooled), width, kernel=1)))
        if kind == "shuffle" and width % 2 == 0:
            side = x.tensor.shape[2]
            shape = [self.b.constant(np.array(s, np.int64)) for s in ([0, 2, width // 2, side, side], [0, width, side, side])]
            moved = self.b.emit("Transpose", self.b.emit("Reshape", x, shape[0]), attrs={"perm": (0, 2, 1, 3, 4)})
            return self.b.emit("Reshape", moved, shape[1])
        if kind == "split" and width % 2 == 0:
            lengths = self.b.constant(np.array([width // 2] * 2, np.int64))
            first, second = self.b.emit_many("Split", x, lengths, num_outputs=2, attrs={"axis": 1})
            return self.b.emit("Mul", first, self.b.emit("Tanh", second))
        if kind == "pool":
            return self.b.emit("AveragePool", x, attrs={"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)})
        return self.b.emit(str(self.rng.choice(["Relu", "Sigmoid", "HardSwish"])), x)

    def graph(self, depth: int) -> Graph:
        x = self.conv(self.image, 8)
        for _ in range(depth):
            x = self.step(x)
        x = self.conv(x, 6)
        flat = self.b.emit("Flatten", x)
        logits = self.b.emit("Gemm", flat, self.weight(6 * 64, 5), self.vector(5))
        return self.b.graph("net", [self.image], [logits])


@pytest.mark.parametrize("seed", range(30))
def test_random_convolutional_graphs(seed: int) -> None:
    net = Net(seed)
    graph = net.graph(depth=6)
    image = net.rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    assert_cut_like_zeros(graph, {"image": image}, net.rng)


@pytest.mark.parametrize("seed", range(4))
def test_heads_and_hidden_neurons_of_a_transformer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = assert_cut_like_zeros(transformer(rng), {"x": rng.normal(size=(3, 5, 12)).astype(np.float32)}, rng)
    assert sorted((len(group.units), group.span) for group in found.groups) == [(4, 2), (20, 1)]
