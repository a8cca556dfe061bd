"""Checking what a caller hands to a session, and saying what would fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kopt.errors import InputError, UsageError
from kopt.ir.types import DType, TensorType
from kopt.ir.wrappers import MAP, OPTIONAL, SEQUENCE, Wrappers
from kopt.targets.base import Signature

_CPU_DEVICES = (1, 3, 11)  # Source: DLDeviceType: kDLCPU, kDLCUDAHost, kDLROCMHost


def check_inputs(inputs: Mapping[str, Any], signature: Signature, where: str) -> list[Any]:
    """The values in signature order: numpy arrays, or arrays of another library on its own device; lists of them for sequences,
    dicts for maps, None for an optional that is absent.

    Raises:
        InputError: a name is missing or unknown, or a dtype or shape does not fit.
        UsageError: ``inputs`` is no mapping.
    """
    expected = _spell(signature)
    if not isinstance(inputs, Mapping):
        raise UsageError(f"inputs are a {type(inputs).__name__}, a dict of arrays by name is needed", where=where, next_step=expected)
    names = [name for name, _ in signature.inputs]
    unknown = [repr(name) for name in inputs if name not in names]
    around = signature.around
    missing = [repr(name) for name in names if name not in inputs and around.get(name, ("",))[0] != OPTIONAL]
    if unknown or missing:
        parts = [f"unknown input {', '.join(unknown)}"] * bool(unknown) + [f"missing input {', '.join(missing)}"] * bool(missing)
        raise InputError("; ".join(parts), where=where, next_step=expected)
    dims: dict[str, tuple[int, str]] = {}
    arrays = []
    for name, tensor in signature.inputs:
        if name in around:
            arrays.append(_wrapped(inputs.get(name), name, tensor, around[name], where, expected))
            continue
        array = as_array(inputs[name], name, where, expected)
        if tensor.dtype is DType.STRING and array.dtype.kind in "US":
            array = array.astype(object)
        misfit = _misfit(name, array, tensor, dims)
        if misfit:
            raise InputError(misfit, where=where, next_step=expected)
        arrays.append(array)
    return arrays


def _wrapped(item: Any, name: str, tensor: TensorType, around: Wrappers, where: str, expected: str) -> Any:
    """A sequence as a list, a map as a dict, an optional as its value or None, each with checked arrays inside."""
    if not around:
        array = as_array(item, name, where, expected)
        misfit = _misfit(name, array, tensor, {})
        if misfit:
            raise InputError(misfit, where=where, next_step=expected)
        return array
    kind, rest = around[0], around[1:]
    if kind == OPTIONAL:
        return None if item is None else _wrapped(item, name, tensor, rest, where, expected)
    if kind == SEQUENCE and isinstance(item, list | tuple):
        return [_wrapped(member, name, tensor, rest, where, expected) for member in item]
    if kind.startswith(MAP) and isinstance(item, Mapping):
        return dict(item)
    wanted = "list of arrays" if kind == SEQUENCE else "dict"
    raise InputError(f"input '{name}' is a {type(item).__name__}, a {wanted} is needed", where=where, next_step=expected)


def as_array(value: Any, name: str, where: str, expected: str) -> Any:
    """``value`` itself when it has numpy's dtype and shape, else a view of it through DLPack.

    Raises:
        InputError: no array at all, or one that DLPack cannot hand over.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    if isinstance(getattr(value, "dtype", None), np.dtype) and isinstance(getattr(value, "shape", None), tuple):
        return value
    if not hasattr(value, "__dlpack__"):
        what = f"input '{name}' is a {type(value).__name__}, a numpy array or one that offers __dlpack__ is needed"
        raise InputError(what, where=where, next_step=expected)
    try:
        if value.__dlpack_device__()[0] not in _CPU_DEVICES:
            from kopt.targets.xla_arrays import from_dlpack

            return from_dlpack(value)
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"input '{name}' cannot be read through DLPack: {error}", where=where, next_step=expected) from error


def _misfit(name: str, array: Any, tensor: TensorType, dims: dict[str, tuple[int, str]]) -> str:
    """What is wrong with one input, or ""; ``dims`` collects the sizes of named dimensions and who gave them."""
    if array.dtype != tensor.dtype.numpy:
        return f"input '{name}' has dtype {array.dtype}, {tensor.dtype.numpy} is needed"
    if tensor.shape is None:
        return ""
    fits = len(array.shape) == len(tensor.shape)
    if not fits or any(isinstance(dim, int) and dim != size for dim, size in zip(tensor.shape, array.shape, strict=True)):
        return f"input '{name}' has shape {'x'.join(map(str, array.shape)) or 'scalar'}, {tensor} is needed"
    for dim, size in zip(tensor.shape, array.shape, strict=True):
        if isinstance(dim, str):
            known, other = dims.setdefault(dim, (size, name))
            if known != size:
                return f"dimension '{dim}' is {known} in input '{other}' and {size} in input '{name}'"
    return ""


def _spell(signature: Signature) -> str:
    return "expected: " + ", ".join(f"{name}: {signature.type_of(name)}" for name, _ in signature.inputs)
