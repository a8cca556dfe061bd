import pytest

from kopt.errors import InvalidModelError
from kopt.ir.builder import Builder
from kopt.ir.types import DType


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_products_of_narrow_operands_are_f32(dtype):
    b = Builder()
    x, w, c = b.input("x", dtype, (2, 5, 8)), b.input("w", dtype, (8, 3)), b.input("c", "f32", (3,))
    y = b.emit("MatMulMixed", x, w, domain="com.kopt")
    assert (y.tensor.dtype, y.shape) == (DType.F32, (2, 5, 3))
    a = b.input("a", dtype, (8, 5))
    attrs = {"transA": 1, "transB": 0, "alpha": 1.0, "beta": 1.0}
    y = b.emit("GemmMixed", a, w, c, domain="com.kopt", attrs=attrs)
    assert (y.tensor.dtype, y.shape) == (DType.F32, (5, 3))
    image, kernel = b.input("i", dtype, (1, 9, 7, 4)), b.input("k", dtype, (6, 4, 3, 3))
    attrs = {"group": 1, "pads": (1, 1, 1, 1), "strides": (2, 2), "kernel_shape": (3, 3)}
    y = b.emit("ConvNhwcMixed", image, kernel, None, domain="com.kopt", attrs=attrs)
    assert (y.tensor.dtype, y.shape) == (DType.F32, (1, 5, 4, 6))


@pytest.mark.parametrize(("left", "right", "added"), [("f32", "f32", "f32"), ("bf16", "f16", "f32"), ("bf16", "bf16", "bf16")])
def test_other_element_types_are_refused(left, right, added):
    b = Builder()
    with pytest.raises(InvalidModelError, match="does not accept"):
        b.emit("GemmMixed", b.input("a", left, (2, 3)), b.input("b", right, (3, 4)), b.input("c", added, (4,)), domain="com.kopt")


def test_contradicting_shapes_are_refused():
    b = Builder()
    with pytest.raises(InvalidModelError):
        b.emit("MatMulMixed", b.input("a", "bf16", (2, 3)), b.input("b", "bf16", (4, 5)), domain="com.kopt")


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_fused_forms_may_be_narrow(dtype):
    b = Builder()
    x, w, c = b.input("x", dtype, (2, 5, 8)), b.input("w", dtype, (8, 3)), b.input("c", "f32", (3,))
    attrs = {"transB": 0, "activation": "Relu"}
    for residual in (dtype, "f32"):
        r = b.input("r", residual, (2, 5, 3))
        assert b.emit("ProductMixed", x, w, c, r, domain="com.kopt", attrs=attrs).tensor.dtype is DType.F32
        y = b.emit("ProductMixed", x, w, c, r, domain="com.kopt", attrs={**attrs, "narrow_result": 1})
        assert (y.tensor.dtype, y.shape) == (DType(dtype), (2, 5, 3))
    image, kernel = b.input("i", dtype, (1, 9, 7, 4)), b.input("k", dtype, (6, 4, 3, 3))
    window = {"group": 1, "pads": (1, 1, 1, 1), "strides": (2, 2), "dilations": (1, 1), "kernel_shape": (3, 3)}
    y = b.emit("FusedConvNhwcMixed", image, kernel, domain="com.kopt", attrs={**window, "activation": "", "narrow_result": 1})
    assert (y.tensor.dtype, y.shape) == (DType(dtype), (1, 5, 4, 6))


@pytest.mark.parametrize(("bias", "residual"), [("bf16", "f32"), ("f32", "f16")])
def test_fused_forms_refuse_other_addends(bias, residual):
    b = Builder()
    x, w = b.input("x", "bf16", (5, 8)), b.input("w", "bf16", (8, 3))
    with pytest.raises(InvalidModelError, match="does not accept"):
        b.emit("ProductMixed", x, w, b.input("c", bias, (3,)), b.input("r", residual, (5, 3)), domain="com.kopt", attrs={"transB": 0})
