"""Damaged models, each in a child process: every one is taken or refused with a full message; none crashes, hangs or fills the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.campaign import Child, run_campaign
from fuzz.mutations import mutated
from fuzz.seeds import all_seeds, own_seeds

NUM_SHARDS = 10


def test_a_sample() -> None:
    findings = run_campaign(own_seeds(), range(300), run_every=8)
    assert not findings.defects, findings
    assert min(findings.outcomes[outcome] for outcome in ("ran", "loaded", "refused")) >= 5, findings.outcomes


@pytest.mark.nightly
@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_ten_thousand(shard: int, tmp_path: Path) -> None:
    findings = run_campaign(all_seeds(), range(1000 * shard, 1000 * (shard + 1)), run_every=8, seed=1, keep=tmp_path)
    assert not findings.defects, f"models are kept in {tmp_path}\n{findings}"


def test_a_model_is_the_same_in_every_run_whatever_came_before() -> None:
    seeds = own_seeds()
    assert [mutated(seeds, index) for index in range(30)] == [mutated(seeds, index) for index in range(30)]
    assert len({mutated(seeds, index)[1] for index in range(30)}) > 25


def test_a_child_that_dies_is_reported() -> None:
    child = Child()
    child.process.kill()
    child.process.wait()
    try:
        assert child.ask(b"", run=False)["outcome"] == "died"
    finally:
        child.close()
