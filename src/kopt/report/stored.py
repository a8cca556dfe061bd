"""Whether a stored report.json is one: files come from other machines, other versions and editors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kopt.errors import UsageError
from kopt.report.model import SCHEMA

Rule = Callable[[Any], bool]
_ABSENT: Any = object()


def check(content: Any, where: str) -> dict[str, Any]:
    """``content`` when it has the shape of a report of this schema.

    Raises:
        UsageError: it is something else; the first malformed field is named.
    """
    if not isinstance(content, dict) or not isinstance(content.get("buckets"), list):
        raise UsageError("this is no report of kopt", where=where, next_step="give an artifact, or the report.json inside one")
    if content.get("schema") != SCHEMA:
        raise UsageError(
            f"the report has schema {content.get('schema')}, this kopt reads {SCHEMA}", where=where, next_step="compile the model again"
        )
    wrong = next(_wrong(content), None)
    if wrong is not None:
        raise UsageError(f"the report is malformed: {wrong}", where=where, next_step="restore it from where it came, or compile again")
    return content


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1 + 1e-6


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _maybe(rule: Rule) -> Rule:
    """May be absent, but not null."""
    return lambda value: value is _ABSENT or rule(value)


def _nullable(rule: Rule) -> Rule:
    """May be absent or null."""
    return lambda value: value is _ABSENT or value is None or rule(value)


def _list_of(rule: Rule) -> Rule:
    return lambda value: isinstance(value, list) and all(map(rule, value))


def _entry(**fields: Rule) -> Rule:
    return lambda value: isinstance(value, dict) and all(rule(value.get(name, _ABSENT)) for name, rule in fields.items())


_SAMPLES = _maybe(_list_of(_list_of(_positive)))
_LATENCY = _entry(p50_us=_positive, p90_us=_nullable(_positive), p99_us=_nullable(_positive), samples_ns=_SAMPLES)
_TUNED_KERNEL = _entry(
    workload=_text,
    calls=_count,
    trials=_count,
    implementation=_maybe(_text),
    config=_maybe(_mapping),
    **dict.fromkeys(("p50_us", "default_us", "gflops", "of_peak"), _nullable(_positive)),
)
_KERNELS = _entry(workloads=_list_of(_TUNED_KERNEL), progress=_maybe(_list_of(_entry(elapsed_s=_number, model_us=_positive))))
_REPORT: Mapping[str, Rule] = {
    "precision": _text,
    "passes": _list_of(_entry(**{"pass": _text}, rewrites=_mapping, skips=_list_of(_entry(rule=_text)))),
    "host_nodes": _list_of(_text),
    "model": _entry(name=_text, num_nodes=_count, num_parameters=_count, weights_bytes=_count),
    "target": _entry(device=_text, present=lambda value: isinstance(value, bool)),
    "machine": _entry(cpu=_text, cores=_count, peak_gflops=_maybe(_positive), peak_gbytes_per_s=_maybe(_positive)),
    "versions": _mapping,
    "search": _maybe(
        _entry(
            trials=_list_of(_entry(elapsed_s=_number, p50_us=_nullable(_positive), best_us=_nullable(_positive))),
            batches=_maybe(_list_of(_entry(batch=_count, p50_us=_positive))),
            race=_maybe(_list_of(_entry(config=_mapping, p50_us=_positive, ratio=_positive))),
            failures=_maybe(_mapping),
            kernels=_maybe(_KERNELS),
            chosen=_maybe(_mapping),
            seconds=_maybe(_number),
            budget_s=_maybe(_number),
        )
    ),
}
_BUCKET: Mapping[str, Rule] = {
    "batch": _count,
    "shapes": _mapping,
    "flops": _maybe(_count),
    "num_nodes": _maybe(_count),
    "weights_bytes": _maybe(_count),
    **dict.fromkeys(("lower_s", "compile_s", "import_s"), _maybe(_number)),
    "accuracy": _maybe(
        _entry(
            reference=_text, worst=_maybe(_text), relative=_number, **dict.fromkeys(("max_abs", "mean_abs", "tolerance"), _maybe(_number))
        )
    ),
    "operators": _maybe(_list_of(_entry(operator=_text, share=_share))),
    "nodes": _maybe(_list_of(_entry(node=_text, share=_share, operator=_maybe(_text), flops=_maybe(_count), bytes=_maybe(_count)))),
}
_MEASURED: Mapping[str, Rule] = {
    "latency": _LATENCY,
    **dict.fromkeys(("throughput_per_s", "gflops", "peak_share", "load_s", "first_s", "peak_bytes"), _number),
}
_COMPARED: Mapping[str, Rule] = {"latency": _LATENCY, **dict.fromkeys(("ratio", "ratio_lower", "ratio_upper"), _positive)}


def _wrong(content: Mapping[str, Any]) -> Iterator[str]:
    yield from _fields(content, _REPORT, "")
    for index, bucket in enumerate(content["buckets"]):
        where = f"buckets[{index}]"
        if not isinstance(bucket, dict):
            yield where
            return
        yield from _fields(bucket, _BUCKET, f"{where}.")
        if "latency" in bucket:
            yield from _fields(bucket, _MEASURED, f"{where}.")
            base = bucket.get("baseline")
            if not isinstance(base, dict) or not _text(base.get("name")):
                yield f"{where}.baseline"
            else:
                yield from _fields(base, {"missing": _text} if "ratio" not in base else _COMPARED, f"{where}.baseline.")


def _fields(content: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str) -> Iterator[str]:
    return (prefix + name for name, rule in rules.items() if not rule(content.get(name, _ABSENT)))
