"""One sensor may raise, hang, lie or be slow: the others' values are in every sample, on time, and it is told."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.support import eventually
from yprovd.clock import SystemClock
from yprovd.model import Absence, Device, Metric, Trace
from yprovd.sampler import Sampler
from yprovd.testing import FakeSensor, ManualClock, MemorySink
from yprovd.wire import pack_samples, unpack_samples

S = 10**9
INTERVAL = 3 * S // 10


class BetweenTicks(SystemClock):
    """The machine's clocks, the wall clock shifted so that a test begins in the middle of an interval: with a long one
    no tick falls into the test, whenever it runs."""

    def __init__(self, interval_ns: int) -> None:
        self._shift_ns = interval_ns // 2 - time.time_ns() % interval_ns

    def wall_ns(self) -> int:
        return super().wall_ns() + self._shift_ns


@contextlib.contextmanager
def sampling(*sensors: FakeSensor, interval_ns: int = INTERVAL) -> Iterator[tuple[Sampler, MemorySink]]:
    """A sampler that has taken its first sample; at the end it is stopped and nothing hangs any more."""
    sink = MemorySink()
    before = set(threading.enumerate())
    clock = SystemClock() if interval_ns == INTERVAL else BetweenTicks(interval_ns)
    sampler = Sampler(sensors, [], interval_ns=interval_ns, clock=clock, sink=sink)
    sampler.start()
    try:
        yield sampler, sink
    finally:
        for sensor in sensors:
            sensor.gate.set()
        if not any(s.closed for s in sensors):
            sampler.stop()
        eventually(lambda: set(threading.enumerate()) <= before, 5, "the sampler's threads end")


def ticks(sink: MemorySink, n: int) -> None:
    """Wait until there are n samples more."""
    target = len(sink) + n
    eventually(lambda: len(sink) >= target, 20, f"{n} more samples")


def test_a_sample_holds_every_sensors_values_in_the_order_of_the_schema() -> None:
    with sampling(FakeSensor("a", [1.0, 2.0]), FakeSensor("b", [3.0])) as (sampler, sink):
        assert [m.name for m in sampler.schema.metrics[:3]] == ["a.0", "a.1", "b.0"]
        assert len(sink) == 1  # start() blocks for the first one
        assert list(sink[0].values[:3]) == [1.0, 2.0, 3.0]
        assert len(sink[0].values) == len(sampler.schema.metrics)


def test_samples_stand_on_the_grid_and_the_first_and_last_one_beyond_the_edges_of_the_run() -> None:
    began = time.time_ns()
    with sampling(FakeSensor("a")) as (sampler, sink):
        ticks(sink, 3)
        stopping = time.time_ns()
        sampler.stop()
        ended = time.time_ns()
    nominal = [s.nominal_ns for s in sink]
    assert all(t % INTERVAL == 0 for t in nominal)
    skipped = [(b - a) // INTERVAL - 1 for a, b in pairwise(nominal)]
    assert min(skipped) == 0
    assert sink.column(sampler.schema, "yprov.sampler.missed_ticks")[-1] == sum(skipped)  # none, on an idle machine
    assert nominal[0] <= began <= sink[0].wall_ns
    assert stopping <= sink[-1].wall_ns <= ended
    assert nominal[-1] >= stopping
    assert nominal[-1] - sink[-1].wall_ns < INTERVAL
    assert all(0 <= s.wall_ns - s.nominal_ns < INTERVAL for s in sink[1:-1])
    assert [s.mono_ns for s in sink] == sorted(s.mono_ns for s in sink)


def test_a_tick_between_construction_and_start_is_taken_once() -> None:
    clock, sink = ManualClock(wall_ns=60 * S - 1), MemorySink()
    sampler = Sampler([FakeSensor("a")], [], interval_ns=60 * S, clock=clock, sink=sink)
    clock.advance(2)
    sampler.start()
    sampler.stop()
    assert [s.nominal_ns for s in sink] == [60 * S, 120 * S]
    assert sink.column(sampler.schema, "yprov.sampler.missed_ticks") == [0, 0]


def test_a_sensor_that_raises_costs_its_own_values_and_is_read_again() -> None:
    good, bad = FakeSensor("good", [7.0]), FakeSensor("bad", [1.0])
    bad.error = OSError("gone")
    with sampling(bad, good) as (sampler, sink):
        ticks(sink, 2)
        broken = len(sink)
        bad.error = None
        ticks(sink, 2)
        sampler.stop()
        assert all(v == 7.0 for v in sink.column(sampler.schema, "good.0"))
        values = sink.column(sampler.schema, "bad.0")
        assert all(math.isnan(v) for v in values[:broken])
        assert values[-1] == 1.0
        failures = sink.column(sampler.schema, "yprov.sensor.failures", "bad")
        assert failures[:broken] == [float(k + 1) for k in range(broken)]
        assert failures[-1] in (broken, broken + 1)  # a read may have been under way
        assert set(sink.column(sampler.schema, "yprov.sensor.failures", "good")) == {0.0}
        assert set(sink.column(sampler.schema, "yprov.sensor.late", "bad")) == {0.0}


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0], [1.0, None], ["1", "2"], None, 5])
def test_a_sensor_that_delivers_something_else_than_its_numbers_has_failed(values: object) -> None:
    lies = FakeSensor("lies", [1.0, 2.0])
    lies.values = values  # type: ignore[assignment]
    with sampling(lies, FakeSensor("good", [7.0]), interval_ns=60 * S) as (sampler, sink):
        sample = sink[0]
        assert all(math.isnan(v) for v in sample.values[:2])
        assert sample.values[2] == 7.0
        assert sink.column(sampler.schema, "yprov.sensor.failures", "lies") == [1.0]
        unpack_samples(pack_samples(sampler.schema.id, list(sink)))


def test_what_a_sensor_does_with_its_list_afterwards_changes_no_sample() -> None:
    reused = FakeSensor("a", [1.0])
    with sampling(reused, interval_ns=60 * S) as (_sampler, sink):
        reused.values[0] = 9.0  # type: ignore[index]
        assert sink[0].values[0] == 1.0


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_sensor_that_hangs_neither_delays_nor_kills_the_others(own_thread: bool) -> None:
    first, last = FakeSensor("first", [1.0]), FakeSensor("last", [3.0])
    stuck = FakeSensor("stuck", [2.0], own_thread=own_thread)
    with sampling(first, stuck, last) as (sampler, sink):
        stuck.gate.clear()
        eventually(lambda: stuck.reads >= 2, what="it hangs")
        ticks(sink, 4)
        hung = len(sink)
        began = time.monotonic()
        sampler.stop()
        assert time.monotonic() - began <= 2.0
        assert [first.closed, stuck.closed, last.closed] == [1, 0, 1]  # nobody closes a sensor under its own read
        for name, value in (("first.0", 1.0), ("last.0", 3.0)):
            assert sink.column(sampler.schema, name) == [value] * len(sink)
        assert math.isnan(sink.column(sampler.schema, "stuck.0")[hung - 1])
        late = sink.column(sampler.schema, "yprov.sensor.late", "stuck")
        assert late[-1] >= 4
        assert late == sorted(late)
        assert set(sink.column(sampler.schema, "yprov.sensor.late", "last")) == {0.0}
        assert all(s.wall_ns - s.nominal_ns < INTERVAL for s in sink)
        assert sink.column(sampler.schema, "yprov.sampler.missed_ticks")[-1] <= 1  # none, on an idle machine


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_sensor_that_hangs_from_the_first_read_on_does_not_keep_the_daemon_from_starting(own_thread: bool) -> None:
    stuck = FakeSensor("stuck", own_thread=own_thread)
    stuck.gate.clear()
    with sampling(stuck, FakeSensor("good", [7.0]), interval_ns=60 * S) as (sampler, sink):
        assert sink.column(sampler.schema, "good.0") == [7.0]
        assert math.isnan(sink.column(sampler.schema, "stuck.0")[0])
        began = time.monotonic()
        sampler.stop()
        assert time.monotonic() - began <= 2.0
        assert sink.column(sampler.schema, "good.0")[-1] == 7.0


def test_two_sensors_that_hang_leave_the_third() -> None:
    one, other, good = FakeSensor("one"), FakeSensor("other"), FakeSensor("good", [7.0])
    with sampling(one, other, good) as (sampler, sink):
        one.gate.clear()
        other.gate.clear()
        eventually(lambda: one.reads >= 2 and other.reads >= 2, what="both hang")
        ticks(sink, 3)
        sampler.stop()
        assert sink.column(sampler.schema, "good.0") == [7.0] * len(sink)


@pytest.mark.parametrize("own_thread", [False, True])
def test_what_a_slow_sensor_delivers_late_is_used_at_the_next_tick(own_thread: bool) -> None:
    slow = FakeSensor("slow", [1.0], own_thread=own_thread)
    with sampling(slow, FakeSensor("good", [7.0])) as (sampler, sink):
        slow.values = [5.0]
        slow.gate.clear()
        eventually(lambda: math.isnan(sink.column(sampler.schema, "slow.0")[-1]), what="a tick without it")
        slow.gate.set()
        eventually(lambda: 5.0 in sink.column(sampler.schema, "slow.0"), what="its value in a later tick")
        ticks(sink, 2)
        assert sink.column(sampler.schema, "slow.0")[-1] == 5.0
        late = sink.column(sampler.schema, "yprov.sensor.late", "slow")
        assert late[-1] < len(sink)
        assert late[-1] == late[-2]  # it is quick again, and read with the others
        assert sink.column(sampler.schema, "good.0") == [7.0] * len(sink)


def test_a_sensor_with_a_thread_of_its_own_is_in_the_sample_of_the_same_tick() -> None:
    own, good = FakeSensor("own", [1.0], own_thread=True), FakeSensor("good", [7.0])
    with sampling(own, good) as (sampler, sink):
        ticks(sink, 3)
        sampler.stop()
        assert sink.column(sampler.schema, "own.0") == [1.0] * len(sink)
        assert own.reads == len(sink), "once per tick"
        assert set(sink.column(sampler.schema, "yprov.sensor.late", "own")) == {0.0}
        assert own.closed == 1


def test_nothing_is_read_after_it_was_closed_though_another_sensor_hangs_at_the_end() -> None:
    hanging, own = FakeSensor("hanging"), FakeSensor("own", own_thread=True)
    with sampling(hanging, own, interval_ns=60 * S) as (sampler, sink):
        hanging.gate.clear()
        sampler.stop(timeout_s=0.9)  # less than the patience with `hanging`: there is no last sample
        assert (own.reads, own.closed, hanging.closed) == (2, 1, 0)
        hanging.gate.set()
        eventually(lambda: "yprov-sampler" not in {t.name for t in threading.enumerate()}, 5, "its threads end")
        assert (own.reads, len(sink)) == (2, 1)


def test_what_devices_have_recorded_by_themselves_is_in_one_sample_under_the_number_of_the_schema() -> None:
    power = [Metric("hw.power", "W", "gauge", "power", 1e-3, Device("gpu", id)) for id in "ab"]
    plain, first = FakeSensor("plain"), FakeSensor("first", traced=power[:1])
    second = FakeSensor("second", traced=power)
    second.recorded = [Trace(1, [10, 20], [100.0, 200.0])]
    with sampling(plain, first, second) as (sampler, sink):
        assert sampler.schema.traced == (power[0], *power)
        assert list(sink[0].traces) == [Trace(2, [10, 20], [100.0, 200.0])]
        first.recorded = [Trace(0, [30], [5.0])]
        eventually(lambda: any(s.traces for s in sink[1:]), what="a sample with the other's")
        sampler.stop()
        assert [list(s.traces) for s in sink[1:] if s.traces] == [[Trace(0, [30], [5.0])]]


def test_how_long_a_sensor_took_is_in_the_sample() -> None:
    with sampling(FakeSensor("a"), interval_ns=60 * S) as (sampler, sink):
        took = sink.column(sampler.schema, "yprov.sensor.duration", "a")[0]
        whole = sink.column(sampler.schema, "yprov.sampler.duration")[0]
        assert 0 < took <= whole < 2


def test_without_any_sensor_there_are_still_samples_of_the_sampler_itself() -> None:
    with sampling() as (sampler, sink):
        ticks(sink, 1)
        assert all(len(s.values) == 2 for s in sink)
        assert len(sampler.schema.metrics) == 2


def test_the_schema_carries_what_is_absent_and_every_sensors_own_metrics() -> None:
    absent = Absence("amd", "no such device", "module load rocm")
    gpu = FakeSensor("gpu", [1.0], device=Device("gpu", "GPU-1"))
    sampler = Sampler([gpu], [absent], interval_ns=S, clock=ManualClock(), sink=MemorySink())
    assert sampler.schema.absences == (absent,)
    assert sampler.schema.interval_ns == S
    own = {m.name for m in sampler.schema.metrics if m.device == Device("sensor", "gpu")}
    assert own == {"yprov.sensor.duration", "yprov.sensor.failures", "yprov.sensor.late"}


def test_an_unknown_metric_in_a_test_is_named() -> None:
    with pytest.raises(KeyError, match=r"`power` of `x`"):
        MemorySink().column(Sampler([], [], interval_ns=S, clock=ManualClock(), sink=MemorySink()).schema, "power", "x")
