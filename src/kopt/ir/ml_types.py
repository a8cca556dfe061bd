"""Types of ai.onnx.ml operators whose schemas infer none, or too little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kopt.errors import InvalidModelError
from kopt.ir.graph import Node
from kopt.ir.spec import type_rule
from kopt.ir.types import Dim, DType, MapType, TensorType, Type

ML = "ai.onnx.ml"


def _first(types: Sequence[Type | None]) -> TensorType:
    held = types[0] if types else None
    return held if isinstance(held, TensorType) else TensorType(DType.F32, None)


def _rows(type_: TensorType) -> Dim:
    """How many rows of features there are; a vector is one."""
    if type_.shape is None:
        return "?"
    return 1 if len(type_.shape) < 2 else type_.shape[0]


def _length(node: Node, *names: str) -> int:
    """The length of the first of the lists that the node has."""
    return next((len(value) for name in names if isinstance(value := node.attrs.get(name), tuple) and value), 0)


@type_rule(ML, "Normalizer", "Scaler")
def float_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's shape in f32."""
    return (TensorType(DType.F32, _first(types).shape),)


@type_rule(ML, "Imputer")
def same_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """The first input's type."""
    return (_first(types),)


@type_rule(ML, "FeatureVectorizer")
def vector_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """Rows of as many f32 as all inputs are stated to have."""
    sizes = node.attrs.get("inputdimensions")
    width: Dim = sum(size for size in sizes if isinstance(size, int)) if isinstance(sizes, tuple) else "?"
    return (TensorType(DType.F32, (_rows(_first(types)), width)),)


_LABELS = ("classlabels_strings", "classlabels_ints", "classlabels_int64s")


@type_rule(ML, "LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor")
def regressor_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """One f32 per row and target."""
    count = node.attrs.get("targets" if node.op == "LinearRegressor" else "n_targets", 1)
    return (TensorType(DType.F32, (_rows(_first(types)), count if isinstance(count, int) else "?")),)


@type_rule(ML, "LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
def classifier_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """A label per row, and f32 scores."""
    rows = _rows(_first(types))
    label = DType.STRING if node.attrs.get("classlabels_strings") else DType.I64
    count = _length(node, *_LABELS)
    if node.op == "SVMClassifier" and count > 2 and node.attrs.get("vectors_per_class") and not node.attrs.get("prob_a"):
        count = count * (count - 1) // 2  # one score per pair of classes
    return (TensorType(label, (rows,)), TensorType(DType.F32, (rows, count or "?")))[: len(node.outputs)]


@type_rule(ML, "DictVectorizer")
def vectorized_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """One row with a column per word of the vocabulary."""
    held = types[0] if types else None
    if not isinstance(held, MapType) or not isinstance(held.element, TensorType):
        raise InvalidModelError(f"DictVectorizer does not accept {held}", where=node.loc, next_step="feed it a map")
    return (TensorType(held.element.dtype, (1, _length(node, "string_vocabulary", "int64_vocabulary"))),)


@type_rule(ML, "CastMap")
def cast_map_type(node: Node, types: Sequence[Type | None], constants: Mapping[int, np.ndarray]) -> Sequence[Type]:  # noqa: ARG001
    """One row with a column per key."""
    held, wanted = types[0] if types else None, str(node.attrs.get("cast_to", "TO_FLOAT"))
    kinds = {"TO_FLOAT": DType.F32, "TO_STRING": DType.STRING, "TO_INT64": DType.I64}
    if not isinstance(held, MapType) or wanted not in kinds:
        raise InvalidModelError(f"CastMap does not accept {held} with cast_to={wanted}", where=node.loc, next_step="feed it a map")
    width = node.attrs.get("max_map") if node.attrs.get("map_form") == "SPARSE" else "?"
    return (TensorType(kinds[wanted], (1, width if isinstance(width, int) and width >= 0 else "?")),)
