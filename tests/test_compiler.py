"""From a model to an artifact: buckets, accuracy, refusal, and nothing half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import kopt
from kopt import compiler, errors
from kopt.references import Reference
from support import graphs

MODEL = """m (float[N,6] x) => (float[N,4] y, float[N] t) {
    w = Constant<value = float[6,4] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6}>()
    axes = Constant<value_ints=[1]>()
    m = MatMul(x, w) y = Tanh(m) t = ReduceSum<keepdims=0>(x, axes)
}"""


def expected(x: np.ndarray) -> dict[str, np.ndarray]:
    w = np.float32([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6]).reshape(6, 4)
    return {"y": np.tanh(x @ w), "t": x.sum(1)}


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    with pytest.raises(errors.FileError, match="cannot write the artifact"):
        kopt.compile(graphs.model(MODEL), output=tmp_path / "file" / "m.kopt", measure=False, progress=said.append)
    assert said == []


def test_every_batch_is_checked_and_reported(tmp_path, rng) -> None:
    said: list[str] = []
    artifact = kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", batch=[1, 5], measure=False, progress=said.append)
    report = artifact.report
    assert [bucket["batch"] for bucket in report["buckets"]] == [1, 5]
    assert [bucket["shapes"] for bucket in report["buckets"]] == [{"x": [1, 6]}, {"x": [5, 6]}]
    for bucket in report["buckets"]:
        assert bucket["accuracy"]["relative"] <= bucket["accuracy"]["tolerance"] == compiler.TOLERANCES["fp32"]
        assert bucket["accuracy"]["reference"].startswith("ONNX Runtime")
        assert bucket["flops"] >= 2 * bucket["batch"] * 24
        assert bucket["compile_s"] > 0
        assert "latency" not in bucket
    assert report["host_nodes"] == []
    assert {"reading the model", "compiling batch 5", "writing the artifact"} <= set(said)
    with kopt.load(artifact.path) as session:
        for batch in (1, 3, 5, 7):
            x = rng.standard_normal((batch, 6)).astype(np.float32)
            for name, array in session.run({"x": x}).items():
                np.testing.assert_allclose(np.asarray(array), expected(x)[name], rtol=1e-5, atol=1e-5)


def test_a_model_is_a_path_bytes_or_proto(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = graphs.model(MODEL)
    onnx.save(model, tmp_path / "named.onnx")
    given = {"named.kopt": "named.onnx", "p.kopt": Path("named.onnx"), "q.kopt": model, "r.kopt": model.SerializeToString()}
    for output, form in given.items():
        kopt.compile(form, output=None if output == "named.kopt" else output, measure=False)
    for part in ("weights.safetensors", "portable/0.stablehlo"):
        assert len({(tmp_path / output / part).read_bytes() for output in given}) == 1, part
    assert (tmp_path / "named.kopt").is_dir()


def test_outputs_that_differ_are_refused_and_nothing_is_written(tmp_path, monkeypatch) -> None:
    def wrong(graph, shapes, feeds) -> Reference:
        return Reference("the truth", [array + np.float32(1) for array in expected(feeds["x"]).values()])

    monkeypatch.setattr(compiler, "reference_outputs", wrong)
    with pytest.raises(errors.AccuracyError, match="differs from the truth") as caught:
        kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", measure=False)
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler, "reference_outputs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", measure=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"precision": "fp12"}, errors.UsageError),
        ({"target": "tpu"}, errors.TargetError),
        ({"cpu_isa": "x86-64-v9"}, errors.TargetError),
        ({"batch": 0}, errors.UsageError),
        ({"batch": []}, errors.UsageError),
        ({"shapes": {"z": (1,)}}, errors.UsageError),
        ({"threads": 0}, errors.UsageError),
    ],
)
def test_bad_options_are_refused(tmp_path, options, kind) -> None:
    with pytest.raises(kind) as caught:
        kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", measure=False, **options)
    assert caught.value.next_step
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_user_is_not_replaced(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(errors.KoptError):
        kopt.compile(graphs.model(MODEL), output=tmp_path / "mine", measure=False)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_every_unsupported_node_is_listed(tmp_path) -> None:
    model = graphs.model("m (float[2] x) => (float[2] y) { a = Relu(x) [first] b = com.acme.Odd(a) [second] y = com.acme.Other(b) }")
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    with pytest.raises(errors.ModelError) as caught:
        kopt.compile(model, output=tmp_path / "m.kopt", measure=False)
    assert caught.value.exit_code == 6
    assert all(word in str(caught.value) for word in ("Odd", "Other"))


def test_without_a_gpu_cuda_gets_the_portable_tier(tmp_path) -> None:
    if kopt.Target.parse("cuda").present:
        pytest.skip("a CUDA device is present")
    artifact = kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", target="cuda", batch=2)
    assert not artifact.report["target"]["present"]
    assert "latency" not in artifact.report["buckets"][0]
    assert "accuracy" not in artifact.report["buckets"][0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_compute_narrow_and_answer_in_the_models_dtype(tmp_path, rng, precision) -> None:
    artifact = kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", precision=precision, batch=[2, 5], measure=False)
    assert artifact.report["precision"] == precision
    assert "precision" in artifact.manifest.config["passes"]
    for bucket in artifact.report["buckets"]:
        assert 0 < bucket["accuracy"]["relative"] <= bucket["accuracy"]["tolerance"] == compiler.TOLERANCES[precision]
    x = rng.standard_normal((3, 6)).astype(np.float32)
    with kopt.load(artifact.path) as session:
        found = {name: np.asarray(array) for name, array in session.run({"x": x}).items()}
    for output, array in expected(x).items():
        assert found[output].dtype == np.float32
        assert np.abs(found[output] - array).max() <= compiler.TOLERANCES[precision] * 2 * np.abs(array).max()


def test_a_fixed_batch_gets_others(tmp_path, rng) -> None:
    model = graphs.model(MODEL.replace("[N", "[1"))
    artifact = kopt.compile(model, output=tmp_path / "m.kopt", batch=[1, 4], measure=False)
    with kopt.load(artifact.path) as session:
        for batch in (1, 4, 3):
            x = rng.standard_normal((batch, 6)).astype(np.float32)
            np.testing.assert_allclose(np.asarray(session.run({"x": x})["y"]), expected(x)["y"], rtol=1e-5, atol=1e-5)


def test_rows_that_depend_on_each_other_are_not_rebatched(tmp_path) -> None:
    model = graphs.model("m (float[2,3] x) => (float[2,3] y) { y = Softmax<axis=0>(x) }")
    with pytest.raises(errors.RowDependenceError):
        kopt.compile(model, output=tmp_path / "m.kopt", batch=[4], measure=False)
    assert not list(tmp_path.iterdir())


def test_code_for_another_instruction_set_says_so(tmp_path) -> None:
    from kopt.hardware import ISA_LEVELS, cpu_features

    if not ISA_LEVELS["x86-64-v3"] <= cpu_features():
        pytest.skip("the processor is below x86-64-v3")
    artifact = kopt.compile(graphs.model(MODEL), output=tmp_path / "m.kopt", cpu_isa="x86-64-v3", measure=False)
    assert artifact.manifest.requirements.isa == "x86-64-v3"
    assert set(artifact.manifest.requirements.features) <= ISA_LEVELS["x86-64-v3"]
    with kopt.load(artifact.path) as session:
        x = np.ones((1, 6), np.float32)
        np.testing.assert_allclose(np.asarray(session.run({"x": x})["y"]), expected(x)["y"], rtol=1e-5)
        assert session.tier == "native"
