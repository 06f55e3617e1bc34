"""Ticks to samples: reads every sensor at every deadline, whatever one of them does.

The sensors are read one after the other in one thread, the reader. When a read does not come back within the patience,
half an interval, that thread is left to its sensor and another reader goes on with the others: a sensor that hangs
costs them nothing but a delay within the tick. What it delivers late is used at the next tick; once it is quick again
it is read with the others again. A sensor with a thread of its own (`Sensor.own_thread`) is read so from the start.

The sampler measures itself into the same sample: how long each sensor took, how often it failed or was late, and how
many ticks were missed (`_self_metrics`). A failing sensor delivers NaN and is read again at the next tick.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence

from yprovd.clock import Clock, Ticker
from yprovd.model import Absence, Device, Metric, Sample, Schema, Trace
from yprovd.sensors import Sensor

_ITSELF = (
    Metric("yprov.sampler.duration", "s", "gauge", "time from the tick to the whole sample", 1e-6),
    Metric("yprov.sampler.missed_ticks", "{tick}", "counter", "ticks for which no sample was taken", 1),
)


def _self_metrics(sensors: Sequence[Sensor], *, first: bool) -> tuple[Metric, ...]:
    """What the sampler says of itself and, for each sensor, of that sensor (device class `sensor`)."""
    out = list(_ITSELF) if first else []
    for sensor in sensors:
        device = Device("sensor", sensor.name)
        out += [
            Metric("yprov.sensor.duration", "s", "gauge", "time that one read took", 1e-6, device),
            Metric("yprov.sensor.failures", "{read}", "counter", "reads that raised an error", 1, device),
            Metric("yprov.sensor.late", "{read}", "counter", "reads that were not done in time", 1, device),
        ]
    return tuple(out)


#: Sensors are read at least this often, whatever the interval of the samples: 280 W wrap an AMD package's counter in
#: 234 s.
READ_S = 30.0


class _Slot:
    """One sensor and what its last read gave. Shared by the threads of the sampler, under its lock."""

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor
        self.always_alone = getattr(sensor, "own_thread", False)
        self.traced: tuple[Metric, ...] = getattr(sensor, "traced", ())
        self.first_trace = 0
        self.traces: list[Trace] = []
        self.absent = [math.nan] * len(sensor.metrics)
        self.values: Sequence[float] = self.absent
        self.fresh = False
        self.duration_s = math.nan
        self.failures = 0
        self.late = 0
        self.alone: threading.Event | None = None  # set at each tick for the thread that reads this sensor alone
        self.busy = False
        self.asked = False  # its own thread has been told of this round, and will be done with it soon
        self.done = threading.Event()


class Sampler:
    """Reads `sensors` every `interval_ns`, aligned to the wall clock, and gives each Sample to `sink`.

    `start()` takes the first sample at once (filed under the tick before) and `stop()` the last one (filed under the
    tick after), so that counters cover the run from edge to edge. `sink` is called from the sampler's own threads,
    never from two at once. Somebody has to notice a stuck reader: a thread of the sampler, or, with
    `own_watch=False`, the owner, who calls `watch()` from its loop and saves a wake-up per tick. `first`: of several
    samplers of one node only the first says how it is itself.
    """

    def __init__(
        self, sensors: Sequence[Sensor], absences: Sequence[Absence], *, interval_ns: int, clock: Clock,
        sink: Callable[[Sample], None], own_watch: bool = True, first: bool = True,
    ) -> None:
        self._own_watch = own_watch
        self._is_first = first
        self._slots = [_Slot(s) for s in sensors]
        self.schema = Schema(
            interval_ns,
            tuple(m for s in sensors for m in s.metrics) + _self_metrics(sensors, first=first),
            tuple(absences),
            tuple(m for slot in self._slots for m in slot.traced),
        )
        for slot, before in zip(self._slots[1:], self._slots, strict=False):
            slot.first_trace = before.first_trace + len(before.traced)
        self._clock = clock
        self._sink = sink
        # Counters are read at least every READ_S, because some wrap within minutes (RAPL); a sample is only given at
        # whole intervals.
        parts = -(-interval_ns // round(READ_S * 1e9))
        self._read_ns = interval_ns // next((n for n in range(parts, parts + 1000) if interval_ns % n == 0), 1)
        self._patience_s = min(0.5 * self._read_ns / 1e9, 1.0)
        self._ticker = Ticker(self._read_ns, clock)
        self._lock = threading.Lock()
        self._wake = threading.Event()    # ends waits: of the reader and of the watchdog
        self._first = threading.Event()
        self._last = threading.Event()
        # The reader's place, so that another one can go on where it is stuck; a reader whose generation is not the
        # current one has been replaced.
        self._generation = 0
        self._reading: _Slot | None = None
        self._round: tuple[int, int, int, float] | None = None  # nominal, wall, mono ns; perf_counter
        self._next_s = time.perf_counter()

    def start(self, timeout_s: float = 2.0) -> None:
        """Take the first sample, blocking for it, and go on in threads."""
        self._ticker = Ticker(self._read_ns, self._clock)  # now: no tick between construction and here is due
        for slot in self._slots:
            if slot.always_alone:
                slot.alone = threading.Event()
                self._spawn(self._read_alone, slot)
        self._spawn(self._read_all, 0)
        self._wait(self._first, timeout_s)
        if self._own_watch:
            self._spawn(self._keep_watching)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Take the last sample, blocking for it, and end. Sensors are closed unless they hang."""
        self._wake.set()
        self._wait(self._last, timeout_s)
        with self._lock:
            self._last.set()  # also for threads that come late: nothing is read after it was closed
            self._generation += 1
            idle = [s for s in self._slots if not s.busy]
        for slot in self._slots:
            if slot.alone is not None:
                slot.alone.set()
        for slot in idle:
            slot.sensor.close()

    @staticmethod
    def _spawn(target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, name="yprov-sampler", daemon=True).start()

    def _read_all(self, generation: int) -> None:
        """A reader: finish the round that is under way, if there is one, and then a round per tick."""
        interval = self.schema.interval_ns
        if generation == 0:
            self._begin(self._ticker.previous_ns // interval * interval)
        while self._finish_round(generation):
            self._first.set()
            if self._last.is_set():
                return
            while not self._wake.is_set() and (wait := self._ticker.wait_ns()):
                self._next_s = time.perf_counter() + wait / 1e9
                self._wake.wait(wait / 1e9)
            if self._wake.is_set():
                self._ticker.missed += self._ticker.wait_ns() == 0  # the last sample stands for the tick after that
                self._last_round(generation, -(-self._clock.wall_ns() // interval) * interval)
                return
            self._begin(self._ticker.take())

    def _last_round(self, generation: int, nominal_ns: int) -> None:
        self._begin(nominal_ns)
        if self._finish_round(generation):
            self._last.set()

    def _begin(self, nominal_ns: int) -> None:
        with self._lock:
            self._round = (nominal_ns, self._clock.wall_ns(), self._clock.mono_ns(), time.perf_counter())
        for slot in self._slots:
            if slot.alone is not None and not slot.busy:
                slot.asked = slot.always_alone
                slot.done.clear()
                slot.alone.set()

    def _finish_round(self, generation: int) -> bool:
        """Read what this round still lacks and emit the sample. False when this reader has been replaced."""
        for slot in self._slots:
            with self._lock:
                if self._generation != generation:
                    return False
                if slot.fresh or slot.alone is not None:
                    continue
                self._reading = slot
                slot.busy = True
            self._read(slot)
            if slot.alone is not None:  # it took so long that another reader has gone on without us
                self._read_alone(slot)
                return False
        self._wait_for_threads()
        with self._lock:
            if self._generation != generation:
                return False
            self._reading = None
            assert self._round is not None
            nominal, wall, mono, began = self._round
            self._round = None
            if nominal % self.schema.interval_ns:  # read between two samples, for the sake of counters that wrap
                for slot in self._slots:
                    slot.fresh = False
                return True
            values: list[float] = []
            traces: list[Trace] = []
            for slot in self._slots:
                values += slot.values if slot.fresh else slot.absent
                slot.late += not slot.fresh
                slot.fresh = False
                traces += slot.traces
                slot.traces = []
            if self._is_first:
                values += [time.perf_counter() - began, float(self._ticker.missed)]
            for slot in self._slots:
                values += [slot.duration_s, float(slot.failures), float(slot.late)]
        self._sink(Sample(nominal, wall, mono, values, traces))
        return True

    def _wait_for_threads(self) -> None:
        """The sensors with threads of their own were asked at the tick: usually they are done by now. One that is not
        within the patience is late, and is not waited for again before it has come back."""
        end = time.perf_counter() + self._patience_s
        for slot in self._slots:
            if slot.asked:
                slot.done.wait(max(0.0, end - time.perf_counter()))
                slot.asked = False

    def _read(self, slot: _Slot) -> None:
        began = time.perf_counter()
        traces: list[Trace] = []
        try:
            values = array("d", slot.sensor.read())  # a copy, and numbers: None from a vendor's library is a failure
            failed = len(values) != len(slot.absent)
            if slot.traced:
                traces = [t._replace(metric=t.metric + slot.first_trace) for t in slot.sensor.traces()]  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001  one sensor's failure is counted and stays its own
            failed = True
        took = time.perf_counter() - began
        with self._lock:
            slot.values = slot.absent if failed else values
            slot.traces += traces
            slot.failures += failed
            slot.fresh = True
            slot.busy = False
            slot.duration_s = took
            slot.done.set()
            if self._reading is slot:
                self._reading = None

    def _read_alone(self, slot: _Slot) -> None:
        """The thread of a sensor: a read per tick, until the sampler ends or, unless it always has one, it is quick
        again."""
        go = slot.alone
        assert go is not None
        while True:
            with self._lock:
                if slot.duration_s < self._patience_s / 2 and not slot.always_alone:
                    slot.alone = None
                    return
            go.wait()
            go.clear()
            with self._lock:
                if self._last.is_set():
                    return
                slot.busy = True
            self._read(slot)

    def watch(self) -> float:
        """Replace a reader that is stuck. Returns in how many seconds to look again; never blocks."""
        now = time.perf_counter()
        with self._lock:
            if self._round is None:
                return max(0.0, self._next_s - now) + self._patience_s
            left = self._round[3] + self._patience_s - now
            stuck = self._reading
            if left > 0 or stuck is None:
                return max(left, 0.001)
            stuck.alone = threading.Event()
            self._reading = None
            self._generation += 1
            generation = self._generation
            self._round = (*self._round[:3], now)  # the next reader has its own patience
        self._spawn(self._resume_last if self._wake.is_set() else self._read_all, generation)
        return self._patience_s

    def _keep_watching(self) -> None:
        while not self._wake.wait(self.watch()):
            pass

    def _wait(self, event: threading.Event, timeout_s: float) -> None:
        end = time.perf_counter() + timeout_s
        while not event.wait(max(0.001, min(self.watch(), end - time.perf_counter()))):
            if time.perf_counter() > end:
                return

    def _resume_last(self, generation: int) -> None:
        if self._finish_round(generation):
            self._last.set()
