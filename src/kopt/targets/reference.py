"""Backend "reference": onnx.reference on the exported graph; slow, always there, the truth for numerics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper

from kopt.errors import ToolchainError, UsageError
from kopt.frontend.export import to_model
from kopt.hardware import Target
from kopt.ir import spec
from kopt.ir.graph import KOPT, MICROSOFT, Graph, Node
from kopt.ir.wrappers import on_host
from kopt.targets.base import Lowered, Signature, Support


class ReferenceExecutable:
    """onnx.reference's evaluator behind the Executable protocol."""

    def __init__(self, model: onnx.ModelProto, signature: Signature) -> None:
        from onnx.reference import ReferenceEvaluator

        self.signature = signature
        self._model = model
        try:
            self._evaluator = ReferenceEvaluator(model)
        except NotImplementedError as error:
            raise ToolchainError(f"onnx.reference lacks an operator: {str(error).splitlines()[0]}") from error

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Run on numpy arrays in signature order.

        Raises:
            ToolchainError: the reference evaluator cannot run the model.
        """
        feeds = {name: on_host(item) for (name, _), item in zip(self.signature.inputs, inputs, strict=True)}
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return list(self._evaluator.run(None, feeds))
        except Exception as error:  # the evaluator raises whatever its numpy code raises
            raise ToolchainError(f"onnx.reference failed: {type(error).__name__}: {error}") from error

    def save(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        """The ONNX model, which is its own code."""
        return self._model.SerializeToString(), {}


class ReferenceBackend:
    """The reference evaluator of the onnx package."""

    name: ClassVar[str] = "reference"

    def version(self) -> str:
        """The onnx package's version."""
        return f"onnx {onnx.__version__}"

    def supports(self, graph: Graph, target: Target) -> Support:
        """Standard operators on the CPU."""
        del target
        foreign = [node for _, node in graph.walk() if node.domain in (KOPT, MICROSOFT)]
        return Support(tuple((node.qualified_op, node.loc, "not a standard operator") for node in foreign))

    def lower(self, graph: Graph, target: Target, options: Mapping[str, Any] | None = None) -> Lowered:
        """The graph as ONNX."""
        del options
        return Lowered(graph, target, "onnx", "\n".join(map(repr, graph.nodes)), {}, to_model(graph))

    def compile(self, lowered: Lowered) -> ReferenceExecutable:
        """An evaluator of the lowered model."""
        return ReferenceExecutable(lowered.module, Signature.of(lowered.graph))

    def load(self, code: bytes, weights: Mapping[str, np.ndarray], signature: Signature, target: Target) -> ReferenceExecutable:
        """An evaluator of a stored model."""
        del weights, target
        return ReferenceExecutable(onnx.load_model_from_string(code), signature)


def evaluate_node(node: Node, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """One standard node on numpy arrays.

    Raises:
        UsageError: the operator is none of the standard, or holds a body.
        ToolchainError: the evaluator failed.
    """
    if node.domain in (KOPT, MICROSOFT) or any(True for _ in node.subgraphs()):
        raise UsageError(f"onnx.reference does not run {node.qualified_op}")
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(arrays)]
    outputs = [f"o{k}" if value is not None else "" for k, value in enumerate(node.outputs)]
    proto = helper.make_node(node.op, names, outputs, domain=node.domain)
    proto.attribute.extend(spec.attr_to_proto(name, value) for name, value in node.attrs.items())
    evaluator = _node_evaluator(proto.SerializeToString())
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = evaluator.run(None, feeds)
    except Exception as error:  # the evaluator raises whatever its numpy code raises
        raise ToolchainError(f"onnx.reference failed on {node.op}: {type(error).__name__}: {error}", where=node.loc) from error
    return tuple(np.asarray(result) for result in results)


@lru_cache(maxsize=512)
def _node_evaluator(serialized: bytes) -> Any:
    from onnx.reference import ReferenceEvaluator

    node = onnx.NodeProto.FromString(serialized)
    imports = {domain: version for domain, version in spec.DOMAIN_VERSIONS.items() if domain not in (KOPT, MICROSOFT)}
    empty = onnx.TypeProto()
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_value_info(name, empty) for name in dict.fromkeys(node.input) if name],
        [helper.make_value_info(name, empty) for name in node.output if name],
    )
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()]))
