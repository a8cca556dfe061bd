"""Whole suites end with a table."""

from __future__ import annotations

from collections import Counter

from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """How many cases pass, and how many of them with a host segment, by suite and by category."""
    found: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            facts = dict(getattr(report, "user_properties", ()))
            if getattr(report, "when", "") != "call" or "case" not in facts:
                continue
            suite, category = facts["case"]
            for row in dict.fromkeys(("all", suite, f"  {category}")):
                found.setdefault(row, Counter())[facts.get("place", "gap")] += 1
    if not found:
        return
    terminalreporter.section("conformance")
    terminalreporter.write_line(f"{'':24} {'cases':>6} {'pass':>6} {'%':>6} {'host':>6} {'no host %':>9}")
    for row, counts in sorted(found.items(), key=lambda item: (item[0] != "all", item[0].startswith(" "), item[0])):
        total, compiled, host = sum(counts.values()), counts["compiled"], counts["host"]
        line = f"{row:24} {total:6} {compiled + host:6} {100 * (compiled + host) / total:6.1f} {host:6} {100 * compiled / total:9.1f}"
        terminalreporter.write_line(line)
