"""Backend "xla": whole graphs through JAX, for CPU and CUDA.

A graph is traced with its weights as arguments, split so that weight-only work is done at compile time (xla_split), lowered
to StableHLO and compiled. Small tensors become literals: two hundred arguments cost 59 us a call, two cost 4.
Source: measured with jaxlib 0.10.2 on two cores.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from kopt.errors import MissingDependencyError, TargetError, ToolchainError
from kopt.hardware import ISA_LEVELS, Target
from kopt.ir.constant import aligned_copy
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.types import TensorType
from kopt.targets import xla_internals as internals
from kopt.targets import xla_kernels
from kopt.targets.base import Lowered, Signature, Support
from kopt.targets.lowering.registry import static_inputs
from kopt.targets.lowering.walk import contradiction, load_lowerings, run_graph, unsupported_nodes
from kopt.targets.xla_memory import keep_freed_memory
from kopt.targets.xla_profile import node_times_ns
from kopt.targets.xla_split import split
from kopt.targets.xla_staging import staged

LITERAL_BYTES = 16 * 1024
"""Packed weights below this are embedded in the program instead of being arguments."""

_TRACED_WEIGHT_BYTES = 4096
"""Constants up to this size are embedded from the start, where lowerings may look at their values."""

_log = logging.getLogger("kopt.xla")
_MAX_ISA = {"x86-64-v3": "AVX2", "x86-64-v4": "AVX512"}


@dataclass(frozen=True)
class _Module:
    """What ``lower`` hands to ``compile``: abstract arguments, the JAX lowering, and the kernels it calls by symbol."""

    avals: tuple[Any, ...]
    lowered: Any
    compiler_options: Mapping[str, Any]
    portable: Any  # the same program as a fresh function, whose lowering is not cached with kernels in it
    kernels: Mapping[str, Any]


class XlaExecutable:
    """A loaded XLA program with its weights bound; calls may come from any number of threads.

    Attributes:
        signature: inputs and outputs.
        dispatch: the call for arrays of exactly the signature's types, one by one, without waiting for the results; a thread
            waits for them before it calls again.
    """

    def __init__(self, executable: Any, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, device: Any) -> None:
        self.signature = signature
        self._executable = executable
        self._code = code
        self._weights = dict(weights)
        self._device = device
        self._wide = any(tensor.dtype.numpy.itemsize >= 8 for _, tensor in (*signature.inputs, *signature.outputs))
        with jax.enable_x64(True):
            placed = [jax.device_put(_aligned(array), device) for array in weights.values()]
        avals = [internals.shaped_array(array.shape, array.dtype) for array in weights.values()]
        avals += [internals.shaped_array(tensor.static_shape, tensor.dtype.numpy) for _, tensor in signature.inputs]
        function = internals.fast_call(executable, avals, device, "kopt")
        call = partial(function, *placed) if placed else function
        self._call = call
        direct = self._call_wide if self._wide else call
        self.dispatch = staged(direct, [tensor for _, tensor in signature.inputs], device)

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Run on arrays in signature order (numpy, or jax arrays on the device) and wait for the results.

        numpy inputs aligned to 64 bytes are read in place on a CPU; others are copied first.
        """
        outputs = self._call_wide(*inputs) if self._wide else self._call(*inputs)
        for output in outputs:
            output.block_until_ready()
        return outputs

    def _call_wide(self, *inputs: Any) -> Sequence[Any]:
        """Outside of this scope JAX narrows 64-bit inputs."""
        with jax.enable_x64(True):
            outputs: Sequence[Any] = self._call(*inputs)
            return outputs

    def place(self, array: np.ndarray) -> Any:
        """An input put on the device ahead of the call."""
        with jax.enable_x64(True):
            return jax.device_put(array, self._device)

    def node_times_ns(self, inputs: Sequence[Any], runs: int = 5) -> dict[str, float]:
        """Time of one call by the user's node names, most expensive first; from XLA's profiler."""
        text = "\n".join(module.to_string() for module in self._executable.hlo_modules())
        return node_times_ns(lambda: self(inputs), text, runs)

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        """Raw native code and the weights it takes, in order.

        Raises:
            MissingDependencyError: this JAX offers no raw serialization.
        """
        reason = internals.native_tier_available()
        if reason:
            raise MissingDependencyError(f"no native tier: {reason}", next_step="the portable tier holds the program")
        return self._code, self._weights


class XlaBackend:
    """XLA through JAX."""

    name: ClassVar[str] = "xla"

    def version(self) -> str:
        """Jaxlib's version: native code loads in exactly this one."""
        import jaxlib

        return f"jaxlib {jaxlib.__version__}"

    def supports(self, graph: Graph, target: Target) -> Support:
        """Every operator needs a lowering; forms that have none are found when lowering."""
        del target
        return Support(tuple((node.qualified_op, node.loc, "no lowering") for node in unsupported_nodes(graph)))

    def lower(self, graph: Graph, target: Target, options: Mapping[str, Any] | None = None) -> Lowered:
        """Trace, split and lower to StableHLO.

        Args:
            graph: all types static.
            target: CUDA lowers without a device at hand.
            options: lowering knobs, and "compiler_options" for XLA itself.

        Raises:
            UnsupportedModelError: nodes that have no lowering.
            DynamicShapeError: shapes or shape inputs that are not known.
        """
        settings = {"device": target.device, **(options or {})}
        calls = _kernel_calls(target, settings)
        load_lowerings()
        values = _traced_weights(graph)
        arrays = [graph.constants[value].array() for value in values]
        inputs = [jax.ShapeDtypeStruct(value.shape, value.tensor.dtype.numpy) for value in graph.inputs]
        avals = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
        with jax.enable_x64(True), _precision(target, settings):
            traced = jax.make_jaxpr(partial(_run, graph, values, settings))(avals, inputs)
            parts = split(traced, arrays)
            literals = {k: array for k, array in enumerate(parts.packed) if array.nbytes < LITERAL_BYTES}
            named = _names(parts, values)
            weights = {name: array for k, (name, array) in enumerate(zip(named, parts.packed, strict=True)) if k not in literals}
            order = [None if k in literals else list(weights).index(name) for k, name in enumerate(named)]
            function, portable = (_program(parts.program, order, literals, len(weights)) for _ in range(2))
            arguments = (*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in weights.values()), *inputs)
            lowered = jax.jit(function, keep_unused=True).trace(*arguments).lower(lowering_platforms=(target.device,))
        module = _Module(arguments, lowered, settings.get("compiler_options", {}), portable, calls.kernels if calls else {})
        counted = [(kernel, calls.calls[name]) for name, kernel in calls.kernels.items()] if calls else []
        return Lowered(graph, target, "stablehlo", lowered.as_text(), weights, module, dict(calls.count) if calls else {}, counted)

    def compile(self, lowered: Lowered) -> XlaExecutable:
        """Native code for the target, loaded here.

        Raises:
            TargetError: the target's device is not on this machine.
            ToolchainError: XLA failed.
        """
        device = _device(lowered.target)
        if _foreign_isa(lowered.target):
            code = _compile_in_child(self.portable(lowered), lowered.target)
            executable = internals.deserialize(code, device)
        else:
            kernels = xla_kernels.build(lowered.module.kernels, lowered.target)
            if kernels is not None:
                kernels.register()
            with jax.enable_x64(True), jax.default_device(device):
                try:
                    compiled = lowered.module.lowered.compile(compiler_options=dict(lowered.module.compiler_options) or None)
                except RuntimeError as error:
                    raise ToolchainError(f"XLA failed: {str(error).splitlines()[0]}", where=lowered.graph.name) from error
            code = xla_kernels.join(kernels, internals.serialize(compiled)) if internals.native_tier_available() is None else b""
            executable = compiled.runtime_executable()
        return XlaExecutable(executable, code, lowered.weights, Signature.of(lowered.graph), device)

    def portable(self, lowered: Lowered) -> bytes:
        """The program as versioned StableHLO (``jax.export``), for any later jaxlib and any CPU or GPU of the target's kind."""
        with jax.enable_x64(True), _precision(lowered.target, {}), _without_kernels(lowered.module.kernels):
            exported = jax.export.export(jax.jit(lowered.module.portable, keep_unused=True), platforms=(lowered.target.device,))(
                *lowered.module.avals
            )
        return bytes(exported.serialize())

    def compile_portable(self, program: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> XlaExecutable:
        """Compile what ``portable`` wrote; the caller has checked its hash.

        Raises:
            TargetError: the target's device is not on this machine.
            ToolchainError: the bytes are not a program this JAX reads.
        """
        device = _device(target)
        compiled = compile_exported(program, device)
        code = internals.serialize(compiled) if internals.native_tier_available() is None else b""
        return XlaExecutable(compiled.runtime_executable(), code, weights, signature, device)

    def load(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> XlaExecutable:
        """Native code from an artifact; the caller has checked its hash and the jaxlib version.

        Raises:
            TargetError: the target's device is not on this machine.
            ToolchainError: jaxlib refuses the code.
        """
        if target.device == "cpu":
            keep_freed_memory()
        device = _device(target)
        kernels, program = xla_kernels.separate(code)
        if kernels is not None:
            kernels.register()
        return XlaExecutable(internals.deserialize(program, device), code, weights, signature, device)


def evaluate_node(node: Node, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """One node on concrete arrays through its lowering, on the CPU."""
    inputs = [value for value in node.inputs if value is not None]
    given = [array for array in arrays if array is not None]
    graph = Graph(node.name, tuple(inputs), tuple(value for value in node.outputs if value is not None), (node,))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return tuple(np.asarray(result) for result in run_graph(graph, given))


def evaluate_graph(graph: Graph, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """A whole graph on concrete arrays, compiled once for their shapes, on the CPU."""
    backend, target = XlaBackend(), Target.parse("cpu")
    executable = backend.compile(backend.lower(graph, target))
    return tuple(np.asarray(result) for result in executable(list(inputs)))


def compile_exported(program: bytes, device: Any) -> Any:
    """A ``jax.stages.Compiled`` from serialized StableHLO.

    Raises:
        ToolchainError: the bytes are not a program this JAX reads.
    """
    try:
        exported = jax.export.deserialize(bytearray(program))
    except Exception as error:  # its flatbuffer reader raises struct.error, IndexError, ValueError and more
        raise ToolchainError(f"not a StableHLO program this JAX reads: {error}", next_step="recompile the model") from error
    with jax.enable_x64(True), jax.default_device(device):
        return jax.jit(exported.call, keep_unused=True).lower(*exported.in_avals).compile()


def _kernel_calls(target: Target, settings: dict[str, Any]) -> Any:
    """Where lowerings leave the kernels they call; None, and nothing in the settings, where none may be called."""
    schedules = settings.pop("schedules", {})
    if not settings.pop("kernels", False) or target.device != "cpu" or _foreign_isa(target):
        return None
    from kopt.targets.kernels.calls import KernelCalls
    from kopt.targets.kernels.library import obstacle
    from kopt.targets.kernels.schedule import Schedule

    reason = obstacle()
    if reason:
        _log.warning("compiling without kernels: %s", reason)
        return None
    settings["kernel_calls"] = KernelCalls(target, {digest: Schedule.from_json(one) for digest, one in schedules.items()})
    return settings["kernel_calls"]


def _without_kernels(kernels: Mapping[str, Any]) -> AbstractContextManager[None]:
    if not kernels:
        return nullcontext()
    from kopt.targets.kernels.calls import portable

    return portable()


def _run(graph: Graph, values: Sequence[Value], options: Mapping[str, Any], weights: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    outputs = run_graph(graph, inputs, weights=dict(zip(values, weights, strict=True)), options=options)
    results = [jnp.asarray(output) for output in outputs]
    for value, result in zip(graph.outputs, results, strict=True):
        declared = value.type
        if isinstance(declared, TensorType) and (
            result.dtype != declared.dtype.numpy or (declared.is_static and result.shape != value.shape)
        ):
            raise contradiction(graph, value, result)
    return results


def _program(program: Any, order: Sequence[int | None], literals: Mapping[int, np.ndarray], num_weights: int) -> Any:
    """The split program as a function of (weights..., inputs...), with small packed weights embedded."""
    run = jaxpr_as_fun(program)

    def kopt(*args: Any) -> tuple[Any, ...]:
        packed = [literals[k] if index is None else args[index] for k, index in enumerate(order)]
        return tuple(run(*packed, *args[num_weights:]))

    return kopt


def _traced_weights(graph: Graph) -> list[Value]:
    """Constants that become arguments of the traced program: large ones that decide no shapes."""
    static = {node.inputs[k] for node in graph.nodes for k in static_inputs(node) if k < len(node.inputs)}
    return [value for value, constant in graph.constants.items() if constant.nbytes > _TRACED_WEIGHT_BYTES and value not in static]


def _names(parts: Any, values: Sequence[Value]) -> list[str]:
    """Weights that are stored unchanged keep their name; packed ones are named by content, so buckets share them."""
    names = []
    for origin, array in zip(parts.origins, parts.packed, strict=True):
        if origin is not None:
            names.append(values[origin].name)
        else:
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"")
            names.append(f"packed.{digest.hexdigest()[:24]}")
    return names


def _aligned(array: np.ndarray) -> np.ndarray:
    """The array itself when XLA can read it in place, else an aligned copy."""
    return array if array.ctypes.data % 64 == 0 and array.flags.c_contiguous else aligned_copy(array)


def _device(target: Target) -> Any:
    try:
        return jax.devices(target.device)[0]
    except RuntimeError as error:
        raise TargetError(
            f"no {target.device} device on this machine", next_step="load the artifact where one is, or compile with --target cpu"
        ) from error


@contextmanager
def _precision(target: Target, settings: Mapping[str, Any]) -> Iterator[None]:
    """CUDA would use TF32 for f32 matmuls; "tf32" is a precision of its own, so f32 asks for full precision."""
    wants_highest = target.device == "cuda" and settings.get("precision") != "tf32"
    scope: AbstractContextManager[Any] = jax.default_matmul_precision("highest") if wants_highest else nullcontext()
    with scope:
        yield


def _foreign_isa(target: Target) -> bool:
    """Whether the code must not use all that this CPU has."""
    return target.device == "cpu" and target.isa != "native" and not target.features <= ISA_LEVELS[target.isa]


def _compile_in_child(program: bytes, target: Target) -> bytes:
    """Compile in a process started with the ISA limit: XLA reads it once, when its CPU client starts."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "program"), Path(folder, "code")
        source.write_bytes(program)
        command = [sys.executable, "-m", "kopt.targets.xla_child", str(source), str(result)]
        done = subprocess.run(command, env=_child_environment(_MAX_ISA[target.isa]), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no diagnostics"]
            raise ToolchainError(f"compiling for {target.isa} exited with {done.returncode}: {last[0]}")
        return result.read_bytes()


def _child_environment(max_isa: str) -> dict[str, str]:
    import os

    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa={max_isa}".strip()
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
