"""What can be asked of a quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kopt.errors import UsageError

QUANTIZED = ("int8", "auto", "int8-dynamic", "int8-weights", "int4-weights")
PRECISIONS = (*QUANTIZED, "bf16", "fp16")
NEEDS_INPUTS = frozenset({"int8", "auto"})
LEAST_SAMPLES = 8
"""Fewer say nothing about ranges."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to quantize.

    Attributes:
        precision: one of ``PRECISIONS``.
        keep: names of nodes, or of operators, that stay as they are.
        group: inputs that share a scale, with 4 bits.
        max_drop: with "auto", how much the metric may lose.
        metric: with "auto", what counts; None for accuracy where there are labels, else for flips or cosine.
        timed: with "auto", whether this machine's times count; without, the budget alone decides.
    """

    precision: str = "int8"
    keep: tuple[str, ...] = ()
    group: int = 32
    max_drop: float = 0.01
    metric: str | Callable[..., Any] | None = None
    timed: bool = True

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: an option that does not exist.
        """
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{self.precision}'", next_step=f"choose one of: {', '.join(PRECISIONS)}")
        if not 0 <= self.max_drop < float("inf"):
            raise UsageError(f"a drop of {self.max_drop} is no budget", next_step="give a number from 0 on, such as --max-drop 0.01")
