"""Long-lived children that try one candidate after another, each replaced after a failure."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

from kopt.trial.outcome import Failure, Outcome
from kopt.trial.process import Child
from kopt.trial.request import Limits, TrialRequest


class TrialPool:
    """Children that import an entry's module once and then try candidates; safe to share between threads.

    Timing wants one child: two at work take each other's cores. A child that failed is replaced by a fresh one, save for a
    plain exception, which leaves nothing behind.
    """

    def __init__(
        self,
        preload: str = "",
        *,
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
        num_children: int = 1,
        max_trials: int = 200,
    ) -> None:
        """Children start when they are first needed.

        Args:
            preload: a module each child imports when it starts, so that no trial pays for it.
            limits: of every trial.
            environment: variables set in the children on top of this process's own, such as thread counts.
            num_children: how many trials may run at once.
            max_trials: after so many a child is replaced, so that leaks stay bounded.
        """
        self._preload = preload
        self._limits = limits or Limits()
        self._environment = dict(environment or {})
        self._max_trials = max_trials
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        self._children: set[Child] = set()
        self._closed = False
        for _ in range(num_children):
            self._idle.put(None)

    def run(self, request: TrialRequest, limits: Limits | None = None) -> Outcome:
        """Try one candidate; waits while all children are busy.

        Args:
            request: the candidate.
            limits: other limits of time and resident memory, for this trial alone.

        Raises:
            ToolchainError: a child cannot start at all.
        """
        start = time.perf_counter()
        child = self._idle.get()
        keep = False
        try:
            if child is None:
                child = Child(self._preload, self._limits, self._environment)
                self._children.add(child)
            outcome = child.ask(request, limits or self._limits)
            keep = not isinstance(outcome, Failure) or (outcome.kind == "error" and child.is_alive)
            keep = keep and child.num_trials < self._max_trials and not self._closed
            return replace(outcome, seconds=time.perf_counter() - start)
        finally:  # an interrupt too must not leave a child busy with a request nobody waits for
            if child is not None and not keep:
                self._children.discard(child)
                child.close()
            self._idle.put(child if keep else None)

    def close(self) -> None:
        """End all children, also those at work for other threads."""
        self._closed = True
        for child in list(self._children):
            child.close()
        self._children.clear()

    def __enter__(self) -> TrialPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def run_trial(request: TrialRequest, limits: Limits | None = None, environment: Mapping[str, str] | None = None) -> Outcome:
    """Try one candidate in a child of its own, which ends with it.

    Raises:
        ToolchainError: the child cannot start at all.
    """
    with TrialPool(limits=limits, environment=environment) as pool:
        return pool.run(request)
