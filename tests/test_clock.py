"""Ticks stand on a grid of the wall clock, whatever the clock, the reader or the person who sets it does."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yprovd.clock import SystemClock, Ticker
from yprovd.testing import ManualClock

S = 10**9
START = 1_700_000_000 * S + 123_456_789


def next_tick(clock: ManualClock, ticker: Ticker) -> int:
    """Wait as the sampler does, in no time."""
    while wait := ticker.wait_ns():
        clock.advance(wait)
    return ticker.take()


def test_ticks_are_whole_multiples_of_the_interval_so_that_nodes_tick_together() -> None:
    one, other = ManualClock(START), ManualClock(START + 700 * 10**6)
    ticker, late = Ticker(S, one), Ticker(S, other)
    assert ticker.previous_ns == 1_700_000_000 * S
    assert next_tick(one, ticker) == 1_700_000_001 * S
    assert next_tick(other, late) == 1_700_000_001 * S


@pytest.mark.parametrize("interval", [S, S // 10, S // 3, 7 * S])
def test_ten_minutes_of_jittering_reads_drift_by_nothing(interval: int) -> None:
    clock, jitter = ManualClock(START), random.Random(7)
    ticker = Ticker(interval, clock)
    first = START // interval * interval
    ticks = []
    while clock.wall_ns() < START + 600 * S:
        ticks.append(next_tick(clock, ticker))
        assert 0 <= clock.wall_ns() - ticks[-1] < interval
        clock.advance(jitter.randrange(interval))  # the read; less than an interval
    assert ticks == [first + (k + 1) * interval for k in range(len(ticks))]
    assert ticker.missed == 0


def test_a_wait_that_overshoots_or_ends_early_moves_no_tick() -> None:
    clock, jitter = ManualClock(START), random.Random(3)
    ticker = Ticker(S, clock)
    for k in range(600):
        while wait := ticker.wait_ns():
            clock.advance(max(1, int(wait * jitter.uniform(0.5, 1.0)) + jitter.randrange(50_000)))
        assert ticker.take() == (1_700_000_001 + k) * S


def test_ticks_during_a_stall_are_missed_and_counted() -> None:
    clock = ManualClock(START)
    ticker = Ticker(S, clock)
    assert next_tick(clock, ticker) == 1_700_000_001 * S
    clock.advance(int(3.5 * S))
    assert ticker.wait_ns() == 0
    assert ticker.take() == 1_700_000_004 * S
    assert ticker.missed == 2
    assert next_tick(clock, ticker) == 1_700_000_005 * S
    assert ticker.missed == 2


def test_a_clock_set_forward_goes_on_at_the_new_time_and_counts_what_was_skipped() -> None:
    clock = ManualClock(START)
    ticker = Ticker(S, clock)
    next_tick(clock, ticker)
    clock.set_wall(START + 3600 * S)
    tick = next_tick(clock, ticker)
    assert tick == 1_700_003_600 * S
    assert ticker.missed == 3598
    assert next_tick(clock, ticker) == tick + S


def test_a_clock_set_back_never_stops_the_ticks() -> None:
    clock = ManualClock(START)
    ticker = Ticker(S, clock)
    next_tick(clock, ticker)
    clock.set_wall(START - 3600 * S)
    assert 0 < ticker.wait_ns() <= S
    tick = next_tick(clock, ticker)
    assert tick == 1_699_996_401 * S
    assert next_tick(clock, ticker) == tick + S
    assert ticker.missed == 0


@given(steps=st.lists(st.tuples(st.sampled_from(["advance", "set"]), st.integers(0, 10 * S)), max_size=30),
       interval=st.integers(1, 5 * S))
def test_whatever_time_does_ticks_are_aligned_and_the_wait_is_bounded(
    steps: list[tuple[str, int]], interval: int
) -> None:
    clock = ManualClock(START)
    ticker = Ticker(interval, clock)
    for what, ns in steps:
        if what == "advance":
            clock.advance(ns)
        else:
            clock.set_wall(START + ns - 5 * S)
        assert 0 <= ticker.wait_ns() <= interval
        tick = next_tick(clock, ticker)
        assert tick % interval == 0
        assert 0 <= clock.wall_ns() - tick < interval


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_that_is_none_is_refused(interval: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        Ticker(interval, ManualClock())


def test_the_system_clock_is_the_systems() -> None:
    clock = SystemClock()
    assert abs(clock.wall_ns() - time.time_ns()) < 10 * S
    assert abs(clock.mono_ns() - time.monotonic_ns()) < 10 * S


def test_time_in_a_test_does_not_go_back_by_mistake() -> None:
    with pytest.raises(ValueError, match="set_wall"):
        ManualClock().advance(-1)
