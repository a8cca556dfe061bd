import numpy as np
import pytest

from kopt.errors import InvalidModelError
from kopt.ir.builder import Builder
from kopt.ir.int8_types import INT8_INPUTS
from kopt.ir.types import DType

KOPT = "com.kopt"
WINDOW = {"group": 1, "pads": (1, 1, 1, 1), "strides": (2, 2), "dilations": (1, 1), "kernel_shape": (3, 3)}
SHAPES = {"Int8Product": ((2, 5, 8), (8, 3), (2, 5, 3)), "Int8ConvNhwc": ((2, 9, 7, 8), (3, 8, 3, 3), (2, 5, 4, 3))}
OPS = pytest.mark.parametrize("op", sorted(SHAPES))


def emitted(op, **types):
    """The result of the operator on inputs of the given (dtype, shape), by name; None leaves one out."""
    x, w, _ = SHAPES[op]
    usual = {"x": ("u8", x), "w": ("i8", w), "x_scale": ("f32", ()), "x_zero_point": ("u8", ()), "w_scale": ("f32", (3,))}
    given, b = usual | types, Builder()
    inputs = [None if given.get(name) is None else b.input(name, *given[name]) for name in INT8_INPUTS]
    return b.emit(op, *inputs, domain=KOPT, attrs={"activation": "", **(WINDOW if op == "Int8ConvNhwc" else {})}).tensor


@OPS
def test_results_are_floats_without_a_scale_of_their_own(op):
    for x in ("u8", "i8"):
        tensor = emitted(op, x=(x, SHAPES[op][0]), x_zero_point=(x, ()))
        assert (tensor.dtype, tensor.shape) == (DType.F32, SHAPES[op][2])


@OPS
def test_results_have_the_type_of_their_zero_point(op):
    assert emitted(op, y_scale=("f32", ())).dtype is DType.U8
    assert emitted(op, y_scale=("f32", (1,)), y_zero_point=("i8", (1,))).dtype is DType.I8


@OPS
def test_residuals_in_floats_and_integers(op):
    shape = SHAPES[op][2]
    assert emitted(op, bias=("f32", (3,)), residual=("f32", shape)).shape == shape
    assert emitted(op, residual=("i8", shape), residual_scale=("f32", ()), residual_zero_point=("i8", ())).shape == shape


def test_unknown_sizes_pass_through():
    assert emitted("Int8Product", x=("u8", ("n", 8)), residual=("f32", ("m", 3))).shape == ("n", 3)
    assert emitted("Int8ConvNhwc", x=("u8", ("n", 9, 7, 8))).shape == ("n", 5, 4, 3)


@OPS
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": ("f32", None)}, "x of type"),
        ({"x_scale": None}, "the absence of x_scale"),
        ({"w": ("u8", None)}, "w of type"),
        ({"x_zero_point": ("i8", ())}, "x_zero_point of type"),
        ({"w_scale": ("f32", (4,))}, "w_scale of type"),
        ({"bias": ("i32", (3,))}, "bias of type"),
        ({"bias": ("f32", (1,))}, "bias of type"),
        ({"x_scale": ("f32", (2,))}, "x_scale of type"),
        ({"residual": ("f32", (1, 3))}, "a residual of type"),
        ({"residual": ("u8", None)}, "without its scale"),
        ({"residual_scale": ("f32", ())}, "without an 8-bit residual"),
        ({"y_scale": ("f32", ()), "y_zero_point": ("i32", ())}, "y_zero_point of type"),
    ],
)
def test_other_operands_are_refused(op, wrong, message):
    with pytest.raises(InvalidModelError, match=message):
        emitted(op, **wrong)


def test_contradicting_shapes_are_refused():
    with pytest.raises(InvalidModelError):
        emitted("Int8Product", x=("u8", (2, 7)))


def test_operations_are_counted():
    from kopt.ir.flops import graph_flops

    b = Builder()
    x, scale = b.input("x", "u8", (5, 8)), b.constant(np.float32(1))
    y = b.emit("Int8Product", x, b.constant(np.ones((8, 3), np.int8)), scale, None, scale, domain=KOPT, attrs={"activation": ""})
    assert graph_flops(b.graph("g", [x], [y])) == 2 * 5 * 8 * 3
