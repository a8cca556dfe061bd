"""The forward sweep behind ``kopt.passes.layout``: in which forms each value exists, and the one place that transposes.

A *form* of a value is a permutation and a value of the new graph that holds ``transpose(original, permutation)``. A rule
(``kopt.passes.layout_rules``) looks at the forms of its inputs, emits its node in one of them and declares the form of
its outputs. Whoever needs another form asks ``Sweep.request``, the only place that emits a Transpose, once per value
and form. A Transpose of the user emits nothing: it is another view of the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import numpy as np

from kopt.errors import Location
from kopt.ir.constant import Constant
from kopt.ir.graph import ONNX, Attr, Graph, Node, Value
from kopt.ir.spec import CANONICAL_OPSET, default_attrs
from kopt.ir.surgery import Names
from kopt.ir.types import DType, TensorType
from kopt.passes.base import PassContext

Perm: TypeAlias = tuple[int, ...]


def compose(outer: Perm, inner: Perm) -> Perm:
    """The permutation p with ``transpose(x, p) == transpose(transpose(x, outer), inner)``."""
    return tuple(outer[axis] for axis in inner)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(perm.index(axis) for axis in range(len(perm)))


def keeps_order(shape: Sequence[int], perm: Perm) -> bool:
    """Whether transposing by ``perm`` moves no element: the axes longer than one keep their order."""
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


class Sweep:
    """The state of one forward sweep over one graph.

    Attributes:
        graph: the original graph.
        nodes: the new nodes so far.
        constants: the constants of the new graph, among them ones laid out anew.
        num_transposes: how many Transposes were emitted.
    """

    def __init__(self, graph: Graph, ctx: PassContext, taken: set[str]) -> None:
        self.graph = graph
        self.ctx = ctx
        self.nodes: list[Node] = []
        self.constants: dict[Value, Constant] = dict(graph.constants)
        self.num_transposes = 0
        self.loc = Location()
        self._names = Names(taken)
        self._views: dict[Value, tuple[Value, Perm]] = {}
        self._forms: dict[Value, dict[Perm, Value]] = {}
        self._aligned: dict[tuple[Value, Perm], Value] = {}
        self._made: set[Value] = {*graph.inputs, *graph.captures, *graph.constants}

    def is_constant(self, value: Value) -> bool:
        """Whether ``value`` is known at compile time."""
        return value in self.constants

    def array(self, value: Value | None) -> np.ndarray | None:
        """The array of a constant, None for anything else."""
        held = None if value is None else self.constants.get(value)
        return None if held is None else held.array()

    def form(self, value: Value) -> tuple[Value, Perm]:
        """The form in which ``value`` was made: (held, perm) with ``held == transpose(value, perm)``."""
        root, view = self._views.get(value, (value, tuple(range(len(value.shape)))))
        forms = self._forms.get(root)
        if not forms:
            return root, inverse(view)
        perm, held = next(iter(forms.items()))
        return held, compose(inverse(view), perm)

    def perm(self, value: Value) -> Perm:
        """The permutation of ``form``."""
        return self.form(value)[1]

    def is_made_moved(self, value: Value) -> bool:
        """Whether ``value`` or what it is a view of was made in another layout than the user's, as after a convolution."""
        root = self._views.get(value, (value, ()))[0]
        natural = tuple(range(len(root.shape)))
        return next(iter(self._forms.get(root, ())), natural) != natural

    def is_free(self, value: Value, perm: Perm) -> bool:
        """Whether ``request(value, perm)`` would move no element at run time."""
        if self.is_constant(value):
            return True
        root, view = self._views.get(value, (value, None))
        wanted = perm if view is None else compose(view, perm)
        forms = self._forms.get(root)
        if forms and wanted in forms:
            return True
        held, have = self.form(value)
        return keeps_order(held.shape, tuple(have.index(axis) for axis in perm))

    def request(self, value: Value, perm: Perm | None = None) -> Value:
        """The value that holds ``transpose(value, perm)``; without ``perm``, ``value`` itself as the user's graph has it.

        x  ==>  Transpose(x), or Reshape(x) where only axes of length one move; constants are transposed now.
        """
        wanted_of_value = tuple(range(len(value.shape))) if perm is None else perm
        root, view = self._views.get(value, (value, None))
        wanted = wanted_of_value if view is None else compose(view, wanted_of_value)
        forms = self._forms.setdefault(root, {})
        if not forms and root in self._made:
            forms[tuple(range(len(root.shape)))] = root
        if wanted not in forms:
            natural = value if wanted_of_value == tuple(range(len(wanted_of_value))) else None
            forms[wanted] = self._permute(root, wanted, natural)
        return forms[wanted]

    def _permute(self, root: Value, wanted: Perm, natural: Value | None) -> Value:
        if root in self.constants:
            return self._laid_out(root, root.shape, wanted, 0)
        options = [(held, tuple(perm.index(axis) for axis in wanted)) for perm, held in self._forms[root].items()]
        held, step = next((option for option in options if keeps_order(option[0].shape, option[1])), options[0])
        shape = tuple(held.shape[axis] for axis in step)
        output = natural if natural is not None and natural not in self._made else self.fresh(root, shape)
        if keeps_order(held.shape, step):
            self.emit("Reshape", (held, self.ints(shape, "shape")), output)
        else:
            self.num_transposes += 1
            self.emit("Transpose", (held,), output, attrs={"perm": step})
        return output

    def _laid_out(self, value: Value, shape: tuple[int, ...], perm: Perm, leading: int) -> Value:
        """A constant: ``value`` reshaped, transposed, less ``leading`` axes of length one; computed when its bytes are needed."""
        held = self.constants[value]
        moved = tuple(shape[axis] for axis in perm)[leading:]
        type_ = TensorType(held.type.dtype, moved)
        made = Value(self.fresh_name(value.name), type_)
        self.constants[made] = Constant(type_, lambda: np.ascontiguousarray(held.array().reshape(shape).transpose(perm).reshape(moved)))
        return made

    def request_aligned(self, value: Value, perm: Perm) -> Value:
        """An operand of a broadcasting operator whose other operands are transposed by ``perm``.

        Of fewer axes than ``perm``, it is first given leading axes of length one: c[C,1,1]  ==>  c[C] for perm (0, 2, 3, 1).
        """
        rank, own = len(perm), len(value.shape)
        if prod(value.shape) == 1 or perm == tuple(range(rank)):
            return self.request(value)
        if own == rank and not self.is_constant(value):
            return self.request(value, perm)
        if (value, perm) not in self._aligned:
            self._aligned[value, perm] = self._align(value, (1,) * (rank - own) + value.shape, perm)
        return self._aligned[value, perm]

    def _align(self, value: Value, shape: tuple[int, ...], perm: Perm) -> Value:
        if self.is_constant(value):
            moved = tuple(shape[axis] for axis in perm)
            leading = next((axis for axis, dim in enumerate(moved) if dim != 1), len(moved))
            return self._laid_out(value, shape, perm, leading)
        padded = self.fresh(value, shape)
        self.emit("Reshape", (self.request(value), self.ints(shape, "shape")), padded)
        return self.request(padded, perm)

    def choose(self, values: Sequence[Value], rank: int) -> Perm:
        """The permutation that makes the operands of one node meet for the fewest elements moved; ties go to a transposed one."""
        identity = tuple(range(rank))
        operands = [value for value in values if len(value.shape) == rank and not self.is_constant(value)]
        candidates = dict.fromkeys(self.perm(value) for value in operands if prod(value.shape) != 1)
        costs = [
            (sum(prod(value.shape) for value in operands if not self.is_free(value, perm)), perm == identity, perm) for perm in candidates
        ]
        return min(costs)[2] if costs else identity

    def view(self, out: Value, source: Value, perm: Perm) -> None:
        """Declare ``out == transpose(source, perm)`` without emitting anything."""
        root, view = self._views.get(source, (source, None))
        self._views[out] = (root, perm if view is None else compose(view, perm))

    def output(self, value: Value, perm: Perm) -> Value:
        """The value a rule must make so that the original ``value`` exists in the form ``perm``."""
        if perm == tuple(range(len(perm))):
            return value
        made = self.fresh(value, tuple(value.shape[axis] for axis in perm))
        self._forms[value] = {perm: made}
        return made

    def pin(self, value: Value) -> None:
        """Make sure that ``value`` itself exists, for graph outputs and bodies that capture it."""
        held = self.plain(value)
        if held is not None and held is not value and value not in self._made:
            self.emit("Identity", (held,), value)

    def emit(self, op: str, inputs: tuple[Value | None, ...], output: Value, attrs: dict[str, Attr] | None = None) -> None:
        """Add an ai.onnx node at the location of the node in work."""
        self.add(Node(op, inputs, (output,), {**default_attrs(op), **(attrs or {})}, self.loc, "", CANONICAL_OPSET))

    def add(self, node: Node) -> None:
        """Add a finished node."""
        self.nodes.append(node)
        self._made.update(value for value in node.outputs if value is not None)

    def ints(self, values: Sequence[int], hint: str) -> Value:
        """A new int64 vector constant."""
        return self.constant(np.asarray(values, np.int64), hint)

    def constant(self, array: np.ndarray, hint: str) -> Value:
        """A new constant."""
        made = Constant.of(array)
        value = Value(self.fresh_name(hint), made.type)
        self.constants[value] = made
        return value

    def fresh(self, like: Value, shape: tuple[int, ...], dtype: DType | None = None) -> Value:
        """A new value named after ``like``."""
        return Value(self.fresh_name(like.name), TensorType(dtype or like.tensor.dtype, shape))

    def fresh_name(self, hint: str) -> str:
        """An unused name that starts with ``hint``."""
        return self._names.fresh(hint)

    def plain(self, value: Value | None) -> Value | None:
        """What a node without a rule reads in place of ``value``: the same contents in the user's layout."""
        return self.request(value) if value is not None and (value in self._views or value in self._forms) else value

    def visit(self, node: Node) -> None:
        """Translate one node: by its rule where it has one that applies, else in the user's layout."""
        self.loc = node.loc
        rule = RULES.get((node.domain, node.op))
        if rule is not None and is_static(node) and rule(self, node):
            return
        for body in node.subgraphs():
            for value in body.captures:
                self.pin(value)
        inputs = tuple(self.plain(value) for value in node.inputs)
        self.add(node if inputs == node.inputs else node.replace(inputs=inputs))


def is_static(node: Node) -> bool:
    """Whether all values of a node are tensors of known shape."""
    values = (value for value in (*node.inputs, *node.outputs) if value is not None)
    return all(isinstance(value.type, TensorType) and value.type.is_static for value in values)


Rule: TypeAlias = Callable[[Sweep, Node], bool]
RULES: dict[tuple[str, str], Rule] = {}


def layout_rule(*ops: str, domain: str = ONNX) -> Callable[[Rule], Rule]:
    """Register how operators follow the form of their inputs.

    The rule emits the node and declares the form of its outputs; False leaves the node to the user's layout.
    """

    def enter(rule: Rule) -> Rule:
        RULES.update({(domain, op): rule for op in ops})
        return rule

    return enter
