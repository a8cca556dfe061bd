"""Products and convolutions on 8-bit integers: random nodes, and what they mean in exact numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from math import prod

import numpy as np

from kopt.ir.builder import Builder
from kopt.ir.graph import Value
from kopt.ir.int8_types import INT8_INPUTS
from kopt.targets.kernels.kernel import Epilogue
from support.kernels import finished

KOPT = "com.kopt"
WINDOW = {"group": 1, "pads": (0, 0, 0, 0), "strides": (1, 1), "dilations": (1, 1)}


@dataclass(frozen=True)
class Case:
    """One node.

    Attributes:
        x: shape of x.
        w: shape of w: two axes make a product, more a convolution.
        kind: element type of x.
        y: element type of the result.
        residual: element type of the residual, "" for none.
        activation: of the node, and its limits.
        bias: whether there is one.
        window: attributes of a convolution.
        exact: scales are powers of two, so that float arithmetic rounds nothing before the end.
        zero: whether zero points are absent (None), or their values for x, residual and y.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    kind: str = "u8"
    y: str = "f32"
    residual: str = ""
    activation: str = ""
    limits: tuple[float, float] = (0.0, 6.0)
    bias: bool = True
    window: dict[str, object] = field(default_factory=dict)
    exact: bool = False
    zero: tuple[int, int, int] | None = (3, 7, 11)

    @property
    def settings(self) -> dict[str, object]:
        return {**WINDOW, "kernel_shape": self.w[2:], **self.window}


def _integers(rng, kind, shape):
    bounds = np.iinfo(np.uint8 if kind == "u8" else np.int8)
    array = rng.integers(bounds.min, bounds.max, shape, endpoint=True).astype(bounds.dtype)
    if array.size > 1:
        array.flat[0], array.flat[-1] = bounds.min, bounds.max
    return array


def result_shape(case: Case) -> tuple[int, ...]:
    """Shape of the node's result."""
    if len(case.w) == 2:
        return (*case.x[:-1], case.w[1])
    pads, sizes = case.settings["pads"], []
    for k, (size, reach) in enumerate(zip(case.x[1:-1], case.w[2:], strict=True)):
        span = case.settings["dilations"][k] * (reach - 1) + 1
        sizes.append((size + pads[k] + pads[k + len(case.w) - 2] - span) // case.settings["strides"][k] + 1)
    return (case.x[0], *sizes, case.w[0])


def drawn(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random operands by name; about one in ten results saturates."""
    columns = case.w[1] if len(case.w) == 2 else case.w[0]
    depth = case.w[0] if len(case.w) == 2 else prod(case.w[1:])
    shape, size = result_shape(case), 2.0**-10 if case.exact else 0.7 / (70 * 74 * np.sqrt(depth))
    given = {"x": _integers(rng, case.kind, case.x), "w": _integers(rng, "i8", case.w), "x_scale": np.float32(size)}
    steps = np.float32(2.0) ** rng.integers(-2, 2, columns) if case.exact else rng.uniform(0.5, 2, columns)
    given["w_scale"] = steps.astype(np.float32)
    dtype = {"u8": np.uint8, "i8": np.int8}
    zeros = case.zero or (0, 0, 0)
    if case.zero:
        given["x_zero_point"] = np.asarray(zeros[0], dtype[case.kind])
    if case.bias:
        noise = rng.standard_normal(columns)
        given["bias"] = (np.round(noise * 8) / 8 if case.exact else noise).astype(np.float32)
    if case.residual == "f32":
        noise = rng.standard_normal(shape)
        given["residual"] = (np.round(noise * 8) / 8 if case.exact else noise).astype(np.float32)
    elif case.residual:
        given |= {"residual": _integers(rng, case.residual, shape), "residual_scale": np.float32(1 / 64 if case.exact else 0.0137)}
        given["residual_zero_point"] = np.asarray(zeros[1], dtype[case.residual])
    if case.y != "f32":
        given["y_scale"] = np.float32((2.0 ** np.round(np.log2(size * 2000 * np.sqrt(depth)))) if case.exact else 0.0217)
        if case.zero or case.y == "i8":
            given["y_zero_point"] = np.asarray(zeros[2], dtype[case.y])
    return given


def node(b: Builder, case: Case, given: dict[str, np.ndarray]) -> tuple[Value, list[Value], list[np.ndarray]]:
    """(the result, graph inputs, their arrays): x and the residual are inputs, everything else is constant."""
    values, inputs, arrays = [], [], []
    for name in INT8_INPUTS:
        if name not in given:
            values.append(None)
        elif name in ("x", "residual"):
            values.append(
                b.input(
                    f"{name}{len(b.nodes)}",
                    str(given[name].dtype).replace("uint", "u").replace("int", "i").replace("float", "f"),
                    given[name].shape,
                )
            )
            inputs.append(values[-1])
            arrays.append(given[name])
        else:
            values.append(b.constant(given[name]))
    attrs = {"activation": case.activation} | ({"activation_params": case.limits} if case.activation == "Clip" else {})
    product_ = len(case.w) == 2
    attrs |= {} if product_ else case.settings
    return b.emit("Int8Product" if product_ else "Int8ConvNhwc", *values, domain=KOPT, attrs=attrs), inputs, arrays


def sums(case: Case, given: dict[str, np.ndarray]) -> np.ndarray:
    """The exact sums."""
    x = given["x"].astype(np.int64) - int(given.get("x_zero_point", 0))
    w = given["w"].astype(np.int64)
    if len(case.w) == 2:
        return x @ w
    settings, shape, count = case.settings, result_shape(case), len(case.w) - 2
    pads = settings["pads"]
    x = np.pad(x, [(0, 0), *((pads[k], pads[k + count]) for k in range(count)), (0, 0)])
    groups, total = settings["group"], np.zeros(shape, np.int64)
    inner, outer = case.w[1], case.w[0] // groups
    for place in product(*(range(size) for size in case.w[2:])):
        cut = tuple(
            slice(p * d, p * d + (size - 1) * s + 1, s)
            for p, d, s, size in zip(place, settings["dilations"], settings["strides"], shape[1:-1], strict=True)
        )
        tap = x[(slice(None), *cut)]
        for g in range(groups):
            total[..., g * outer : (g + 1) * outer] += (
                tap[..., g * inner : (g + 1) * inner] @ w[(slice(g * outer, (g + 1) * outer), slice(None), *place)].T
            )
    return total


def real(case: Case, given: dict[str, np.ndarray]) -> np.ndarray:
    """The result before it is rounded to 8 bits, in f64."""
    y = sums(case, given) * (np.float32(given["x_scale"]) * given["w_scale"]).astype(np.float64)
    rest = [given["bias"]] if case.bias else []
    if case.residual == "f32":
        rest.append(given["residual"])
    elif case.residual:
        wide = given["residual"].astype(np.float64) - int(given["residual_zero_point"])
        rest.append(wide * given["residual_scale"].astype(np.float64))
    return finished(Epilogue(case.bias, bool(case.residual), case.activation, *case.limits), y, *rest)


def check(case: Case, given: dict[str, np.ndarray], got: np.ndarray) -> None:
    """Floats to a few units in the last place; integers exactly, unless float rounding can decide a tie."""
    v = real(case, given)
    if case.y == "f32":
        size = np.abs(sums(case, given) * given["w_scale"].astype(np.float64) * float(given["x_scale"])) + 4
        assert got.dtype == np.float32
        assert (np.abs(got - v) <= 4e-7 * size + 1e-6 * bool(case.activation)).all(), f"{case}: off by {np.abs(got - v).max()}"
        return
    bounds = np.iinfo(np.uint8 if case.y == "u8" else np.int8)
    scaled = v / float(given["y_scale"]) + int(given.get("y_zero_point", 0))
    expected = np.clip(np.round(v / float(given["y_scale"])) + int(given.get("y_zero_point", 0)), bounds.min, bounds.max)
    off = got.astype(np.int64) - expected.astype(np.int64)
    assert got.dtype == bounds.dtype
    if case.exact and case.activation in ("", "Relu", "Clip"):
        assert not off.any(), f"{case}: {np.count_nonzero(off)} of {off.size} are off"
    near = np.abs(np.abs(scaled - np.floor(scaled)) - 0.5) < 1e-4 + 1e-6 * np.abs(scaled)
    assert (np.abs(off) <= near).all(), f"{case}: off by {np.abs(off).max()}"
