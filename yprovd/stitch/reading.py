"""The spool as one record: every file read, put into order, columns made. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from yprovd.errors import WireError
from yprovd.model import Schema
from yprovd.spool import SpoolReader
from yprovd.stitch.forms import moment, opened, place, tally
from yprovd.stitch.frames import NONSENSE, Frames
from yprovd.stitch.record import (
    F64,
    I64,
    DeclaredFile,
    MetricTable,
    Node,
    Param,
    PointEvent,
    Process,
    Record,
    Samples,
    Span,
)
from yprovd.stitch.said import changed_after, end_of, merged_facts, scheduler_end_of, unheard
from yprovd.stitch.tasks import tasks_of
from yprovd.wire import NO_STEP, Frame, Kind, from_json, to_json

#: What is kept of a process beside its name and rank.
_OF_PROCESS = ("argv", "python", "executable", "step", "launcher", "devices")


def read_record(files: Iterable[Path]) -> Record:
    """Read spool files, in any order, into one record. Damage never raises: it is counted."""
    frames = Frames()
    torn = 0
    for path in files:
        reader = SpoolReader(path)
        for frame in reader:
            try:
                frames.take(frame)
            except NONSENSE:
                frames.damaged += len(frame.payload)  # whole by its checksum, and yet not what its kind promises
        frames.damaged += reader.damaged
        torn += reader.torn
    record = _ordered(frames)
    record.damaged_bytes, record.torn_bytes = frames.damaged, torn
    return record


def _ordered(frames: Frames) -> Record:
    nodes = _nodes(frames)
    at = {(n.host, n.boot_id): i for i, n in enumerate(nodes)}
    processes = _processes(frames, at)
    index = {p.source: i for i, p in enumerate(processes)}
    metrics = _metrics(frames, processes, index)
    spans, params, events = _events(frames, processes, index)
    run: dict[str, Any] = {}
    for _source, _frame, value in frames.of_kind(Kind.RUN):
        if isinstance(known := run.get("scheduler"), dict) and isinstance(new := value.get("scheduler"), dict):
            value = {**value, "scheduler": merged_facts(known, new)}
        run.update(value)
    for source, _frame, value in frames.of_kind(Kind.LOSS):
        if source in index:
            process = processes[index[source]]
            process.dropped = max(process.dropped, int(value.get("events") or 0))
            process.rejected = max(process.rejected, int(value.get("rejected") or 0))
            process.reject_reason = process.reject_reason or str(value.get("reason") or "")
    return Record(
        run=run,
        end=end_of(frames),
        scheduler_end=scheduler_end_of(frames),
        nodes=nodes,
        processes=processes,
        spans=spans,
        params=params,
        events=events,
        files=_files(frames, index, run),
        metrics=metrics,
        notes=[{**value, "wall_ns": frame.wall_ns} for _s, frame, value in frames.of_kind(Kind.NOTE)],
        first_ns=frames.first_ns,
        last_ns=frames.last_ns,
        lost_frames=frames.lost(),
        unheard=unheard(frames),
        tasks=tasks_of(frames.of_kind(Kind.TASK), frames.of_kind(Kind.SOURCE), frames.sources, processes, at,
                       frames.count_damage),
    )


def _nodes(frames: Frames) -> list[Node]:
    """A daemon that was started again is a new source on the same node."""
    nodes: dict[tuple[str, str], Node] = {}
    parts: dict[tuple[str, str], dict[int, list[Samples]]] = {}
    for _source, about in sorted(frames.sources.items(), key=lambda kv: (kv[1]["host"], kv[1]["boot_id"], kv[0])):
        if about["role"] == "node":
            key = (about["host"], about["boot_id"])
            nodes.setdefault(key, Node(*key)).facts.update(about.get("facts") or {})
            parts.setdefault(key, {})
    for (source, schema_id, ticks, size), blocks in sorted(frames.samples.items(), key=lambda kv: kv[0]):
        about, schema = frames.sources.get(source, {}), frames.schemas.get(schema_id)
        if schema is not None and about.get("role") == "node" and size == 8 + 8 * ticks * (3 + len(schema.metrics)):
            samples = _columns(schema, ticks, *blocks)
            parts[about["host"], about["boot_id"]].setdefault(schema_id, []).append(samples)
    daemons = {source: (about["host"], about["boot_id"]) for source, about in frames.sources.items()
               if about["role"] == "node"}
    curves = frames.traces.curves(frames.schemas, daemons)
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


def _processes(frames: Frames, at: dict[tuple[str, str], int]) -> list[Process]:
    out: list[Process] = []
    files = Counter(source for source, _frame, _value in frames.of_kind(Kind.FILE))
    clients = {f.source for f in (*frames.metrics, *frames.events)}
    clients |= {s for s, about in frames.sources.items() if about["role"] == "process"}
    for source in clients:
        about = frames.sources.get(source, {"host": "", "boot_id": "", "pid": 0})  # its announcement was damaged
        out.append(Process(
            source, about["host"], about["boot_id"], about["pid"],
            node=at.get((about["host"], about["boot_id"]), -1 if len(at) != 1 or about["host"] else 0),
            rank=about.get("rank"), world_size=about.get("world_size"), local_rank=about.get("local_rank"),
            attributes={k: about[k] for k in _OF_PROCESS if k in about},
            received=files[source],
        ))
    return sorted(out, key=lambda p: (p.rank is None, p.rank or 0, p.host, p.boot_id, p.pid, p.source))


def _metrics(frames: Frames, processes: list[Process], index: dict[int, int]) -> MetricTable:
    keys: dict[tuple[str, str | None, int | None], int] = {}
    columns: list[tuple[I64, I64, F64, I64, I64]] = []
    for frame in sorted(frames.metrics, key=lambda f: (index[f.source], f.seq)):
        try:
            _metric_columns(frame, index[frame.source], keys, columns)
        except NONSENSE:
            frames.damaged += len(frame.payload)
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
    """Adds the rows of one frame: key, wall ns, value, step, process. Raises one of NONSENSE, and adds none then."""
    view = memoryview(frame.payload)
    n = int.from_bytes(view[:4], "little")
    if not n:
        raise WireError("a metrics block without rows")
    table = [(str(k[0]), *place(k[1], k[2])) for k in from_json(view[8 + n * 28:])]
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
    frames: Frames, processes: list[Process], index: dict[int, int]
) -> tuple[list[Span], list[Param], list[PointEvent]]:
    begun: dict[tuple[int, int], Span] = {}
    ended: dict[tuple[int, int], tuple[int, int]] = {}
    params: list[Param] = []
    events: list[PointEvent] = []
    for frame in sorted(frames.events, key=lambda f: (index[f.source], f.seq)):
        p = index[frame.source]
        process = processes[p]
        offset = frame.wall_ns - frame.mono_ns
        try:
            said = list(from_json(frame.payload))
        except NONSENSE:
            frames.damaged += len(frame.payload)
            continue
        for e in said:
            try:
                kind, t = e["e"], moment(e, offset)
                if kind == "begin":
                    begun[p, e["id"]] = Span(p, *opened(e), t, t + offset, None, None)
                elif kind == "end":
                    ended[p, e["id"]] = (t, t + offset)
                elif kind == "param":
                    role = "output" if e.get("role") == "output" else "input"
                    params.append(Param(str(e["name"]), e["value"], p, t + offset, role))
                elif kind == "event":
                    where = place(e["context"], e["epoch"])
                    events.append(PointEvent(str(e["name"]), dict(e["attributes"]), *where, p, t + offset))
                elif kind == "exit":
                    process.logged, process.dropped, process.rejected = tally(e)
            except NONSENSE:
                frames.damaged += len(to_json(e))
                continue
            _seen(process, frame, t)
            process.received += kind != "exit"
    spans = [replace(span, end_mono_ns=ended[key][0], end_wall_ns=ended[key][1]) if key in ended else span
             for key, span in begun.items()]
    spans.sort(key=lambda s: (s.begin_wall_ns, s.process, s.id))
    params.sort(key=lambda x: (x.wall_ns, x.process, x.name))
    events.sort(key=lambda x: (x.wall_ns, x.process, x.name))
    return spans, params, events


def _files(frames: Frames, index: dict[int, int], run: dict[str, Any]) -> list[DeclaredFile]:
    facts = {(v["source"], v["t"], v["path"]): {**v, "looked_ns": f.wall_ns} for _s, f, v in frames.of_kind(Kind.FACTS)}
    out = []
    declared = {v["path"] for _s, _f, v in frames.of_kind(Kind.FILE) if not v.get("how")}
    for source, frame, v in frames.of_kind(Kind.FILE):
        if v.get("how") and v["path"] in declared:
            continue  # it was only seen, and somebody says what it is
        about = facts.get((f"{source:016x}", v["t"], v["path"]), {"reason": "the run ended before it was looked at"})
        wall_ns = int(v["t"]) + frame.wall_ns - frame.mono_ns
        out.append(DeclaredFile(
            v["role"], v["path"], v["name"], v.get("context"), v.get("epoch"), index.get(source, -1), wall_ns,
            about.get("size"), about.get("sha256"), about.get("modified_ns"), about.get("stored"),
            about.get("reason", ""), str(v.get("how") or ""), bool(about.get("masked")),
            # Seen by the process: it lies where the daemon does not see it. Seen open: it has gone since.
            bool(about.get("missing")) and not v.get("seen") and not v.get("how"),
            0 if v.get("how") or "imported" in run else changed_after(wall_ns, about),
        ))
    return out


assert np.iinfo(np.int64).min == NO_STEP
