"""The sensors of a node, and what they say as frames.

A vendor's library may take longer to open than a command should wait (eight GPUs that have to wake up first). Such a
sensor joins when it is open, with a sampler and a schema of its own: until then it is an absence, with that reason.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from yprovd.clock import Clock
from yprovd.config import RunConfig
from yprovd.model import Absence, Sample
from yprovd.sampler import Sampler
from yprovd.sensors import Sensor, Surroundings, open_all
from yprovd.wire import Kind, Packer, pack_samples, pack_traces

#: How long vendors' libraries may take to open: the launcher waits for us a little longer (`yprov.starting.READY_S`).
OPEN_S = 8.0
#: How long the last samples are waited for.
STOP_S = 2.0


class NodeSensors:
    """Opens them, which may block for OPEN_S. `wake` is called, from any thread, when there is something for
    `frames()`; all else is called by the daemon's loop."""

    def __init__(self, config: RunConfig, environ: dict[str, str], clock: Clock, packer: Packer,
                 wake: Callable[[], None]) -> None:
        self._config, self._clock, self._packer, self._wake = config, clock, packer, wake
        self._samples: deque[tuple[int, Sample]] = deque()
        self._late: deque[Sensor] = deque()
        sensors, absences = open_all(Surroundings(config.root, config.run_id, environ), config.settings.disable,
                                     patience_s=OPEN_S, late=self._on_late)
        self._samplers: list[Sampler] = []
        self._add(sensors, absences)

    def _add(self, sensors: Sequence[Sensor], absences: Sequence[Absence]) -> Sampler:
        number = len(self._samplers)

        def take(sample: Sample) -> None:
            self._samples.append((number, sample))
            self._wake()

        sampler = Sampler(sensors, absences, interval_ns=self._config.interval_ns, clock=self._clock, sink=take,
                          own_watch=False, first=not number)
        self._samplers.append(sampler)
        return sampler

    def _on_late(self, sensor: Sensor) -> None:
        self._late.append(sensor)
        self._wake()

    def start(self) -> None:
        """Take the first sample, blocking for it (2 s at most), and go on in threads."""
        self._samplers[0].start()

    def watch(self) -> float:
        """Replace readers that are stuck. Returns in how many seconds to look again; never blocks."""
        return min(sampler.watch() for sampler in self._samplers)

    def schemas(self) -> list[bytes]:
        return [self._packer.frame(Kind.SCHEMA, sampler.schema.to_json()) for sampler in self._samplers]

    def frames(self) -> list[bytes]:
        """Of all samples that there are, and of sensors that have joined."""
        out: list[bytes] = []
        while self._late:
            joined = self._add([self._late.popleft()], [])
            out.append(self._packer.frame(Kind.SCHEMA, joined.schema.to_json()))
            joined.start(timeout_s=0.0)
        while self._samples:
            number, sample = self._samples.popleft()
            schema = self._samplers[number].schema.id
            out.append(self._packer.frame(Kind.SAMPLES, pack_samples(schema, [sample])))
            if sample.traces:
                out.append(self._packer.frame(Kind.TRACE, pack_traces(schema, sample.traces)))
        return out

    def stop(self) -> None:
        """Take the last samples, blocking for them, STOP_S at most, and close what does not hang."""
        deadline = time.monotonic() + STOP_S
        for sampler in self._samplers:
            sampler.stop(max(0.1, deadline - time.monotonic()))
