"""validate: silent on what a stitch leaves, and a sentence for every fault that is planted."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.archives import make_run
from tests.stitch.builders import RunSpool, counter, gauge
from tests.stitch.golden.small import make_run_dir, small_attribution, small_record, small_series
from yprovd.model import Device
from yprovd.stitch import provenance, stitch
from yprovd.stitch.align import figures_of
from yprovd.stitch.attribution import attribute
from yprovd.stitch.crate import build_crate, file_hash, folder_hash, path_of_id
from yprovd.stitch.identity import content_id
from yprovd.stitch.provenance import build_document
from yprovd.stitch.series import write_series
from yprovd.stitch.storage import LARGE
from yprovd.stitch.validate import check_document, validate_run
from yprovd.stitch.validity.crate import check_crate, has_ended
from yprovd.stitch.validity.series import _statistics, check_series
from yprovd.stitch.validity.statements import from_json


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_dir(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run_dir(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def document() -> dict[str, Any]:
    return json.loads(build_document(small_record(), small_attribution(), small_series()))


def rewrite(run_dir: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change prov.json, and make a crate that fits it: only prov.json is then at fault."""
    path = run_dir / "prov.json"
    doc = json.loads(path.read_text())
    change(doc)
    path.write_text(json.dumps(doc))
    (run_dir / "ro-crate-metadata.json").write_bytes(build_crate(run_dir, small_record(), small_attribution()))


def test_what_a_stitch_leaves_has_no_problem(run_dir: Path) -> None:
    assert validate_run(run_dir) == []


def test_flipped_byte_of_a_file_is_found(run_dir: Path) -> None:
    (run_dir / "artifacts/1.pt").write_bytes(b"Weights")
    assert validate_run(run_dir) == [
        "ro-crate-metadata.json: the file `artifacts/1.pt` is not as it was: its sha256 differs"]


def test_shorter_file_is_found(run_dir: Path) -> None:
    (run_dir / "logs/stdout.log").write_text("hell")
    assert validate_run(run_dir) == ["ro-crate-metadata.json: the file `logs/stdout.log` has 4 bytes and not 6"]


def test_a_log_may_have_grown_only_where_the_command_had_not_ended(run_dir: Path) -> None:
    log = run_dir / "logs/stdout.log"
    was = log.read_bytes()
    grown = f"ro-crate-metadata.json: the file `logs/stdout.log` has {len(was) + 4} bytes and not {len(was)}"
    log.write_bytes(was + b"more")
    assert crate_problems(run_dir, ended=True) == [grown]
    assert crate_problems(run_dir, ended=False) == []
    log.write_bytes(b"x" + was[1:] + b"more")
    assert crate_problems(run_dir, ended=False) == [grown]


def test_whether_the_command_had_ended_is_told_by_its_exit_status() -> None:
    assert has_ended({"activity": {"run:run": {"yp:exitCode": 0}}})
    assert not has_ended({"activity": {"run:run": {}}})
    assert has_ended(None)


def crate_problems(run_dir: Path, *, ended: bool) -> list[str]:
    problems: list[str] = []
    check_crate(run_dir, problems, ended=ended)
    return problems


def test_missing_file_is_found(run_dir: Path) -> None:
    (run_dir / "source/train.py").unlink()
    assert validate_run(run_dir) == ["ro-crate-metadata.json: the file `source/train.py` is listed and missing"]


def test_added_file_is_found_and_a_temporary_is_not(run_dir: Path) -> None:
    (run_dir / "logs/more.log").write_text("x")
    (run_dir / ".series.zarr.5.tmp").mkdir()
    (run_dir / ".series.zarr.5.tmp/x").write_text("x")
    assert validate_run(run_dir) == ["ro-crate-metadata.json: the file `logs/more.log` is not listed"]


def test_flipped_byte_of_a_chunk_is_found(run_dir: Path) -> None:
    path = next(p for p in (run_dir / "series.zarr/rapl/energy/c").rglob("*") if p.is_file())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "ro-crate-metadata.json: `series.zarr/` is not as it was: its sha256 differs" in validate_run(run_dir)


def test_missing_store_is_found(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "series.zarr")
    assert validate_run(run_dir) == ["ro-crate-metadata.json: `series.zarr/` is listed and missing",
                                     "series.zarr: is missing"]


def test_missing_series_is_found(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "series.zarr/metrics/training/loss")
    rewrite(run_dir, lambda doc: None)
    assert validate_run(run_dir) == ["series.zarr: `metrics/training/loss` is missing; prov.json names it"]


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("count", {"$": "7", "type": "xsd:int"}, "holds 199 finite values; prov.json says 6"),
    ("missing", {"$": "3", "type": "xsd:int"}, "has 1 cells without a finite value; prov.json says 4"),
    ("nonFinite", None, "holds 199 finite values; prov.json says 200"),
    ("mean", {"$": "1.1", "type": "xsd:double"}, "has mean 1.0; prov.json says 1.1"),
    ("total", {"$": "5.0", "type": "xsd:double"}, "has total 199.0; prov.json says 5.0"),
    ("unit", "W", "is in ``; prov.json says `W`"),
    ("max", {"$": "2.6", "type": "xsd:double"}, "has max 2.5; prov.json says 2.6"),
    ("min", {"$": "0.26", "type": "xsd:double"}, "has min 0.25; prov.json says 0.26"),
    ("last", {"$": "1.0", "type": "xsd:double"}, "has last 0.25; prov.json says 1.0"),
    ("last", None, "has last 0.25; prov.json says None"),
])
def test_changed_statistic_is_found(run_dir: Path, key: str, value: Any, expected: str) -> None:
    def change(doc: dict[str, Any]) -> None:
        entity = doc["entity"]["run:series/metrics/training/loss"]
        entity[f"yp:{key}"] = value
        if value is None:
            del entity[f"yp:{key}"]

    rewrite(run_dir, change)
    problems = validate_run(run_dir)
    assert len(problems) == 1
    assert expected in problems[0]


def test_changed_array_is_found(run_dir: Path) -> None:
    zarr.open_array(run_dir / "series.zarr/rapl/energy")[1, 10] = 200
    rewrite(run_dir, lambda doc: None)
    assert validate_run(run_dir) == [
        f"series.zarr: `rapl/energy` has {key} {found}; prov.json says {said}" for key, found, said in (
            ("mean", 105.0, 100.0), ("max", 200.0, 100.0), ("last", 200.0, 100.0), ("total", 2100.0, 2000.0))]


@settings(max_examples=60, deadline=None)
@given(values=arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 9)),
                     elements=st.one_of(st.just(math.nan), st.floats(-1e6, 1e6))),
       chunk=st.tuples(st.integers(1, 3), st.integers(1, 4)))
def test_figures_do_not_depend_on_chunks(values: np.ndarray[Any, Any], chunk: tuple[int, int]) -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=values.shape, chunks=chunk, dtype="f8")
    array[:] = values
    finite = values[np.isfinite(values)]
    found, told = _statistics(array, script=True), figures_of(finite, values.size - finite.size, float(finite.sum()))
    assert (found.count, found.size - found.count, found.least, found.greatest, found.last) == (
        told.count, told.missing, told.min, told.max, told.last)
    if told.mean is not None:
        assert (found.mean, found.total) == (pytest.approx(told.mean, abs=1e-6), pytest.approx(told.total, abs=1e-6))


READINGS = st.one_of(st.just(math.nan), st.just(math.inf), st.floats(0, 1e4), st.integers(-5, 5).map(float),
                     st.floats(-1e15, 1e15))


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(*[READINGS] * 5), min_size=1, max_size=6),
       logged=st.lists(st.floats() | READINGS, max_size=6), long=st.booleans(), trace=st.lists(READINGS, max_size=3))
def test_whatever_was_measured_and_logged_has_the_figures_that_the_stitch_gives_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]], logged: list[float], long: bool,
    trace: list[float],
) -> None:
    """Else a stitch would reject its own archive."""
    path = tmp_path_factory.mktemp("measured")
    (path / "spool").mkdir()
    run = RunSpool(path / "spool")
    run.begin()
    gpu = Device("gpu", "GPU-0", "card")
    power = gauge("hw.power", "W", 0.001, gpu)
    for host in ("n1", "n2"):
        node = run.node(host, [gauge("a.ratio", "1", 1e-9), gauge("a.size", "By", 1024.0), counter("a.energy"),
                               counter("a.packets", "{packet}", 1.0), power], traced=[power])
        for i, row in enumerate(rows):
            node.sample(float(i), row)
        if trace:
            node.trace(float(len(rows)), (0, [0.1 * i for i in range(len(trace))], trace))
    rank = run.process("n1", rank=0)
    values = logged * (LARGE // len(logged) + 1) if long and logged else logged
    if values:
        rank.metrics(1.0, [(1.0, f"m{i % 2}", v, i, "training", None) for i, v in enumerate(values)])
    run.finish(float(len(rows)))
    record = run.record()
    attribution = attribute(record)
    series = write_series(record, attribution, path / "series.zarr")
    problems: list[str] = []
    check_series(path, json.loads(build_document(record, attribution, series)), problems)
    assert problems == []


#: Names of which two have one identifier, or whose identifier does not give the name back.
TRICKY = ["training", "training/epoch/0", "a/span/b", "a", "b", "b-2", "", " ", "\udcff", "\\udcff", "x" * 300, "%",
          "ü/", "/", "a" * 150 + "/span/" + "b" * 150]
PARTS = st.recursive(st.none(), lambda inner: st.lists(st.tuples(
    st.sampled_from(["context", "epoch", "span"]), st.sampled_from(TRICKY) | st.text(max_size=3), st.integers(0, 2),
    inner), max_size=4), max_leaves=10)


def opened(rank: Any, parts: Any, begin: float, end: float) -> None:
    """Opens the parts one after the other, and theirs within them."""
    width = (end - begin) / max(1, len(parts or ()))
    for i, (kind, name, number, inner) in enumerate(parts or ()):
        first, last = begin + i * width, begin + (i + 0.9) * width
        with rank.span(first, last, kind, number if kind == "epoch" else name):
            rank.metrics(first, [(first, "loss", 0.5, i, name if kind == "context" else None, None)])
            opened(rank, inner, first, last)


@settings(max_examples=25, deadline=None)
@example(parts=[("context", "training", 0, None), ("epoch", "", 0, [
    ("context", "training", 0, None), ("context", "training/epoch/0", 0, None)])], energies=[], most=1)
@example(parts=[("epoch", "", 0, [("context", "\udcff", 0, None), ("context", "\\udcff", 0, None)])], energies=[],
         most=2)
@given(parts=PARTS, energies=st.lists(st.floats(0, 1e6) | st.just(math.nan) | st.floats(-1e15, 1e15), max_size=6),
       most=st.sampled_from([1, 2, 100]))
def test_whatever_a_script_calls_its_parts_they_are_found_in_the_accounts(
    tmp_path_factory: pytest.TempPathFactory, parts: Any, energies: list[float], most: int
) -> None:
    """Else a stitch would reject its own archive."""
    path = tmp_path_factory.mktemp("parts")
    (path / "spool").mkdir()
    run = RunSpool(path / "spool")
    run.begin()
    power = gauge("hw.power", "W", 0.001, Device("rapl", "package-0", "", {"meter": "cpu", "summed": True}))
    node = run.node("n1", [power, gauge("process.memory.usage", "By", 1024.0)])
    for i, watts in enumerate(energies):
        node.sample(10.0 * i / len(energies), [watts, abs(watts)])
    opened(run.process("n1", rank=0), parts, 1.0, 9.0)
    run.finish(10.0)
    record = run.record()
    attribution = attribute(record)
    series = write_series(record, attribution, path / "series.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "MOST", provenance.MOST | {"context": most, "epoch": most, "span": most})
        document = json.loads(build_document(record, attribution, series))
    problems = check_document(document)
    check_series(path, document, problems)
    (path / "prov.json").write_text(json.dumps(document))
    (path / "ro-crate-metadata.json").write_bytes(build_crate(path, record, attribution))
    check_crate(path, problems, ended=True, document=document)
    assert problems == []


def test_series_that_says_not_where_it_is_is_found(run_dir: Path) -> None:
    rewrite(run_dir, lambda doc: doc["entity"]["run:series/rapl/energy"].pop("prov:location"))
    assert validate_run(run_dir) == [
        "prov.json: the series `hw.energy` says at no prov:location in series.zarr/ where it is"]


def test_removed_record_is_found(run_dir: Path) -> None:
    rewrite(run_dir, lambda doc: doc["entity"].pop("run:param/on"))
    problems = validate_run(run_dir)
    assert len(problems) == 1
    assert "refers to `run:param/on`, which is not declared" in problems[0]


def test_number_that_is_no_json_is_found(run_dir: Path) -> None:
    (run_dir / "prov.json").write_text('{"entity": {"a": {"b": NaN}}}')
    assert "prov.json: is not JSON: `NaN` is no JSON" in validate_run(run_dir)


def test_key_that_stands_twice_is_found(run_dir: Path) -> None:
    (run_dir / "prov.json").write_text('{"entity": {"a": {}, "a": {}}}')
    assert "prov.json: is not JSON: the key `a` stands twice in one object" in validate_run(run_dir)


def test_document_that_prov_cannot_load_is_found(run_dir: Path) -> None:
    rewrite(run_dir, lambda doc: doc.__setitem__("wasBornBy", {"_:x": {"prov:entity": "run:job"}}))
    problems = validate_run(run_dir)
    assert problems[0] == "prov.json: `wasBornBy` is no part of a flat PROV document"
    assert problems[1].startswith("prov.json: prov ")


def test_file_outside_of_the_crate_is_not_read(run_dir: Path) -> None:
    path = run_dir / "ro-crate-metadata.json"
    path.write_text(path.read_text().replace('"run.json"', '"../run.json"'))
    assert any("lies outside of the crate" in p for p in validate_run(run_dir))


def test_dangling_reference_in_the_crate_is_found(run_dir: Path) -> None:
    path = run_dir / "ro-crate-metadata.json"
    doc = json.loads(path.read_text())
    doc["@graph"] = [e for e in doc["@graph"] if e["@id"] != "#param/lr"]
    path.write_text(json.dumps(doc))
    assert any("refers with object to `#param/lr`, which is not there" in p for p in validate_run(run_dir))


def test_empty_folder_is_a_list_of_problems(tmp_path: Path) -> None:
    assert validate_run(tmp_path) == ["prov.json: is missing", "ro-crate-metadata.json: is missing",
                                      "series.zarr: is missing"]


def change_of(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last = path.split("|")

    def change(doc: dict[str, Any]) -> None:
        for parent in parents:
            doc = doc[parent]
        if value is None:
            del doc[last]
        else:
            doc[last] = value

    return change


@pytest.mark.parametrize(("path", "value", "expected"), [
    ("bundle", {}, "`bundle` is no part of a flat PROV document"),
    ("entity|run:run", {}, "`run:run` is an entity (stated as one by entity `run:run`) and an activity (stated"),
    ("agent|run:run", {}, "`run:run` is both activity and agent"),
    ("entity|x:y", {}, "the namespace of `x:y` is not declared"),
    ("entity|plain", {}, "the namespace of `plain` is not declared"),
    ("entity|run:job", [{}, {}], "entity `run:job` is no object"),
    ("entity|run:job|yp:two", ["a", "b"], "has several values of yp:two"),
    ("entity|run:job|yp:two", {"$": 3, "type": "xsd:int"}, "has a yp:two that is no typed value"),
    ("entity|run:job|prov:label", 5, "has a label that is no text"),
    ("activity|run:run|yp:state", "gone", "unknown state `gone`"),
    ("activity|run:run|yp:state", None, "0 activities have a yp:state"),
    ("activity|run:run|prov:endTime", "2025-01-01T00:00:00+00:00", "the times given contradict constraint"),
    ("activity|run:run|prov:endTime", "2027-01-01T00:00:00", "has a time without a zone"),
    ("activity|run:run|prov:endTime", 12, "no ISO 8601"),
    ("activity|run:run|prov:endTime", "2027-01-01", "no ISO 8601"),
    ("activity|run:run|prov:endTime", "2027-01-01 00:00:00+00:00", "no ISO 8601"),
    ("entity|run:job|yp:two", {"$": "abc", "type": "xsd:int"}, "has a yp:two that is no xsd:int: `abc`"),
    ("entity|run:job|yp:two", {"$": "2147483648", "type": "xsd:int"}, "that is no xsd:int: `2147483648`"),
    ("entity|run:job|yp:two", {"$": "9223372036854775808", "type": "xsd:long"}, "that is no xsd:long"),
    ("entity|run:job|yp:two", {"$": "1.0", "type": "xsd:integer"}, "that is no xsd:integer: `1.0`"),
    ("entity|run:job|yp:two", {"$": "1,5", "type": "xsd:double"}, "that is no xsd:double: `1,5`"),
    ("entity|run:job|yp:two", {"$": "nan", "type": "xsd:double"}, "that is no xsd:double: `nan`"),
    ("entity|run:job|yp:two", {"$": "True", "type": "xsd:boolean"}, "that is no xsd:boolean: `True`"),
    ("entity|run:job|yp:two", {"$": "2027-01-01", "type": "xsd:dateTime"}, "that is no xsd:dateTime: `2027-01-01`"),
    ("wasStartedBy|_:x", {"prov:activity": "run:run", "prov:trigger": "run:job", "yp:two": {
        "$": "abc", "type": "xsd:int"}}, "has a yp:two that is no xsd:int: `abc`"),
    ("used|_:x", {"prov:activity": "run:run", "prov:entity": "run:job", "prov:nonsense": "x"},
     "used `_:x` has a prov:nonsense, which PROV does not know there"),
    ("entity|run:job|prov:nonsense", "x", "has a prov:nonsense, which PROV does not know there"),
    ("entity|run:job|prov:endTime", "2027-01-01T00:00:00+00:00", "has a prov:endTime, which PROV does not know there"),
    ("activity|run:run|prov:value", "x", "has a prov:value, which PROV does not know there"),
    ("prefix|yp", "not an iri", "the namespace `yp` is no IRI: `not an iri`"),
    ("prefix|other", "//relative", "the namespace `other` is no IRI"),
    ("prefix|other", 5, "the namespace `other` is no IRI"),
    ("prefix|prov", "http://example.org/", "`prov` is bound to `http://example.org/`; it is `http://www.w3.org/ns/pr"),
    ("prefix|xsd", "http://www.w3.org/2001/XMLSchema", "`xsd` is bound to `http://www.w3.org/2001/XMLSchema`; it is"),
    ("used|name", {"prov:activity": "run:run", "prov:entity": "run:job"}, "used `name` has a name"),
    ("used|_:x", {"prov:activity": "run:run"}, "used `_:x` has no prov:entity"),
    ("used|_:x", {"prov:activity": "run:job", "prov:entity": "run:job"},
     "`run:job` is an entity (stated as one by entity `run:job`) and an activity (prov:activity"),
    ("used|_:x", {"prov:activity": "run:run", "prov:entity": "run:job", "prov:time": "2020-01-01T00:00:00+00:00"},
     "used `_:x` (run:run, run:job) is at 2020-01-01T00:00:00+00:00, and cannot be before the start of `run:run` at "
     "2026-01-01T00:00:00+00:00: the times given contradict constraint 33 (usage-within-activity)"),
    ("used|_:x", {"prov:activity": "run:run", "prov:entity": "run:model/resnet/2",
                  "prov:time": "2026-01-01T00:00:01+00:00"},
     "the times given contradict constraint 37 (generation-precedes-usage)"),
    ("wasGeneratedBy|_:x", {"prov:entity": "run:telemetry", "prov:activity": "run:monitoring"}, "is generated twice"),
    ("wasGeneratedBy|_:x", {"prov:entity": "run:telemetry", "prov:activity": "run:run",
                            "prov:time": "2026-01-01T00:00:03+00:00"},
     "and both are the generation of `run:telemetry`: the times given contradict constraint 39"),
    ("wasStartedBy|_:x", {"prov:activity": "run:ctx/training", "prov:trigger": "run:run"},
     "`run:run` is an entity (prov:trigger of wasStartedBy `_:x` (run:ctx/training, run:run, -)) and an activity"),
    ("wasAssociatedWith|_:x", {"prov:activity": "run:run", "prov:agent": "run:job"},
     "needs agent as prov:agent; `run:job` is entity"),
    ("wasStartedBy|_:x", {"prov:activity": "run:ctx/training"}, "has no prov:trigger"),
    ("wasAssociatedWith|_:x", {"prov:activity": "run:run", "prov:agent": "run:user/ada", "prov:plan": "run:none"},
     "refers to `run:none`, which is not declared"),
])
def test_document_check_names_the_fault(path: str, value: Any, expected: str) -> None:
    doc = document()
    change_of(path, value)(doc)
    problems = check_document(doc)
    assert any(expected in p for p in problems), problems


@pytest.mark.parametrize("value", [
    {"$": "-2147483648", "type": "xsd:int"}, {"$": "+5", "type": "xsd:int"}, {"$": "1" * 300, "type": "xsd:integer"},
    {"$": "-9223372036854775808", "type": "xsd:long"}, {"$": "1.5E-7", "type": "xsd:double"},
    {"$": "-INF", "type": "xsd:double"}, {"$": "NaN", "type": "xsd:double"}, {"$": ".5", "type": "xsd:double"},
    {"$": "true", "type": "xsd:boolean"}, {"$": "0", "type": "xsd:boolean"}, {"$": "x", "lang": "en"},
    {"$": "2026-01-01T24:00:00", "type": "xsd:dateTime"}, {"$": "a b", "type": "yp:Own"}])
def test_values_of_a_type_are_no_fault(value: dict[str, str]) -> None:
    doc = document()
    doc["entity"]["run:job"]["yp:two"] = value
    assert check_document(doc) == []


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))


@settings(max_examples=200, deadline=None)
@given(section=st.sampled_from(sorted(document())), key=st.sampled_from(["_:id1", "run:run", "x", "prov:time"]),
       value=JSON)
def test_document_check_never_raises(section: str, key: str, value: Any) -> None:
    doc = document()
    doc[section][key] = value
    whatever_cannot_be_read_is_said(doc)
    doc[section] = value
    whatever_cannot_be_read_is_said(doc)
    whatever_cannot_be_read_is_said(value)


def whatever_cannot_be_read_is_said(doc: Any) -> None:
    assert check_document(doc) or not from_json(doc).faults


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=60))
def test_damaged_files_never_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    run = tmp_path_factory.mktemp("damaged")
    (run / "prov.json").write_bytes(data)
    (run / "ro-crate-metadata.json").write_bytes(data)
    (run / "series.zarr").mkdir()
    (run / "series.zarr/zarr.json").write_bytes(data)
    assert validate_run(run)


def metered(run_dir: Path, *, energy: list[float], counts: list[int], counts_gpu: list[int]) -> None:
    """The store of `small_series` with the table of meters, and a document that names it."""
    root = zarr.open_group(run_dir / "series.zarr")
    for name, values, dtype in (("energy", energy, "f8"), ("counts", counts, "i1"), ("counts_gpu", counts_gpu, "i1")):
        root.create_array(f"meters/{name}", shape=(len(values),), dtype=dtype, overwrite=True)[:] = values
    rewrite(run_dir, lambda doc: None)


def test_meters_that_add_up_to_the_figures_are_no_problem(run_dir: Path) -> None:
    metered(run_dir, energy=[60.0, 40.0, 90.0, float("nan")], counts=[1, 1, 0, 0], counts_gpu=[0, 1, 0, 0])
    assert validate_run(run_dir) == []


def test_meters_that_do_not_add_up_are_found(run_dir: Path) -> None:
    metered(run_dir, energy=[60.0, 41.0], counts=[1, 1], counts_gpu=[0, 1])
    assert validate_run(run_dir) == ["series.zarr: the meters counted 101.0 J; prov.json says energyJ 100.0",
                                     "series.zarr: the meters counted 41.0 J; prov.json says gpuEnergyJ 40.0"]


def test_a_table_of_meters_that_is_gone_is_found(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "series.zarr/meters/energy")
    rewrite(run_dir, lambda doc: None)
    (problem,) = validate_run(run_dir)
    assert "meters/energy" in problem


# what is not claimed is missed


def stitched_again(run: Path) -> None:
    """A crate that fits the files as they are now: whoever changed the store or prov.json made it anew as well."""
    path = run / "ro-crate-metadata.json"
    crate = json.loads(path.read_text())
    for entity in crate["@graph"]:
        name = path_of_id(entity["@id"])
        if entity["@type"] == "File" and (run / name).is_file():
            size, entity["sha256"] = file_hash(run / name)
            entity["contentSize"] = str(size)
        elif name == "series.zarr/":
            entity["sha256"] = folder_hash(run / name)[2]
        elif name == "./":
            entity["identifier"][1] = content_id(run)
    path.write_text(json.dumps(crate))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with contexts, epochs, meters and gaps, as the stitch leaves it."""
    return make_run(tmp_path_factory.mktemp("real")).path


@pytest.fixture
def archive(real: Path, tmp_path: Path) -> Path:
    shutil.copytree(real, tmp_path / "archive")
    return tmp_path / "archive"


def changed(run: Path, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """The problems of an archive whose prov.json was changed, and its crate made to fit."""
    doc = json.loads((run / "prov.json").read_text())
    change(doc)
    (run / "prov.json").write_text(json.dumps(doc))
    stitched_again(run)
    return validate_run(run)


def double(value: float) -> dict[str, str]:
    return {"$": repr(value), "type": "xsd:double"}


def test_an_archive_that_was_only_described_anew_has_no_problem(archive: Path) -> None:
    assert changed(archive, lambda doc: None) == []


@pytest.mark.parametrize(("name", "key", "found"), [
    ("run:run", "gpuHours", 0.011111111111111112), ("run:ctx/training", "energyJ", 160.0),
    ("run:ctx/training", "gpuHours", 0.008888888888888889), ("run:ctx/training", "durationSeconds", 8.0),
    ("run:ctx/training", "energyOutsideJ", 4.0), ("run:ctx/training/epoch/1", "energyJ", 78.0),
    ("run:ctx/training/epoch/1", "firstStep", 1.0), ("run:ctx/training", "opened", 2.0),
])
def test_a_changed_figure_of_an_activity_is_found(archive: Path, name: str, key: str, found: float) -> None:
    problems = changed(archive, lambda doc: doc["activity"][name].__setitem__(f"yp:{key}", double(2.5)))
    assert f"series.zarr: `accounts` says of `{name}` {key} {found}; prov.json says 2.5" in problems
    assert len(problems) == (2 if name == "run:run" else 1)  # the crate has the run's


def test_figures_that_were_taken_out_or_added_are_found(archive: Path) -> None:
    def change(doc: dict[str, Any]) -> None:
        doc["activity"]["run:ctx/training"].pop("yp:energyJ")
        doc["activity"]["run:ctx/training"]["yp:peakMemoryBytes"] = {"$": "5", "type": "xsd:int"}

    assert changed(archive, change) == [
        "series.zarr: `accounts` says of `run:ctx/training` energyJ 160.0; prov.json says None",
        "series.zarr: `accounts` says of `run:ctx/training` peakMemoryBytes None; prov.json says 5"]


def test_energy_of_the_run_that_is_not_that_of_the_report_is_found(run_dir: Path) -> None:
    """Also where there are no accounts of parts."""
    shutil.rmtree(run_dir / "series.zarr/accounts")

    def change(doc: dict[str, Any]) -> None:
        doc["activity"] = {"run:run": doc["activity"]["run:run"] | {"yp:energyJ": double(7.0)}}

    problems = changed(run_dir, change)
    assert "prov.json: `run:run` says energyJ 7.0; the energy of the run says 100.0" in problems


@pytest.mark.parametrize("change", [
    lambda energy: energy.__setitem__("prov:location", "elsewhere"),
    lambda energy: (energy.pop("prov:location"), energy.__setitem__("yp:energyJ", double(5.0)))])
def test_energy_that_does_not_say_what_counted_it_is_found(archive: Path, change: Callable[[Any], Any]) -> None:
    problems = changed(archive, lambda doc: change(doc["entity"]["run:energy"]))
    assert "prov.json: the energy says at no prov:location which meters counted it: series.zarr/meters" in problems


def test_an_activity_that_is_gone_is_found(archive: Path) -> None:
    def change(doc: dict[str, Any]) -> None:
        gone = "run:ctx/training/epoch/0"
        doc["activity"].pop(gone)
        for records in doc.values():
            for name in [n for n, r in records.items() if isinstance(r, dict) and gone in r.values()]:
                del records[name]

    assert changed(archive, change) == [
        "series.zarr: `accounts` holds 2 epochs; prov.json names 1 and leaves 0 out"]


def test_accounts_that_are_gone_are_found(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "series.zarr/accounts")
    assert changed(run_dir, lambda doc: None) == [
        "series.zarr: `accounts` is missing; prov.json has 6 contexts, epochs and spans"]


LOSS = "run:series/metrics/training/loss"


def without_loss(doc: dict[str, Any]) -> None:
    doc["entity"].pop(LOSS)
    for relation in ("hadMember", "wasGeneratedBy"):
        doc[relation] = {n: r for n, r in doc[relation].items() if LOSS not in r.values()}


@pytest.mark.parametrize(("change", "expected"), [
    (lambda doc: doc["entity"][LOSS].pop("yp:count"), "the series `loss` has no yp:count"),
    (without_loss, "names 8 series and leaves 0 out; its yp:seriesCount is 9"),
    (lambda doc: doc["entity"]["run:telemetry"].__setitem__("yp:seriesCount", {"$": "9999", "type": "xsd:int"}),
     "names 9 series and leaves 0 out; its yp:seriesCount is 9999"),
    (lambda doc: doc["entity"]["run:telemetry"].pop("yp:seriesCount"), "its yp:seriesCount is no number"),
    (lambda doc: doc["activity"]["run:run"].__setitem__("yp:seriesOmitted", {"$": "1", "type": "xsd:int"}),
     "names 9 series and leaves 1 out; its yp:seriesCount is 9"),
])
def test_a_series_that_is_not_spoken_of_is_missed(
    archive: Path, change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    assert any(expected in p for p in changed(archive, change))


@pytest.mark.parametrize("array", ["accounts/energy", "spans/begin", "params/value", "host/time", "rapl/energy_start",
                                   "metrics/training/step", "events/name"])
def test_lost_values_are_found_although_they_read_as_missing(archive: Path, array: str) -> None:
    (chunk,) = (archive / "series.zarr" / array).glob("c*")
    chunk.unlink()
    stitched_again(archive)
    assert f"series.zarr: `{array}` has 0 files of values; 1 were written" in validate_run(archive)


def test_values_that_need_no_file_are_not_missed(archive: Path) -> None:
    """zarr writes none for a chunk of nothing but missing values."""
    sparse = json.loads(zarr.open_group(archive / "series.zarr", mode="r").attrs["sparse"])
    assert sparse["meters/counts_gpu"] == 0
    assert not list((archive / "series.zarr/meters/counts_gpu").glob("c*"))
    assert validate_run(archive) == []


# the crate and prov.json speak of one run


def crate_of(run: Path, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """The problems of an archive of whose crate one entity was changed; every checksum in it is as it was."""
    path = run / "ro-crate-metadata.json"
    crate = json.loads(path.read_text())
    change(crate | {e["@id"]: e for e in crate["@graph"]} | {
        "action": next(e for e in crate["@graph"] if e["@type"] == "CreateAction"), "all": crate})
    path.write_text(json.dumps(crate))
    return validate_run(run)


SAYS = "ro-crate-metadata.json: "
OTHER = "urn:uuid:00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(("change", "expected"), [
    (lambda c: c["./"].pop("identifier"),
     ["does not state the run's identifier, `urn:uuid:0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55`",
      "states no identifier of its content (swh:1:dir:...)"]),
    (lambda c: c["./"]["identifier"].__setitem__(0, OTHER),
     ["does not state the run's identifier, `urn:uuid:0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55`"]),
    (lambda c: c["./"].__setitem__("identifier", c["./"]["identifier"][0]),
     ["states no identifier of its content (swh:1:dir:...)"]),
    (lambda c: c["all"].pop("@context"), ["has no @context of RO-Crate 1.1"]),
    (lambda c: c["all"].__setitem__("@context", "https://schema.org"), ["has no @context of RO-Crate 1.1"]),
    (lambda c: c["./"].__setitem__("hasPart", [p for p in c["./"]["hasPart"] if p["@id"] != "series.zarr/"]),
     ["`series.zarr/` is no part of the root"]),
    (lambda c: c["action"].__setitem__("result", {"@id": "none.csv"}),
     ["`#run-0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55` refers with result to `none.csv`, which is not there"]),
    (lambda c: c["action"]["object"].append({"@id": "artifacts/none.bin"}),
     ["`#run-0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55` refers with object to `artifacts/none.bin`, which is not there"]),
    (lambda c: c["action"].__setitem__("actionStatus", "http://schema.org/FailedActionStatus"),
     ["says actionStatus http://schema.org/FailedActionStatus; prov.json says `completed`"]),
    (lambda c: c["#usage-energyJ"].__setitem__("value", 1e9), ["says energyJ 1000000000.0; prov.json says 100.0"]),
    (lambda c: c["#usage-cpuSeconds"].__setitem__("value", 1), ["says cpuSeconds 1; prov.json says 3.25"]),
    (lambda c: c["action"].pop("resourceUsage"), [
        "says durationSeconds None; prov.json says 10.0", "says energyJ None; prov.json says 100.0",
        "says gpuEnergyJ None; prov.json says 40.0", "says gpuHours None; prov.json says 0.005",
        "says cpuSeconds None; prov.json says 3.25", "says peakMemoryBytes None; prov.json says 5000000000",
        "says gpuPeakMemoryBytes None; prov.json says 40000000000"]),
    (lambda c: c["all"]["@graph"].append(dict(c["run.json"])), ["has two entities with one @id"]),
    (lambda c: c["./"].pop("conformsTo"), ["does not say that it conforms to Process Run Crate"]),
    (lambda c: c["./"].__setitem__("conformsTo", {"@id": "ro-crate-metadata.json"}),
     ["does not say that it conforms to Process Run Crate"]),
])
def test_a_crate_that_says_less_or_something_else_is_found(
    run_dir: Path, change: Callable[[dict[str, Any]], Any], expected: list[str]
) -> None:
    assert crate_of(run_dir, change) == [SAYS + text for text in expected]


@pytest.mark.parametrize(("record", "expected"), [
    ({"prov:location": "source/train.py", "yp:sha256": "0" * 64},
     "prov.json: `run:new` has another sha256 than `source/train.py`"),
    ({"prov:location": "artifacts/none.bin"}, "prov.json: `run:new` is at `artifacts/none.bin`, which is not there"),
    ({"prov:location": "artifacts/none.bin", "yp:path": "artifacts/none.bin"}, None),  # nowhere else, so no copy
    ({"prov:location": "artifacts/odd näme #1?.txt", "yp:path": "/tmp/x"}, None),
])
def test_a_copy_that_is_not_what_the_document_says_is_found(
    archive: Path, record: dict[str, Any], expected: str | None
) -> None:
    (archive / "artifacts/odd näme #1?.txt").write_text("x")
    problems = changed(archive, lambda doc: doc["entity"].__setitem__("run:new", record))
    assert [p for p in problems if "odd näme" not in p] == ([expected] if expected else [])


def test_links_and_pipes_beside_the_archive_are_found(run_dir: Path) -> None:
    (run_dir / "link").symlink_to("/etc")
    (run_dir / "logs/gone").symlink_to("nowhere")
    (run_dir / "series.zarr/rapl/more").symlink_to("energy")
    os.mkfifo(run_dir / "artifacts/pipe")
    (run_dir / "spool/link").symlink_to("/etc")  # no part of the archive
    found = [f"{SAYS}`{name}` is neither a file nor a folder, and no part of the archive"
             for name in ("link", "artifacts/pipe", "logs/gone", "series.zarr/rapl/more")]
    assert sorted(validate_run(run_dir)) == sorted(found)


def test_what_a_job_made_of_its_directory_does_not_keep_the_spool(tmp_path: Path) -> None:
    """The stitch checks what it made: else a link that a job puts there would leave every run unfinished."""
    kept = make_run(tmp_path, keep_spool=True).path
    (kept / "latest").symlink_to("artifacts")
    stitch(kept, keep_spool=False)
    assert not (kept / "spool").exists()
    assert validate_run(kept) == [f"{SAYS}`latest` is neither a file nor a folder, and no part of the archive"]
