"""Translations of the tvm backend against onnx.reference: many small graphs as one program, odd shapes, NaN, integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.specialize import Recipe, specialize

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values):
    return np.array(values, np.int64)


def with_nan(*shape):
    array = f32(*shape)
    array.reshape(-1)[::7] = np.nan
    array.reshape(-1)[1::11] = np.inf
    return array


# operator, inputs (those in a list are constants), attributes
ELEMENTWISE = [
    *((op, (f32(3, 17), f32(3, 17)), {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, (f32(2, 1, 33), f32(5, 1)), {}) for op in ("Add", "Mul", "Less", "GreaterOrEqual", "Equal")),
    *((op, (f32(7, 5),), {}) for op in ("Neg", "Abs", "Exp", "Tanh", "Erf", "Sigmoid", "Relu", "Floor", "Ceil", "Round", "Sign")),
    *((op, (np.abs(f32(40)) + 0.1,), {}) for op in ("Sqrt", "Log", "Reciprocal")),
    *(
        (op, (f32(3, 21) * 4,), {})
        for op in ("LeakyRelu", "Elu", "Selu", "HardSwish", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu")
    ),
    *((op, (with_nan(5, 19), f32(5, 19)), {}) for op in ("Max", "Min")),
    *((op, (f32(5, 19), with_nan(5, 19)), {}) for op in ("Max", "Min")),
    *((op, (with_nan(50),), {}) for op in ("Relu", "IsNaN", "Abs", "Exp")),
    *((op, (RNG.random((4, 6)) < 0.5, RNG.random(6) < 0.5), {}) for op in ("And", "Or", "Xor")),
    ("Not", (RNG.random(19) < 0.5,), {}),
    ("Gelu", (f32(4, 33),), {}),
    ("Gelu", (f32(4, 33),), {"approximate": "tanh"}),
    ("Clip", (f32(65), [np.float32(-0.5)], [np.float32(0.25)]), {}),
    ("Clip", (with_nan(65), np.float32(-0.5), np.float32(0.25)), {}),
    ("PRelu", (f32(2, 3, 5), f32(3, 1)), {}),
    *(("Pow", (np.abs(f32(4, 9)), [np.float32(exponent)]), {}) for exponent in (2, 3, 0.5, 1.7)),
    ("Where", (RNG.random((3, 1, 18)) < 0.5, f32(2, 18), np.float32(0)), {}),
    ("Cast", (f32(35) * 10,), {"to": onnx.TensorProto.INT32}),
    ("Cast", (f32(35),), {"to": onnx.TensorProto.BOOL}),
    ("Cast", (RNG.random(21) < 0.5,), {"to": onnx.TensorProto.FLOAT}),
    ("Div", (RNG.integers(-50, 50, 33), RNG.integers(1, 9, 33)), {}),
    ("Mod", (RNG.integers(-50, 50, 33), RNG.integers(1, 9, 33)), {}),
    ("Add", (f32(3, 4).astype(np.float64), f32(4).astype(np.float64)), {}),
    ("Mul", (RNG.integers(0, 200, (3, 40)).astype(np.uint8), RNG.integers(0, 200, 40).astype(np.uint8)), {}),
]
MOVEMENT = [
    ("Reshape", (f32(4, 6), [i64(3, -1)]), {}),
    *(("Transpose", (f32(3, 5, 34),), {"perm": perm}) for perm in ((2, 0, 1), (1, 0, 2), (0, 2, 1))),
    ("Slice", (f32(7, 20), [i64(1, -1)], [i64(6, -19)], [i64(0, 1)], [i64(2, -3)]), {}),
    ("Expand", (f32(3, 1, 5), [i64(2, 3, 4, 5)]), {}),
    ("Concat", (f32(2, 3, 5), f32(2, 1, 5), f32(2, 4, 5)), {"axis": 1}),
    ("Concat", (f32(9, 3), f32(9, 30)), {"axis": -1}),
    ("Tile", (f32(2, 3), [i64(3, 2)]), {}),
    ("Pad", (f32(3, 5), [i64(1, 0, 2, 3)], [np.float32(1.5)]), {}),
    *(("Pad", (f32(3, 17), [i64(2, 3, 1, 5)]), {"mode": mode}) for mode in ("reflect", "edge", "wrap")),
    ("Gather", (f32(9, 33), RNG.integers(-9, 9, (2, 3))), {"axis": 0}),
    ("Gather", (f32(4, 9, 3), RNG.integers(0, 9, 5).astype(np.int32)), {"axis": 1}),
    ("Gather", (f32(4, 9), [np.int64(-2)]), {"axis": 1}),
    ("GatherElements", (f32(4, 9), RNG.integers(-9, 9, (4, 5))), {"axis": 1}),
    ("GatherND", (f32(4, 5, 6), RNG.integers(0, 4, (3, 2))), {}),
    ("GatherND", (f32(2, 5, 6), RNG.integers(-5, 5, (2, 3, 1))), {"batch_dims": 1}),
    ("DepthToSpace", (f32(1, 8, 2, 3),), {"blocksize": 2}),
    ("SpaceToDepth", (f32(1, 2, 4, 6),), {"blocksize": 2}),
    ("Trilu", (f32(5, 7), [np.int64(1)]), {"upper": 0}),
    ("Relu", (f32(0, 3),), {}),
    ("Concat", (f32(0, 3), f32(2, 3)), {"axis": 0}),
]
REDUCING = [
    *((op, (f32(3, 5, 37), [i64(2)]), {}) for op in ("ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp", "ReduceProd")),
    *((op, (f32(3, 5, 37), [i64(0, 1)]), {"keepdims": 0}) for op in ("ReduceMean", "ReduceMin", "ReduceSumSquare", "ReduceL1")),
    ("ReduceMean", (f32(2, 3, 4, 5), [i64(1, 3)]), {}),
    ("ReduceMax", (with_nan(6, 20), [i64(1)]), {}),
    ("ReduceMax", (RNG.random((3, 9)) < 0.2, [i64(1)]), {}),
    ("ReduceSum", (RNG.integers(-9, 9, (4, 21)), [i64(1)]), {}),
    ("ArgMax", (f32(4, 23),), {"axis": 1}),
    ("ArgMin", (f32(4, 23),), {"axis": 0, "keepdims": 0}),
    *((op, (f32(3, 29) * 5,), {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 0)),
    ("LayerNormalization", (f32(3, 5, 41), f32(41), f32(41)), {}),
    ("LayerNormalization", (f32(3, 5, 4), f32(5, 4)), {"axis": 1}),
    ("RMSNormalization", (f32(3, 5, 41), f32(41)), {}),
    ("InstanceNormalization", (f32(2, 3, 4, 5), f32(3), f32(3)), {}),
    ("BatchNormalization", (f32(2, 3, 17), f32(3), f32(3), f32(3), np.abs(f32(3))), {}),
]
LAYERS = [
    *(("MatMul", (f32(*a), f32(*b)), {}) for a, b in [((5, 7), (7, 3)), ((2, 19, 40), (2, 40, 35)), ((3, 1, 9, 64), (2, 64, 50))]),
    *(("MatMul", (f32(*a), f32(*b)), {}) for a, b in [((7,), (7, 3)), ((4, 7), (7,)), ((7,), (7,)), ((2, 4, 3), (3, 5))]),
    ("MatMul", (f32(4, 30, 20), [f32(20, 50)]), {}),
    ("MatMul", (RNG.integers(-9, 9, (4, 5)), RNG.integers(-9, 9, (5, 6))), {}),
    ("Gemm", (f32(6, 40), [f32(33, 40)], [f32(33)]), {"transB": 1}),
    ("Gemm", (f32(40, 6), f32(40, 5), f32(6, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Conv", (f32(2, 16, 9, 11), [f32(32, 16, 3, 3)], [f32(32)]), {"pads": (1, 1, 1, 1)}),
    ("Conv", (f32(1, 5, 9, 11), [f32(7, 5, 3, 2)]), {"strides": (2, 1), "dilations": (1, 2)}),
    ("Conv", (f32(1, 20, 9, 9), [f32(20, 1, 3, 3)]), {"group": 20, "auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    ("Conv", (f32(1, 6, 7, 7), [f32(9, 2, 3, 3)]), {"group": 3, "pads": (1, 0, 2, 1)}),
    ("Conv", (f32(2, 4, 19), [f32(6, 4, 5)]), {"pads": (2, 2)}),
    ("Conv", (f32(1, 16, 6, 6), f32(16, 16, 3, 3)), {}),
    ("Conv", (f32(1, 2, 4, 5, 6), [f32(3, 2, 2, 2, 2)]), {}),
    ("MaxPool", (f32(2, 18, 9, 9),), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ("MaxPool", (f32(1, 3, 17),), {"kernel_shape": (4,)}),
    ("MaxPool", (f32(1, 3, 9, 9),), {"kernel_shape": (2, 2), "dilations": (2, 2)}),
    ("AveragePool", (f32(1, 17, 8, 8),), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    ("AveragePool", (f32(1, 17, 8, 8),), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "count_include_pad": 1}),
    (
        "ConvTranspose",
        (f32(1, 16, 5, 7), [f32(16, 20, 3, 3)], [f32(20)]),
        {"strides": (2, 2), "pads": (1, 0, 1, 1), "output_padding": (1, 0)},
    ),
    ("ConvTranspose", (f32(2, 3, 5), f32(3, 4, 4)), {"dilations": (2,)}),
    ("Resize", (f32(1, 2, 4, 5), None, [np.array([1, 1, 2, 1.5], np.float32)]), {"mode": "linear"}),
    ("Resize", (f32(1, 2, 4, 5), None, None, [i64(1, 2, 9, 3)]), {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("LRN", (f32(5, 5, 3, 2),), {"size": 4, "alpha": 0.3, "bias": 1.5}),
    ("GlobalAveragePool", (f32(2, 18, 5, 7),), {}),
    ("GlobalMaxPool", (f32(2, 18, 5, 7),), {}),
    ("Attention", (f32(2, 3, 9, 16), f32(2, 3, 14, 16), f32(2, 3, 14, 32)), {}),
    ("Attention", (f32(1, 2, 9, 8), f32(1, 2, 9, 8), f32(1, 2, 9, 8)), {"is_causal": 1}),
    ("Attention", (f32(2, 5, 32), f32(2, 7, 32), f32(2, 7, 32), f32(5, 7)), {"q_num_heads": 2, "kv_num_heads": 2}),
]


def combined(cases):
    """One model with a node per case, and what to feed."""
    nodes, inputs, outputs, constants, feeds = [], [], [], [], {}
    for number, (op, operands, attributes) in enumerate(cases):
        names = []
        for k, operand in enumerate(operands):
            if operand is None:
                names.append("")
                continue
            name, array = f"x{number}_{k}", np.asarray(operand[0] if isinstance(operand, list) else operand)
            names.append(name)
            if isinstance(operand, list):
                constants.append(numpy_helper.from_array(array, name))
            else:
                feeds[name] = array
                inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape))
        nodes.append(helper.make_node(op, names, [f"y{number}"], **attributes))
        outputs.append(onnx.ValueInfoProto(name=f"y{number}"))
    opset = helper.make_opsetid("", 24)
    graph = helper.make_graph(nodes, "cases", inputs, outputs, constants)
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[opset], ir_version=11)), feeds


@pytest.mark.parametrize("cases", [ELEMENTWISE, MOVEMENT, REDUCING, LAYERS], ids=["elementwise", "movement", "reducing", "layers"])
def test_every_case_agrees_with_the_reference(cases):
    model, feeds = combined(cases)
    recipe = Recipe.of_preset("xla-kernels", backend="tvm")
    shapes = {name: array.shape for name, array in feeds.items()}
    executable = specialize(load(model), recipe, Target.parse("cpu"), shapes=shapes).compile()
    found = executable([feeds[name] for name, _ in executable.signature.inputs])
    with np.errstate(all="ignore"):
        wanted = ReferenceEvaluator(model).run(None, feeds)
    for (op, _, attributes), one, other in zip(cases, found, wanted, strict=True):
        what = f"{op} {attributes}"
        assert (one.dtype, one.shape) == (other.dtype, other.shape), what
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=what)
    assert set(executable.node_times_ns([feeds[name] for name, _ in executable.signature.inputs], runs=1).values()) != {0}
