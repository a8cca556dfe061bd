"""Every use of jaxlib's internals, in one place; the contract test runs on both supported JAX lines.

Why internals at all: ``jax.experimental.serialize_executable`` is a pickle, and loading one runs whatever it says. The raw
executable bytes carry only native code, so they can be hashed, stored and loaded without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import tree_util
from jax.extend.core import ClosedJaxpr, Literal

from kopt.errors import ToolchainError

try:
    from jax._src import core as _core
    from jax._src import tree_util as _tree_util
    from jax._src.interpreters import pxla as _pxla
    from jax._src.lib import _jax
    from jax._src.lib import xla_client as _xc

    MISSING: str | None = None
except ImportError as _error:  # a future JAX: portable tiers still work
    MISSING = f"jax {jax.__version__} lacks {_error.name or _error}"


def native_tier_available() -> str | None:
    """None when raw executables can be stored and loaded, else the reason why not."""
    return MISSING


def serialize(compiled: Any) -> bytes:
    """The raw native code of a ``jax.stages.Compiled``."""
    return bytes(compiled.runtime_executable().serialize())


def deserialize(code: bytes, device: Any) -> Any:
    """A loaded executable from raw native code; the caller has checked its hash.

    Raises:
        ToolchainError: jaxlib refuses the bytes.
    """
    try:
        return device.client.deserialize_executable(code, executable_devices=_xc.DeviceList((device,)))
    except Exception as error:  # jaxlib raises XlaRuntimeError and plain RuntimeError alike
        raise ToolchainError(
            f"jaxlib refuses the stored executable: {str(error).splitlines()[0]}", next_step="recompile the model"
        ) from error


def shaped_array(shape: Sequence[int], dtype: Any) -> Any:
    """The abstract value of an array argument."""
    return jax.core.ShapedArray(tuple(shape), np.dtype(dtype))


def fast_call(executable: Any, in_avals: Sequence[Any], device: Any, name: str) -> Callable[..., list[Any]]:
    """A function of flat arrays that dispatches ``executable`` in C++.

    The first call of a signature goes through Python and hands the dispatch table to jaxlib's C++ cache; later calls
    cost a few microseconds. Call it inside ``jax.enable_x64(True)``, else 64-bit inputs are narrowed.
    """
    sharding = jax.sharding.SingleDeviceSharding(device)
    in_shardings = [sharding] * len(in_avals)
    kept = [True] * len(in_avals)

    def miss(*args: Any) -> tuple[list[Any], Any, bool]:
        placed = [jax.device_put(arg, device) for arg in args]
        outs = [parts[0] for parts in executable.execute_sharded(placed).disassemble_into_single_device_arrays()]
        flat, out_tree = _tree_util.dispatch_registry.flatten(outs, None)
        fast = _pxla.MeshExecutableFastpathData(
            executable,
            out_tree,
            in_shardings,
            [sharding] * len(flat),
            [out.aval for out in flat],
            [True] * len(flat),
            kept,
            [None] * len(in_avals),
            [],
        )
        return outs, fast, False

    keys = _pxla.JitGlobalCppCacheKeys()
    return _jax.pjit(name, None, miss, [], [], keys, _tree_util.dispatch_registry, _pxla.cc_shard_arg)  # type: ignore[no-any-return]


def fresh_var(aval: Any) -> Any:
    """A new jaxpr variable."""
    return _core.Var(aval)


def is_drop_var(var: Any) -> bool:
    """Whether a jaxpr output is thrown away."""
    return isinstance(var, _core.DropVar)


def closed_jaxpr(invars: Sequence[Any], outvars: Sequence[Any], eqns: Sequence[Any]) -> ClosedJaxpr:
    """A jaxpr without constants from equations; effects are the union of the equations'."""
    effects = frozenset().union(*(eqn.effects for eqn in eqns)) if eqns else frozenset()
    names = _core.DebugInfo("kopt", "kopt", None, None)
    return ClosedJaxpr(_core.Jaxpr((), list(invars), list(outvars), list(eqns), effects, names), ())


__all__ = [
    "Literal",
    "closed_jaxpr",
    "deserialize",
    "fast_call",
    "fresh_var",
    "is_drop_var",
    "native_tier_available",
    "serialize",
    "shaped_array",
    "tree_util",
]
