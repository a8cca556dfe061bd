"""Why a latency changed: what the facts that differ can explain, most telling first.

A reason's score orders the list. Where it can be estimated which part of the change a fact accounts for, the score follows from
that; otherwise from how often such a fact is the cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kopt.report.diff_types import Change, Part, PassDelta, Reason, Timing
from kopt.report.text import duration

_COMPILERS = ("jaxlib", "jax", "kopt")
_KIND_SCORES = {
    "machine": 1.0,
    "threads": 0.95,
    "device": 0.9,
    "precision": 0.9,
    "model": 0.8,
    "options": 0.75,
    "passes": 0.7,
    "host": 0.7,
    "versions": 0.6,
    "system": 0.3,
    "weights": 0.1,
}


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The differences by name, and the batch that changed most."""

    facts: Mapping[tuple[str, str], Change]
    timing: Timing | None
    parts: Sequence[Part]
    passes: Sequence[PassDelta]

    def pair(self, section: str, key: str) -> tuple[Any, Any] | None:
        """Before and after, None where they are equal."""
        found = self.facts.get((section, key))
        return None if found is None else (found.before, found.after)

    def both(self, section: str, key: str) -> bool:
        """Whether both sides know the fact, and differ in it."""
        pair = self.pair(section, key)
        return pair is not None and None not in pair

    def share(self, ratio: float) -> float | None:
        """Which part of the change a factor of the latency accounts for: 1 all, 0 nothing; None without a change."""
        if self.timing is None or not self.timing.is_different or ratio <= 0:
            return None
        return math.log(ratio) / math.log(self.timing.ratio)


def reasons(
    same_program: bool | None, timings: Sequence[Timing], parts: Sequence[Part], passes: Sequence[PassDelta], changes: Sequence[Change]
) -> tuple[Reason, ...]:
    """The likely reasons, most telling first."""
    facts = {(change.section, change.key): change for change in changes}
    timing = max(timings, key=lambda one: (one.is_different, abs(math.log(one.ratio))), default=None)
    evidence = _Evidence(facts, timing, parts, passes)
    found = [Reason(*entry) for source in (_surroundings, _work, _program, _places) for entry in source(evidence)]
    if same_program and timing is not None:
        found.append(Reason("equal", "the programs are equal: the machine or its other load made the difference, not the model", 0.99))
    return tuple(sorted(found, key=lambda reason: -reason.score))


_Entry = tuple[str, str, float] | tuple[str, str, float, float | None]


def _surroundings(evidence: _Evidence) -> Iterator[_Entry]:
    """Where and on what it ran."""
    machine = evidence.pair("machine", "cpu")
    arch = evidence.pair("machine", "fingerprint")
    if machine or arch:
        what = f"'{machine[0]}' and '{machine[1]}'" if machine else "the same processor with other features"
        yield "machine", f"measured on different machines ({what}): the times cannot be compared", _KIND_SCORES["machine"]
    for key, text in (("system", "the system {} became {}"), ("python", "Python {} became {}")):
        pair = evidence.pair("machine", key)
        if pair:
            yield "system", text.format(*pair), _KIND_SCORES["system"]
    for key in ("threads", "cores"):
        pair = evidence.pair("machine", key)
        if pair and None not in pair:
            yield "threads", f"{pair[0]} {key} became {pair[1]}", _KIND_SCORES["threads"]
            return  # which explains what the peer and the peak did, too
    if not machine and not arch:
        yield from _state(evidence)


def _state(evidence: _Evidence) -> Iterator[_Entry]:
    """Signs that the same machine was slower or faster at that time."""
    timing = evidence.timing
    if timing is not None and timing.peer_ratio is not None and not 0.95 < timing.peer_ratio < 1.05:
        share = evidence.share(timing.peer_ratio)
        if share is not None and share > 0.1:
            text = f"the same ONNX Runtime took {timing.peer_ratio:.2f} times as long beside it: the machine was in another state"
            yield "peer", text, 0.9 * min(1.0, share), share
    peak = evidence.pair("machine", "peak_gflops")
    if peak and None not in peak:
        share = evidence.share(peak[0] / peak[1])
        if share is not None and share > 0.1:
            text = f"the measured peak went from {peak[0]:.0f} to {peak[1]:.0f} GFLOP/s: clock or other load"
            yield "peak", text, 0.8 * min(1.0, share), share


def _work(evidence: _Evidence) -> Iterator[_Entry]:
    """What had to be computed."""
    timing = evidence.timing
    section = f"batch {timing.batch}" if timing else ""
    flops, shapes = evidence.pair(section, "flops"), evidence.pair(section, "shapes")
    if shapes:
        yield "model", f"the shapes of {section} differ", 0.95
    if flops and flops[0] and flops[1]:
        share = evidence.share(flops[1] / flops[0])
        score = _KIND_SCORES["model"] if share is None else max(0.1, min(0.95, share))
        yield (
            "model",
            f"{flops[1] / flops[0]:.2f} times the operations: {flops[0] / 1e9:.3g} GFLOP became {flops[1] / 1e9:.3g}",
            score,
            share,
        )
    nodes = evidence.pair("model", "num_nodes")
    if nodes:
        yield "model", f"the model has {nodes[1]} nodes, it had {nodes[0]}", _KIND_SCORES["model"] - 0.05
    elif evidence.both("model", "structure"):
        yield "model", "the model's operators, attributes or shapes differ", 0.6
    elif evidence.both("model", "digest"):
        yield "weights", "only the values of weights differ: latency depends on them rarely", _KIND_SCORES["weights"]


def _program(evidence: _Evidence) -> Iterator[_Entry]:
    """How it was compiled."""
    for section, key, kind, text in (
        ("program", "precision", "precision", "precision {} became {}"),
        ("target", "device", "device", "compiled for {}, then for {}"),
        ("target", "isa", "device", "instruction set {} became {}"),
        ("program", "backend", "options", "backend {} became {}"),
        ("program", "options", "options", "options {} became {}"),
        ("program", "host_nodes", "host", "nodes outside the compiled program: {} became {}"),
    ):
        pair = evidence.pair(section, key)
        if pair:
            yield kind, text.format(*pair), _KIND_SCORES[kind]
    versions = [f"{name} {pair[0]} became {pair[1]}" for name in _COMPILERS if (pair := evidence.pair("versions", name))]
    if versions:
        yield "versions", "another compiler: " + ", ".join(versions), _KIND_SCORES["versions"]
    for one in evidence.passes:
        what = _pass_text(one)
        if what:
            yield "passes", what, _KIND_SCORES["passes"] - (0.0 if one.rewrites or one.before is None or one.after is None else 0.2)


def _pass_text(one: PassDelta) -> str:
    if one.before is None or one.after is None:
        return f"pass {one.name} ran only {'after' if one.before is None else 'before'}" if one.rewrites else ""
    effects = [f"{rule} {count[0]} became {count[1]}" for rule, count in one.rewrites.items()]
    effects += [f"{rule} declined {count[1]} times, not {count[0]}" for rule, count in one.skips.items()]
    options = [f"{one.before} became {one.after}"] if one.before != one.after else []
    return f"pass {one.name}: " + ", ".join(options + effects)


def _places(evidence: _Evidence) -> Iterator[_Entry]:
    """Where the time went: no cause, but the place to look."""
    timing = evidence.timing
    if timing is None or not timing.is_different:
        return
    whole = timing.after_us - timing.before_us
    for level in ("operator", "node"):
        known = [part for part in evidence.parts if part.batch == timing.batch and part.level == level and part.delta_us is not None]
        worst = max(known, key=lambda part: (part.delta_us or 0.0) * math.copysign(1, whole), default=None)
        if worst is not None and worst.delta_us and (share := worst.delta_us / whole) > 0.2:
            change = f"{duration(abs(worst.delta_us))} {'more' if worst.delta_us > 0 else 'less'}"
            yield "place", f"{level} {worst.name} takes {change}, {share:.0%} of the difference", 0.5 * min(1.0, share), share
