"""Scaled dot-product attention over heads that lie side by side."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionTiling:
    """Tiles and tasks of attention.

    Attributes:
        rows: queries of a register tile.
        keys: keys of a register tile of scores, a multiple of the vector's lanes.
        panel: value channels of a register tile, a multiple of the lanes.
        row_tasks: blocks the queries of a head are divided into.
    """

    rows: int
    keys: int
    panel: int
    row_tasks: int


@dataclass(frozen=True)
class Attention:
    """softmax(q k^T * scale + mask) v, head by head; a row that the mask hides whole gives zeros.

    ::

        q: f32 (B, Tq, H * D)   k: f32 (B, Tk, KH * D)   v: f32 (B, Tk, KH * Dv)   mask: f32 (B | 1, H | 1, Tq | 1, padded keys)
        ==>   f32 (B, Tq, H * Dv)

    A task turns the keys of one head, then takes its queries tile by tile: scores, softmax and weighted sum of a tile stay
    in the first-level cache.

    Attributes:
        batch: B.
        queries: Tq, >= tiling.rows.
        keys: Tk.
        heads: H, a multiple of kv_heads.
        kv_heads: KH.
        size: D.
        value_size: Dv, >= tiling.panel.
        scale: of the scores.
        mask: shape of what is added to the scores without its last axis, or () for none; the last axis is padded with -inf.
        lanes: of the vectors that padded keys fill.
        tiling: register tiles and tasks.
    """

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    size: int
    value_size: int
    scale: float
    mask: tuple[int, ...]
    lanes: int
    tiling: AttentionTiling

    @property
    def padded_keys(self) -> int:
        """Keys up to whole register tiles of vectors."""
        return -(-self.keys // self.lanes) * self.lanes

    @property
    def operands(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of q, k, v and the mask, if there is one."""
        shapes: list[tuple[int, ...]] = [(self.batch, self.queries, self.heads * self.size)]
        shapes += [(self.batch, self.keys, self.kv_heads * size) for size in (self.size, self.value_size)]
        shapes += [(*self.mask, self.padded_keys)] if self.mask else []
        return tuple(shapes)

    @property
    def result(self) -> tuple[int, ...]:
        """(B, Tq, H * Dv)."""
        return (self.batch, self.queries, self.heads * self.value_size)

    @property
    def multiplies(self) -> int:
        """Multiplications of both products."""
        return self.batch * self.heads * self.queries * self.keys * (self.size + self.value_size)

    @property
    def num_tasks(self) -> int:
        """Heads of all batches times blocks of queries."""
        return self.batch * self.heads * self.tiling.row_tasks


def attention_tiling(queries: int, keys: int, value_size: int, heads: int, lanes: int, cores: int) -> AttentionTiling:
    """Six rows of four vectors where there are as many, least padding otherwise; enough tasks for all cores.

    Args:
        queries: of a head.
        keys: of a head.
        value_size: channels of a value, at least ``lanes``.
        heads: of all batches.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    registers = (4, 3, 2, 1) if lanes != 8 else (2, 1)
    rows = min(queries, 6 if lanes != 8 else 4)
    key_vectors, value_vectors = -(-keys // lanes), value_size // lanes
    across = min((v for v in registers if v <= key_vectors), key=lambda v: -(-key_vectors // v) * v)
    panel = min((v for v in registers if v <= value_vectors), key=lambda v: -(-value_size // (v * lanes)) * v)
    row_tasks = max(1, min(-(-queries // rows), -(-4 * cores // heads)))
    return AttentionTiling(rows, across * lanes, panel * lanes, row_tasks)
