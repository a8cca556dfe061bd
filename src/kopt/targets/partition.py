"""Where each part of a graph runs: in compiled segments, and on the host between them.

A node runs on the host when no compiler can hold what it reads or makes: strings, sequences, optionals, and outputs whose
size depends on values. A compiled node that needs a value while compiling (a target shape, k) starts a new segment where
that value is computed at run time, so that it is known when the segment is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kopt.ir.constant import Constant
from kopt.ir.graph import Graph, Node, Value, node_reads
from kopt.ir.surgery import substitute
from kopt.ir.types import DType, MapType, OptionalType, SequenceType, TensorType, Type

VALUE_SIZED = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""ai.onnx operators whose output size depends on values rather than shapes."""

HOST_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""ai.onnx operators whose bodies the host can run one iteration at a time."""

_READS_SHAPE_ONLY = frozenset({"Shape", "Size"})
_SMALL = 16  # elements of what may be carried into a segment and worked on there while compiling


@dataclass(frozen=True)
class HostNode:
    """A node that runs on the host: its operator, the user's name of it, and why."""

    op: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.op}): {self.reason}"


@dataclass(frozen=True)
class Segment:
    """A part of a graph that runs in one place.

    Attributes:
        graph: its inputs are what it reads from outside, its outputs what is read after it.
        reads: the values of the whole graph that its inputs are.
        makes: the values of the whole graph that its outputs are.
        on_host: whether it runs on the host.
    """

    graph: Graph
    reads: tuple[Value, ...]
    makes: tuple[Value, ...]
    on_host: bool


@dataclass(frozen=True)
class Partition:
    """The segments of a graph in the order they run, and why some are on the host.

    Attributes:
        segments: none where the graph only hands on what it is given.
        host_nodes: every node on the host.
        is_whole: whether one compiled program does it all.
    """

    segments: tuple[Segment, ...]
    host_nodes: tuple[HostNode, ...] = ()
    is_whole: bool = False


def host_reason(node: Node, constants: Mapping[Value, Constant]) -> str:
    """Why a node runs on the host, "" for one that a compiler takes; ``constants`` are the values known while compiling."""
    types = [value.type for value in (*node_reads(node), *node.outputs) if value is not None]
    reason = next((found for type_ in types if (found := _uncompilable(type_))), "")
    if reason:
        return reason
    for body in node.subgraphs():
        inside = next((found for inner in body.nodes if (found := host_reason(inner, {**constants, **body.constants}))), "")
        if inside:
            return f"its body: {inside}"
    if not node.domain and node.op in VALUE_SIZED and any(value not in constants for value in node.inputs if value is not None):
        return "the size of its output depends on values"
    if (node.domain, node.op) == ("", "ImageDecoder"):
        return "it decodes an image"
    return ""


def _uncompilable(type_: Type) -> str:
    if isinstance(type_, SequenceType):
        return "sequences"
    if isinstance(type_, OptionalType):
        return "optionals"
    if isinstance(type_, MapType):
        return "maps"
    return "strings" if type_.dtype is DType.STRING else ""


def host_nodes(graph: Graph, forced: Iterable[str] = ()) -> dict[Node, HostNode]:
    """The nodes of a graph that run on the host; those named in ``forced`` do because no compiler takes their bodies."""
    named = frozenset(forced)
    found = {}
    for node in graph.nodes:
        reason = host_reason(node, graph.constants)
        if not reason and node.name in named and node.op in HOST_CONTROL_FLOW:
            reason = "sizes inside its body depend on values"
        if reason:
            found[node] = HostNode(node.qualified_op, node.name, reason)
    return found


def partition(graph: Graph, forced: Iterable[str] = ()) -> Partition:
    """The segments of a graph whose input shapes are known.

    Args:
        graph: bound; types after a node on the host may be open.
        forced: names of control-flow nodes that no compiler takes.
    """
    on_host = host_nodes(graph, forced)
    cuts = _Cuts(graph)
    plain = not any(_uncompilable(value.type) for value in (*graph.inputs, *graph.outputs))
    if not on_host and plain and not cuts.needed():
        return Partition((Segment(graph, graph.inputs, graph.outputs, on_host=False),), is_whole=True)
    groups = _groups(graph, on_host, cuts)
    readers: dict[Value, set[int]] = {}
    for index, (_, nodes) in enumerate(groups):
        for value in (value for node in nodes for value in node_reads(node) if value is not None):
            readers.setdefault(value, set()).add(index)
    wanted = frozenset(graph.outputs)
    segments = [_segment(graph, nodes, held, index, readers, wanted) for index, (held, nodes) in enumerate(groups)]
    segments = [segment for segment in segments if segment.makes]
    return Partition(tuple(segments), tuple(on_host.values()))


class _Cuts:
    """Which operands must be known while compiling, and whether they are when computed inside a segment."""

    def __init__(self, graph: Graph) -> None:
        from kopt.targets.lowering.walk import load_lowerings

        load_lowerings()
        self.graph = graph

    def operands(self, node: Node) -> list[Value]:
        """The inputs of a node that must be known while compiling and are not constants."""
        from kopt.targets.lowering.registry import static_inputs

        found = [node.inputs[k] for k in static_inputs(node) if k < len(node.inputs)]
        return [value for value in found if value is not None and value not in self.graph.constants]

    def needed(self) -> bool:
        """Whether some operand is not known when the whole graph is one program."""
        known: set[Value] = set()
        for node in self.graph.nodes:
            if not all(value in known for value in self.operands(node)):
                return True
            self.follow(node, known, frozenset())
        return False

    def follow(self, node: Node, known: set[Value], carried: frozenset[Value] | set[Value]) -> None:
        """Add what a node makes to ``known`` when it follows from shapes, constants, or small values carried into the segment."""
        if any(True for _ in node.subgraphs()):
            return
        read = [value for value in node.inputs if value is not None and value not in self.graph.constants]
        if node.op in _READS_SHAPE_ONLY or all(value in known or (value in carried and _is_small(value)) for value in read):
            known.update(value for value in node.outputs if value is not None)


def _is_small(value: Value) -> bool:
    type_ = value.type
    return isinstance(type_, TensorType) and type_.dtype.is_integer and type_.is_static and type_.rank in (0, 1) and type_.size <= _SMALL


def _groups(graph: Graph, on_host: Mapping[Node, HostNode], cuts: _Cuts) -> list[tuple[bool, list[Node]]]:
    """Nodes by segment, alternating: whatever can be compiled now, then whatever the host can do now."""
    made: set[Value] = {*graph.inputs, *graph.constants}
    rest: Sequence[Node] = graph.nodes
    groups: list[tuple[bool, list[Node]]] = []
    while rest:
        before = len(rest)
        for host in (False, True):
            taken, rest = _ready(rest, host, on_host, made, cuts)
            if taken:
                groups.append((host, taken))
                made.update(value for node in taken for value in node.outputs if value is not None)
        if len(rest) == before:  # cannot be: the first node in order is always ready
            raise RuntimeError(f"{rest[0]!r} waits for itself")
    return groups


def _ready(
    nodes: Sequence[Node], host: bool, on_host: Mapping[Node, HostNode], made: set[Value], cuts: _Cuts
) -> tuple[list[Node], list[Node]]:
    """The nodes of one kind that can join one segment now, and the others."""
    inside: set[Value] = set()
    known: set[Value] = set()
    taken: list[Node] = []
    left: list[Node] = []
    for node in nodes:
        fits = (node in on_host) == host and all(value in made or value in inside for value in node_reads(node) if value is not None)
        if fits and not host:
            fits = all(value in made or value in known for value in cuts.operands(node))
        if not fits:
            left.append(node)
            continue
        taken.append(node)
        inside.update(value for value in node.outputs if value is not None)
        if not host:
            cuts.follow(node, known, made)
    return taken, left


def _segment(
    graph: Graph, nodes: Sequence[Node], host: bool, index: int, readers: Mapping[Value, set[int]], wanted: frozenset[Value]
) -> Segment:
    """Nodes as a graph of their own; the dimensions of what it reads are open unless they are numbers."""
    own = {value for node in nodes for value in node.outputs if value is not None}
    read = dict.fromkeys(value for node in nodes for value in node_reads(node) if value is not None and value not in own)
    reads = tuple(value for value in read if value not in graph.constants)
    makes = tuple(value for value in dict.fromkeys(_made_in_order(nodes)) if value in wanted or readers.get(value, set()) - {index})
    opened = {value: Value(value.name, _open(value.type, f"?s{k}_")) for k, value in enumerate(reads)}
    opened = {value: other for value, other in opened.items() if other.type != value.type}
    constants = {value: graph.constants[value] for value in read if value in graph.constants}
    body = Graph(
        f"{graph.name}.segment{index}",
        tuple(opened.get(value, value) for value in reads),
        makes,
        tuple(substitute(node, opened) for node in nodes) if opened else tuple(nodes),
        constants,
    )
    return Segment(body, reads, makes, host)


def _made_in_order(nodes: Iterable[Node]) -> Iterable[Value]:
    return (value for node in nodes for value in node.outputs if value is not None)


def _open(type_: Type, prefix: str) -> Type:
    """The type with every symbolic dimension under a name of its own: equal names need not mean equal numbers here."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    return TensorType(type_.dtype, tuple(dim if isinstance(dim, int) else f"{prefix}{k}" for k, dim in enumerate(type_.shape)))
