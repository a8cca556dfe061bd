"""The C source of a program: its steps as a table, and the functions that a loader calls."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from kopt.targets.tvm_plan import itemsize
from kopt.targets.tvm_translate import Program

MAX_ARGUMENTS = 12


def name_of(piece: Any) -> str:
    """The name of a piece's function: equal for equal code."""
    text = json.dumps([type(piece).__name__, asdict(piece)], sort_keys=True)
    return f"kopt_{type(piece).__name__.lower()}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def pieces_of(program: Program) -> dict[str, Any]:
    """Every distinct piece by name."""
    return {name_of(step.piece): step.piece for step in program.steps}


def source_of(program: Program) -> str:
    """The program in C, to be linked with its pieces."""
    parts = [files("kopt.targets").joinpath("tvm_run.c").read_text()]
    declared: set[str] = set()
    rows = []
    for step in program.steps:
        name, count = name_of(step.piece), len(step.arguments)
        if name not in declared:
            declared.add(name)
            given = ", ".join(f"a[{k}]" for k in range(count))
            parts.append(
                f"extern int {name}({', '.join(['void*'] * count)}, int);\n"
                f"static void {name}_task(void** a, int task) {{ {name}({given}, task); }}"
            )
        places = []
        for storage, offset in step.arguments:
            base, start = program.places[storage]
            places.append(f"{{{base}, {start + offset * itemsize(storage.dtype)}}}")
        rows.append(f"  {{{name}_task, {num_tasks(step.piece)}, {int(step.shared)}, {count}, {{{', '.join(places)}}}}},")
    table = "\n".join(rows) or "  {0}"
    parts.append(f"static const Step steps[] = {{\n{table}\n}};")
    parts.append(f"const int64_t kopt_arena_bytes = {program.arena_bytes};\nconst int64_t kopt_num_bases = {program.num_bases};")
    parts.append(f"const char kopt_nodes[] = {json.dumps(json.dumps([step.node for step in program.steps]))};")
    parameters = "char** bases, int threads, int64_t* passed"
    parts.append(f"void kopt_run({parameters}) {{ run_steps(steps, {len(program.steps)}, bases, threads, passed); }}\n")
    return "\n".join(parts)


def num_tasks(piece: Any) -> int:
    """Tasks of a loop or of a kernel."""
    return int(piece.tasks if hasattr(piece, "tasks") else piece.num_tasks)


def text_of(program: Program) -> str:
    """The steps for people."""
    lines = [f"arena: {program.arena_bytes} bytes, weights: {len(program.constants)}, steps: {len(program.steps)}"]
    for number, step in enumerate(program.steps):
        places = " ".join(f"{program.places[storage][0]}+{program.places[storage][1]}" for storage, _ in step.arguments)
        lines.append(f"{number:4} {'shared' if step.shared else 'alone '} x{num_tasks(step.piece):<4} {step.piece} {places}")
    return "\n".join(lines)
