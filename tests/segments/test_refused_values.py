"""Values that operators between compiled segments are not defined for: an error with its three parts, naming the node."""

from __future__ import annotations

import numpy as np
import pytest

import kopt.onnx_backend as backend
from kopt.errors import InputError
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
