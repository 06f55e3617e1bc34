"""The frame: the one unit that is sent, spooled and read back. Version 1, little-endian, no padding.

    offset size  field
    0      4     magic    f1 79 50 76
    4      4     crc      CRC-32 (zlib) of everything behind it, the payload too
    8      1     version  1
    9      1     kind     see `Kind`
    10     2     flags    0; a reader ignores flags that it does not know
    12     4     length   bytes of payload, at most MAX_PAYLOAD
    16     8     source   who made the frame: 64 random bits, announced by a SOURCE frame
    24     8     seq      0, 1, 2... per source: (source, seq) names a frame; a gap is a loss
    32     8     wall_ns  CLOCK_REALTIME  \\ read together when the frame was made: the pair that turns
    40     8     mono_ns  CLOCK_MONOTONIC / the monotonic times of a payload into wall-clock times
    48     ...   payload

A source is one process: a node daemon, a process of the job that sends events, the collector or the launcher. Its
SOURCE frame names host and boot, so `node, sequence number, clock pair` of every later frame cost 32 bytes.

Payloads (times are `mono_ns` of the frame's source unless they say wall):

SOURCE, RUN, END, FILE, FACTS, LOSS, NOTE   one JSON object (see the table in `yprovd.stitch.record`)
SCHEMA    JSON of `yprovd.model.Schema`
EVENTS    a JSON array of objects: `{"t": mono_ns, "e": "param"|"begin"|"end"|"event"|"exit", ...}`
SAMPLES   u32 schema id, u16 ticks n, u16 metrics m,
          i64[n] nominal wall ns, i64[n] wall ns, i64[n] mono ns, f64[m][n] values, metric after metric
TRACE     u32 schema id, u16 traces k, then of each: u16 position in the schema's `traced`, u32 values n; and then,
          trace after trace, i64[n] mono ns, f64[n] value
METRICS   u32 rows n, u32 bytes of keys, i64[n] mono ns, i64[n] step (INT64_MIN: none), f64[n] value, u32[n] key,
          JSON array of keys: [metric name, context or null, epoch or null]

JSON is Python's: NaN and Infinity may stand in it.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from yprovd.errors import WireError

if TYPE_CHECKING:  # its dataclasses would cost the user's training 9 ms at the first event
    from yprovd.model import Sample, Trace

MAGIC = b"\xf1yPv"
VERSION = 1
MAX_PAYLOAD = 64 << 20
NO_STEP = -(1 << 63)

_HEADER = struct.Struct("<4sIBBHIQQqq")
_CHECKED = struct.Struct("<BBHIQQqq")  # the part of it that the checksum covers
_FRONT = struct.Struct("<4sI")
HEADER_SIZE = _HEADER.size
_SAMPLES = struct.Struct("<IHH")
_METRICS = struct.Struct("<II")
_TRACES, _TRACE = struct.Struct("<IH"), struct.Struct("<HI")


class Kind:
    """What a frame carries. Numbers are part of the format: never reuse one."""

    SOURCE = 1
    SCHEMA = 2
    SAMPLES = 3
    METRICS = 4
    EVENTS = 5
    LOSS = 6
    RUN = 7
    END = 8
    FILE = 9
    NOTE = 10
    FACTS = 11
    TASK = 12
    TRACE = 13


class Frame(NamedTuple):
    kind: int
    source: int
    seq: int
    wall_ns: int
    mono_ns: int
    payload: bytes | memoryview


class MetricRow(NamedTuple):
    """One call of `log_metric`."""

    mono_ns: int
    name: str
    value: float
    step: int | None
    context: str | None
    epoch: int | None


def pack(kind: int, source: int, seq: int, wall_ns: int, mono_ns: int, payload: bytes) -> bytes:
    """One frame as bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"a payload of {len(payload)} bytes; at most {MAX_PAYLOAD} fit into a frame")
    checked = _CHECKED.pack(VERSION, kind, 0, len(payload), source, seq, wall_ns, mono_ns)
    return b"".join((_FRONT.pack(MAGIC, zlib.crc32(payload, zlib.crc32(checked))), checked, payload))


def unpack(data: bytes | memoryview, offset: int = 0) -> tuple[Frame, int]:
    """The frame at `offset` and the offset behind it. Its payload is a view into `data`.

    Raises WireError when no whole, undamaged frame of this version stands there.
    """
    view = data if type(data) is memoryview else memoryview(data)
    end = offset + HEADER_SIZE
    if end > len(view):
        raise WireError("cut short in the header")
    magic, crc, version, kind, _flags, length, source, seq, wall_ns, mono_ns = _HEADER.unpack_from(view, offset)
    if magic != MAGIC:
        raise WireError("no frame starts here")
    if version != VERSION:
        raise WireError(f"frame version {version}; this program reads version {VERSION}")
    stop = end + length
    if length > MAX_PAYLOAD or stop > len(view):
        raise WireError("cut short in the payload")
    if zlib.crc32(view[offset + _FRONT.size:stop]) != crc:
        raise WireError("checksum does not fit")
    return Frame(kind, source, seq, wall_ns, mono_ns, view[end:stop]), stop


def frames_of(data: bytes) -> list[Frame]:
    """All frames of a buffer that holds whole frames only (a message)."""
    out: list[Frame] = []
    offset = 0
    while offset < len(data):
        frame, offset = unpack(data, offset)
        out.append(frame)
    return out


def to_json(value: Any) -> bytes:
    """Lone surrogates (a file name that is not UTF-8) become text, `\\udcff`: every reader can read what we wrote."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def from_json(payload: bytes | memoryview) -> Any:
    try:
        return json.loads(str(payload, "utf-8"))
    except (ValueError, RecursionError) as e:
        raise WireError(f"not JSON: {e}") from None


def _little(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _column(code: str, payload: memoryview, offset: int, n: int) -> tuple[array[Any], int]:
    column = array(code)
    stop = offset + n * column.itemsize
    if stop > len(payload):
        raise WireError("a column is cut short")
    column.frombytes(payload[offset:stop])
    if sys.byteorder == "big":
        column.byteswap()
    return column, stop


def pack_samples(schema_id: int, samples: Sequence[Sample]) -> bytes:
    """Samples of one schema as columns. Blocks of a few ticks at most: a torn frame loses what is in it."""
    width = len(samples[0].values)
    parts = [_SAMPLES.pack(schema_id, len(samples), width)]
    for times in zip(*((s.nominal_ns, s.wall_ns, s.mono_ns) for s in samples), strict=True):
        parts.append(_little(array("q", times)))
    if len(samples) == 1:
        parts.append(_little(array("d", samples[0].values)))
    else:
        for column in zip(*(s.values for s in samples), strict=True):
            parts.append(_little(array("d", column)))
    return b"".join(parts)


def unpack_samples(payload: bytes | memoryview) -> tuple[int, list[Sample]]:
    """(schema id, samples). The archive is not made with this but with `yprovd.stitch.align`, at once for all."""
    from yprovd.model import Sample

    view = memoryview(payload)
    try:
        schema_id, n, width = _SAMPLES.unpack_from(view)
    except struct.error:
        raise WireError("a samples block is cut short") from None
    nominal, offset = _column("q", view, _SAMPLES.size, n)
    wall, offset = _column("q", view, offset, n)
    mono, offset = _column("q", view, offset, n)
    values, offset = _column("d", view, offset, n * width)
    if offset != len(view):
        raise WireError("a samples block has a wrong length")
    return schema_id, [Sample(nominal[i], wall[i], mono[i], tuple(values[i::n])) for i in range(n)]


def pack_traces(schema_id: int, traces: Sequence[Trace]) -> bytes:
    """The traces of one sample."""
    parts = [_TRACES.pack(schema_id, len(traces)), *(_TRACE.pack(t.metric, len(t.values)) for t in traces)]
    for trace in traces:
        parts += [_little(array("q", trace.mono_ns)), _little(array("d", trace.values))]
    return b"".join(parts)


def unpack_traces(payload: bytes | memoryview) -> tuple[int, list[Trace]]:
    """(schema id, traces)."""
    from yprovd.model import Trace

    view = memoryview(payload)
    try:
        schema_id, count = _TRACES.unpack_from(view)
        heads = [_TRACE.unpack_from(view, _TRACES.size + i * _TRACE.size) for i in range(count)]
    except struct.error:
        raise WireError("a block of traces is cut short") from None
    offset = _TRACES.size + count * _TRACE.size
    traces = []
    for metric, n in heads:
        mono, offset = _column("q", view, offset, n)
        values, offset = _column("d", view, offset, n)
        traces.append(Trace(metric, mono, values))
    if offset != len(view):
        raise WireError("a block of traces has a wrong length")
    return schema_id, traces


def pack_metrics(rows: Iterable[tuple[int, str, float, int | None, str | None, int | None]]) -> bytes:
    """Rows as in `MetricRow`, in columns; strings once per block."""
    times, names, values, steps, contexts, epochs = zip(*rows, strict=True)
    ids: dict[tuple[str, str | None, int | None], int] = {}
    keys = array("I", [ids.setdefault(key, len(ids)) for key in zip(names, contexts, epochs, strict=True)])
    table = to_json(list(ids))
    return b"".join((
        _METRICS.pack(len(times), len(table)),
        _little(array("q", times)),
        _little(array("q", [NO_STEP if s is None else s for s in steps])),
        _little(array("d", values)),
        _little(keys),
        table,
    ))


def unpack_metrics(payload: bytes | memoryview) -> list[MetricRow]:
    view = memoryview(payload)
    try:
        n, table_size = _METRICS.unpack_from(view)
    except struct.error:
        raise WireError("a metrics block is cut short") from None
    times, offset = _column("q", view, _METRICS.size, n)
    steps, offset = _column("q", view, offset, n)
    values, offset = _column("d", view, offset, n)
    keys, offset = _column("I", view, offset, n)
    if len(view) - offset != table_size:
        raise WireError("a metrics block has a wrong length")
    table = from_json(view[offset:])
    rows: list[MetricRow] = []
    for t, step, value, key in zip(times, steps, values, keys, strict=True):
        try:
            name, context, epoch = table[key]
        except (IndexError, KeyError, TypeError, ValueError):
            raise WireError("a metrics block has a damaged table of keys") from None
        rows.append(MetricRow(t, name, value, None if step == NO_STEP else step, context, epoch))
    return rows


def new_source() -> int:
    """A frame source's name: 64 random bits."""
    return int.from_bytes(os.urandom(8), "little")


class Packer:
    """Makes the frames of one source: numbers them and stamps them with the clock pair. Not thread-safe."""

    def __init__(self, source: int, clock: Any) -> None:
        self.source = source
        self.next_seq = 0
        self._clock = clock

    def frame(self, kind: int, payload: bytes) -> bytes:
        frame = pack(kind, self.source, self.next_seq, self._clock.wall_ns(), self._clock.mono_ns(), payload)
        self.next_seq += 1  # not before: a payload that is refused must not leave a gap in the numbers
        return frame

    def json(self, kind: int, value: Any) -> bytes:
        return self.frame(kind, to_json(value))
