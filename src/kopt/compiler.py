"""The one orchestrator: load, bind, transform, lower, compile, compare, write, measure, report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kopt import buckets as bucketing
from kopt import errors
from kopt.artifact import Artifact
from kopt.artifact.manifest import Requirements, Rows
from kopt.artifact.write import Contents, Program, rewrite, write
from kopt.autotune.budget import parse_duration
from kopt.buckets import Bucket
from kopt.calibration import Source
from kopt.candidates import TOLERANCES, kernels_available, kernels_multiply, narrow_recipe, recipe_of
from kopt.hardware import Target, available_cores
from kopt.ir.flops import graph_flops
from kopt.ir.graph import Graph
from kopt.ir.wrappers import on_host
from kopt.measure import Protocol
from kopt.passes.base import PassContext, PassRecord
from kopt.passes.pipeline import Pipeline, preset
from kopt.quantization import QUANTIZED, Options, is_quantized, quantize_graph
from kopt.references import Reference, compare, reference_outputs
from kopt.report import model as reports
from kopt.specialize import Recipe, specialize
from kopt.targets.base import Executable, backend
from kopt.tune import AUTO_BATCHES, Tuned, Tuning, tune_program

PRECISIONS = ("fp32", "bf16", "fp16", *QUANTIZED)
COMPILING = ("xla", "tvm")
"""Backends that a user may choose."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to compile and how; see ``compile``."""

    model: Any
    target: Target
    output: Path
    precision: str = "fp32"
    batches: tuple[int, ...] | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    measure: bool = True
    baseline: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    kernels: bool = True
    tuning: Tuning | None = None
    auto_batch: bool = False
    backend: str = "xla"
    calib: Source | None = None
    quantizing: Options | None = None


@dataclass(frozen=True)
class _Built:
    """One bucket, compiled."""

    bucket: Bucket
    program: Program
    facts: dict[str, Any]
    records: tuple[PassRecord, ...]
    feeds: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    host_nodes: tuple[str, ...] = ()


def compile(
    model: Any,
    *,
    target: str = "cpu",
    output: str | Path | None = None,
    precision: str | Options = "fp32",
    batch: int | Sequence[int] | str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    cpu_isa: str = "native",
    threads: int | None = None,
    measure: bool = True,
    baseline: bool = True,
    kernels: bool = True,
    budget: str | float | None = None,
    tuning: Tuning | None = None,
    options: Mapping[str, Any] | None = None,
    backend: str = "xla",
    calib: Source | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model into an artifact, check it against a reference, measure it, and report.

    Args:
        model: path of an .onnx file, its bytes, or an ``onnx.ModelProto``.
        target: "cpu", "cuda" or "cuda:sm_90". Without a GPU a CUDA artifact holds the portable tier only.
        output: the artifact's directory; by default the model's name with ".kopt".
        precision: "fp32", "bf16", "fp16"; one of ``kopt.quantize``, such as "int8", or its Options, to quantize first.
        batch: rows per call, one or several, or "auto". A model with a fixed batch is rebatched where that is proven safe.
        shapes: input name -> dimensions, for inputs with other unknown dimensions.
        cpu_isa: "native", "x86-64-v3" or "x86-64-v4": what the code may need.
        threads: to compile for and to measure with; by default all cores this process may use.
        measure: whether latency is measured (in child processes).
        baseline: whether ONNX Runtime is measured beside it, where it is installed.
        kernels: whether products and convolutions run as kopt's own kernels on a CPU; needs a C compiler.
        budget: seconds, or text such as "10m", to search for a faster program.
        tuning: the same with everything a search can be told.
        options: of the lowering, such as {"conv3x3": "winograd4"}.
        backend: whose programs: "xla", or "tvm" (CPU, fp32; models whose every operator it has a translation for).
        calib: inputs that "int8" and "auto" calibrate with; see ``kopt.calibration``.
        progress: called with what is being done.

    Raises:
        ModelError, UsageError, TargetError, AccuracyError, ToolchainError, FileError: see ``kopt.errors``.
    """
    name, quantizing = (precision.precision, precision) if isinstance(precision, Options) else (precision, None)
    hardware, tuning = Target.parse(target, isa=cpu_isa), tuning or _tuning(budget, name, kernels)
    auto, batches = _batches(batch, tuning)
    check_backend(backend, hardware, name, searched=tuning is not None)
    settings = (measure, baseline, dict(options or {}), threads, kernels, tuning, auto, backend, calib, quantizing)
    return run(Request(model, hardware, _output(model, output), name, batches, dict(shapes or {}), *settings), progress or _silent)


def _silent(_: str) -> None:
    """No progress."""


def check_precision(name: str, *, searched: bool = False) -> None:
    """Refuse precisions that do not exist, and for a search those that need inputs: it takes models that are quantized already.

    Raises:
        UsageError: unknown name.
    """
    known = [one for one in PRECISIONS if not searched or one not in QUANTIZED]
    if name not in known:
        raise errors.UsageError(f"unknown precision '{name}'", next_step=f"choose one of: {', '.join(known)}")


def check_backend(name: str, target: Target, precision: str, *, searched: bool) -> None:
    """Refuse backends that do not compile whole models, and what "tvm" does not do.

    Raises:
        UsageError: an unknown backend, or another target, precision or way than it has.
    """
    check_precision(precision)
    if name not in COMPILING:
        raise errors.UsageError(f"no models are compiled by backend '{name}'", next_step=f"choose one of: {', '.join(COMPILING)}")
    if name == "tvm" and (target.device != "cpu" or precision != "fp32" or searched):
        what = "a search chooses among XLA's programs" if searched else "it compiles for a CPU in fp32"
        raise errors.UsageError(f"backend 'tvm' cannot do that: {what}", next_step="leave out --backend")


def _tuning(budget: str | float | None, precision: str, kernels: bool) -> Tuning | None:
    searched = "fp32" if precision in QUANTIZED else precision  # of a quantized graph, what is not in 8 bits
    return None if budget is None else Tuning(parse_duration(budget), precisions=(searched,), kernels=kernels)


def _batches(batch: int | Sequence[int] | str | None, tuning: Tuning | None) -> tuple[bool, tuple[int, ...] | None]:
    """Whether the batch is to be chosen, and else which are wanted."""
    if isinstance(batch, str):
        if batch != "auto" or tuning is None:
            raise errors.UsageError(f"batch '{batch}' needs a search", next_step="give a number, or `auto` together with a budget")
        return True, None
    return False, None if batch is None else (batch,) if isinstance(batch, int) else tuple(batch)


def _output(model: Any, output: str | Path | None) -> Path:
    if output is not None:
        return Path(output)
    return Path(Path(model).stem + ".kopt") if isinstance(model, str | Path) else Path("model.kopt")


def run(request: Request, progress: Progress) -> Artifact:
    """Carry out a request; ``progress`` hears what is being done."""
    from kopt.artifact.staging import check_writable
    from kopt.frontend.load import load
    from kopt.targets.xla_threads import limit_threads

    check_writable(request.output)
    limit_threads(request.threads)
    progress("reading the model")
    original = load(request.model)
    graph, records = import_graph(original)
    quantization: Mapping[str, Any] | None = None
    if request.precision in QUANTIZED:
        done = quantize_graph(graph, request.calib, request.quantizing or Options(request.precision), progress)
        graph, quantization, records = done.graph, done.report, (*records, *done.records)
    graph, wanted = bucketing.plan(graph, AUTO_BATCHES if request.auto_batch else request.batches, request.shapes)
    recipe, found = recipe_for(request), None
    if request.tuning is not None:
        _check_tunable(request)
        request, recipe, wanted, found = _tuned(graph, wanted, request, request.tuning, progress)
    built = [_build(graph, recipe, request, bucket, progress) for bucket in wanted]
    report = reports.build(graph, request.target, request.precision, [*records, *built[0].records], [item.facts for item in built])
    report["model"] |= reports.digests(original)
    report["host_nodes"] = list(dict.fromkeys(name for item in built for name in item.host_nodes))
    if found is not None:
        report["search"] = found.report
    if quantization is not None:
        report["quantization"] = quantization
    progress("writing the artifact")
    artifact = write(_contents(graph, recipe, request, built, report), request.output)
    numbers = all(_is_numbers(array) for item in built for array in (*item.feeds.values(), *item.outputs))
    if not request.measure or request.target.device != "cpu" or not numbers:  # what measures takes numbers only
        return artifact
    runs = [(item.bucket, item.feeds) for item in built]
    del built  # its weights are not needed while measuring
    _measure(request, graph, runs, report, progress)  # interrupted, the artifact keeps its report without latencies
    return rewrite(artifact, request.output, report=report)


def _tuned(
    graph: Graph, wanted: Sequence[Bucket], request: Request, tuning: Tuning, progress: Progress
) -> tuple[Request, Recipe, tuple[Bucket, ...], Tuned]:
    """The request with what a search found: precision, threads, batches, and the recipe of the fastest program."""
    from kopt.targets.xla_threads import limit_threads

    base, curve = (wanted[:1], wanted) if request.auto_batch else (wanted, ())
    found = tune_program(graph, base, request.target, tuning, threads=request.threads, curve=curve, progress=progress)
    threads = int(found.config["threads"])
    recipe = recipe_of(found.config, request.target, found.schedules)
    if request.threads is None and threads != available_cores():
        recipe = replace(recipe, options={**recipe.options, "threads": threads})
    with suppress(errors.UsageError):  # JAX already runs here with another number; the artifact is measured in processes of its own
        limit_threads(threads)
    chosen = tuple(bucket for bucket in wanted if bucket.batch in found.batches) if request.auto_batch else tuple(wanted)
    precision = request.precision if request.precision in QUANTIZED else str(found.config["precision"])
    return replace(request, precision=precision, threads=threads), recipe, chosen, found


def _check_tunable(request: Request) -> None:
    if request.options or not request.target.present or request.target.device != "cpu":
        what = "options of the lowering are what a search chooses" if request.options else "a search needs the device at hand, a CPU"
        raise errors.UsageError(what, next_step="leave out the budget, or the options" if request.options else "leave out the budget")


def import_graph(graph: Graph) -> tuple[Graph, tuple[PassRecord, ...]]:
    """The graph after folding and clean-up."""
    from kopt.targets.reference import evaluate_node

    return Pipeline(preset("import")).run(graph, PassContext(evaluate_node=evaluate_node))


def recipe_for(request: Request) -> Recipe:
    """Passes and options for the wanted precision."""
    precision = "fp32" if request.precision in QUANTIZED else request.precision  # the quantized graph itself says what is narrow
    if request.backend == "tvm":
        return Recipe.of_preset("xla-kernels", backend="tvm", options=request.options)
    kernels = request.kernels and kernels_multiply(precision, request.target)
    if precision == "fp32":
        options = {"kernels": True, **request.options} if kernels else request.options
        return Recipe.of_preset("xla-kernels" if kernels else "xla", options=options)
    if kernels and kernels_available():
        return narrow_recipe("xla-kernels", precision, request.target, {"kernels": True, **request.options})
    return narrow_recipe("xla", precision, request.target, request.options)


def _build(graph: Graph, recipe: Recipe, request: Request, bucket: Bucket, progress: Progress) -> _Built:
    title = f"batch {bucket.batch}" if bucket.batch else "the model"
    progress(f"transforming and lowering {title}")
    start = time.perf_counter()
    done = specialize(graph, recipe, request.target, shapes=bucket.shapes)
    lowered_s = time.perf_counter() - start
    chosen = backend(done.backend)
    facts: dict[str, Any] = {
        "batch": bucket.batch,
        "shapes": {name: list(shape) for name, shape in bucket.shapes.items()},
        "flops": graph_flops(done.lowered.graph),
        "num_nodes": len(done.lowered.graph.nodes),
        "lower_s": round(lowered_s, 4),
        "kernels": dict(done.lowered.kernels),
        "weights_bytes": sum(array.nbytes for array in done.lowered.weights.values()),
    }
    portable = chosen.portable(done.lowered) if hasattr(chosen, "portable") else b""
    feeds = bucketing.random_inputs(graph, bucket.shapes)
    if not request.target.present:
        program = Program(done.backend, _signature(done.lowered.graph), portable=portable, weights=done.lowered.weights)
        return _Built(bucket, program, facts, done.records, feeds, [], tuple(map(str, done.host_nodes)))
    progress(f"compiling {title}")
    start = time.perf_counter()
    executable = done.compile()
    facts["compile_s"] = round(time.perf_counter() - start, 4)
    try:
        native, weights = executable.save()
    except errors.MissingDependencyError as error:
        facts["native_tier"] = error.what
        native, weights = b"", done.lowered.weights
    outputs = _outputs(executable, feeds)
    if outputs:
        progress(f"comparing {title} with a reference")
        facts["accuracy"] = _check(graph, bucket, feeds, outputs, request)
    program = Program(done.backend, executable.signature, native=native, portable=portable, weights=weights)
    return _Built(bucket, program, facts, done.records, feeds, outputs, tuple(map(str, done.host_nodes)))


def _outputs(executable: Executable, feeds: Mapping[str, Any]) -> list[Any]:
    """What the program makes of ``feeds``; nothing where it refuses sequences or maps that were made up for it."""
    try:
        return [on_host(item) for item in executable([feeds[name] for name, _ in executable.signature.inputs])]
    except errors.InputError:
        if any(name in executable.signature.around for name, _ in executable.signature.inputs):
            return []
        raise


def _signature(graph: Graph) -> Any:
    from kopt.targets.base import Signature

    return Signature.of(graph)


def _check(
    graph: Graph, bucket: Bucket, feeds: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray], request: Request
) -> dict[str, Any]:
    """Errors against the reference.

    Raises:
        AccuracyError: beyond the precision's tolerance.
    """
    reference: Reference = reference_outputs(graph, bucket.shapes, feeds)
    tolerance = max(TOLERANCES.get(request.precision, 0.0), TOLERANCES["int8"] if is_quantized(graph) else 0.0)
    found = compare([value.name for value in graph.outputs], outputs, reference.outputs)
    facts = {"reference": reference.name, "tolerance": tolerance, **found}
    if not found["relative"] <= tolerance:
        raise errors.AccuracyError(
            f"'{found['worst']}' differs from {reference.name} by {found['relative']:.2g} of its largest value, not {tolerance:.2g}",
            where=f"{graph.name}, batch {bucket.batch}, {request.precision}",
            next_step="compile with --precision fp32"
            if request.precision != "fp32"
            else "this is a defect of kopt; please report the model",
        )
    return facts


def _contents(graph: Graph, recipe: Recipe, request: Request, built: Sequence[_Built], report: Mapping[str, Any]) -> Contents:
    target = request.target
    compilers = {name: backend(name).version() for name in {recipe.backend, *(item.program.backend for item in built)}}
    requirements = Requirements(target.device, target.arch, target.isa, tuple(sorted(target.required_features)), compilers)
    self_test = {}
    for index, item in enumerate(built):
        if item.outputs:
            self_test.update({f"{index}/input/{name}": array for name, array in item.feeds.items()})
            names = [name for name, _ in item.program.signature.outputs]
            self_test.update({f"{index}/output/{name}": array for name, array in zip(names, item.outputs, strict=True)})
    largest = max(built, key=lambda item: item.bucket.batch)
    rows = _rows(graph, largest.bucket) if largest.bucket.batch > 1 and not largest.program.signature.around else None
    provenance = {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "model": graph.name, "precision": request.precision}
    return Contents(
        graph,
        [item.program for item in built],
        requirements,
        rows,
        recipe.to_json(),
        {} if _unfit(self_test) else self_test,
        report,
        provenance,
    )


def _unfit(self_test: Mapping[str, Any]) -> bool:
    """Whether a self-test is too large to be stored, or holds strings or sequences, which the file format has no place for."""
    return not all(map(_is_numbers, self_test.values())) or sum(array.nbytes for array in self_test.values()) > 64 * 2**20


def _is_numbers(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype != object


def _rows(graph: Graph, bucket: Bucket) -> Rows | None:
    from kopt.passes.bind_shapes import BindShapes
    from kopt.targets.reference import evaluate_node

    bound = BindShapes(shapes=dict(bucket.shapes)).run(graph, PassContext(evaluate_node=evaluate_node))
    proven = bucketing.rows_of(bound)
    return None if proven is None else Rows(*proven)


def _measure(
    request: Request, graph: Graph, runs: Sequence[tuple[Bucket, Mapping[str, np.ndarray]]], report: dict[str, Any], progress: Progress
) -> None:
    """Fill the report's latency fields from runs in child processes."""
    from kopt.latency import measure_bucket, measured_peaks

    threads = request.threads or available_cores()
    report["machine"]["threads"] = threads
    progress("measuring this machine's peaks")
    report["machine"] |= measured_peaks(threads)
    with tempfile.TemporaryDirectory(prefix="kopt-") as folder:
        for (bucket, feeds), facts in zip(runs, report["buckets"], strict=True):
            title = f"batch {bucket.batch}" if bucket.batch else "the model"
            progress(f"measuring {title}" + (" beside ONNX Runtime" if request.baseline else ""))
            facts.update(
                measure_bucket(
                    request.output,
                    graph,
                    bucket.shapes,
                    feeds,
                    Path(folder),
                    threads=threads,
                    baseline=request.baseline,
                    protocol=Protocol(),
                )
            )
            reports.add_rates(facts, report["machine"]["peak_gflops"])
