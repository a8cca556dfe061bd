"""Weights as the kernels read them; numpy and JAX arrays alike, so that every backend packs the same way."""

from __future__ import annotations

from functools import reduce
from typing import Any

from kopt.targets.kernels.conv import Conv, Depthwise
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.strassen import STEPS, Quarters, Strassen
from kopt.targets.kernels.winograd import POSITIONS, TILE, Winograd

_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))


def packed_matrix(kernel: Product | Strassen, w: Any) -> Any:
    """The weights of a product.  w: f32 (K, N)."""
    if isinstance(kernel, Product):
        return pack(w, kernel.tiling.panel)
    halves = (slice(0, kernel.k // 2), slice(kernel.k // 2, None)), (slice(0, kernel.n // 2), slice(kernel.n // 2, None))

    def combined(quarters: Quarters) -> Any:
        (row, column, _), *rest = quarters
        first = w[halves[0][row], halves[1][column]]
        return reduce(lambda total, one: total + one[2] * w[halves[0][one[0]], halves[1][one[1]]], rest, first)

    return _library(w).stack([pack(combined(quarters), kernel.tiling.panel) for _, quarters, _ in STEPS])


def packed_filters(kernel: Conv | Winograd | Depthwise, weight: Any) -> Any:
    """The weights of a convolution.  weight: f32 (M, C / group, kh, kw)."""
    if isinstance(kernel, Winograd):
        return transformed(weight, kernel.tiling.panel)
    if isinstance(kernel, Depthwise):
        return weight.reshape(weight.shape[0], -1).T
    return pack(weight.transpose(2, 3, 1, 0).reshape(kernel.depth, kernel.outputs), kernel.tiling.panel)


def pack(w: Any, panel: int) -> Any:
    """(K, N) ==> (panels, K, panel); the last panel ends with the matrix and overlaps the one before."""
    depth, columns = w.shape
    whole = columns // panel
    packed = w[:, : whole * panel].reshape(depth, whole, panel).transpose(1, 0, 2)
    return packed if columns % panel == 0 else _library(w).concat([packed, w[None, :, columns - panel :]])


def unpack(packed: Any, columns: int) -> Any:
    """The inverse of ``pack``."""
    panels, depth, panel = packed.shape
    whole = columns // panel
    w = packed[:whole].transpose(1, 0, 2).reshape(depth, whole * panel)
    return w if columns % panel == 0 else _library(packed).concat([w, packed[panels - 1, :, whole * panel - columns :]], axis=1)


def transformed(weight: Any, panel: int) -> Any:
    """(M, C, 3, 3) ==> G g G^T as (16, panels, C, panel)."""
    library = _library(weight)
    g = library.asarray(_G, dtype=weight.dtype)
    rows = library.tensordot(g, weight, axes=((1,), (2,)))  # (4, M, C, 3)
    both = library.tensordot(rows, g, axes=((3,), (1,)))  # (4, M, C, 4)
    edge = TILE + 2
    positions = both.transpose(0, 3, 2, 1).reshape(edge * edge, weight.shape[1], weight.shape[0])
    return library.stack([pack(positions[k], panel) for k in range(POSITIONS)])


def _library(array: Any) -> Any:
    """The module, numpy or jax.numpy, that the array belongs to."""
    return array.__array_namespace__()
