"""Weights in 8, 4 and 16 bits, and dynamic quantization: ONNX Runtime runs the files, and errors are as small as they should be."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from kopt.frontend.export import to_model
from kopt.frontend.load import load
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.passes.base import Pass, PassContext
from kopt.passes.quantize.dynamic import QuantizeDynamic
from kopt.passes.quantize.half import NarrowWeights
from kopt.passes.quantize.numbers import snr_db
from kopt.passes.quantize.rounding import grouped, spread_scales
from kopt.passes.quantize.weights import QuantizeWeights
from kopt.specialize import Recipe, specialize
from support.graphs import model


@pytest.fixture
def one(rng: np.random.Generator) -> Graph:
    proto = model(
        """m (int64[N] k, float[N,1,6,6] i) => (float[N,24] y) {
            e = Gather(table, k)
            c = Conv(i, w0, b0)
            f = Flatten(c)
            g = Gemm<transB=1>(f, w1, b1)
            s = Add(g, e)
            r = Relu(s)
            y = MatMul(r, w2)
        }"""
    )
    for name, shape in {"table": (50, 40), "w0": (4, 1, 3, 3), "b0": (4,), "w1": (40, 64), "b1": (40,), "w2": (40, 24)}.items():
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return load(proto)


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"k": rng.integers(0, 50, 5), "i": rng.standard_normal((5, 1, 6, 6)).astype(np.float32)}


def run(one: Graph, fed: dict[str, np.ndarray]) -> np.ndarray:
    return ort.InferenceSession(to_model(one).SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fed)[0]


@pytest.mark.parametrize(
    ("change", "least_db", "applied"),
    [
        (QuantizeWeights(min_elements=1), 40, 4),
        (QuantizeWeights(bits=4, group=16, min_elements=1), 18, 4),
        (QuantizeWeights(min_elements=1500), 40, 2),
        (QuantizeDynamic(), 33, 2),
        (NarrowWeights("bf16"), 45, 3),
        (NarrowWeights("f16"), 60, 3),
        (NarrowWeights("f16", keep=("Conv",)), 60, 2),
        (NarrowWeights("f16", ranges={"r": (0, 4e4)}), 60, 2),
    ],
    ids=lambda item: getattr(item, "name", str(item)),
)
def test_narrow_files_run_everywhere(rng: np.random.Generator, one: Graph, change: Pass, least_db: float, applied: int) -> None:
    ctx, fed = PassContext(), feeds(rng)
    changed = change.run(one, ctx)
    changed.verify()
    assert sum(ctx.rewrites.values()) == applied
    exact, found = run(one, fed), run(changed, fed)
    assert least_db < snr_db(exact, found) < 100
    done = specialize(changed, Recipe.of_preset("xla"), Target.parse("cpu"), shapes={name: array.shape for name, array in fed.items()})
    ours = np.asarray(done.compile()([fed["k"], fed["i"]])[0])
    # ONNX Runtime may quantize activations of products with few-bit weights as well, and rounds fp16 differently.
    assert snr_db(found, ours) > (80 if isinstance(change, QuantizeDynamic) else 40)


@pytest.mark.parametrize("change", [QuantizeWeights(keep=("Gather", "Conv", "MatMul", "Gemm")), QuantizeDynamic(("MatMul", "Gemm"))])
def test_what_is_kept_stays(one: Graph, change: Pass) -> None:
    assert change.run(one, PassContext()) is one


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [32, 40])
def test_rounding_that_makes_up_for_errors_beats_the_nearest(rng: np.random.Generator, axis: int, size: int) -> None:
    w = rng.standard_normal((size, 12)).astype(np.float32)
    x = rng.standard_normal((300, 8)) @ rng.standard_normal((8, size)) + 0.1 * rng.standard_normal((300, size))
    stored = w if axis == 0 else w.T.copy()

    def error(moments: np.ndarray | None) -> float:
        codes, scales = grouped(stored, axis, 16, moments)
        assert codes.shape == stored.shape
        assert -8 <= codes.min() <= codes.max() <= 7
        back = codes * spread_scales(scales, stored.shape, axis, 16)
        return float(np.square(x @ ((back if axis == 0 else back.T) - w)).sum())

    assert error(x.T @ x) < 0.5 * error(None)
