"""Values that operators between compiled segments are not defined for: an error with its three parts, naming the node."""

from __future__ import annotations

import numpy as np
import pytest

import kopt.onnx_backend as backend
from kopt.errors import InputError, ModelError
from support.graphs import model

MODELS = {
    "a condition of many values": (
        """m (bool[N] c, float[2] x) => (y) {
        y = If (c) <then_branch = t () => (a) { s = SequenceConstruct(x) k = Constant <value_int = 0> () a = SequenceAt(s, k) },
                    else_branch = e () => (b) { b = Abs(x) }> }""",
        [np.ones(2, bool), np.ones(2, np.float32)],
        "If needs one value",
    ),
    "a position outside a sequence": (
        "m (float[2] x, int64 i) => (y) { s = SequenceConstruct(x, x) y = SequenceAt(s, i) }",
        [np.ones(2, np.float32), np.asarray(2)],
        "SequenceAt does not accept",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_the_error_names_the_node(case: str) -> None:
    text, inputs, words = MODELS[case]
    with pytest.raises(InputError, match=words) as caught:
        backend.run_model(model(text), inputs)
    assert "'y'" in str(caught.value.where)
    assert caught.value.next_step


CONTRADICTED = {
    "the mean of a scalar": ("m (float x) => (float[1,1,1,1] y) { y = GlobalAveragePool(x) }", [np.float32(1)]),
    "fewer transformations than images": (
        "m (float[1,2,3] x) => (y) { s = Constant <value_ints = [2,3,4,5]> () y = AffineGrid(x, s) }",
        [np.ones((1, 2, 3), np.float32)],
    ),
    "batches that differ": (
        "m (float[1,2,2,8] q, float[3,2,2,8] k, float[1,2,2,8] v) => (y) { y = Attention(q, k, v) }",
        [np.ones((n, 2, 2, 8), np.float32) for n in (1, 3, 1)],
    ),
    "neither kept nor dropped": ("m (float[2] x) => (y) { y = ReduceSum <keepdims = 2> (x) }", [np.ones(2, np.float32)]),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_what_values_do_not_make_is_a_mistake_of_the_model(case: str) -> None:
    text, inputs = CONTRADICTED[case]
    with pytest.raises(ModelError, match="'y'") as caught:
        backend.run_model(model(text, opset=23), inputs)
    assert caught.value.exit_code == 6


def test_bytes_that_are_no_image() -> None:
    text = "m (uint8[N] x) => (uint8[A, B, 3] y) { y = ImageDecoder(x) }"
    with pytest.raises(InputError, match="decoded") as caught:
        backend.run_model(model(text, opset=23), [np.zeros(9, np.uint8)])
    assert caught.value.next_step
