"""What can be searched: named knobs with a few choices each, constraints between them, and the workloads they belong to.

A ``Config`` gives every knob one of its choices. All orders are fixed, so a seed decides every sample.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from kopt.errors import UsageError

Choice = int | float | str | bool
Config = Mapping[str, Choice]

_SAMPLE_ATTEMPTS = 64


@dataclass(frozen=True)
class Knob:
    """One parameter with its choices.

    Attributes:
        name: unique in its space.
        choices: distinct values, in the order that makes neighbours similar.
        default: the value taken unsearched; by default the first choice.
    """

    name: str
    choices: tuple[Choice, ...]
    default: Choice | None = None

    def __post_init__(self) -> None:
        keys = [_key(choice) for choice in self.choices]
        if not keys or len(set(keys)) < len(keys):
            raise UsageError(f"knob '{self.name}' needs distinct choices, not {list(self.choices)}", next_step="correct the space")
        if self.default is None:
            object.__setattr__(self, "default", self.choices[0])
        elif _key(self.default) not in keys:
            raise UsageError(
                f"{self.default!r} is no choice of knob '{self.name}'", next_step=f"choose one of: {', '.join(map(str, self.choices))}"
            )

    def index(self, choice: Choice) -> int:
        """Position of a choice; 1, 1.0 and True are different ones.

        Raises:
            UsageError: not a choice.
        """
        index = self.positions.get(_key(choice))
        if index is None:
            raise UsageError(
                f"{choice!r} is no choice of knob '{self.name}'", next_step=f"choose one of: {', '.join(map(str, self.choices))}"
            )
        return index

    @cached_property
    def positions(self) -> dict[tuple[str, Choice], int]:
        """Index by (name of the type, choice)."""
        return {_key(choice): index for index, choice in enumerate(self.choices)}

    def distance_to_default(self, index: int) -> int:
        """Steps from the choice at ``index`` to the default."""
        return abs(index - (0 if self.default is None else self.index(self.default)))

    @cached_property
    def is_ordered(self) -> bool:
        """Whether its choices are numbers, so that near ones act alike."""
        return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition on some knobs.

    Attributes:
        knobs: the names it looks at; it is asked as soon as all of them have a value.
        holds: takes their values in that order.
        reason: why, for people.
    """

    knobs: tuple[str, ...]
    holds: Callable[..., bool] = field(compare=False)
    reason: str = ""

    def allows(self, config: Config) -> bool:
        """Whether a config that has values for all its knobs meets it."""
        return bool(self.holds(*(config[name] for name in self.knobs)))


def config_key(config: Config) -> str:
    """Canonical text of a config: equal for equal configs, whatever the order of their knobs."""
    return json.dumps(dict(sorted(config.items())), separators=(",", ":"))


def _key(choice: Choice) -> tuple[str, Choice]:
    return (type(choice).__name__, choice)


@dataclass(frozen=True)
class SearchSpace:
    """Knobs, and the constraints between them.

    Attributes:
        knobs: in the order in which values are chosen.
        constraints: all must hold.
    """

    knobs: tuple[Knob, ...] = ()
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        names = [knob.name for knob in self.knobs]
        if len(set(names)) < len(names):
            raise UsageError(f"knobs share a name: {', '.join(names)}", next_step="give each its own")
        for constraint in self.constraints:
            unknown = set(constraint.knobs) - set(names)
            if unknown or not constraint.knobs:
                raise UsageError(
                    f"a constraint looks at {', '.join(sorted(unknown)) or 'nothing'}", next_step=f"knobs are: {', '.join(names)}"
                )

    def __contains__(self, config: object) -> bool:
        if not isinstance(config, Mapping) or set(config) != {knob.name for knob in self.knobs}:
            return False
        known = all(_key(config[knob.name]) in knob.positions for knob in self.knobs)
        return known and all(constraint.allows(config) for constraint in self.constraints)

    @property
    def num_combinations(self) -> int:
        """Points before constraints: an upper bound of what ``enumerate`` gives."""
        return math.prod(len(knob.choices) for knob in self.knobs)

    def default(self) -> dict[str, Choice]:
        """The point of all defaults, or the first allowed point found near it.

        Raises:
            UsageError: the constraints allow no point.
        """
        orders = [sorted(range(len(knob.choices)), key=knob.distance_to_default) for knob in self.knobs]
        return self._first(orders)

    def enumerate(self, limit: int | None = None) -> Iterator[dict[str, Choice]]:
        """Every allowed point, in lexicographic order of the choices; at most ``limit`` of them."""
        return islice(self._extend([range(len(knob.choices)) for knob in self.knobs]), limit)

    def sample(self, rng: random.Random) -> dict[str, Choice]:
        """A random allowed point: uniform where a few tries meet the constraints, otherwise found by random descent.

        Raises:
            UsageError: the constraints allow no point.
        """
        for _ in range(_SAMPLE_ATTEMPTS):
            config = {knob.name: rng.choice(knob.choices) for knob in self.knobs}
            if all(constraint.allows(config) for constraint in self.constraints):
                return config
        return self._first([rng.sample(range(len(knob.choices)), len(knob.choices)) for knob in self.knobs])

    def sample_distinct(self, rng: random.Random, count: int, exclude: Sequence[str] = ()) -> list[dict[str, Choice]]:
        """Up to ``count`` different random points whose keys are not in ``exclude``; fewer where the space is nearly used up."""
        seen = set(exclude)
        found: list[dict[str, Choice]] = []
        if self.num_combinations <= 4 * (count + len(seen)):
            left = [config for config in self.enumerate() if config_key(config) not in seen]
            return rng.sample(left, min(count, len(left)))
        for _ in range(8 * count):
            if len(found) == count:
                break
            config = self.sample(rng)
            if config_key(config) not in seen:
                seen.add(config_key(config))
                found.append(config)
        return found

    def neighbours(self, config: Config) -> Iterator[dict[str, Choice]]:
        """Allowed points that differ in one knob: the next smaller and larger choice of numbers, every choice of others."""
        for knob in self.knobs:
            at = knob.index(config[knob.name])
            near = (at - 1, at + 1) if knob.is_ordered else range(len(knob.choices))
            for index in near:
                if 0 <= index < len(knob.choices) and index != at:
                    changed = {**config, knob.name: knob.choices[index]}
                    if self._meets(changed, knob.name):
                        yield changed

    def mutate(self, config: Config, rng: random.Random, rate: float = 0.25) -> dict[str, Choice]:
        """An allowed point near ``config``: each knob moves with probability ``rate``, at least one does.

        The point itself where nothing else is allowed near it.
        """
        movable = [knob for knob in self.knobs if len(knob.choices) > 1]
        for _ in range(_SAMPLE_ATTEMPTS if movable else 0):
            moved = [knob for knob in movable if rng.random() < rate] or [rng.choice(movable)]
            changed = {**config, **{knob.name: _move(knob, config[knob.name], rng) for knob in moved}}
            if all(constraint.allows(changed) for constraint in self.constraints):
                return changed
        near = list(self.neighbours(config))
        return rng.choice(near) if near else dict(config)

    def cross(self, first: Config, second: Config, rng: random.Random) -> dict[str, Choice]:
        """An allowed point that takes each knob from one of two points; the first where no mix is allowed."""
        for _ in range(_SAMPLE_ATTEMPTS):
            mixed = {knob.name: (first if rng.random() < 0.5 else second)[knob.name] for knob in self.knobs}
            if all(constraint.allows(mixed) for constraint in self.constraints):
                return mixed
        return dict(first)

    def _meets(self, config: Config, changed: str) -> bool:
        return all(constraint.allows(config) for constraint in self.constraints if changed in constraint.knobs)

    def _first(self, orders: Sequence[Sequence[int]]) -> dict[str, Choice]:
        for config in self._extend(orders):
            return config
        reasons = "; ".join(constraint.reason or ", ".join(constraint.knobs) for constraint in self.constraints)
        raise UsageError(f"no point of the search space is allowed ({reasons})", next_step="relax a constraint or add choices")

    def _extend(self, orders: Sequence[Sequence[int]]) -> Iterator[dict[str, Choice]]:
        """Depth-first over the knobs; a branch ends at the first constraint that fails."""
        position = {knob.name: index for index, knob in enumerate(self.knobs)}
        due: list[list[Constraint]] = [[] for _ in self.knobs]
        for constraint in self.constraints:
            due[max(position[name] for name in constraint.knobs)].append(constraint)

        def below(depth: int, partial: dict[str, Choice]) -> Iterator[dict[str, Choice]]:
            if depth == len(self.knobs):
                yield dict(partial)
                return
            knob = self.knobs[depth]
            for index in orders[depth]:
                partial[knob.name] = knob.choices[index]
                if all(constraint.allows(partial) for constraint in due[depth]):
                    yield from below(depth + 1, partial)
            del partial[knob.name]

        return below(0, {})


def _move(knob: Knob, choice: Choice, rng: random.Random) -> Choice:
    """Another choice; of numbers mostly a near one."""
    at = knob.index(choice)
    if knob.is_ordered and rng.random() < 0.7:
        steps = [index for index in (at - 1, at + 1) if 0 <= index < len(knob.choices)]
        return knob.choices[rng.choice(steps)]
    return knob.choices[rng.choice([index for index in range(len(knob.choices)) if index != at])]


@dataclass(frozen=True)
class Workload:
    """One piece of work at concrete shapes: what a schedule is searched for, and what results are filed under.

    Attributes:
        kind: such as "conv2d" or "model".
        shapes: of its arrays, in the kind's own order.
        dtypes: one per shape, or as many as the kind needs.
        attrs: whatever else decides the work (strides, layout, epilogue), in JSON types.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """In JSON types."""
        return {"kind": self.kind, "shapes": [list(s) for s in self.shapes], "dtypes": list(self.dtypes), "attrs": dict(self.attrs)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Workload:
        """What ``to_json`` gave.

        Raises:
            UsageError: fields are missing or of the wrong type.
        """
        try:
            shapes = tuple(tuple(int(dim) for dim in shape) for shape in content["shapes"])
            return cls(str(content["kind"]), shapes, tuple(map(str, content["dtypes"])), dict(content["attrs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a workload: {error!r}", next_step="export the records again") from None

    @cached_property
    def digest(self) -> str:
        """Stable across processes, machines and orders of attributes; 32 hexadecimal digits.

        Raises:
            UsageError: an attribute is not of a JSON type.
        """
        try:
            text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"an attribute of workload '{self.kind}' has no JSON form: {error}", next_step="use numbers and texts"
            ) from None
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workload) and self.digest == other.digest

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape in self.shapes)
        return f"{self.kind} {shapes} {','.join(dict.fromkeys(self.dtypes))}".strip()
