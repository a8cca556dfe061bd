"""Element-wise expressions over strided views: what a fused loop computes for one element.

A tree is built while a graph is translated and grows until something needs its numbers in memory. Operators that only move
elements change the views of its leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kopt.targets.tvm_view import View

CHEAP = frozenset({"add", "sub", "mul", "neg", "max", "min", "abs", "cast", "select", "not", "and", "or", "eq", "lt", "le"})
"""Operations that may be done again for every element of a broadcast."""

MAX_NODES = 48
MAX_LEAVES = 6
"""Sizes of a tree beyond which its value is stored."""


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes that steps read and write; where they lie is decided after all steps are known.

    Attributes:
        kind: "arena", "weight", "input" or "output".
        dtype: of the elements, as TVM spells it, "bool" for truth values.
        size: elements.
        name: of a weight, input or output.
    """

    kind: str
    dtype: str
    size: int
    name: str = ""


@dataclass(frozen=True)
class Leaf:
    """A tensor in memory."""

    storage: Storage
    view: View

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.storage.dtype


@dataclass(frozen=True)
class Number:
    """The same number for every element."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True)
class Apply:
    """An operation of ``tvm_scalar`` on the elements of its arguments."""

    name: str
    args: tuple[Tree, ...]
    dtype: str


Tree: TypeAlias = Leaf | Number | Apply


@dataclass(frozen=True)
class Tensor:
    """A value of the graph while it is translated.

    Attributes:
        shape: all numbers.
        tree: what its elements are.
    """

    shape: tuple[int, ...]
    tree: Tree

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.tree.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return View.whole(self.shape).size

    @property
    def is_stored(self) -> bool:
        """Whether reading it costs no computation."""
        return not isinstance(self.tree, Apply)

    def moved(self, shape: Sequence[int], change: Callable[[View], View]) -> Tensor:
        """The tensor with every leaf's view changed."""
        return Tensor(tuple(shape), _with_views(self.tree, change))

    def reshaped(self, shape: Sequence[int]) -> Tensor | None:
        """Under another shape, None where a leaf cannot be read so."""
        if any(leaf.view.reshaped(shape) is None for leaf in leaves(self.tree)):
            return None
        return self.moved(shape, lambda view: view.reshaped(shape) or view)


def leaves(tree: Tree) -> Iterator[Leaf]:
    """Every leaf, in order, repeated where it is read repeatedly."""
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, Apply):
        for arg in tree.args:
            yield from leaves(arg)


def operations(tree: Tree) -> Iterator[Apply]:
    """Every operation of a tree."""
    if isinstance(tree, Apply):
        yield tree
        for arg in tree.args:
            yield from operations(arg)


def is_cheap(tree: Tree) -> bool:
    """Whether computing it again costs about as much as reading it."""
    found = list(operations(tree))
    return len(found) <= 2 and all(one.name in CHEAP for one in found)


def is_large(tree: Tree) -> bool:
    """Whether it should be stored rather than grow further."""
    return len(set(leaves(tree))) > MAX_LEAVES or sum(1 for _ in operations(tree)) > MAX_NODES


def _with_views(tree: Tree, change: Callable[[View], View]) -> Tree:
    if isinstance(tree, Leaf):
        return Leaf(tree.storage, change(tree.view))
    if isinstance(tree, Apply):
        return Apply(tree.name, tuple(_with_views(arg, change) for arg in tree.args), tree.dtype)
    return tree
