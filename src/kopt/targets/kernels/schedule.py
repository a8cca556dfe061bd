"""Which implementation and tiling a workload runs with: the ones a search found, or each kernel's own choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from kopt.errors import UsageError
from kopt.hardware import Target
from kopt.space import Config, SearchSpace, Workload
from kopt.targets.kernels.attention import Attention
from kopt.targets.kernels.conv import Conv, Depthwise
from kopt.targets.kernels.conv_tiling import conv_tiling, winograd_tiling
from kopt.targets.kernels.kernel import Kernel, lanes
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.spaces import attention_space, conv_space, depthwise_space, strassen_space, winograd_space
from kopt.targets.kernels.strassen import Strassen, strassen_tiling
from kopt.targets.kernels.tiling import product_space
from kopt.targets.kernels.winograd import Winograd

Implementations = Mapping[str, Kernel]
"""Kernels that do the same work, by the name of their kind, each with the tiling it takes unsearched."""

_KINDS = {
    "Product": "product",
    "Strassen": "product",
    "Conv": "conv",
    "Winograd": "conv",
    "Depthwise": "depthwise",
    "Attention": "attention",
}


@dataclass(frozen=True)
class Schedule:
    """How a workload is done.

    Attributes:
        implementation: kind of kernel, such as "Winograd".
        config: its tiling, by knob.
    """

    implementation: str
    config: Config

    def to_json(self) -> dict[str, Any]:
        """In JSON types."""
        return {"implementation": self.implementation, "config": dict(sorted(self.config.items()))}

    @classmethod
    def from_json(cls, content: Any) -> Schedule:
        """What ``to_json`` gave.

        Raises:
            UsageError: something else.
        """
        try:
            return cls(str(content["implementation"]), dict(content["config"]))
        except (KeyError, TypeError, ValueError):
            raise UsageError(f"not a schedule: {content!r}", next_step="compile the model again") from None


Schedules = Mapping[str, Schedule]
"""By the digest of the workload."""


def can_search(kernel: Kernel) -> bool:
    """Whether there is a space for this kind of kernel."""
    return type(kernel).__name__ in _KINDS


def workload_of(kernel: Kernel) -> Workload:
    """What a kernel does, without how: equal for kernels of all kinds and tilings that do the same work."""
    work = {name: _plain(value) for name, value in asdict(kernel).items() if name != "tiling"}  # type: ignore[call-overload]
    return Workload(_KINDS[type(kernel).__name__], (kernel.operands[0], kernel.result), ("f32",), work)


def _plain(value: Any) -> Any:
    """Limits of a Clip may be infinite, which JSON cannot say."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def implementations(kernel: Kernel, target: Target) -> Implementations:
    """The kernel, and others that do the same work."""
    found = {type(kernel).__name__: kernel}
    width, cores = lanes(target), target.num_cores
    if isinstance(kernel, Product):
        halved = strassen_tiling(kernel.m, kernel.k, kernel.n, width, cores)
        if halved is not None:
            found["Strassen"] = Strassen(kernel.m, kernel.k, kernel.n, halved, kernel.epilogue)
    if isinstance(kernel, Conv | Winograd):
        other: tuple[float, Any] | None
        if isinstance(kernel, Conv):
            other = winograd_tiling(kernel.image, kernel.outputs, width, cores)
            make: Callable[..., Kernel] = Winograd
        else:
            other = conv_tiling(kernel.image, kernel.outputs, width, cores)
            make = Conv
        if other is not None:
            found[make.__name__] = make(kernel.image, kernel.outputs, other[1], kernel.epilogue)
    return found


def space_of(kernel: Kernel, target: Target) -> SearchSpace:
    """The tilings of a kernel; its own is the default."""
    width = lanes(target)
    if isinstance(kernel, Product):
        return product_space(kernel.m, kernel.k, kernel.n, width, target.num_cores)
    if isinstance(kernel, Strassen):
        return strassen_space(kernel, width)
    if isinstance(kernel, Conv):
        return conv_space(kernel, width)
    if isinstance(kernel, Depthwise):
        return depthwise_space(kernel, width)
    if isinstance(kernel, Winograd):
        return winograd_space(kernel, width)
    if isinstance(kernel, Attention):
        return attention_space(kernel, width)
    raise UsageError(f"{type(kernel).__name__} has no search space")


def tiled(kernel: Kernel, config: Config) -> Kernel:
    """The kernel with another point of its space."""
    tiling: Any = kernel.tiling  # type: ignore[attr-defined]
    return replace(kernel, tiling=type(tiling)(**config))  # type: ignore[type-var]


def scheduled(kernel: Kernel, schedules: Schedules, target: Target) -> Kernel:
    """The kernel that a schedule prescribes for this work; the kernel itself where none does, or where it is from another version."""
    if not schedules or not can_search(kernel):
        return kernel
    schedule = schedules.get(workload_of(kernel).digest)
    chosen = None if schedule is None else implementations(kernel, target).get(schedule.implementation)
    if schedule is None or chosen is None or schedule.config not in space_of(chosen, target):
        return kernel
    return tiled(chosen, schedule.config)
