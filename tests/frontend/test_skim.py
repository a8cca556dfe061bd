"""Large tensors left in the file: what is parsed around them and what is read later make the same model."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from kopt import errors
from kopt.frontend.load import load
from kopt.frontend.skim import LARGE, skim

SMALL = 32


def model(rng: np.random.Generator, sizes: tuple[int, ...], *, after: bool = True) -> onnx.ModelProto:
    """Sums of weights, some of them as typed fields and in integers."""
    weights = []
    for number, size in enumerate(sizes):
        array = rng.normal(size=size).astype(np.float32)
        weights.append(numpy_helper.from_array(array if number % 3 else array.astype(np.int64).astype(np.float32), f"w{number}"))
    weights.append(helper.make_tensor("typed", TensorProto.FLOAT, [40], np.arange(40.0)))
    nodes = [helper.make_node("ReduceSum", [weight.name], [f"s{weight.name}"], keepdims=0) for weight in weights]
    nodes.append(helper.make_node("Sum", ["x", *(f"s{weight.name}" for weight in weights)], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in "xy"]
    graph = helper.make_graph(nodes, "sums", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if after:
        made.metadata_props.add(key="k", value="v" * 50)
    return made


def together(content: bytes, large: int = SMALL) -> onnx.ModelProto | None:
    """The model made of what ``skim`` keeps and of what it leaves; None where protobuf refuses it."""
    found = skim(memoryview(content), large)
    rest, apart = (content, {}) if found is None else found
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(rest)
    except DecodeError:
        return None
    for position, (offset, length) in apart.items():
        tensor = proto.graph.initializer[position]
        assert tensor.raw_data == b""
        assert length >= large
        tensor.raw_data = content[offset : offset + length]
    return proto


def parsed(content: bytes) -> onnx.ModelProto | None:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        return None
    return proto


@pytest.mark.parametrize("sizes", [(100,), (1, 100, 3, 50), (7, 8, 9, 5000), (1000,) * 20])
def test_nothing_is_lost(rng, sizes) -> None:
    content = model(rng, sizes, after=sizes[0] != 1).SerializeToString()
    rest, apart = skim(memoryview(content), SMALL)
    assert list(apart) == [position for position, size in enumerate(sizes) if 4 * size >= SMALL]
    assert len(rest) < len(content)
    assert together(content) == parsed(content)


def test_small_tensors_stay_where_they_are(rng) -> None:
    assert skim(memoryview(model(rng, (10, 20)).SerializeToString()), LARGE) is None
    assert skim(memoryview(b""), SMALL) is None


def test_damaged_files_mean_what_protobuf_says(rng) -> None:
    content = model(rng, (30, 3, 40)).SerializeToString()
    skimmed = 0
    for _ in range(3000):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(damaged)))
            kind = rng.integers(3)
            if kind == 0:
                damaged[at] = int(rng.integers(256))
            elif kind == 1:
                del damaged[at : at + int(rng.integers(1, 9))]
            else:
                damaged[at:at] = damaged[: int(rng.integers(1, 60))]
        one, other = together(bytes(damaged)), parsed(bytes(damaged))
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
        skimmed += skim(memoryview(bytes(damaged)), SMALL) is not None
    assert skimmed > 300


def test_weights_are_read_when_asked_for(rng, tmp_path) -> None:
    made = model(rng, (LARGE, 4, 3 * LARGE))
    onnx.save(made, tmp_path / "m.onnx")
    from_file, from_memory = load(tmp_path / "m.onnx"), load(made)
    for one, other in zip(from_file.constants.values(), from_memory.constants.values(), strict=True):
        np.testing.assert_array_equal(one.array(), other.array())
        assert one.nbytes < LARGE or one.array().ctypes.data % 64 == 0


def test_a_replaced_file_is_read_on_and_a_changed_one_refused(rng, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    made = model(rng, (LARGE, LARGE))
    onnx.save(made, path)
    graph = load(path)
    os.replace(_saved(model(rng, (LARGE, LARGE)), tmp_path / "other.onnx"), path)
    first = next(iter(graph.constants.values()))
    np.testing.assert_array_equal(first.array(), numpy_helper.to_array(made.graph.initializer[0]))
    graph = load(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(errors.FileError, match="written to while it was being read"):
        next(iter(graph.constants.values())).array()


def test_a_tensor_of_another_size_is_refused(rng, tmp_path) -> None:
    made = model(rng, (LARGE,))
    made.graph.initializer[0].dims[0] += 1
    with pytest.raises(errors.InvalidModelError, match=r"takes 262148 bytes but 262144 are there\s+at m.onnx: tensor 'w0'"):
        load(_saved(made, tmp_path / "m.onnx"))


def _saved(made: onnx.ModelProto, path):
    path.write_bytes(made.SerializeToString())
    return path
