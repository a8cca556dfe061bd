"""``kopt.recover``: a compressed model is trained back from the one it was made from, without labels."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kopt.calibration import Source, calibration
from kopt.errors import UnsupportedModelError, UsageError
from kopt.ir.constant import Constant
from kopt.ir.fingerprint import fingerprint
from kopt.ir.graph import Graph
from kopt.recovery.descend import MAX_STEPS, RATE, Descent, descend
from kopt.recovery.match import compared_outputs, features
from kopt.recovery.objective import objective
from kopt.recovery.observe import bound, prepared
from kopt.recovery.samples import Samples, samples
from kopt.recovery.straight import straightened
from kopt.recovery.weights import trained, written_back

LEAST_SAMPLES = 16
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recovered:
    """A student after recovery.

    Attributes:
        graph: the student with other weights.
        report: held-out errors before and after, steps and seconds; in JSON types.
    """

    graph: Graph
    report: Mapping[str, Any] = field(repr=False)


def recover(
    student: Any,
    teacher: Any,
    calib: Source,
    output: str | Path | None = None,
    *,
    budget_s: float = 180.0,
    freeze_masks: bool = True,
    max_steps: int = MAX_STEPS,
    rate: float = RATE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recovered:
    """Train the weights of a compressed model until it answers like the original; scales of quantizers and shapes stay.

    Args:
        student: a model that was pruned or quantized: a path, bytes, an ``onnx.ModelProto`` or a graph.
        teacher: the original.
        calib: inputs without labels, 100 or more real ones: anything ``kopt.calibration`` reads.
        output: an .onnx file to write. Progress is kept beside it, and a call with the same models goes on from there.
        budget_s: seconds at most, beyond reading and writing.
        freeze_masks: whether zeros of weights stay zeros.
        max_steps: steps at most.
        rate: largest step of a weight as a share of its tensor's root mean square.
        seed: of every random choice.
        progress: is told what happens.

    Raises:
        UsageError: models that do not belong together, or too few inputs.
        UnsupportedModelError: operators that have no gradient here.
        KoptError: whatever is wrong with the models or the inputs.
    """
    from kopt.frontend.export import save
    from kopt.frontend.load import load

    say, begun = progress or (lambda _: None), time.monotonic()
    if budget_s <= 0 or max_steps < 1:
        raise UsageError(f"a budget of {budget_s:g} s and {max_steps} steps recovers nothing", next_step="give more, such as --budget 3m")
    original, master = (prepared(model if isinstance(model, Graph) else load(model)) for model in (student, teacher))
    feeds = samples(calibration(calib, original, least=LEAST_SAMPLES), original, seed)
    path = Path(f"{output}.recovery.safetensors") if output is not None else None
    key = _key(original, master, feeds, freeze_masks, seed)
    settings = Descent(budget_s, max_steps, rate, seed, path, key)
    with jax.enable_x64(True):
        result = _recover(original, master, feeds, settings, freeze_masks, say, begun)
    if output is not None:
        save(result.graph, output)
    if path is not None:
        path.unlink(missing_ok=True)
    return result


def _recover(
    original: Graph, master: Graph, feeds: Samples, settings: Descent, freeze_masks: bool, say: Progress, begun: float
) -> Recovered:
    student, teacher = bound(original, feeds.example), bound(master, feeds.example)
    outputs = compared_outputs(student, teacher)
    student, stored = straightened(student)
    held = trained(student, original, teacher, stored, freeze_masks=freeze_masks)
    if not held.values:
        raise UsageError("the model has no weights to train", where=original.name, next_step="recover a model of products or convolutions")
    pairs = features(student, teacher, original)
    say(f"{len(held.values)} tensors, {len(pairs)} inner values compared, {len(feeds.trained)} samples and {len(feeds.held_out)} held out")
    losses = objective(student, teacher, held, pairs, outputs, stacked=feeds.stacked)
    try:
        state = descend(losses, held.start, feeds, settings, say, begun)
    except NotImplementedError as error:
        raise UnsupportedModelError([(original.name, original.nodes[0].loc)], backend="gradients", reasons=[str(error)]) from None
    best = {name: np.asarray(array) for name, array in state.best.items()}
    arrays = written_back(original, held, best)
    constants = {**original.constants, **{value: Constant.of(array) for value, array in arrays.items()}}
    report = {
        "error_before": state.start_error,
        "error_after": state.best_error,
        "steps": state.step,
        "best_step": state.best_step,
        "seconds": round(time.monotonic() - begun, 1),
        "tensors": len(held.values),
        "masks": len(held.masks),
        "stored": len(held.stored),
        "features": len(pairs),
        "samples": [len(feeds.trained), len(feeds.held_out)],
    }
    return Recovered(original.replace(constants=constants), report)


def _key(student: Graph, teacher: Graph, feeds: Samples, freeze_masks: bool, seed: int) -> str:
    """What a checkpoint belongs to."""
    content = hashlib.sha256(f"{fingerprint(student)} {fingerprint(teacher)} {freeze_masks} {seed}".encode())
    for array in feeds.arrays:
        content.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"")
    return content.hexdigest()
