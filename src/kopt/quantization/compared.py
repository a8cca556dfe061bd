"""How a changed graph's outputs differ from the original's, over many samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kopt.calibration import Feed
from kopt.ir.graph import Graph
from kopt.quantization.observe import Observer


@dataclass
class Difference:
    """Sums over the rows of one output; what is reported comes out of ``summary``."""

    signal: float = 0.0
    noise: float = 0.0
    rows: int = 0
    flips: int = 0
    classes: bool = False
    divergence: float = 0.0
    cosines: list[np.ndarray] = field(default_factory=list)

    def add(self, exact: np.ndarray, other: np.ndarray) -> None:
        """Count one call's output."""
        if exact.dtype.kind != "f" or not exact.size:
            return
        a = exact.astype(np.float64).reshape(exact.shape[0] if exact.ndim > 1 else 1, -1)
        b = other.astype(np.float64).reshape(a.shape)
        self.signal += float((a * a).sum())
        self.noise += float(((a - b) ** 2).sum())
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        self.cosines.append(np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1), 1.0))
        self.rows += len(a)
        if exact.ndim == 2 and exact.shape[1] > 1:
            self.classes = True
            self.flips += int((a.argmax(1) != b.argmax(1)).sum())
            p, q = _log_softmax(a), _log_softmax(b)
            self.divergence += float((np.exp(p) * (p - q)).sum())

    def summary(self) -> dict[str, Any]:
        """SNR in dB, cosine, and for outputs that look like classes flips and mean KL divergence."""
        cosine = np.concatenate(self.cosines) if self.cosines else np.ones(1)
        found: dict[str, Any] = {
            "snr_db": None if self.noise == 0 else round(10 * float(np.log10(max(self.signal, 1e-300) / self.noise)), 2),
            "cosine_mean": round(float(cosine.mean()), 6),
            "cosine_min": round(float(cosine.min()), 6),
            "rows": self.rows,
        }
        if self.classes:
            found |= {"flips": self.flips, "kl": self.divergence / max(self.rows, 1)}
        return found


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def compared(original: Graph, changed: Graph, feeds: Iterable[Feed]) -> dict[str, dict[str, Any]]:
    """Differences by output name."""
    exact, other = Observer(original), Observer(changed)
    found = {value.name: Difference() for value in original.outputs}
    for feed in feeds:
        for difference, a, b in zip(found.values(), exact(feed)[0], other(feed)[0], strict=True):
            difference.add(a, b)
    return {name: difference.summary() for name, difference in found.items() if difference.rows}
