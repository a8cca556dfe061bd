"""Parsing of flags, and files written whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from kopt import errors
from kopt.cli.common import parse_batches, parse_shapes, read_arrays, write_arrays, write_text


def test_batches() -> None:
    assert parse_batches(None) is None
    assert parse_batches("1,8, 32") == (1, 8, 32)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5"])
def test_batches_that_are_none(text) -> None:
    with pytest.raises(errors.UsageError, match="not a list of batches"):
        parse_batches(text)


def test_shapes_of_names_with_colons_and_of_scalars() -> None:
    assert parse_shapes(None) == {}
    assert parse_shapes(["x:1x3", "in:0:7", "s:"]) == {"x": (1, 3), "in:0": (7,), "s": ()}


@pytest.mark.parametrize("text", ["", "x", ":1x2", "x:1xa", "x:-1x2", "x:1x"])
def test_shapes_that_are_none(text) -> None:
    with pytest.raises(errors.UsageError, match="is not a shape"):
        parse_shapes([text])


def test_arrays_survive(tmp_path, rng) -> None:
    arrays = {"a/b": rng.standard_normal((2, 0)), "file": np.arange(3), "": np.array(True)}
    write_arrays(tmp_path / "x.npz", arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        name: (array.dtype, array.shape) for name, array in arrays.items()
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(errors.FileError, match="no such file"):
        read_arrays(tmp_path / "absent.npz")
    for name, content in (("empty.npz", b""), ("text.npz", b"hello"), ("cut.npz", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(errors.UsageError, match="cannot be read") as caught:
            read_arrays(tmp_path / name)
        assert name in str(caught.value)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(errors.UsageError, match="single array"):
        read_arrays(tmp_path / "one.npy")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], object))
    with pytest.raises(errors.UsageError, match="cannot be read"):
        read_arrays(tmp_path / "pickle.npz")


def test_failed_writes_leave_nothing(tmp_path, monkeypatch) -> None:
    for write, content in ((write_text, "x"), (write_arrays, {"x": np.zeros(2)})):
        with pytest.raises(errors.FileError, match="cannot write"):
            write(tmp_path / "absent" / "file", content)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for write, content in ((write_text, "x"), (write_arrays, {"x": np.zeros(2)})):
        with pytest.raises(errors.FileError, match="No space left"):
            write(tmp_path / "file", content)
    assert not list(tmp_path.iterdir())


def test_written_files_can_be_read_as_any_other(tmp_path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "text", "a")
    write_arrays(tmp_path / "x.npz", {"a": np.arange(3)})
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
