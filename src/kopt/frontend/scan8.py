"""Scan of opset 8, which has a batch axis of its own, said with the Scan of today."""

from __future__ import annotations

import onnx
from onnx import helper

from kopt.errors import InvalidModelError, Location


def is_old(node: onnx.NodeProto, domain: str, version: int) -> bool:
    """Whether a node is a Scan of opset 8; what ``batched`` makes has an attribute that such a node cannot have."""
    return not domain and node.op_type == "Scan" and version < 9 and all(attr.name != "scan_input_axes" for attr in node.attribute)


def batched(node: onnx.NodeProto, loc: Location) -> onnx.NodeProto:
    """Scan-8("", states..., scans...) ==> Scan(states..., scans...) over the batch, whose body is Scan(...) over each sequence.

    Raises:
        InvalidModelError: sequences of unequal lengths.
    """
    if node.input and node.input[0]:
        raise InvalidModelError(
            "Scan of opset 8 with sequence_lens is not supported", where=loc, next_step="export at opset 9 or newer, or pad the sequences"
        )
    attrs = {attr.name: attr for attr in node.attribute}
    count = int(attrs["num_scan_inputs"].i) if "num_scan_inputs" in attrs else 0
    names = list(node.input[1:])
    if "body" not in attrs or not 0 < count <= len(names):
        raise InvalidModelError("Scan lacks its body or the number of its scanned inputs", where=loc, next_step="export the model again")
    ways = list(attrs["directions"].ints) if "directions" in attrs else [0] * count
    prefix = f"{node.name or next(filter(None, node.output), 'Scan')}.batch."
    fed, made = ([f"{prefix}{kind}{k}" for k in range(length)] for kind, length in (("in", len(names)), ("out", len(node.output))))
    inner = helper.make_node("Scan", fed, made, name=f"{prefix}Scan", num_scan_inputs=count)
    inner.attribute.append(attrs["body"])
    inner.attribute.append(helper.make_attribute("scan_input_axes", [0] * count))
    inner.attribute.append(helper.make_attribute("scan_input_directions", ways))
    inner.metadata_props.extend(node.metadata_props)  # where it came from a function: that function's imports
    body = onnx.GraphProto(name=f"{prefix}body", node=[inner])
    body.input.extend(onnx.ValueInfoProto(name=name) for name in fed)
    body.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    outer = helper.make_node("Scan", names, list(node.output), name=node.name, num_scan_inputs=len(names), body=body)
    outer.attribute.append(helper.make_attribute("scan_input_axes", [0] * len(names)))
    return outer
