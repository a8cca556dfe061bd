"""Where intermediate results lie: one arena, with places handed out again as soon as nothing reads them any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

ALIGNMENT = 64

Key = TypeVar("Key")


def placed(lives: Mapping[Key, tuple[int, int, int]]) -> tuple[dict[Key, int], int]:
    """Offsets in bytes, and the size of the arena.

    The largest come first, each at the lowest place where nothing lies that lives at the same time.

    Args:
        lives: for each buffer its bytes, the first step that touches it and the last one.
    """
    taken: list[tuple[int, int, int, int]] = []  # (offset, end, first, last)
    offsets: dict[Key, int] = {}
    for key, (size, first, last) in sorted(lives.items(), key=lambda item: -item[1][0]):
        at = _lowest(size, sorted((start, end) for start, end, begin, until in taken if begin <= last and first <= until))
        offsets[key] = at
        taken.append((at, at + size, first, last))
    return offsets, max((end for _, end, _, _ in taken), default=0)


def _lowest(size: int, occupied: Sequence[tuple[int, int]]) -> int:
    """The lowest aligned offset at which ``size`` bytes fit between ``occupied`` ranges."""
    at = 0
    for start, end in occupied:
        if at + size <= start:
            break
        at = max(at, -(-end // ALIGNMENT) * ALIGNMENT)
    return at
