"""Every form of calibration inputs, and what is wrong with those that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from kopt.calibration import calibration
from kopt.errors import FileError, UsageError
from kopt.ir.graph import Graph
from support.graphs import graph

X = np.arange(70 * 3, dtype=np.float32).reshape(70, 3)


@pytest.fixture
def one() -> Graph:
    return graph("m (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")


@pytest.fixture
def fixed() -> Graph:
    return graph("m (float[2,3] x, int64[2] k, float[4] shared) => (float[2,3] y) { y = Relu(x) }")


def rows(source: object, model: Graph, **options: int) -> list[int]:
    found = calibration(source, model, **options)
    assert [len(feed["x"]) for feed in found] == [len(feed["x"]) for feed in found], "it can be read twice"
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in found]), X[: sum(len(feed["x"]) for feed in found)])
    assert found.num_rows == sum(len(feed["x"]) for feed in found)
    return [len(feed["x"]) for feed in found]


def test_npz(one: Graph, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=X.astype(np.float64), labels=np.arange(70))
    assert rows(str(tmp_path / "c.npz"), one) == [32, 32, 6]
    np.testing.assert_array_equal(calibration(tmp_path / "c.npz", one).labels, np.arange(70))


def test_folder_of_arrays(one: Graph, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert rows(tmp_path, one) == [32, 32, 6]


def test_folder_of_numbered_arrays(one: Graph, tmp_path: Path) -> None:
    for index in range(14):
        np.save(tmp_path / f"x_{index}.npy", X[index * 5 : index * 5 + 5])
    assert rows(tmp_path, one) == [5] * 14


def test_test_data_sets(one: Graph, tmp_path: Path) -> None:
    for index in range(12):
        folder = tmp_path / f"test_data_set_{index}"
        folder.mkdir()
        (folder / "input_0.pb").write_bytes(numpy_helper.from_array(X[index : index + 1]).SerializeToString())
    assert rows(tmp_path, one) == [1] * 12
    assert rows(tmp_path / "test_data_set_0", one) == [1]


def test_function(one: Graph, tmp_path: Path) -> None:
    text = """
import numpy as np
def load():
    x = np.arange(210, dtype=np.float32).reshape(70, 3)
    for k in range(7):
        yield {'x': x[k*10:k*10+10]}
"""
    (tmp_path / "loader.py").write_text(text)
    assert rows(f"{tmp_path}/loader.py:load", one) == [10] * 7


def test_arrays_feeds_and_functions_at_hand(one: Graph) -> None:
    assert rows({"x": X}, one) == [32, 32, 6]
    assert rows([{"x": X[:3]}, {"x": X[3:4]}], one) == [3, 1]
    assert rows(iter([{"x": X[:3]}]), one) == [3]
    assert rows(lambda: {"x": X[:5]}, one) == [5]


def test_a_fixed_batch_cuts_and_leaves_out_the_remainder(fixed: Graph) -> None:
    source = {"x": X[:5], "k": np.arange(5, dtype=np.int32), "shared": np.ones(4, np.float32)}
    found = list(calibration(source, fixed))
    assert [feed["k"].tolist() for feed in found] == [[0, 1], [2, 3]]
    assert found[0]["k"].dtype == np.int64
    assert found[1]["shared"].shape == (4,)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ({"y": X}, "no array for input 'x'"),
        ({"x": X, "z": X}, "has no input 'z'"),
        ({"x": X[:, :2]}, "shape [70, 2], the model takes (N, 3)"),
        ({"x": X[0]}, "shape [3]"),
        ({"x": X > 3}, "bool, not float32"),
        ({"x": X * np.nan}, "NaN or infinities"),
        ({"x": X[:3]}, "3 samples are too few"),
        ({"x": X[:0]}, "0 samples are too few"),
        ({"x": X, "labels": np.arange(3)}, "3 labels for 70 samples"),
        (lambda: 3, "returns int"),
        (lambda: [3], "gives int"),
    ],
)
def test_inputs_that_do_not_fit(one: Graph, source: object, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        calibration(source, one, least=8)
    assert what in caught.value.what
    assert caught.value.where
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("c.txt", "", "no form"),
        ("c.npz", "no archive", "cannot be read"),
        ("c.py", "def other(): pass", "no function 'load'"),
        ("c.py", "1 / 0", "ZeroDivisionError"),
    ],
)
def test_files_that_cannot_be_read(one: Graph, tmp_path: Path, name: str, text: str, what: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        calibration(f"{tmp_path / name}{':load' if name.endswith('.py') else ''}", one)
    assert what in caught.value.what


def test_what_is_not_there(one: Graph, fixed: Graph, tmp_path: Path) -> None:
    for source in ("absent.npz", "absent.py:load", str(tmp_path / "folder")):
        with pytest.raises(FileError):
            calibration(source, one)
    with pytest.raises(UsageError, match="neither"):
        calibration(tmp_path, one)
    np.save(tmp_path / "something.npy", X)
    with pytest.raises(UsageError, match="belongs to no input"):
        calibration(tmp_path, fixed)
