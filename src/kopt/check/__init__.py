"""The latency gate: budgets, paired comparison, verdicts and their outputs.

The package is called like a function: ``kopt.check("model.kopt", baseline="main.kopt")``, see :func:`kopt.check.api.check`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kopt.check.gate import Outcome


class _CallablePackage(ModuleType):
    """Importing any module below sets ``kopt.check`` to the package, whatever it was before; so the package itself is the function."""

    def __call__(
        self,
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
        """Judge artifacts; :func:`kopt.check.api.check` says what is taken and given."""
        from kopt.check.api import check

        return check(
            artifact, budget, baseline=baseline, batch=batch, time_limit_s=time_limit_s, threads=threads, seed=seed, progress=progress
        )


sys.modules[__name__].__class__ = _CallablePackage
