"""How convolutions are divided without a search: the tiling that a rough count of cycles likes best."""

from __future__ import annotations

from collections.abc import Iterator

from kopt.targets.kernels.conv import ConvTiling, Image
from kopt.targets.kernels.tiling import FORMS, REGISTERS

SCRATCH_BYTES = 512 * 1024
"""Largest copy of input rows that a task may hold: it lies on the stack, and in the second-level cache."""

_LAUNCH_CYCLES = 500  # claiming a task and starting its loops
_EPILOGUE_CYCLES = 4  # per vector of results
_WEIGHT_BYTES_PER_CYCLE = 16  # streamed from the second-level cache
_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 16, 28)
_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


def conv_tiling(image: Image, outputs: int, lanes: int, cores: int) -> ConvTiling | None:
    """The tiling of a convolution of all channels with all; None where no copy of input rows is small enough.

    Args:
        image: sizes.
        outputs: output channels, at least ``lanes``.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    depth = image.kernel[0] * image.kernel[1] * image.channels
    best: tuple[float, ConvTiling] | None = None
    for pixels, vectors in FORMS:
        if pixels > image.out_width or vectors * lanes > outputs or pixels * vectors + vectors >= REGISTERS[lanes]:
            continue
        panel = vectors * lanes
        step = max(pixels * vectors, vectors + pixels / 2)  # one multiplication or vector load a cycle, two broadcasts
        tile = depth * step + _EPILOGUE_CYCLES * pixels * vectors
        weights = depth * panel * 4 / _WEIGHT_BYTES_PER_CYCLE
        for tiling in _divisions(image, pixels, panel, -(-outputs // panel)):
            best = _better(best, (_cycles(image, tiling, -(-outputs // panel), tile, weights, lanes, cores), tiling))
    return best[1] if best else None


def depthwise_tiling(image: Image, lanes: int, cores: int) -> ConvTiling | None:
    """The tiling of a convolution of every channel by itself; None where no copy of input rows is small enough.

    Args:
        image: sizes; at least ``lanes`` channels.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    taps = image.kernel[0] * image.kernel[1]
    best: tuple[float, ConvTiling] | None = None
    for pixels, vectors in FORMS:
        if pixels > image.out_width or vectors * lanes > image.channels or pixels * vectors + vectors >= REGISTERS[lanes]:
            continue
        tile = taps * (pixels * vectors + vectors) + _EPILOGUE_CYCLES * pixels * vectors
        panels = -(-image.channels // (vectors * lanes))
        for tiling in _divisions(image, pixels, vectors * lanes, panels, groups=(1,)):
            best = _better(best, (_cycles(image, tiling, panels, tile, 0, lanes, cores), tiling))
    return best[1] if best else None


def _better(one: tuple[float, ConvTiling] | None, other: tuple[float, ConvTiling]) -> tuple[float, ConvTiling]:
    return other if one is None or other[0] < one[0] else one


def _divisions(image: Image, pixels: int, panel: int, panels: int, groups: tuple[int, ...] = _GROUPS) -> Iterator[ConvTiling]:
    for rows in (*_ROWS, image.out_height):
        if rows <= image.out_height and scratch_bytes(image, rows) <= SCRATCH_BYTES:
            yield from (ConvTiling(pixels, panel, 4, rows, count) for count in (*groups, panels) if count <= panels)


def scratch_bytes(image: Image, rows: int) -> int:
    """Bytes of the copied input rows for ``rows`` output rows; 0 where they are read in place."""
    return image.needed_rows(rows) * image.needed_width * image.channels * 4 if image.is_padded else 0


def _cycles(image: Image, tiling: ConvTiling, panels: int, tile: float, weights: float, lanes: int, cores: int) -> float:
    """Estimated cycles until the last core is done."""
    group = -(-panels // tiling.panel_tasks)
    tiles = group * tiling.rows * -(-image.out_width // tiling.pixels)
    copied = scratch_bytes(image, tiling.rows) / 4 / lanes * 2
    tasks = image.batch * -(-image.out_height // tiling.rows) * tiling.panel_tasks
    return -(-tasks // cores) * (tiles * tile + group * weights + copied + _LAUNCH_CYCLES)
