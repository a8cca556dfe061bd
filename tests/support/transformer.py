"""A transformer block with random weights, in plain operators."""

from __future__ import annotations

import numpy as np

from kopt.ir.constant import Constant
from kopt.ir.graph import Graph
from support.graphs import graph

ATTENTION = """
agraph (float[N,5,12] x, float[12,8] wq, float[8] bq, float[12,8] wk, float[12,8] wv, float[8,12] wo, float[12] s, float[12,20] w1,
        float[20] b1, float[20,12] w2) => (float[N,5,12] y)
<int64[4] heads = {0, 0, 4, 2}, int64[3] merged = {0, 0, -1}, float scale = {0.7}>
{
    xq = MatMul(x, wq)
    q0 = Add(xq, bq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    qk = MatMul(q, k)
    sc = Mul(qk, scale)
    p = Softmax<axis=-1>(sc)
    o = MatMul(p, v)
    ot = Transpose<perm=[0,2,1,3]>(o)
    om = Reshape(ot, merged)
    proj = MatMul(om, wo)
    r = Add(x, proj)
    n = LayerNormalization(r, s)
    h0 = MatMul(n, w1)
    h1 = Add(h0, b1)
    h = Gelu(h1)
    f = MatMul(h, w2)
    y = Add(n, f)
}
"""


def transformer(rng: np.random.Generator) -> Graph:
    """Four heads of two, twenty hidden neurons, a hidden state of twelve; input x (N, 5, 12)."""
    block = graph(ATTENTION, opset=23)
    made = {value: Constant.of(rng.normal(0, 0.4, value.shape).astype(np.float32)) for value in block.inputs[1:]}
    return block.replace(inputs=block.inputs[:1], constants={**block.constants, **made})
