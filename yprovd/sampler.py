"""Ticks to samples: reads every sensor at every deadline, whatever one of them does.

The sensors are read one after the other in one thread, a lane. When a read does not come back within the patience,
that lane is left to its sensor and the others go on in a new one: a sensor that hangs costs the others one late tick
and nothing after it. What a slow sensor delivers late is used at the next tick.

The sampler measures itself into the same sample: how long each sensor took, how often it failed or was late, and how
many ticks were missed (`SELF`). A failing sensor delivers NaN and is read again at the next tick.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from yprovd.clock import Clock, Ticker
from yprovd.model import Absence, Device, Metric, Sample, Schema
from yprovd.sensors import Sensor


def _self_metrics(sensors: Sequence[Sensor]) -> tuple[Metric, ...]:
    """What the sampler says of itself and, for each sensor, of that sensor (device class `sensor`)."""
    out = [
        Metric("yprov.sampler.duration", "s", "gauge", "time from the tick to the whole sample", 1e-6),
        Metric("yprov.sampler.missed_ticks", "{tick}", "counter", "ticks for which no sample was taken", 1),
    ]
    for sensor in sensors:
        device = Device("sensor", sensor.name)
        out += [
            Metric("yprov.sensor.duration", "s", "gauge", "time that one read took", 1e-6, device),
            Metric("yprov.sensor.failures", "{read}", "counter", "reads that raised an error", 1, device),
            Metric("yprov.sensor.late", "{read}", "counter", "reads that were not done in time", 1, device),
        ]
    return tuple(out)


class _Slot:
    """One sensor and what its last read gave. Shared by the lane that reads it and the sampler, under `_Lane.lock`."""

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor
        self.absent = [math.nan] * len(sensor.metrics)
        self.values: Sequence[float] = self.absent
        self.fresh = False
        self.duration_s = math.nan
        self.failures = 0
        self.late = 0


class _Lane:
    """A thread that reads its slots in order, once per `start()`."""

    def __init__(self, slots: list[_Slot], done: threading.Condition, *, resume: bool = False) -> None:
        self.slots = slots
        self._resume = resume  # the first round goes on where another lane was stuck
        self.reading: _Slot | None = None
        self.idle = True
        self.abandoned = False
        self._done = done
        self._go = threading.Event()
        self._stop = False
        threading.Thread(target=self._run, name="yprov-sensors", daemon=True).start()

    def start(self) -> None:
        self.idle = False
        self._go.set()

    def stop(self) -> None:
        self._stop = True
        self._go.set()

    def _run(self) -> None:
        while True:
            self._go.wait()
            self._go.clear()
            if self._stop:
                return
            for slot in tuple(self.slots):
                with self._done:
                    if slot not in self.slots or (self._resume and slot.fresh):
                        continue  # handed to another lane while this one was stuck, or already read at this tick
                    self.reading = slot
                began = time.perf_counter()
                try:
                    values = slot.sensor.read()
                    failed = len(values) != len(slot.absent)
                except Exception:  # noqa: BLE001  one sensor's failure is counted and stays its own
                    failed = True
                took = time.perf_counter() - began
                with self._done:
                    self.reading = None
                    slot.values = slot.absent if failed else values
                    slot.failures += failed
                    slot.fresh = True
                    slot.duration_s = took
            with self._done:
                self._resume = False
                self.idle = True
                self._done.notify_all()


class Sampler:
    """Reads `sensors` every `interval_ns`, aligned to the wall clock, and gives each Sample to `sink`.

    `start()` takes the first sample at once (filed under the tick before) and `stop()` the last one (filed under the
    tick after), so that counters cover the run from edge to edge. `sink` is called from the sampler's own thread.
    """

    def __init__(
        self, sensors: Sequence[Sensor], absences: Sequence[Absence], *, interval_ns: int, clock: Clock,
        sink: Callable[[Sample], None],
    ) -> None:
        self._slots = [_Slot(s) for s in sensors]
        self.schema = Schema(
            interval_ns,
            tuple(m for s in sensors for m in s.metrics) + _self_metrics(sensors),
            tuple(absences),
        )
        self._clock = clock
        self._sink = sink
        self._patience_s = min(0.8 * interval_ns / 1e9, 1.0)
        self._done = threading.Condition()
        self._lanes = [_Lane(list(self._slots), self._done)] if self._slots else []
        self._ticker = Ticker(interval_ns, clock)
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="yprov-sampler", daemon=True)

    def start(self) -> None:
        """Take the first sample (blocks for it) and go on in a thread."""
        interval = self.schema.interval_ns
        self._take(self._clock.wall_ns() // interval * interval)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Take the last sample, blocking for the sensors' patience, and end. Sensors are closed unless they hang."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)
        interval = self.schema.interval_ns
        self._take(-(-self._clock.wall_ns() // interval) * interval)
        for lane in self._lanes:
            lane.stop()
        stuck = {id(lane.reading) for lane in self._lanes if lane.reading is not None}
        for slot in self._slots:
            if id(slot) not in stuck:
                slot.sensor.close()

    def _run(self) -> None:
        while True:
            wait = self._ticker.wait_ns()
            if wait:
                self._wake.wait(wait / 1e9)
                if self._stopping:
                    return
                continue
            self._take(self._ticker.take())
            if self._stopping:
                return

    def _take(self, nominal_ns: int) -> None:
        wall, mono = self._clock.wall_ns(), self._clock.mono_ns()
        began = time.perf_counter()
        for lane in self._lanes:
            if lane.idle:
                lane.abandoned = False
                lane.start()
        deadline = began + self._patience_s
        with self._done:
            while not all(lane.idle or lane.abandoned for lane in self._lanes):
                left = deadline - time.perf_counter()
                if left <= 0:
                    self._split()
                    break
                self._done.wait(left)
            values: list[float] = []
            for slot in self._slots:
                values.extend(slot.values if slot.fresh else slot.absent)
                slot.late += not slot.fresh
                slot.fresh = False
            values += [time.perf_counter() - began, float(self._ticker.missed)]
            for slot in self._slots:
                values += [slot.duration_s, float(slot.failures), float(slot.late)]
        self._sink(Sample(nominal_ns, wall, mono, values))

    def _split(self) -> None:
        """Leave each stuck lane to the sensor that it is stuck in; the rest of its sensors get a lane of their own,
        which reads at once what this tick still lacks. Called with the lock held."""
        for lane in [x for x in self._lanes if not x.idle and x.reading is not None]:
            stuck = lane.reading
            assert stuck is not None
            rest = [s for s in lane.slots if s is not stuck]
            lane.slots[:] = [stuck]
            lane.abandoned = True
            if rest:
                fresh = _Lane(rest, self._done, resume=True)
                self._lanes.append(fresh)
                fresh.start()
                end = time.perf_counter() + self._patience_s / 4
                while not fresh.idle and time.perf_counter() < end:
                    self._done.wait(max(0.0, end - time.perf_counter()))
