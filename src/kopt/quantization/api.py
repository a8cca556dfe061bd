"""``kopt.quantize``: a model and inputs in, a smaller model and what it cost in accuracy out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kopt.calibration import Calibration, Source, calibration
from kopt.errors import UsageError
from kopt.ir.graph import Graph
from kopt.passes.base import Pass, PassContext, PassRecord
from kopt.passes.pipeline import Pipeline, preset
from kopt.passes.quantize.dynamic import QuantizeDynamic
from kopt.passes.quantize.half import NarrowWeights
from kopt.passes.quantize.masks import ClampMasks
from kopt.passes.quantize.plan import plan
from kopt.passes.quantize.smooth import SmoothFeatures
from kopt.passes.quantize.weights import QuantizeWeights
from kopt.quantization.calibrated import static
from kopt.quantization.compared import compared
from kopt.quantization.observe import feature_peaks, forget, layer_ranges, moments
from kopt.quantization.options import LEAST_SAMPLES, NEEDS_INPUTS, Options, Progress
from kopt.quantization.relevance import relevance


@dataclass(frozen=True)
class Quantized:
    """A quantized graph and what is known of it.

    Attributes:
        graph: standard ONNX.
        report: precision, layers, sizes, and how the outputs differ from the original's; in JSON types.
        records: what each pass did.
    """

    graph: Graph
    report: Mapping[str, Any]
    records: tuple[PassRecord, ...] = field(default=())

    def save(self, path: str | Path) -> None:
        """Write the graph as an .onnx file, whole or not at all.

        Raises:
            FileError: the folder cannot be written.
        """
        from kopt.frontend.export import save

        save(self.graph, path)


def quantize(
    model: Any,
    calib: Source | None = None,
    *,
    precision: str = "int8",
    output: str | Path | None = None,
    keep: Sequence[str] = (),
    max_drop: float = 0.01,
    metric: str | Callable[..., Any] | None = None,
    timed: bool = True,
    progress: Progress | None = None,
) -> Quantized:
    """Quantize a model for any runtime of ONNX.

    Args:
        model: path of an .onnx file, its bytes, or an ``onnx.ModelProto``.
        calib: inputs: an .npz, a folder, FILE.py:FUNCTION, arrays by input name, or feeds; see ``kopt.calibration``.
        precision: "int8" (static), "auto" (static, of the layers that a budget allows), "int8-dynamic", "int8-weights",
            "int4-weights", "bf16" or "fp16".
        output: where to write the result; by default nowhere.
        keep: names of nodes, or of operators, that stay as they are.
        max_drop: with "auto", how much the metric may lose.
        metric: with "auto", FILE.py:FUNCTION or a function of outputs (and labels, where there are any) to a number, larger is
            better; by default accuracy with labels, else flipped classes or the distance of cosine from 1.
        timed: with "auto", whether this machine's times count; without, the budget alone decides what is narrow.
        progress: called with what is being done.

    Raises:
        UsageError: an unknown precision, or inputs that are missing or do not fit the model.
        ModelError, FileError: see ``kopt.errors``.
    """
    from kopt.frontend.load import load

    options, say = Options(precision, tuple(keep), max_drop=max_drop, metric=metric, timed=timed), progress or (lambda _: None)
    say("reading the model")
    result = quantize_graph(load(model), calib, options, say)
    if output is not None:
        say(f"writing {output}")
        result.save(output)
    return result


def quantize_graph(graph: Graph, calib: Source | None, options: Options, progress: Progress) -> Quantized:
    """Quantize a graph as loaded; see ``quantize``."""
    try:
        return _quantized(graph, calib, options, progress)
    finally:
        forget()


def _quantized(graph: Graph, calib: Source | None, options: Options, progress: Progress) -> Quantized:
    from kopt.targets.reference import evaluate_node

    if calib is None and options.precision in NEEDS_INPUTS:
        raise UsageError(
            f"precision '{options.precision}' needs inputs to calibrate with", next_step="give --calib with 100 to 500 typical samples"
        )
    context = PassContext(evaluate_node=evaluate_node)
    prepared, records = Pipeline(preset("onnx")).run(graph, context)
    feeds = None if calib is None else calibration(calib, prepared, least=LEAST_SAMPLES)
    notes: dict[str, Any] = {}
    if options.precision in ("int8", "auto") and feeds is not None:
        result, more = static(prepared, feeds, options, progress, context, notes)
    else:
        result, more = Pipeline(_passes(prepared, feeds, options)).run(prepared, context)
    report: dict[str, Any] = {"precision": options.precision, "model": graph.name, "bytes": [_bytes(graph), _bytes(result)], **notes}
    if feeds is not None:
        progress("comparing outputs")
        report["num_samples"] = feeds.num_rows
        report["outputs"] = compared(prepared, result, feeds)
    return Quantized(result, report, (*records, *more))


def _passes(graph: Graph, feeds: Calibration | None, options: Options) -> tuple[Pass, ...]:
    """The passes of a precision other than static int8, with the numbers that calibration finds."""
    smooth = SmoothFeatures({} if feeds is None else feature_peaks(graph, feeds, options.keep), keep=options.keep)
    if options.precision == "int8-dynamic":
        return (ClampMasks(), smooth, QuantizeDynamic(options.keep))
    if options.precision in ("bf16", "fp16"):
        ranges = {} if feeds is None else layer_ranges(graph, feeds, options.keep)
        return (ClampMasks(), NarrowWeights("f16" if options.precision == "fp16" else "bf16", options.keep, ranges))
    bits = 4 if options.precision == "int4-weights" else 8
    if feeds is not None:  # columns of raw units differ in the weights as well
        graph = smooth.run(graph, PassContext())
    found = {} if feeds is None else moments(graph, feeds, options.keep, relevance(graph, plan(graph, options.keep), feeds))
    return (smooth, QuantizeWeights(bits, options.group, options.keep, moments=found))


def is_quantized(graph: Graph) -> bool:
    """Whether anything in a graph is rounded to 8 bits while it runs."""
    ops = {node.op for _, node in graph.walk()}
    return not ops.isdisjoint({"QuantizeLinear", "DynamicQuantizeLinear"}) or any(op.startswith("QLinear") for op in ops)


def _bytes(graph: Graph) -> int:
    return sum(constant.type.size * constant.type.dtype.num_bits // 8 for constant in graph.constants.values())
