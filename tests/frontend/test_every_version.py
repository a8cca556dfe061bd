"""Every operator of ai.onnx at every version it ever had: official cases in the form of that version, models by hand where none are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx
import pytest

import kopt.onnx_backend as backend
from kopt.ir.spec import CANONICAL_OPSET
from support.graphs import model
from support.old_forms import cases_at, versions
from support.onnx_suites import same

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
V = np.array([1.0, -2.0], np.float32)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
IMAGE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)

OTHER_MEANING = {
    "Hardmax": (13, "_axis_[01]$", "all axes from `axis` on were one"),
    "LogSoftmax": (13, "_axis_[01]$", "all axes from `axis` on were one"),
    "Softmax": (13, "_axis_[01]$", "all axes from `axis` on were one"),
    "PRelu": (7, "broadcast", "a slope of rank 1 was one per channel"),
}
"""Below a version some cases mean something else; ``test_upgrade`` has that meaning."""

RANDOM = re.compile("bernoulli|training_dropout(?!_zero_ratio)")
NORM = np.cbrt((np.abs(X) ** 3).sum((2, 3), keepdims=True))
SEQUENCE = "s = SequenceConstruct(x, x) n = SequenceLength(s)"

BY_HAND: dict[str, tuple[str, Sequence[int], list[Any], list[Any]]] = {
    "GlobalLpPool with p a float": ("m (float[2,3,4,5] x) => (y) { y = GlobalLpPool <p = 3.0> (x) }", [1], [X], [NORM]),
    "GlobalLpPool": ("m (float[2,3,4,5] x) => (y) { y = GlobalLpPool <p = 3> (x) }", [2, 22], [X], [NORM]),
    "MaxRoiPool": (
        "m (float[1,1,4,4] x, float[1,5] r) => (y) { y = MaxRoiPool <pooled_shape = [2, 2]> (x, r) }", [1, 22],
        [IMAGE, np.array([[0, 0, 0, 3, 3]], np.float32)], [np.array([[[[5, 7], [13, 15]]]], np.float32)],
    ),
    "Multinomial": (
        "m (float[1,3] x) => (y) { y = Multinomial <sample_size = 4> (x) }", [7, 22],
        [np.array([[-500, 0, -500]], np.float32)], [np.full((1, 4), 1, np.int32)],
    ),
    "RandomNormal": ("m (float[2] x) => (y) { y = RandomNormal <shape = [2, 3], mean = 2.0, scale = 0.0> () }", [1, 22], [V],
                     [np.full((2, 3), 2, np.float32)]),
    "RandomUniform": ("m (float[2] x) => (y) { y = RandomUniform <shape = [2], low = 3.0, high = 3.0, dtype = 11> () }", [1, 22], [V],
                      [np.full(2, 3.0)]),
    "RandomNormalLike": ("m (float[2] x) => (y) { y = RandomNormalLike <mean = 2.0, scale = 0.0> (x) }", [1, 22], [V],
                         [np.full(2, 2, np.float32)]),
    "RandomUniformLike": ("m (float[2] x) => (y) { y = RandomUniformLike <low = 3.0, high = 3.0> (x) }", [1, 22], [V],
                          [np.full(2, 3, np.float32)]),
    "Resize": (
        "m (float[1,1,4,4] x, float[4] s) => (y) { y = Resize (x, s) }", [10], [IMAGE, np.array([1, 1, 2, 2], np.float32)],
        [IMAGE.repeat(2, 2).repeat(2, 3)],
    ),
    "Upsample by two numbers": ("m (float[1,1,4,4] x) => (y) { y = Upsample <height_scale = 2.0, width_scale = 3.0> (x) }", [1], [IMAGE],
                                [IMAGE.repeat(2, 2).repeat(3, 3)]),
    "Upsample": ("m (float[1,1,4,4] x) => (y) { y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x) }", [7], [IMAGE],
                 [IMAGE.repeat(2, 2).repeat(3, 3)]),
    "Tile": ("m (float[3,2] x) => (y) <int64 t = {3}, int64 a = {1}> { y = Tile (x, t, a) }", [1], [ROWS], [np.tile(ROWS, (1, 3))]),
    "Optional": ("m (float[2] x) => (y, h) { o = Optional(x) h = OptionalHasElement(o) y = OptionalGetElement(o) }", [15, 28], [V],
                 [V, np.asarray(True)]),
    "SequenceEmpty": ("m (float[2] x) => (n) { e = SequenceEmpty() s = SequenceInsert(e, x) n = SequenceLength(s) }", [11], [V],
                      [np.asarray(1)]),
    "SequenceErase": ("m (float[2] x) => (n) { " + SEQUENCE.replace("n =", "k =") + " t = SequenceErase(s) n = SequenceLength(t) }", [11],
                      [V], [np.asarray(1)]),
    "SequenceAt, ConcatFromSequence": (
        "m (float[2] x) => (n, y, c) <int64 i = {-1}> { " + SEQUENCE + " y = SequenceAt(s, i) c = ConcatFromSequence <axis = 0> (s) }",
        [11],
        [V], [np.asarray(2), V, np.concatenate([V, V])],
    ),
    "SequenceMap": (
        """m (float[2] x) => (y) <int64 i = {1}> { s = SequenceConstruct(x, x)
            t = SequenceMap <body = b (float[2] a) => (float[2] c) { c = Neg(a) }> (s) y = SequenceAt(t, i) }""",
        [17], [V], [-V],
    ),
    "If": (
        """m (float[2] x, bool c) => (y) { y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) },
            else_branch = e () => (float[2] b) { b = Abs(x) }> }""",
        [1, 11, 13, 16, 19, 21, 23, 24, 25], [V, np.asarray(False)], [np.abs(V)],
    ),
    "Loop": (
        """m (float[2] x, int64 n, bool c) => (y, r) { y, r = Loop (n, c, x) <body = b (int64 i, bool k, float[2] s) =>
            (bool k2, float[2] t, float[2] o) { k2 = Identity(k) t = Add(s, s) o = Neg(t) }> }""",
        [1, 11, 13, 16, 19, 21, 23, 24, 25], [V, np.asarray(3), np.asarray(True)], [V * 8, np.stack([-V * 2, -V * 4, -V * 8])],
    ),
    "Scan": (
        """m (float[2] s, float[3,2] x) => (y, r) { y, r = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] e) =>
            (float[2] c, float[2] d) { c = Add(a, e) d = Identity(c) }> (s, x) }""",
        [9, 11, 16, 19, 21, 23, 24, 25], [V, ROWS], [V + ROWS.sum(0), V + ROWS.cumsum(0)],
    ),
    "Scan over a batch": (
        """m (float[1,2] s, float[1,3,2] x) => (y, r) { y, r = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] e) =>
            (float[2] c, float[2] d) { c = Add(a, e) d = Identity(c) }> (, s, x) }""",
        [8], [V[None], ROWS[None]], [(V + ROWS.sum(0))[None], (V + ROWS.cumsum(0))[None]],
    ),
}  # fmt: skip


def meant(op: str, version: int, name: str) -> bool:
    """Whether a case means at a version what it means today."""
    below, pattern, _ = OTHER_MEANING.get(op, (0, "", ""))
    return version >= below or not re.search(pattern, name)


def run_version(schema: onnx.defs.OpSchema, most: int) -> int:
    """Run official cases in the form of one version; how many there were."""
    found = (item for item in cases_at(schema) if meant(schema.name, schema.since_version, item[0].name))
    count = 0
    for case, old, inputs, expected in islice(found, most):
        results = backend.run_model(old, inputs)
        for result, wanted in zip(results, expected, strict=True):
            same(result, wanted, case.rtol, max(case.atol, 1e-6), values=not RANDOM.search(case.name))
        count += 1
    return count


def old_versions(below: int) -> list[tuple[str, int]]:
    return [(op, schema.since_version) for op, held in versions().items() for schema in held if schema.since_version < below]


def schema_of(op: str, version: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(op, version, "")


@pytest.mark.parametrize(("name", "version"), [(name, version) for name, case in BY_HAND.items() for version in case[1]])
def test_by_hand(name: str, version: int) -> None:
    text, _, inputs, expected = BY_HAND[name]
    results = backend.run_model(model(text, opset=version), inputs)
    for result, wanted in zip(results, expected, strict=True):
        same(result, wanted, 1e-5, 1e-6)


@pytest.mark.parametrize(("op", "version"), old_versions(7), ids=str)
def test_before_opset_7(op: str, version: int) -> None:
    run_version(schema_of(op, version), 1)


@pytest.mark.nightly
@pytest.mark.parametrize(("op", "version"), old_versions(CANONICAL_OPSET + 1), ids=str)
def test_every_version(op: str, version: int) -> None:
    run_version(schema_of(op, version), 4)


def test_no_version_is_left_out() -> None:
    by_hand = {(op, version) for name, case in BY_HAND.items() for op in re.findall(r"\b(\w+) ?[(<]", case[0]) for version in case[1]}
    missing = [
        (op, version)
        for op, version in old_versions(CANONICAL_OPSET + 1)
        if (op, version) not in by_hand and not any(meant(op, version, item[0].name) for item in cases_at(schema_of(op, version)))
    ]
    assert not missing
