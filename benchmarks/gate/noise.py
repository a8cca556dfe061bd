"""Machines to be measured on: latencies of calls, one after the other, as synthetic noise or replayed from a recording.

A *trace* gives, for one fresh process pair, the relative time of every call on this machine: 1.0 is the quiet machine. What it
gives is the machine's doing and hits baseline and candidate alike, whoever is running at the moment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from scipy.signal import lfilter

Trace: TypeAlias = Callable[[np.random.Generator, int], np.ndarray]  # random numbers, number of calls -> relative times, f64 (calls,)

CALLS_PER_BLOCK = 20  # of the noise, not of the protocol
CALL_S = 0.0125
RECORDINGS = Path(__file__).parent / "recordings"


def white(rng: np.random.Generator, calls: int) -> np.ndarray:
    """Jitter of every call (3 %) and of every block (0.8 %), nothing else."""
    blocks = rng.normal(0, 0.008, calls // CALLS_PER_BLOCK + 1).repeat(CALLS_PER_BLOCK)[:calls]
    return np.exp(rng.normal(0, 0.03, calls) + blocks)


def drift(rng: np.random.Generator, calls: int) -> np.ndarray:
    """A slow random walk around the level (3 %, forgotten after some ten blocks), and a ramp of up to 10 % in ten seconds either way."""
    memory = 0.9 ** (1 / CALLS_PER_BLOCK)
    steps = rng.normal(0, 0.03 * np.sqrt(1 - memory**2), calls)
    start = rng.normal(0, 0.03) * memory
    walk = lfilter([1.0], [1.0, -memory], steps, zi=[start])[0]
    return white(rng, calls) * np.exp(walk + rng.uniform(-0.1, 0.1) / 10 * CALL_S * np.arange(calls))


def bursts(rng: np.random.Generator, calls: int) -> np.ndarray:
    """Spikes of single calls (2 %), and episodes of some four blocks in which everything takes 10 to 40 % longer."""
    level = white(rng, calls)
    spikes = rng.random(calls) < 0.02
    level[spikes] *= 1 + rng.exponential(0.5, int(spikes.sum()))
    for start in np.flatnonzero(rng.random(calls) < 0.04 / CALLS_PER_BLOCK):
        level[start : start + int(rng.exponential(4 * CALLS_PER_BLOCK)) + 1] *= 1 + rng.uniform(0.1, 0.4)
    return level


def neighbour(rng: np.random.Generator, calls: int) -> np.ndarray:
    """A neighbour that works for about a second and rests for about a second: 30 % longer calls that jitter by 10 %."""
    changes = np.cumsum(1 + rng.exponential(4 * CALLS_PER_BLOCK, 16 + calls // 20)).astype(int)
    busy = (np.searchsorted(changes, np.arange(calls)) + int(rng.random() < 0.5)) % 2 == 1
    return white(rng, calls) * np.where(busy, np.exp(rng.normal(0, 0.1, calls)) * rng.uniform(1.2, 1.4), 1.0)


def everything(rng: np.random.Generator, calls: int) -> np.ndarray:
    """Drift, bursts and spikes at once: the noise the protocol was designed on."""
    return drift(rng, calls) * bursts(rng, calls) / white(rng, calls).mean()


def replayed(name: str) -> Trace:
    """The recorded calls in their order, from a random one on; the median of those within 12.5 ms stands for them."""
    recorded = np.load(RECORDINGS / f"{name}.npz")["call_ns"].astype(float)
    usual = float(np.median(recorded))
    each = max(1, round(CALL_S * 1e9 / usual))

    def trace(rng: np.random.Generator, calls: int) -> np.ndarray:
        wanted = int(rng.integers(recorded.size)) + np.arange(calls * each)
        return np.asarray(np.median(recorded[wanted % recorded.size].reshape(calls, each), axis=1)) / usual

    return trace


@cache
def traces() -> dict[str, Trace]:
    """Every trace by its name: the synthetic ones, and what was recorded."""
    made: dict[str, Trace] = {one.__name__: one for one in (white, drift, bursts, neighbour, everything)}
    return made | {f"replayed-{path.stem}": replayed(path.stem) for path in sorted(RECORDINGS.glob("*.npz"))}
