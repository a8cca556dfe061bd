"""Many nodes and large weights: time that grows with the nodes, no recursion, no second copy of the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kopt.frontend.load import load
from kopt.passes.base import PassContext
from kopt.passes.pipeline import Pipeline, preset
from support.source import SRC

_MEASURE = """
import json, sys
from pathlib import Path
from kopt.frontend.load import load
from kopt.passes.base import PassContext
from kopt.passes.pipeline import Pipeline, preset

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def imported(path):
    return Pipeline(preset("import")).run(load(path), PassContext())[0]

imported(sys.argv[1])  # schemas and passes take memory of their own, once
before = peak()
graph = imported(sys.argv[2])
held = [constant.array() for constant in graph.constants.values()]
total = sum(float(array.sum()) for array in held)
print(json.dumps({"grown": peak() - before, "total": total}))
"""


def chain(num_nodes: int) -> onnx.ModelProto:
    """Relu, Add, Neg in turn, each reading the one before."""
    nodes = []
    for index in range(num_nodes):
        op = ("Relu", "Add", "Neg")[index % 3]
        nodes.append(helper.make_node(op, [f"v{index}", "w"] if op == "Add" else [f"v{index}"], [f"v{index + 1}"], name=f"node{index}"))
    source = helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 4])
    made = helper.make_tensor_value_info(f"v{num_nodes}", TensorProto.FLOAT, ["N", 4])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    graph = helper.make_graph(nodes, "chain", [source], [made], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("num_nodes", [3_000, 30_000])
def test_long_chains_pass_the_importer_and_the_graph_passes(num_nodes: int) -> None:
    limit = sys.getrecursionlimit()
    graph, _ = Pipeline(preset("xla")).run(load(chain(num_nodes)), PassContext())
    assert len(graph.nodes) > num_nodes / 2
    assert sys.getrecursionlimit() == limit


def external(folder: Path, num_tensors: int, megabytes: int) -> Path:
    """A chain of products whose weights, all ones, lie in a file beside the model."""
    rows = megabytes * 2**20 // 4 // 1024
    infos, nodes = [], []
    with (folder / "weights.bin").open("wb") as file:
        for index in range(num_tensors):
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[rows, 1024], data_location=TensorProto.EXTERNAL)
            for key, value in (("location", "weights.bin"), ("offset", file.tell()), ("length", rows * 4096)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(np.ones((rows, 1024), np.float32).tobytes())
            infos.append(tensor)
            nodes.append(helper.make_node("Add", [f"v{index}", f"w{index}"], [f"v{index + 1}"]))
    shape = [rows, 1024]
    source = helper.make_tensor_value_info("v0", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(f"v{num_tensors}", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "external", [source], [made], infos)
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize(("num_tensors", "megabytes"), [(5, 4), pytest.param(10, 20, marks=pytest.mark.nightly)])
def test_weights_beside_the_model_are_held_once(tmp_path: Path, num_tensors: int, megabytes: int) -> None:
    (tmp_path / "small").mkdir()
    paths = external(tmp_path / "small", 1, 1), external(tmp_path, num_tensors, megabytes)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)], env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True
    )
    measured, weights = json.loads(done.stdout), num_tensors * megabytes * 2**20
    assert measured["total"] == weights / 4
    assert measured["grown"] <= 1.3 * weights, measured
