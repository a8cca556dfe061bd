"""Paired measurement of two artifacts: fresh processes, ABBA quads, and what the machine did meanwhile.

A *quad* is four blocks in the order A B B A or B A A B; a *pair* is an A block with the B block beside it. Both artifacts are
loaded in processes of their own that stay alive; one waits on a pipe while the other is timed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kopt.check.steady import State, state_of
from kopt.runners import Runner

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
        counters: reads the machine's counters.

    Raises:
        KoptError: an artifact cannot be loaded or run.
    """
    coins = random.Random(f"{seed}/{number}")  # noqa: S311 - the order of blocks is no secret
    baseline_first = baseline is not None and number % 2 == 0
    paths = {1: candidate} if baseline is None else {0: baseline, 1: candidate}
    with ExitStack() as stack:
        loading = sorted(paths, reverse=not baseline_first)
        started = {side: stack.enter_context(Runner("kopt", paths[side], feeds, threads=threads)) for side in loading}
        warm = {side: warm_up(runner, protocol) for side, runner in started.items()}
        slowest_s = max(call_s for _, call_s in warm.values())
        quads = quads_within(protocol, max_block_s, slowest_s)
        pairs = [pair for _ in range(quads) for pair in _quad(started, protocol, max_block_s, quad_order(coins.random() < 0.5), counters)]
        states = {side: state for side, (state, _) in warm.items()}
        return ProcessRun(
            tuple(pairs), started[1].started.load_s, started[1].peak_bytes(), baseline_first, states[1], states.get(0, State.FLAT)
        )


def _quad(
    started: Mapping[int, Runner],
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


def warm_up(runner: Runner, protocol: PairProtocol) -> tuple[State, float]:
    """Run a side until it holds its level, or time is up; what it did meanwhile, and the seconds of its last calls."""
    samples = runner.block(protocol.warmup_s, 3)
    while (state := state_of(samples)) is State.UNSTEADY and sum(samples) < protocol.max_warmup_s * 1e9:
        samples += runner.block(protocol.warmup_s, 3)
    return state, float(np.median(samples[-(len(samples) // 2 + 1) :])) / 1e9
