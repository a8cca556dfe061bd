"""What can be searched of each kernel's tiling: every choice that fits the sizes, the registers and the scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from kopt.space import Constraint, Knob, SearchSpace
from kopt.targets.kernels.attention import Attention
from kopt.targets.kernels.conv import Conv, Depthwise
from kopt.targets.kernels.conv_tiling import SCRATCH_BYTES, scratch_bytes
from kopt.targets.kernels.strassen import NUM_SUMS, Strassen
from kopt.targets.kernels.strassen import SCRATCH_BYTES as STRASSEN_BYTES
from kopt.targets.kernels.tiling import FORMS, REGISTERS
from kopt.targets.kernels.winograd import POSITIONS, Winograd

UNROLLS = (1, 2, 4, 8)
_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 28, 56)
_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_BLOCKS = (4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 48, 56, 64, 96, 128)
_REGISTER_ROWS = (1, 2, 3, 4, 5, 6, 8)


def conv_space(kernel: Conv, lanes: int) -> SearchSpace:
    """Every tiling worth trying for a direct convolution; the kernel's own is the default."""
    image = kernel.image
    rows = [count for count in _ROWS if count <= image.out_height and scratch_bytes(image, count) <= SCRATCH_BYTES]
    return _space(
        asdict(kernel.tiling),
        {"rows": rows, "panel_tasks": _GROUPS, "unroll": UNROLLS},
        ("pixels", image.out_width),
        kernel.outputs,
        lanes,
    )


def depthwise_space(kernel: Depthwise, lanes: int) -> SearchSpace:
    """Every tiling worth trying for a depthwise convolution; it has nothing to unroll, and one group of panels."""
    image, tiling = kernel.image, kernel.tiling
    rows = [count for count in _ROWS if count <= image.out_height and scratch_bytes(image, count) <= SCRATCH_BYTES]
    fixed: dict[str, Iterable[int]] = {"rows": rows, "panel_tasks": (tiling.panel_tasks,), "unroll": (tiling.unroll,)}
    return _space(asdict(tiling), fixed, ("pixels", image.out_width), image.channels, lanes)


def winograd_space(kernel: Winograd, lanes: int) -> SearchSpace:
    """Every tiling worth trying for a Winograd convolution."""
    channels = kernel.image.channels

    def fits(block: int, panel: int) -> bool:
        return POSITIONS * block * (channels + panel) * 4 <= SCRATCH_BYTES

    blocks = [count for count in _BLOCKS if count <= kernel.num_tiles]
    held = Constraint(("block", "panel"), fits, "both transforms stay in the second-level cache")
    return _space(
        asdict(kernel.tiling),
        {"block": blocks, "panel_tasks": _GROUPS, "unroll": UNROLLS},
        ("tiles", kernel.num_tiles),
        kernel.outputs,
        lanes,
        held,
        Constraint(("tiles", "block"), lambda tiles, block: tiles <= block, "a register tile is not larger than a block"),
    )


def strassen_space(kernel: Strassen, lanes: int) -> SearchSpace:
    """Every tiling worth trying for Strassen's product."""

    def fits(rows: int, block: int) -> bool:
        return rows <= block and NUM_SUMS * block * (kernel.k // 2) * 4 <= 2 * STRASSEN_BYTES

    blocks = [-(-kernel.half_rows // parts) for parts in range(1, 9)]
    return _space(
        asdict(kernel.tiling),
        {"block": [*blocks, *(count for count in _BLOCKS if count <= kernel.half_rows)], "panel_tasks": _GROUPS, "unroll": UNROLLS},
        ("rows", kernel.half_rows),
        kernel.n // 2,
        lanes,
        Constraint(("rows", "block"), fits, "the sums stay in the second-level cache"),
    )


def attention_space(kernel: Attention, lanes: int) -> SearchSpace:
    """Every tiling worth trying for attention: rows against keys, and against channels of the values, share the registers."""
    tiling = kernel.tiling
    vectors = range(1, 1 + (2 if lanes == 8 else 4))
    rows = [count for count in _REGISTER_ROWS if count <= kernel.queries]

    def fits(count: int, columns: int) -> bool:
        return count * (columns // lanes) + columns // lanes < REGISTERS[lanes]

    choices: dict[str, Iterable[int]] = {
        "rows": rows,
        "keys": [v * lanes for v in vectors if v * lanes <= kernel.padded_keys],
        "panel": [v * lanes for v in vectors if v * lanes <= kernel.value_size],
        "row_tasks": [count for count in _GROUPS if count <= kernel.queries],
    }
    limits = (
        Constraint(("rows", "keys"), fits, "the scores fit the registers"),
        Constraint(("rows", "panel"), fits, "the weighted sums fit the registers"),
        Constraint(("rows", "row_tasks"), lambda count, tasks: tasks <= -(-kernel.queries // count), "no task is empty"),
    )
    return _limited(asdict(tiling), choices, limits)


def _space(
    default: dict[str, int],
    choices: dict[str, Iterable[int]],
    along: tuple[str, int],
    outputs: int,
    lanes: int,
    *further: Constraint,
) -> SearchSpace:
    """Register tiles of ``along`` x panel that the registers hold, and what else may be chosen."""
    name, length = along
    held = [(r, v * lanes) for r, v in FORMS if r <= length and v * lanes <= outputs and r * v + v < REGISTERS[lanes]]
    held.append((default[name], default["panel"]))
    every = {**choices, name: [r for r, _ in held], "panel": [panel for _, panel in held]}
    limits = (
        Constraint((name, "panel"), lambda r, panel: (r, panel) in held, "the accumulators fit the registers"),
        Constraint(("panel", "panel_tasks"), lambda panel, tasks: tasks <= -(-outputs // panel), "no task is empty"),
        *further,
    )
    return _limited(default, every, limits)


def _limited(default: dict[str, int], choices: dict[str, Iterable[int]], limits: tuple[Constraint, ...]) -> SearchSpace:
    """The default is always a choice, and always allowed: it is what an unsearched program runs."""
    knobs = tuple(Knob(name, tuple(sorted({value, *choices[name]})), value) for name, value in default.items())
    return SearchSpace(knobs, tuple(_except(limit, default) for limit in limits))


def _except(limit: Constraint, default: dict[str, int]) -> Constraint:
    usual = tuple(default[name] for name in limit.knobs)
    holds: Callable[..., bool] = limit.holds
    return Constraint(limit.knobs, lambda *values: values == usual or holds(*values), limit.reason)
