"""Runs a graph as JAX: one lowering per node, in order, under the user's node names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from kopt.errors import DynamicShapeError, InvalidModelError, KoptError, PassError, UnsupportedModelError
from kopt.ir.graph import KOPT, Graph, Node, Value
from kopt.ir.types import TensorType
from kopt.targets.lowering.registry import Array, Lowering, LoweringContext, lowering_of, static_inputs
from kopt.targets.lowering.rounding import MOVES, ROUND_THEMSELVES, is_narrow, narrowed

_FAMILIES = (
    "activation",
    "attention",
    "cast",
    "contrib",
    "contrib_attention",
    "contrib_grouped",
    "contrib_norm",
    "contrib_quant",
    "contrib_weights",
    "control",
    "conv",
    "deform",
    "elementwise",
    "gradient",
    "image",
    "index",
    "int8",
    "inverted",
    "loss",
    "matmul",
    "mixed",
    "ml",
    "ml_linear",
    "ml_trees",
    "normalization",
    "optional",
    "pool",
    "product",
    "quant",
    "random",
    "recurrent",
    "reduce",
    "roi",
    "shape",
    "signal",
    "stateful",
    "tokens",
)

_KNOWN_SIZE = 1024  # elements of the inputs of nodes that are computed while tracing


@lru_cache(maxsize=1)
def load_lowerings() -> None:
    """Import every family so that its lowerings are registered."""
    for family in _FAMILIES:
        name = f"kopt.targets.lowering.{family}"
        if find_spec(name) is not None:
            import_module(name)


def run_graph(
    graph: Graph,
    inputs: Sequence[Array],
    *,
    weights: Mapping[Value, Array] | None = None,
    captures: Mapping[Value, Array] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Array, ...]:
    """The graph's outputs for ``inputs`` (arrays or tracers, in order).

    Args:
        graph: static types; bodies of control flow included.
        inputs: one array per graph input.
        weights: arrays that stand for constants of the graph; the other constants are embedded.
        captures: arrays of the values a body reads from enclosing graphs.
        options: knobs handed to every lowering.

    Raises:
        UnsupportedModelError: nodes without a lowering, all of them listed.
        DynamicShapeError: an input that decides shapes is not known while compiling.
    """
    load_lowerings()
    require_lowerings(graph)
    env: dict[Value, Array] = {value: constant.array() for value, constant in graph.constants.items() if value not in (weights or {})}
    env.update(weights or {})
    env.update(captures or {})
    env.update(zip(graph.inputs, inputs, strict=True))
    settings = dict(options or {})
    for node in graph.nodes:
        _run_node(node, env, settings)
    return tuple(env[value] for value in graph.outputs)


def require_lowerings(graph: Graph) -> None:
    """Check that every node has a lowering.

    Raises:
        UnsupportedModelError: listing every node that has none.
    """
    missing = unsupported_nodes(graph)
    if missing:
        raise UnsupportedModelError([(node.qualified_op, node.loc) for node in missing], backend="xla")


def unsupported_nodes(graph: Graph) -> list[Node]:
    """The nodes without a lowering, bodies of control flow included."""
    load_lowerings()
    return [node for _, node in graph.walk() if lowering_of(node) is None]


def contradiction(graph: Graph, value: Value, result: Any) -> KoptError:
    """What to say of an output that is not of its type: the model's mistake, unless the operator's own rule says the same as it."""
    from kopt.ir.spec import infer_node, node_constants  # loads onnx, which running a stored program does without

    producer, made = graph.producer(value), f"{result.dtype}{list(result.shape)}"
    where = producer.loc if producer else graph.name
    try:
        rule = None if producer is None else infer_node(producer, node_constants(graph, producer))[producer.outputs.index(value)]
    except (InvalidModelError, KeyError):
        rule = None
    told = rule.shape if isinstance(rule, TensorType) and result.dtype == rule.dtype.numpy else None
    fits = told is None or (len(told) == result.ndim and all(a == b or isinstance(a, str) for a, b in zip(told, result.shape, strict=True)))
    if fits and result.dtype == value.tensor.dtype.numpy:
        return InvalidModelError(
            f"the model declares '{value.name}' as {value.type}, but its values make {made}",
            where=where,
            next_step="correct the declared type, or the inputs of the node",
        )
    return PassError(
        f"'{value.name}' was lowered to {made} but its type is {value.type}",
        where=where,
        next_step="this is a defect of kopt; please report the model",
    )


def _run_node(node: Node, env: dict[Value, Array], options: Mapping[str, Any]) -> None:
    lowering = lowering_of(node)
    if lowering is None:
        raise UnsupportedModelError([(node.qualified_op, node.loc)], backend="xla")
    args = [None if value is None else env[value] for value in node.inputs]
    _require_static(node, args)

    def evaluate(body: Graph, inputs: Sequence[Array], captures: Mapping[Any, Array]) -> tuple[Array, ...]:
        return run_graph(body, inputs, captures=captures, options=options)

    captures = {value: env[value] for body in node.subgraphs() for value in body.captures}
    context = LoweringContext(node, evaluate, captures, options)
    try:
        with jax.named_scope(_scope(node.name)):
            results = _known_results(lowering, context, args) if _is_known(node, args) else lowering.function(context, *args)
    except (TypeError, ValueError, IndexError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise _located(node, args, error) from error
    outputs = results if isinstance(results, tuple | list) else (results,)
    if options.get("device") == "cpu" and not _keeps_bits(node):
        outputs = [narrowed(result) if isinstance(result, jax.Array) and is_narrow(result) else result for result in outputs]
    env.update((value, result) for value, result in zip(node.outputs, outputs, strict=False) if value is not None)


def _keeps_bits(node: Node) -> bool:
    """Whether results of 16-bit floats hold no more than 16 bits as they are."""
    return node.op in (MOVES if not node.domain else ROUND_THEMSELVES if node.domain == KOPT else ())


def _is_known(node: Node, args: Sequence[Any]) -> bool:
    """Whether a node can be computed now: inside an unrolled loop the counter, and the shapes that follow from it, are known."""
    held = [arg for arg in args if arg is not None]
    if not held or any(True for _ in node.subgraphs()):
        return False
    return all(isinstance(arg, np.ndarray | np.generic) and arg.size <= _KNOWN_SIZE for arg in held)


def _known_results(lowering: Lowering, context: LoweringContext, args: Sequence[Any]) -> tuple[np.ndarray, ...]:
    with jax.ensure_compile_time_eval():
        results = lowering.function(context, *args)
        return tuple(np.asarray(result) for result in (results if isinstance(results, tuple | list) else (results,)))


def _scope(name: str) -> str:
    """A node name as XLA metadata takes it."""
    return name.replace("/", ".").strip(".") or "node"


def _require_static(node: Node, args: Sequence[Any]) -> None:
    for index in static_inputs(node):
        if index < len(args) and args[index] is not None and not isinstance(args[index], np.ndarray | np.generic):
            value = node.inputs[index]
            raise DynamicShapeError(
                f"input {index} ('{value.name if value else ''}') of {node.qualified_op} decides shapes but is only known at run time",
                where=node.loc,
                next_step="make it a constant of the model, or feed it as a graph input",
            )


def _located(node: Node, args: Sequence[Any], error: Exception) -> KoptError:
    shapes = ", ".join(
        "-" if arg is None else f"{np.dtype(arg.dtype).name}{list(arg.shape)}" for arg in args if hasattr(arg, "dtype") or arg is None
    )
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UnsupportedModelError(
        [(node.qualified_op, node.loc)], backend="xla", reasons=[f"cannot lower ({shapes}): {type(error).__name__}: {detail}"]
    )
