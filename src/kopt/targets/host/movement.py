"""Operators that only move elements, for strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from kopt.passes.host_rules import evaluate_small
from kopt.targets.host.registry import HostContext, host


@host("Concat", "Expand", "Gather", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where")
def moved(ctx: HostContext, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """What the rules for small constants make of arrays of any element type."""
    results = evaluate_small(ctx.node, inputs)
    if results is None:
        raise ValueError("an axis, index or size is out of range")
    return results


@host("Identity")
def identity(ctx: HostContext, x: Any) -> Any:
    """The value itself: a tensor, a sequence or an optional."""
    del ctx
    return x


@host("Flatten")
def flatten(ctx: HostContext, x: np.ndarray) -> np.ndarray:
    """A matrix: the dimensions before ``axis``, and the others."""
    at = int(ctx.attr("axis")) % x.ndim if int(ctx.attr("axis")) < 0 else int(ctx.attr("axis"))
    return x.reshape(int(np.prod(x.shape[:at], dtype=np.int64)), -1) if x.size else x.reshape(int(np.prod(x.shape[:at])), 0)


@host("Tile")
def tile(ctx: HostContext, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """The tensor repeated along each axis."""
    del ctx
    return np.tile(x, repeats.tolist())


@host("GatherElements")
def gather_elements(ctx: HostContext, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """One element for each index along ``axis``."""
    return np.asarray(x[_along(x, indices, int(ctx.attr("axis")))])


@host("GatherND")
def gather_nd(ctx: HostContext, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Elements or slices at index tuples, after ``batch_dims`` common dimensions."""
    batch = int(ctx.attr("batch_dims"))
    sizes = indices.shape[:batch]
    places = [np.arange(size).reshape(-1, *[1] * (indices.ndim - 2 - k)) for k, size in enumerate(sizes)]
    return np.asarray(x[(*places, *np.moveaxis(indices, -1, 0))])


@host("ScatterElements")
def scatter_elements(ctx: HostContext, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """A copy with one element for each index along ``axis`` replaced."""
    result = x.copy()
    result[_along(x, indices, int(ctx.attr("axis")))] = updates
    return result


@host("ScatterND")
def scatter_nd(ctx: HostContext, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """A copy with elements or slices at index tuples replaced."""
    del ctx
    result = x.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


def _along(x: np.ndarray, indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """Full indices of elements that are given along one axis."""
    places: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    return tuple(places)
