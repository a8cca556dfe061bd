"""Operators on strings."""

from __future__ import annotations

import numpy as np

from kopt.targets.host.registry import HostContext, host


@host("StringConcat")
def string_concat(ctx: HostContext, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Elementwise concatenation, with broadcasting."""
    del ctx
    return np.asarray(_CONCAT(a, b), object)


_CONCAT = np.frompyfunc(lambda a, b: str(a) + str(b), 2, 1)
