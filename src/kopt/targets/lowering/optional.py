"""Optionals that always hold a tensor: a tensor stands for one."""

from __future__ import annotations

import numpy as np

from kopt.targets.lowering.registry import Array, LoweringContext, lowers


@lowers("OptionalGetElement")
def optional_get_element(ctx: LoweringContext, x: Array) -> Array:
    """The tensor itself."""
    del ctx
    return x


@lowers("OptionalHasElement")
def optional_has_element(ctx: LoweringContext, x: Array = None) -> np.ndarray:
    """Whether an input is given."""
    del ctx
    return np.asarray(x is not None, np.bool_)
