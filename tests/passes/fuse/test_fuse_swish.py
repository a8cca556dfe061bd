import pytest

from kopt.ir.builder import Builder
from kopt.passes.fuse.swish import FuseSwish
from support.equivalence import assert_rewrites, assert_unchanged


def gated(*ops, **attrs):
    b = Builder()
    x = b.input("x", "f32", ("n", 5))
    gate = x
    for name in ops:
        gate = b.emit(name, gate, attrs=attrs)
    return b.graph("g", [x], [b.emit("Mul", gate, x, hint="y")])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_recognised(n):
    assert_rewrites(FuseSwish(), gated("Sigmoid"), ops=["Swish"], dims={"n": n})
    assert_rewrites(FuseSwish(), gated("HardSigmoid", alpha=1 / 6, beta=0.5), ops=["HardSwish"], dims={"n": n})
    assert_rewrites(FuseSwish(), gated("Softplus", "Tanh"), ops=["Mish"], dims={"n": n})


def test_another_gate_stays():
    assert_unchanged(FuseSwish(), gated("HardSigmoid", alpha=0.2, beta=0.5))
    assert_unchanged(FuseSwish(), gated("Tanh"))
