"""Quantiles say when they cannot be estimated; ratios come from neighbouring blocks; timing leaves the collector as it was."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from kopt.measure import MIN_P99_SAMPLES, Measurement, abba, block_ratio, quantile_interval_us, time_block, unpaired_ratio


def test_quantiles_in_microseconds() -> None:
    found = Measurement(((1000, 2000), (3000,)))
    assert (found.num_samples, found.p50_us, found.quantile_us(0.5)) == (3, 2.0, 2.0)
    np.testing.assert_array_equal(found.samples_ns, [1000, 2000, 3000])


def test_p99_needs_its_samples() -> None:
    enough = Measurement((tuple(range(1, MIN_P99_SAMPLES + 1)),))
    assert enough.quantile_us(0.99) == pytest.approx(np.quantile(np.arange(1, MIN_P99_SAMPLES + 1), 0.99) / 1e3)
    short = Measurement((enough.blocks_ns[0][1:],))
    assert short.quantile_us(0.99) is None
    assert short.quantile_us(0.9) is not None
    assert Measurement(()).quantile_us(0.5) is None


def test_ratio_is_the_median_of_pairs_within_its_interval(rng: np.random.Generator) -> None:
    slow = Measurement(tuple(tuple(int(s) for s in rng.normal(2000, 20, 50)) for _ in range(8)))
    fast = Measurement(tuple(tuple(int(s) for s in rng.normal(1000, 20, 50)) for _ in range(8)))
    found = block_ratio(slow, fast)
    assert found.lower <= found.value <= found.upper
    assert found.value == pytest.approx(2, rel=0.02)
    assert found.num_pairs == 8
    assert found == block_ratio(slow, fast)
    assert block_ratio(fast, slow).value == pytest.approx(1 / found.value)


def test_drift_that_hits_both_sides_cancels() -> None:
    side = [tuple([1000 * 2**k] * 5) for k in range(6)]
    found = block_ratio(Measurement(tuple(side)), Measurement(tuple(side)))
    assert (found.value, found.lower, found.upper) == (1, 1, 1)


def test_unequal_or_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="no blocks"):
        block_ratio(Measurement(()), Measurement(()))
    with pytest.raises(ValueError, match="zip"):
        block_ratio(Measurement(((1,),)), Measurement(()))


def test_order_reverses_in_every_other_round() -> None:
    assert list(abba(3)) == [(0, 1), (1, 0), (0, 1)]


@pytest.mark.parametrize("collecting", [True, False])
def test_a_block_has_its_calls_and_restores_the_collector(collecting: bool) -> None:
    seen: list[bool] = []
    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        samples = time_block(lambda: seen.append(gc.isenabled()), 1e-9, 7)
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if was else gc.disable)()
    assert len(samples) == len(seen) >= 1
    assert not any(seen)
    assert all(sample >= 0 for sample in samples)


def test_a_failing_call_restores_the_collector() -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        time_block(fail, 1e-9, 1)
    assert gc.isenabled()


def test_a_quantile_interval_comes_from_whole_blocks(rng) -> None:
    blocks = tuple(tuple(int(x) for x in rng.normal(1e6 * (1 + 0.01 * (k % 2)), 1e3, 200)) for k in range(10))
    low, high = quantile_interval_us(Measurement(blocks), 0.5)
    assert 999 < low < 1001
    assert 1009 < high < 1011  # as far apart as the blocks; calls taken one by one would claim a hundredth of that
    assert quantile_interval_us(Measurement(blocks[:4]), 0.5) is None
    assert quantile_interval_us(Measurement(((), *blocks)), 0.5) is None
    assert quantile_interval_us(Measurement(blocks[:5]), 0.99) is not None
    assert quantile_interval_us(Measurement(tuple(block[:9] for block in blocks)), 0.99) is None


def test_thinned_blocks_keep_their_quantiles(rng) -> None:
    blocks = tuple(tuple(int(x) for x in rng.exponential(1e6, 30_000)) for _ in range(5))
    found = Measurement(blocks)
    low, high = quantile_interval_us(found, 0.9)
    assert low < found.quantile_us(0.9) < high
    assert high / low < 1.05


def test_the_ratio_of_separate_runs(rng) -> None:
    sides = [Measurement(tuple(tuple(int(x) for x in rng.normal(mean, 1e4, 50)) for _ in range(6))) for mean in (1.2e6, 1e6)]
    found = unpaired_ratio(*sides)
    assert found.lower < found.value < found.upper
    assert abs(found.value - 1.2) < 0.01
    assert unpaired_ratio(sides[0], Measurement(())) is None
    assert unpaired_ratio(*sides) == found
