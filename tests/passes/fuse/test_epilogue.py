import numpy as np
import pytest
from onnx.reference.ops.op_conv import _conv_implementation

from kopt.ir.builder import Builder
from kopt.passes.fuse.epilogue import FuseEpilogue
from support.equivalence import assert_rewrites, assert_unchanged, context, register_kopt_op, run_twice
from support.kernels import Epilogue, finished

KOPT = "com.kopt"


def activated(y, activation, params):
    low, high = params or (0.0, 0.0)
    return finished(Epilogue(activation=activation or "", low=low, high=high), y).astype(y.dtype)


@register_kopt_op("Product")
def product(x, w, bias=None, residual=None, *, transB=0, activation="", activation_params=None):
    y = x @ (w.T if transB else w)
    y = y if bias is None else y + bias
    return activated(y if residual is None else y + residual, activation, activation_params)


def convolved(x, w, bias, **window):
    settings = {name: list(window[name]) for name in ("dilations", "kernel_shape", "pads", "strides")}
    y = _conv_implementation(x.transpose(0, 3, 1, 2), w, bias, "NOTSET", group=window["group"], **settings)
    return y.transpose(0, 2, 3, 1).astype(x.dtype)


@register_kopt_op("ConvNhwc")
def conv_nhwc(x, w, bias=None, *, auto_pad="NOTSET", **window):
    return convolved(x, w, bias, **window)


@register_kopt_op("FusedConvNhwc")
def fused_conv_nhwc(x, w, bias=None, residual=None, *, auto_pad="NOTSET", activation="", activation_params=None, **window):
    y = convolved(x, w, bias, **window)
    return activated(y if residual is None else y + residual, activation, activation_params)


class Model:
    """A graph of one layer and what a test puts around it."""

    def __init__(self, dtype="f32"):
        self.b, self.rng, self.inputs, self.dtype = Builder(), np.random.default_rng(5), [], dtype

    def input(self, *shape, dtype=None):
        self.inputs.append(self.b.input(f"x{len(self.inputs)}", dtype or self.dtype, shape))
        return self.inputs[-1]

    def constant(self, *shape):
        return self.b.constant(self.rng.standard_normal(shape).astype(np.float64 if self.dtype == "f64" else np.float32))

    def matmul(self, shape=("n", 5, 4)):
        return self.b.emit("MatMul", self.input(*shape), self.constant(shape[-1], 6))

    def gemm(self, bias=(6,), **attrs):
        w = self.constant(6, 4) if attrs.get("transB") else self.constant(4, 6)
        rest = [] if bias is None else [self.constant(*bias)]
        return self.b.emit("Gemm", self.input(4, 3) if attrs.get("transA") else self.input("n", 4), w, *rest, attrs=attrs)

    def conv(self, *, bias=True, group=1):
        attrs = {"pads": (1, 0, 2, 1), "strides": (2, 1), "group": group, "kernel_shape": (3, 2), "dilations": (1, 2)}
        rest = [self.constant(6)] if bias else []
        x = self.input(2, 7, 8, 4)
        return self.b.emit("ConvNhwc", x, self.constant(6, 4 // group, 3, 2), *rest, domain=KOPT, attrs=attrs)

    def layer(self, kind):
        return {"Product": self.matmul, "FusedConvNhwc": self.conv}[kind]()

    def __call__(self, *outputs):
        return self.b.graph("g", self.inputs, list(outputs))


KINDS = pytest.mark.parametrize("kind", ["Product", "FusedConvNhwc"])


@pytest.mark.parametrize("shape", [("n", 4), ("n", 5, 4), (2, 3, 1, 4)])
def test_matmul(shape):
    m = Model()
    assert_rewrites(FuseEpilogue(), m(m.matmul(shape)), ops=["Product"])


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (6,)])
def test_gemm(trans_b, bias):
    m = Model()
    assert_rewrites(FuseEpilogue(), m(m.gemm(bias, transB=trans_b)), ops=["Product"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_convolution(bias, group):
    m = Model()
    y = m.conv(bias=bias, group=group) if group != 4 else m.b.emit("Relu", m.conv(bias=bias, group=2))
    assert_rewrites(FuseEpilogue(), m(y), ops=["FusedConvNhwc"])


@pytest.mark.parametrize("first", [True, False])
def test_bias_of_a_product(first):
    m = Model()
    y, bias = m.matmul(), m.constant(6)
    after = assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", *((y, bias) if first else (bias, y)))), ops=["Product"])
    assert len(after.nodes[0].inputs) == 3


@pytest.mark.parametrize("first", [True, False])
@KINDS
def test_residual(kind, first):
    m = Model()
    y = m.layer(kind)
    added = m.input(*y.tensor.shape)
    after = assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", *((y, added) if first else (added, y)))), ops=[kind])
    assert after.nodes[0].inputs[3] is added


ACTIVATIONS = {
    "Relu": ("Relu", ()),
    "Tanh": ("Tanh", ()),
    "Gelu": ("Gelu", ()),
    "Clip": ("Clip", (-0.5, 0.75)),
    "low": ("Clip", (-0.25,)),
    "high": ("Clip", (None, 0.25)),
    "none": ("Clip", ()),
    "crossed": ("Clip", (1.0, -1.0)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@KINDS
def test_activation(kind, name):
    m = Model()
    op, limits = ACTIVATIONS[name]
    values = [None if limit is None else m.b.constant(np.float32(limit)) for limit in limits]
    assert_rewrites(FuseEpilogue(), m(m.b.emit(op, m.layer(kind), *values)), ops=[kind])


@KINDS
def test_gelu_by_tanh(kind):
    m = Model()
    after = assert_rewrites(FuseEpilogue(), m(m.b.emit("Gelu", m.layer(kind), attrs={"approximate": "tanh"})), ops=[kind])
    assert after.nodes[0].attrs["activation"] == "GeluTanh"


@pytest.mark.parametrize("activation", ["Relu", "Gelu", "Tanh"])
@KINDS
def test_everything_together(kind, activation):
    m = Model()
    y = m.layer(kind)
    y = m.b.emit("Add", y, m.constant(6)) if kind == "Product" else y
    y = m.b.emit("Add", m.input(*y.tensor.shape), y)
    after = assert_rewrites(FuseEpilogue(), m(m.b.emit(activation, y)), ops=[kind])
    assert None not in after.nodes[0].inputs


def test_two_layers_in_a_row():
    m = Model()
    hidden = m.b.emit("Relu", m.gemm())
    y = m.b.emit("Add", m.b.emit("MatMul", hidden, m.constant(6, 6)), hidden)
    assert_rewrites(FuseEpilogue(), m(y), ops=["Product", "Product"])


@KINDS
def test_one_residual_alone(kind):
    m = Model()
    y = m.layer(kind)
    y = m.b.emit("Add", m.b.emit("Add", y, m.input(*y.tensor.shape)), m.input(*y.tensor.shape))
    assert_rewrites(FuseEpilogue(), m(y), ops=[kind, "Add"])


@KINDS
def test_an_activation_ends_the_fusion(kind):
    m = Model()
    y = m.b.emit("Relu", m.layer(kind))
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Tanh", y)), ops=[kind, "Tanh"])
    m = Model()
    y = m.b.emit("Relu", m.layer(kind))
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", y, m.input(*y.tensor.shape))), ops=[kind, "Add"])
    m = Model()
    y = m.b.emit("Relu", m.layer(kind))
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", y, m.constant(6))), ops=[kind, "Add"])


@pytest.mark.parametrize("cut", [1, 2, 3])
@KINDS
def test_a_residual_of_another_shape_stays(kind, cut):
    m = Model()
    y = m.layer(kind)
    shorter, longer = m.input(*y.tensor.shape[-1:]), m.input(2, *y.tensor.shape)
    ones = m.input(*(1 if axis == len(y.tensor.shape) - cut else size for axis, size in enumerate(y.tensor.shape)))
    after = assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", m.b.emit("Add", m.b.emit("Add", y, shorter), ones), longer)))
    assert [node.op for node in after.nodes] == [kind, "Add", "Add", "Add"]


@pytest.mark.parametrize("shape", [(1,), (1, 6), (5, 6), (1, 5, 6), (5, 1), ()])
def test_a_constant_that_is_no_bias_stays(shape):
    m = Model()
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", m.matmul(), m.constant(*shape))), ops=["Product", "Add"])


def test_unknown_sizes_are_no_residual():
    m = Model()
    y = m.matmul(("n", 5, 4))
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", y, m.input("m", 5, 6))), ops=["Product", "Add"], dims={"n": 1, "m": 3})


@pytest.mark.parametrize("around", ["output", "reader", "sum with itself"])
@KINDS
def test_a_result_that_is_read_twice_stays(kind, around):
    m = Model()
    y = m.layer(kind)
    if around == "sum with itself":
        assert_rewrites(FuseEpilogue(), m(m.b.emit("Add", y, y)), ops=[kind, "Add"])
        return
    z = m.b.emit("Relu", y)
    outputs = (y, z) if around == "output" else (z, m.b.emit("Neg", y))
    after = run_twice(FuseEpilogue(), m(*outputs), context())
    assert [node.op for node in after.nodes if node.op != "Neg"] == [kind, "Relu"]
    assert after.nodes[0].attrs["activation"] == ""


def test_limits_that_are_no_constants_stay():
    m = Model()
    y, low = m.matmul(), m.input()
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Clip", y, low)), ops=["Product", "Clip"])


@pytest.mark.parametrize("op", ["Sigmoid", "Elu", "Softmax", "HardSigmoid"])
def test_other_activations_stay(op):
    m = Model()
    assert_rewrites(FuseEpilogue(), m(m.b.emit(op, m.matmul())), ops=["Product", op])


@pytest.mark.parametrize("attrs", [{"transA": 1}, {"alpha": 0.5}, {"beta": 2.0}])
def test_other_gemms_stay(attrs):
    m = Model()
    assert_unchanged(FuseEpilogue(), m(m.gemm(**attrs)))


@pytest.mark.parametrize("bias", [(1,), (1, 6), (1, 1), ()])
def test_a_gemm_with_another_addend_stays(bias):
    m = Model()
    assert_unchanged(FuseEpilogue(), m(m.gemm(bias)))


def test_f64_stays():
    for made in (Model.matmul, Model.gemm, Model.conv):
        m = Model("f64")
        assert_unchanged(FuseEpilogue(), m(made(m)))


def test_weights_that_are_no_constants_stay():
    m = Model()
    assert_unchanged(FuseEpilogue(), m(m.b.emit("MatMul", m.input(3, 4), m.input(4, 6))))
    m = Model()
    assert_unchanged(FuseEpilogue(), m(m.b.emit("Gemm", m.input(3, 4), m.input(4, 6))))
    m = Model()
    attrs = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "group": 1}
    assert_unchanged(FuseEpilogue(), m(m.b.emit("ConvNhwc", m.input(1, 5, 5, 4), m.input(6, 4, 3, 3), domain=KOPT, attrs=attrs)))


@pytest.mark.parametrize(("left", "right"), [((4,), (4, 6)), ((3, 4), (4,)), ((2, 3, 4), (2, 4, 6))])
def test_products_with_no_matrix_stay(left, right):
    m = Model()
    assert_unchanged(FuseEpilogue(), m(m.b.emit("MatMul", m.input(*left), m.constant(*right))))


def test_nan_comes_through():
    m = Model()
    graph = m(m.b.emit("Relu", m.gemm()))
    x = np.full((2, 4), np.nan, np.float32)
    assert_rewrites(FuseEpilogue(), graph, inputs={"x0": x}, ops=["Product"])


def test_no_rows():
    m = Model()
    assert_rewrites(FuseEpilogue(), m(m.b.emit("Gelu", m.matmul())), ops=["Product"], dims={"n": 0})
