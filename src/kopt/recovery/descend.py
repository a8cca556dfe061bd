"""Adam on a student's weights, within a budget, stopped by held-out inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from kopt.recovery.checkpoint import State, load_state, save_state
from kopt.recovery.objective import Objective
from kopt.recovery.samples import Samples
from kopt.recovery.weights import Params

MAX_STEPS = 2000
EVALUATIONS = 25
"""How often held-out inputs are looked at over the whole budget."""
PATIENCE = 0.35
"""Without a better held-out error for this share of the budget, the descent ends."""
RATE = 0.02
"""The largest step of a weight, as a share of its tensor's root mean square."""
SMALLEST_SCALE = 0.02
"""Of tensors near zero, such as biases."""
WARM_UP = 0.03
CHECKPOINT_S = 10.0

_ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-12)


@dataclass(frozen=True)
class Descent:
    """How to descend.

    Attributes:
        budget_s: seconds, compilation included.
        max_steps: steps at most.
        rate: see ``RATE``.
        seed: of the order of samples.
        checkpoint: where progress is kept, None for nowhere.
        key: what the checkpoint must belong to.
    """

    budget_s: float = 180.0
    max_steps: int = MAX_STEPS
    rate: float = RATE
    seed: int = 0
    checkpoint: Path | None = None
    key: str = ""


def descend(objective: Objective, start: Params, samples: Samples, settings: Descent, say: Callable[[str], None], begun: float) -> State:
    """The state after the budget, the steps or the patience are used up.

    Args:
        objective: the losses.
        start: first parameters.
        samples: trained and held-out inputs.
        settings: budget and rate.
        say: is told of progress.
        begun: when the budget began to run, of ``time.monotonic``.
    """
    run = _Run(objective, start, samples, settings, say, begun)
    try:
        return run.to_the_end()
    except KeyboardInterrupt:
        run.save()
        raise


class _Run:
    def __init__(
        self, objective: Objective, start: Params, samples: Samples, settings: Descent, say: Callable[[str], None], begun: float
    ) -> None:
        self.objective, self.samples, self.settings, self.say, self.begun = objective, samples, settings, say, begun
        self.scales = {name: max(float(np.sqrt(np.square(array).mean())), SMALLEST_SCALE) for name, array in start.items()}
        found = load_state(settings.checkpoint, settings.key) if settings.checkpoint is not None else None
        if found is None:
            zeros = {name: np.zeros_like(array) for name, array in start.items()}
            error = self.error(start)
            found = State(start, zeros, zeros, start, 0, 0.0, error, 0, error)
        else:
            say(f"going on after step {found.step}")
        self.state = found
        self.earlier = found.seconds
        self.saved = time.monotonic()
        self.update = jax.jit(self._update)
        self.objective.gradients(found.params, samples.pick(samples.evaluations()[0]))  # compiles it, so that steps take equally long
        compiled = time.monotonic() - begun
        self.budget = max(settings.budget_s - compiled, 0.1 * settings.budget_s)
        self.begun = time.monotonic()

    def error(self, params: Any) -> float:
        """The held-out error of the outputs."""
        batches = self.samples.evaluations()
        return float(np.mean([float(self.objective.outputs(params, self.samples.pick(numbers))) for numbers in batches]))

    @property
    def progress(self) -> float:
        """Share of the budget that is used, by time or by steps."""
        used = self.earlier + time.monotonic() - self.begun
        return max(used / self.budget, self.state.step / self.settings.max_steps)

    def to_the_end(self) -> State:
        """Descend until nothing is left of the budget or of the patience."""
        looked = best_at = self.progress
        for numbers in self.samples.epochs(self.settings.seed, self.state.step):
            progress = self.progress
            if progress >= 1 or progress - best_at > PATIENCE:
                break
            self.step(numbers, progress)
            if progress - looked >= 1 / EVALUATIONS:
                looked = progress
                best_at = progress if self.look(progress) else best_at
        self.look(1.0)
        self.save()
        return self.state

    def step(self, numbers: np.ndarray, progress: float) -> None:
        """One step."""
        state = self.state
        _, gradients = self.objective.gradients(state.params, self.samples.pick(numbers))
        rate = self.settings.rate * min(1.0, (progress + 1e-3) / WARM_UP) * (1 + np.cos(np.pi * progress)) / 2
        moved = self.update(state.params, state.first, state.second, gradients, np.float32(rate), np.int32(state.step))
        jax.block_until_ready(moved[0])  # else steps pile up, and the clock sees none of them
        self.state = replace(state, params=moved[0], first=moved[1], second=moved[2], step=state.step + 1)

    def look(self, progress: float) -> bool:
        """Look at the held-out inputs; whether they say that this is the best so far."""
        state, error = self.state, self.error(self.state.params)
        better = error < state.best_error
        best = state.params if better else state.best
        used = self.earlier + time.monotonic() - self.begun
        least, when = (error, state.step) if better else (state.best_error, state.best_step)
        self.state = replace(state, best=best, seconds=used, best_error=least, best_step=when)
        self.say(f"{100 * min(progress, 1):3.0f} %  step {state.step}  held-out error {error:.3g}, best {least:.3g}")
        if time.monotonic() - self.saved > CHECKPOINT_S:
            self.save()
        return better

    def save(self) -> None:
        """Keep the state in the checkpoint."""
        if self.settings.checkpoint is None:
            return
        state = self.state
        first, second, params, best = (
            jax.tree.map(np.asarray, dict(part)) for part in (state.first, state.second, state.params, state.best)
        )
        used = self.earlier + time.monotonic() - self.begun
        held = replace(state, params=params, first=first, second=second, best=best, seconds=used)
        save_state(self.settings.checkpoint, held, self.settings.key)
        self.saved = time.monotonic()

    def _update(self, params: Any, first: Any, second: Any, gradients: Any, rate: Any, step: Any) -> tuple[Any, Any, Any]:
        directions, state = _ADAM.update(gradients, optax.ScaleByAdamState(step, first, second))

        def move(p: Any, direction: Any, scale: Any) -> Any:
            return (p - rate * scale * direction).astype(np.float32)

        return jax.tree.map(move, params, directions, self.scales), state.mu, state.nu
