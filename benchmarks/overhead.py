"""What a call costs: microseconds from Python into a compiled model that computes next to nothing.

python benchmarks/overhead.py
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from children import Child, alternate, ratios
from machine import describe, options, table, write
from prepare import in_child
from runtimes import installed

INNER = 200  # calls per sample: a clock read costs as much as a part of such a call


def tiny_model() -> onnx.ModelProto:
    """``y = Relu(x @ w + b)`` on a row of 16 floats."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((16, 16)), "b": rng.standard_normal(16)}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="gemm"), helper.make_node("Relu", ["h"], ["y"], name="relu")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def main() -> None:
    """Measure, print, write."""
    parser = options("Cost of one call into a tiny model.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of two blocks per runtime")
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of a block")
    settings = parser.parse_args()
    machine = describe()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model, artifact, inputs = work / "tiny.onnx", work / "tiny.kopt", work / "inputs.npz"
        onnx.save(tiny_model(), model)
        np.savez(inputs, x=np.ones((1, 16), np.float32))
        in_child("compile", model, artifact, 1, "fp32", threads=settings.threads)
        paths = {"kopt": artifact, **{peer: model for peer in ("onnxruntime", "openvino") if installed(peer)}}
        children = [stack.enter_context(Child(runtime, path, inputs, threads=settings.threads)) for runtime, path in paths.items()]
        samples, restless = alternate(children, rounds=settings.rounds, seconds=settings.seconds, inner=INNER)
    results: dict[str, dict[str, Any]] = {
        runtime: {
            "p50_us": float(np.median(np.concatenate(rounds)) / 1e3),
            "round_p50_us": [float(np.median(one) / 1e3) for one in rounds],
            "ratio": ratios(samples["kopt"], rounds),
            "never_idle": runtime in restless,
        }
        for runtime, rounds in samples.items()
    }
    rows = [
        [runtime, f"{one['p50_us']:.2f}", f"{min(one['round_p50_us']):.2f} to {max(one['round_p50_us']):.2f}"]
        for runtime, one in results.items()
    ]
    print(table(["runtime", "µs a call (p50)", "medians of rounds"], rows))
    print(f"\nwritten to {write('overhead', settings, machine, results)}")


if __name__ == "__main__":
    main()
