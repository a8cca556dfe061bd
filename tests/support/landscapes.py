"""Made-up costs of configs, with the structure real schedules have: tiles that suit each other, cliffs, useless knobs, noise."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from kopt.space import Config, Constraint, Knob, SearchSpace, config_key

SPACE = SearchSpace(
    (
        Knob("mr", (1, 2, 4, 6, 8, 12, 14), 4),
        Knob("nr", (8, 16, 32, 48, 64, 96), 16),
        Knob("ku", (1, 2, 4, 8, 16)),
        Knob("block", (16, 32, 64, 128, 256, 512), 64),
        Knob("order", ("mnk", "nmk", "kmn", "nkm")),
        Knob("parallel", ("m", "n", "mn")),
        Knob("prefetch", (0, 1, 2, 4)),
    ),
    (Constraint(("mr", "nr"), lambda mr, nr: mr * nr <= 28 * 16, "registers"),),
)


def unit(config: Config, salt: str = "") -> float:
    """A number in [0, 1) that depends on the config alone."""
    return int.from_bytes(hashlib.sha256(f"{salt}{config_key(config)}".encode()).digest()[:8], "big") / 2**64


def gemm(config: Config) -> float:
    """Microseconds: registers want to be nearly full, blocks to fit the cache, unrolling hides latency until it spills."""
    mr, nr, ku, block = (float(config[name]) for name in ("mr", "nr", "ku", "block"))
    registers = mr * nr / 16 + nr / 16 + 1
    spill = 1 + 0.6 * max(0.0, registers - 28) / 4
    reuse = 1 + 1.5 / mr + 6 / nr
    cache = 1 + 0.12 * abs(math.log2(block * nr / 4096))
    unroll = 1 + 0.08 * abs(math.log2(ku / 4)) * (1.5 if registers > 24 else 1)
    order = {"mnk": 1.06, "nmk": 1.0, "kmn": 1.7, "nkm": 1.2}[str(config["order"])]
    parallel = {"m": 1.02, "n": 1.1, "mn": 1.0 if block <= 128 else 1.15}[str(config["parallel"])]
    return 100 * spill * reuse * cache * unroll * order * parallel * (1 + 0.01 * abs(float(config["prefetch"]) - 1))


def rugged(config: Config) -> float:
    """The same with a fixed random factor of up to 10 % per config: luck no model can learn."""
    return gemm(config) * (1 + 0.1 * unit(config, "rugged"))


def deceptive(config: Config) -> float:
    """A narrow good region (mr 12, order kmn) far from where the slope of everything else leads."""
    good = config["mr"] == 12 and config["order"] == "kmn" and float(config["nr"]) <= 32
    return gemm(config) * (0.35 if good else 1.0)


LANDSCAPES: dict[str, Callable[[Config], float]] = {"gemm": gemm, "rugged": rugged, "deceptive": deceptive}


def optimum(cost: Callable[[Config], float]) -> float:
    """The smallest cost in the space."""
    return min(cost(config) for config in SPACE.enumerate())
