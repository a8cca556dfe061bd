"""kopt as a backend of the onnx package, so that any ONNX test suite can drive it::

    import kopt.onnx_backend as backend
    prepared = backend.prepare(model)
    outputs = prepared.run([x])

Models go the way that ``kopt.compile`` takes (import, passes, compiler), in memory, without comparing and measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend import base

from kopt.errors import InputError
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.ir import spec
from kopt.ir.graph import Graph
from kopt.ir.types import DType, SequenceType, TensorType, Type
from kopt.passes.base import PassContext
from kopt.passes.pipeline import Pipeline, preset
from kopt.specialize import Programs, Recipe


class Prepared(base.BackendRep):
    """A model in memory. Programs are compiled on first use of each set of input shapes.

    Attributes:
        graph: the model after import.
    """

    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self._programs = Programs(graph, Recipe.of_preset("xla"), target)

    @property
    def host_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that run on the host, between compiled segments; exact once shapes are known."""
        found = [getattr(program, "host_nodes", ()) for program in self._programs.held()]
        return tuple(dict.fromkeys(name for names in found for name in names))

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The model's outputs in order: arrays, lists of them for sequences, dicts for maps, None for an absent optional.

        Args:
            inputs: one value per input in order, or a mapping by name, or the value of the only input.
            kwargs: accepted as the interface demands; none is known.

        Raises:
            InputError: values are missing or too many.
            KoptError: the values do not fit the model, or its nodes cannot be compiled.
        """
        del kwargs
        names = [value.name for value in self.graph.inputs]
        if isinstance(inputs, np.ndarray) or (isinstance(inputs, list | tuple) and len(names) == 1 and len(inputs) != 1):
            inputs = [inputs]
        items = [inputs.get(name) for name in names] if isinstance(inputs, Mapping) else list(inputs)
        if len(items) != len(names):
            raise InputError(f"{len(items)} inputs are given", where=self.graph.name, next_step=f"expected: {', '.join(names)}")
        fed = [_fed(item, value.type) for item, value in zip(items, self.graph.inputs, strict=True)]
        outputs = [_given(item) for item in self._programs(fed)]
        return tuple(base.namedtupledict("Outputs", [value.name for value in self.graph.outputs])(*outputs))


class KoptBackend(base.Backend):
    """kopt behind ``onnx.backend.base.Backend``."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the device exists here; models are judged by ``prepare``."""
        del model, kwargs
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """A model ready to run.

        Args:
            model: with its weights inside; see ``prepare_path`` for weights beside it.
            device: "CPU" or "CUDA".
            kwargs: accepted as the interface demands; none is known.

        Raises:
            ModelError: not valid, or not supported.
        """
        del kwargs
        return cls._prepare(model, device)

    @classmethod
    def prepare_path(cls, path: str | Path, device: str = "CPU") -> Prepared:
        """A model file ready to run; its external data are found beside it.

        Raises:
            FileError: the file cannot be read.
            ModelError: not valid, or not supported.
        """
        return cls._prepare(path, device)

    @classmethod
    def _prepare(cls, model: Any, device: str) -> Prepared:
        from kopt.targets.reference import evaluate_node

        graph, _ = Pipeline(preset("import")).run(load(model), PassContext(evaluate_node=evaluate_node))
        return Prepared(graph, Target.parse(device.split(":", maxsplit=1)[0].lower()))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[tuple[Any, Any]] | None = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """One node on concrete values.

        Args:
            node: inputs that are left out have an empty name.
            inputs: a value for each input that has a name.
            device: as in ``prepare``.
            outputs_info: not needed; types are inferred.
            kwargs: "opset_version" of the node, by default the newest.
        """
        del outputs_info
        names = [name for name in node.input if name]
        items = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        fed = [helper.make_value_info(name, spec.type_to_proto(_type_of(item))) for name, item in zip(names, items, strict=True)]
        made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        opset = kwargs.get("opset_version") or spec.DOMAIN_VERSIONS.get(node.domain, 1)
        imports = [helper.make_opsetid(node.domain, opset)] + [helper.make_opsetid("", spec.CANONICAL_OPSET)] * bool(node.domain)
        model = helper.make_model(helper.make_graph([node], node.op_type, fed, made), opset_imports=imports)
        return cls.run_model(model, items, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether this machine has the device: "CPU", or "CUDA" with a GPU."""
        kind = device.split(":", maxsplit=1)[0].lower()
        return kind == "cpu" or (kind == "cuda" and Target.parse("cuda").present)


def _fed(item: Any, type_: Type) -> Any:
    """Test data in the form programs take: protos become arrays, members of sequences too."""
    if isinstance(item, onnx.TensorProto):
        return onnx.numpy_helper.to_array(item)
    if isinstance(type_, TensorType):
        return item if hasattr(item, "dtype") and hasattr(item, "shape") else np.asarray(item, type_.dtype.numpy)
    return [_fed(member, type_.element) for member in item] if isinstance(item, list | tuple) else item


def _given(item: Any) -> Any:
    if isinstance(item, list | tuple):
        return [_given(member) for member in item]
    if isinstance(item, dict):
        return item
    return None if item is None else np.asarray(item)


def _type_of(item: Any) -> Type:
    if isinstance(item, list | tuple):
        return SequenceType(_type_of(item[0]) if item else TensorType(DType.F32, None))
    array = np.asarray(onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item)
    return TensorType(DType.from_numpy(array.dtype), array.shape)


is_compatible = KoptBackend.is_compatible
prepare = KoptBackend.prepare
prepare_path = KoptBackend.prepare_path
run_model = KoptBackend.run_model
run_node = KoptBackend.run_node
supports_device = KoptBackend.supports_device
