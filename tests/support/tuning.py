"""Trials made up, and a process that files them one by one."""

from __future__ import annotations

import sys
from pathlib import Path

from kopt.autotune.database import TrialDatabase
from kopt.autotune.record import Surroundings, TrialRecord
from kopt.measure import Measurement
from kopt.space import Workload
from kopt.trial import Failure, Measured, Outcome

HERE = Surroundings("here", {"jaxlib": "1"})
THERE = Surroundings("there", {"jaxlib": "1"})
GEMM = Workload("gemm", ((8, 8), (8, 8)), ("f32", "f32"))


def measured(p50_us: float, *, complete: bool = True) -> Measured:
    return Measured(Measurement(((round(p50_us * 1e3),) * 3,)), complete, 1e-6, 0.01)


def record(
    x: int, outcome: Outcome | float = 5.0, *, surroundings: Surroundings = HERE, workload: Workload = GEMM, created: float = 0.0, **more
) -> TrialRecord:
    found = measured(outcome) if isinstance(outcome, int | float) else outcome
    return TrialRecord(workload, "tvm", {"x": x}, found, surroundings, more.pop("run", "r"), created or 1000.0 + x, **more)


def main(path: str, writer: str, count: str) -> None:
    """File trials 0, 1, ... of one writer; each is announced on stdout once it is filed."""
    with TrialDatabase(Path(path)) as database:
        for number in range(int(count)):
            outcome = Failure("crash", "SIGSEGV") if number % 5 == 4 else measured(1.0 + number)
            database.add(record(number, outcome, run=writer))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
