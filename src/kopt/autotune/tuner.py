"""Tuning workloads one by one under one budget of time; every finished trial is filed before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kopt.autotune.budget import Arm, choose
from kopt.autotune.database import TrialDatabase
from kopt.autotune.record import Surroundings, TrialRecord
from kopt.autotune.search import Best, Measure, Search, SearchSettings
from kopt.space import Config, SearchSpace, Workload
from kopt.trial import Failure, Outcome

CONFIRM_SHARE = 0.15
"""Of the budget, for measuring each task's fastest configs again."""


@dataclass(frozen=True)
class Task:
    """One implementation of one workload, to be searched.

    Attributes:
        workload: what is to be done.
        implementation: who does it; part of the database's key.
        space: its configs.
        calls: how often the workload runs in one call of the model.
        floor_us: no config can be faster; 0 unknown.
    """

    workload: Workload
    implementation: str
    space: SearchSpace
    calls: int = 1
    floor_us: float = 0.0

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.implementation}: {self.workload}"


class MeasureTask(Protocol):
    """Tries one config of a task."""

    def __call__(self, task: Task, config: Config, *, give_up_us: float | None) -> Outcome:
        """The outcome; a candidate whose first calls are slower than ``give_up_us`` need not be timed further."""
        ...


@dataclass(frozen=True, slots=True)
class TuneProgress:
    """The state after a trial.

    Attributes:
        task: it belongs to.
        outcome: of the trial.
        num_trials, num_failures: made in this run.
        best_us: the task's fastest config so far.
        model_us: sum over the workloads of their fastest times, as often as each is called; None while one has none.
        elapsed_s, budget_s: seconds.
    """

    task: Task
    outcome: Outcome
    num_trials: int
    num_failures: int
    best_us: float | None
    model_us: float | None
    elapsed_s: float
    budget_s: float


@dataclass(frozen=True)
class TunedTask:
    """What became of a task.

    Attributes:
        task: the task.
        best: its fastest config; None where everything failed.
        num_trials: different configs known, earlier runs' included.
        seconds: of this run.
    """

    task: Task
    best: Best | None
    num_trials: int
    seconds: float


@dataclass
class Tuner:
    """Splits a budget over tasks.

    Attributes:
        database: trials made here before are built upon, foreign ones are hints, and every trial is filed.
        surroundings: where times are valid.
        settings: of each search.
        run: name of this run in the database.
        clock: seconds; tests bring their own.
    """

    database: TrialDatabase
    surroundings: Surroundings
    settings: SearchSettings = field(default_factory=SearchSettings)
    run: str = ""
    clock: Callable[[], float] = time.monotonic

    def tune(
        self, tasks: Sequence[Task], measure: MeasureTask, budget_s: float, progress: Callable[[TuneProgress], None] | None = None
    ) -> list[TunedTask]:
        """Search until the budget is spent or nothing is left to gain; one result per task.

        A trial that has begun is finished, so the budget is overrun by one trial at most. An interrupt passes through; what
        was finished before it is in the database, and the next run goes on from there.
        """
        known = [self.database.trials(task.workload, self.surroundings, task.implementation) for task in tasks]
        searches = [self._search(task, records) for task, records in zip(tasks, known, strict=True)]
        arms = [self._arm(task, search, records) for task, search, records in zip(tasks, searches, known, strict=True)]
        run = _Run(self, list(tasks), searches, measure, budget_s, progress)
        for share in (1.0 - CONFIRM_SHARE, 1.0):  # what confirming leaves is searched on
            run.ends_s = share * budget_s
            for index in iter(lambda: None if run.is_over else choose(arms), None):
                begun, search = self.clock(), searches[index]
                run.round(index, self.settings.num_first if search.num_trials == 0 else self.settings.batch)
                arms[index].took(self.clock() - begun, search.best.p50_us if search.best else None)
                arms[index].is_finished = search.is_finished
            run.ends_s = budget_s
            for index, search in enumerate(searches):
                search.confirm(run.measuring(index), lambda: run.is_over)
        return [
            TunedTask(task, search.best, search.num_trials, arm.seconds) for task, search, arm in zip(tasks, searches, arms, strict=True)
        ]

    def _search(self, task: Task, records: Sequence[TrialRecord]) -> Search:
        return Search(
            task.space,
            self.settings,
            name=f"{task.implementation}/{task.workload.digest}",
            hints=self.database.hints(task.workload, self.surroundings, task.implementation),
            known=[(record.config, record.outcome) for record in records],
        )

    def _arm(self, task: Task, search: Search, records: Sequence[TrialRecord]) -> Arm:
        """What earlier runs spent counts as spent: a resumed search is no fresh one."""
        rounds = -(-search.num_trials // self.settings.batch)
        seconds = sum(record.outcome.seconds for record in records)
        best_us = search.best.p50_us if search.best else None
        return Arm(task.workload.digest, task.calls, best_us, task.floor_us, rounds, seconds, is_finished=search.is_finished)


@dataclass
class _Run:
    """Makes, files and reports the trials of one call of ``tune``."""

    tuner: Tuner
    tasks: list[Task]
    searches: list[Search]
    measure: MeasureTask
    budget_s: float
    progress: Callable[[TuneProgress], None] | None
    num_trials: int = 0
    num_failures: int = 0

    def __post_init__(self) -> None:
        self.started = self.tuner.clock()
        self.ends_s = self.budget_s

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        return self.tuner.clock() - self.started >= self.ends_s

    def round(self, index: int, trials: int) -> None:
        """So many trials of one search, fewer when the budget is spent or nothing is left to try."""
        measure = self.measuring(index)
        for _ in range(trials):
            outcome = None if self.is_over else self.searches[index].try_next(measure)
            if outcome is None:
                return
            if self.progress is not None:
                self.progress(self._state(index, outcome))

    def measuring(self, index: int) -> Measure:
        """What a search calls: measures, and files the trial before anybody learns of it."""
        tuner, task = self.tuner, self.tasks[index]

        def measure(config: Config, *, give_up_us: float | None) -> Outcome:
            outcome = self.measure(task, config, give_up_us=give_up_us)
            tuner.database.add(TrialRecord(task.workload, task.implementation, config, outcome, tuner.surroundings, tuner.run))
            self.num_trials += 1
            self.num_failures += isinstance(outcome, Failure)
            return outcome

        return measure

    def _state(self, index: int, outcome: Outcome) -> TuneProgress:
        best = self.searches[index].best
        return TuneProgress(
            self.tasks[index],
            outcome,
            self.num_trials,
            self.num_failures,
            best.p50_us if best else None,
            self._model_us(),
            self.tuner.clock() - self.started,
            self.budget_s,
        )

    def _model_us(self) -> float | None:
        """The model's time if every workload ran its fastest config."""
        fastest: dict[Workload, float] = {}
        for task, search in zip(self.tasks, self.searches, strict=True):
            if search.best is not None:
                fastest[task.workload] = min(search.best.p50_us, fastest.get(task.workload, float("inf")))
        calls = {task.workload: task.calls for task in self.tasks}
        return sum(fastest[one] * calls[one] for one in calls) if len(fastest) == len(calls) else None
