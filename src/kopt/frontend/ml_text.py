"""Operators of ai.onnx.ml that know text do all but the look-up on integers: only a LabelEncoder touches text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kopt.frontend.upgrade import Emitter, RawNode
from kopt.ir.graph import Attr
from kopt.ir.types import DType

ML = "ai.onnx.ml"

_INTEGER_LABELS = {
    "LinearClassifier": "classlabels_ints",
    "SVMClassifier": "classlabels_ints",
    "TreeEnsembleClassifier": "classlabels_int64s",
}


def on_integers(node: RawNode, emit: Emitter) -> Sequence[RawNode]:
    """A node of ai.onnx.ml, with its text moved to a LabelEncoder before or behind it."""
    if node.op in _INTEGER_LABELS and node.attrs.get("classlabels_strings"):
        return _classifier(node, emit)
    if node.op == "OneHotEncoder" and node.attrs.get("cats_strings"):
        return _one_hot(node, emit)
    return _mapper(node) if node.op == "CategoryMapper" else (node,)


def _numbers(labels: Attr) -> tuple[int, ...]:
    return tuple(range(len(labels))) if isinstance(labels, tuple) else ()


def _classifier(node: RawNode, emit: Emitter) -> Sequence[RawNode]:
    """Classifier(x; text labels) ==> Classifier(x; numbers), LabelEncoder(numbers; text labels)."""
    labels, number = node.attrs["classlabels_strings"], emit.fresh("class")
    plain = node.without("classlabels_strings")
    plain = replace(plain, attrs={**plain.attrs, _INTEGER_LABELS[node.op]: _numbers(labels)}, outputs=[number, *node.outputs[1:]])
    if not node.outputs or not node.outputs[0]:
        return (replace(plain, outputs=["", *node.outputs[1:]]),)
    return (plain, _encoder(node, number, node.outputs[0], {"keys_int64s": _numbers(labels), "values_strings": labels}))


def _one_hot(node: RawNode, emit: Emitter) -> Sequence[RawNode]:
    """OneHotEncoder(x; text) ==> LabelEncoder(x; text), OneHotEncoder(numbers)."""
    known, number = node.attrs["cats_strings"], emit.fresh("category")
    first = replace(
        node, op="LabelEncoder", outputs=[number], attrs={"keys_strings": known, "values_int64s": _numbers(known), "default_int64": -1}
    )
    plain = node.without("cats_strings")
    return (first, replace(plain, inputs=[number], attrs={**plain.attrs, "cats_int64s": _numbers(known)}))


def _mapper(node: RawNode) -> Sequence[RawNode]:
    """CategoryMapper(x) ==> LabelEncoder(x) in the direction that x's type asks for."""
    texts, numbers = node.attrs.get("cats_strings", ()), node.attrs.get("cats_int64s", ())
    if node.input_type(0).dtype is DType.STRING:
        attrs = {"keys_strings": texts, "values_int64s": numbers, "default_int64": node.attrs.get("default_int64", -1)}
    else:
        attrs = {"keys_int64s": numbers, "values_strings": texts, "default_string": node.attrs.get("default_string", "_Unused")}
    return (replace(node, op="LabelEncoder", attrs=attrs),)


def _encoder(node: RawNode, source: str, target: str, attrs: dict[str, Attr]) -> RawNode:
    return RawNode("LabelEncoder", ML, [source], [target], attrs, node.loc)
