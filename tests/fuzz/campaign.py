"""Running a stream of damaged models in child processes, and collecting what must not happen."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from fuzz.mutations import mutated
from support.source import ROOT, SRC

LIMIT_SECONDS = 10.0
"""Of processor time, which a busy machine cannot use up; one that waits without computing ends at ``PATIENCE_SECONDS``."""

PATIENCE_SECONDS = 120.0
LIMIT_BYTES = 2 * 2**30
START_SECONDS = 120.0
BATCH = 500
"""Models per process: compiled programs stay in memory."""


@dataclass
class Findings:
    """Attributes:
    outcomes: how many models ran, loaded, were refused.
    defects: what each other model did, by its number.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    defects: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n\n".join(f"model {index}: {text}" for index, text in self.defects.items())


class Child:
    """One process that is given models."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(SRC), str(ROOT / "tests"))), "JAX_PLATFORMS": "cpu"}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "fuzz.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            cwd=tempfile.gettempdir(),
        )
        self.num_answers = 0

    def ask(self, content: bytes, run: bool) -> dict[str, Any]:
        """How a model went; a process that died or hangs is a defect, too."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        limit = LIMIT_SECONDS if self.num_answers else START_SECONDS
        try:
            self.process.stdin.write(b"%d %d\n" % (len(content), run) + content)
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"outcome": "died", "detail": self._last_words()}
        start, used = monotonic(), self._processor_seconds()
        while not select.select([self.process.stdout], [], [], 1.0)[0]:
            if self._processor_seconds() - used > limit or monotonic() - start > PATIENCE_SECONDS:
                return {"outcome": "hang", "detail": f"no answer in {limit:.0f} s"}
        line = self.process.stdout.readline()
        self.num_answers += 1
        return json.loads(line) if line.endswith(b"\n") else {"outcome": "died", "detail": self._last_words()}

    def _processor_seconds(self) -> float:
        """What the process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _last_words(self) -> str:
        code = self.process.wait(timeout=10)
        self.errors.seek(0)
        return f"exit {code}: " + self.errors.read().decode(errors="replace")[-3000:]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def run_campaign(seeds: Mapping[str, bytes], indices: range, *, run_every: int, seed: int = 0, keep: Path | None = None) -> Findings:
    """Load every model, run each one in ``run_every``; models with defects are kept in a folder, if one is given."""
    findings, child = Findings(), Child()
    child.ask(b"", False)  # imports do not count
    try:
        for index in indices:
            done, content = mutated(dict(seeds), index, seed)
            run = index % run_every == 0
            answer = child.ask(content, run)
            if answer["outcome"] in ("hang", "died") or child.num_answers >= BATCH:
                child.close()
                child = Child()
                child.ask(b"", False)
                if answer["outcome"] == "hang":  # a busy machine is no hang
                    answer = child.ask(content, run)
            if answer.get("peak_bytes", 0) > LIMIT_BYTES:
                answer = {"outcome": "memory", "detail": f"{answer['peak_bytes'] / 2**30:.1f} GiB"}
            findings.outcomes[answer["outcome"]] += 1
            if answer["outcome"] in ("defect", "died", "hang", "memory"):
                findings.defects[index] = f"{done}: {answer['outcome']}\n{answer['detail']}"
                if keep is not None:
                    (keep / f"{index}.onnx").write_bytes(content)
            if answer["outcome"] in ("hang", "memory"):
                child.close()
                child = Child()
                child.ask(b"", False)
    finally:
        child.close()
    return findings
