import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from kopt.artifact import tensors
from kopt.errors import CorruptArtifactError


def write(path, arrays):
    placed = tensors.layout(arrays)
    content = b"".join(bytes(piece) for piece in tensors.pieces(arrays, placed))
    assert len(content) == placed.num_bytes
    path.write_bytes(content)
    return content


@pytest.fixture
def arrays(rng):
    return {
        "odd": rng.standard_normal((3, 5, 7)).astype(np.float32),
        "empty": np.zeros((0, 4), np.int64),
        "scalar": np.float64(2.5).reshape(()),
        "bool": rng.integers(0, 2, 13).astype(bool),
        "strided": rng.standard_normal((6, 4)).astype(np.float32).T,
        "half": rng.standard_normal(9).astype(np.float16),
        "long": rng.integers(-9, 9, (2, 2)),
    }


def test_the_safetensors_package_reads_the_file(tmp_path, arrays):
    write(tmp_path / "t", arrays)
    found = load_file(tmp_path / "t")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert all(name in arrays or name.startswith(tensors.PADDING_PREFIX) for name in found)


def test_views_are_aligned_and_read_only(arrays, tmp_path):
    content = write(tmp_path / "t", arrays)
    buffer = np.empty(len(content) + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    buffer[start : start + len(content)] = np.frombuffer(content, np.uint8)
    found = tensors.read(memoryview(buffer)[start : start + len(content)], "t")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert not found[name].flags.writeable
        assert found[name].ctypes.data % 64 == 0


def test_types_without_a_name_in_the_format_survive(tmp_path):
    arrays = {
        "int4": np.arange(-4, 4).astype(ml_dtypes.int4).reshape(2, 4),
        "complex": np.array([1 + 2j, np.nan], np.complex128),
        "bf16": np.arange(5).astype(ml_dtypes.bfloat16),
    }
    content = write(tmp_path / "t", arrays)
    found = tensors.read(memoryview(content), "t")
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()
    with safetensors.safe_open(tmp_path / "t", framework="np") as file:
        assert set(arrays) <= set(file.keys())


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1600]}}',
        b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[8,0]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}',
        b'{"a":{"dtype":"F32","shape":"x","data_offsets":[0,8]}}',
        b'{"a":3}',
        b"[" * 100_000,
    ],
)
def test_hostile_headers_are_refused(header):
    content = len(header).to_bytes(8, "little") + header + bytes(16)
    with pytest.raises(CorruptArtifactError):
        tensors.read(memoryview(content), "t")


@pytest.mark.parametrize("content", [b"", b"1234", (1 << 40).to_bytes(8, "little") + b"{}"])
def test_a_header_beyond_the_file_is_refused(content):
    with pytest.raises(CorruptArtifactError):
        tensors.read(memoryview(content), "t")
