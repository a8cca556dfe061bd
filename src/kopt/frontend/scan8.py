"""Scan of opset 8, which has a batch axis of its own, said with the Scan of today."""

from __future__ import annotations

import onnx
from onnx import helper

from kopt.errors import InvalidModelError, Location


def is_old(node: onnx.NodeProto, domain: str, version: int) -> bool:
    """Whether a node is a Scan of opset 8; what ``batched`` makes has an attribute that such a node cannot have."""
    return not domain and node.op_type == "Scan" and version < 9 and all(attr.name != "scan_input_axes" for attr in node.attribute)


def batched(node: onnx.NodeProto, loc: Location) -> onnx.NodeProto:
    """Scan-8(lengths, states..., scans...) ==> Scan(states..., scans...) over the batch, whose body is Scan(...) over each sequence.

    Raises:
        InvalidModelError: the body is missing, or sequences of unequal lengths are read backwards.
    """
    attrs = {attr.name: attr for attr in node.attribute}
    count = int(attrs["num_scan_inputs"].i) if "num_scan_inputs" in attrs else 0
    names, lengths = list(node.input[1:]), node.input[0] if node.input else ""
    if "body" not in attrs or not 0 < count <= len(names):
        raise InvalidModelError("Scan lacks its body or the number of its scanned inputs", where=loc, next_step="export the model again")
    ways = list(attrs["directions"].ints) if "directions" in attrs else [0] * count
    if lengths and any(ways):
        raise InvalidModelError(
            "Scan of opset 8 with sequence_lens backwards is not supported", where=loc, next_step="export at opset 9, or pad the sequences"
        )
    prefix = f"{node.name or next(filter(None, node.output), 'Scan')}.batch."
    fed, made = ([f"{prefix}{kind}{k}" for k in range(length)] for kind, length in (("in", len(names)), ("out", len(node.output))))
    inner = helper.make_node("Scan", fed, made, name=f"{prefix}Scan", num_scan_inputs=count)
    before: list[onnx.NodeProto] = []
    if lengths:
        body, before = _counted(attrs["body"].g, len(names) - count, prefix), [_number(f"{prefix}start", 0)]
        inner.attribute.append(helper.make_attribute("body", body))
        inner.input[:] = [f"{prefix}start", *fed]
        inner.output[:] = [f"{prefix}count", *made]
        names, fed = [lengths, *names], [f"{prefix}length", *fed]
    else:
        inner.attribute.append(attrs["body"])
    inner.attribute.append(helper.make_attribute("scan_input_axes", [0] * count))
    inner.attribute.append(helper.make_attribute("scan_input_directions", ways))
    body = onnx.GraphProto(name=f"{prefix}body", node=[*before, inner])
    for made_up in body.node:
        made_up.metadata_props.extend(node.metadata_props)  # where it came from a function: that function's imports
    body.input.extend(onnx.ValueInfoProto(name=name) for name in fed)
    body.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    outer = helper.make_node("Scan", names, list(node.output), name=node.name, num_scan_inputs=len(names), body=body)
    outer.attribute.append(helper.make_attribute("scan_input_axes", [0] * len(names)))
    return outer


def _number(name: str, value: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, onnx.TensorProto.INT64, [], [value]))


def _counted(body: onnx.GraphProto, num_states: int, prefix: str) -> onnx.GraphProto:
    """The body with a count of its steps as first state; beyond a sequence's length the other states stay as they are.

    What is scanned out there has no defined value. Source: ONNX Scan-8.
    """
    counted = onnx.GraphProto()
    counted.CopyFrom(body)
    step, count, done, live = (f"{prefix}{name}" for name in ("one", "at", "next", "live"))
    extra = [
        _number(step, 1),
        helper.make_node("Add", [count, step], [done]),
        helper.make_node("Less", [count, f"{prefix}length"], [live]),
    ]
    kept = []
    for index in range(min(num_states, len(body.output), len(body.input))):
        branches = []
        for kind, source in (("new", body.output[index].name), ("old", body.input[index].name)):
            name = f"{prefix}{kind}{index}"
            branch = onnx.GraphProto(name=name, node=[helper.make_node("Identity", [source], [name])])
            branch.output.append(onnx.ValueInfoProto(name=name))
            branches.append(branch)
        kept.append(f"{prefix}state{index}")
        extra.append(helper.make_node("If", [live], [kept[-1]], then_branch=branches[0], else_branch=branches[1]))
    for node in extra:
        for other in body.node[:1]:
            node.metadata_props.extend(other.metadata_props)
    counted.node.extend(extra)
    rest = [info.name for info in body.output[len(kept) :]]
    del counted.output[:]
    counted.output.extend(onnx.ValueInfoProto(name=name) for name in (done, *kept, *rest))
    del counted.input[:]
    counted.input.extend([onnx.ValueInfoProto(name=count), *body.input])
    return counted
