import os

import numpy as np
import pytest

from kopt.ir.types import DType, TensorType
from kopt.session.cache import CachedProgram, ProgramCache
from kopt.targets.base import Signature

SIGNATURE = Signature((("x", TensorType(DType.F32, (2, 3))),), (("y", TensorType(DType.I64, ())),))


def program(size=100):
    return CachedProgram(b"c" * size, SIGNATURE, (("w", "stored"), ("own.w", "")), {"own.w": np.arange(6.0).reshape(2, 3)})


@pytest.fixture
def cache(tmp_path):
    return ProgramCache(tmp_path / "cache")


def test_what_is_put_is_got(cache):
    cache.put("k", program())
    found = cache.get("k")
    assert (found.code, found.signature, found.order) == (b"c" * 100, SIGNATURE, program().order)
    np.testing.assert_array_equal(found.own["own.w"], np.arange(6.0).reshape(2, 3))
    assert cache.get("other") is None


def test_an_altered_entry_is_removed(cache):
    cache.put("k", program())
    (path,) = cache.folder.iterdir()
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert cache.get("k") is None
        assert not path.exists()
    for cut in (0, 1, 31, 32, len(content) - 1):
        path.write_bytes(content[:cut])
        assert cache.get("k") is None


def test_the_least_recently_used_go_first(tmp_path):
    cache = ProgramCache(tmp_path / "cache", max_bytes=28_000)
    for index, key in enumerate("abc"):
        cache.put(key, program(8000))
        os.utime(cache.folder / f"{key}.program", (index, index))
    assert cache.get("a") is not None
    cache.put("d", program(8000))
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]


def test_entries_beyond_the_bound_are_not_kept(tmp_path):
    cache = ProgramCache(tmp_path / "cache", max_bytes=1000)
    cache.put("k", program(8000))
    assert cache.get("k") is None


def test_a_directory_that_others_may_write_is_not_used(cache, caplog):
    cache.put("k", program())
    cache.folder.chmod(0o777)
    assert cache.get("k") is None
    assert "can be written by others" in caplog.text


def test_a_directory_that_cannot_be_made_is_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    cache = ProgramCache(tmp_path / "file" / "cache")
    cache.put("k", program())
    assert cache.get("k") is None
    assert "cannot keep" in caplog.text
