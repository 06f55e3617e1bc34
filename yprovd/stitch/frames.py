"""The frames of a spool, sorted by what they are: duplicates dropped, gaps and damage counted. Pure."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from yprovd.errors import WireError
from yprovd.model import Schema
from yprovd.stitch.forms import is_clock, is_date, sound
from yprovd.stitch.traces import Pieces
from yprovd.wire import Frame, Kind, from_json, to_json

_SAMPLES_HEAD = struct.Struct("<IH")

#: The role of a source that speaks after the run, of what the scheduler said later: its frames are none of the run's
#: time.
LATER = "scheduler"
SAMPLES = Kind.SAMPLES
#: What nonsense in a frame raises while it is taken apart.
NONSENSE = (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError,
            RecursionError)  # or WireError


class Frames:
    """What is collected while the files are read, each frame once, before it is put into order."""

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
        kind, source, seq, wall_ns, mono_ns, payload = frame
        seen = self.seen.get(source)
        if seen is None:
            seen = self.seen[source] = set()
        known = len(seen)
        seen.add(seq)
        if len(seen) == known:
            return
        if not is_date(wall_ns) or not is_clock(mono_ns):
            raise WireError("a frame of no time")
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
            value, wrong = sound(kind, from_json(frame.payload))
            if wrong:
                self.count_damage(wrong)
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
