"""How convolutions are divided without a search: the tiling that a rough count of cycles likes best."""

from __future__ import annotations

from collections.abc import Iterator

from kopt.targets.kernels.conv import ConvTiling, Image
from kopt.targets.kernels.tiling import FORMS, REGISTERS
from kopt.targets.kernels.winograd import POSITIONS, TILE, WinogradTiling

SCRATCH_BYTES = 512 * 1024
"""Largest copy of input rows that a task may hold: it lies on the stack, and in the second-level cache."""

_LAUNCH_CYCLES = 500  # claiming a task and starting its loops
_EPILOGUE_CYCLES = 4  # per vector of results
_WEIGHT_BYTES_PER_CYCLE = 16  # streamed from the second-level cache
_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 16, 28)
_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


_MEMORY_BYTES_PER_CYCLE = 4  # weights, read once a call from beyond the caches, by all cores together
_TRANSFORM_CYCLES = 80  # per vector of channels of a tile: 16 loads, 32 sums, 16 stores
_BACK_CYCLES = 52  # per vector of results of a tile: 16 loads, 24 sums, 4 stores with what follows


def conv_tiling(image: Image, outputs: int, lanes: int, cores: int) -> tuple[float, ConvTiling] | None:
    """Estimated cycles and tiling of a convolution of all channels with all; None where no copy of input rows is small enough.

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
    return best and (best[0] + depth * outputs * 4 / _MEMORY_BYTES_PER_CYCLE, best[1])


def winograd_tiling(image: Image, outputs: int, lanes: int, cores: int) -> tuple[float, WinogradTiling] | None:
    """Estimated cycles and tiling of a Winograd convolution; None where it cannot run.

    Args:
        image: sizes.
        outputs: output channels.
        lanes: elements of a vector register.
        cores: threads that share the tasks.
    """
    plain = (image.kernel, image.strides, image.dilations) == ((3, 3), (1, 1), (1, 1))
    if not plain or min(outputs, image.channels) < lanes:
        return None
    count = image.batch * -(-image.out_height // TILE) * -(-image.out_width // TILE)
    best: tuple[float, WinogradTiling] | None = None
    for tiles, vectors in FORMS:
        if tiles > count or vectors * lanes > outputs or tiles * vectors + vectors >= REGISTERS[lanes]:
            continue
        panel, panels = vectors * lanes, -(-outputs // (vectors * lanes))
        for rounds in (1, 2, 3, 4, 6, 7, 8, 12, 14, 16):
            block = min(count, tiles * rounds)
            if POSITIONS * block * (image.channels + panel) * 4 <= SCRATCH_BYTES:
                for groups in (group for group in (*_GROUPS, panels) if group <= panels):
                    tiling = WinogradTiling(tiles, panel, 4, block, groups)
                    cycles = _winograd_cycles(image, outputs, tiling, count, lanes, cores)
                    if best is None or cycles < best[0]:
                        best = (cycles, tiling)
    return best


def _winograd_cycles(image: Image, outputs: int, tiling: WinogradTiling, count: int, lanes: int, cores: int) -> float:
    vectors, panels = tiling.panel // lanes, -(-outputs // tiling.panel)
    group = -(-panels // tiling.panel_tasks)
    step = max(tiling.tiles * vectors, vectors + tiling.tiles / 2)
    products = group * POSITIONS * -(-tiling.block // tiling.tiles) * image.channels * step
    weights = group * POSITIONS * image.channels * tiling.panel * 4 / _WEIGHT_BYTES_PER_CYCLE
    transforms = tiling.block * (-(-image.channels // lanes) * _TRANSFORM_CYCLES + group * vectors * _BACK_CYCLES)
    tasks = -(-count // tiling.block) * tiling.panel_tasks
    makespan = -(-tasks // cores) * (products + weights + transforms + _LAUNCH_CYCLES)
    return makespan + POSITIONS * image.channels * outputs * 4 / _MEMORY_BYTES_PER_CYCLE


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
