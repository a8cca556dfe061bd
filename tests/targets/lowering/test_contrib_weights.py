"""Operators of ONNX Runtime's own whose weights are quantized, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from support.contrib import agrees, contrib_model, normal
from support.node_cases import run_model


def _packed(bits: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape[:-1], shape[-1] * bits // 8), np.uint8)


@pytest.mark.parametrize("depth", [64, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmul_of_few_bits(bits: int, depth: int) -> None:
    blocks = -(-depth // 32)
    inputs = (normal(2, 3, depth), _packed(bits, 5, blocks, 32), normal(5, blocks, seed=1))
    attrs = {"K": depth, "N": 5, "bits": bits, "block_size": 32}
    agrees("MatMulNBits", *inputs, constants=[1, 2], rtol=1e-3, atol=2e-3, **attrs)
    zeros = _packed(8, 5, -(-blocks * bits // 8), seed=2)
    agrees("MatMulNBits", *inputs, zeros, None, normal(5, seed=3), constants=[1, 2, 3, 5], rtol=1e-3, atol=2e-3, **attrs)
    if bits == 4:
        floats = np.random.default_rng(4).uniform(0, 15, (5, blocks)).astype(np.float32)
        agrees("MatMulNBits", *inputs, floats, constants=[1, 2, 3], rtol=1e-3, atol=2e-3, **attrs)


def test_matmul_of_two_bits() -> None:
    a, scales = normal(3, 32), normal(2, 2, seed=1)
    whole = np.random.default_rng(0).integers(0, 4, (2, 32))
    packed = (whole.reshape(2, 2, 4, 4) << np.arange(0, 8, 2)).sum(-1).astype(np.uint8)
    model = contrib_model("MatMulNBits", (a, packed, scales), ["y"], constants=[1, 2], K=32, N=2, bits=2, block_size=16)
    (result,) = run_model(model, a)
    np.testing.assert_allclose(result, a @ ((whole - 2) * np.repeat(scales, 16, 1)).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_dynamic_quantize_lstm(direction: str) -> None:
    random = np.random.default_rng(0)
    ways, hidden = 2 if direction == "bidirectional" else 1, 6
    x = normal(4, 3, 5)
    w, r = (random.integers(-128, 127, (ways, size, 4 * hidden), np.int8) for size in (5, hidden))
    bias, scale, zero = normal(ways, 8 * hidden, seed=1), np.full(ways, 0.004, np.float32), np.full(ways, 2, np.int8)
    inputs = (x, w, r, bias, None, normal(ways, 3, hidden, seed=2), normal(ways, 3, hidden, seed=3), None, scale, zero, scale, zero)
    fixed = [1, 2, 3, 8, 9, 10, 11]
    agrees("DynamicQuantizeLSTM", *inputs, outputs=3, constants=fixed, atol=2e-3, direction=direction, hidden_size=hidden)
