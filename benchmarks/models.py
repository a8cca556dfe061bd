"""The models of the benchmarks: real graphs, weights drawn anew.

``models/NAME.graph.onnx`` holds the export of a public model definition (opset 20, batch 1, static shapes) without its
float32 weights; the metadata entry ``weights`` keeps mean, standard deviation and minimum of each. Speed does not depend
on the values of weights, so seeded random ones of the same spread stand in for them. Nothing here says anything about
accuracy on a task.

Usage: python benchmarks/models.py OUT [NAME ...]      writes OUT/NAME.onnx
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

GRAPHS = Path(__file__).parent / "models"
SUFFIX = ".graph.onnx"


def names() -> list[str]:
    """All models, in alphabetical order."""
    return sorted(path.name.removesuffix(SUFFIX) for path in GRAPHS.glob(f"*{SUFFIX}"))


def with_weights(name: str) -> onnx.ModelProto:
    """The model with every weight drawn from its recorded distribution, seeded by the weight's name."""
    model = onnx.load(GRAPHS / f"{name}{SUFFIX}")
    (recorded,) = (json.loads(prop.value) for prop in model.metadata_props if prop.key == "weights")
    for tensor in model.graph.initializer:
        spread = recorded.get(tensor.name)
        if spread is None:
            continue
        rng = np.random.default_rng(zlib.crc32(tensor.name.encode()))
        weight = rng.normal(spread["mean"], spread["std"], tuple(tensor.dims)).astype(np.float32)
        if spread["min"] > 0:  # variances must stay positive
            weight = weight.clip(min=np.float32(spread["min"]))
        tensor.raw_data = weight.tobytes()
    return model


def materialize(directory: Path, wanted: Sequence[str] = ()) -> dict[str, Path]:
    """Write the wanted models (default: all) that are not there yet; returns their paths."""
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        raise SystemExit(f"unknown model: {', '.join(unknown)}; choose from {', '.join(names())}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / f"{name}.onnx" for name in wanted or names()}
    for name, path in paths.items():
        if not path.exists():
            partial = path.with_suffix(".partial")
            onnx.save(with_weights(name), partial)
            partial.rename(path)
    return paths


def inputs_of(model: onnx.ModelProto, batch: int | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs by name: floats from N(0, 1), masks all ones, token numbers below 1000; ``batch`` replaces the first dimension."""
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    arrays = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        if batch is not None and shape:
            shape[0] = batch
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind == "f":
            arrays[value.name] = rng.standard_normal(shape).astype(dtype)
        elif "mask" in value.name:
            arrays[value.name] = np.ones(shape, dtype)
        else:
            arrays[value.name] = rng.integers(0, 2 if "type" in value.name else 1000, shape).astype(dtype)
    return arrays


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for written in materialize(Path(sys.argv[1]), sys.argv[2:]).values():
        print(written)
