"""The compiler's recipes of lower precision, from model to artifact."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import kopt
from kopt.compiler import TOLERANCES, Request, recipe_for
from kopt.hardware import Target
from kopt.passes.precision import Precision
from kopt.passes.spec import parse_passes
from kopt.targets.kernels.narrow import has_instruction


def network():
    """A padded and a 1x1 convolution, their mean, and a classifier with one row per image."""
    rng = np.random.default_rng(3)

    def weight(name, *shape):
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [weight("w1", 16, 6, 3, 3), weight("b1", 16), weight("w2", 24, 16, 1, 1), weight("b2", 24), weight("w3", 5, 24)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_artifact_of_lower_precision(tmp_path, precision):
    artifact = kopt.compile(
        network(), output=tmp_path / "m.kopt", precision=precision, batch=2, measure=False, baseline=False, kernels=False
    )
    (bucket,) = artifact.report["buckets"]
    assert 0 < bucket["accuracy"]["relative"] <= TOLERANCES[precision]
    text = repr(artifact.report)
    assert "'ConvNhwc ==> ConvNhwcMixed': 1" in text
    assert ("'Gemm ==> GemmMixed': 1" in text) == (precision == "fp16")


@pytest.mark.parametrize(
    ("target", "precision", "wanted"),
    [
        ("cpu", "bf16", Precision("bf16")),
        ("cpu", "fp16", Precision("f16", min_rows=0)),
        ("cuda:sm_90", "bf16", Precision("bf16", min_rows=0)),
        ("cuda:sm_90", "fp16", Precision("f16", min_rows=0)),
    ],
)
def test_recipes(target, precision, wanted):
    passes = parse_passes(recipe_for(Request(None, Target.parse(target), Path("m.kopt"), precision, kernels=False)).passes)
    assert passes[-2] == wanted
    assert (passes[-3].name, passes[-1].name) == ("dequantize-weights", "cleanup")
    plain = parse_passes(recipe_for(Request(None, Target.parse(target), Path("m.kopt"), kernels=False)).passes)
    assert plain == (*passes[:-2], passes[-1])


def test_kernels_are_for_fp32_on_a_cpu():
    recipe = recipe_for(Request(None, Target.parse("cpu"), Path("m.kopt")))
    assert recipe.options["kernels"] is True
    assert [each.name for each in parse_passes(recipe.passes)][-2:] == ["fuse-epilogue", "cleanup"]
    others = [Request(None, Target.parse("cpu"), Path("m.kopt"), "fp16"), Request(None, Target.parse("cuda:sm_90"), Path("m.kopt"))]
    assert all("kernels" not in recipe_for(request).options for request in others)


def test_kernels_are_for_bf16_where_the_processor_multiplies_it():
    host = Target.parse("cpu")
    features = {True: host.features | {"avx512f", "avx512_bf16"}, False: host.features - {"avx512_bf16"}}
    for able, given in features.items():
        recipe = recipe_for(Request(None, replace(host, features=frozenset(given)), Path("m.kopt"), "bf16"))
        names = [each.name for each in parse_passes(recipe.passes)]
        assert recipe.options.get("kernels", False) is able
        assert names[-3:] == (["precision", "narrow-results", "cleanup"] if able else ["dequantize-weights", "precision", "cleanup"])


@pytest.mark.skipif(not has_instruction("bf16", Target.parse("cpu")), reason="this CPU has no AVX512-BF16")
def test_an_artifact_with_kernels_on_bf16(tmp_path):
    artifact = kopt.compile(network(), output=tmp_path / "m.kopt", precision="bf16", batch=2, measure=False, baseline=False)
    (bucket,) = artifact.report["buckets"]
    assert 0 < bucket["accuracy"]["relative"] <= TOLERANCES["bf16"]
    assert set(bucket["kernels"]) <= {"Bf16Product", "Bf16Conv"}
    assert "Bf16Conv" in bucket["kernels"]
    x = np.random.default_rng(0).standard_normal((2, 6, 12, 10)).astype(np.float32)
    assert kopt.load(tmp_path / "m.kopt").run({"x": x})
