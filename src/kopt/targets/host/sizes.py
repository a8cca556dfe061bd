"""Operators whose output shape depends on values."""

from __future__ import annotations

import numpy as np

from kopt.targets.distinct import distinct
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
    return distinct(x, ctx.attr("axis"), in_order=bool(ctx.attr("sorted")))


@host("NonMaxSuppression")
def non_max_suppression(
    ctx: HostContext,
    boxes: np.ndarray,
    scores: np.ndarray,
    most: np.ndarray | None = None,
    iou_threshold: np.ndarray | None = None,
    score_threshold: np.ndarray | None = None,
) -> np.ndarray:
    """Boxes that overlap no better one of their class: (batch, class, box) rows, best first within a class."""
    limit = 0 if most is None else int(most.item())
    iou = 0.0 if iou_threshold is None else float(iou_threshold.item())
    rows: list[tuple[int, int, int]] = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch], centered=bool(ctx.attr("center_point_box")))
        for kind in range(scores.shape[1]):
            found = scores[batch, kind]
            order = np.argsort(-found, kind="stable")
            if score_threshold is not None:
                order = order[found[order] > score_threshold.item()]
            rows += [(batch, kind, int(box)) for box in _best(corners, order, limit, iou)]
    return np.asarray(rows, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, *, centered: bool) -> np.ndarray:
    """Lower and upper corners, f64 (box, 4): whichever diagonal is given, or center and size."""
    given = boxes.astype(np.float64)
    if centered:
        middle, half = given[:, :2], given[:, 2:] / 2
        return np.concatenate([middle - half, middle + half], axis=1)
    return np.concatenate([np.minimum(given[:, :2], given[:, 2:]), np.maximum(given[:, :2], given[:, 2:])], axis=1)


def _best(corners: np.ndarray, order: np.ndarray, limit: int, iou: float) -> list[int]:
    """Boxes in ``order`` of which none overlaps an earlier one by more than ``iou``; at most ``limit``."""
    area = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    kept: list[int] = []
    while order.size and len(kept) < limit:
        first, order = int(order[0]), order[1:]
        kept.append(first)
        low = np.maximum(corners[first, :2], corners[order, :2])
        high = np.minimum(corners[first, 2:], corners[order, 2:])
        shared = np.prod(np.maximum(high - low, 0.0), axis=1)
        union = area[first] + area[order] - shared
        order = order[shared <= iou * union]
    return kept
