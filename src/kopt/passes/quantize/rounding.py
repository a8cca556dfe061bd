"""Rounding weights to 8 bits or to 4 in groups: to the nearest, or so that the layer's output changes least."""

from __future__ import annotations

import numpy as np

_DAMPING = 0.01
"""Added to the diagonal of the moments, relative to its mean: directions that calibration hardly saw stay tame."""
_LOW, _HIGH = -8, 7
_BLOCK = 64
"""Rows that are rounded before those behind them are changed."""


def spread_scales(scale: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """A scale as it applies to each element: of all, along ``axis``, or per block along it."""
    if scale.size == 1:
        return scale.reshape(())
    axis %= len(shape)
    if block:
        return np.asarray(np.repeat(scale, block, axis)[(slice(None),) * axis + (slice(shape[axis]),)])
    return np.asarray(scale.reshape([-1 if k == axis else 1 for k in range(len(shape))])) if scale.ndim == 1 else scale


def grouped(w: np.ndarray, axis: int, group: int, moments: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes from -8 to 7 of w's shape, and f32 scales per group along ``axis``.

    Args:
        w: a matrix.
        axis: along which inputs lie.
        group: inputs that share a scale; the last group may be smaller.
        moments: x^T x of the inputs, or None to round to the nearest.
    """
    rows = np.asarray(w if axis == 0 else w.T, np.float64)  # inputs first
    scales = _scales(rows, group, None if moments is None else np.diag(moments))
    codes = _nearest(rows, scales, group) if moments is None else _compensated(rows, scales, group, moments, (_LOW, _HIGH))
    codes, scales = codes.astype(np.int8), scales.astype(np.float32)
    return (codes, scales) if axis == 0 else (np.ascontiguousarray(codes.T), np.ascontiguousarray(scales.T))


def _scales(rows: np.ndarray, group: int, importance: np.ndarray | None) -> np.ndarray:
    """One scale per group and column: of those that use the whole range the one of least error, weighed by importance."""
    found = []
    for start in range(0, len(rows), group):
        part = rows[start : start + group]
        weight = np.ones((len(part), 1)) if importance is None else importance[start : start + group, None] + 1e-12
        peak = part[np.abs(part).argmax(0), np.arange(part.shape[1])]
        best, least = np.ones(part.shape[1]), np.full(part.shape[1], np.inf)
        for reach in np.linspace(-8.0, -6.0, 5).tolist() + np.linspace(7.0, 8.5, 4).tolist():
            scale = peak / reach  # may be negative: the range is one longer below zero
            scale = np.where(np.abs(scale) > 1e-30, scale, 1.0)
            error = (weight * (np.clip(np.round(part / scale), _LOW, _HIGH) * scale - part) ** 2).sum(0)
            best, least = np.where(error < least, scale, best), np.minimum(error, least)
        found.append(best)
    return np.stack(found)


def _nearest(rows: np.ndarray, scales: np.ndarray, group: int) -> np.ndarray:
    wide = np.repeat(scales, group, 0)[: len(rows)]
    return np.asarray(np.clip(np.round(rows / wide), _LOW, _HIGH))


def _compensated(rows: np.ndarray, scales: np.ndarray, group: int, moments: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Row by row: round, and change the rows that follow so that the output stays. Source: GPTQ, arXiv 2210.17323.

    Rows are changed at once within a block, and behind it by one product per block.
    """
    held = moments.astype(np.float64)
    damped = held + np.eye(len(held)) * (_DAMPING * max(float(np.diag(held).mean()), 1e-12))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, codes, errors = rows.copy(), np.zeros_like(rows), np.zeros_like(rows)
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        for k in range(start, end):
            scale = scales[k // group]
            codes[k] = np.clip(np.round(left[k] / scale), *limits)
            errors[k] = (left[k] - codes[k] * scale) / upper[k, k]
            left[k + 1 : end] -= np.outer(upper[k, k + 1 : end], errors[k])
        left[end:] -= upper[start:end, end:].T @ errors[start:end]
    return codes


def compensated(w: np.ndarray, axis: int, scale: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Symmetric i8 at one scale per output channel, rounded so that the layer's output changes least.

    Args:
        w: a matrix.
        axis: along which output channels lie.
        scale: per output channel.
        moments: x^T x of the inputs.
    """
    rows = np.asarray(w if axis == 1 else w.T, np.float64)
    codes = _compensated(rows, scale[None].astype(np.float64), len(rows), moments, (-127, 127)).astype(np.int8)
    return codes if axis == 1 else np.ascontiguousarray(codes.T)
