"""Operators with a carried state against ONNX's node tests."""

from __future__ import annotations

import pytest

from support.node_cases import cases_of, check


@pytest.mark.parametrize("name", cases_of("CausalConvWithState", "LinearAttention"))
def test_node_case(name: str) -> None:
    check(name)
