import numpy as np
import pytest

from kopt.ir.builder import Builder
from kopt.ir.types import DType
from kopt.targets.xla import evaluate_node


def run(op, *arrays, **attrs):
    b = Builder()
    b.emit(op, *(b.input(f"x{k}", DType.from_numpy(array.dtype), array.shape) for k, array in enumerate(arrays)), attrs=attrs)
    return evaluate_node(b.nodes[0], list(arrays))[0]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 5), (5, 7)),
        ((2, 3, 5), (5, 7)),
        ((2, 3, 5), (2, 5, 7)),
        ((5,), (5, 7)),
        ((2, 1, 3, 5), (4, 5, 1)),
        ((2, 3, 0), (0, 7)),
        ((0, 3, 5), (5, 7)),
    ],
)
def test_matmul_equals_numpy(a, b):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(a).astype(np.float32), rng.standard_normal(b).astype(np.float32)
    np.testing.assert_allclose(run("MatMul", x, y), x @ y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_scales_and_broadcasts(trans_a, trans_b):
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (4, 5), (5,)))
    expected = 0.5 * (a @ b) + 2 * c
    ours = run("Gemm", a.T.copy() if trans_a else a, b.T.copy() if trans_b else b, c, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_integers_multiply_exactly():
    a, b = np.full((2, 300), 255, np.uint8), np.full((300, 2), -128, np.int8)
    ours = run("MatMulInteger", a, b, np.array(1, np.uint8), np.array(3, np.int8))
    assert (ours == 300 * 254 * -131).all()
