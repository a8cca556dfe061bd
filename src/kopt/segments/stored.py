"""Segmented programs as bytes: the graph, and native code of the segments whose input shapes are known beforehand.

::

    8 bytes: length of the header | header (JSON) | ONNX model | native code of one segment after the other

    {"recipe": {...}, "forced": [...], "inputs": 1, "model": 1234, "large": ["w", ...],
     "programs": [{"segment": 0, "code": 5678, "inputs": [["x", "f32", [2, 3]]], "outputs": [...], "weights": ["packed.1", ...]}]}

Large constants are inputs of the stored model beyond the first "inputs", and lie among the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kopt.errors import MissingDependencyError, ToolchainError
from kopt.hardware import Target
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph
from kopt.ir.types import DType, TensorType
from kopt.specialize import Programs, Recipe
from kopt.targets.base import Executable, Signature, backend

_LARGE_BYTES = 1024
_MODEL = "model/"


def pack(graph: Graph, recipe: Recipe, forced: Sequence[str], runs: Sequence[Programs | None]) -> tuple[bytes, dict[str, np.ndarray]]:
    """The bytes, and the weights to be stored beside them.

    Args:
        graph: bound, as it was cut into segments.
        recipe: of the compiled segments.
        forced: as in ``partition``.
        runs: for each segment its programs, None for one on the host.
    """
    from kopt.frontend.export import to_model

    large = [v for v, c in graph.constants.items() if c.type.dtype is not DType.STRING and c.nbytes >= _LARGE_BYTES and v.name]
    weights = {_MODEL + value.name: graph.constants[value].array() for value in large}
    small = {value: constant for value, constant in graph.constants.items() if value not in large}
    model = to_model(graph.replace(inputs=(*graph.inputs, *large), constants=small)).SerializeToString()
    codes: list[bytes] = []
    programs: list[dict[str, Any]] = []
    for index, run in enumerate(runs):
        executable = None if run is None else run.known()
        if executable is None:
            continue
        try:
            code, held = executable.save()
        except MissingDependencyError:  # compiled again on first use
            continue
        prefixed = {f"{index}/{name}": array for name, array in held.items()}
        weights.update(prefixed)
        codes.append(code)
        programs.append({"segment": index, "code": len(code), "weights": list(prefixed), **_signature_json(executable.signature)})
    header = {
        "recipe": recipe.to_json(),
        "forced": list(forced),
        "inputs": len(graph.inputs),
        "model": len(model),
        "large": [value.name for value in large],
        "programs": programs,
    }
    text = json.dumps(header, sort_keys=True).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, model, *codes]), weights


def unpack(
    content: bytes, weights: Mapping[str, np.ndarray], target: Target
) -> tuple[Graph, Recipe, tuple[str, ...], dict[int, Executable]]:
    """Graph, recipe and forced nodes as given to ``pack``, and the executables by segment.

    Raises:
        ToolchainError: the bytes are not what ``pack`` wrote, or the compiler refuses its code.
    """
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        recipe, end = Recipe.from_json(header["recipe"]), start + int(header["model"])
        graph = _graph(content[start:end], int(header["inputs"]), header["large"], weights)
        executables = {}
        for entry in header["programs"]:
            code, end = content[end : end + int(entry["code"])], end + int(entry["code"])
            held = {name.partition("/")[2]: weights[name] for name in entry["weights"]}
            executables[int(entry["segment"])] = backend(recipe.backend).load(code, held, _parse_signature(entry), target)
        return graph, recipe, tuple(header["forced"]), executables
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ToolchainError(f"not stored segments: {type(error).__name__}: {error}", next_step="compile the model again") from error


def _graph(model: bytes, num_inputs: int, large: Sequence[str], weights: Mapping[str, np.ndarray]) -> Graph:
    from kopt.frontend.load import load

    graph = load(model)
    held = {value: Constant.of(weights[_MODEL + name]) for value, name in zip(graph.inputs[num_inputs:], large, strict=True)}
    return graph.replace(inputs=graph.inputs[:num_inputs], constants={**graph.constants, **held})


def _signature_json(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": [[name, str(tensor.dtype), list(tensor.static_shape)] for name, tensor in signature.inputs],
        "outputs": [[name, str(tensor.dtype), list(tensor.static_shape)] for name, tensor in signature.outputs],
    }


def _parse_signature(entry: Mapping[str, Any]) -> Signature:
    inputs, outputs = (
        tuple((str(name), TensorType(DType(dtype), tuple(int(dim) for dim in shape))) for name, dtype, shape in entry[kind])
        for kind in ("inputs", "outputs")
    )
    return Signature(inputs, outputs)
