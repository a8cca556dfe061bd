"""Sessions over real native code."""

import json
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from kopt.artifact.write import Contents, Program, write
from kopt.hardware import Target
from kopt.ir.builder import Builder
from kopt.session import load
from kopt.specialize import Recipe, specialize
from kopt.targets.xla import LITERAL_BYTES, XlaBackend
from support.fakes import artifact_of, compiled, expected_mlp, mlp, requirements

WIDTH = 512


@pytest.fixture(scope="module")
def graph():
    return mlp(np.random.default_rng(3), width=WIDTH)


@pytest.fixture(scope="module")
def path(graph, tmp_path_factory):
    return artifact_of(graph, tmp_path_factory.mktemp("xla") / "m.kopt", (4, 8), rows=True, backend=XlaBackend()).path


def batch(size, seed=0):
    return np.random.default_rng(seed).standard_normal((size, 16)).astype(np.float32)


def check(session, graph, x):
    for found, expected in zip(session.run({"x": x}).values(), expected_mlp(graph, np.asarray(x)), strict=True):
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tier", ["native", "recompiled"])
@pytest.mark.parametrize("size", [0, 3, 4, 8, 9])
def test_every_tier_and_batch_agrees_with_numpy(graph, path, tier, size):
    session = load(path, require=tier if size <= 8 else None)
    check(session, graph, batch(size))
    assert session.self_test()


def test_tiers_agree_bit_for_bit(path):
    native, recompiled = (load(path, require=tier).run({"x": batch(4)}) for tier in ("native", "recompiled"))
    for name, array in native.items():
        np.testing.assert_array_equal(array, recompiled[name])


def test_a_new_shape_comes_from_the_cache_the_second_time(graph, path, tmp_path):
    check(load(path, cache=tmp_path), graph, batch(11))
    (entry,) = tmp_path.glob("*.program")
    assert entry.stat().st_size < WIDTH * 16 * 4
    changed = entry.stat().st_mtime_ns
    session = load(path, cache=tmp_path)
    check(session, graph, batch(11))
    assert session.tier == "recompiled"
    assert entry.stat().st_mtime_ns > changed


def test_many_threads_get_the_bits_of_one(path):
    session = load(path)
    inputs = [batch(size, seed) for seed, size in enumerate((4, 8, 3, 4, 7))]
    alone = [{name: array.tobytes() for name, array in session.run({"x": x}).items()} for x in inputs]
    differing = []

    def work(start):
        for k in range(100):
            index = (start + k) % len(inputs)
            if {name: array.tobytes() for name, array in session.run({"x": inputs[index]}).items()} != alone[index]:
                differing.append(index)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []


def test_jax_arrays_go_in_and_device_arrays_come_out(graph, path):
    session, x = load(path), batch(4)
    found = session.run({"x": jax.device_put(x)}, on_device=True)
    for array, expected in zip(found.values(), expected_mlp(graph, x), strict=True):
        assert isinstance(array, jax.Array)
        np.testing.assert_allclose(np.from_dlpack(array), expected, rtol=1e-5, atol=1e-5)


def test_results_are_not_changed_by_later_calls(path):
    session = load(path)
    first = session.run({"x": batch(4, 1)})
    kept = {name: array.copy() for name, array in first.items()}
    x = batch(4, 2)
    session.run({"x": x})
    x[...] = 7
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_wide_integers_keep_their_bits(tmp_path):
    b = Builder()
    x = b.input("x", "i64", ["N"])
    graph = b.graph("wide", [x], [b.emit("Add", x, b.constant(np.array([1 << 40])), hint="y")])
    recipe, backend = Recipe.of_preset("xla"), XlaBackend()
    done = specialize(graph, recipe, Target.parse("cpu"), shapes={"x": (3,)})
    executable = done.compile()
    code, weights = executable.save()
    program = Program("xla", executable.signature, {}, code, backend.portable(done.lowered), weights)
    path = write(Contents(graph, [program], requirements(backend), config=recipe.to_json()), tmp_path / "m.kopt").path
    session = load(path, cache=tmp_path / "cache")
    for size in (3, 5):
        (found,) = session.run({"x": np.arange(size)}).values()
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, np.arange(size) + (1 << 40))


FRESH = """
import json, sys
import numpy as np
from kopt.session import load
session = load(sys.argv[1], require="native", threads=1)
outputs = session.run({"x": np.ones((4, 16), np.float32)})
unwanted = ("onnx", "onnx_ir", "onnxruntime", "openvino", "kopt.frontend", "kopt.passes", "kopt.specialize")
foreign = [name for name in unwanted if name in sys.modules]
print(json.dumps({"tier": session.tier, "foreign": foreign, "first": float(next(iter(outputs.values()))[0, 0])}))
"""


def test_a_fresh_process_imports_only_what_running_needs(graph, path):
    done = subprocess.run([sys.executable, "-c", FRESH, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["tier"], found["foreign"]) == ("native", [])
    np.testing.assert_allclose(found["first"], expected_mlp(graph, np.ones((4, 16), np.float32))[0][0, 0], rtol=1e-5, atol=1e-5)


def test_large_weights_are_used_where_they_lie(path):
    session = load(path)
    weight = max(session.artifact.weights.values(), key=lambda array: array.nbytes)
    assert weight.nbytes >= LITERAL_BYTES
    bound = session._stored.values()[0].executable._call.args
    assert [array.unsafe_buffer_pointer() for array in bound] == [weight.ctypes.data]


def test_compiled_programs_share_their_weights(graph):
    first, second = compiled(graph, (1, 2), backend=XlaBackend())
    assert list(first.weights) == list(second.weights)
