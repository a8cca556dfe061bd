import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.graph import Graph
from kopt.passes.fuse.gelu import FuseGelu
from support.equivalence import assert_rewrites, assert_unchanged


def spelled(form: str, *, root: float = np.sqrt(2)) -> Graph:
    b = Builder()

    def k(number):
        return b.constant(np.float32(number))

    x = b.input("x", "f32", ("n", 5))
    if form.startswith("tanh"):
        cube = b.emit("Pow", x, k(3)) if form == "tanh" else b.emit("Mul", x, b.emit("Mul", x, x))
        inner = b.emit("Add", x, b.emit("Mul", k(0.044715), cube))
        outer = b.emit("Add", k(1), b.emit("Tanh", b.emit("Mul", inner, k(np.sqrt(2 / np.pi)))))
        return b.graph("g", [x], [b.emit("Mul", b.emit("Mul", x, k(0.5)), outer, hint="y")])
    outer = b.emit("Add", b.emit("Erf", b.emit("Div", x, k(root))), k(1))
    forms = {
        "outer": lambda: b.emit("Mul", b.emit("Mul", x, outer), k(0.5), hint="y"),
        "x": lambda: b.emit("Mul", outer, b.emit("Mul", k(0.5), x), hint="y"),
        "erf": lambda: b.emit("Mul", x, b.emit("Mul", k(0.5), outer), hint="y"),
    }
    return b.graph("g", [x], [forms[form]()])


@pytest.mark.parametrize("form", ["outer", "x", "erf", "tanh", "tanh-cube"])
def test_recognised(form):
    assert_rewrites(FuseGelu(), spelled(form), ops=["Gelu"], atol=1e-5)


def test_another_constant_is_no_gelu():
    assert_unchanged(FuseGelu(), spelled("outer", root=1.5))
