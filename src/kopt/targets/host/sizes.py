"""Operators whose output shape depends on values."""

from __future__ import annotations

import numpy as np

from kopt.targets.host.registry import HostContext, host


@host("NonZero")
def non_zero(ctx: HostContext, x: np.ndarray) -> np.ndarray:
    """Indices of the elements that are not zero, (rank, count); a scalar counts as one row of no indices."""
    del ctx
    if not x.ndim:
        return np.zeros((0, int(bool(x.item()))), np.int64)
    return np.asarray(np.nonzero(x), np.int64).reshape(x.ndim, -1)


@host("Compress")
def compress(ctx: HostContext, x: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """The slices along ``axis`` (of the flattened input without one) where the condition holds; a short condition ends there."""
    axis = ctx.attr("axis")
    flat, at = (x.ravel(), 0) if axis is None else (x, int(axis))
    size = flat.shape[at]
    picked = np.flatnonzero(condition.ravel()[:size])
    return np.take(flat, picked, axis=at)


@host("Unique")
def unique(ctx: HostContext, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distinct elements or slices, where each occurs first, which one each element is, and how often each occurs."""
    axis = ctx.attr("axis")
    codes = np.unique(x, return_inverse=True)[1].reshape(x.shape) if x.dtype == object else x  # numpy compares no rows of strings
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not ctx.attr("sorted"):
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        first, counts, inverse = first[order], counts[order], place[inverse]
    values = np.take(x.ravel(), first) if axis is None else np.take(x, first, axis=int(axis))
    return values, *(part.astype(np.int64) for part in (first, inverse, counts))
