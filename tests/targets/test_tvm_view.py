"""Views against numpy's own strides, and the arena's places against overlap."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kopt.targets.tvm_memory import ALIGNMENT, placed
from kopt.targets.tvm_view import View, joined


def read(view, flat):
    """The elements that a view names."""
    places = np.full(view.shape, view.offset)
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        shape = [1] * len(view.shape)
        shape[axis] = size
        places = places + (np.arange(size) * stride).reshape(shape)
    return flat[places]


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_of_views_read_what_numpy_reads(seed):
    rng = random.Random(seed)
    shape = tuple(rng.choice((1, 2, 3, 4, 6)) for _ in range(rng.randint(1, 4)))
    array = np.arange(int(np.prod(shape)))
    flat, array, view = array, array.reshape(shape), View.whole(shape)
    for _ in range(6):
        kind = rng.choice(("permute", "slice", "expand", "reshape"))
        if kind == "permute":
            order = rng.sample(range(array.ndim), array.ndim)
            array, view = array.transpose(order), view.permuted(order)
        elif kind == "slice":
            axis = rng.randrange(array.ndim)
            step = rng.choice((1, 2, -1))
            taken = range(array.shape[axis])[rng.randrange(array.shape[axis]) :: step]
            array, view = np.take(array, list(taken), axis), view.sliced(axis, taken.start, len(taken), step)
        elif kind == "expand" and array.ndim < 5:
            wanted = (2, *(3 if dim == 1 else dim for dim in array.shape))
            array, view = np.broadcast_to(array, wanted), view.expanded(wanted)
        elif kind == "reshape":
            sizes = list(array.shape)
            k = rng.randrange(len(sizes))
            if k + 1 < len(sizes):
                sizes[k : k + 2] = [sizes[k] * sizes[k + 1]]
            elif sizes[k] % 2 == 0:
                sizes[k : k + 1] = [2, sizes[k] // 2]
            found = view.reshaped(sizes)
            if found is not None:
                array, view = array.reshape(sizes), found
        np.testing.assert_array_equal(read(view, flat), array)


def test_contiguous_views_can_always_be_reshaped():
    assert View.whole((2, 3, 4)).reshaped((6, 1, 2, 2)) == View((6, 1, 2, 2), (4, 0, 2, 1))
    assert View.whole((2, 3)).permuted((1, 0)).reshaped((6,)) is None
    assert View.whole((0, 3)).reshaped((3, 0)) == View.whole((3, 0))
    assert View.whole((1, 1)).reshaped(()) == View((), ())


def test_axes_are_joined_only_where_all_operands_agree():
    assert joined((2, 3, 4), [(12, 4, 1), (12, 4, 1)]) == [(24, (1, 1))]
    assert joined((2, 3, 4), [(12, 4, 1), (0, 4, 1)]) == [(2, (12, 0)), (12, (1, 1))]
    assert joined((1, 5, 1), [(9, 1, 9)]) == [(5, (1,))]
    assert joined((1, 1), [(1, 1)]) == []


@pytest.mark.parametrize("seed", range(20))
def test_buffers_that_live_together_never_overlap(seed):
    rng = random.Random(seed)
    lives = {}
    for key in range(40):
        first = rng.randrange(30)
        lives[key] = (rng.randrange(1, 5000), first, first + rng.randrange(8))
    offsets, size = placed(lives)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    for one, (bytes_, first, last) in lives.items():
        assert offsets[one] + bytes_ <= size
        for other, (more, begin, until) in lives.items():
            if one < other and begin <= last and first <= until:
                assert offsets[one] + bytes_ <= offsets[other] or offsets[other] + more <= offsets[one]
    assert size < sum(bytes_ for bytes_, _, _ in lives.values())


def test_an_empty_arena():
    assert placed({}) == ({}, 0)
