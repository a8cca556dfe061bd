"""Paired measurement of two artifacts: fresh processes, ABBA quads, and what the machine did meanwhile.

A *quad* is four blocks in the order A B B A or B A A B; a *pair* is an A block with the B block beside it. Both artifacts are
loaded in processes of their own that stay alive; one waits on a pipe while the other is timed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np

from kopt.check.steady import State, states_of_sides
from kopt.runners import Runner

TURNS = 8
"""Of each side within the shortest warm-up."""

MIN_WARM_UP_CALLS = 3

MAX_STEAL = 0.02
"""A larger share of processor time taken by the hypervisor spoils a pair."""


@dataclass(frozen=True, slots=True)
class PairProtocol:
    """How artifacts are measured.

    Attributes:
        processes: fresh pairs of processes in a first look.
        quads: quads in each of them, fewer where a single call is long; a quad gives two pairs. Many short blocks serve better
            than few long ones: the less time between the halves of a pair, the less the machine changes meanwhile.
        block_s, min_calls, max_block_s: a block takes both of the first two, but never longer than the last.
        warmup_s: how long each side runs at least before its first block.
        max_warmup_s: how long it may run until it holds its level.
        time_limit_s: for one model, everything included.
    """

    processes: int = 5
    quads: int = 8
    block_s: float = 0.125
    min_calls: int = 10
    max_block_s: float = 2.0
    warmup_s: float = 0.5
    max_warmup_s: float = 10.0
    time_limit_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two neighbouring blocks, nanoseconds of each call.

    Attributes:
        baseline_ns: empty when the candidate was measured alone.
        candidate_ns: the artifact that is judged.
        throttled: how often the cgroup's quota stopped its processes meanwhile.
        steal: share of processor time taken by the hypervisor meanwhile.
    """

    baseline_ns: tuple[int, ...]
    candidate_ns: tuple[int, ...]
    throttled: int = 0
    steal: float = 0.0

    @property
    def disturbed(self) -> bool:
        """Whether the machine itself is known to have interfered."""
        return self.throttled > 0 or self.steal > MAX_STEAL


@dataclass(frozen=True, slots=True)
class ProcessRun:
    """What one fresh process of the candidate (and one of the baseline beside it) gave.

    Attributes:
        pairs: in the order measured.
        load_s: seconds the candidate took to load.
        peak_bytes: its peak resident memory.
        baseline_first: the order of loading.
        candidate_warm_up, baseline_warm_up: what each side did before its first block.
    """

    pairs: tuple[Pair, ...]
    load_s: float
    peak_bytes: int
    baseline_first: bool = False
    candidate_warm_up: State = State.FLAT
    baseline_warm_up: State = State.FLAT


class Timed(Protocol):
    """Something whose calls can be timed, such as a ``Runner``."""

    def block(self, block_s: float, min_calls: int, max_s: float | None = None) -> list[int]:
        """Nanoseconds of calls made until both limits are met, for at most ``max_s``."""


@dataclass(frozen=True, slots=True)
class MachineCounters:
    """Growing counters of this machine: throttled periods, stolen and total processor time in ticks."""

    throttled: int
    steal: int
    total: int

    def since(self, before: MachineCounters) -> tuple[int, float]:
        """Throttled periods and stolen share between two readings."""
        return self.throttled - before.throttled, (self.steal - before.steal) / max(1, self.total - before.total)


def read_counters(root: Path = Path("/")) -> MachineCounters:
    """The counters now; zeros where the system has none."""
    throttled = steal = total = 0
    for path in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
        try:
            found = dict(line.split() for line in (root / path).read_text().splitlines())
            throttled = int(found["nr_throttled"])
            break
        except (OSError, ValueError, KeyError):
            continue
    try:
        ticks = [int(value) for value in (root / "proc/stat").read_text().splitlines()[0].split()[1:9]]
        steal, total = ticks[7], sum(ticks)
    except (OSError, ValueError, IndexError):
        pass
    return MachineCounters(throttled, steal, total)


def quad_order(coin: bool) -> tuple[int, int, int, int]:
    """Sides of a quad's four blocks: A B B A or B A A B, so that drift hits both alike."""
    return (0, 1, 1, 0) if coin else (1, 0, 0, 1)


def measure_process(
    baseline: Path | None,
    candidate: Path,
    feeds: Mapping[str, np.ndarray],
    *,
    number: int,
    threads: int,
    protocol: PairProtocol,
    max_block_s: float,
    seed: int,
    within_s: float = math.inf,
    counters: Callable[[], MachineCounters] = read_counters,
) -> ProcessRun:
    """Start fresh processes and measure their quads.

    Args:
        baseline: the artifact to compare with; None measures the candidate alone, in as many blocks.
        candidate: the artifact that is judged.
        feeds: inputs of both.
        number: of this run: every other one loads the candidate first, because the order of loading decides memory layouts.
        threads: of each process.
        protocol: block lengths and counts.
        max_block_s: a bound of one block, at most the protocol's.
        seed: of the coins that order the quads.
        within_s: after which nothing more is begun: the warm-up is cut short and quads are left out, but for one.
        counters: reads the machine's counters.

    Raises:
        KoptError: an artifact cannot be loaded or run.
    """
    start = time.monotonic()
    baseline_first = baseline is not None and number % 2 == 0
    paths = {1: candidate} if baseline is None else {0: baseline, 1: candidate}
    with ExitStack() as stack:
        loading = sorted(paths, reverse=not baseline_first)
        started = {side: stack.enter_context(Runner("kopt", paths[side], feeds, threads=threads)) for side in loading}
        pairs, states = measure_sides(
            started,
            protocol,
            max_block_s=max_block_s,
            coins=random.Random(f"{seed}/{number}"),  # noqa: S311 - the order of blocks is no secret
            left_s=lambda: within_s - (time.monotonic() - start),
            counters=counters,
        )
        return ProcessRun(pairs, started[1].started.load_s, started[1].peak_bytes(), baseline_first, states[1], states.get(0, State.FLAT))


def measure_sides(
    sides: Mapping[int, Timed],
    protocol: PairProtocol,
    *,
    max_block_s: float,
    coins: random.Random,
    left_s: Callable[[], float],
    counters: Callable[[], MachineCounters],
) -> tuple[tuple[Pair, ...], dict[int, State]]:
    """Warm up what is loaded and measure its quads; the pairs, and what each side did before them.

    Args:
        sides: the baseline as 0, when there is one, and the candidate as 1.
        protocol: block lengths and counts.
        max_block_s: a bound of one block.
        coins: order the quads.
        left_s: how much time is left; without any, the warm-up ends and one quad is measured.
        counters: reads the machine's counters.
    """
    states, call_s = warm_up(sides, protocol, left_s)
    pairs: list[Pair] = []
    longest_s = 0.0
    for number in range(quads_within(protocol, max_block_s, call_s)):
        before = left_s()
        if number and before < longest_s:
            break
        pairs += _quad(sides, protocol, max_block_s, quad_order(coins.random() < 0.5), counters)
        longest_s = max(longest_s, before - left_s())
    return tuple(pairs), states


def _quad(
    started: Mapping[int, Timed],
    protocol: PairProtocol,
    max_block_s: float,
    order: tuple[int, int, int, int],
    counters: Callable[[], MachineCounters],
) -> list[Pair]:
    """The two pairs of four blocks. Without a baseline the candidate takes its blocks too."""
    pairs = []
    for halves in (order[:2], order[2:]):
        before = counters()
        blocks = {side: started.get(side, started[1]).block(protocol.block_s, protocol.min_calls, max_block_s) for side in halves}
        throttled, steal = counters().since(before)
        baseline, candidate = tuple(blocks[0]), tuple(blocks[1])
        pairs.append(Pair(baseline, candidate, throttled, steal) if 0 in started else Pair((), baseline + candidate, throttled, steal))
    return pairs


def quads_within(protocol: PairProtocol, max_block_s: float, call_s: float) -> int:
    """The protocol's quads, or as many as single calls fit into the time its blocks may take; at least two."""
    return max(2, min(protocol.quads, int(protocol.quads * max_block_s / max(call_s, 1e-9))))


def warm_up(sides: Mapping[int, Timed], protocol: PairProtocol, left_s: Callable[[], float]) -> tuple[dict[int, State], float]:
    """Run the sides in turn until they hold their levels, or time is up; what they did, and the seconds of the slowest's last calls.

    They take turns because they will when they are measured, and because a machine that changes meanwhile changes for all of them.
    """
    samples: dict[int, list[int]] = {side: [] for side in sides}
    stretches: dict[int, list[float]] = {side: [] for side in sides}
    order, until_s = tuple(sides), protocol.warmup_s
    while True:
        while any(sum(own) < until_s * 1e9 or len(own) < MIN_WARM_UP_CALLS for own in samples.values()):
            for side in order:
                calls = sides[side].block(protocol.warmup_s / TURNS, 1)
                samples[side] += calls
                stretches[side].append(median(calls))
            order = order[::-1]
        states = states_of_sides(samples, stretches)
        until_s += protocol.warmup_s
        if State.UNSTEADY not in states.values() or until_s > protocol.max_warmup_s or left_s() < _rest_s(protocol, sides):
            last = [float(np.median(own[-(len(own) // 2 + 1) :])) for own in samples.values()]
            return states, max(last) / 1e9


def _rest_s(protocol: PairProtocol, sides: Mapping[int, Timed]) -> float:
    """Time that one more stretch of warm-up and the usual blocks take."""
    return len(sides) * protocol.warmup_s + 4 * protocol.quads * protocol.block_s
