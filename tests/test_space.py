"""Search spaces: defaults, enumeration, sampling and moves stay inside the constraints, and are decided by the seed."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kopt.errors import UsageError
from kopt.space import Constraint, Knob, SearchSpace, Workload, config_key

TILES = SearchSpace(
    (Knob("m", (1, 2, 4, 8, 16), 8), Knob("n", (16, 32, 64), 32), Knob("order", ("mn", "nm")), Knob("unroll", (False, True))),
    (Constraint(("m", "n"), lambda m, n: m * n <= 256, "registers"),),
)


@st.composite
def spaces(draw) -> SearchSpace:
    """Spaces of up to four knobs, with constraints that forbid some sums of choice positions."""
    choices = st.one_of(
        st.lists(st.integers(-4, 64), min_size=1, max_size=5, unique=True),
        st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True),
        st.just([False, True]),
    )
    knobs = tuple(Knob(f"k{i}", tuple(c), draw(st.sampled_from(c))) for i, c in enumerate(draw(st.lists(choices, min_size=1, max_size=4))))
    seed, forbidden = draw(st.integers(0, 99)), draw(st.integers(0, 2))
    pair = draw(st.lists(st.sampled_from([k.name for k in knobs]), min_size=1, max_size=2, unique=True))

    def holds(*values) -> bool:
        return sum(map(ord, f"{seed}{values}")) % 3 != forbidden

    return SearchSpace(knobs, (Constraint(tuple(pair), holds, "some are forbidden"),))


def test_the_default_is_the_point_of_defaults() -> None:
    assert TILES.default() == {"m": 8, "n": 32, "order": "mn", "unroll": False}
    falsy = SearchSpace((Knob("a", (2, 1, 0), 0), Knob("b", (True, False), False)))
    assert falsy.default() == {"a": 0, "b": False}


def test_a_forbidden_default_gives_way_to_a_near_point() -> None:
    space = SearchSpace((Knob("a", (1, 2, 4, 8), 4), Knob("b", (1, 2, 4), 4)), (Constraint(("a", "b"), lambda a, b: a * b < 16),))
    assert space.default() == {"a": 4, "b": 2}


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 1000))
def test_every_point_given_is_in_the_space(space: SearchSpace, seed: int) -> None:
    points = list(space.enumerate())
    keys = [config_key(point) for point in points]
    assert len(set(keys)) == len(keys) <= space.num_combinations
    assert all(point in space for point in points)
    if not points:
        with pytest.raises(UsageError, match="some are forbidden"):
            space.default()
        with pytest.raises(UsageError):
            space.sample(random.Random(seed))
        return
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    assert config_key(space.default()) in keys
    for point in (first, second, space.mutate(first, rng), space.cross(first, second, rng)):
        assert point in space
        assert config_key(point) in keys
    for near in space.neighbours(first):
        assert near in space
        assert sum(near[k] != first[k] or type(near[k]) is not type(first[k]) for k in near) == 1
    everything = space.sample_distinct(random.Random(seed), len(points))
    assert sorted(map(config_key, everything)) == sorted(keys)


@settings(max_examples=30, deadline=None)
@given(spaces(), st.integers(0, 1000))
def test_a_seed_decides_every_sample(space: SearchSpace, seed: int) -> None:
    def walk() -> list[str]:
        rng = random.Random(seed)
        try:
            point = space.sample(rng)
        except UsageError:
            return []
        path = [point]
        for _ in range(5):
            path.append(space.mutate(path[-1], rng))
        return [config_key(one) for one in (*path, *space.sample_distinct(rng, 3))]

    assert walk() == walk()


def test_moves_change_something_where_they_can() -> None:
    rng = random.Random(0)
    for _ in range(200):
        point = TILES.sample(rng)
        assert TILES.mutate(point, rng) != point
    single = SearchSpace((Knob("a", (1,)),))
    assert single.mutate({"a": 1}, rng) == {"a": 1}
    assert not list(single.neighbours({"a": 1}))


def test_a_narrow_constraint_is_sampled_without_luck() -> None:
    knobs = tuple(Knob(f"k{i}", tuple(range(40))) for i in range(4))
    space = SearchSpace(knobs, tuple(Constraint((f"k{i}",), lambda v: v == 7) for i in range(4)))
    assert space.sample(random.Random(1)) == dict.fromkeys(("k0", "k1", "k2", "k3"), 7)


def test_enumeration_stops_branches_early() -> None:
    asked = []

    def holds(value: int) -> bool:
        asked.append(value)
        return value == 0

    knobs = (Knob("a", tuple(range(50))), *(Knob(f"b{i}", tuple(range(10))) for i in range(6)))
    space = SearchSpace(knobs, (Constraint(("a",), holds),))
    assert len(list(space.enumerate(limit=5))) == 5
    assert len(asked) == 1


def test_samples_leave_out_what_is_known() -> None:
    known = [config_key(point) for point in TILES.enumerate(limit=10)]
    found = TILES.sample_distinct(random.Random(3), 100, exclude=known)
    assert not {config_key(point) for point in found} & set(known)
    assert len(found) == len(list(TILES.enumerate())) - 10


def test_an_empty_space_has_one_point() -> None:
    assert list(SearchSpace().enumerate()) == [{}]
    assert SearchSpace().default() == SearchSpace().sample(random.Random(0)) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Knob("a", ()),
        lambda: Knob("a", (1, 1)),
        lambda: Knob("a", (1, 2), 3),
        lambda: Knob("a", (1, 2)).index(True),
        lambda: SearchSpace((Knob("a", (1,)), Knob("a", (2,)))),
        lambda: SearchSpace((Knob("a", (1,)),), (Constraint(("b",), bool),)),
        lambda: SearchSpace((Knob("a", (1,)),), (Constraint((), bool),)),
        lambda: Workload.from_json({"kind": "conv"}),
        lambda: Workload.from_json({"kind": "conv", "shapes": [["x"]], "dtypes": [], "attrs": {}}),
        lambda: Workload("conv", attrs={"f": object()}).digest,
        lambda: Workload("conv", attrs={"f": float("nan")}).digest,
    ],
)
def test_wrong_definitions_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()


def test_a_workload_is_known_by_its_content() -> None:
    one = Workload("conv2d", ((1, 64, 56, 56), (64, 64, 3, 3)), ("f32",), {"strides": [1, 1], "epilogue": "relu"})
    other = Workload("conv2d", ((1, 64, 56, 56), (64, 64, 3, 3)), ("f32",), {"epilogue": "relu", "strides": (1, 1)})
    assert one == other
    assert hash(one) == hash(other)
    assert Workload.from_json(one.to_json()) == one
    assert str(one) == "conv2d 1x64x56x56 64x64x3x3 f32"
    different = {one.digest, Workload("conv2d", one.shapes, ("bf16",), one.attrs).digest, Workload("conv2d", one.shapes, ("f32",)).digest}
    assert len(different) == 3


def test_a_workloads_digest_is_the_same_in_another_process() -> None:
    code = "from kopt.space import Workload; import sys; sys.stdout.write(Workload('gemm', ((2, 3),), ('f32',), {'a': 1}).digest)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    }
    assert found == {Workload("gemm", ((2, 3),), ("f32",), {"a": 1}).digest}
