"""The gate from Python: what ``kopt check`` does, without its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kopt.check.budget import Budget, budget_of, read_budgets
from kopt.check.gate import Gate, Outcome
from kopt.check.measure_pairs import PairProtocol
from kopt.errors import UsageError


def check(
    artifact: str | Path | Sequence[str | Path],
    budget: str | Path | Mapping[str, object] | None = None,
    *,
    baseline: str | Path | None = None,
    batch: int | None = None,
    time_limit_s: float = 120.0,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Judge artifacts against limits and a baseline, on this machine, now.

    Args:
        artifact: one or several artifacts that ``kopt compile`` wrote.
        budget: a budgets.toml, or limits by key, written as in that file: ``{"p50": "5 ms", "max_regression": "5 %"}``.
        baseline: an artifact to be measured beside, or a directory of them.
        batch: which batch limits given by key are for; all batches otherwise.
        time_limit_s: for the measuring of one artifact.
        threads: of the measured processes; by default all cores this process may use.
        seed: of the order of blocks and of the bootstrap.
        progress: called with what is being done.

    Returns:
        ``verdict`` (pass, fail or inconclusive), ``results`` (one per limit) and ``samples``; ``str()`` says it all in lines.

    Raises:
        UsageError: nothing to judge against, or a limit, time or thread count that makes no sense.
        FileError, ArtifactError, ToolchainError: an artifact, the budgets or the baseline cannot be used.
    """
    if budget is None and baseline is None:
        raise UsageError("there is nothing to judge against", next_step="give budget, baseline, or both")
    if not time_limit_s > 0 or (threads is not None and threads < 1):
        raise UsageError("time limit and threads must be positive", next_step="correct time_limit_s or threads")
    artifacts = [Path(one) for one in ([artifact] if isinstance(artifact, str | Path) else artifact)]
    gate = Gate(
        _budgets(budget, batch),
        None if baseline is None else Path(baseline),
        PairProtocol(time_limit_s=time_limit_s),
        seed,
        threads or 0,
        progress or (lambda _: None),
    )
    return gate.evaluate(artifacts)


def _budgets(given: str | Path | Mapping[str, object] | None, batch: int | None) -> tuple[Budget, ...]:
    if isinstance(given, Mapping):
        return (budget_of(given, batch),)
    if batch is not None:
        raise UsageError("batch selects nothing here", next_step="write it into the budgets' file, or give limits by key")
    return () if given is None else read_budgets(Path(given))
