"""Losses and optimizers against ONNX's node tests."""

from __future__ import annotations

import numpy as np
import pytest

from support.graphs import node_model
from support.node_cases import cases_of, check, run_model


@pytest.mark.parametrize("name", cases_of("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Adagrad", "Adam", "Momentum"))
def test_node_case(name: str) -> None:
    check(name)


def test_everything_ignored_in_a_sum_is_zero() -> None:
    scores, target = np.ones((3, 4), np.float16), np.full(3, -1)
    model = node_model("SoftmaxCrossEntropyLoss", {"s": scores, "t": target}, opset=21, ignore_index=-1, reduction="sum")
    (loss,) = run_model(model, scores, target)
    assert loss.dtype == np.float16
    assert loss == 0
