"""Building graphs and replacement nodes: fresh names, inferred types, constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kopt.errors import Location
from kopt.ir import spec
from kopt.ir.constant import Constant
from kopt.ir.graph import Attr, Graph, Node, Value
from kopt.ir.surgery import Names
from kopt.ir.types import Dim, DType, TensorType, Type


class Builder:
    """Collects nodes and constants; every emitted value gets an unused name and an inferred type."""

    def __init__(self, taken: Iterable[str] | Names = (), *, loc: Location | None = None) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[Value, Constant] = {}
        self.loc = loc or Location()
        self._names = taken if isinstance(taken, Names) else Names(taken)

    @classmethod
    def for_graph(cls, graph: Graph) -> Builder:
        """A builder whose fresh names collide with no name of ``graph``."""
        return cls(Names.of(graph))

    def fresh(self, hint: str) -> str:
        """An unused name that starts with ``hint``."""
        return self._names.fresh(hint)

    def input(self, name: str, dtype: DType | str, shape: Sequence[Dim] | None) -> Value:
        """A new graph input."""
        return Value(self.fresh(name), TensorType(DType(dtype), None if shape is None else tuple(shape)))

    def constant(self, array: np.typing.ArrayLike | Constant, hint: str = "const") -> Value:
        """A new constant value."""
        held = array if isinstance(array, Constant) else Constant.of(array)
        value = Value(self.fresh(hint), held.type)
        self.constants[value] = held
        return value

    def emit(self, op: str, *inputs: Value | None, **options: object) -> Value:
        """Add a node with one output and return that output. Options are those of ``emit_many``."""
        return self.emit_many(op, *inputs, num_outputs=1, **options)[0]  # type: ignore[arg-type]

    def emit_many(
        self,
        op: str,
        *inputs: Value | None,
        num_outputs: int = 1,
        domain: str = "",
        hint: str = "",
        loc: Location | None = None,
        attrs: dict[str, Attr] | None = None,
        types: Sequence[Type] | None = None,
    ) -> tuple[Value, ...]:
        """Add a node; attribute defaults are filled in and output types inferred unless ``types`` gives them.

        Raises:
            InvalidModelError: the inputs do not fit the operator.
        """
        full = {**spec.default_attrs(op, domain), **(attrs or {})}
        version = spec.DOMAIN_VERSIONS.get(domain, 1)
        placeholders = tuple(Value("", TensorType(DType.F32, None)) for _ in range(num_outputs))
        node = Node(op, inputs, placeholders, full, loc or self.loc, domain, version)
        if types is None:
            known = {
                k: self.constants[value].array()
                for k, value in enumerate(inputs)
                if value in self.constants and self.constants[value].type.size <= spec.MAX_DATA_ELEMENTS
            }
            types = spec.infer_node(node, known)
        outputs = tuple(Value(self.fresh(hint or op.lower()), type_) for type_ in types)
        self.nodes.append(node.replace(outputs=outputs))
        return outputs

    def graph(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
        """The finished graph, verified."""
        built = Graph(name, tuple(inputs), tuple(outputs), tuple(self.nodes), dict(self.constants))
        built.verify()
        return built
