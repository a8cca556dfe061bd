"""If, Loop and Scan against ONNX's node tests and the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from kopt.errors import UnsupportedModelError
from kopt.frontend.load import load
from kopt.targets.xla import evaluate_graph
from support.node_cases import bound, cases_of, check

_SEQUENCES = ("test_if_seq", "test_if_opt", "test_loop13_seq", "test_loop16_seq_none")


@pytest.mark.parametrize("name", cases_of("If", "Loop", "Scan", without=_SEQUENCES))
def test_node_case(name: str) -> None:
    check(name)


def _model(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')
    onnx.checker.check_model(model)
    return model


def _agrees(model: onnx.ModelProto, *arrays: np.ndarray) -> None:
    graph, fed = bound(load(model), arrays)
    names = [value.name for value in model.graph.input]
    expected = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    for result, wanted in zip(evaluate_graph(graph, fed), expected, strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(result, wanted, rtol=1e-5)


_BRANCHES = """g (bool c, float[2,3] x) => (float[2,3] y) {
  y = If(c) <then_branch = t () => (float[2,3] a) { a = Neg(x) }, else_branch = e () => (float[2,3] b) { b = Exp(x) }>
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_branch_is_chosen_at_run_time(condition: bool) -> None:
    _agrees(_model(_BRANCHES), np.asarray(condition), np.ones((2, 3), np.float32))


_LOOP = """g (int64 m, bool go, float[2] x) => (float[2] y) {
  y = Loop(m, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) {
    limit = Constant <value = float {50.0}> ()
    t = Add(s, x)
    top = ReduceMax <keepdims = 0> (t)
    d = Less(top, limit)
  }>
}"""


@pytest.mark.parametrize(("trips", "go"), [(3, True), (100, True), (5, False), (0, True)])
def test_while(trips: int, go: bool) -> None:
    _agrees(_model(_LOOP), np.asarray(trips), np.asarray(go), np.asarray([1, 2], np.float32))


def _counted(trips: int) -> onnx.ModelProto:
    text = f"""g (float[2] x) => (float[2] y, float[?,2] rows) {{
      m = Constant <value = int64 {{{trips}}}> ()
      go = Constant <value = bool {{1}}> ()
      y, rows = Loop(m, go, x) <body = b (int64 i, bool c, float[2] s) => (bool c2, float[2] t, float[2] row) {{
        c2 = Identity(c)
        f = Cast <to = 1> (i)
        t = Add(s, f)
        row = Mul(t, x)
      }}>
    }}"""
    return _model(text)


@pytest.mark.parametrize("trips", [1, 3, 20])
def test_counted_loop_stacks_rows(trips: int) -> None:
    _agrees(_counted(trips), np.asarray([1, 2], np.float32))


def test_no_trips_stack_no_rows() -> None:
    graph, fed = bound(load(_counted(0)), [np.ones(2, np.float32)])
    result, rows = evaluate_graph(graph, fed)
    np.testing.assert_array_equal(result, np.ones(2))
    assert rows.shape == (0, 2)


def test_stacking_an_unknown_number_of_rows_is_refused() -> None:
    text = _LOOP.replace("float[2] y)", "float[2] y, float[?,2] r)").replace("y = Loop", "y, r = Loop")
    text = text.replace("float[2] t) {", "float[2] t, float[2] u) {\n u = Neg(s)")
    graph, fed = bound(load(_model(text)), [np.asarray(3), np.asarray(True), np.ones(2, np.float32)])
    with pytest.raises(UnsupportedModelError, match="iterations"):
        evaluate_graph(graph, fed)


def test_scan_backwards_along_another_axis() -> None:
    state, row, total = (helper.make_tensor_value_info(name, 1, [2]) for name in ("s", "r", "t"))
    out = helper.make_tensor_value_info("o", 1, [2])
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "r"], ["t"]), helper.make_node("Exp", ["t"], ["o"])], "b", [state, row], [total, out]
    )
    node = helper.make_node(
        "Scan",
        ["x", "rows"],
        ["y", "stack"],
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_input_directions=[1],
        scan_output_axes=[1],
        scan_output_directions=[1],
    )
    shapes = {"x": [2], "rows": [2, 5], "y": [2], "stack": [2, 5]}
    x, rows, y, stack = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items())
    model = helper.make_model(helper.make_graph([node], "g", [x, rows], [y, stack]), opset_imports=[helper.make_opsetid("", 21)])
    values = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    graph, fed = bound(load(model), [np.ones(2, np.float32), values])
    result, stacked = evaluate_graph(graph, fed)
    totals = 1 + np.cumsum(values[:, ::-1], 1)
    np.testing.assert_allclose(result, totals[:, -1], rtol=1e-5)
    np.testing.assert_allclose(stacked, np.exp(totals)[:, ::-1], rtol=1e-5)
