"""What a model is judged by: a user's function, right answers, or without either how far outputs are from the original's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kopt.errors import UsageError

Outputs = Sequence[np.ndarray]


@dataclass(frozen=True)
class Judge:
    """How much worse outputs are than the original's.

    Attributes:
        name: "FILE.py:FUNCTION", "accuracy", "flips" or "cosine".
        labels: right answers, where there are any.
        function: of the user, from outputs and labels to a number, larger is better.
    """

    name: str
    labels: np.ndarray | None = None
    function: Callable[..., Any] | None = None

    def drop(self, exact: Outputs, found: Outputs) -> float:
        """What is lost; negative where ``found`` is better.

        Raises:
            UsageError: the user's function fails or returns no number.
        """
        if self.function is not None:
            return self._score(exact) - self._score(found)
        a, b = exact[0], found[0]
        if self.name == "accuracy":
            return float((a.argmax(-1) == self.labels).mean() - (b.argmax(-1) == self.labels).mean())
        if self.name == "flips":
            return float((a.argmax(-1) != b.argmax(-1)).mean())
        x, y = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        return float(1 - np.where(norms > 0, (x * y).sum(1) / np.where(norms > 0, norms, 1), 1.0).mean())

    def interval(self, exact: Outputs, found: Outputs) -> float:
        """Half of the 95 % interval of a drop that counts samples, from the samples that differ; 0 where it does not count."""
        a, b = exact[0], found[0]
        if self.function is not None or self.name == "cosine":
            return 0.0
        changed = float((a.argmax(-1) != b.argmax(-1)).sum())
        return float(1.96 * np.sqrt(changed + 1) / len(a))

    def _score(self, outputs: Outputs) -> float:
        if self.function is None:
            raise TypeError("no function to score with")
        try:
            return float(self.function(*outputs) if self.labels is None else self.function(*outputs, self.labels))
        except Exception as error:  # whatever the user's code raises
            what = f"the metric fails: {type(error).__name__}: {error}"
            raise UsageError(what, where=self.name, next_step="it takes the outputs, and the labels where there are any") from error


def judge(metric: str | Callable[..., Any] | None, labels: np.ndarray | None, output: np.ndarray) -> Judge:
    """The judge for a metric that was asked for, or the strictest one that is possible.

    Args:
        metric: FILE.py:FUNCTION or a function; None to choose.
        labels: right answers or None.
        output: the model's first output, to see whether it looks like classes.

    Raises:
        UsageError, FileError: there is no such function.
    """
    from kopt.calibration import load_function

    if metric is not None:
        function = metric if callable(metric) else load_function(metric)
        return Judge(metric if isinstance(metric, str) else getattr(function, "__name__", "metric"), labels, function)
    classes = output.ndim == 2 and output.shape[1] > 1
    if labels is not None and classes:
        return Judge("accuracy", labels)
    return Judge("flips" if classes else "cosine")
