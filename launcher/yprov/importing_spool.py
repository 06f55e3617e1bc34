"""An imported run as a spool, in the frames that the launcher, the daemon and the client write (`yprovd.wire`,
`yprovd.stitch.record`): what `stitch` makes of it is an archive like any other.

One file, `spool/import.spool`. Every source has one clock, the wall clock. The launcher's RUN record has the key
`imported`:

    tool, layout, name, run_id      what wrote the original, and what it called the run
    from [path, ...]                where it lay
    documents [{path, sha256, bytes, rank, about {...}}, ...]   `path` within the run's directory
    sources [[context or null, metric, source], ...]            where a metric's values came from, if that is told
    copied_from {path: path}        files that are copies
    metrics                         how many there were, those of each rank

Nothing in it depends on when or where it is imported but `from`: the same originals in the same place give the same
archive. What has no time of its own has that of the rank: inputs its begin, outputs its end, values the first logging
of their metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yprov.imported import ForeignFile, ForeignRun, Rank
from yprov.importing_files import Artifacts
from yprov.importing_table import ROWS, Table
from yprovd.config import SPOOL_DIR, RunConfig
from yprovd.errors import WireError
from yprovd.spool import SpoolWriter
from yprovd.wire import Kind, Packer, pack_metrics, to_json

ARTIFACTS = "artifacts"


@dataclass
class Written:
    """What went into the spool."""

    ranks: int = 0
    series: int = 0
    values: int = 0
    files: int = 0


class _Clock:
    """The time that the next frame bears."""

    ns = 0

    def wall_ns(self) -> int:
        return self.ns

    mono_ns = wall_ns


def write_spool(
    run_dir: Path, run: ForeignRun, config: RunConfig, *, copy: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> tuple[Written, RunConfig]:
    """Write the run's spool, and the originals (with `copy` also the run's files) into `artifacts/`. Returns what was
    written and the configuration with the time of the run's begin. Raises OSError."""
    artifacts = Artifacts(run_dir / ARTIFACTS)
    clock, written = _Clock(), Written(ranks=len(run.ranks))
    writer = SpoolWriter(run_dir / SPOOL_DIR / "import.spool")
    try:
        launcher = Packer(_source_of(run.run_id), clock)
        sources: dict[tuple[str | None, str], list[str]] = {}
        for rank in run.ranks:
            progress(f"reading rank {rank.rank}")
            it = _RankWriter(rank, run, writer, clock, artifacts, copy=copy)
            it.write(progress)
            written.series += len(rank.series)
            written.values += it.values
            written.files += len(rank.files)
            for s in rank.series:
                told = sources.setdefault((s.context, s.name), [])
                if s.source and s.source not in told:
                    told.append(s.source)
        begin, end = min(r.begin_ns for r in run.ranks), max(r.end_ns for r in run.ranks)
        documents = [{"path": artifacts.keep(o.path, o.path.name), "sha256": o.sha256, "bytes": o.size,
                      "rank": o.rank, "about": {k: v for k, v in o.about.items() if v}} for o in run.originals]
        for rank in run.ranks:
            for name, text in rank.texts.items():
                artifacts.write(name, text)
        clock.ns = begin
        head, config = run.ranks[0], config._replace(created_ns=begin)
        frames = [
            launcher.json(Kind.SOURCE, {"role": "launcher", "host": head.host, "boot_id": "", "pid": 0}),
            launcher.json(Kind.RUN, {
                "config": config.to_json(), "started_ns": begin, "user": head.user, "host": head.host,
                "code": next((r.code for r in run.ranks if r.code), {}),
                "imported": {
                    "tool": run.tool, "layout": run.layout, "name": run.name, "run_id": head.original_id,
                    "from": run.places, "documents": documents,
                    "sources": [[c, n, ", ".join(told)] for (c, n), told in sources.items() if told],
                    "copied_from": {f.path: f.copied_from for r in run.ranks for f in r.files if f.copied_from},
                    "metrics": run.metrics,
                },
            }),
            *(launcher.json(Kind.NOTE, {"text": text, "t": begin}) for text in run.notes.lines()),
        ]
        clock.ns = end
        if all(r.ended for r in run.ranks) and not run.missing:
            frames.append(launcher.json(Kind.END, {
                "state": "completed", "ended_ns": end,
                "reason": f"{run.tool} wrote its documents; how the program ended is not in them"}))
        writer.append(frames)
    finally:
        writer.close()
    return written, config


def _source_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class _RankWriter:
    """The frames of one process, as its client and its daemon would have made them."""

    def __init__(
        self, rank: Rank, run: ForeignRun, writer: SpoolWriter, clock: _Clock, artifacts: Artifacts, *, copy: bool,
    ) -> None:
        self.rank, self._run, self._writer, self._clock = rank, run, writer, clock
        self._notes, self._artifacts, self._copy = run.notes, artifacts, copy
        self._packer = Packer(_source_of(f"{rank.key} {rank.rank}"), clock)
        self.values = 0

    def write(self, progress: Callable[[str], None]) -> None:
        rank = self.rank
        columns = Table(rank, self._notes, progress)
        times = columns.known_times()
        begin, end = min((a for a, _b in times.values()), default=0), max((b for _a, b in times.values()), default=0)
        if not (rank.begin_ns or begin):
            self._notes.say(f"rank {rank.rank} tells no time: it bears that of the file that was read")
        rank.begin_ns = rank.begin_ns or begin or rank.written_ns
        rank.end_ns = max(rank.end_ns or end, rank.begin_ns)
        self._clock.ns = rank.begin_ns
        # No pid is known, nor when the process was started: `start` tells the ranks of a host apart.
        about = {"role": "process", "host": rank.host, "boot_id": "", "pid": 0, "start": rank.rank, "rank": rank.rank}
        if self._run.missing:  # else the ranks that are there tell it
            about["world_size"] = self._run.world_size
        if rank.python:
            about["python"] = rank.python
        self._json(Kind.SOURCE, about)
        events = [{"e": "param", "t": rank.begin_ns, "name": p.name, "value": p.value,
                   **({"role": p.role} if p.role == "output" else {})} for p in rank.params]
        events += self._contexts(times)
        for rows in columns.rows():
            self._clock.ns = min(max(rows[-1][0], rank.begin_ns), rank.end_ns)
            self.values += self._pack(Kind.METRICS, pack_metrics, rows)
        for file in rank.files:
            self._file(file, progress)
        self._clock.ns = rank.end_ns
        logged = self.values + len(rank.files)
        for i in range(0, len(events), ROWS):
            logged += self._pack(Kind.EVENTS, to_json, events[i:i + ROWS])
        if rank.ended:
            self._json(Kind.EVENTS, [{"e": "exit", "t": rank.end_ns, "logged": logged, "dropped": 0}])

    def _pack(self, kind: int, encode: Callable[[list[Any]], bytes], rows: list[Any]) -> int:
        """Write rows as frames, in halves where they are too long for one. Returns how many could be written."""
        try:
            self._writer.append([self._packer.frame(kind, encode(rows))])
        except WireError:
            if len(rows) == 1:
                self._notes.say(f"rank {self.rank.rank}: one thing is too large for a record and is left out")
                return 0
            half = len(rows) // 2
            return self._pack(kind, encode, rows[:half]) + self._pack(kind, encode, rows[half:])
        return len(rows)

    def _json(self, kind: int, value: Any) -> None:
        self._writer.append([self._packer.frame(kind, to_json(value))])

    def _contexts(self, times: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
        """Begin and end of each context, outer ones first and around their inner ones. One without an end ended with
        the last that is known of it; one without any time is left out. A context that was only written down when the
        run had ended did not begin then."""
        begin, end = self.rank.begin_ns, self.rank.end_ns
        told = {path: (t, t) for path, t in self.rank.contexts.items() if t and t <= end}
        spans: dict[str, tuple[int, int]] = {}
        for path, known in [*told.items(), *times.items()]:
            parts = path.split("/") if path else []
            first, last = (min(max(t, begin), end) for t in known)
            for n in range(1, len(parts) + 1):
                a, b = spans.get("/".join(parts[:n]), (first, last))
                spans["/".join(parts[:n])] = min(a, first), max(b, last)
        out: list[dict[str, Any]] = []
        numbers = {path: i + 1 for i, path in enumerate(sorted(spans))}
        for path, number in numbers.items():
            above, _, name = path.rpartition("/")
            out.append({"e": "begin", "t": spans[path][0], "id": number, "parent": numbers.get(above, 0),
                        "kind": "context", "name": name, "context": path, "epoch": None})
            out.append({"e": "end", "t": spans[path][1], "id": number})
        return out

    def _file(self, file: ForeignFile, progress: Callable[[str], None]) -> None:
        rank = self.rank
        t = file.time_ns or (rank.begin_ns if file.role in ("input", "dataset", "code") else rank.end_ns)
        # Ranks call their models alike; those of another rank are no later versions of them.
        name = file.name if len(self._run.ranks) == 1 or file.role != "model" else f"{file.name}-GR{rank.rank}"
        self._clock.ns = min(max(t, rank.begin_ns), rank.end_ns)
        self._json(Kind.FILE, {"t": t, "role": file.role, "path": file.path, "name": name, "context": file.context,
                               "epoch": None, "copy": self._copy})
        facts: dict[str, Any] = {"path": file.path, "t": t, "source": f"{self._packer.source:016x}"}
        if file.found is None:
            facts["reason"] = "it is no part of the imported folder" if file.path else "the original names no file"
            if file.size is not None:
                facts["size"] = file.size
        else:
            progress(f"reading {file.path}")
            facts |= self._artifacts.facts(file.found, file.within if self._copy else "")
            if file.size is not None and facts.get("size", file.size) != file.size:
                self._notes.say(f"`{file.path}` has {facts['size']} bytes; its document says {file.size}")
        self._json(Kind.FACTS, facts)
