"""The gate: which limits hold for which artifact, what has to be measured for them, and the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kopt.artifact import Artifact, Manifest, StoredProgram, is_artifact, read_manifest
from kopt.buckets import random_inputs
from kopt.check.budget import Budget
from kopt.check.describe import sentence
from kopt.check.family import correct, is_doubtful
from kopt.check.judge import Finding, Result, judge_absolute, judge_regression
from kopt.check.measure_pairs import PairProtocol, ProcessRun, measure_process
from kopt.check.sequence import Measure, MeasuringTime
from kopt.check.verdict import Verdict
from kopt.errors import FileError, UsageError
from kopt.hardware import available_cores, cpu_name

STATISTICAL = ("p50", "p90", "p99", "throughput")
MEASURED = (*STATISTICAL, "load_time", "peak_memory")
DEFAULT_MAX_REGRESSION = 0.05
"""Where a baseline is given and no budget says how much slower an artifact may be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One limit to judge; ``foreign`` when it was written for another machine only."""

    key: str
    limit: float
    line: int = 0
    foreign: bool = False


@dataclass(frozen=True)
class Samples:
    """Everything measured for one model at one batch."""

    model: str
    batch: int
    first: tuple[ProcessRun, ...] = ()
    confirmation: tuple[ProcessRun, ...] = ()
    alone: tuple[ProcessRun, ...] = ()

    @property
    def runs(self) -> tuple[ProcessRun, ...]:
        """All runs, whose candidate blocks absolute limits are judged on."""
        return (*self.first, *self.confirmation, *self.alone)


@dataclass(frozen=True)
class Outcome:
    """What the gate says, with the samples behind it."""

    results: tuple[Result, ...]
    samples: tuple[Samples, ...]
    machine: str
    seed: int

    @property
    def verdict(self) -> Verdict:
        """FAIL before INCONCLUSIVE before PASS."""
        return Verdict.worst([result.verdict for result in self.results])

    def __str__(self) -> str:
        return "\n".join(f"{result.verdict.value}: {sentence(result)}" for result in self.results)


@dataclass(frozen=True)
class Gate:
    """How artifacts are judged; ``evaluate`` judges them.

    Attributes:
        budgets: limits from a file.
        baseline: an artifact, or a directory of artifacts, that a candidate must not be slower than.
        protocol: of measuring.
        seed: of the order of blocks and of the bootstrap.
        threads: of the measured processes; 0 for all cores this process may use.
        progress: called with what is being done.
        machine: this processor's name; by default read.
        recording: whether artifacts become baselines afterwards, so that a missing baseline is no obstacle.
    """

    budgets: tuple[Budget, ...] = ()
    baseline: Path | None = None
    protocol: PairProtocol = field(default_factory=PairProtocol)
    seed: int = 0
    threads: int = 0
    progress: Callable[[str], None] = lambda _: None
    machine: str = ""
    recording: bool = False

    def evaluate(self, artifacts: Sequence[Path]) -> Outcome:
        """Judge every limit of every artifact.

        Raises:
            UsageError: nothing limits an artifact.
            ArtifactError, FileError, ToolchainError: an artifact or the baseline cannot be used.
        """
        machine = self.machine or cpu_name()
        results: list[Result] = []
        samples: list[Samples] = []
        opened = [Artifact.open(path) for path in artifacts]
        subjects = [_Subject(self, machine, artifact, find_baseline(self.baseline, artifact)) for artifact in opened]
        family = sum(subject.num_judged() for subject in subjects)
        for subject in subjects:
            found = subject.judge(family)
            results += found[0]
            samples += found[1]
        return Outcome(correct(results), tuple(samples), machine, self.seed)


def batch_of(program: StoredProgram) -> int:
    """Rows of a call; 0 where the inputs do not agree on one."""
    leading = {tensor.static_shape[0] for _, tensor in program.signature.inputs if tensor.static_shape}
    return leading.pop() if len(leading) == 1 else 0


def wanted_limits(budgets: Sequence[Budget], model: str, batch: int, machine: str, *, has_baseline: bool) -> list[Wanted]:
    """The limits of a model at a batch. A limit for other machines counts only where none of its kind is for this one."""
    found = [
        Wanted(key, limit, budget.line, not budget.fits_machine(machine))
        for budget in budgets
        if budget.selects(model, batch)
        for key, limit in budget.limits.items()
    ]
    here = {wanted.key for wanted in found if not wanted.foreign}
    kept = [wanted for wanted in found if not wanted.foreign or wanted.key not in here]
    if has_baseline and not any(wanted.key == "max_regression" for wanted in kept):
        kept.append(Wanted("max_regression", DEFAULT_MAX_REGRESSION))
    return kept


def find_baseline(baseline: Path | None, artifact: Artifact) -> tuple[Path, Manifest] | None:
    """The artifact to compare with: the given one, or in a directory the one of the same file name or model name.

    Raises:
        FileError: there is no such file or directory.
        ArtifactError: it is damaged.
    """
    if baseline is None:
        return None
    if is_artifact(baseline):
        return baseline, read_manifest(baseline)
    if not baseline.is_dir():
        raise FileError(f"there is no baseline '{baseline}'", next_step="give an artifact or a directory of artifacts to --baseline")
    same = baseline / artifact.path.name
    if is_artifact(same):
        return same, read_manifest(same)
    for path in sorted(baseline.iterdir()):
        if is_artifact(path) and (manifest := read_manifest(path)).name == artifact.manifest.name:
            return path, manifest
    return None


@dataclass(frozen=True)
class _Subject:
    """One artifact under judgement."""

    gate: Gate
    machine: str
    artifact: Artifact
    baseline: tuple[Path, Manifest] | None

    def num_judged(self) -> int:
        """Limits that statistics will judge."""
        wanted = [(program, one) for program in self.artifact.manifest.programs for one in self._wanted(program)]
        judged = [one.key in STATISTICAL or (one.key == "max_regression" and not self._unmeasured(program)) for program, one in wanted]
        return sum(judged)

    def _wanted(self, program: StoredProgram) -> list[Wanted]:
        given = self.gate.baseline is not None
        return wanted_limits(self.gate.budgets, self.artifact.manifest.name, batch_of(program), self.machine, has_baseline=given)

    def judge(self, family: int) -> tuple[list[Result], list[Samples]]:
        """Results and samples of every batch; ``family`` is how many limits the whole job judges by statistics."""
        results: list[Result] = []
        samples: list[Samples] = []
        manifest = self.artifact.manifest
        sized: set[int] = set()
        for program in manifest.programs:
            batch, wanted = batch_of(program), self._wanted(program)
            measured = self._measure(program, batch, wanted, family)
            if measured.runs:
                samples.append(measured)
            for limit in wanted:
                if limit.key == "artifact_size" and limit.line in sized:
                    continue  # one size, however many batches
                sized |= {limit.line} if limit.key == "artifact_size" else set()
                found = self._finding(limit, program, batch, measured)
                results.append(_result(manifest.name, batch, limit, found))
        if not results:
            raise UsageError(
                f"no budget selects '{manifest.name}'",
                where=str(self.artifact.path),
                next_step="add a [[budget]] for it, or give --baseline",
            )
        return results, samples

    def _measure(self, program: StoredProgram, batch: int, wanted: Sequence[Wanted], family: int) -> Samples:
        """Everything the limits need, within the time of one model, which its batches share."""
        gate, manifest = self.gate, self.artifact.manifest
        absolute = [one for one in wanted if one.key in MEASURED and not one.foreign]
        regression = [one.limit for one in wanted if one.key == "max_regression"] if not self._unmeasured(program) else []
        if not absolute and not regression:
            return Samples(manifest.name, batch)
        spent = MeasuringTime(self._measure_one(program, batch), gate.protocol, gate.protocol.time_limit_s / len(manifest.programs))
        first, confirmation = spent.regression(min(regression), gate.seed) if regression else ((), ())

        def settled(runs: Sequence[ProcessRun]) -> bool:
            found = [judge_absolute(one.key, one.limit, batch, runs, seed=gate.seed) for one in absolute]
            return not any(one.verdict is Verdict.INCONCLUSIVE or is_doubtful(one, family) for one in found)

        alone = spent.alone((*first, *confirmation), settled) if absolute else ()
        return Samples(manifest.name, batch, first, confirmation, alone)

    def _measure_one(self, program: StoredProgram, batch: int) -> Measure:
        from kopt.frontend.load import load

        gate, path = self.gate, self.artifact.path
        shapes = {name: tensor.static_shape for name, tensor in program.signature.inputs}
        shapes |= {name: array.shape for name, array in program.values.items()}
        feeds = {**random_inputs(load(str(self.artifact.model_path)), shapes), **program.values}

        def measure(number: int, beside_baseline: bool, max_block_s: float, within_s: float) -> ProcessRun:
            gate.progress(f"measuring {self.artifact.manifest.name} batch {batch}, process {number + 1}")
            return measure_process(
                self.baseline[0] if beside_baseline and self.baseline is not None else None,
                path,
                feeds,
                number=number,
                threads=gate.threads or available_cores(),
                protocol=gate.protocol,
                max_block_s=max_block_s,
                seed=gate.seed,
                within_s=within_s,
            )

        return measure

    def _unmeasured(self, program: StoredProgram) -> Finding | None:
        """Why the baseline is not measured beside the artifact, as a verdict; None when it is."""
        manifest = self.artifact.manifest
        if self.baseline is None:
            given = self.gate.baseline
            if self.gate.recording:
                return Finding(Verdict.PASS, note="there is no baseline yet; this becomes it when everything passes")
            note = (
                "there is no baseline; give --baseline" if given is None else f"'{given}' has no such model; --update-baseline records it"
            )
            return Finding(Verdict.INCONCLUSIVE, note=note)
        other = self.baseline[1]
        if manifest.program and other.program == manifest.program:
            return Finding(Verdict.PASS, 0.0, 0.0, 0.0, note="unchanged, not measured")
        if program.signature.inputs not in [one.signature.inputs for one in other.programs]:
            return Finding(Verdict.INCONCLUSIVE, note="the baseline was not compiled for these shapes; compile it for them")
        return None

    def _finding(self, wanted: Wanted, program: StoredProgram, batch: int, samples: Samples) -> Finding:
        gate = self.gate
        if wanted.key == "max_regression":
            skipped = self._unmeasured(program)
            if skipped is not None:
                return skipped
            return judge_regression(samples.first, samples.confirmation, wanted.limit, seed=gate.seed, protocol=gate.protocol)
        if wanted.key == "artifact_size":
            return _fixed(float(sum(file.size for file in self.artifact.manifest.files.values())), wanted.limit, "")
        if wanted.key == "accuracy_drop":
            entries = [one for one in self.artifact.report.get("buckets", ()) if one.get("batch") == batch and "accuracy" in one]
            if not entries:
                return Finding(Verdict.INCONCLUSIVE, note="the artifact's report holds no accuracy for this batch; compile it again")
            accuracy = entries[0]["accuracy"]
            return _fixed(float(accuracy["relative"]), wanted.limit, f"against {accuracy['reference']}")
        if wanted.foreign:
            return Finding(Verdict.INCONCLUSIVE, note=f"the limit is for another machine than {self.machine}; run there or add a budget")
        return judge_absolute(wanted.key, wanted.limit, batch, samples.runs, seed=gate.seed)


def _fixed(value: float, limit: float, note: str) -> Finding:
    verdict = Verdict.PASS if value <= limit else Verdict.FAIL
    return Finding(verdict, value, value, value, note=note)


def _result(model: str, batch: int, wanted: Wanted, found: Finding) -> Result:
    return Result(
        model,
        batch,
        wanted.key,
        found.verdict,
        wanted.limit,
        found.value,
        found.lower,
        found.upper,
        found.num_pairs,
        found.num_samples,
        found.note,
        wanted.line,
        found.p_value,
    )
