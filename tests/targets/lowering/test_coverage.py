"""Every operator of the ONNX standard compiles, or runs on the host. What does neither is listed; the lists only shrink."""

from __future__ import annotations

import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from kopt.ir.spec import DOMAIN_VERSIONS, has_type_rule, schema
from kopt.targets.host.registry import host_ops
from kopt.targets.lowering.registry import lowered_ops
from kopt.targets.lowering.walk import load_lowerings
from kopt.targets.partition import HOST_CONTROL_FLOW

READ_AS_OTHERS = {
    "": {"Constant"},  # becomes a constant of the graph
    "ai.onnx.ml": {"CategoryMapper"},  # becomes LabelEncoder
    "ai.onnx.preview.training": {"Gradient"},  # becomes com.kopt::Gradient
}
MISSING = {
    "": set[str](),
    "ai.onnx.ml": set[str](),
    "ai.onnx.preview": set[str](),
    "ai.onnx.preview.training": set[str](),
}
MICROSOFT = (
    "Attention BiasGelu DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedConv FusedGemm "
    "FusedMatMul Gelu GroupQueryAttention MatMulIntegerToFloat MatMulNBits MultiHeadAttention NhwcMaxPool QAttention QLinearAdd "
    "QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid "
    "QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization"
)


def _held(domain: str) -> set[str]:
    load_lowerings()
    with_bodies = {("", op) for op in HOST_CONTROL_FLOW}
    return {op for where, op in lowered_ops() | host_ops() | with_bodies if where == domain}


@pytest.mark.parametrize("domain", MISSING)
def test_every_operator_of_the_standard(domain: str) -> None:
    names = {found.name for found in onnx.defs.get_all_schemas() if found.domain == domain and not found.deprecated}
    assert len(names) >= {"": 201, "ai.onnx.ml": 17}.get(domain, 1)
    assert names - _held(domain) - READ_AS_OTHERS.get(domain, set()) == MISSING[domain]


@pytest.mark.parametrize("op", MICROSOFT.split())
def test_operators_of_onnx_runtime(op: str) -> None:
    assert op in _held("com.microsoft")
    assert has_type_rule(op, "com.microsoft")
    assert any(found.domain == "com.microsoft" and found.name == op for found in get_all_operator_schema())


def test_lowerings_are_of_operators_with_types() -> None:
    load_lowerings()
    untyped = {
        (domain, op)
        for domain, op in lowered_ops()
        if not has_type_rule(op, domain) and schema(op, domain, DOMAIN_VERSIONS.get(domain)) is None
    }
    assert not untyped
