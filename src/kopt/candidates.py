"""Candidates of whole programs: which there are for a model, and how a child process builds and runs one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from kopt.buckets import Bucket, random_inputs
from kopt.hardware import Target
from kopt.ir.graph import Graph
from kopt.passes.narrow_results import NarrowResults
from kopt.passes.pipeline import preset
from kopt.passes.precision import Precision
from kopt.passes.spec import format_passes
from kopt.space import Config, Constraint, Knob, SearchSpace
from kopt.specialize import Recipe, specialize
from kopt.trial import Candidate

PROGRAMS = ("xla-kernels", "tvm", "xla-inverted", "tvm-inverted", "xla", "xla-attention", "onnx")
"""Presets that are candidates, the usual choice first; "onnx" keeps the model's own layout. The backend "tvm" has those in TVM_PRESETS."""

TVM_PRESETS = {"tvm": "xla-kernels", "tvm-inverted": "xla-inverted"}
"""Passes of the programs that the backend "tvm" compiles."""

WITH_KERNELS = ("xla-kernels", "tvm", "xla-inverted", "tvm-inverted")
"""Programs that call kopt's kernels; all but the first in f32 only."""

TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2, "int8": 5e-2}
"""Largest error allowed, relative to the largest output: rounding of the precision, over the depth of usual networks."""

XLA_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "program-order": {"xla_cpu_enable_concurrency_optimized_scheduler": False},
    "vectors-256": {"xla_cpu_prefer_vector_width": 256},
    "vectors-512": {"xla_cpu_prefer_vector_width": 512},
    "no-fusion-emitters": {"xla_cpu_use_fusion_emitters": False},
}
"""Options of one compilation; all keep the numbers within rounding."""

CONVOLUTIONS = ("auto", "winograd2", "winograd4", "direct", "im2col")
"""Forms of 3x3 convolutions with stride 1."""


def program_space(
    graph: Graph,
    target: Target,
    *,
    precisions: Sequence[str],
    threads: Sequence[int],
    kernels: bool = True,
    schedules: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """The programs worth trying for a graph; its default is what is compiled without a search.

    Args:
        graph: as imported.
        target: what for.
        precisions: allowed ones, the preferred first.
        threads: allowed counts, the preferred first.
        kernels: whether kopt's own kernels may be used.
        schedules: of kernels, as a search found them; programs with and without them are candidates.
    """
    programs = _programs(graph, target, precisions, kernels)
    knobs = [Knob("program", tuple(programs)), Knob("precision", tuple(precisions)), Knob("threads", tuple(threads))]
    if target.device == "cpu":
        knobs.append(Knob("xla", tuple(XLA_OPTIONS)))
        if any(_is_plain_three_by_three(graph, node) for node in graph.nodes):
            knobs.append(Knob("conv3x3", CONVOLUTIONS))
    if schedules and "xla-kernels" in programs:
        knobs.append(Knob("schedules", ("default", schedules_name(schedules))))
    names = {knob.name for knob in knobs}
    return SearchSpace(tuple(knobs), tuple(one for one in _limits(target) if names.issuperset(one.knobs)))


def _programs(graph: Graph, target: Target, precisions: Sequence[str], kernels: bool) -> list[str]:
    """The programs that differ for this graph."""
    ops = {node.op for _, node in graph.walk()}
    usable = kernels and target.device == "cpu" and kernels_available()
    wanted: dict[str, Callable[[], bool]] = {
        "xla-kernels": lambda: usable,
        "tvm": lambda: usable and "fp32" in precisions and _has_translations(graph),
        "xla-inverted": lambda: usable and "fp32" in precisions and _has_depthwise(graph),
        "tvm-inverted": lambda: wanted["tvm"]() and _has_depthwise(graph),
        "xla": lambda: True,
        "xla-attention": lambda: "Softmax" in ops,
        "onnx": lambda: any(op.startswith("Conv") for op in ops),
    }
    return [name for name in PROGRAMS if wanted[name]()]


def _limits(target: Target) -> tuple[Constraint, ...]:
    """Choices that mean nothing, or nothing new, beside others."""
    return (
        Constraint(
            ("program", "schedules"), lambda program, chosen: program in WITH_KERNELS or chosen == "default", "schedules are of kernels"
        ),
        Constraint(
            ("program", "precision"),
            lambda program, precision: program not in WITH_KERNELS[1:] or precision == "fp32",
            "it computes in f32",
        ),
        Constraint(("program", "xla"), lambda program, chosen: program not in TVM_PRESETS or chosen == "default", "options are XLA's"),
        Constraint(
            ("program", "precision"),
            lambda program, precision: program != "xla-kernels" or kernels_multiply(str(precision), target),
            "kernels have no instruction for this precision",
        ),
        Constraint(
            ("program", "conv3x3"), lambda program, form: program not in WITH_KERNELS or form == "auto", "kernels have forms of their own"
        ),
    )


def schedules_name(schedules: Mapping[str, Any]) -> str:
    """A short name for what a search of kernels found: equal for equal schedules."""
    return f"found-{hashlib.sha256(json.dumps(dict(schedules), sort_keys=True).encode()).hexdigest()[:12]}"


def kernels_available() -> bool:
    """Whether kernels can be compiled here."""
    from kopt.targets.kernels.library import obstacle

    return obstacle() is None


def _has_translations(graph: Graph) -> bool:
    """Whether the backend "tvm" knows every operator; what it does not do at some types or sizes fails in its trial."""
    from kopt.targets.tvm_translate import has_translations

    return has_translations(graph)


def _has_depthwise(graph: Graph) -> bool:
    """Whether a convolution has a filter of its own for every channel, as the middle layer of an inverted residual block."""
    return any(node.op == "Conv" and node.attrs.get("group", 1) != 1 for node in graph.nodes)


def _is_plain_three_by_three(graph: Graph, node: Any) -> bool:
    if node.op != "Conv" or len(node.inputs) < 2 or node.inputs[1] not in graph.constants:
        return False
    steps = (*(node.attrs.get("strides") or ()), *(node.attrs.get("dilations") or ()))
    plain = node.attrs.get("group", 1) == 1 and all(step == 1 for step in steps)
    return plain and tuple(node.inputs[1].tensor.shape or ())[2:] == (3, 3)


def recipe_of(config: Config, target: Target, schedules: Mapping[str, Any] | None = None) -> Recipe:
    """How a config's program is made; its thread count is for the process that runs it.

    Args:
        config: a point of ``program_space``.
        target: what for.
        schedules: what the knob "schedules" stands for.
    """
    precision = str(config.get("precision", "fp32"))
    name = str(config.get("program", "xla"))
    options: dict[str, Any] = {}
    if config.get("xla", "default") != "default":
        options["compiler_options"] = XLA_OPTIONS[str(config["xla"])]
    if config.get("conv3x3", "auto") != "auto":
        options["conv3x3"] = str(config["conv3x3"])
    found = {"schedules": dict(schedules or {})} if config.get("schedules", "default") != "default" else {}
    if name in TVM_PRESETS:
        return Recipe.of_preset(TVM_PRESETS[name], backend="tvm", options=found)
    kernels = name == "xla-inverted" or (name == "xla-kernels" and kernels_multiply(precision, target))
    if kernels:
        options |= {"kernels": True, **found}
    if precision == "fp32":
        return Recipe.of_preset(name, options=options)
    return narrow_recipe("xla" if name == "xla-kernels" and not kernels else name, precision, target, options)


def kernels_multiply(precision: str, target: Target) -> bool:
    """Whether kopt's kernels multiply in this precision on the target."""
    from kopt.targets.kernels.narrow import has_instruction

    return target.device == "cpu" and (precision == "fp32" or (precision == "bf16" and has_instruction("bf16", target)))


def narrow_recipe(name: str, precision: str, target: Target, options: Mapping[str, Any]) -> Recipe:
    """The passes of a preset, with products in 16 bits behind them; with kernels, results are in 16 bits where only those are read."""
    *passes, last = preset(name)
    results = [NarrowResults()] if name == "xla-kernels" else []
    return Recipe("xla", format_passes([*passes, narrow(precision, target), *results, last]), dict(options))


def narrow(precision: str, target: Target) -> Precision:
    """bf16 on a CPU is taken where it is faster; otherwise 16 bits are wanted for every weight that can be halved."""
    if precision == "bf16" and target.device == "cpu":
        return Precision("bf16")
    return Precision({"bf16": "bf16", "fp16": "f16"}[precision], min_rows=0)


def payload(
    model: str, config: Config, target: Target, buckets: Sequence[Bucket], schedules: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``build`` takes: the graph's file, the recipe, and the shapes of every batch."""
    shapes = [{name: list(shape) for name, shape in bucket.shapes.items()} for bucket in buckets]
    return {
        "model": model,
        "recipe": recipe_of(config, target, schedules).to_json(),
        "shapes": shapes,
        "target": str(target),
        "isa": target.isa,
    }


def build(payload: Mapping[str, Any]) -> Candidate:
    """A trial's entry: compile the program of every shape; one call runs each of them once.

    The last one built is kept, so that a child can be asked to time its program again.
    """
    return _build(json.dumps(payload, sort_keys=True))


@lru_cache(maxsize=1)
def _build(text: str) -> Candidate:
    from kopt.frontend.load import load

    content = json.loads(text)
    graph = load(content["model"])
    recipe, target = Recipe.from_json(content["recipe"]), Target.parse(content["target"], isa=content["isa"])
    begun = time.perf_counter()
    calls = []
    for dims in content["shapes"]:
        shapes = {name: tuple(shape) for name, shape in dims.items()}
        executable = specialize(graph, recipe, target, shapes=shapes).compile()
        feeds = random_inputs(graph, shapes)
        inputs = [feeds[name] for name, _ in executable.signature.inputs]
        place = getattr(executable, "place", None)
        calls.append((executable, [place(array) for array in inputs] if place is not None else inputs))
    facts = {"compile_s": round(time.perf_counter() - begun, 3)}

    def call() -> None:
        for executable, inputs in calls:
            executable(inputs)

    def outputs() -> list[np.ndarray]:
        return [comparable(np.asarray(array)) for executable, inputs in calls for array in executable(inputs)]

    return Candidate(call, outputs, facts)


def comparable(array: np.ndarray) -> np.ndarray:
    """An array in a type that files hold: 16-bit floats that numpy lacks become float32."""
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)


def thread_choices(cores: int) -> tuple[int, ...]:
    """Thread counts worth trying: all cores, and halves of that."""
    found = [cores]
    while found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return tuple(found)
