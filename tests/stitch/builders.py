"""Spools made by hand, for tests: real frames in real files, with times that a test chooses.

    run = RunSpool(tmp_path)
    run.begin(name="demo")
    node = run.node("n1", [gauge("system.cpu.utilization", "1", 0.01)])
    node.sample(0.0, [0.5])
    rank = run.process("n1", rank=0)
    with rank.span(1.0, 4.0, "context", "training"):
        rank.metric(2.0, "loss", 0.5, step=1)
    run.finish(5.0)
    record = run.record()

All times are seconds after T0 (2026-01-01T00:00:00Z) on the wall clock. The monotonic clock of a host differs from it
by a constant of its own (`offset_ns`). Sources are numbered 1, 2, 3... so that a test's spool is the same every time.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yprovd.model import Absence, Device, Metric, Sample, Schema, Trace
from yprovd.spool import SpoolWriter, spool_files
from yprovd.stitch.reading import read_record
from yprovd.stitch.record import Record
from yprovd.wire import Kind, Packer, pack_metrics, pack_samples, pack_traces

S = 1_000_000_000
T0 = 1_767_225_600 * S


def ns(at_s: float) -> int:
    """Wall-clock nanoseconds of a test's time."""
    return T0 + round(at_s * S)


def offset_ns(host: str) -> int:
    """Wall clock minus monotonic clock of a host: it booted some days before T0."""
    return T0 - (zlib.crc32(host.encode()) % 10**6 + 10**5) * S


def gauge(name: str, unit: str = "1", resolution: float = 1.0, device: Device | None = None) -> Metric:
    return Metric(name, unit, "gauge", f"the {name}", resolution, device)


def counter(name: str, unit: str = "J", resolution: float = 1e-6, device: Device | None = None) -> Metric:
    return Metric(name, unit, "counter", f"the {name}", resolution, device)


def time_of(name: str, device: Device) -> Metric:
    """When `name` of the device had its value."""
    return Metric(f"{name}.time", "s", "time", f"when {name} had its value", 1e-6, device)


def package(number: int = 0, *, summed: bool = True) -> Device:
    """A RAPL zone that counts for the node's energy, or (summed=False) one that lies within another."""
    name = f"package-{number}" if summed else f"package-{number}/dram"
    return Device("rapl", f"intel-rapl:{number}" + ("" if summed else ":0"), name, {"summed": summed})


class _Clock:
    """Stands where the builder puts it."""

    def __init__(self, host: str) -> None:
        self.now = T0
        self.offset = offset_ns(host)

    def wall_ns(self) -> int:
        return self.now

    def mono_ns(self) -> int:
        return self.now - self.offset


class _Source:
    """One writer with a file of its own."""

    def __init__(self, folder: Path, number: int, host: str, about: Mapping[str, Any], at: float = 0.0) -> None:
        self.clock = _Clock(host)
        self.clock.now = ns(at)
        self.packer = Packer(number, self.clock)
        self._writer = SpoolWriter(folder / f"{number:04d}.spool")
        self.json(at, Kind.SOURCE, {"host": host, "boot_id": f"boot-{host}", "start": 0, **about})

    def frame(self, at: float, kind: int, payload: bytes) -> None:
        self.clock.now = ns(at)
        self._writer.append([self.packer.frame(kind, payload)])

    def json(self, at: float, kind: int, value: Any) -> None:
        self.clock.now = ns(at)
        self._writer.append([self.packer.json(kind, value)])

    def mono(self, at: float) -> int:
        return ns(at) - self.clock.offset

    def close(self) -> None:
        self._writer.close()


class NodeSpool(_Source):
    """A node daemon. `metrics` may be empty, `absences` are (sensor, reason)."""

    def __init__(
        self, folder: Path, number: int, host: str, metrics: Sequence[Metric], *, interval_s: float = 1.0,
        facts: Mapping[str, Any] | None = None, absences: Sequence[tuple[str, str]] = (), at: float = 0.0,
        traced: Sequence[Metric] = (),
    ) -> None:
        super().__init__(folder, number, host, {"role": "node", "pid": 10 + number, "facts": dict(facts or {})}, at)
        self.schema = Schema(round(interval_s * S), tuple(metrics), tuple(Absence(*a) for a in absences), tuple(traced))
        self.schema_id = self.schema.id
        self.frame(at, Kind.SCHEMA, self.schema.to_json())

    def sample(self, at: float, values: Sequence[float], *, nominal: float | None = None) -> None:
        """One tick, read at `at`; it stands for the nearest tick unless `nominal` says another."""
        interval = self.schema.interval_ns
        tick = (ns(at) + interval // 2) // interval * interval if nominal is None else ns(nominal)
        self.frame(at, Kind.SAMPLES, pack_samples(self.schema_id, [Sample(tick, ns(at), self.mono(at), values)]))

    def trace(self, at: float, *curves: tuple[int, Sequence[float], Sequence[float]]) -> None:
        """What devices had recorded by `at`: (position in `traced`, times, values) of each."""
        self.frame(at, Kind.TRACE, pack_traces(self.schema_id, [
            Trace(metric, [self.mono(t) for t in times], values) for metric, times, values in curves]))


class ProcessSpool(_Source):
    """A process of the job that uses the client. `more`: what else it announces."""

    def __init__(
        self, folder: Path, number: int, host: str, *, rank: int | None, pid: int, at: float = 0.0, **more: Any
    ) -> None:
        ranks = {} if rank is None else {"rank": rank, "world_size": 2, "local_rank": 0}
        super().__init__(folder, number, host, {"role": "process", "pid": pid, **ranks, **more}, at)
        self._next_id = 1
        self._open: list[tuple[int, str | None, int | None]] = [(0, None, None)]
        self.logged = 0

    def _event(self, at: float, event: Mapping[str, Any]) -> None:
        self.json(at, Kind.EVENTS, [{"t": self.mono(at), **event}])
        self.logged += 1

    def begin(self, at: float, kind: str, name: str | int) -> int:
        """Open a context, an epoch or a span inside of the innermost open one; its id."""
        parent, context, epoch = self._open[-1]
        if kind == "context":
            context = f"{context}/{name}" if context else str(name)
        elif kind == "epoch":
            epoch = int(name)
        span_id, self._next_id = self._next_id, self._next_id + 1
        self._open.append((span_id, context, epoch))
        self._event(at, {"e": "begin", "id": span_id, "parent": parent, "kind": kind, "name": str(name),
                         "context": context, "epoch": epoch})
        return span_id

    def end(self, at: float, span_id: int | None = None) -> None:
        """Close the innermost open one, or the one with this id."""
        closing = self._open[-1][0] if span_id is None else span_id
        self._open = [o for o in self._open if o[0] != closing]
        self._event(at, {"e": "end", "id": closing})

    @contextlib.contextmanager
    def span(self, begin: float, end: float, kind: str, name: str | int) -> Iterator[int]:
        """What is logged inside of the `with` lies in this context, epoch or span."""
        span_id = self.begin(begin, kind, name)
        yield span_id
        self.end(end, span_id)

    def metric(self, at: float, name: str, value: float, *, step: int | None = None) -> None:
        """`log_metric` in the context and epoch that are open."""
        _parent, context, epoch = self._open[-1]
        self.metrics(at, [(at, name, value, step, context, epoch)])

    def metrics(self, at: float, rows: Sequence[tuple[float, str, float, int | None, str | None, int | None]]) -> None:
        """Many rows in one frame: (at, name, value, step, context, epoch)."""
        self.frame(at, Kind.METRICS, pack_metrics([(self.mono(r[0]), *r[1:]) for r in rows]))
        self.logged += len(rows)

    def param(self, at: float, name: str, value: Any) -> None:
        self._event(at, {"e": "param", "name": name, "value": value})

    def event(self, at: float, name: str, **attributes: Any) -> None:
        _parent, context, epoch = self._open[-1]
        self._event(at, {"e": "event", "name": name, "attributes": attributes, "context": context, "epoch": epoch})

    def file(self, at: float, role: str, path: str, name: str = "") -> None:
        """A declared input, output or model, without the facts that a node adds."""
        _parent, context, epoch = self._open[-1]
        self.json(at, Kind.FILE, {"t": self.mono(at), "role": role, "path": path, "name": name or path,
                                  "context": context, "epoch": epoch, "copy": False})

    def exit(self, at: float, *, dropped: int = 0) -> None:
        """The last word of a process that ends in order."""
        self.json(at, Kind.EVENTS, [
            {"t": self.mono(at), "e": "exit", "logged": self.logged + dropped, "dropped": dropped}])


class RunSpool:
    """The spool of one run: a launcher, and what a test adds. `folder` must exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sources: list[_Source] = []
        self.launcher = self._add(_Source(folder, 1, "login", {"role": "launcher", "pid": 1}))

    def _add(self, source: Any) -> Any:
        self._sources.append(source)
        return source

    def _number(self) -> int:
        return len(self._sources) + 1

    def begin(self, at: float = 0.0, *, name: str = "demo", **more: Any) -> None:
        self.launcher.json(at, Kind.RUN, {"config": {"name": name}, "started_ns": ns(at), **more})

    def finish(self, at: float, *, state: str = "completed", **more: Any) -> None:
        self.launcher.json(at, Kind.END, {"state": state, "reason": "", "ended_ns": ns(at), **more})

    def killed(self, at: float) -> None:
        """The collector's word about a launcher that is gone."""
        collector = self._add(_Source(self.folder, self._number(), "n1", {"role": "collector", "pid": 2}, at))
        collector.json(at, Kind.END, {"state": "killed", "reason": "yprov run was killed", "ended_ns": ns(at)})

    def scheduler_said(
        self, at: float, state: str, reason: str = "", *, role: str = "node", facts: Mapping[str, Any] | None = None,
        asked: float | None = None,
    ) -> None:
        """The scheduler began to end the job at `at`. `role`: who asked; "scheduler": somebody who asked later."""
        asked = at if asked is None else asked
        source = self._add(_Source(self.folder, self._number(), "n1", {"role": role, "pid": 3}, asked))
        if facts is not None:
            source.json(asked, Kind.RUN, {"scheduler": dict(facts)})
        source.json(asked, Kind.END, {"by_scheduler": True, "state": state, "reason": reason, "ended_ns": ns(at)})

    def node(self, host: str, metrics: Sequence[Metric], **more: Any) -> NodeSpool:
        """A daemon; called again for a host, it was started again. Keywords as for `NodeSpool`."""
        node: NodeSpool = self._add(NodeSpool(self.folder, self._number(), host, metrics, **more))
        return node

    def process(
        self, host: str, rank: int | None = None, pid: int | None = None, at: float = 0.0, **more: Any
    ) -> ProcessSpool:
        number = self._number()
        process: ProcessSpool = self._add(ProcessSpool(
            self.folder, number, host, rank=rank, pid=1000 + number if pid is None else pid, at=at, **more))
        return process

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self._sources.clear()

    def record(self) -> Record:
        """Close the files and read them back."""
        self.close()
        return read_record(spool_files(self.folder))
