"""Indexing against ONNX's node tests."""

from __future__ import annotations

import pytest

from support.node_cases import cases_of, check

_BY_SLICE = ("test_unique_sorted_with_axis", "test_unique_sorted_with_axis_3d", "test_unique_sorted_with_negative_axis")


@pytest.mark.parametrize("name", cases_of("OneHot", "GatherND"))
def test_node_case(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", cases_of("Unique", "Compress", without=_BY_SLICE))
def test_results_of_the_size_of_a_known_value(name: str) -> None:
    check(name, known=True)
