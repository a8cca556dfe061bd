"""Operators of ONNX Runtime's own domain, run by kopt and by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from kopt.ir.types import DType
from support.node_cases import run_model


def contrib_model(
    op: str,
    arrays: Sequence[np.ndarray | None],
    made: Sequence[str],
    *,
    domain: str = "com.microsoft",
    constants: Sequence[int] = (),
    floats: Sequence[int] = (),
    **attrs: Any,
) -> onnx.ModelProto:
    """A model of one node; ``constants`` are the positions of inputs that become initializers, None stands for an absent one.

    ``floats`` are the positions of outputs that are declared as f32, which inference of ONNX Runtime cannot tell.
    """
    names = ["" if array is None else f"i{k}" for k, array in enumerate(arrays)]
    node = helper.make_node(op, names, list(made), domain=domain, **attrs)
    held = [(name, array) for name, array in zip(names, arrays, strict=True) if array is not None]
    fixed = {f"i{k}" for k in constants}
    infos = [
        helper.make_tensor_value_info(name, DType.from_numpy(array.dtype).onnx, array.shape) for name, array in held if name not in fixed
    ]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in held if name in fixed]
    results = [onnx.ValueInfoProto(name=name) for name in made if name]
    for index in floats:
        results[index].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph([node], "g", infos, results, weights)
    versions = {"": 17, "com.microsoft": 1, "ai.onnx.ml": 4}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*item) for item in versions.items()], ir_version=8)


def agrees(
    op: str,
    *arrays: np.ndarray | None,
    outputs: int = 1,
    skipped: Sequence[int] = (),
    constants: Sequence[int] = (),
    rtol: float = 1e-4,
    atol: float = 1e-5,
    steps: int = 0,
    domain: str = "com.microsoft",
    floats: Sequence[int] = (),
    **attrs: Any,
) -> tuple[np.ndarray, ...]:
    """Compare kopt with ONNX Runtime.

    Args:
        op: operator.
        arrays: inputs by position, None where absent.
        outputs: how many outputs to ask for.
        skipped: positions among them that the node leaves out.
        constants: positions of inputs that are initializers.
        rtol: relative tolerance of floats.
        atol: absolute tolerance of floats.
        steps: by how much integers may differ.
        domain: the operator's domain.
        floats: positions of outputs to declare as f32.
        attrs: attributes.
    """
    made = ["" if k in skipped else f"o{k}" for k in range(outputs)]
    model = contrib_model(op, arrays, made, domain=domain, constants=constants, floats=floats, **attrs)
    fed = {f"i{k}": np.asarray(array) for k, array in enumerate(arrays) if array is not None and k not in constants}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, fed)
    results = run_model(model, *fed.values())
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(result.astype(np.float64), wanted.astype(np.float64), rtol=rtol, atol=atol)
        else:
            assert np.abs(result.astype(np.int64) - wanted.astype(np.int64)).max(initial=0) <= steps
    return results


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal f32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
