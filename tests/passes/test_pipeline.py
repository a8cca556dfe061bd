from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from kopt.errors import PassError, UsageError
from kopt.ir.builder import Builder
from kopt.passes.base import registered_passes
from kopt.passes.bind_shapes import BindShapes
from kopt.passes.cleanup import Cleanup
from kopt.passes.fold_constants import FoldConstants
from kopt.passes.pipeline import PRESETS, Pipeline, preset
from kopt.passes.spec import format_pass, format_passes, parse_passes
from support.equivalence import context


def small():
    b = Builder()
    x = b.input("x", "f32", ("n", 3))
    y = b.emit("Add", b.emit("Identity", x), b.emit("Neg", b.constant(np.ones(3, np.float32))), hint="y")
    return b.graph("g", [x], [y])


def test_records_what_each_pass_did():
    after, records = Pipeline((FoldConstants(), Cleanup(max_rounds=2))).run(small(), context())
    assert [node.op for node in after.nodes] == ["Add"]
    assert [record.spec for record in records] == ["fold-constants", "cleanup{max_rounds=2}"]
    assert [(record.num_nodes_before, record.num_nodes_after) for record in records] == [(3, 2), (2, 1)]
    assert records[0].rewrites == {"fold": 1}
    assert records[0].seconds >= 0


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(name):
    graph = BindShapes({"n": 2}).run(small(), context())
    after, records = Pipeline(preset(name)).run(graph, context())
    assert len(records) == len(preset(name))
    assert after.outputs[0].name == "y"


def test_unknown_preset():
    with pytest.raises(UsageError, match="unknown preset 'fast'"):
        preset("fast")


@dataclass(frozen=True)
class Breaks:
    name: ClassVar[str] = "breaks"

    def run(self, graph, ctx):
        return graph.replace(nodes=graph.nodes[::-1])


def test_a_broken_graph_is_the_pass_authors_fault():
    with pytest.raises(PassError, match="pass 'breaks' broke the graph"):
        Pipeline((Breaks(),)).run(small(), context())


@pytest.mark.parametrize("name", sorted(registered_passes()))
def test_every_pass_round_trips(name):
    pass_ = registered_passes()[name]()
    assert format_pass(pass_) == name
    assert parse_passes(name) == (pass_,)


@pytest.mark.parametrize(
    "pass_",
    [
        Cleanup(merge_common=False, max_rounds=7),
        FoldConstants(max_bytes=5),
        BindShapes({"batch": 2, "seq len": 3}, {"x": (1, None, 3)}, partial=True),
    ],
)
def test_options_round_trip(pass_):
    assert parse_passes(format_pass(pass_)) == (pass_,)


def test_arrays_round_trip():
    spelled = format_pass(BindShapes(values={"k": np.array([[1, 2]], np.int64)}))
    (again,) = parse_passes(spelled)
    assert again.values["k"].dtype == np.int64
    assert again.values["k"].tolist() == [[1, 2]]
    assert format_pass(again) == spelled


def test_lists_round_trip():
    text = "fold-constants{max_bytes=5},cleanup{merge_common=false,max_rounds=1}"
    assert format_passes(parse_passes(text)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nonsense", "unknown pass 'nonsense'"),
        ("cleanup{", "closing brace"),
        ("cleanup{depth=1}", "no option 'depth'"),
        ("cleanup{max_rounds=many}", "must be int"),
        ("cleanup{max_rounds=1.5}", "must be int"),
        ("cleanup{merge_common=1}", "must be bool"),
        ("cleanup{max_rounds=true}", "must be a number"),
        ("cleanup{max_rounds=}", "not a value"),
    ],
)
def test_bad_spellings(text, word):
    with pytest.raises(UsageError, match=word):
        parse_passes(text)
