"""One forward walk over a graph that re-infers types and computes what is known.

Binding shapes and folding constants are the same walk with different limits: types flow forward, a node whose inputs are
known is computed, and integers that decide shapes are tracked even where some entries are symbolic. A node whose inputs
did not change is kept as the very same object, so an unchanged graph costs one look at each node.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kopt.ir import spec
from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value
from kopt.ir.surgery import Names, keep_output_names, unique_names, with_captures
from kopt.ir.types import DType, TensorType, Type
from kopt.passes.base import PassContext
from kopt.passes.host_rules import evaluate_partial, evaluate_small, partial_shape, shape_slice

NEVER_FOLDED = frozenset(
    # Fresh numbers at every run; DequantizeLinear would turn stored int8 weights back into floats.
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "DequantizeLinear"}
)
MAX_PARTIAL_ELEMENTS = 64  # partly known integers are shapes; longer ones are data


@dataclass(frozen=True)
class Limits:
    """How much folding may store.

    Attributes:
        result_bytes: largest result of one node.
        growth_bytes: how much larger than its inputs a result may be.
        evaluate: whether nodes without a numpy rule are computed through the context.
    """

    result_bytes: int
    growth_bytes: int
    evaluate: bool = True


@dataclass
class Sweep:
    """State of one forward walk; ``child`` gives the walk of a body access to what encloses it.

    Attributes:
        ctx: counts what was folded and evaluates nodes.
        limits: bounds on folding.
        dims: numbers for symbolic dimensions, applied to every declared type.
        trusted: whether declared dimensions may fill what inference leaves open (not after a fixed shape was overridden).
        replaced: the new value of each value that changed.
        constants: known values, those of enclosing graphs included.
        partial: partly known integers.
        touched: values whose type or content is newly known.
    """

    ctx: PassContext
    limits: Limits
    dims: Mapping[str, int] = field(default_factory=dict)
    trusted: bool = True
    replaced: MutableMapping[Value, Value] = field(default_factory=dict)
    constants: MutableMapping[Value, Constant] = field(default_factory=dict)
    partial: MutableMapping[Value, np.ndarray] = field(default_factory=dict)
    touched: set[Value] = field(default_factory=set)
    names: Names = field(default_factory=Names)
    nodes: list[Node] = field(default_factory=list)
    local: dict[Value, Constant] = field(default_factory=dict)

    def run(self, graph: Graph, inputs: Sequence[Value | Constant] | None = None) -> Graph:
        """The whole graph with its inputs replaced; a Constant in place of an input removes that input."""
        self.names = Names.of(graph)
        result = self._walk(graph, inputs)
        return graph if result is graph else keep_output_names(unique_names(result), [value.name for value in graph.outputs])

    def body(self, graph: Graph, types: Sequence[Type | None]) -> Graph:
        """A body of a control-flow node, its inputs given new types (None keeps one)."""
        child = Sweep(
            self.ctx,
            self.limits,
            self.dims,
            self.trusted,
            ChainMap({}, self.replaced),
            ChainMap({}, self.constants),
            ChainMap({}, self.partial),
            self.touched,
            self.names,
        )
        inputs = [
            value if type_ is None or type_ == value.type else Value(value.name, type_)
            for value, type_ in zip(graph.inputs, types, strict=True)
        ]
        result = child._walk(graph, inputs)
        return result if result is graph else with_captures(result)

    def _walk(self, graph: Graph, inputs: Sequence[Value | Constant] | None) -> Graph:
        self.local = dict(graph.constants)
        self.constants.update(graph.constants)
        kept = self._bind_inputs(graph, graph.inputs if inputs is None else inputs)
        for node in graph.nodes:
            self.visit(node)
        outputs = tuple(self.replaced.get(value, value) for value in graph.outputs)
        same = len(self.nodes) == len(graph.nodes) and all(new is old for new, old in zip(self.nodes, graph.nodes, strict=True))
        if same and kept == graph.inputs and outputs == graph.outputs:
            return graph
        return graph.replace(inputs=kept, outputs=outputs, nodes=tuple(self.nodes), constants=self.local)

    def _bind_inputs(self, graph: Graph, inputs: Sequence[Value | Constant]) -> tuple[Value, ...]:
        kept: list[Value] = []
        for old, new in zip(graph.inputs, inputs, strict=True):
            if isinstance(new, Constant):
                value = Value(old.name, new.type)
                self._know(value, new)
            else:
                value = new
                kept.append(new)
            if value is not old:
                self.replaced[old] = value
                self.touched.add(value)
        return tuple(kept)

    def _know(self, value: Value, constant: Constant) -> None:
        self.constants[value] = constant
        self.local[value] = constant
        self.touched.add(value)

    def visit(self, node: Node) -> None:
        """Add one node, folded, inlined or with new output types."""
        from kopt.passes import control_flow

        if any(True for _ in node.subgraphs()):
            control_flow.visit(self, node)
            return
        inputs = tuple([None if value is None else self.replaced.get(value, value) for value in node.inputs])
        current = node if inputs == node.inputs else node.replace(inputs=inputs)
        current = self._simplify_shape_input(current)
        self._remember_partial(current)
        if self._fold(current, node):
            return
        if current is node and not any(value in self.touched for value in inputs) and not self._improvable(node):
            self.nodes.append(node)
            return
        self.emit(current, node, self.infer(current))

    def _improvable(self, node: Node) -> bool:
        return bool(self.dims) and any(
            isinstance(value.type, TensorType) and not value.type.is_static for value in node.outputs if value is not None
        )

    def infer(self, node: Node) -> tuple[Type, ...] | None:
        """Output types of a node from its inputs; None for an operator that nothing is known about."""
        known = {}
        for index, value in enumerate(node.inputs):
            constant = None if value is None else self.constants.get(value)
            if constant is not None and constant.type.size <= spec.MAX_DATA_ELEMENTS:
                known[index] = constant.array()
        try:
            types = spec.infer_node(node, known)
        except KeyError:
            return None
        return self._types_from_partial(node, types)

    def _types_from_partial(self, node: Node, types: tuple[Type, ...]) -> tuple[Type, ...]:
        """Use partly known target shapes, which the standard's inference cannot."""
        at = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}.get(node.op) if not node.domain else None
        target = node.input(at) if at is not None else None
        known = None if target is None else self.partial.get(target)
        first = types[0]
        if known is None or not isinstance(first, TensorType) or any(isinstance(dim, int) and dim <= 0 for dim in known.tolist()):
            return types
        if node.op == "Expand":
            source = node.inputs[0].tensor.shape if node.inputs[0] is not None else None
            if source is None or len(source) > known.size:
                return types
            source = (1,) * (known.size - len(source)) + source
            shape = tuple(self._broadcast(a, b) for a, b in zip(source, known.tolist(), strict=True))
        else:
            shape = tuple("?" if dim is None else dim for dim in known.tolist())
        inferred = first.shape
        if inferred is not None and len(inferred) == len(shape):
            shape = tuple(a if isinstance(a, int) else b for a, b in zip(inferred, shape, strict=True))
        return (TensorType(first.dtype, shape), *types[1:])

    @staticmethod
    def _broadcast(a: int | str, b: int | str | None) -> int | str:
        if b in (a, 1):
            return a
        if a == 1:
            return "?" if b is None else b
        return a if isinstance(a, int) else b if isinstance(b, int) else "?"

    def emit(self, current: Node, original: Node, types: Sequence[Type] | None) -> None:
        """Add ``current`` with outputs of the given types in place of those of ``original``."""
        outputs: list[Value | None] = []
        for index, old in enumerate(original.outputs):
            if old is None:
                outputs.append(None)
                continue
            declared = self.bind(old.type)
            type_ = self.merge(types[index], declared) if types is not None and index < len(types) else declared
            outputs.append(old if type_ == old.type else Value(old.name, type_))
        for old, new in zip(original.outputs, outputs, strict=True):
            if old is not None and new is not None and new is not old:
                self.replaced[old] = new
                self.touched.add(new)
        self.nodes.append(current if tuple(outputs) == current.outputs else current.replace(outputs=tuple(outputs)))

    def bind(self, type_: Type) -> Type:
        """A declared type with the dimensions that have numbers."""
        return type_.bind(self.dims) if self.dims and isinstance(type_, TensorType) else type_

    def merge(self, inferred: Type, declared: Type) -> Type:
        """The inferred type, its open dimensions filled from the declared one."""
        if not isinstance(inferred, TensorType) or not isinstance(declared, TensorType):
            return inferred if type(inferred) is type(declared) else declared
        if inferred.shape is None:
            return TensorType(inferred.dtype, declared.shape if self.trusted else None)
        dims: list[int | str] = []
        fits = declared.shape is not None and len(declared.shape) == len(inferred.shape)
        for axis, dim in enumerate(inferred.shape):
            old = declared.shape[axis] if fits and declared.shape is not None else None
            if isinstance(dim, str) and old is not None and (isinstance(old, str) or self.trusted) and (dim == "?" or isinstance(old, int)):
                dims.append(old)
            else:
                dims.append(self.fresh_dim() if dim == "?" else dim)
        return TensorType(inferred.dtype, tuple(dims))

    def fresh_dim(self) -> str:
        """A name for a dimension about which nothing is known."""
        return self.names.fresh("?k")

    def constant_value(self, constant: Constant, hint: str) -> Value:
        """A new constant of the graph under construction."""
        value = Value(self.names.fresh(hint), constant.type)
        self._know(value, constant)
        return value

    def _simplify_shape_input(self, node: Node) -> Node:
        """Make a partly known target shape constant: what equals the input's dimension is copied, one unknown is -1."""
        target = node.input(1)
        if node.domain or node.op not in ("Reshape", "Expand") or target is None or target in self.constants or node.inputs[0] is None:
            return node
        known, source = self.partial.get(target), node.inputs[0].tensor.shape
        if known is None or source is None:
            return node
        dims = _reshape_target(known.tolist(), source) if node.op == "Reshape" else _expand_target(known.tolist(), source)
        if dims is None:
            return node
        value = self.constant_value(Constant.of(np.asarray(dims, np.int64)), f"{target.name}_known")
        attrs = {**node.attrs, "allowzero": 0} if node.op == "Reshape" else node.attrs
        self.ctx.applied("known-shape")
        return node.replace(inputs=(node.inputs[0], value), attrs=attrs)

    def _remember_partial(self, node: Node) -> None:
        """Track integers of which some entries are known."""
        if node.domain or len(node.outputs) != 1 or node.outputs[0] is None:
            return
        output, source = node.outputs[0], node.input(0)
        if node.op == "Shape" and source is not None and isinstance(source.type, TensorType):
            found = partial_shape(source.type)
            if found is not None:
                self.partial[output] = found[shape_slice(node, found.size)]
            return
        if not any(value in self.partial for value in node.inputs if value is not None):
            return
        arrays = [None if value is None else self._integers(value) for value in node.inputs]
        if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
            return
        result = evaluate_partial(node, arrays)
        if result is not None and result.size <= MAX_PARTIAL_ELEMENTS:
            self.partial[output] = result

    def _integers(self, value: Value) -> np.ndarray | None:
        if value in self.partial:
            return self.partial[value]
        type_ = value.type
        if not isinstance(type_, TensorType) or not type_.dtype.is_integer or not type_.is_static or type_.size > MAX_PARTIAL_ELEMENTS:
            return None
        constant = self.constants.get(value)
        found = np.full(type_.static_shape, None, dtype=object)
        if constant is not None:
            found.ravel()[:] = constant.array().ravel().tolist()
        return found

    def _fold(self, node: Node, original: Node) -> bool:
        """Compute the node if everything it reads is known; its outputs then are constants."""
        results = self._known_results(node)
        if results is None:
            return False
        for old, array in zip(original.outputs, results, strict=False):
            if old is None:
                continue
            type_ = TensorType(DType.from_numpy(array.dtype), array.shape)
            value = old if old.type == type_ else Value(old.name, type_)
            self._know(value, Constant.of(array))
            if value is not old:
                self.replaced[old] = value
        self.ctx.applied("fold")
        return True

    def _known_results(self, node: Node) -> tuple[np.ndarray, ...] | None:
        if node.domain or node.op in NEVER_FOLDED:
            return None
        partial = self.partial.get(node.outputs[0]) if len(node.outputs) == 1 and node.outputs[0] is not None else None
        if partial is not None and all(isinstance(item, int) and -(2**63) <= item < 2**63 for item in partial.ravel().tolist()):
            dtype = node.output.tensor.dtype
            return (partial.astype(dtype.numpy),)
        if (
            node.op == "Size"
            and node.inputs[0] is not None
            and isinstance(node.inputs[0].type, TensorType)
            and node.inputs[0].tensor.is_static
            and node.inputs[0].tensor.size < 2**63
        ):
            return (np.asarray(node.inputs[0].tensor.size, np.int64),)
        found = [None if value is None else self.constants.get(value) for value in node.inputs]
        if any(constant is None and value is not None for constant, value in zip(found, node.inputs, strict=True)):
            return None
        if any(not isinstance(value.type, TensorType) for value in node.outputs if value is not None):
            return None
        if not self._affordable(node, [constant for constant in found if constant is not None]):
            return None
        return self._compute(node, [None if constant is None else constant.array() for constant in found])

    def _affordable(self, node: Node, inputs: Sequence[Constant]) -> bool:
        if node.op == "Constant":
            return True
        types = self.infer(node) or tuple(value.type for value in node.outputs if value is not None)
        total = 0
        for type_ in types:
            if not isinstance(type_, TensorType) or not type_.is_static:
                continue  # a result whose size depends on values is no larger than a few times its inputs (NonZero, Unique)
            total += type_.size * type_.dtype.numpy.itemsize
        return total <= min(self.limits.result_bytes, sum(constant.nbytes for constant in inputs) + self.limits.growth_bytes)

    def _compute(self, node: Node, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...] | None:
        results = evaluate_small(node, arrays)
        if results is None and self.limits.evaluate and self.ctx.evaluate_node is not None and _is_deterministic(node, arrays):
            try:
                with np.errstate(all="ignore"):
                    results = self.ctx.evaluate_node(node, arrays)
            except Exception as error:  # what cannot be computed here must fail, or not, when the user runs the model
                self.ctx.skip("fold", node.loc, f"{node.qualified_op}: {error}")
                return None
        if results is None or len(results) < len(node.outputs):
            return None
        for value, array in zip(node.outputs, results, strict=False):
            if value is not None and DType.from_numpy(array.dtype) is not value.tensor.dtype:
                self.ctx.skip("fold", node.loc, f"computed {array.dtype} instead of {value.tensor.dtype}")
                return None
        return tuple(np.asarray(array) for array in results)

    def inline(self, body: Graph, inputs: Sequence[Value], node: Node) -> None:
        """Put the nodes of a body without a loop in place of ``node``."""
        for value, constant in body.constants.items():
            self.constants[value] = self.local[value] = constant
        self.replaced.update(zip(body.inputs, inputs, strict=True))
        for inner in body.nodes:
            self.visit(inner)
        for old, new in zip(node.outputs, body.outputs, strict=True):
            if old is not None:
                self.replaced[old] = self.replaced.get(new, new)
                self.touched.add(self.replaced[old])


def _is_deterministic(node: Node, arrays: Sequence[np.ndarray | None]) -> bool:
    if node.op != "Dropout":
        return True
    training = arrays[2] if len(arrays) > 2 else None
    return training is None or not training.any()


def _reshape_target(known: Sequence[int | str | None], source: Sequence[int | str]) -> list[int] | None:
    dims: list[int] = []
    for axis, dim in enumerate(known):
        if isinstance(dim, int):
            if dim == 0:
                return None
            dims.append(dim)
        elif dim is not None and dim != "?" and axis < len(source) and source[axis] == dim:
            dims.append(0)
        else:
            dims.append(-1)
    return dims if dims.count(-1) <= 1 else None


def _expand_target(known: Sequence[int | str | None], source: Sequence[int | str]) -> list[int] | None:
    offset = len(known) - len(source)
    dims: list[int] = []
    for axis, dim in enumerate(known):
        if isinstance(dim, int):
            dims.append(dim)
        elif dim is not None and dim != "?" and axis >= offset and source[axis - offset] == dim:
            dims.append(1)
        else:
            return None
    return dims
