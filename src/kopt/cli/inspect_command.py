"""`kopt inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from kopt.cli.common import one_batch, parse_shapes, print_json, stdout
from kopt.errors import UsageError

if TYPE_CHECKING:
    from kopt.ir.graph import Graph


def run(
    model: Path = typer.Argument(..., help="An .onnx file or an artifact."),
    stage: str | None = typer.Option(None, help="Print the graph or the lowered program: graph, lowered."),
    batch: str | None = typer.Option(None, help="Rows per call, for the lowered program."),
    shape: list[str] | None = typer.Option(None, help="Dimensions of an input, such as image:1x3x224x224; may be repeated."),
    json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Operators, opset, dimensions, operation counts, and what each backend can compile."""
    held = model.is_dir()  # a directory can only be an artifact; opening it says what it lacks
    if held and stage is None:
        _show_artifact(model, json)
        return
    from kopt.artifact import Artifact
    from kopt.frontend.load import load

    graph = load(str(Artifact.open(model).model_path if held else model))
    if stage is not None:
        _show_stage(graph, stage, one_batch(batch), parse_shapes(shape))
        return
    facts = describe(graph)
    if json:
        print_json(facts)
        return
    _show(facts)


def describe(graph: Graph) -> dict[str, Any]:
    """What `kopt inspect` says of a model, in JSON types."""
    from kopt.hardware import Target
    from kopt.targets.base import backend
    from kopt.targets.partition import host_nodes

    flops, counted_at = _flops(graph)
    on_host = host_nodes(graph)
    support = {}
    for name in ("xla", "reference"):
        found = backend("segments" if name == "xla" and on_host else name).supports(graph, Target.parse("cpu"))
        support[name] = [{"op": op, "node": str(where), "reason": reason} for op, where, reason in found.unsupported]
    return {
        "name": graph.name,
        "opset": graph.metadata.get("onnx.opset", ""),
        "inputs": {value.name: str(value.type) for value in graph.inputs},
        "outputs": {value.name: str(value.type) for value in graph.outputs},
        "num_nodes": len(graph.nodes),
        "operators": dict(Counter(node.qualified_op for _, node in graph.walk()).most_common()),
        "num_parameters": sum(constant.type.size for constant in graph.constants.values()),
        "weights_bytes": sum(constant.nbytes for constant in graph.constants.values()),
        "flops": flops,
        "flops_shapes": counted_at,
        "unsupported": support,
        "host_nodes": [{"op": one.op, "node": str(node.loc), "reason": one.reason} for node, one in on_host.items()],
    }


def _flops(graph: Graph) -> tuple[int, dict[str, list[int]]]:
    """Operations of one run, and the input shapes they are counted at: a symbolic batch counts as 1; none where others are open."""
    from kopt import buckets
    from kopt.errors import KoptError
    from kopt.ir.flops import graph_flops
    from kopt.references import bound_graph

    try:
        _, wanted = buckets.plan(graph, None, {})
        return graph_flops(bound_graph(graph, wanted[0].shapes)), {name: list(shape) for name, shape in wanted[0].shapes.items()}
    except KoptError:  # what cannot be bound can still be described
        return graph_flops(graph), {}


def _show(facts: Mapping[str, Any]) -> None:
    from kopt.report.text import size

    console = stdout()
    console.print(f"{facts['name']}: opset {facts['opset']}, {facts['num_nodes']} nodes", highlight=False)
    console.print(f"{facts['num_parameters'] / 1e6:.3g} M parameters, weights {size(facts['weights_bytes'])}", highlight=False)
    at = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in facts["flops_shapes"].items())
    console.print(f"{facts['flops'] / 1e9:.3g} GFLOP " + (f"at {at}" if at else "where shapes are known"), highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for kind in ("inputs", "outputs"):
        for name, type_ in facts[kind].items():
            table.add_row(kind[:-1], Text(name), Text(type_))
    console.print(table)
    console.print("operators: " + ", ".join(f"{op} {count}" for op, count in facts["operators"].items()), highlight=False)
    for entry in facts["host_nodes"]:
        console.print(f"on the host: {entry['op']} at {entry['node']}: {entry['reason']}", highlight=False, markup=False)
    for name, nodes in facts["unsupported"].items():
        console.print(f"{name}: " + ("compiles every node" if not nodes else f"{len(nodes)} nodes cannot be compiled"), highlight=False)
        for entry in nodes:
            console.print(f"  {entry['op']} at {entry['node']}: {entry['reason']}", highlight=False, markup=False)


def _show_stage(graph: Graph, stage: str, batches: tuple[int, ...] | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if stage == "graph":
        from kopt.ir.text import graph_text

        typer.echo(graph_text(graph))
        return
    if stage != "lowered":
        raise UsageError(f"unknown stage '{stage}'", next_step="choose one of: graph, lowered")
    from kopt import buckets
    from kopt.compiler import import_graph
    from kopt.hardware import Target
    from kopt.specialize import Recipe, specialize

    graph, _ = import_graph(graph)
    graph, wanted = buckets.plan(graph, batches, shapes)
    done = specialize(graph, Recipe.of_preset("xla"), Target.parse("cpu"), shapes=wanted[0].shapes)
    typer.echo(done.lowered.text)


def _show_artifact(path: Path, json: bool) -> None:
    from kopt.artifact import Artifact

    artifact = Artifact.open(path)
    if json:
        print_json(artifact.report)
        return
    from kopt.report.text import show

    console = stdout()
    console.print(f"program {artifact.manifest.program}", highlight=False)
    if artifact.report:
        show(artifact.report, console)
