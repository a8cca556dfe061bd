"""Operation counts against numbers worked out by hand."""

from __future__ import annotations

import pytest

from kopt.ir.flops import graph_flops
from support import graphs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m (float[2,3,9,7] x, float[4,3,3,3] w) => (float[2,4,7,5] y) { y = Conv(x, w) }", 2 * 2 * 4 * 7 * 5 * 27),
        ("m (float[1,6,5,5] x, float[6,1,3,3] w) => (float[1,6,3,3] y) { y = Conv<group=6>(x, w) }", 2 * 6 * 9 * 9),
        ("m (float[5,7] x, float[7,3] w) => (float[5,3] y) { y = MatMul(x, w) }", 2 * 5 * 7 * 3),
        ("m (float[2,4,5,7] x, float[7,3] w) => (float[2,4,5,3] y) { y = MatMul(x, w) }", 2 * 8 * 5 * 7 * 3),
        ("m (float[7,5] x, float[7,3] w) => (float[5,3] y) { y = Gemm<transA=1>(x, w) }", 2 * 5 * 7 * 3),
        ("m (float[4,6] x) => (float[4,6] y) { y = Relu(x) }", 24),
        ("m (float[4,6] x) => (float[6,4] y) { y = Transpose<perm=[1,0]>(x) }", 0),
        ("m (float[0,6] x) => (float[0,6] y) { y = Relu(x) }", 0),
        ("m (float[N,6] x) => (float[N,6] y) { y = Relu(x) }", 0),
        ("m (float[1,2,6,6] x) => (float[1,2,3,3] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }", 18 * 4),
        ("m (float[4,6] x) => (float[1,1] y) { y = ReduceMax<keepdims=1>(x) }", 24),
    ],
)
def test_counts(text: str, expected: int) -> None:
    assert graph_flops(graphs.graph(text)) == expected
