"""Tuning a whole model: candidates of programs are searched, the best raced, and the batch chosen, within a budget of time.

Every candidate is built and timed in a child process of its own, because XLA fixes its number of threads when it starts. Finished trials
are in the database before the next begins, so an interrupted search goes on where it stopped. The children of the best candidates stay
alive, asleep, for the race at the end.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from kopt.autotune.database import TrialDatabase
from kopt.autotune.race import BatchPoint, RaceSettings, batch_curve, chosen_batches, knee, pareto, race
from kopt.autotune.record import Surroundings, TrialRecord
from kopt.autotune.search import Search, SearchSettings
from kopt.buckets import Bucket, random_inputs
from kopt.candidates import TOLERANCES, WITH_KERNELS, comparable, payload, program_space, recipe_of, schedules_name, thread_choices
from kopt.errors import ToolchainError, UsageError
from kopt.hardware import Target, available_cores
from kopt.ir.fingerprint import structure_fingerprint
from kopt.ir.graph import Graph
from kopt.kernel_search import KernelTuning, kernel_revision, kernel_uses
from kopt.references import reference_outputs
from kopt.runners import child_environment
from kopt.space import Choice, Config, Workload, config_key
from kopt.trial import Failure, Limits, Measured, Outcome, Timing, TrialPool, TrialRequest

IMPLEMENTATION = "program"
OBJECTIVES = ("latency", "throughput", "pareto")
AUTO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_MODULE, _ENTRY = "kopt.candidates", "kopt.candidates:build"
_SEARCH_SHARE, _SEARCH_SHARE_BEFORE_CURVE = 0.75, 0.5
"""Of the budget; the rest is for the race and the batch curve."""
_KERNEL_SHARE = 0.6
"""Of the budget, for the tilings of kernels; what they leave is for programs."""
_LEAST_RACE_SHARE = 0.2
"""Of the budget, for the race even where trials took all of it: a race of one round is mostly noise."""
_FINALISTS = 3
_TRIAL_BLOCK_S, _RACE_BLOCK_S = 0.5, 0.25
_MEMORY_SHARE = 0.8

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """What a search may do.

    Attributes:
        budget_s: seconds for search, race and batch curve.
        objective: "latency", "throughput" or "pareto"; it decides the batches where they are to be chosen.
        resume: go on with the last search of this model that was cut off; what that spent counts.
        database: file of trials; None: the user's own.
        seed: decides every random choice.
        precisions: allowed ones, the preferred first.
        kernels: whether kopt's own kernels may be used.
    """

    budget_s: float
    objective: str = "latency"
    resume: bool = False
    database: Path | None = None
    seed: int = 0
    precisions: tuple[str, ...] = ("fp32",)
    kernels: bool = True

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"unknown objective '{self.objective}'", next_step=f"choose one of: {', '.join(OBJECTIVES)}")


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        config: the fastest program.
        batches: worth compiling for, where they were to be chosen; else ().
        report: the report's section "search".
        schedules: of kernels, which the config's knob "schedules" stands for.
    """

    config: Config
    batches: tuple[int, ...]
    report: dict[str, Any]
    schedules: Mapping[str, Any] = field(default_factory=dict)


def tune_program(
    graph: Graph,
    buckets: Sequence[Bucket],
    target: Target,
    tuning: Tuning,
    *,
    threads: int | None = None,
    curve: Sequence[Bucket] = (),
    progress: Progress = lambda _: None,
) -> Tuned:
    """Find the fastest program of a graph.

    Args:
        graph: as imported and planned.
        buckets: shapes whose latencies are summed; all are compiled into one program each.
        target: this machine.
        tuning: budget and objective.
        threads: the only count allowed; None: searched.
        curve: batches to choose from, by growing batch; none: ``buckets`` are what is wanted.
        progress: hears what is being done, with the best so far and the time left.

    Raises:
        ToolchainError: no candidate works; the message has the first one's failure.
        FileError: the database is damaged or cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="kopt-tune-") as folder, TrialDatabase(tuning.database) as database:
        search = _ProgramSearch(graph, buckets, target, tuning, threads, database, Path(folder), progress)
        try:
            return search.run(curve)
        finally:
            search.close()


@dataclass
class _ProgramSearch:
    """One call of ``tune_program``."""

    graph: Graph
    buckets: Sequence[Bucket]
    target: Target
    tuning: Tuning
    threads: int | None
    database: TrialDatabase
    folder: Path
    progress: Progress
    alive: dict[str, TrialPool] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    best_us: float | None = None
    schedules: Mapping[str, Any] = field(default_factory=dict)
    kernels_report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from kopt.targets.base import backend

        cores = available_cores()
        self.counts = (self.threads,) if self.threads is not None else thread_choices(cores)
        shapes = [{name: list(shape) for name, shape in bucket.shapes.items()} for bucket in self.buckets]
        self.workload = Workload("model", attrs={"graph": structure_fingerprint(self.graph), "name": self.graph.name, "shapes": shapes})
        self.surroundings = Surroundings(self.target.fingerprint, {"xla": backend("xla").version(), "cores": str(cores)})
        known = self.database.trials(self.workload, self.surroundings, IMPLEMENTATION)
        self.known = [record for record in known if not record.run.startswith("final:")]
        self.finals = [record for record in known if record.run.startswith("final:")]
        self.run_name, spent_s = self._run_name()
        self.started = time.monotonic() - spent_s
        self.model = str(self.folder / "model.onnx")
        self.kernels = self._kernel_tuning()
        if self.kernels is not None:
            self.schedules = self.kernels.known().schedules
        self._open_search()

    def _kernel_tuning(self) -> KernelTuning | None:
        """The search of the kernels that programs call; None where they call none."""
        space = program_space(self.graph, self.target, precisions=self.tuning.precisions, threads=self.counts, kernels=self.tuning.kernels)
        default = space.default()
        recipe = recipe_of(default, self.target)
        uses = kernel_uses(self.graph, self.buckets, recipe, self.target) if recipe.options.get("kernels") else []
        if not uses:
            return None
        threads = int(default["threads"])
        surroundings = Surroundings(
            self.target.fingerprint, {**self.surroundings.versions, "threads": str(threads), "kernels": kernel_revision()}
        )
        return KernelTuning(
            uses, self.target, surroundings, self.database, self.folder, self.run_name, threads, self.tuning.seed, self.progress
        )

    def _open_search(self) -> None:
        """A search of the programs there are with the schedules known now."""
        self.space = program_space(
            self.graph,
            self.target,
            precisions=self.tuning.precisions,
            threads=self.counts,
            kernels=self.tuning.kernels,
            schedules=self.schedules,
        )
        settings = SearchSettings(
            self.tuning.seed, num_first=6, batch=4, near_share=0.5, doubt_share=0.25, random_share=0.25, give_up=2.0, patience=4
        )
        self.search = Search(
            self.space,
            settings,
            name=self.workload.digest,
            hints=[*self._with_schedules(), *self.database.hints(self.workload, self.surroundings, IMPLEMENTATION)],
            known=[(record.config, record.outcome) for record in self.known],
        )
        self.best_us = self.search.best.p50_us if self.search.best else None

    def _with_schedules(self) -> list[Config]:
        """What was found for kernels is tried right after the default, in all programs that call them."""
        if not self.schedules:
            return []
        found = {**self.space.default(), "schedules": schedules_name(self.schedules)}
        return [config for config in ({**found, "program": name} for name in WITH_KERNELS) if config in self.space]

    def _tune_kernels(self) -> None:
        """Kernels first: what is found for them is one more program to try."""
        if self.kernels is None:
            return
        found = self.kernels.search(max(0.0, _KERNEL_SHARE * self.tuning.budget_s - self.elapsed_s))
        self.schedules, self.kernels_report = found.schedules, found.report
        self._open_search()

    def run(self, curve: Sequence[Bucket]) -> Tuned:
        """Search, race, and the batch curve."""
        settled = self._settled()
        if settled is None or curve:
            self._write_model()
        if settled is None:
            self._tune_kernels()
            self._try_all(_SEARCH_SHARE_BEFORE_CURVE if curve else _SEARCH_SHARE)
            config, ratios = self._race()
            self._settle(config)
        else:
            config, ratios = settled, []
            self.progress("tuning: the database knows this model")
        points = self._curve(config, curve) if curve else []
        report = self._report(config, ratios, points, settled is not None)
        return Tuned(config, chosen_batches(points, self.tuning.objective), report, self.schedules)

    def close(self) -> None:
        """End all children."""
        for pool in self.alive.values():
            pool.close()

    def _run_name(self) -> tuple[str, float]:
        """This run's name, and the seconds it has already spent: with ``resume`` those of the last run that was cut off."""
        finished = {record.run.removeprefix("final:") for record in self.finals}
        open_runs = [record.run for record in self.known if record.run not in finished]
        if self.tuning.resume and open_runs:
            return open_runs[-1], sum(record.outcome.seconds for record in self.known if record.run == open_runs[-1])
        return f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}", 0.0

    def _settled(self) -> Config | None:
        """The winner of an earlier search of the same space with no smaller budget, where nothing has to be resumed."""
        if self.tuning.resume:
            return None
        for record in reversed(self.finals):
            facts = record.outcome.facts if isinstance(record.outcome, Measured) else {}
            if facts.get("budget_s", 0.0) >= self.tuning.budget_s and record.config in self.space:
                return record.config
        return None

    def _settle(self, config: Config) -> None:
        best = self.search.best
        outcome = next((one.outcome for one in reversed(self.known) if one.config_key == config_key(config)), None)
        if best is not None and isinstance(outcome, Measured):
            facts = {**outcome.facts, "budget_s": self.tuning.budget_s}
            record = TrialRecord(
                self.workload, IMPLEMENTATION, config, replace(outcome, facts=facts), self.surroundings, f"final:{self.run_name}"
            )
            self.database.add(record)

    @property
    def elapsed_s(self) -> float:
        """Seconds spent, those of the run that is resumed included."""
        return time.monotonic() - self.started

    def _is_over(self) -> bool:
        return self.elapsed_s >= self.tuning.budget_s

    def _write_model(self) -> None:
        """The graph for the children, and what its outputs should be."""
        from kopt.frontend.export import save

        self.progress("tuning: computing the reference")
        save(self.graph, self.model, external=True)
        expected: list[np.ndarray] = []
        for bucket in self.buckets:
            feeds = random_inputs(self.graph, bucket.shapes)
            expected += map(comparable, map(np.asarray, reference_outputs(self.graph, bucket.shapes, feeds).outputs))
        np.savez(self.folder / "reference.npz", allow_pickle=False, **{str(k): array for k, array in enumerate(expected)})

    def _try_all(self, share: float) -> None:
        """Trials until a share of the budget is spent, or nothing is left to gain.

        The default is tried in any case, and so is what was found for its kernels: it has cost most of the budget.
        """
        usual_s = 0.0
        least = 1 + len(self._with_schedules())
        while not self.search.is_finished:
            if self.search.num_trials >= least and self.elapsed_s + usual_s >= share * self.tuning.budget_s:
                break  # another trial would not end in time
            begun = self.elapsed_s
            if self.search.try_next(self._measure) is None:
                break
            self._tell(begun)
            usual_s = median(event["seconds"] for event in self.events)
        if self.search.best is None:
            failed = next((one.outcome for one in self.known if isinstance(one.outcome, Failure)), None)
            reason = f"{failed.kind}: {failed.detail}" if failed else "none was tried"
            raise ToolchainError(f"no candidate works ({reason})", where=self.graph.name, next_step="`kopt db show` lists what was tried")

    def _tell(self, begun_s: float) -> None:
        """One line of progress: the best so far, failures, and when the search will end."""
        record, best = self.known[-1], self.search.best
        failures = sum(event["kind"] not in ("measured", "slow") for event in self.events)
        self.best_us = best.p50_us if best else None
        left_s = max(0.0, self.tuning.budget_s - self.elapsed_s)
        self.events[-1] |= {"best_us": self.best_us, "elapsed_s": round(self.elapsed_s, 2), "seconds": round(self.elapsed_s - begun_s, 2)}
        shown = "nothing works yet" if best is None else f"best {best.p50_us / 1e3:.3g} ms ({_spelled(best.config)})"
        self.progress(
            f"tuning: trial {len(self.events)} {record.kind}, {shown}"
            + (f", {failures} failed" if failures else "")
            + f", {left_s:.0f} s left"
        )

    def _measure(self, config: Config, *, give_up_us: float | None) -> Outcome:
        """Build and time a candidate in a child of its own, and file the trial."""
        pool = self._pool(config)
        try:
            outcome = pool.run(self.request(config, self.buckets, give_up_us=give_up_us), self.limits())
        except BaseException:
            pool.close()
            raise
        record = TrialRecord(self.workload, IMPLEMENTATION, config, outcome, self.surroundings, self.run_name)
        self.database.add(record)
        self.known.append(record)
        event: dict[str, Any] = {"config": _spelled(config), "knobs": dict(config), "kind": record.kind, "p50_us": record.p50_us}
        if isinstance(outcome, Failure):
            event["failure"] = f"{outcome.kind}: {outcome.detail}"
        self.events.append(event)
        self._keep(pool, record)
        return outcome

    def _pool(self, config: Config) -> TrialPool:
        return TrialPool(_MODULE, limits=self.limits(), environment=child_environment(int(config["threads"])))

    def limits(self) -> Limits:
        """A candidate may take as long as ten of the default, but a minute in any case."""
        first = next((one.outcome.seconds for one in self.known if isinstance(one.outcome, Measured)), 0.0)
        memory = int(psutil.virtual_memory().total * _MEMORY_SHARE)
        return Limits(seconds=max(60.0, 10.0 * first) if first else 600.0, memory_bytes=memory)

    def request(
        self, config: Config, buckets: Sequence[Bucket], *, give_up_us: float | None = None, timing: Timing | None = None
    ) -> TrialRequest:
        """What a child is asked: to compare with the reference where it is the wanted shapes, and to time."""
        if timing is None:
            limit = None if give_up_us is None else int(give_up_us * 1e3)
            timing = Timing(warmup_calls=2, block_s=_TRIAL_BLOCK_S, min_calls=5, max_s=10.0, give_up_ns=limit)
        content = payload(self.model, config, self.target, buckets, self.schedules)
        reference = self.folder / "reference.npz" if buckets is self.buckets else None
        return TrialRequest(_ENTRY, content, reference, TOLERANCES[str(config["precision"])], timing)

    def _keep(self, pool: TrialPool, record: TrialRecord) -> None:
        """Keep the children of the fastest, and of the default, alive for the race; end the others."""
        self.alive[record.config_key] = pool
        times = {one.config_key: one.p50_us for one in self.known}
        measured = sorted((key for key in self.alive if times.get(key) is not None), key=lambda key: times[key] or 0.0)
        kept = {*measured[:_FINALISTS], *(key for key in measured if key == config_key(self.space.default()))}
        for key in set(self.alive) - kept:
            self.alive.pop(key).close()

    def _race(self) -> tuple[Config, list[dict[str, Any]]]:
        """The winner among the fastest whose children are alive, and how the others did; the search's best where fewer than two are."""
        best = self.search.best
        configs = {one.config_key: one.config for one in self.known}
        default = config_key(self.space.default())
        keys = sorted(self.alive, key=lambda key: key != default)
        if best is None or len(keys) < 2 or config_key(best.config) not in keys:
            return (best.config if best else self.space.default()), []
        self.progress(f"tuning: racing {len(keys)} candidates")
        racers = [_Racer(self, configs[key], self.alive[key]) for key in keys]
        ends_s = max(self.tuning.budget_s, self.elapsed_s + _LEAST_RACE_SHARE * self.tuning.budget_s)
        settings = RaceSettings(rounds=4, block_s=_RACE_BLOCK_S, min_calls=3, max_s=5.0)
        result = race(racers, settings, lambda: self.elapsed_s >= ends_s)
        if not result.order:
            return best.config, []
        found = [
            {"config": dict(configs[keys[index]]), "ratio": ratio, "p50_us": result.measurements[index].p50_us}
            for index, ratio in zip(result.order, result.ratios, strict=True)
        ]
        return configs[keys[result.order[0]]], found

    def _curve(self, config: Config, curve: Sequence[Bucket]) -> list[BatchPoint]:
        """Latency over the batch with the winner; each batch in a child of its own."""
        buckets = {bucket.batch: bucket for bucket in curve}
        for pool in self.alive.values():
            pool.close()
        self.alive.clear()

        def measure(batch: int) -> float | None:
            left_s = max(0.0, self.tuning.budget_s - self.elapsed_s)
            self.progress(f"tuning: batch {batch}, {left_s:.0f} s left")
            with self._pool(config) as pool:
                timing = Timing(warmup_calls=2, block_s=_TRIAL_BLOCK_S, min_calls=5, max_s=10.0)
                outcome = pool.run(self.request(config, [buckets[batch]], timing=timing), self.limits())
            return outcome.p50_us if isinstance(outcome, Measured) else None

        return batch_curve(measure, sorted(buckets), self._is_over)

    def _report(self, config: Config, ratios: list[dict[str, Any]], points: Sequence[BatchPoint], from_database: bool) -> dict[str, Any]:
        bend = knee(points)
        front = {point.batch for point in pareto(points)}
        return {
            "budget_s": self.tuning.budget_s,
            "seconds": round(self.elapsed_s, 2),
            "objective": self.tuning.objective,
            "run": self.run_name,
            "from_database": from_database,
            "num_known": len(self.known) - len(self.events),
            "num_combinations": self.space.num_combinations,
            "chosen": dict(config),
            "trials": self.events,
            "failures": dict(Counter(event["kind"] for event in self.events if event["kind"] not in ("measured", "slow"))),
            "race": ratios,
            **({"kernels": dict(self.kernels_report)} if self.kernels_report else {}),
            "batches": [
                {
                    "batch": point.batch,
                    "p50_us": point.p50_us,
                    "throughput_per_s": point.throughput_per_s,
                    "pareto": point.batch in front,
                    "knee": bend is not None and point.batch == bend.batch,
                }
                for point in points
            ],
        }


@dataclass(frozen=True)
class _Racer:
    """A candidate's child, asked again to time the program it holds."""

    search: _ProgramSearch
    config: Config
    pool: TrialPool

    def block(self, block_s: float, min_calls: int, max_s: float) -> Sequence[int]:
        timing = Timing(warmup_calls=1, block_s=block_s, min_calls=min_calls, max_s=max_s)
        search = self.search
        request = search.request(self.config, search.buckets, timing=timing)
        outcome = self.pool.run(replace(request, reference=None), search.limits())  # it was compared in its trial
        if isinstance(outcome, Failure):
            raise ToolchainError(f"{outcome.kind}: {outcome.detail}")
        return [sample for block in outcome.measurement.blocks_ns for sample in block]


def _spelled(config: Mapping[str, Choice]) -> str:
    """A config for people."""
    return ", ".join(f"{name} {choice}" for name, choice in config.items() if choice not in ("default", "auto"))
