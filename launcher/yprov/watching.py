"""Looking at sensors for a while: what each of their numbers does, how often, and how long a look takes.

A vendor's call may never come back. So each sensor is opened, read and closed in a thread of its own, and whoever
waits for that does so under a deadline: a thread that hangs is left behind, and what it was doing is an outcome.
"""

from __future__ import annotations

import importlib
import queue
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence

from yprov.seen import Meter, Seen, meters_of
from yprovd.errors import SensorUnavailable
from yprovd.model import Metric, Trace
from yprovd.sensors import Sensor, Surroundings

#: Seconds. Opening may start a driver: a second or two for each GPU that nobody uses.
OPEN_S, CALL_S = 20.0, 3.0
#: What a call gets when the user has asked for the end.
HURRY_S = 1.0
#: Between two reads of a sensor: in a burst, and over a while. A read takes at most a fifth of the time.
BURST_PERIOD_S, PERIOD_S = 0.001, 0.05
_SHARE = 5


class Worker:
    """A thread for calls that may never come back. It does one after the other what it is asked to do."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._asked = self._done = 0
        self._changed = threading.Condition()
        self.call = ""    # what it is doing, or did last
        self.since = 0.0  # monotonic seconds
        threading.Thread(target=self._run, name=f"yprov-{name}", daemon=True).start()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self.call, self.since = task[0], time.monotonic()
            task[1]()
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    def ask(self, name: str, task: Callable[[], None]) -> None:
        """`task` must not raise."""
        self._asked += 1
        self._tasks.put((name, task))

    def wait(self, timeout_s: float) -> bool:
        """Until all is done that it was asked for. False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done == self._asked, timeout_s)

    def end(self) -> None:
        self._tasks.put(None)


class Watch:
    """One source: its sensor, or why there is none; its numbers; how long reads took.

    All but the waiting is done by the thread of the watch. `outcome` is `ok`, `absent`, `fails` (it opens, and no read
    is good) or `hangs`; `reason` says why.
    """

    def __init__(self, name: str, target: str, where: Surroundings, hurry: threading.Event | None = None) -> None:
        self.name, self._target, self._where = name, target, where
        self._hurry = hurry or threading.Event()  # nobody wants to wait any more
        self.worker = Worker(name)
        self.sensor: Sensor | None = None
        self.reason = self.hint = ""
        self.good = self.failures = 0  # reads
        self.metrics: tuple[Metric, ...] = ()
        self.seen: list[Seen] = []
        self.traced: list[Seen] = []
        self.meters: list[Meter] = []
        self.latest: Sequence[float] = ()
        self.burst_s, self.slow_s = array("d"), 0.0
        self._stop = threading.Event()
        self.hung = False

    def open(self, timeout_s: float = OPEN_S) -> bool:
        self.worker.ask("opening it", self._open)
        return self._within(timeout_s)

    def burst(self, seconds: float, reads: int) -> bool:
        """Read it quickly, for so long or so often."""
        self.worker.ask("a read", lambda: self._burst(seconds, reads))
        return self._within(seconds + CALL_S)

    def begin(self) -> None:
        """Read it now and then, until `end`."""
        self._stop.clear()
        self.worker.ask("a read", self._keep_reading)

    def stop(self) -> None:
        self._stop.set()

    def end(self, timeout_s: float) -> None:
        """Stop, and close the sensor."""
        self._stop.set()
        self.worker.ask("closing it", self._close)
        self.worker.end()
        self._within(timeout_s)

    def _within(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not self.worker.wait(max(0.0, min(end - time.monotonic(), 0.1))) and time.monotonic() < end:
            if self._hurry.is_set():
                end = min(end, time.monotonic() + HURRY_S)
        self.hung = not self.worker.wait(0.0)
        return not self.hung

    @property
    def outcome(self) -> str:
        if self.hung:
            return "hangs"
        if self.sensor is None:
            return "absent"
        return "ok" if self.good else "fails"

    def why(self) -> str:
        if self.hung:
            return f"{self.worker.call} has not come back for {time.monotonic() - self.worker.since:.0f} s"
        return self.reason

    # -- in the thread of the watch

    def _open(self) -> None:
        module, _, cls = self._target.partition(":")
        try:
            sensor = getattr(importlib.import_module(module), cls)(self._where)
            self.metrics = sensor.metrics
            self.seen = [Seen(m) for m in sensor.metrics]
            self.traced = [Seen(m) for m in getattr(sensor, "traced", ())]
            self.meters = meters_of(sensor.metrics)
            self.sensor = sensor
        except SensorUnavailable as e:
            self.reason, self.hint = e.reason, e.hint
        except Exception as e:  # noqa: BLE001  whatever it is, it is what the user asked for
            self.reason = f"{type(e).__name__}: {e}"

    def _burst(self, seconds: float, reads: int) -> None:
        if self.sensor is None:
            return
        end = time.monotonic() + seconds
        for n in range(reads):
            took = self._read()
            self.burst_s.append(took)
            if n and (time.monotonic() > end or self._stop.wait(max(0.0, BURST_PERIOD_S - took))):
                break
        for seen in self.seen:
            seen.slower()

    def _keep_reading(self) -> None:
        if self.sensor is None:
            return
        for meter in self.meters:
            meter.pause()
        while True:
            took = self._read()
            self.slow_s = max(self.slow_s, took)
            if self._stop.wait(max(PERIOD_S - took, took * (_SHARE - 1))):
                return

    def _read(self) -> float:
        """One read. Returns how long it took."""
        assert self.sensor is not None
        began = self.worker.since = time.monotonic()
        try:
            values = [float(v) for v in self.sensor.read()]
            traces: Sequence[Trace] = self.sensor.traces() if self.traced else ()  # type: ignore[attr-defined]
            now = time.monotonic()
            if len(values) != len(self.seen):
                raise ValueError(f"{len(values)} values for {len(self.seen)} metrics")
            self._take(now, values, traces)
        except Exception as e:  # noqa: BLE001  whatever it is, it is what the user asked for
            now = time.monotonic()
            self.failures += 1
            self.reason = f"{type(e).__name__}: {e}"
        return now - began

    def _take(self, now: float, values: Sequence[float], traces: Sequence[Trace]) -> None:
        self.latest = values
        self.good += 1
        for seen, value in zip(self.seen, values, strict=True):
            seen.take(now, value)
        for meter in self.meters:
            meter.take(now, values)
        for trace in traces:
            seen = self.traced[trace.metric]
            for at_ns, value in zip(trace.mono_ns, trace.values, strict=True):
                seen.take(at_ns / 1e9, value)

    def _close(self) -> None:
        if self.sensor is not None:
            self.sensor.close()


def watch_all(
    where: Surroundings, table: Mapping[str, str], *, reads: int, burst_s: Callable[[Watch], float], seconds: float,
    stop: threading.Event, tick: Callable[[float, Sequence[Watch]], None] = lambda at, watches: None,
    open_s: float = OPEN_S,
) -> tuple[list[Watch], float]:
    """Open every source, read each quickly while the others are quiet (at most `reads` times, for at most `burst_s` of
    it), then all of them for `seconds` or until `stop`. `tick` is called every quarter of a second meanwhile, with the
    seconds since their begin. Returns the watches and for how long they were watched."""
    watches = [Watch(name, target, where, stop) for name, target in table.items()]
    for watch in watches:
        if watch.open(open_s):
            watch.burst(burst_s(watch), 1 if stop.is_set() else reads)
    for watch in watches:
        watch.begin()
    began = time.monotonic()
    while not stop.is_set() and (left := began + seconds - time.monotonic()) > 0:
        stop.wait(min(left, 0.25))
        tick(time.monotonic() - began, watches)
    watched = time.monotonic() - began
    for watch in watches:
        watch.stop()
    deadline = time.monotonic() + CALL_S
    for watch in watches:
        watch.end(max(0.1, deadline - time.monotonic()))
    return watches, watched
