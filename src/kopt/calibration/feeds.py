"""From raw arrays to feeds that fit a model: names, element types, shapes, finite values, and cut into calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kopt.calibration.sources import Source, opened
from kopt.errors import UsageError
from kopt.ir.graph import Graph, Value

Feed: TypeAlias = "dict[str, np.ndarray]"

BATCH = 32
"""Rows per call where the model leaves the batch open."""

LABELS = "labels"
"""What the array beside the inputs is called that holds the right answers."""


@dataclass(frozen=True)
class Calibration:
    """Checked feeds of one model; iterating reads the source again.

    Attributes:
        inputs: the model's inputs.
        where: the source, for messages.
        read: gives the raw arrays from the beginning.
        num_rows: samples in all.
        labels: the array named "labels" beside the inputs, None where there is none.
    """

    inputs: tuple[Value, ...]
    where: str
    read: Callable[[], Iterator[Mapping[str, np.ndarray]]]
    num_rows: int = 0
    labels: np.ndarray | None = None

    def __iter__(self) -> Iterator[Feed]:
        """Feeds that fit the model, one per call.

        Raises:
            UsageError: missing or unknown inputs, wrong shapes or element types, NaN or infinities.
        """
        for index, raw in enumerate(self.read()):
            yield from _split(self.inputs, _checked(self.inputs, raw, f"{self.where}, entry {index}"), f"{self.where}, entry {index}")

    def take(self, num_rows: int) -> list[Feed]:
        """Whole feeds from the beginning until they hold ``num_rows`` rows, all of them in memory."""
        taken, held = [], 0
        for feed in self:
            taken.append(feed)
            held += rows_of_feed(feed)
            if held >= num_rows:
                break
        return taken


def calibration(source: Source, graph: Graph, *, least: int = 1) -> Calibration:
    """The feeds of a source; all are read and checked once.

    Args:
        source: a path, arrays by input name with one row per sample, feeds, or a function that gives either.
        graph: whose inputs they are.
        least: samples below which calibrating makes no sense.

    Raises:
        UsageError: no such form, wrong names, shapes or element types, NaN, or too few samples.
        FileError: a file is missing or cannot be read.
    """
    names = [value.name for value in graph.inputs]
    where, read = opened(source, names)
    labels = [np.atleast_1d(np.asarray(raw[LABELS])) for raw in read() if LABELS in raw and LABELS not in names]
    num_rows = sum(rows_of_feed(feed) for feed in Calibration(graph.inputs, where, read))
    if num_rows < least:
        raise UsageError(
            f"{num_rows} samples are too few to calibrate with", where=where, next_step=f"give at least {least}; 100 to 500 are usual"
        )
    held = np.concatenate(labels)[:num_rows] if labels else None
    if held is not None and len(held) != num_rows:
        raise UsageError(f"there are {len(held)} labels for {num_rows} samples", where=where, next_step="give one label per sample")
    return Calibration(graph.inputs, where, read, num_rows, held)


def rows_of_feed(feed: Mapping[str, np.ndarray]) -> int:
    """Rows of the longest leading axis; 1 where no input has axes."""
    return max((array.shape[0] for array in feed.values() if array.ndim), default=1)


def _checked(inputs: tuple[Value, ...], raw: Mapping[str, np.ndarray], where: str) -> Feed:
    """The inputs among the arrays, in the model's element types and finite."""
    names = [value.name for value in inputs]
    missing = [name for name in names if name not in raw]
    unknown = [name for name in raw if name not in names and name != LABELS]
    if missing or unknown:
        what = f"no array for input '{missing[0]}'" if missing else f"the model has no input '{unknown[0]}'"
        raise UsageError(what, where=where, next_step=f"name the arrays as the inputs: {', '.join(names)}")
    feed: Feed = {}
    for value in inputs:
        array, dtype = np.asarray(raw[value.name]), value.tensor.dtype
        if array.dtype != dtype.numpy:
            if array.dtype.kind != dtype.numpy.kind and not (array.dtype.kind in "iu" and dtype.is_integer):
                raise UsageError(
                    f"input '{value.name}' is {array.dtype}, not {dtype.numpy}", where=where, next_step=f"convert it to {dtype.numpy}"
                )
            array = array.astype(dtype.numpy)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UsageError(
                f"input '{value.name}' holds NaN or infinities", where=where, next_step="remove those samples, or repair what loads them"
            )
        feed[value.name] = array
    return feed


def _split(inputs: tuple[Value, ...], feed: Feed, where: str) -> Iterator[Feed]:
    """The feed cut along its rows into calls of the model's batch; a remainder that a fixed batch cannot hold is left out."""
    declared = {value.name: value.tensor.shape for value in inputs}
    rows, batch = 0, 0
    cut: list[str] = []
    for name, array in feed.items():
        shape = declared[name]
        if shape is None or not shape:
            continue
        fits = len(shape) == array.ndim and all(isinstance(a, str) or a == b for a, b in zip(shape[1:], array.shape[1:], strict=True))
        if not fits:
            wanted = ", ".join(map(str, shape))
            raise UsageError(
                f"input '{name}' has shape {list(array.shape)}, the model takes ({wanted})",
                where=where,
                next_step="give one array per input, rows first",
            )
        first = shape[0]
        if isinstance(first, str) or array.shape[0] != first:
            if cut and rows != array.shape[0]:
                raise UsageError(
                    f"'{name}' has {array.shape[0]} rows, '{cut[0]}' has {rows}", where=where, next_step="give as many rows for each input"
                )
            cut.append(name)
            rows, batch = array.shape[0], BATCH if isinstance(first, str) else first
    if not cut:
        yield feed
        return
    fixed = any(not isinstance((declared[name] or ("",))[0], str) for name in cut)
    for start in range(0, rows - batch + 1 if fixed else rows, batch):
        yield {name: array[start : start + batch] if name in cut else array for name, array in feed.items()}
