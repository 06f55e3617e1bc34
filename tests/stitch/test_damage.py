"""Frames that are whole by their checksum, and hold what no frame of ours does: counted as damage, and never in the way
of an archive of all the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stitch.builders import RunSpool, counter, gauge, ns, package
from yprovd.model import Device
from yprovd.spool import SpoolReader, spool_files
from yprovd.stitch import reading, stitch
from yprovd.stitch.attribution import attribute
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import Record
from yprovd.stitch.validate import check_document, validate_run
from yprovd.wire import Frame, Kind, to_json

FAR = 10**30
#: SHA-256 of the model that the run keeps a copy of.
MODEL = hashlib.sha256(b"model").hexdigest()


def a_run(folder: Path) -> RunSpool:
    """Something of each kind; left open."""
    folder.mkdir(parents=True)
    run = RunSpool(folder)
    run.begin(user="ada", scheduler={"name": "slurm", "job_id": "7"}, daemons={"expected": ["n1"], "fallbacks": ["a"]})
    node = run.node("n1", [counter("hw.energy", "J", 1e-6, package()), gauge("system.cpu.utilization"),
                           gauge("hw.power", "W", 1.0, Device("gpu", "GPU-1"))], facts={"logical_cpus": 4})
    for i in range(6):
        node.sample(i, [10.0 * i, 0.5, 100.0])
    rank = run.process("n1", rank=0, step="7.0", launcher="slurm", devices={"A": "0"}, argv=["x"], python="3.11")
    with rank.span(1, 4, "context", "training"), rank.span(1.5, 3, "epoch", 1), rank.span(1.6, 2, "span", "f"):
        rank.metric(1.7, "loss", 1.0, step=1)
        rank.file(1.8, "model", "/m", "m")
        rank.event(1.9, "e", a=1)
        rank.param(1.95, "lr", 0.1)
    node.json(2.5, Kind.FACTS, {"path": "/m", "t": rank.mono(1.8), "source": f"{3:016x}", "size": 5, "sha256": MODEL,
                                "modified_ns": ns(1), "stored": "artifacts/m"})
    rank.json(2.6, Kind.LOSS, {"events": 3, "pushed_out": 1, "why": "x"})
    node.json(2.7, Kind.NOTE, {"text": "x", "t": node.mono(2)})
    node.json(2.8, Kind.TASK, {"tasks": [{"e": "begin", "t": node.mono(1), "pid": 77, "start": 5, "rank": 0,
                                          "step": "7.0", "launcher": "slurm", "devices": {}, "program": "x"}]})
    rank.exit(4.5)
    run.finish(5, exit_code=0, rusage={"user_s": 1.0, "system_s": 0.5, "max_rss_bytes": 1000})
    run.scheduler_said(4.9, "timeout", facts={"name": "slurm", "job_id": "7"})
    return run


def begin(**more: Any) -> dict[str, Any]:
    return {"e": "begin", "id": 50, "parent": 0, "kind": "span", "name": "x", "context": None, "epoch": None, **more}


@pytest.mark.parametrize(("kind", "value"), [
    (Kind.RUN, {"started_ns": "x"}), (Kind.RUN, {"started_ns": FAR}),
    (Kind.END, {"state": "completed", "ended_ns": "soon"}), (Kind.END, {"state": "completed", "ended_ns": FAR}),
    (Kind.END, {"state": ["completed"]}), (Kind.END, {"exit_code": "zero"}), (Kind.END, {"rusage": {"user_s": "x"}}),
    (Kind.END, {"rusage": {"max_rss_bytes": float("inf")}}),
    (Kind.EVENTS, begin(kind="weird")), (Kind.EVENTS, begin(kind="epoch", epoch="abc")),
    (Kind.EVENTS, begin(kind="epoch")), (Kind.EVENTS, begin(kind="context")), (Kind.EVENTS, begin(id="one")),
    (Kind.EVENTS, begin(parent=None)), (Kind.EVENTS, begin(context=5, epoch=1.5)), (Kind.EVENTS, begin(t=FAR)),
    (Kind.EVENTS, begin(t="now")), (Kind.EVENTS, {"e": "exit", "logged": "many", "dropped": None}),
    (Kind.EVENTS, {"e": "event", "name": "x", "attributes": 5, "context": None, "epoch": None}),
    (Kind.SOURCE, {"role": "process", "host": "n1", "boot_id": "boot-n1", "pid": 7, "rank": "first"}),
    (Kind.SOURCE, {"role": "node", "host": "n1", "boot_id": "boot-n1", "pid": 7, "facts": "x"}),
    (Kind.FILE, {"t": FAR, "role": "model", "path": "/m", "name": "m"}),
    (Kind.FILE, {"t": 1, "role": "model", "path": "/m", "name": "m", "context": 5, "epoch": "x"}),
    (Kind.LOSS, {"events": "x"}),
])
def test_what_is_of_another_type_is_damage_and_the_rest_is_kept(tmp_path: Path, kind: int, value: Any) -> None:
    run = a_run(tmp_path / "spool")
    rank = run.process("n1", rank=1)
    if kind == Kind.EVENTS:
        rank.json(3, kind, [{"t": rank.mono(3), **value}])
        rank.param(3.5, "seed", 7)
    elif kind == Kind.SOURCE:
        rank.json(3, kind, value)
    else:
        (rank if kind in (Kind.FILE, Kind.LOSS) else run.launcher).json(3, kind, value)
    record = run.record()
    assert record.damaged_bytes > 0
    doc = checked(record)
    assert doc["activity"]["run:run"]["yp:state"] == "timeout"
    assert doc["activity"]["run:run"]["prov:startTime"] == "2026-01-01T00:00:00+00:00"
    assert "run:ctx/training/epoch/1" in doc["activity"]
    assert "run:model/m" in doc["entity"]
    assert kind != Kind.EVENTS or "run:param/seed" in doc["entity"]


def checked(record: Record) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(build_document(record, attribute(record), []))
    assert check_document(doc) == []
    return doc


def test_names_that_no_text_can_hold_are_written_as_escapes(tmp_path: Path) -> None:
    """The role of a file, which a script chooses, and a host's, of which the run's id is made where it was lost."""
    run = RunSpool(tmp_path)
    rank = run.process("n1", rank=0)
    run.node("n1", []).json(0, Kind.SOURCE, {"role": "node", "host": "n\ud800", "boot_id": "b\ud800", "pid": 5})
    rank.file(1, "r\ud800", "/o\ud800")
    doc = checked(run.record())
    (made,) = [r for r in doc["wasGeneratedBy"].values() if "/o" in r["prov:entity"]]
    assert made["prov:role"] == "r\\ud800"


def test_an_archive_is_made_of_the_rest(tmp_path: Path) -> None:
    run = a_run(tmp_path / "spool")
    rank = run.process("n1", rank=1)
    for event in (begin(kind="weird"), begin(kind="epoch", epoch="abc"), {"e": "exit", "logged": "many"}):
        rank.json(3, Kind.EVENTS, [{"t": rank.mono(3), **event}])
    run.launcher.json(3, Kind.END, {"ended_ns": "soon", "rusage": {"user_s": "x"}})
    run.close()
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/m").write_text("model")
    assert stitch(tmp_path, keep_spool=False).damaged_bytes > 100
    assert validate_run(tmp_path) == []


@pytest.mark.parametrize("facts", [
    {"size": "big"}, {"sha256": 5}, {"modified_ns": "y"}, {"modified_ns": FAR}, {"stored": 7}, {"reason": ["x"]}])
def test_facts_of_a_file_of_another_type_are_left_out_each_by_itself(tmp_path: Path, facts: dict[str, Any]) -> None:
    run = a_run(tmp_path / "spool")
    rank = run.process("n1", rank=1)
    rank.file(3, "output", "/o")
    rank.json(3.1, Kind.FACTS, {"path": "/o", "t": rank.mono(3), "source": f"{rank.packer.source:016x}",
                                "size": 9, "sha256": "b" * 64, **facts})
    record = run.record()
    (output,) = [f for f in record.files if f.path == "/o"]
    assert (output.size, output.sha256) == (None if "size" in facts else 9, None if "sha256" in facts else "b" * 64)
    assert output.stored is None
    assert output.modified_ns is None
    assert record.damaged_bytes == len(to_json(facts))


def test_a_frame_of_no_time_is_damage(tmp_path: Path) -> None:
    run = a_run(tmp_path / "spool")
    whole = run.record()
    frames = [f for path in spool_files(tmp_path / "spool") for f in SpoolReader(path)]
    frames += [Frame(Kind.NOTE, 1, 900 + n, wall, mono, b'{"text":"x"}')
               for n, (wall, mono) in enumerate(((1 << 62, 5), (-(1 << 63), 5), (5, (1 << 63) - 1)))]
    assert read(frames).last_ns == whole.last_ns
    assert read(frames).damaged_bytes == 3 * 12


def read(frames: list[Frame]) -> Record:
    class Reader:
        damaged = torn = 0

        def __init__(self, path: Any) -> None:
            pass

        def __iter__(self) -> Any:
            return iter(frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SpoolReader", Reader)
        return reading.read_record([Path("frames")])


ODD = st.sampled_from([None, True, "x", "", FAR, -FAR, -1, 1 << 62, 0, 1.5, float("nan"), float("inf"), [], {}, ["x"],
                       {"a": 1}, [[1]], "\ud800", "x" * 3000])


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    folder = tmp_path_factory.mktemp("frames") / "spool"
    a_run(folder).close()
    return [f._replace(payload=bytes(f.payload)) for path in spool_files(folder) for f in SpoolReader(path)]


def changed(value: Any, odd: Any, draw: Any) -> Any:
    """With `odd` in the place of something in it, or of all of it."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        out = dict(value) if isinstance(value, dict) else list(value)
        out[key] = changed(value[key], odd, draw)
        return out
    return odd


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_stands_in_a_frame_the_document_is_made_and_valid(frames: list[Frame], data: st.DataObject) -> None:
    texts = [i for i, f in enumerate(frames) if f.kind not in (Kind.SAMPLES, Kind.METRICS)]
    at = data.draw(st.sampled_from(texts))
    value = changed(json.loads(frames[at].payload), data.draw(ODD), data.draw)
    record = read([*frames[:at], frames[at]._replace(payload=to_json(value)), *frames[at + 1:]])
    checked(record)
