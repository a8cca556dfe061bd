"""The ``kopt_latency`` fixture, for people whose gate is their test suite.

::

    def test_latency(kopt_latency):
        kopt_latency("build/model.kopt").assert_below(p50_ms=5)

pytest loads this module at its start wherever kopt is installed, so nothing else is imported before the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kopt.check.gate import Outcome

_CHOICES = ("skip", "xfail", "fail")


@dataclass(frozen=True)
class Latency:
    """One artifact under test; each method measures, judges and gives the outcome.

    Attributes:
        artifact: what is judged.
        inconclusive: what an inconclusive outcome does to the test: "skip", "xfail" or "fail".
        options: of ``kopt.check``.
    """

    artifact: str | Path
    inconclusive: str
    options: dict[str, Any]

    def assert_below(self, *, p50_ms: float | None = None, p90_ms: float | None = None, p99_ms: float | None = None) -> Outcome:
        """Latency quantiles in milliseconds, at most."""
        given = {"p50": p50_ms, "p90": p90_ms, "p99": p99_ms}
        return self.assert_within(**{key: f"{value!r} ms" for key, value in given.items() if value is not None})

    def assert_within(self, **limits: object) -> Outcome:
        """Limits as in budgets.toml: ``assert_within(p99="12 ms", throughput="300/s", peak_memory="1 GiB")``."""
        return self._judge(limits, None)

    def assert_not_slower(self, baseline: str | Path, *, than: float | str = "5 %") -> Outcome:
        """The median latency beside a baseline artifact, measured now; ``than`` is the slowdown still allowed."""
        return self._judge({"max_regression": than}, baseline)

    def _judge(self, limits: dict[str, object], baseline: str | Path | None) -> Outcome:
        __tracebackhide__ = True
        from kopt.check.api import check

        outcome = check(self.artifact, limits, baseline=baseline, **self.options)
        verdict = outcome.verdict.value
        end: dict[str, Callable[[str], object]] = {"skip": pytest.skip, "xfail": pytest.xfail, "fail": _fail}
        if verdict == "fail":
            _fail(f"kopt: a limit does not hold\n{outcome}")
        elif verdict == "inconclusive":
            end[self.inconclusive](f"kopt: inconclusive\n{outcome}")
        return outcome


def _fail(text: str) -> None:
    __tracebackhide__ = True
    pytest.fail(text, pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, each on the command line and in pytest's configuration file."""
    group = parser.getgroup("kopt", "latency of kopt artifacts")
    text = "what an inconclusive latency does to its test: skip (default), xfail or fail"
    group.addoption("--kopt-inconclusive", choices=_CHOICES, default=None, help=text)
    parser.addini("kopt_inconclusive", text, default="skip")
    text = "seconds for measuring one artifact (default 120)"
    group.addoption("--kopt-time-limit", type=float, default=None, metavar="SECONDS", help=text)
    parser.addini("kopt_time_limit", text, default="120")


@pytest.fixture
def kopt_latency(pytestconfig: pytest.Config) -> Callable[..., Latency]:
    """A function of an artifact (and ``batch``, ``threads``, ``seed``, ``time_limit_s``) whose result asserts limits."""
    inconclusive = pytestconfig.getoption("--kopt-inconclusive") or str(pytestconfig.getini("kopt_inconclusive"))
    given = pytestconfig.getoption("--kopt-time-limit")
    try:
        time_limit_s = float(pytestconfig.getini("kopt_time_limit") if given is None else given)
    except ValueError:
        raise pytest.UsageError("kopt_time_limit is not a number of seconds") from None
    if inconclusive not in _CHOICES:
        raise pytest.UsageError(f"kopt_inconclusive = {inconclusive} is none of: {', '.join(_CHOICES)}")

    def latency(artifact: str | Path, **options: Any) -> Latency:
        return Latency(artifact, inconclusive, {"time_limit_s": time_limit_s, **options})

    return latency
