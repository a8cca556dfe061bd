import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.passes.fuse.attention import FuseAttention
from support.equivalence import assert_rewrites, assert_unchanged


def spelled(kind="mul", mask=None, *, turned=(0, 2, 3, 1), kv_heads=2, axis=-1, scale=0.3):
    b = Builder()
    q = b.input("q", "f32", (2, 2, 5, 4))
    key_shape = (2, 7, kv_heads, 4)
    if turned == (0, 1, 3, 2):
        key_shape = (2, kv_heads, 7, 4)
    k, v = b.input("k", "f32", key_shape), b.input("v", "f32", (2, kv_heads, 7, 3))
    scores = b.emit("MatMul", q, b.emit("Transpose", k, attrs={"perm": turned}))
    if kind != "none":
        scores = b.emit("Mul" if kind == "mul" else "Div", scores, b.constant(np.float32(scale)))
    inputs = [q, k, v]
    if mask is not None:
        inputs.append(b.input("mask", "f32", mask))
        scores = b.emit("Add", scores, inputs[-1])
    return b.graph("g", inputs, [b.emit("MatMul", b.emit("Softmax", scores, attrs={"axis": axis}), v, hint="y")])


@pytest.mark.parametrize("kind", ["mul", "div", "none"])
@pytest.mark.parametrize("mask", [None, (5, 7), (2, 1, 5, 7), (1, 2, 5, 7)])
def test_recognised(kind, mask):
    assert_rewrites(FuseAttention(), spelled(kind, mask), ops=["Transpose", "Attention"])
    assert_rewrites(FuseAttention(), spelled(kind, mask, turned=(0, 1, 3, 2)), ops=["Attention"])


@pytest.mark.parametrize("options", [{"axis": 2}, {"kv_heads": 1}, {"scale": -1.0}, {"mask": (1, 7)}, {"mask": (7,)}])
def test_others_stay(options):
    assert_unchanged(FuseAttention(), spelled(**options))


@pytest.mark.parametrize("mask", [(1, 7), (2, 1, 1, 7), (2, 2, 1, 7)])
def test_one_mask_for_all_queries(mask):
    assert_unchanged(FuseAttention(), spelled(mask=mask))
    assert_rewrites(FuseAttention(shared_masks=True), spelled(mask=mask), ops=["Transpose", "Attention"])
