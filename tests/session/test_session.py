import threading

import numpy as np
import pytest

from kopt.artifact import Artifact
from kopt.errors import AccuracyError, InputError, ShapeNotCompiledError, UsageError
from kopt.session import load
from kopt.session import session as sessions
from support.fakes import FakeBackend, artifact_of, expected_mlp, mlp


@pytest.fixture
def graph(rng):
    return mlp(rng)


@pytest.fixture
def path(graph, tmp_path):
    return artifact_of(graph, tmp_path / "m.kopt", (4, 8), rows=True).path


def batch(rng, size):
    return rng.standard_normal((size, 16)).astype(np.float32)


def check(session, graph, x):
    found = session.run({"x": x})
    assert list(found) == [name for name, _ in session.signature.outputs]
    for array, expected in zip(found.values(), expected_mlp(graph, np.asarray(x)), strict=True):
        assert isinstance(array, np.ndarray)
        assert array.shape == expected.shape
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_shape_runs_natively(graph, path, rng):
    session = load(path)
    check(session, graph, batch(rng, 4))
    check(session, graph, batch(rng, 8))
    assert session.tier == "native"
    assert "compile" not in FakeBackend.calls[FakeBackend.calls.index("load") :]


@pytest.mark.parametrize("size", [0, 1, 3, 5, 7])
def test_a_smaller_batch_is_padded_and_cut(graph, path, rng, size):
    session = load(path, exact=True)
    check(session, graph, batch(rng, size))
    check(session, graph, batch(rng, size))


def test_without_proven_rows_a_smaller_batch_is_compiled_or_refused(graph, tmp_path, rng):
    path = artifact_of(graph, tmp_path / "m.kopt", (4, 8)).path
    with pytest.raises(ShapeNotCompiledError, match="x: 3x16") as error:
        load(path, exact=True).run({"x": batch(rng, 3)})
    assert "f32[4,16]" in str(error.value)
    before = FakeBackend.calls.count("compile")
    check(load(path), graph, batch(rng, 3))
    assert FakeBackend.calls.count("compile") == before + 1


def test_a_new_shape_is_compiled_once_and_kept_on_disk(graph, path, rng, tmp_path):
    before = {entry: entry.stat().st_mtime_ns for entry in path.rglob("*")}
    session = load(path)
    FakeBackend.calls.clear()
    for _ in range(3):
        check(session, graph, batch(rng, 11))
    assert FakeBackend.calls == ["lower", "compile"]
    FakeBackend.calls.clear()
    again = load(path)
    check(again, graph, batch(rng, 11))
    assert FakeBackend.calls == ["load", "load"]
    assert again.tier == "recompiled"
    assert {entry: entry.stat().st_mtime_ns for entry in path.rglob("*")} == before


def test_programs_compiled_here_are_bounded(graph, path, rng, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_PROGRAMS", 2)
    session = load(path)
    for size in (9, 10, 11, 9, 10):
        check(session, graph, batch(rng, size))
        assert len(session._fresh.values()) <= 2
    assert len(session._plans) <= 2


def test_many_threads_get_the_bits_of_one(graph, path, rng):
    session = load(path)
    inputs = [batch(rng, size) for size in (4, 8, 3, 9)]
    alone = [{name: array.tobytes() for name, array in session.run({"x": x}).items()} for x in inputs]
    differing = []

    def work(start):
        for k in range(100):
            index = (start + k) % len(inputs)
            found = {name: array.tobytes() for name, array in session.run({"x": inputs[index]}).items()}
            if found != alone[index]:
                differing.append(index)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []


def test_threads_that_ask_for_one_new_shape_compile_it_once(graph, path, rng):
    session = load(path)
    FakeBackend.calls.clear()
    barrier, failures = threading.Barrier(8), []

    def work():
        barrier.wait()
        try:
            check(session, graph, np.ones((13, 16), np.float32))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert FakeBackend.calls.count("compile") == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing input 'x'"),
        ({"X": np.zeros((4, 16), np.float32)}, "unknown input 'X'; missing input 'x'"),
        ({"x": np.zeros((4, 16), np.float32), "z": 1}, "unknown input 'z'"),
        ({"x": np.zeros((4, 16))}, "dtype float64, float32 is needed"),
        ({"x": np.zeros((4, 16), ">f4")}, "is needed"),
        ({"x": np.zeros((4, 17), np.float32)}, "shape 4x17"),
        ({"x": np.zeros(16, np.float32)}, "shape 16"),
        ({"x": np.float32(1)}, "shape scalar"),
        ({"x": [[0.0] * 16] * 4}, "is a list"),
        ({"x": None}, "is a NoneType"),
    ],
)
def test_inputs_that_do_not_fit_are_named(path, inputs, message):
    session = load(path)
    for _ in range(2):
        with pytest.raises(InputError) as error:
            session.run(inputs)
        assert message in str(error.value)
        assert "expected: x: f32[N,16]" in str(error.value)
        session.run({"x": np.zeros((4, 16), np.float32)})


def test_inputs_must_be_a_mapping(path):
    with pytest.raises(UsageError, match="dict of arrays"):
        load(path).run(np.zeros((4, 16), np.float32))


class Foreign:
    """An array of another library."""

    def __init__(self, array):
        self._array = array
        self.dtype = "torch.float32"
        self.shape = array.shape

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_arrays_of_other_libraries_are_taken_through_dlpack(graph, path, rng):
    x = batch(rng, 4)
    found = load(path).run({"x": Foreign(x)})
    np.testing.assert_allclose(next(iter(found.values())), expected_mlp(graph, x)[0], rtol=1e-5, atol=1e-5)


def test_strided_inputs_are_taken(graph, path, rng):
    check(load(path), graph, batch(rng, 8)[::2])
    check(load(path), graph, np.asfortranarray(batch(rng, 4)))


def test_a_bound_call_gives_the_same(graph, path, rng):
    x = batch(rng, 4)
    call = load(path).call({"x": x})
    for found, expected in zip(call(), expected_mlp(graph, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_warmup_runs_every_compiled_shape(path):
    session = load(path)
    session.warmup()
    assert [loaded.executable.num_calls for loaded in session._stored.values()] == [1, 1]


def test_self_test_compares_with_the_stored_reference(graph, path):
    session = load(path)
    assert set(session.self_test()) == {f"0/{value.name}" for value in graph.outputs}
    artifact = Artifact.open(path)
    wrong = {name: array + 1 if "output" in name else array for name, array in artifact.self_test.items()}
    artifact.__dict__["self_test"] = wrong
    session.artifact = artifact
    with pytest.raises(AccuracyError, match="differs from the reference by 1"):
        session.self_test()


def test_a_closed_session_refuses(path):
    with load(path) as session:
        session.run({"x": np.zeros((4, 16), np.float32)})
    with pytest.raises(UsageError, match="closed"):
        session.run({"x": np.zeros((4, 16), np.float32)})


def test_unknown_options_are_refused(path):
    with pytest.raises(UsageError, match="unknown tier"):
        load(path, require="fast")
    with pytest.raises(UsageError, match="threads"):
        load(path, threads=0)
