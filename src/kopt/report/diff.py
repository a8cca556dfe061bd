"""Two reports side by side: what is different, where the time went, and the likely reasons in order.

Nothing is measured: everything comes from what the two reports hold. Times from different days carry the machine's state of
those days; ``kopt check --baseline`` measures both now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kopt.measure import Measurement, unpaired_ratio
from kopt.report.diff_types import Change, Diff, Part, PassDelta, Side, Timing
from kopt.report.reasons import reasons

_NOISY = {"lower_s", "compile_s", "import_s", "load_s", "first_s", "peak_bytes", "peak_gflops", "peak_gbytes_per_s"}
"""Measured numbers: a change of less than a tenth is not listed."""


def diff(before: Side, after: Side) -> Diff:
    """Compare two sides; equal sides give equal results."""
    programs = [side.manifest and side.manifest.get("program") for side in (before, after)]
    same = None if None in programs else programs[0] == programs[1]
    timings, parts = tuple(_timings(before.report, after.report)), tuple(_parts(before.report, after.report))
    passes, changes = tuple(_passes(before.report, after.report)), tuple(_changes(before, after))
    found = reasons(same, timings, parts, passes, changes)
    return Diff(before.name, after.name, same, timings, parts, passes, changes, found)


def _matched(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Buckets of the same batch; among several of one batch, those of the same shapes."""
    rest = list(after.get("buckets", ()))
    for bucket in before.get("buckets", ()):
        same_batch = [one for one in rest if one["batch"] == bucket["batch"]]
        twin = next((one for one in same_batch if one.get("shapes") == bucket.get("shapes")), same_batch[0] if same_batch else None)
        if twin is not None:
            rest.remove(twin)
            yield bucket, twin


def _timings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Timing]:
    for one, other in _matched(before, after):
        if "latency" in one and "latency" in other:
            first, second = one["latency"], other["latency"]
            samples = [Measurement(tuple(map(tuple, side.get("samples_ns", ())))) for side in (second, first)]
            interval = unpaired_ratio(*samples)
            yield Timing(
                one["batch"],
                first["p50_us"],
                second["p50_us"],
                second["p50_us"] / first["p50_us"],
                interval.lower if interval else None,
                interval.upper if interval else None,
                _peer_ratio(one.get("baseline", {}), other.get("baseline", {})),
            )


def _peer_ratio(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    same = all(before.get(key) == after.get(key) for key in ("name", "version"))
    if not same or "latency" not in before or "latency" not in after:
        return None
    return float(after["latency"]["p50_us"] / before["latency"]["p50_us"])


def _parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Part]:
    """Operators, then nodes, of every batch measured on both sides; the largest change first."""
    for one, other in _matched(before, after):
        for level in ("operator", "node"):
            times = [_times_us(bucket, level) for bucket in (one, other)]
            if times[0] and times[1]:
                absent = [None if _is_cut(bucket, level) else 0.0 for bucket in (one, other)]
                names = dict.fromkeys((*times[0], *times[1]))
                found = [Part(one["batch"], level, name, times[0].get(name, absent[0]), times[1].get(name, absent[1])) for name in names]
                yield from sorted(found, key=lambda part: -abs(part.delta_us or 0.0))


def _times_us(bucket: Mapping[str, Any], level: str) -> dict[str, float]:
    p50 = bucket["latency"]["p50_us"] if "latency" in bucket else 0.0
    return {entry[level]: entry["share"] * p50 for entry in bucket.get(f"{level}s", ())} if p50 else {}


def _is_cut(bucket: Mapping[str, Any], level: str) -> bool:
    listed: float = sum(entry["share"] for entry in bucket.get(f"{level}s", ()))
    return listed < 0.999


def _passes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[PassDelta]:
    first, second = _numbered(before.get("passes", ())), _numbered(after.get("passes", ()))
    for name, count in dict.fromkeys((*first, *second)):
        one, other = first.get((name, count)), second.get((name, count))
        rewrites = _different(Counter((one or {}).get("rewrites", {})), Counter((other or {}).get("rewrites", {})))
        skips = _different(*(Counter(skip["rule"] for skip in (side or {}).get("skips", ())) for side in (one, other)))
        spelled = [side["pass"] if side else None for side in (one, other)]
        if rewrites or skips or (spelled[0] != spelled[1] and name != "bind-shapes"):  # shapes are compared as batches
            yield PassDelta(name, spelled[0], spelled[1], rewrites, skips)


def _numbered(passes: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """By name and how often that name came before: a pass may run several times."""
    seen: Counter[str] = Counter()
    found = {}
    for entry in passes:
        name = entry["pass"].partition("{")[0]
        found[name, seen[name]] = entry
        seen[name] += 1
    return found


def _different(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    return {rule: (before[rule], after[rule]) for rule in dict.fromkeys((*before, *after)) if before[rule] != after[rule]}


def _changes(before: Side, after: Side) -> Iterator[Change]:
    first, second = before.report, after.report
    yield from _compare("model", first.get("model", {}), second.get("model", {}))
    if before.manifest is not None and after.manifest is not None:
        yield from _compare("program", _program(before.manifest), _program(after.manifest))
    keys = ("precision", "host_nodes")
    yield from _compare("program", {key: first.get(key) for key in keys}, {key: second.get(key) for key in keys})
    batches = [{"batches": [bucket["batch"] for bucket in side.get("buckets", ())]} for side in (first, second)]
    yield from _compare("program", *batches)
    for section in ("target", "versions", "machine"):
        yield from _compare(section, first.get(section, {}), second.get(section, {}))
    for one, other in _matched(first, second):
        yield from _compare(f"batch {one['batch']}", _facts(one), _facts(other))


def _program(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest decides the program, and what it weighs."""
    files, config = manifest["files"], manifest["config"]
    return {
        "program": manifest["program"][:16],
        "backend": config.get("backend"),
        "options": config.get("options"),
        "compilers": manifest["requirements"]["compilers"],
        "artifact_bytes": sum(entry["size"] for path, entry in files.items() if path != "report.json"),
        "native_bytes": sum(entry["size"] for path, entry in files.items() if path.startswith("native/")),
    }


def _facts(bucket: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of a bucket that are no latency."""
    keys = ("shapes", "flops", "num_nodes", "weights_bytes", "native_tier", *sorted(_NOISY))
    facts = {key: bucket[key] for key in keys if key in bucket}
    if "accuracy" in bucket:
        facts["accuracy"] = float(f"{bucket['accuracy']['relative']:.1e}")
    return facts


def _compare(section: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key), after.get(key)
        if one != other and not (key in _NOISY and one and other and max(one, other) < 1.1 * min(one, other)):
            yield Change(section, key, one, other)
