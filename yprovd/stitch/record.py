"""The spool as one record: every file read, duplicates dropped, losses counted, columns made. Pure.

The JSON objects of the frames (`t` is a monotonic time in ns of the frame's source, everything else is optional
unless it stands without `?`):

SOURCE  role ("node"|"process"|"launcher"|"collector"), host, boot_id, pid, start; a node: facts {...};
        a process: rank?, world_size?, local_rank?, launcher, step, cpus, devices {...}, argv, python, executable
RUN     config (`RunConfig.to_json`), started_ns, user, uid, environment {...}, code {...}, scheduler {...}, daemons
        {placed_by, fallbacks, expected, ready, dark}, previous {run_id, directory}...; several are merged
END     state, reason, exit_code?, signal?, ended_ns, rusage? {user_s, system_s, max_rss_bytes}; with by_scheduler:
        true it is what the scheduler said of the job's end, whoever asked
FILE    t, role ("input"|"output"|"model"|"code"), path, name, context?, epoch?, copy: a declaration; how: "opened"
        where nobody declared it
FACTS   path, t (of the declaration), source (of the declaration, hex), size?, sha256?, modified_ns?, stored?, masked?,
        reason?
LOSS    events (calls that the source has left out so far), pushed_out (frames given up; the gap counts them), why
TASK    tasks [row, ...]: ranks of the job that began and ended on a node (see `yprovd.tasks`)
NOTE    text, t: something that happened to the run (a daemon started again)
EVENTS  {"e": "param", t, name, value}; {"e": "begin", t, id, parent, kind ("context"|"epoch"|"span"), name, context,
        epoch}; {"e": "end", t, id}; {"e": "event", t, name, attributes, context, epoch};
        {"e": "exit", t, logged, dropped}: the last one of a process that ended in order
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yprovd.errors import WireError
from yprovd.model import Schema
from yprovd.spool import SpoolReader
from yprovd.stitch.tasks import Task, tasks_of
from yprovd.stitch.traces import Pieces, Traced
from yprovd.wire import NO_STEP, Frame, Kind, from_json, to_json

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """What one node delivered under one schema, by time. `values[tick, metric]` in base units, NaN where absent."""

    schema: Schema
    nominal_ns: I64
    wall_ns: I64
    mono_ns: I64
    values: F64


@dataclass
class Node:
    """One boot of one host. `facts`: what the daemon found at its start. `traces`: what its devices recorded by
    themselves. Sorted by host."""

    host: str
    boot_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[Samples] = field(default_factory=list)
    traces: list[Traced] = field(default_factory=list)


@dataclass
class Process:
    """One process of the job that used the client. `node` is an index into `Record.nodes`, -1 when no daemon ran."""

    source: int
    host: str
    boot_id: str
    pid: int
    node: int = -1
    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    logged: int | None = None
    dropped: int = 0
    received: int = 0
    last_mono_ns: int = 0
    last_wall_ns: int = 0


@dataclass(frozen=True)
class Span:
    """`end_*` is None when the process never said so. `context` and `epoch` are those inside of the span."""

    process: int
    id: int
    parent: int
    kind: str
    name: str
    context: str | None
    epoch: int | None
    begin_mono_ns: int
    begin_wall_ns: int
    end_mono_ns: int | None
    end_wall_ns: int | None


@dataclass(frozen=True)
class Param:
    name: str
    value: Any
    process: int
    wall_ns: int


@dataclass(frozen=True)
class PointEvent:
    name: str
    attributes: dict[str, Any]
    context: str | None
    epoch: int | None
    process: int
    wall_ns: int


@dataclass(frozen=True)
class DeclaredFile:
    """A file that the run used or made. `process` is -1 for those named on the command line. Without a checksum,
    `reason` says why. `how`: "opened" where nobody declared it, and it was seen open. `masked`: its copy is."""

    role: str
    path: str
    name: str
    context: str | None
    epoch: int | None
    process: int
    wall_ns: int
    size: int | None = None
    sha256: str | None = None
    modified_ns: int | None = None
    stored: str | None = None
    reason: str = ""
    how: str = ""
    masked: bool = False


@dataclass(frozen=True)
class MetricTable:
    """All calls of `log_metric`, in columns of one length; `keys[key[i]]` is (name, context, epoch) of row i.
    `step` is `wire.NO_STEP` where none was given. `process` indexes `Record.processes`."""

    keys: list[tuple[str, str | None, int | None]]
    key: npt.NDArray[np.int64]
    wall_ns: I64
    step: I64
    value: F64
    process: npt.NDArray[np.int64]


@dataclass
class Record:
    """Everything that a spool says, in a fixed order. `lost_frames`: gaps in the sequence numbers;
    `damaged_bytes`: passed over in the files, `torn_bytes` of them at a file's end (normal after a kill). `end`: our
    own word about how the command ended; `scheduler_end`: the scheduler's about its job (see `_scheduler_end`)."""

    run: dict[str, Any]
    end: dict[str, Any] | None
    nodes: list[Node]
    processes: list[Process]
    spans: list[Span]
    params: list[Param]
    events: list[PointEvent]
    files: list[DeclaredFile]
    metrics: MetricTable
    notes: list[dict[str, Any]]
    first_ns: int = 0
    last_ns: int = 0
    lost_frames: int = 0
    damaged_bytes: int = 0
    torn_bytes: int = 0
    scheduler_end: dict[str, Any] | None = None
    tasks: list[Task] = field(default_factory=list)


_SAMPLES_HEAD = struct.Struct("<IH")

#: The role of a source that speaks after the run, of what the scheduler said later: its frames are none of the run's
#: time.
LATER = "scheduler"
#: What a scheduler does to a job that has not ended by itself.
ENDED_EARLY = ("timeout", "node_fail", "cancelled")

#: Whose word counts most about how the run ended.
_END_RANK = {"launcher": 0, "collector": 1, "node": 2}

#: What an object of a kind has for certain, and its type; a frame without it is damage.
_CERTAIN: dict[int, dict[str, type]] = {
    Kind.SOURCE: {"role": str, "host": str, "boot_id": str, "pid": int},
    Kind.FILE: {"t": int, "role": str, "path": str, "name": str},
    Kind.FACTS: {"t": int, "path": str, "source": str},
}
#: What is kept of a process beside its name and rank.
_OF_PROCESS = ("argv", "python", "executable", "step", "launcher", "devices")
SAMPLES = Kind.SAMPLES
#: What nonsense in a frame raises while it is taken apart.
_NONSENSE = (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)  # or WireError


class _Reading:
    """What is collected while the files are read, before it is put into order."""

    def __init__(self) -> None:
        self.sources: dict[int, dict[str, Any]] = {}
        self.seen: dict[int, set[int]] = {}
        self.schemas: dict[int, Schema] = {}
        #: (source, schema, ticks, bytes of a payload) -> sequence numbers, payloads
        self.samples: dict[tuple[int, int, int, int], tuple[list[int], bytearray]] = {}
        self.traces = Pieces()
        self.metrics: list[Frame] = []
        self.events: list[Frame] = []
        self.json: dict[int, list[tuple[int, int, Frame, dict[str, Any]]]] = {}
        self.first_ns = 0
        self.last_ns = 0
        self.later: set[int] = set()
        self.damaged = 0

    def take(self, frame: Frame) -> None:
        kind, source, seq, wall_ns, _mono_ns, payload = frame
        seen = self.seen.get(source)
        if seen is None:
            seen = self.seen[source] = set()
        known = len(seen)
        seen.add(seq)
        if len(seen) == known:
            return
        if kind == SAMPLES:
            schema_id, ticks = _SAMPLES_HEAD.unpack_from(payload)
            key = (source, schema_id, ticks, len(payload))
            blocks = self.samples.get(key)
            if blocks is None:
                blocks = self.samples[key] = ([], bytearray())
            blocks[0].append(seq)
            blocks[1].extend(payload)  # an object for each frame would keep the garbage collector busy
        elif kind == Kind.TRACE:
            self.traces.take(frame)
        elif kind == Kind.METRICS:
            self.metrics.append(frame)
        elif kind == Kind.EVENTS:
            self.events.append(frame)
        elif kind == Kind.SCHEMA:
            schema_id = zlib.crc32(frame.payload)
            if schema_id not in self.schemas:  # it is announced again and again
                self.schemas[schema_id] = Schema.from_json(bytes(frame.payload))
        else:
            value = from_json(frame.payload)
            certain = _CERTAIN.get(kind, {})
            if not isinstance(value, dict) or any(not isinstance(value.get(k), t) for k, t in certain.items()):
                raise WireError(f"not an object of kind {kind}")
            if kind == Kind.SOURCE:
                self.sources[frame.source] = value
                if value["role"] == LATER:
                    self.later.add(source)
            self.json.setdefault(kind, []).append((frame.source, frame.seq, frame, value))
        if source not in self.later:
            if not self.first_ns or wall_ns < self.first_ns:
                self.first_ns = wall_ns
            if wall_ns > self.last_ns:
                self.last_ns = wall_ns

    def count_damage(self, value: Any) -> None:
        self.damaged += len(to_json(value))

    def lost(self) -> int:
        gaps = sum(max(seqs) + 1 - len(seqs) for seqs in self.seen.values())
        return gaps

    def of_kind(self, kind: int) -> list[tuple[int, Frame, dict[str, Any]]]:
        """(source, frame, object) in the order of time, then of source and number."""
        rows = sorted(self.json.get(kind, []), key=lambda r: (r[2].wall_ns, r[0], r[1]))
        return [(source, frame, value) for source, _seq, frame, value in rows]


def read_record(files: Iterable[Path]) -> Record:
    """Read spool files, in any order, into one record. Damage never raises: it is counted."""
    reading = _Reading()
    torn = 0
    for path in files:
        reader = SpoolReader(path)
        for frame in reader:
            try:
                reading.take(frame)
            except _NONSENSE:
                reading.damaged += len(frame.payload)  # whole by its checksum, and yet not what its kind promises
        reading.damaged += reader.damaged
        torn += reader.torn
    record = _ordered(reading)
    record.damaged_bytes, record.torn_bytes = reading.damaged, torn
    return record


def _ordered(reading: _Reading) -> Record:
    nodes = _nodes(reading)
    at = {(n.host, n.boot_id): i for i, n in enumerate(nodes)}
    processes = _processes(reading, at)
    index = {p.source: i for i, p in enumerate(processes)}
    metrics = _metrics(reading, processes, index)
    spans, params, events = _events(reading, processes, index)
    run: dict[str, Any] = {}
    for _source, _frame, value in reading.of_kind(Kind.RUN):
        if isinstance(known := run.get("scheduler"), dict) and isinstance(new := value.get("scheduler"), dict):
            value = {**value, "scheduler": merged_facts(known, new)}
        run.update(value)
    for source, _frame, value in reading.of_kind(Kind.LOSS):
        if source in index:
            process = processes[index[source]]
            process.dropped = max(process.dropped, int(value.get("events", 0)))
    return Record(
        run=run,
        end=_end(reading),
        scheduler_end=_scheduler_end(reading),
        nodes=nodes,
        processes=processes,
        spans=spans,
        params=params,
        events=events,
        files=_files(reading, index),
        metrics=metrics,
        notes=[{**value, "wall_ns": frame.wall_ns} for _s, frame, value in reading.of_kind(Kind.NOTE)],
        first_ns=reading.first_ns,
        last_ns=reading.last_ns,
        lost_frames=reading.lost(),
        tasks=tasks_of(reading.of_kind(Kind.TASK), reading.of_kind(Kind.SOURCE), reading.sources, processes, at,
                       reading.count_damage),
    )


def merged_facts(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What the scheduler said of its job, and what it said later: an answer that lacks something takes nothing away."""
    missing = {what: reason for facts in (known, new) if isinstance(facts.get("missing"), dict)
               for what, reason in facts["missing"].items()}
    facts = known | {k: v for k, v in new.items() if v is not None and v != "" and v != {} and v != []}
    if "missing" in facts:
        facts["missing"] = {what: reason for what, reason in missing.items() if facts.get(what) in (None, "", {}, [])}
    return facts


def _end(reading: _Reading) -> dict[str, Any] | None:
    """Our own word: the launcher's where there is one. The same one's later words complete the earlier."""
    said = [(_END_RANK.get(reading.sources.get(source, {}).get("role", ""), 3), value)
            for source, _frame, value in reading.of_kind(Kind.END) if not value.get("by_scheduler")]
    end: dict[str, Any] = {}
    for rank, value in said:
        if rank == min(r for r, _value in said):
            end.update(value)
    return end or None


def _scheduler_end(reading: _Reading) -> dict[str, Any] | None:
    """What the scheduler said: the first word, of those heard while the run went on, that ends the job early (what
    comes behind it, a daemon's scancel of a job whose node is dead, is a consequence); else the last word of all.
    `asked_later`: nobody asked while the run went on. While a job is being ended, Slurm's text calls it the same
    whether it was cancelled or its script had ended: accounting knows, and is believed."""
    said = [{**value, "asked_later": source in reading.later}
            for source, _frame, value in reading.of_kind(Kind.END) if value.get("by_scheduler")]
    during = [v for v in said if v.get("state") in ENDED_EARLY and not v["asked_later"]]
    if during and not takes_back(during[0], said[-1]):
        return during[0]
    return said[-1] if said else None


def takes_back(word: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether what is told after the job's end shows that it was not cancelled."""
    return word.get("state") == "cancelled" and bool(later.get("asked_later")) and later.get("state") in (
        "completed", "failed")


def _nodes(reading: _Reading) -> list[Node]:
    """A daemon that was started again is a new source on the same node."""
    nodes: dict[tuple[str, str], Node] = {}
    parts: dict[tuple[str, str], dict[int, list[Samples]]] = {}
    for _source, about in sorted(reading.sources.items(), key=lambda kv: (kv[1]["host"], kv[1]["boot_id"], kv[0])):
        if about["role"] == "node":
            key = (about["host"], about["boot_id"])
            nodes.setdefault(key, Node(*key)).facts.update(about.get("facts", {}))
            parts.setdefault(key, {})
    for (source, schema_id, ticks, size), blocks in sorted(reading.samples.items(), key=lambda kv: kv[0]):
        about, schema = reading.sources.get(source, {}), reading.schemas.get(schema_id)
        if schema is not None and about.get("role") == "node" and size == 8 + 8 * ticks * (3 + len(schema.metrics)):
            samples = _columns(schema, ticks, *blocks)
            parts[about["host"], about["boot_id"]].setdefault(schema_id, []).append(samples)
    daemons = {source: (about["host"], about["boot_id"]) for source, about in reading.sources.items()
               if about["role"] == "node"}
    curves = reading.traces.curves(reading.schemas, daemons)
    for key, node in nodes.items():
        node.samples = _merged(parts[key])
        node.traces = curves.get(key, [])
    return [nodes[key] for key in sorted(nodes)]


def _columns(schema: Schema, ticks: int, seqs: list[int], payloads: bytearray) -> Samples:
    """Blocks of equal shape as columns. The values of one metric lie side by side: the archive goes by metrics."""
    width, count = len(schema.metrics), len(seqs)
    raw = np.frombuffer(payloads, dtype="<i8").reshape(count, 1 + (3 + width) * ticks)
    numbers = np.array(seqs, dtype=np.uint64)
    if np.any(numbers[1:] < numbers[:-1]):
        raw = raw[np.argsort(numbers, kind="stable")]
    times = raw[:, 1:1 + 3 * ticks].reshape(-1, 3, ticks).transpose(1, 0, 2).reshape(3, -1)
    values = np.empty((width, count, ticks))
    values[...] = raw[:, 1 + 3 * ticks:].view("<f8").reshape(count, width, ticks).transpose(1, 0, 2)
    return Samples(schema, times[0], times[1], times[2], values.reshape(width, -1).T)


def _merged(by_schema: dict[int, list[Samples]]) -> list[Samples]:
    """One Samples per schema, by time."""
    out = []
    for schema_id, parts in by_schema.items():
        mono = np.concatenate([p.mono_ns for p in parts])
        merged = parts[0]
        if len(parts) > 1 or not bool(np.all(mono[1:] >= mono[:-1])):
            order = np.argsort(mono, kind="stable")
            merged = Samples(
                merged.schema,
                np.concatenate([p.nominal_ns for p in parts])[order],
                np.concatenate([p.wall_ns for p in parts])[order],
                mono[order],
                np.concatenate([p.values.T for p in parts], axis=1)[:, order].T,
            )
        out.append((int(mono.min()) if len(mono) else 0, schema_id, merged))
    return [merged for _first, _id, merged in sorted(out, key=lambda row: row[:2])]


def _processes(reading: _Reading, at: dict[tuple[str, str], int]) -> list[Process]:
    out: list[Process] = []
    files = Counter(source for source, _frame, _value in reading.of_kind(Kind.FILE))
    clients = {f.source for f in (*reading.metrics, *reading.events)}
    clients |= {s for s, about in reading.sources.items() if about["role"] == "process"}
    for source in clients:
        about = reading.sources.get(source, {"host": "", "boot_id": "", "pid": 0})  # its announcement was damaged
        out.append(Process(
            source, about["host"], about["boot_id"], about["pid"],
            node=at.get((about["host"], about["boot_id"]), -1 if len(at) != 1 or about["host"] else 0),
            rank=about.get("rank"), world_size=about.get("world_size"), local_rank=about.get("local_rank"),
            attributes={k: about[k] for k in _OF_PROCESS if k in about},
            received=files[source],
        ))
    return sorted(out, key=lambda p: (p.rank is None, p.rank or 0, p.host, p.boot_id, p.pid, p.source))


def _metrics(reading: _Reading, processes: list[Process], index: dict[int, int]) -> MetricTable:
    keys: dict[tuple[str, str | None, int | None], int] = {}
    columns: list[tuple[I64, I64, F64, I64, I64]] = []
    for frame in sorted(reading.metrics, key=lambda f: (index[f.source], f.seq)):
        try:
            _metric_columns(frame, index[frame.source], keys, columns)
        except _NONSENSE:
            reading.damaged += len(frame.payload)
            continue
        wall = columns[-1][1]
        processes[index[frame.source]].received += len(wall)
        _seen(processes[index[frame.source]], frame, int(wall.max()) - (frame.wall_ns - frame.mono_ns))
    if not columns:
        none = np.zeros(0, dtype=np.int64)
        return MetricTable([], none, none, none, none.astype(np.float64), none)
    key, wall, value, step, process_column = (np.concatenate(c) for c in zip(*columns, strict=True))
    return MetricTable(list(keys), key, wall, step, value, process_column)


def _metric_columns(
    frame: Frame, process: int, keys: dict[tuple[str, str | None, int | None], int],
    columns: list[tuple[I64, I64, F64, I64, I64]],
) -> None:
    """Adds the rows of one frame: key, wall ns, value, step, process. Raises one of _NONSENSE, and adds none then."""
    view = memoryview(frame.payload)
    n = int.from_bytes(view[:4], "little")
    if not n:
        raise WireError("a metrics block without rows")
    table = [(k[0], k[1], k[2]) for k in from_json(view[8 + n * 28:])]
    ids = np.array([keys.setdefault(key, len(keys)) for key in table], dtype=np.int64)
    columns.append((
        ids[np.frombuffer(view, "<u4", n, 8 + n * 24)],
        np.frombuffer(view, "<i8", n, 8) + (frame.wall_ns - frame.mono_ns),
        np.frombuffer(view, "<f8", n, 8 + n * 16),
        np.frombuffer(view, "<i8", n, 8 + n * 8),
        np.full(n, process, dtype=np.int64),
    ))


def _seen(process: Process, frame: Frame, mono_ns: int) -> None:
    if mono_ns > process.last_mono_ns:
        process.last_mono_ns = mono_ns
        process.last_wall_ns = mono_ns + frame.wall_ns - frame.mono_ns


def _events(
    reading: _Reading, processes: list[Process], index: dict[int, int]
) -> tuple[list[Span], list[Param], list[PointEvent]]:
    begun: dict[tuple[int, int], Span] = {}
    ended: dict[tuple[int, int], tuple[int, int]] = {}
    params: list[Param] = []
    events: list[PointEvent] = []
    for frame in sorted(reading.events, key=lambda f: (index[f.source], f.seq)):
        p = index[frame.source]
        process = processes[p]
        offset = frame.wall_ns - frame.mono_ns
        try:
            said = list(from_json(frame.payload))
        except _NONSENSE:
            reading.damaged += len(frame.payload)
            continue
        for e in said:
            try:
                kind, t = e["e"], int(e["t"])
                if kind == "begin":
                    begun[p, e["id"]] = Span(p, e["id"], e["parent"], e["kind"], str(e["name"]), e["context"],
                                             e["epoch"], t, t + offset, None, None)
                elif kind == "end":
                    ended[p, e["id"]] = (t, t + offset)
                elif kind == "param":
                    params.append(Param(str(e["name"]), e["value"], p, t + offset))
                elif kind == "event":
                    events.append(PointEvent(str(e["name"]), e["attributes"], e["context"], e["epoch"], p, t + offset))
                elif kind == "exit":
                    process.logged, process.dropped = e["logged"], e["dropped"]
            except _NONSENSE:
                reading.damaged += len(to_json(e))
                continue
            _seen(process, frame, t)
            process.received += kind != "exit"
    spans = [replace(span, end_mono_ns=ended[key][0], end_wall_ns=ended[key][1]) if key in ended else span
             for key, span in begun.items()]
    spans.sort(key=lambda s: (s.begin_wall_ns, s.process, s.id))
    params.sort(key=lambda x: (x.wall_ns, x.process, x.name))
    events.sort(key=lambda x: (x.wall_ns, x.process, x.name))
    return spans, params, events


def _files(reading: _Reading, index: dict[int, int]) -> list[DeclaredFile]:
    facts = {(v["source"], v["t"], v["path"]): v for _s, _f, v in reading.of_kind(Kind.FACTS)}
    out = []
    declared = {v["path"] for _s, _f, v in reading.of_kind(Kind.FILE) if not v.get("how")}
    for source, frame, v in reading.of_kind(Kind.FILE):
        if v.get("how") and v["path"] in declared:
            continue  # it was only seen, and somebody says what it is
        about = facts.get((f"{source:016x}", v["t"], v["path"]), {"reason": "the run ended before it was looked at"})
        out.append(DeclaredFile(
            v["role"], v["path"], v["name"], v.get("context"), v.get("epoch"), index.get(source, -1),
            int(v["t"]) + frame.wall_ns - frame.mono_ns,
            about.get("size"), about.get("sha256"), about.get("modified_ns"), about.get("stored"),
            about.get("reason", ""), str(v.get("how") or ""), bool(about.get("masked")),
        ))
    return out


assert np.iinfo(np.int64).min == NO_STEP
