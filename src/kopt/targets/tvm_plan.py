"""From a graph to a sequence of kernel calls: values are translated lazily, stored where somebody needs their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from kopt.hardware import Target
from kopt.ir.constant import aligned_copy
from kopt.ir.types import DType, TensorType, Type
from kopt.targets.kernels.kernel import Kernel, lanes
from kopt.targets.kernels.schedule import Schedules, scheduled
from kopt.targets.tvm_loops import Loop, Map, Operand, Reduce, work
from kopt.targets.tvm_memory import ALIGNMENT
from kopt.targets.tvm_tree import Apply, Leaf, Number, Storage, Tensor, Tree, is_cheap, is_large, leaves
from kopt.targets.tvm_view import View, joined

MIN_SHARED = 1 << 15
"""Loops of less work run on the calling thread. Source: about 5 us, what it takes to wake another."""

MIN_SHARED_MULTIPLIES = 1 << 20
"""The same for products and convolutions."""

_DTYPES = {
    **{DType.F32: "float32", DType.F64: "float64", DType.BOOL: "bool", DType.I8: "int8", DType.I16: "int16", DType.I32: "int32"},
    **{DType.I64: "int64", DType.U8: "uint8", DType.U16: "uint16", DType.U32: "uint32", DType.U64: "uint64"},
}


class Refused(Exception):  # noqa: N818
    """A form of an operator that this backend does not compile; caught where the node is known."""


Piece: TypeAlias = Loop | Kernel


@dataclass(frozen=True)
class Step:
    """A call of a kernel.

    Attributes:
        piece: what is computed.
        arguments: storage and offset in elements of every array it reads, then of the one it writes.
        shared: whether threads share its tasks.
        node: the user's name of the node it was translated for.
    """

    piece: Any
    arguments: tuple[tuple[Storage, int], ...]
    shared: bool
    node: str


@dataclass
class Plan:
    """What becomes of a graph.

    Attributes:
        target: what for.
        schedules: of kernels, found by searches.
        steps: in the order they run.
        node: the user's name of the node that is being translated.
        constants: values of storages of kind "weight", computed when asked for.
    """

    target: Target
    schedules: Schedules = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    node: str = ""
    constants: dict[Storage, Callable[[], np.ndarray]] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        """F32 elements of a vector register."""
        return lanes(self.target)

    @property
    def cores(self) -> int:
        """Threads that share a step's tasks."""
        return self.target.num_cores

    def constant(self, array: np.ndarray, name: str = "") -> Tensor:
        """A tensor whose values are known."""
        return self.constant_of(array.shape, str(array.dtype), lambda: array, name)

    def constant_of(self, shape: Sequence[int], dtype: str, values: Callable[[], np.ndarray], name: str = "") -> Tensor:
        """A tensor whose values are known and computed when the program is stored; single numbers become part of the code."""
        if prod(shape) == 1:
            return Tensor(tuple(shape), Number(values().item(), dtype))
        storage = Storage("weight", dtype, prod(shape), name)
        self.constants[storage] = values
        return Tensor(tuple(shape), Leaf(storage, View.whole(shape)))

    def known(self, tensor: Tensor) -> np.ndarray | None:
        """The values of a tensor that is part of a constant, None for anything else."""
        tree = tensor.tree
        if isinstance(tree, Number):
            return np.full(tensor.shape, tree.value, tree.dtype)
        if not isinstance(tree, Leaf) or tree.storage not in self.constants:
            return None
        flat = np.ascontiguousarray(self.constants[tree.storage]()).reshape(-1)
        steps = [stride * flat.itemsize for stride in tree.view.strides]
        found: np.ndarray = np.lib.stride_tricks.as_strided(flat[tree.view.offset :], tree.view.shape, steps)
        return found

    def is_known(self, tensor: Tensor) -> bool:
        """Whether ``known`` has values."""
        return isinstance(tensor.tree, Number) or (isinstance(tensor.tree, Leaf) and tensor.tree.storage in self.constants)

    def packed(self, tensor: Tensor, shape: Sequence[int], pack: Callable[[np.ndarray], np.ndarray], name: str) -> Leaf:
        """Known values in the arrangement a kernel wants."""
        storage = Storage("weight", tensor.dtype, prod(shape), name)

        def values() -> np.ndarray:
            found = self.known(tensor)
            if found is None:
                raise RuntimeError("only constants are packed")
            return aligned_copy(pack(found))

        self.constants[storage] = values
        return Leaf(storage, View.whole(shape))

    def apply(self, name: str, dtype: str, *args: Tensor) -> Tensor:
        """An operation on elements; arguments are broadcast."""
        shape = np.broadcast_shapes(*(arg.shape for arg in args))
        ready = [arg if arg.size == prod(shape) or is_cheap(arg.tree) else self.stored(arg) for arg in args]
        result = Tensor(shape, Apply(name, tuple(self.expanded(arg, shape).tree for arg in ready), dtype))
        if is_large(result.tree):
            ready = [self.stored(arg) for arg in ready]
            result = Tensor(shape, Apply(name, tuple(self.expanded(arg, shape).tree for arg in ready), dtype))
        return result

    def expanded(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """Repeated to ``shape`` as numpy broadcasts."""
        if tensor.shape == tuple(shape):
            return tensor
        return tensor.moved(shape, lambda view: view.expanded(shape))

    def reshaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements under another shape."""
        found = tensor.reshaped(shape)
        return found if found is not None else self.stored(tensor).moved(shape, lambda view: view.reshaped(shape) or view)

    def permuted(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """Axes in another order."""
        return tensor.moved([tensor.shape[k] for k in order], lambda view: view.permuted(order))

    def stored(self, tensor: Tensor) -> Tensor:
        """The tensor in memory, contiguous and aligned; it may lie there already."""
        tree = tensor.tree
        if isinstance(tree, Leaf) and tree.view.is_contiguous and tree.view.offset * itemsize(tree.dtype) % ALIGNMENT == 0:
            return tensor
        if self.is_known(tensor):
            leaf = self.packed(tensor, tensor.shape, lambda array: array, "")
            return Tensor(tensor.shape, leaf)
        result = self.new(tensor.shape, tensor.dtype)
        self.write(tensor, result)
        return result

    def leaf(self, tensor: Tensor) -> Leaf:
        """Where ``stored`` keeps a tensor."""
        tree = self.stored(tensor).tree
        if not isinstance(tree, Leaf):
            raise TypeError(f"{tree} is not in memory")
        return tree

    def new(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Memory for a result."""
        return Tensor(tuple(shape), Leaf(Storage("arena", dtype, prod(shape)), View.whole(shape)))

    def write(self, tensor: Tensor, into: Tensor) -> None:
        """Compute a tensor's elements into memory, contiguous there or not."""
        if not isinstance(into.tree, Leaf):
            raise TypeError(f"{into.tree} is not in memory")
        if tensor.size == 0:
            return
        read = list(dict.fromkeys(leaves(tensor.tree)))
        axes = joined(tensor.shape, [leaf.view.strides for leaf in (*read, into.tree)]) or [(1, (0,) * len(read) + (1,))]
        axes = _divided(axes, 4 * self.cores)
        shape = tuple(size for size, _ in axes)
        operands = [Operand(leaf.dtype, tuple(steps[k] for _, steps in axes)) for k, leaf in enumerate((*read, into.tree))]
        loop = Map(shape, tuple(operands[:-1]), operands[-1], expression(tensor.tree, read), 1)
        self.add(loop, read, into.tree, prod(shape[:-1]) if len(shape) > 1 else -(-shape[0] // (4 * self.lanes)))

    def reduced(self, tensor: Tensor, axes: Sequence[int], combine: str, scale: float = 1.0) -> Tensor:
        """Combined over axes, which stay with size 1."""
        kept = [axis for axis in range(len(tensor.shape)) if axis not in axes]
        shape = tuple(1 if axis in axes else dim for axis, dim in enumerate(tensor.shape))
        if tensor.dtype == "bool":
            return self.apply("cast", "bool", self.reduced(self.apply("cast", "int32", tensor), axes, combine))
        if is_large(tensor.tree):
            tensor = self.stored(tensor)
        if tensor.size == 0:
            raise Refused("a reduction of nothing")
        result = self.new(shape, tensor.dtype)
        read = list(dict.fromkeys(leaves(tensor.tree)))
        split = len(kept)
        moved = [leaf.view.permuted([*kept, *axes]) for leaf in read]
        sizes = [tensor.shape[axis] for axis in (*kept, *axes)]
        whole = View.whole(sizes[:split]).strides
        stay = joined(sizes[:split], [*(view.strides[:split] for view in moved), whole]) or [(1, (0,) * (len(read) + 1))]
        go = joined(sizes[split:], [view.strides[split:] for view in moved]) or [(1, (0,) * len(read))]
        across = stay[-1][0] > 1 and (go[-1][0] < 4 or (stay[-1][0] >= 8 and 1 not in go[-1][1]))
        operands = tuple(
            Operand(leaf.dtype, (*(steps[k] for _, steps in stay), *(steps[k] for _, steps in go))) for k, leaf in enumerate(read)
        )
        keep, gone = tuple(size for size, _ in stay), tuple(size for size, _ in go)
        loop = Reduce(keep, gone, operands, combine, tensor.dtype, expression(tensor.tree, read), across, scale, 1)
        self.add(loop, read, self.leaf(result), prod(keep[:-1]) * -(-keep[-1] // self.lanes) if across else prod(keep))
        return result

    def add(self, loop: Loop, read: Sequence[Leaf], result: Leaf, pieces: int) -> None:
        """Run a loop whose work can be divided into ``pieces``."""
        shared = work(loop) >= MIN_SHARED
        tasks = max(1, min(pieces, 4 * self.cores)) if shared else 1
        whole = replace(loop, tasks=tasks)
        self.steps.append(Step(whole, tuple((leaf.storage, leaf.view.offset) for leaf in (*read, result)), shared and tasks > 1, self.node))

    def scheduled(self, kernel: Kernel) -> Any:
        """The kernel that a search found for this work, or the kernel itself."""
        return scheduled(kernel, self.schedules, self.target)

    def call(self, kernel: Kernel, operands: Sequence[Leaf]) -> Tensor:
        """The result of one of kopt's kernels."""
        result = self.new(kernel.result, "float32")
        shared = kernel.multiplies >= MIN_SHARED_MULTIPLIES and kernel.num_tasks > 1
        arguments = tuple((leaf.storage, leaf.view.offset) for leaf in (*operands, self.leaf(result)))
        self.steps.append(Step(kernel, arguments, shared, self.node))
        return result


def itemsize(dtype: str) -> int:
    """Bytes of an element in memory."""
    return np.dtype(dtype).itemsize


def dtype_of(type_: Type) -> str:
    """TVM's name of a tensor's element type.

    Raises:
        Refused: this backend has no code for it.
    """
    if not isinstance(type_, TensorType) or type_.dtype not in _DTYPES:
        raise Refused(f"no code for values of type {type_}")
    if not type_.is_static:
        raise Refused("the size of a value is only known at run time")
    if type_.size >= 1 << 31:
        raise Refused("places of so many elements do not fit 32 bits")
    return _DTYPES[type_.dtype]


def expression(tree: Tree, read: Sequence[Leaf]) -> tuple[Any, ...]:
    """A tree in the terms of ``tvm_loops``; leaves by their position in ``read``."""
    if isinstance(tree, Number):
        return ("number", tree.value, tree.dtype)
    if isinstance(tree, Leaf):
        return ("leaf", read.index(tree), tree.dtype)
    return ("apply", tree.name, tree.dtype, tuple(map(partial(expression, read=read), tree.args)))


def _divided(axes: list[tuple[int, tuple[int, ...]]], pieces: int) -> list[tuple[int, tuple[int, ...]]]:
    """A long last axis as two, where the others give too few pieces of work; a single axis is divided by its loop."""
    rows = prod(size for size, _ in axes[:-1])
    size, steps = axes[-1]
    if len(axes) == 1 or rows >= pieces:
        return axes
    parts = next((k for k in (16, 14, 12, 8, 7, 6, 4, 3, 2) if size % k == 0 and size // k >= 256), 1)
    if parts == 1:
        return axes
    return [*axes[:-1], (parts, tuple(step * (size // parts) for step in steps)), (size // parts, steps)]
