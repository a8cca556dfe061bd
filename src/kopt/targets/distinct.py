"""Distinct elements of an array in numpy: on the host, and while compiling where the array is known."""

from __future__ import annotations

import numpy as np


def distinct(x: np.ndarray, axis: int | None, *, in_order: bool) -> tuple[np.ndarray, ...]:
    """The four results of ONNX Unique-11; without ``in_order`` values stay in the order of their first occurrence."""
    codes = np.unique(x, return_inverse=True)[1].reshape(x.shape) if x.dtype == object else x  # numpy compares no rows of strings
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not in_order:
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        first, counts, inverse = first[order], counts[order], place[inverse]
    values = np.take(x.ravel(), first) if axis is None else np.take(x, first, axis=int(axis))
    return values, *(part.astype(np.int64) for part in (first, inverse, counts))
