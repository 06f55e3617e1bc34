"""Doubles for tests of what is built on this package, ours and other people's: a clock that stands still until it is
told to move, a sensor that delivers what it is told, a sink that remembers.

    clock = ManualClock(wall_ns=1_700_000_000 * 10**9)
    sensor, sink = FakeSensor("power", [120.0]), MemorySink()
    sampler = Sampler([sensor], [], interval_ns=10**9, clock=clock, sink=sink)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from yprovd.model import Device, Metric, Sample, Schema, Trace


class ManualClock:
    """Both clocks, in the hand of the test. `mono_ns` only grows; `wall_ns` may be set to anything."""

    def __init__(self, wall_ns: int = 0, mono_ns: int = 0) -> None:
        self._wall_ns = wall_ns
        self._mono_ns = mono_ns

    def wall_ns(self) -> int:
        return self._wall_ns

    def mono_ns(self) -> int:
        return self._mono_ns

    def advance(self, ns: int) -> None:
        """Time passes, on both clocks."""
        if ns < 0:
            raise ValueError("time does not go back; set_wall() is how a wall clock is set")
        self._wall_ns += ns
        self._mono_ns += ns

    def set_wall(self, wall_ns: int) -> None:
        """Somebody sets the wall clock, back or forward."""
        self._wall_ns = wall_ns


class FakeSensor:
    """A `Sensor` that delivers `values`, as many gauges named `<name>.0`, `<name>.1`...

    All of it may be changed at any time: `values` is what `read()` gives; `error`, while it is set, is raised instead;
    while `gate` is cleared, `read()` hangs. `reads` counts calls of `read()` as they begin, `closed` those of
    `close()`. `own_thread`, `traced`: as of a `Sensor`; `recorded` is what the next `traces()` gives, once.
    """

    def __init__(
        self, name: str, values: Sequence[float] = (1.0,), *, device: Device | None = None, own_thread: bool = False,
        traced: Sequence[Metric] = (),
    ) -> None:
        self.name = name
        self.own_thread = own_thread
        self.traced = tuple(traced)
        self.recorded: list[Trace] = []
        self.values = values
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.reads = 0
        self.closed = 0
        self._metrics = tuple(
            Metric(f"{name}.{i}", "1", "gauge", f"value {i} of a fake sensor", 1e-6, device)
            for i in range(len(values))
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._metrics

    def read(self) -> Sequence[float]:
        self.reads += 1
        self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.values

    def traces(self) -> list[Trace]:
        recorded, self.recorded = self.recorded, []
        return recorded

    def close(self) -> None:
        self.closed += 1


class MemorySink(list[Sample]):
    """A sink for a `Sampler`: the list of the samples that it was given."""

    def __call__(self, sample: Sample) -> None:
        self.append(sample)

    def column(self, schema: Schema, metric: str, device: str | None = None) -> list[float]:
        """The values of one metric, sample after sample. `device`: its id, for a metric that several devices have."""
        for i, m in enumerate(schema.metrics):
            if m.name == metric and (device is None or (m.device is not None and m.device.id == device)):
                return [sample.values[i] for sample in self]
        raise KeyError(f"the schema has no metric `{metric}`" + (f" of `{device}`" if device else ""))
