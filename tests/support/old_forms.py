"""Official node cases as an older opset writes them: operands that were attributes, attributes that did not exist yet."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from support.node_cases import node_cases

MOVED: dict[str, tuple[str, ...]] = {
    **{f"Reduce{kind}": ("axes",) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    "Clip": ("min", "max"),
    "DFT": ("", "axis"),
    "Dropout": ("ratio",),
    "Pad": ("pads", "value"),
    "Reshape": ("shape",),
    "Slice": ("starts", "ends", "axes"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "TopK": ("k",),
    "Unsqueeze": ("axes",),
}
"""What the inputs from the second on once were."""

DROPPED: dict[str, dict[str, Any]] = {
    "BatchNormalization": {"training_mode": 0},
    "DepthToSpace": {"mode": b"DCR"},
    "Reshape": {"allowzero": 0},
    "RoiAlign": {"coordinate_transformation_mode": b"output_half_pixel"},
    "Split": {"num_outputs": None},
    "TopK": {"largest": 1, "sorted": 1},
    **{op: {"noop_with_empty_axes": 0} for op in MOVED if op.startswith("Reduce")},
}
"""Attributes that may be left out where they have this value; None stands for any."""

_NAMES = {kind: name for name, kind in onnx.TensorProto.DataType.items()}


@lru_cache(maxsize=1)
def versions() -> dict[str, list[onnx.defs.OpSchema]]:
    """The schemas of every operator of ai.onnx that is not deprecated, oldest first."""
    found: dict[str, list[onnx.defs.OpSchema]] = defaultdict(list)
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda one: one.since_version):
        if schema.domain == "" and not schema.deprecated:
            found[schema.name].append(schema)
    return dict(found)


def cases_at(schema: onnx.defs.OpSchema) -> Iterator[tuple[Any, onnx.ModelProto, list[Any], list[Any]]]:
    """The cases of an operator that one of its versions can express: case, model, inputs, expected outputs."""
    for name, case in node_cases().items():
        nodes = case.model.graph.node
        if "_expanded" in name or len(nodes) != 1 or nodes[0].op_type != schema.name or nodes[0].domain:
            continue
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in nodes[0].attribute):
            continue  # the nodes of a body have versions of their own
        if schema.name == "Split" and schema.since_version >= 18 and len(nodes[0].input) == 1 and "opset13" in name:
            continue  # neither sizes nor a number of outputs, which only older versions allow
        inputs, outputs = case.data_sets[0]
        model = copy.deepcopy(case.model)
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", schema.since_version))
        kept = _rewrite(model, schema, list(inputs))
        if kept is not None and _types_fit(model, schema):
            yield case, model, kept, list(outputs)


def _rewrite(model: onnx.ModelProto, schema: onnx.defs.OpSchema, inputs: list[Any]) -> list[Any] | None:
    """Bring the one node to the form of a version; the inputs it still has, None where it cannot be said so."""
    node, fed = model.graph.node[0], dict(zip((info.name for info in model.graph.input), inputs, strict=True))
    for index, name in enumerate(MOVED.get(node.op_type, ()), 1):
        older = "paddings" if name == "pads" and schema.since_version == 1 else name
        if older in schema.attributes and index < len(node.input) and node.input[index]:
            node.attribute.append(_attribute(schema, older, np.asarray(fed.pop(node.input[index]))))
            node.input[index] = ""
    if node.op_type == "Slice" and len(node.input) == 5 and schema.max_input == 1 and (fed[node.input[4]] == 1).all():
        del fed[node.input[4]], node.input[4:]
    while node.input and not node.input[-1]:
        del node.input[-1]
    if not all(name in node.input for name in fed):
        return None
    for info in [info for info in model.graph.input if info.name not in fed]:
        model.graph.input.remove(info)
    _attributes(node, schema, [getattr(item, "shape", ()) for item in fed.values()])
    required = {name for name, attribute in schema.attributes.items() if attribute.required}
    held = {attribute.name for attribute in node.attribute}
    fits = required <= held <= set(schema.attributes) and all(
        int(attribute.type) == int(schema.attributes[attribute.name].type.value) for attribute in node.attribute
    )
    fits = fits and schema.min_input <= len(node.input) <= schema.max_input and schema.min_output <= len(node.output) <= schema.max_output
    return list(fed.values()) if fits else None


def _attributes(node: onnx.NodeProto, schema: onnx.defs.OpSchema, shapes: list[tuple[int, ...]]) -> None:
    """Leave out what did not exist, spell what was spelled otherwise, say what had to be said."""
    for attribute in list(node.attribute):
        accepted = DROPPED.get(node.op_type, {}).get(attribute.name, "")
        if attribute.name not in schema.attributes and accepted in (None, helper.get_attribute_value(attribute)):
            node.attribute.remove(attribute)
        elif node.op_type == "Cast" and int(schema.attributes["to"].type.value) == onnx.AttributeProto.STRING:
            attribute.CopyFrom(helper.make_attribute("to", _NAMES[attribute.i]))
        elif attribute.name == "p" and int(schema.attributes["p"].type.value) == onnx.AttributeProto.FLOAT:
            attribute.CopyFrom(helper.make_attribute("p", float(attribute.i)))
    if "broadcast" in schema.attributes and len(set(shapes)) > 1:
        node.attribute.append(helper.make_attribute("broadcast", 1))
    if "consumed_inputs" in schema.attributes:
        node.attribute.append(helper.make_attribute("consumed_inputs", [0] * len(shapes)))


def _attribute(schema: onnx.defs.OpSchema, name: str, array: np.ndarray) -> onnx.AttributeProto:
    kind = int(schema.attributes[name].type.value)
    if kind == onnx.AttributeProto.INTS:
        return helper.make_attribute(name, array.tolist(), attr_type=onnx.AttributeProto.INTS)
    return helper.make_attribute(name, int(array.item()) if kind == onnx.AttributeProto.INT else float(array.item()))


def _types_fit(model: onnx.ModelProto, schema: onnx.defs.OpSchema) -> bool:
    allowed = {constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in schema.type_constraints}
    infos = {info.name: info for info in (*model.graph.input, *model.graph.output)}
    node = model.graph.node[0]
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            type_ = infos[name].type if name else None
            if type_ is not None and type_.HasField("tensor_type"):
                formal = formals[min(index, len(formals) - 1)].type_str
                spelled = _NAMES[type_.tensor_type.elem_type].lower()
                if f"tensor({spelled})" not in allowed.get(formal, {formal}):
                    return False
    return True
