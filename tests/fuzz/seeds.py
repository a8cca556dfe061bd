"""Valid small models that the fuzzer starts from: every construct of the format, each in a few nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import DATA_DIR

from support.graphs import model
from support.node_cases import node_cases

MAX_SEED_BYTES = 16_000
"""Larger models would spend their mutations on weights."""

TEXTS = {
    "chain": "m (float[N,3] x) => (float[N,3] y) { a = Relu(x) b = Add(a, x) c = Sigmoid(b) y = Neg(c) }",
    "reshape": "m (float[2,6] x) => (float[3,4] y) <int64[2] s = {3, -1}> { a = Reshape(x, s) y = Identity(a) }",
    "gather": "m (float[5,3] x, int64[N] i) => (y) { y = Gather <axis = 0> (x, i) }",
    "gather_nd": "m (float[2,3,4] x, int64[2,2] i) => (y) { y = GatherND <batch_dims = 0> (x, i) }",
    "scatter": 'm (float[4,3] x, int64[2,1] i, float[2,3] u) => (y) { y = ScatterND <reduction = "add"> (x, i, u) }',
    "matmul": "m (float[2,4] x) => (y) { w = Constant <value = float[4,2] {1,2,3,4,5,6,7,8}> () y = MatMul(x, w) }",
    "gemm": "m (float[2,4] x, float[3,4] w, float[3] b) => (y) { y = Gemm <transB = 1, alpha = 0.5> (x, w, b) }",
    "shapes": """m (float[N,3,4] x) => (y) <int64[1] m = {-1}, int64 k = {0}> {
        s = Shape(x) n = Gather(s, k) a = Constant <value_ints = [0]> () u = Unsqueeze(n, a)
        t = Concat <axis = 0> (u, m) y = Reshape(x, t) }""",
    "slice": "m (float[5,6] x) => (y) <int64[1] s = {1}, int64[1] e = {-1}, int64[1] t = {2}> { y = Slice(x, s, e, s, t) }",
    "pad": 'm (float[2,3] x) => (y) <int64[4] p = {0, 1, 1, 0}> { y = Pad <mode = "reflect"> (x, p) }',
    "split": "m (float[6,2] x) => (a, b, c) <int64[3] s = {1, 2, 3}> { a, b, c = Split <axis = 0> (x, s) }",
    "topk": "m (float[3,5] x) => (v, i) <int64[1] k = {2}> { v, i = TopK <axis = -1> (x, k) }",
    "expand": "m (float[3,1] x) => (y) <int64[3] s = {2, 3, 4}> { a = Expand(x, s) y = ReduceSum <keepdims = 0> (a) }",
    "range": "m (int64 n) => (y) <int64 z = {0}, int64 o = {1}> { r = Range(z, n, o) y = ReduceMax(r) }",
    "filled": "m (float[2] x) => (y) <int64[2] s = {3, 2}> { z = ConstantOfShape <value = float[1] {2}> (s) y = Add(x, z) }",
    "tile": "m (float[2,2] x) => (y) <int64[2] r = {2, 3}> { y = Tile(x, r) }",
    "one_hot": "m (int64[3] i) => (y) <int64 d = {4}, float[2] v = {0, 1}> { y = OneHot <axis = -1> (i, d, v) }",
    "division": "m (int32[4] x, int32[4] y) => (a, b) { a = Div(x, y) b = Mod(x, y) }",
    "cast": "m (float[3] x) => (y) { a = Cast <to = 7> (x) b = CastLike(a, x) y = Cast <to = 16> (b) }",
    "transpose": "m (float[2,3,4] x) => (y) { a = Transpose <perm = [2, 0, 1]> (x) y = Flatten <axis = 2> (a) }",
    "softmax": "m (float[2,3] x) => (y) { a = Softmax <axis = -1> (x) y = CumSum(a, k) k = Constant <value_int = 1> () }",
    "einsum": 'm (float[2,3] x, float[3,4] z) => (y) { y = Einsum <equation = "ij,jk->ik"> (x, z) }',
    "resize": 'm (float[1,1,3,3] x) => (y) <float[4] f = {1, 1, 2, 2}> { y = Resize <mode = "linear"> (x, , f) }',
    "dropout": "m (float[2,3] x) => (y) { y, mask = Dropout(x) }",
    "lstm": "m (float[2,1,3] x, float[1,8,3] w, float[1,8,2] r) => (y, h) { y, h, c = LSTM <hidden_size = 2> (x, w, r) }",
    "sequence": "m (float[2,3] x) => (y) <int64 i = {-1}> { s = SequenceConstruct(x, x) y = SequenceAt(s, i) }",
    "non_zero": "m (float[2,3] x) => (y) { y = NonZero(x) }",
    "text": "m (string[2] x) => (y) { y = StringConcat(x, x) }",
    "quantized": """m (float[2,3] x) => (y) <float s = {0.1}, uint8 z = {3}> {
        q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
    "branches": """m (bool c, float[2] x) => (y) {
        y = If (c) <then_branch = a () => (float[2] p) { p = Neg(x) }, else_branch = b () => (float[2] q) { q = Abs(x) }> }""",
    "loop": """m (float[2] x) => (y, ys) <int64 n = {3}, bool t = {1}> {
        y, ys = Loop (n, t, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w, float[2] o) {
            k2 = Identity(k) w = Add(v, v) o = Neg(v) }> }""",
    "scan": """m (float[4,2] x, float[2] s) => (y, ys) {
        y, ys = Scan <num_scan_inputs = 1, body = b (float[2] a, float[2] e) =>
            (float[2] n, float[2] o) { n = Add(a, e) o = Mul(a, e) }> (s, x) }""",
}


def convolution() -> onnx.ModelProto:
    """Weights as initializers, in raw and typed form."""
    proto = model("""m (float[1,2,5,5] x, float[3,2,3,3] w, float[3] b) => (y) {
        a = Conv <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (x, w, b) y = MaxPool <kernel_shape = [2,2]> (a) }""")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2, 3, 3), np.float32), "w"))
    proto.graph.initializer.append(helper.make_tensor("b", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    del proto.graph.input[1:]
    return proto


def sparse() -> onnx.ModelProto:
    """A sparse initializer."""
    proto = model("m (float[2,3] x, float[2,3] w) => (y) { y = Add(x, w) }")
    values = numpy_helper.from_array(np.asarray([1.0, 2.0], np.float32), "w")
    indices = numpy_helper.from_array(np.asarray([1, 4], np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    del proto.graph.input[1:]
    return proto


def with_functions() -> onnx.ModelProto:
    """Functions that call each other, one with an attribute."""
    proto = model("m (float[2,3] x) => (y) { y = Identity(x) }")
    imports = [proto.opset_import[0], helper.make_opsetid("f", 1)]
    slope = helper.make_node("LeakyRelu", ["a"], ["b"])
    slope.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    inner = helper.make_function("f", "inner", ["a"], ["b"], [slope], imports, ["slope"])
    calls = [helper.make_node("inner", ["a"], ["t"], domain="f", slope=0.5), helper.make_node("Add", ["t", "a"], ["b"])]
    proto.functions.extend([inner, helper.make_function("f", "outer", ["a"], ["b"], calls, imports)])
    proto.opset_import.append(imports[1])
    proto.graph.node[0].CopyFrom(helper.make_node("outer", ["x"], ["y"], domain="f"))
    return proto


def with_maps() -> onnx.ModelProto:
    """A classifier's scores as maps, as scikit-learn's converter ends its models."""
    zipped = helper.make_node("ZipMap", ["y"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"])
    proto = model("m (float[N,3] x) => (y) { y = Softmax(x) }")
    proto.graph.node.append(zipped)
    element = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output.append(helper.make_value_info("maps", helper.make_sequence_type_proto(element)))
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def own_seeds() -> dict[str, bytes]:
    """The models of this file and the small ones that the onnx package holds as files, by name."""
    found = {name: model(text) for name, text in TEXTS.items()}
    found |= {"convolution": convolution(), "sparse": sparse(), "functions": with_functions(), "maps": with_maps()}
    seeds = {name: proto.SerializeToString() for name, proto in found.items()}
    for suite in ("simple", "pytorch-operator"):
        for path in sorted(Path(DATA_DIR, suite).glob("*/model.onnx")):
            if path.stat().st_size <= MAX_SEED_BYTES:
                seeds[path.parent.name] = path.read_bytes()
    return seeds


def all_seeds() -> dict[str, bytes]:
    """As ``own_seeds``, with ONNX's node tests: every operator."""
    cases = {name: case.model.SerializeToString() for name, case in node_cases().items()}
    return own_seeds() | {name: content for name, content in cases.items() if len(content) <= MAX_SEED_BYTES}
