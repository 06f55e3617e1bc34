"""Every kind of frame survives being written and read; nothing else passes for one."""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yprovd.errors import WireError
from yprovd.model import Absence, Device, Metric, Sample, Schema, Trace
from yprovd.spool import SpoolReader
from yprovd.testing import ManualClock
from yprovd.wire import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    NO_STEP,
    Frame,
    Kind,
    MetricRow,
    Packer,
    frames_of,
    from_json,
    new_source,
    pack,
    pack_metrics,
    pack_samples,
    pack_traces,
    to_json,
    unpack,
    unpack_metrics,
    unpack_samples,
    unpack_traces,
)

GOLDEN = Path(__file__).parent / "golden"

i64 = st.integers(-(1 << 63), (1 << 63) - 1)
u64 = st.integers(0, (1 << 64) - 1)
scalars = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)
rows = st.builds(MetricRow, mono_ns=i64, name=st.text(), value=st.floats(),
                 step=st.none() | st.integers(1 - (1 << 63), (1 << 63) - 1),
                 context=st.none() | st.text(), epoch=st.none() | i64)
devices = st.builds(Device, cls=st.text(), id=st.text(), name=st.text(),
                    attributes=st.dictionaries(st.text(), scalars, max_size=2))


def same(a: float, b: float) -> bool:
    """Bit for bit, so that NaN equals NaN and 0.0 does not equal -0.0."""
    return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))


@given(kind=st.integers(0, 255), source=u64, seq=u64, wall=i64, mono=i64, payload=st.binary(max_size=200),
       before=st.binary(max_size=20), after=st.binary(max_size=20))
def test_a_frame_is_read_back_wherever_it_stands(
    kind: int, source: int, seq: int, wall: int, mono: int, payload: bytes, before: bytes, after: bytes
) -> None:
    data = before + pack(kind, source, seq, wall, mono, payload) + after
    frame, stop = unpack(data, len(before))
    assert frame == Frame(kind, source, seq, wall, mono, payload)
    assert stop == len(data) - len(after)


@given(value=trees)
def test_json_payloads_survive(value: Any) -> None:
    assert from_json(to_json(value)) == value


@given(text=st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
                     | st.characters(codec="utf-8")))
def test_lone_surrogates_are_written_as_text_that_every_reader_takes(text: str) -> None:
    data = to_json({text: text})
    data.decode("utf-8")
    assert from_json(data) == {text: text}


@given(metrics=st.lists(st.builds(
    Metric, name=st.text(), unit=st.text(), kind=st.sampled_from(["gauge", "counter", "time"]), description=st.text(),
    resolution=st.floats(allow_nan=False), device=st.none() | devices), max_size=5),
    absences=st.lists(st.builds(Absence, st.text(), st.text(), st.text()), max_size=3),
    interval=st.integers(1, 1 << 62), plain=st.integers(0, 5))
def test_a_schema_survives_and_keeps_its_id(
    metrics: list[Metric], absences: list[Absence], interval: int, plain: int
) -> None:
    first: dict[tuple[str, str], Device] = {}  # what a device is stands once: the first one with its class and id
    agreed = tuple(
        m if m.device is None else
        m._replace(device=first.setdefault((m.device.cls, m.device.id), m.device))
        for m in metrics
    )
    schema = Schema(interval, agreed[:plain], tuple(absences), agreed[plain:])
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert again.id == schema.id


def test_a_device_name_that_is_not_unicode_can_be_announced() -> None:
    odd = Schema(1, (Metric("m", "1", "gauge", "", 1, Device("nic", "eth\udcff")),))
    assert Schema.from_json(odd.to_json()) == odd


@given(width=st.integers(0, 4), n=st.integers(1, 4), schema_id=st.integers(0, (1 << 32) - 1), data=st.data())
def test_samples_survive_bit_for_bit(width: int, n: int, schema_id: int, data: st.DataObject) -> None:
    values = st.lists(st.floats(), min_size=width, max_size=width)
    samples = data.draw(st.lists(st.builds(Sample, i64, i64, i64, values), min_size=n, max_size=n))
    found_id, found = unpack_samples(pack_samples(schema_id, samples))
    assert found_id == schema_id
    assert [s[:3] for s in found] == [s[:3] for s in samples]
    assert all(same(a, b) for x, y in zip(found, samples, strict=True) for a, b in zip(x.values, y.values, strict=True))


@given(traces=st.lists(st.tuples(st.integers(0, 65535), st.lists(st.tuples(i64, st.floats()), max_size=4)),
                       max_size=3), schema_id=st.integers(0, (1 << 32) - 1), data=st.data())
def test_traces_survive_bit_for_bit_and_no_part_of_them_passes_for_all(
    traces: list[tuple[int, list[tuple[int, float]]]], schema_id: int, data: st.DataObject
) -> None:
    given_ = [Trace(metric, [t for t, _ in points], [v for _, v in points]) for metric, points in traces]
    payload = pack_traces(schema_id, given_)
    found, out = unpack_traces(payload)
    assert (found, [t.metric for t in out]) == (schema_id, [t.metric for t in given_])
    for a, b in zip(given_, out, strict=True):
        assert list(a.mono_ns) == list(b.mono_ns)
        assert all(map(same, a.values, b.values))
    with pytest.raises(WireError):
        unpack_traces(payload[:data.draw(st.integers(0, len(payload) - 1))])
    with pytest.raises(WireError):
        unpack_traces(payload + b"\0")


@given(table=st.lists(rows, min_size=1, max_size=8))
def test_metrics_survive_bit_for_bit(table: list[MetricRow]) -> None:
    found = unpack_metrics(pack_metrics(table))
    assert [r._replace(value=0.0) for r in found] == [r._replace(value=0.0) for r in table]
    assert all(same(a.value, b.value) for a, b in zip(found, table, strict=True))


def test_a_metrics_block_holds_each_key_once() -> None:
    one, many = ([(i, "x" * 100, 1.0, i, "training", 0) for i in range(n)] for n in (1, 100))
    assert len(pack_metrics(many)) - len(pack_metrics(one)) == 99 * 28


@given(payload=st.binary(max_size=60))
def test_payloads_that_are_not_what_their_kind_says_are_wire_errors(payload: bytes) -> None:
    for read in (unpack_samples, unpack_metrics, from_json):
        try:
            read(payload)
        except WireError:
            pass  # the one exception that a reader has to expect


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_block_that_is_cut_or_padded_is_refused(cut: int) -> None:
    samples = pack_samples(7, [Sample(1, 2, 3, (1.0, 2.0))])
    metrics = pack_metrics([(1, "a", 1.0, None, None, None)])
    for data in (samples[:-cut], samples + b"x" * cut):
        with pytest.raises(WireError):
            unpack_samples(data)
    for data in (metrics[:-cut], metrics + b"x" * cut):
        with pytest.raises(WireError):
            unpack_metrics(data)


@pytest.mark.parametrize("table", [b"[]", b"[1]", b'[["a"]]', b"{}", b"3"])
def test_a_damaged_table_of_keys_is_refused(table: bytes) -> None:
    good = pack_metrics([(1, "a", 1.0, None, None, None)])
    size = len(to_json([["a", None, None]]))
    with pytest.raises(WireError):
        unpack_metrics(good[:4] + struct.pack("<I", len(table)) + good[8:-size] + table)


def test_json_nested_without_end_is_refused() -> None:
    with pytest.raises(WireError):
        from_json(b"[" * 100_000)


def test_what_is_too_long_for_a_frame_is_refused_and_costs_no_number() -> None:
    packer = Packer(1, ManualClock())
    with pytest.raises(WireError, match="at most"):
        packer.frame(Kind.EVENTS, bytes(MAX_PAYLOAD + 1))
    assert unpack(packer.frame(Kind.EVENTS, b""))[0].seq == 0


def test_a_frame_of_a_newer_version_is_named_so() -> None:
    data = bytearray(pack(1, 2, 3, 4, 5, b""))
    data[8] = 2
    with pytest.raises(WireError, match="version 2"):
        unpack(bytes(data))


def test_flags_that_are_not_known_are_ignored() -> None:
    data = bytearray(pack(1, 2, 3, 4, 5, b"abc"))
    data[10] = 1
    data[4:8] = struct.pack("<I", zlib.crc32(data[8:]))
    assert unpack(bytes(data))[0].payload == b"abc"


def test_a_message_with_anything_but_whole_frames_is_refused() -> None:
    frame = pack(1, 2, 3, 4, 5, b"abc")
    assert len(frames_of(frame * 3)) == 3
    for bad in (frame + b"x", frame[:-1], b"x" + frame):
        with pytest.raises(WireError):
            frames_of(bad)


def test_a_packer_numbers_its_frames_and_stamps_them_with_both_clocks() -> None:
    clock = ManualClock(wall_ns=1000, mono_ns=5)
    packer = Packer(9, clock)
    first, _ = unpack(packer.frame(Kind.NOTE, b""))
    clock.advance(2)
    second, _ = unpack(packer.json(Kind.NOTE, {"text": "x"}))
    assert (first.source, first.seq, first.wall_ns, first.mono_ns) == (9, 0, 1000, 5)
    assert (second.source, second.seq, second.wall_ns, second.mono_ns) == (9, 1, 1002, 7)


def test_sources_are_named_at_random() -> None:
    assert len({new_source() for _ in range(1000)}) == 1000


# -- the golden file: frames as version 1 writes them, for as long as there is a version 1


def golden_frames() -> list[bytes]:
    """One frame of every kind, with every odd value that the format has room for."""
    clock = ManualClock(wall_ns=1_700_000_000_123_456_789, mono_ns=42_000_000_001)
    packer = Packer(0x0123456789ABCDEF, clock)
    gpu = Device("gpu", "GPU-7f", "A device", {"driver": "1.2", "memory_bytes": 85899345920, "mig": False, "x": None})
    schema = Schema(10**9, (Metric("hw.power", "W", "gauge", "board power", 0.001, gpu),
                            Metric("hw.energy", "J", "counter", "since the driver was loaded", 0.001, gpu),
                            Metric("system.cpu.time", "s", "counter", "all CPUs", 0.01)),
                    (Absence("amd", "libamd_smi.so is not there", "module load rocm"),))
    second = 10**9
    samples = [Sample(k * second, k * second + 1000, k * second - 5, (1.5 * k, math.nan, -0.0)) for k in (1, 2)]
    metrics = [(1, "loss", 0.5, 3, "training", 0), (2, "loss", math.nan, 4, "training", 0),
               (3, "größe", math.inf, None, None, None),
               (4, "a/b", -1e308, -1, "", -2)]
    events: list[dict[str, Any]] = [
        {"t": 1, "e": "param", "name": "lr", "value": 10**30},
        {"t": 2, "e": "begin", "id": 1, "parent": 0, "kind": "epoch", "name": "0", "context": None, "epoch": 0},
        {"t": 3, "e": "event", "name": "\udcff\U0001f600", "attributes": {"x": [1.5, math.nan]}, "context": None,
         "epoch": 0},
        {"t": 4, "e": "end", "id": 1},
        {"t": 5, "e": "exit", "logged": 8, "dropped": 0},
    ]
    out = []
    for kind, payload in (
        (Kind.SOURCE, to_json({"role": "node", "host": "n1", "boot_id": "b", "pid": 1, "start": 2, "facts": {}})),
        (Kind.SCHEMA, schema.to_json()),
        (Kind.SAMPLES, pack_samples(schema.id, samples)),
        (Kind.METRICS, pack_metrics(metrics)),
        (Kind.EVENTS, to_json(events)),
        (Kind.LOSS, to_json({"frames": 2, "why": "the collector did not answer"})),
        (Kind.RUN, to_json({"config": {}, "started_ns": 1, "user": "u", "uid": 0})),
        (Kind.END, to_json({"state": "completed", "reason": "", "exit_code": 0, "ended_ns": 2})),
        (Kind.FILE, to_json({"t": 1, "role": "output", "path": "/x", "name": "x", "copy": False})),
        (Kind.NOTE, to_json({"text": "a daemon started again", "t": 1})),
        (Kind.FACTS, to_json({"path": "/x", "t": 1, "source": "0123456789abcdef", "size": 3, "sha256": "00"})),
        (Kind.TASK, to_json({"tasks": [{"e": "begin", "t": 1, "id": 1, "pid": 2, "start": 3, "rank": 0,
                                        "step": "7.0"}]})),
        (Kind.TRACE, pack_traces(schema.id, [Trace(0, [3, 5], [1.5, -0.0]), Trace(1, [], [])])),
    ):
        out.append(packer.frame(kind, payload))
        clock.advance(7)
    return out


def decoded(frame: Frame) -> dict[str, Any]:
    """A frame as JSON that holds every bit of it: floats as hexadecimal text."""
    payload = bytes(frame.payload)
    what: Any
    if frame.kind == Kind.SAMPLES:
        schema_id, samples = unpack_samples(payload)
        what = {"schema": schema_id, "samples": [[*s[:3], [float(v).hex() for v in s.values]] for s in samples]}
    elif frame.kind == Kind.METRICS:
        what = [[*r[:2], r.value.hex(), *r[3:]] for r in unpack_metrics(payload)]
    elif frame.kind == Kind.TRACE:
        schema_id, traces = unpack_traces(payload)
        what = {"schema": schema_id,
                "traces": [[t.metric, list(t.mono_ns), [float(v).hex() for v in t.values]] for t in traces]}
    else:
        what = from_json(payload)
    return {"kind": frame.kind, "source": f"{frame.source:016x}", "seq": frame.seq, "wall_ns": frame.wall_ns,
            "mono_ns": frame.mono_ns, "payload": what}


def test_the_golden_file_is_written_and_read_as_ever() -> None:
    """The format of version 1. `YPROV_GOLDEN=write pytest tests/test_wire.py` writes both files anew; a difference
    means that spools of released versions can no longer be read, unless the version of the frame changes too."""
    path, meaning = GOLDEN / "frames.spool", GOLDEN / "frames.json"
    if os.environ.get("YPROV_GOLDEN") == "write":
        path.write_bytes(b"".join(golden_frames()))
        frames = [decoded(f) for f in SpoolReader(path)]
        meaning.write_text(json.dumps(frames, indent=1) + "\n", encoding="ascii")
    assert b"".join(golden_frames()) == path.read_bytes()
    reader = SpoolReader(path)
    found = [decoded(f) for f in reader]
    assert json.dumps(found) == json.dumps(json.loads(meaning.read_text("ascii")))  # as text: NaN is equal to NaN
    assert reader.damaged == 0
    kinds = {value for name, value in vars(Kind).items() if not name.startswith("_")}
    assert {f["kind"] for f in found} == kinds
    assert len(kinds) == len(found)


def test_the_header_is_where_the_documentation_says() -> None:
    data = pack(Kind.NOTE, 0x1122334455667788, 3, -4, 5, b"payload")
    assert data[:4] == b"\xf1yPv"
    assert struct.unpack("<I", data[4:8]) == (zlib.crc32(data[8:]),)
    assert data[8:12] == bytes([1, Kind.NOTE, 0, 0])
    assert struct.unpack("<I", data[12:16]) == (7,)
    assert struct.unpack("<QQqq", data[16:48]) == (0x1122334455667788, 3, -4, 5)
    assert HEADER_SIZE == 48
    assert data[48:] == b"payload"
    assert NO_STEP == -(2**63)
