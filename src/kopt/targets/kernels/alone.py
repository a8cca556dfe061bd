"""One kernel by itself: what a search of tilings builds, compares and times in a child process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kopt.hardware import Target
from kopt.targets.kernels import attention_call, conv_call, product_call
from kopt.targets.kernels.attention import Attention
from kopt.targets.kernels.calls import register
from kopt.targets.kernels.conv import Conv, Depthwise
from kopt.targets.kernels.kernel import Kernel, symbol
from kopt.targets.kernels.library import request_of
from kopt.targets.kernels.packing import packed_filters, packed_matrix
from kopt.targets.kernels.product import Product
from kopt.targets.kernels.schedule import workload_of
from kopt.targets.kernels.strassen import Strassen
from kopt.targets.kernels.winograd import Winograd
from kopt.trial import Candidate

FAR_BYTES = 64 << 20
"""Weights that were used so many bytes ago are no longer in a cache. Source: twice the third-level cache of usual servers."""

_MEANINGS: Mapping[str, Callable[..., Any]] = {
    "Product": product_call.meaning,
    "Strassen": product_call.strassen_meaning,
    "Conv": conv_call.conv_meaning,
    "Winograd": conv_call.winograd_meaning,
    "Depthwise": conv_call.depthwise_meaning,
    "Attention": attention_call.meaning,
}


def payload(kernel: Kernel, target: Target, model_bytes: int) -> dict[str, Any]:
    """What ``build`` takes.

    Args:
        kernel: the candidate.
        target: this machine.
        model_bytes: weights of the whole model: as much is read between two calls of the kernel.
    """
    fields = asdict(kernel)  # type: ignore[call-overload]
    return {
        "kind": type(kernel).__name__,
        "kernel": json.dumps(fields),  # limits of a Clip may be infinite, which Python's JSON can hold
        "target": str(target),
        "isa": target.isa,
        "between_bytes": min(model_bytes, FAR_BYTES),
    }


def build(payload: Mapping[str, Any]) -> Candidate:
    """A trial's entry: compile the kernel in this process; a call runs it on the next copy of its weights.

    In a model other weights are read between two calls of a kernel. Alone, it would find its own in a cache that they do not fit in
    there, and a tiling that rereads them would seem cheap: so calls go round as many copies as fill what the model reads.
    The last candidates are kept, for those that are measured again.
    """
    return _build(json.dumps(payload, sort_keys=True))


@lru_cache(maxsize=4)
def _build(text: str) -> Candidate:
    from kopt.targets.kernels.build import compile_library, revived

    payload = json.loads(text)
    kernel = revived(payload["kind"], json.loads(payload["kernel"]))
    target = Target.parse(payload["target"], isa=payload["isa"])
    name = symbol(kernel, target)
    with tempfile.TemporaryDirectory(prefix="kopt-kernel-") as folder:
        library = Path(folder, "kernel.so")
        compile_library(request_of({name: kernel}, target), library)
        register((name,), library.read_bytes())
    x, weight, *rest = (jax.device_put(array) for array in operands(kernel))
    copies = max(1, min(64, payload["between_bytes"] // max(1, weight.nbytes))) if not isinstance(kernel, Attention) else 1
    weights = [weight, *(jax.device_put(np.array(weight)) for _ in range(copies - 1))]
    run = jax.jit(jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(kernel.result, np.float32))).lower(x, weight, *rest).compile()
    turn = cycle(weights)

    def call() -> None:
        run(x, next(turn), *rest).block_until_ready()

    return Candidate(call, lambda: [np.asarray(run(x, weight, *rest))], {"kernel": name})


def reference(kernel: Kernel) -> np.ndarray:
    """What the kernel should give, by XLA; equal for all tilings but for rounding."""
    meaning = _MEANINGS[type(kernel).__name__]
    return np.asarray(jax.jit(lambda *arrays: meaning(kernel, *arrays))(*operands(kernel)))


def operands(kernel: Kernel) -> Sequence[np.ndarray]:
    """Random operands as the kernel reads them: the same numbers for all kernels of a workload, each packed its own way."""
    x, weight, *rest = _numbers(workload_of(kernel).digest, _plain_shapes(kernel))
    if isinstance(kernel, Product | Strassen):
        weight = packed_matrix(kernel, weight)
    elif isinstance(kernel, Conv | Depthwise | Winograd):
        weight = packed_filters(kernel, weight)
    elif isinstance(kernel, Attention) and kernel.mask:
        rest = [rest[0], np.array(rest[1])]
        rest[1][..., kernel.keys :] = -np.inf
    return [np.ascontiguousarray(array) for array in (x, weight, *rest)]


def _plain_shapes(kernel: Kernel) -> tuple[tuple[int, ...], ...]:
    """Shapes of the operands before packing."""
    first, _, *rest = kernel.operands
    if isinstance(kernel, Product | Strassen):
        return (first, (kernel.k, kernel.n), *rest)
    if isinstance(kernel, Conv | Winograd):
        return (first, (kernel.outputs, kernel.image.channels, *kernel.image.kernel), *rest)
    if isinstance(kernel, Depthwise):
        return (first, (kernel.image.channels, 1, *kernel.image.kernel), *rest)
    return tuple(kernel.operands)


@lru_cache(maxsize=2)
def _numbers(seed: str, shapes: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    """Normal numbers; those of the second operand are small enough that sums stay near one."""
    rng = np.random.default_rng(int(seed[:16], 16))
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    terms = shapes[1][0] if len(shapes[1]) == 2 else prod(shapes[1][1:])
    arrays[1] *= np.float32(max(1, terms) ** -0.5)
    return arrays
