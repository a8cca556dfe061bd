"""Words of the loop nests: vector loads and stores, broadcasts, activations.

Kernels are written as explicit loops over vectors rather than scheduled from a description: the register tile, the order of
the loops and what is unrolled are the kernel's own knobs. ``max`` and ``min`` take the constant first, so that NaN passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as build

Expression = Any  # tvm's nodes carry no types a checker knows
Buffer = Any

_ERF_LIMIT = 4.0
_ERF = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
_ERF_UNDER = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02)
_TANH_LIMIT = 7.90531110763549805
_TANH = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_UNDER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_EXP_LOWEST, _EXP_HIGHEST = -87.0, 88.0


def index(value: int) -> Expression:
    """An i32 constant."""
    return tirx.const(value, "int32")


@dataclass(frozen=True)
class Vectors:
    """Vectors of f32.

    Attributes:
        lanes: elements of one register: 16 with AVX-512, 8 with AVX2, 4 with NEON.
    """

    lanes: int

    def run(self, start: Expression) -> Expression:
        """Consecutive indices from ``start`` on."""
        return tirx.Ramp(start, index(1), self.lanes)

    def load(self, buffer: Buffer, *where: Expression) -> Expression:
        """Consecutive elements along the last axis."""
        return buffer[(*where[:-1], self.run(where[-1]))]

    def store(self, buffer: Buffer, value: Expression, *where: Expression) -> None:
        """Write consecutive elements along the last axis."""
        build.buffer_store(buffer, value, [*where[:-1], self.run(where[-1])])

    def broadcast(self, value: Expression) -> Expression:
        """One number in every lane."""
        return tirx.Broadcast(value, self.lanes)

    def constant(self, value: float) -> Expression:
        """The same f32 constant in every lane."""
        return self.broadcast(tirx.const(value, "float32"))

    def at_least(self, x: Expression, low: float) -> Expression:
        """The larger of both; NaN stays NaN."""
        return tirx.max(self.constant(low), x)

    def at_most(self, x: Expression, high: float) -> Expression:
        """The smaller of both; NaN stays NaN."""
        return tirx.min(self.constant(high), x)

    def _polynomial(self, x: Expression, coefficients: Sequence[float]) -> Expression:
        result = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            result = result * x + self.constant(coefficient)
        return result

    def erf(self, x: Expression) -> Expression:
        """The error function to about 2e-7. Source: the rational approximation of Eigen's ``generic_fast_erf_float``."""
        x = self.at_most(self.at_least(x, -_ERF_LIMIT), _ERF_LIMIT)
        return x * self._polynomial(x * x, _ERF) / self._polynomial(x * x, _ERF_UNDER)

    def tanh(self, x: Expression) -> Expression:
        """Hyperbolic tangent to about 2e-7. Source: the rational approximation of Eigen's ``generic_fast_tanh_float``."""
        near = self.at_most(self.at_least(x, -_TANH_LIMIT), _TANH_LIMIT)
        result = near * self._polynomial(near * near, _TANH) / self._polynomial(near * near, _TANH_UNDER)
        limit, one = self.constant(_TANH_LIMIT), self.constant(1.0)
        result = tirx.Select(x > limit, one, result)  # exactly 1, or gelu_tanh would grow with x where it is zero
        return tirx.Select(x < -limit, -one, result)

    def exp(self, x: Expression) -> Expression:
        """The exponential to about 1e-7; 0 below -87. Source: Cephes ``expf``."""
        low = self.constant(_EXP_LOWEST)
        safe = self.at_most(self.at_least(x, _EXP_LOWEST), _EXP_HIGHEST)
        power = tirx.floor(safe * self.constant(1.44269504088896341) + self.constant(0.5))
        rest = safe - power * self.constant(0.693359375) + power * self.constant(2.12194440e-4)
        value = self._polynomial(rest, _EXP) * rest * rest + rest + self.constant(1.0)
        bits = (tirx.Cast(f"int32x{self.lanes}", power) + self.broadcast(index(127))) << self.broadcast(index(23))
        return tirx.Select(x < low, self.constant(0.0), value * tirx.reinterpret(f"float32x{self.lanes}", bits))

    def gelu(self, x: Expression) -> Expression:
        """x/2 * (1 + erf(x / sqrt 2)). Source: ONNX Gelu-20."""
        return self.constant(0.5) * x * (self.constant(1.0) + self.erf(x * self.constant(0.5**0.5)))

    def gelu_tanh(self, x: Expression) -> Expression:
        """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))). Source: ONNX Gelu-20."""
        inner = self.constant(0.7978845608028654) * (x + self.constant(0.044715) * x * x * x)
        return self.constant(0.5) * x * (self.constant(1.0) + self.tanh(inner))

    def activation(self, name: str, x: Expression, low: float, high: float) -> Expression:
        """The activation of that name; "" is none, "Clip" limits to [low, high]."""
        functions: dict[str, Callable[[Expression], Expression]] = {
            "": lambda v: v,
            "Relu": lambda v: self.at_least(v, 0.0),
            "Clip": lambda v: self.at_most(self.at_least(v, low), high),
            "Gelu": self.gelu,
            "GeluTanh": self.gelu_tanh,
            "Tanh": self.tanh,
        }
        return functions[name](x)


@contextmanager
def function(
    name: str, operands: Sequence[tuple[int, ...]], result: tuple[int, ...], types: Sequence[str] = ()
) -> Iterator[tuple[list[Buffer], Buffer, Expression]]:
    """The frame of a kernel, for use inside an ``IRBuilder``: its operands, its result, and the task it is to do.

    ``types`` are the elements of the operands and of the result; f32 where it is empty.
    """
    shapes = (*operands, result)
    kinds = types or ("float32",) * len(shapes)
    with build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"tirx.noalias": True, "global_symbol": name})
        pointers = [build.arg(f"p{position}", build.handle(kind)) for position, kind in enumerate(kinds)]
        task = build.arg("task", build.int32())
        buffers = [build.decl_buffer(shape, kind, data=pointer) for shape, kind, pointer in zip(shapes, kinds, pointers, strict=True)]
        yield buffers[:-1], buffers[-1], task
