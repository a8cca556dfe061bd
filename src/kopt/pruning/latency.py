"""How far to prune for a wanted latency: candidates are compiled and measured beside the original, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kopt.buckets import plan
from kopt.candidates import payload, program_space
from kopt.errors import ToolchainError, UsageError
from kopt.frontend.export import save
from kopt.hardware import Target, available_cores
from kopt.ir.graph import Graph
from kopt.measure import Measurement, Ratio, abba, block_ratio
from kopt.runners import child_environment
from kopt.trial import Failure, Limits, Timing, TrialPool, TrialRequest

SHARES = tuple(round(0.05 * step, 2) for step in range(1, 19))
"""Ratios that are tried: 5 to 90 %."""
ROUNDS = 6
_ENTRY = "kopt.candidates:build"
_LIMITS = Limits(seconds=600.0)


@dataclass(frozen=True)
class Found:
    """The least pruning that is fast enough.

    Attributes:
        share: of each group that goes.
        graph: the pruned graph.
        ratio: its latency over the original's.
        before_us: the original's median latency.
        tried: every (share, ratio) measured.
    """

    share: float
    graph: Graph
    ratio: Ratio
    before_us: float
    tried: tuple[tuple[float, float], ...]


class Timed:
    """A graph compiled in a child that stays alive to be timed again."""

    def __init__(self, graph: Graph, folder: Path, name: str) -> None:
        """Write the graph where the child finds it; it compiles at the first block."""
        target = Target.parse("cpu")
        open_graph, buckets = plan(graph, None, {})
        path = folder / f"{name}.onnx"
        save(open_graph, path, external=True)
        config = program_space(graph, target, precisions=("fp32",), threads=(available_cores(),)).default()
        self._payload: dict[str, Any] = payload(str(path), config, target, buckets)
        self._pool = TrialPool(limits=_LIMITS, environment=child_environment(available_cores()))

    def block(self, block_s: float, warmup_calls: int = 3) -> list[int]:
        """Time calls for a while; nanoseconds each.

        Raises:
            ToolchainError: the graph does not compile or run.
        """
        timing = Timing(warmup_calls=warmup_calls, block_s=block_s, min_calls=5, max_s=10.0)
        outcome = self._pool.run(TrialRequest(_ENTRY, self._payload, timing=timing), _LIMITS)
        if isinstance(outcome, Failure):
            raise ToolchainError(f"a pruned candidate cannot be measured: {outcome.detail}", next_step="use --ratio, and report this")
        return [sample for block in outcome.measurement.blocks_ns for sample in block]

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.close()


def measured_ratio(first: Timed, second: Timed, block_s: float = 0.15) -> tuple[Ratio, Measurement]:
    """Latency of the first over the second's, from alternating blocks, and the second's samples."""
    sides = (first, second)
    for side in sides:
        side.block(block_s, warmup_calls=10)
    blocks: list[list[tuple[int, ...]]] = [[], []]
    for order in abba(ROUNDS):
        for index in order:
            blocks[index].append(tuple(sides[index].block(block_s)))
    measured = [Measurement(tuple(side)) for side in blocks]
    return block_ratio(measured[0], measured[1]), measured[1]


def least_pruning(
    graph: Graph, candidate: Callable[[float], Graph], target: float, say: Callable[[str], None], shares: Sequence[float] | None = None
) -> Found:
    """The smallest of ``shares`` at which the latency is ``target`` of the original's or less, by bisection.

    Args:
        graph: the original.
        candidate: the pruned graph for a share.
        target: wanted latency as a share of the original's.
        say: is told of every measurement.
        shares: rising; by default ``SHARES``.

    Raises:
        UsageError: the largest share is not fast enough.
    """
    shares = SHARES if shares is None else shares
    tried: dict[float, float] = {}
    best: Found | None = None
    low, high = 0, len(shares) - 1
    with tempfile.TemporaryDirectory(prefix="kopt-prune-") as folder, ExitStack() as stack:
        original = stack.enter_context(Timed(graph, Path(folder), "original"))
        while low <= high:
            middle = (low + high) // 2 if tried else high  # whether it can be reached at all comes first
            share = shares[middle]
            smaller = candidate(share)
            with Timed(smaller, Path(folder), f"pruned{middle}") as pruned:
                ratio, before = measured_ratio(pruned, original)
            tried[share] = ratio.value
            say(f"{100 * share:.0f} % pruned: {ratio.value:.2f} of the latency")
            if ratio.value <= target:
                best, high = Found(share, smaller, ratio, before.p50_us, ()), middle - 1
            elif best is None:
                raise UsageError(
                    f"with {100 * share:.0f} % of the channels cut the latency is still {ratio.value:.2f} of the original's",
                    where=graph.name,
                    next_step=f"ask for more than --latency {ratio.value:.2f}x",
                )
            else:
                low = middle + 1
    if best is None:
        raise UsageError("there are no shares to try", next_step="give some")
    return Found(best.share, best.graph, best.ratio, best.before_us, tuple(sorted(tried.items())))
