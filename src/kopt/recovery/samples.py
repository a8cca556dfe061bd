"""Calibration inputs as gradient descent takes them: rows in random order, or whole calls of a model with a fixed batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kopt.calibration import Calibration, Feed
from kopt.errors import UsageError
from kopt.ir.graph import Graph, Value

BATCH = 32
"""Rows per step where the model leaves the batch open."""

MAX_BYTES = 2**30
"""Inputs beyond this are left out: they are all kept in memory."""

HELD_OUT = 5
"""One in so many samples is never trained on."""


@dataclass(frozen=True)
class Samples:
    """Inputs in memory, cut into those trained on and those held out.

    Attributes:
        names: of the inputs, in the model's order.
        arrays: one per input, stacked over samples; where ``stacked`` is False a sample is a row, otherwise a whole call.
        stacked: whether samples are whole calls, over which programs are mapped.
        trained, held_out: sample numbers.
        batch: samples per step.
    """

    names: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    stacked: bool
    trained: np.ndarray
    held_out: np.ndarray
    batch: int

    @property
    def example(self) -> Feed:
        """Inputs in the shapes that a program is bound to."""
        return {
            name: array[0] if self.stacked else array[np.zeros(self.batch, np.int64)]
            for name, array in zip(self.names, self.arrays, strict=True)
        }

    def pick(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The inputs of some samples, stacked."""
        return [array[numbers] for array in self.arrays]

    def epochs(self, seed: int, start: int = 0) -> Iterator[np.ndarray]:
        """Numbers of the samples of each step without end, the same for the same seed and step."""
        per_epoch = max(1, len(self.trained) // self.batch)
        step = start
        while True:
            epoch, index = divmod(step, per_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(self.trained)
            yield np.resize(order[index * self.batch : (index + 1) * self.batch], self.batch)
            step += 1

    def evaluations(self) -> list[np.ndarray]:
        """The held-out samples in batches; the last is filled up with the first ones."""
        count = -(-len(self.held_out) // self.batch)
        return [np.resize(part, self.batch) for part in np.array_split(self.held_out, count)]


def samples(feeds: Calibration, graph: Graph, seed: int = 0) -> Samples:
    """Calibration inputs in memory.

    Raises:
        UsageError: fewer than two samples, of which one could be held out.
    """
    held: list[Feed] = []
    num_bytes = 0
    for feed in feeds:
        num_bytes += sum(array.nbytes for array in feed.values())
        if num_bytes > MAX_BYTES and held:
            break
        held.append(feed)
    names = tuple(value.name for value in graph.inputs)
    rows = _by_rows(graph.inputs, held)
    if not rows:
        common = Counter(_shapes(feed) for feed in held).most_common(1)[0][0]
        held = [feed for feed in held if _shapes(feed) == common]
    join = np.concatenate if rows else np.stack
    arrays = tuple(join([feed[name] for feed in held]) for name in names)
    count = len(arrays[0])
    if count < 2:
        raise UsageError(
            "one sample cannot be split into trained and held-out ones", where=feeds.where, next_step="give 100 samples or more"
        )
    order = np.random.default_rng(seed).permutation(count)
    num_held_out = max(1, count // HELD_OUT)
    rows_per_call = 1 if rows else max(array.shape[1] if array.ndim > 1 else 1 for array in arrays)
    batch = max(1, min(BATCH // min(rows_per_call, BATCH), count - num_held_out))
    return Samples(names, arrays, not rows, order[num_held_out:], order[:num_held_out], batch)


def _shapes(feed: Feed) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in feed.values())


def _by_rows(inputs: Sequence[Value], feeds: Sequence[Feed]) -> bool:
    """Whether all inputs leave their first axis open and feeds differ in it alone."""
    shapes = [value.tensor.shape for value in inputs]
    opened = all(shape and isinstance(shape[0], str) for shape in shapes)
    return opened and len({tuple(array.shape[1:] for array in feed.values()) for feed in feeds}) == 1
