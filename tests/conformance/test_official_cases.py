"""ONNX's own cases: every one passes, or stands in ``gaps.txt`` with its reason and does not pass.

A sample runs always, one case per operator and then some; all of them run at night, with a table at the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kopt.errors import KoptError
from support.node_cases import ops_of
from support.onnx_suites import Case, cases, category, check

_SAMPLE = 120

GAPS = dict(
    line.split(": ", 1) for line in (Path(__file__).parent / "gaps.txt").read_text().splitlines() if line and not line.startswith("#")
)


def _sample() -> list[str]:
    """Node cases in an order that looks random but stays; those of an operator not seen yet come first."""
    names = [name for name, case in cases().items() if case.path is None and name not in GAPS]
    seen: set[str] = set()
    first, later = [], []
    for name in sorted(names, key=lambda name: zlib.crc32(name.encode())):
        ops = ops_of(cases()[name])
        (later if ops <= seen else first).append(name)
        seen |= ops
    return (first + later)[:_SAMPLE]


def _agrees_with_gaps(name: str, case: Case, record: Callable[[str, object], None]) -> None:
    record("case", (case.suite, category(case)))
    try:
        host_nodes = check(case)
    except (KoptError, AssertionError):  # refused in words, or another result; anything else is a defect
        record("place", "gap")
        if name not in GAPS:
            raise
    else:
        record("place", "host" if host_nodes else "compiled")
        assert name not in GAPS, f"{name} passes now: take it off gaps.txt"


@pytest.mark.parametrize("name", _sample())
def test_sample(name: str, record_property: Callable[[str, object], None]) -> None:
    _agrees_with_gaps(name, cases()[name], record_property)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(cases()))
def test_every_case(name: str, record_property: Callable[[str, object], None]) -> None:
    _agrees_with_gaps(name, cases()[name], record_property)


def test_gaps_are_cases_and_have_reasons() -> None:
    assert set(GAPS) <= set(cases())
    assert all(reason.strip() for reason in GAPS.values())
