"""One runtime in one process: loads a model, then answers single-line JSON requests on its standard input.

Between requests the process blocks on the pipe. The parent's side is ``children.py``; started alone as

    python benchmarks/runtimes.py RUNTIME MODEL INPUTS.npz THREADS PRECISION

it prints one JSON line with the times up to the first answer, then serves requests until its input closes:

    {"do": "block", "seconds": 1.0, "calls": 5, "inner": 1}    time calls; ``inner`` calls per sample
    {"do": "outputs", "path": "out.npz"}                       write the outputs of one call
"""

from __future__ import annotations

import time

_STARTED_NS = time.time_ns()  # before the imports below, which belong to the start-up of a process

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, TextIO  # noqa: E402

import numpy as np  # noqa: E402

Arrays = dict[str, np.ndarray]
Call = Callable[[], Any]
ToArrays = Callable[[Any], Arrays]

PACKAGES = {"kopt": ("kopt", "jax", "jaxlib"), "onnxruntime": ("onnxruntime",), "openvino": ("openvino",)}


def bind_cores(threads: int) -> None:
    """Bind this process, and those it starts, to the first ``threads`` of the cores it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def installed(runtime: str) -> bool:
    """Whether the runtime's package is there."""
    try:
        metadata.version(PACKAGES[runtime][0])
    except metadata.PackageNotFoundError:
        return False
    return True


def versions(runtime: str) -> dict[str, str]:
    """Versions of the packages that make up a runtime."""
    return {name: metadata.version(name) for name in PACKAGES[runtime]}


def load_kopt(model: str, inputs: Arrays, threads: int, _precision: str) -> tuple[Call, ToArrays]:
    """An artifact made by ``kopt.compile``, which decided its precision; any tier but the native one would be an error here."""
    import kopt

    session = kopt.load(model, require="native", threads=threads)
    return lambda: session.run(inputs), lambda outputs: {name: np.asarray(array) for name, array in outputs.items()}


def load_onnxruntime(model: str, inputs: Arrays, threads: int, _precision: str) -> tuple[Call, ToArrays]:
    """ONNX Runtime's CPU provider with all its optimizations; its threads spin while a run is under way, as they do by default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(None, inputs), lambda outputs: dict(zip(names, outputs, strict=True))


def load_openvino(model: str, inputs: Arrays, threads: int, precision: str) -> tuple[Call, ToArrays]:
    """OpenVINO's CPU plugin, one stream, told not to lower the precision by itself, without copies of inputs and outputs."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def to_arrays(outputs: Any) -> Arrays:
        return {name: np.array(outputs[index]) for index, name in enumerate(names)}

    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True), to_arrays


LOADERS = {"kopt": load_kopt, "onnxruntime": load_onnxruntime, "openvino": load_openvino}


def timed_block(call: Call, seconds: float, num_calls: int, inner: int) -> list[int]:
    """Nanoseconds per call: two warm-up calls, then at least ``num_calls`` samples and ``seconds`` of them."""
    call()
    call()
    samples: list[int] = []
    stop = time.perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < num_calls or time.perf_counter_ns() < stop:
        start = time.perf_counter_ns()
        for _ in range(inner):
            call()
        samples.append((time.perf_counter_ns() - start) // inner)
    return samples


def serve(call: Call, to_arrays: ToArrays, answers: TextIO) -> None:
    """Answer requests until standard input closes."""
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "block":
            reply: Any = timed_block(call, request["seconds"], request["calls"], request["inner"])
        else:
            np.savez(request["path"], **to_arrays(call()))
            reply = request["path"]
        print(json.dumps(reply), file=answers, flush=True)


def main() -> None:
    """Load, answer once, report the times, serve."""
    runtime, model, inputs_path, threads, precision = sys.argv[1:]
    bind_cores(int(threads))
    # Whatever a library prints goes to standard error; the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with np.load(Path(inputs_path)) as arrays:
        inputs = {name: np.ascontiguousarray(arrays[name]) for name in arrays.files}
    ready_ns = time.time_ns()
    call, to_arrays = LOADERS[runtime](model, inputs, int(threads), precision)
    loaded_ns = time.time_ns()
    call()
    answered_ns = time.time_ns()
    report = {
        "started_ns": _STARTED_NS,
        "load_s": (loaded_ns - ready_ns) / 1e9,
        "first_call_s": (answered_ns - loaded_ns) / 1e9,
        "answered_ns": answered_ns,
        "versions": versions(runtime),
    }
    print(json.dumps(report), file=answers, flush=True)
    serve(call, to_arrays, answers)


if __name__ == "__main__":
    main()
