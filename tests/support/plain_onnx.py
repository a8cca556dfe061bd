"""Runs small graphs in ONNX Runtime, written out as plain ONNX: channels-last operators between two Transposes."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from onnx.reference import ReferenceEvaluator

from kopt.ir import spec
from kopt.ir.graph import Graph, Node
from kopt.ir.nhwc_types import NHWC_OPS, to_nchw, to_nhwc

_ORIGINAL = {name: (domain, op, activations) for (domain, op), (name, activations) in NHWC_OPS.items()}


def to_plain(graph: Graph) -> onnx.ModelProto:
    """An ONNX model with the same inputs and outputs, at the canonical opset."""
    names = {}

    def name(value):
        if value is None:
            return ""
        return names.setdefault(value, f"v{len(names)}")

    protos = []
    for node in graph.nodes:
        protos += _protos(node, name)
    initializers = [spec.tensor_proto(np.asarray(constant.array()), name(value)) for value, constant in graph.constants.items()]
    inputs = [helper.make_value_info(name(value), spec.type_to_proto(value.type)) for value in graph.inputs]
    outputs = []
    for index, value in enumerate(graph.outputs):
        protos.append(helper.make_node("Identity", [name(value)], [f"out{index}"]))
        outputs.append(helper.make_value_info(f"out{index}", spec.type_to_proto(value.type)))
    imports = [helper.make_opsetid(domain, version) for domain, version in spec.DOMAIN_VERSIONS.items() if domain != "com.kopt"]
    return helper.make_model(
        helper.make_graph(protos, graph.name or "g", inputs, outputs, initializers), opset_imports=imports, ir_version=13
    )


def _protos(node: Node, name) -> list[onnx.NodeProto]:
    inputs = [name(value) for value in node.inputs]
    outputs = [name(value) for value in node.outputs]
    attrs = [spec.attr_to_proto(key, value) for key, value in node.attrs.items()]
    if node.domain != "com.kopt":
        proto = helper.make_node(node.op, inputs, outputs, domain=node.domain)
        proto.attribute.extend(attrs)
        return [proto]
    domain, op, activations = _ORIGINAL[node.op]
    rank = len(node.output.shape)
    protos = []
    for index in activations:
        if index < len(inputs) and inputs[index]:
            moved = f"{outputs[0]}_in{index}"
            protos.append(helper.make_node("Transpose", [inputs[index]], [moved], perm=to_nchw(rank)))
            inputs[index] = moved
    made = f"{outputs[0]}_nchw"
    proto = helper.make_node(op, inputs, [made], domain=domain)
    proto.attribute.extend(attrs)
    return [*protos, proto, helper.make_node("Transpose", [made], [outputs[0]], perm=to_nhwc(rank))]


def run_plain(graph: Graph, inputs) -> list[np.ndarray]:
    """The outputs of ``graph`` on arrays, inputs in order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(to_plain(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {info.name: array for info, array in zip(session.get_inputs(), inputs, strict=True)})


def run_reference(graph: Graph, inputs) -> list[np.ndarray]:
    """Like ``run_plain``, by the reference implementation, for what ONNX Runtime does not have at this opset."""
    model = to_plain(graph)
    return ReferenceEvaluator(model).run(None, {info.name: array for info, array in zip(model.graph.input, inputs, strict=True)})


def random_inputs(graph: Graph, rng: np.random.Generator) -> list[np.ndarray]:
    """Standard normal floats, integers below eight, for static inputs."""
    arrays = []
    for value in graph.inputs:
        dtype = value.tensor.dtype.numpy
        if dtype.kind == "f":
            arrays.append(rng.standard_normal(value.shape).astype(dtype))
        else:
            arrays.append(rng.integers(0, 2 if dtype.kind == "b" else 8, value.shape).astype(dtype))
    return arrays
