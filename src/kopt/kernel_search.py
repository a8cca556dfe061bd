"""Searching the tilings of the kernels a program calls, workload by workload, before whole programs are raced.

A kernel's trial takes a quarter of a second where that of a program takes many, and what is found serves every model with the same
workload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kopt.autotune.database import TrialDatabase
from kopt.autotune.record import Surroundings
from kopt.autotune.search import SearchSettings
from kopt.autotune.tuner import Task, TunedTask, TuneProgress, Tuner
from kopt.buckets import Bucket
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.runners import child_environment
from kopt.space import Config, Workload
from kopt.specialize import Recipe, specialize
from kopt.trial import Failure, Limits, Outcome, Timing, TrialPool, TrialRequest

MIN_GAIN = 0.01
"""A schedule is taken where it saves this share of the default's time: less is noise."""

_MODULE, _ENTRY = "kopt.targets.kernels.alone", "kopt.targets.kernels.alone:build"
_TOLERANCE = 1e-4
_LIMITS = Limits(seconds=20.0)
_SAVES = {"Winograd": 2.25, "Strassen": 8 / 7}
"""Multiplications of the plain form over those that are made: of F(2x2, 3x3), and of one level of Strassen's algorithm."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class KernelUse:
    """A workload of a model.

    Attributes:
        workload: what is to be done.
        kernel: which does it, unsearched.
        calls: in one call of the model.
        model_bytes: weights of the whole model.
    """

    workload: Workload
    kernel: Any
    calls: int
    model_bytes: int


def kernel_uses(graph: Graph, buckets: Sequence[Bucket], recipe: Recipe, target: Target) -> list[KernelUse]:
    """The workloads that kernels do in the programs of a recipe, at the shapes of all buckets, those with most work first."""
    from kopt.targets.kernels.schedule import can_search, workload_of

    found: dict[str, KernelUse] = {}
    for bucket in buckets:
        lowered = specialize(graph, recipe, target, shapes=bucket.shapes).lowered
        weights = sum(array.nbytes for array in lowered.weights.values())
        for kernel, calls in lowered.kernel_calls:
            if can_search(kernel):
                workload = workload_of(kernel)
                known = found.get(workload.digest)
                found[workload.digest] = KernelUse(workload, kernel, calls + (known.calls if known else 0), weights)
    return sorted(found.values(), key=lambda use: use.calls * use.kernel.multiplies, reverse=True)


def kernel_revision() -> str:
    """Of the loop nests: times of older ones are hints only."""
    from kopt.targets.kernels.kernel import REVISION

    return str(REVISION)


@dataclass(frozen=True)
class KernelsTuned:
    """What a search of kernels found.

    Attributes:
        schedules: by digest of the workload, in JSON types, where one is faster than the default.
        report: for the report's section "search".
    """

    schedules: Mapping[str, Any]
    report: Mapping[str, Any]


@dataclass
class KernelTuning:
    """Searches the kernels of one model.

    Attributes:
        uses: what is to be done.
        target: this machine.
        surroundings: where times are valid.
        database: of trials.
        folder: for reference results.
        run: name of the search in the database.
        threads: of the child that measures.
        seed: decides every random choice.
        progress: hears what is being done.
    """

    uses: Sequence[KernelUse]
    target: Target
    surroundings: Surroundings
    database: TrialDatabase
    folder: Path
    run: str
    threads: int
    seed: int = 0
    progress: Progress = lambda _: None
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = SearchSettings(
            self.seed, num_first=6, batch=4, near_share=0.5, doubt_share=0.25, random_share=0.0, give_up=1.5, patience=4
        )
        self.tuner = Tuner(self.database, self.surroundings, settings, self.run)
        self.peak_gflops: float | None = None
        self._plan()

    def _plan(self) -> None:
        """A task per implementation of each workload; where the peak is known, with the time that none can undercut."""
        from kopt.targets.kernels.schedule import implementations, space_of

        self.tasks: list[Task] = []
        self.kernels: dict[tuple[str, str], KernelUse] = {}
        for use in self.uses:
            choices = implementations(use.kernel, self.target)
            saves = max(_SAVES.get(name, 1.0) for name in choices)
            floor_us = 2e-3 * use.kernel.multiplies / saves / self.peak_gflops if self.peak_gflops else 0.0
            for name, kernel in choices.items():
                self.tasks.append(Task(use.workload, name, space_of(kernel, self.target), use.calls, floor_us))
                self.kernels[use.workload.digest, name] = KernelUse(use.workload, kernel, use.calls, use.model_bytes)

    def known(self) -> KernelsTuned:
        """What the database knows, without a trial."""
        return self._tuned(self.tuner.tune(self.tasks, self._nothing, 0.0))

    def search(self, budget_s: float) -> KernelsTuned:
        """Search within a budget."""
        with TrialPool(_MODULE, limits=_LIMITS, environment=child_environment(self.threads)) as pool:
            self.peak_gflops = self._peak_gflops(pool)
            self._plan()

            def measure(task: Task, config: Config, *, give_up_us: float | None) -> Outcome:
                return pool.run(self._request(task, config, give_up_us))

            self.tuner.tune(self.tasks, measure, budget_s, self._tell)
        return self.known()  # of what is filed, so that the next search, which has nothing else, finds the same

    def _peak_gflops(self, pool: TrialPool) -> float | None:
        """What a product reaches whose operands stay in the second-level caches; None where it fails."""
        from kopt.targets.kernels import alone
        from kopt.targets.kernels.kernel import lanes
        from kopt.targets.kernels.product import Product
        from kopt.targets.kernels.tiling import product_tiling

        size = 384
        kernel = Product(size, size, size, product_tiling(size, size, size, lanes(self.target), self.target.num_cores))
        timing = Timing(warmup_calls=3, block_s=0.1, min_calls=20, max_s=1.0)
        outcome = pool.run(TrialRequest(_ENTRY, alone.payload(kernel, self.target, 0), None, _TOLERANCE, timing))
        if isinstance(outcome, Failure):
            return None
        return 2.0 * kernel.multiplies / min(sample for block in outcome.measurement.blocks_ns for sample in block)

    @staticmethod
    def _nothing(task: Task, config: Config, *, give_up_us: float | None) -> Outcome:
        del task, config, give_up_us
        return Failure("error", "no trial was wanted")

    def _request(self, task: Task, config: Config, give_up_us: float | None) -> TrialRequest:
        from kopt.targets.kernels import alone
        from kopt.targets.kernels.schedule import tiled

        use = self.kernels[task.workload.digest, task.implementation]
        reference = self.folder / f"{task.workload.digest}.npz"
        if not reference.exists():
            np.savez(reference, allow_pickle=False, **{"0": alone.reference(use.kernel)})
        limit = None if give_up_us is None else int(give_up_us * 1e3)
        timing = Timing(warmup_calls=2, block_s=0.02, min_calls=7, max_s=0.5, give_up_ns=limit)
        content = alone.payload(tiled(use.kernel, config), self.target, use.model_bytes)
        return TrialRequest(_ENTRY, content, reference, _TOLERANCE, timing)

    def _tell(self, state: TuneProgress) -> None:
        if state.model_us is not None:
            self.curve.append({"elapsed_s": round(state.elapsed_s, 2), "model_us": round(state.model_us, 2)})
        shown = "" if state.model_us is None else f", all kernels {state.model_us / 1e3:.3g} ms"
        failures = f", {state.num_failures} failed" if state.num_failures else ""
        left_s = max(0.0, state.budget_s - state.elapsed_s)
        self.progress(f"tuning kernels: trial {state.num_trials}{failures}{shown}, {left_s:.0f} s left")

    def _tuned(self, results: Sequence[TunedTask]) -> KernelsTuned:
        """The fastest implementation of every workload."""
        from kopt.targets.kernels.schedule import Schedule

        schedules: dict[str, Any] = {}
        rows = []
        for use in self.uses:
            mine = [one for one in results if one.task.workload == use.workload and one.best is not None]
            best = min(mine, key=lambda one: one.best.p50_us if one.best else 0.0, default=None)
            usual_us = self._usual_us(use)
            row: dict[str, Any] = {"workload": str(use.workload), "calls": use.calls, "default_us": usual_us}
            row["trials"] = sum(one.num_trials for one in results if one.task.workload == use.workload)
            if best is not None and best.best is not None:
                gains = usual_us is None or best.best.p50_us < (1 - MIN_GAIN) * usual_us
                if gains:
                    schedules[use.workload.digest] = Schedule(best.task.implementation, best.best.config).to_json()
                time_us = best.best.p50_us if gains or usual_us is None else usual_us
                chosen = best.task.implementation if gains else type(use.kernel).__name__
                row |= {"implementation": chosen, "config": dict(best.best.config) if gains else {}, "p50_us": time_us}
                row["gflops"] = round(2e-3 * use.kernel.multiplies / time_us, 1)
                row["of_peak"] = round(row["gflops"] / self.peak_gflops, 3) if self.peak_gflops else None
            rows.append(row)
        report = {"workloads": rows, "failures": self._failures(), "progress": self.curve, "peak_gflops": self.peak_gflops}
        return KernelsTuned(schedules, report)

    def _usual_us(self, use: KernelUse) -> float | None:
        """The time of the kernel taken without a search."""
        name = type(use.kernel).__name__
        space = next(task.space for task in self.tasks if (task.workload, task.implementation) == (use.workload, name))
        usual = space.default()
        records = self.database.trials(use.workload, self.surroundings, name)
        times = [one.p50_us for one in records if one.config == usual and one.p50_us is not None]
        return float(np.median(times)) if times else None

    def _failures(self) -> dict[str, int]:
        counted: Counter[str] = Counter()
        for task in self.tasks:
            records = self.database.trials(task.workload, self.surroundings, task.implementation)
            counted.update(record.kind for record in records if record.run == self.run and record.kind not in ("measured", "slow"))
        return dict(counted)
