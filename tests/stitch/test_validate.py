"""validate: silent on what a stitch leaves, and a sentence for every fault that is planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stitch.golden.small import make_run_dir, small_attribution, small_record, small_series
from yprovd.stitch import validate
from yprovd.stitch.crate import build_crate
from yprovd.stitch.provenance import build_document
from yprovd.stitch.validate import check_document, validate_run


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
    assert validate._has_ended({"activity": {"run:run": {"yp:exitCode": 0}}})
    assert not validate._has_ended({"activity": {"run:run": {}}})
    assert validate._has_ended(None)


def crate_problems(run_dir: Path, *, ended: bool) -> list[str]:
    problems: list[str] = []
    validate._crate(run_dir, problems, ended=ended)
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
    ("count", {"$": "7", "type": "xsd:int"}, "holds 200 values; prov.json says"),
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
    zarr.open_array(run_dir / "series.zarr/rapl/energy")[0, 3] = 200_000
    rewrite(run_dir, lambda doc: None)
    assert validate_run(run_dir) == ["series.zarr: `rapl/energy` has max 200.0; prov.json says 100.0"]


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
    ("entity|run:run", {}, "`run:run` is both entity and activity"),
    ("entity|x:y", {}, "the namespace of `x:y` is not declared"),
    ("entity|plain", {}, "the namespace of `plain` is not declared"),
    ("entity|run:job", [{}, {}], "entity `run:job` is no object"),
    ("entity|run:job|yp:two", ["a", "b"], "has several values of yp:two"),
    ("entity|run:job|yp:two", {"$": 3, "type": "xsd:int"}, "has a yp:two that is no typed value"),
    ("entity|run:job|prov:label", 5, "has a label that is no text"),
    ("activity|run:run|yp:state", "gone", "unknown state `gone`"),
    ("activity|run:run|yp:state", None, "0 activities have a yp:state"),
    ("activity|run:run|prov:endTime", "2025-01-01T00:00:00+00:00", "ends before it starts"),
    ("activity|run:run|prov:endTime", "2027-01-01T00:00:00", "has a time without a zone"),
    ("activity|run:run|prov:endTime", 12, "no ISO 8601"),
    ("used|name", {"prov:activity": "run:run", "prov:entity": "run:job"}, "used `name` has a name"),
    ("used|_:x", {"prov:activity": "run:run"}, "used `_:x` has no prov:entity"),
    ("used|_:x", {"prov:activity": "run:job", "prov:entity": "run:job"}, "needs activity as prov:activity"),
    ("used|_:x", {"prov:activity": "run:run", "prov:entity": "run:job", "prov:time": "2020-01-01T00:00:00+00:00"},
     "happens outside of its activity"),
    ("used|_:x", {"prov:activity": "run:run", "prov:entity": "run:model/resnet/2",
                  "prov:time": "2026-01-01T00:00:01+00:00"}, "happens before the entity is generated"),
    ("wasGeneratedBy|_:x", {"prov:entity": "run:telemetry", "prov:activity": "run:monitoring"}, "is generated twice"),
    ("wasGeneratedBy|_:x", {"prov:entity": "run:telemetry", "prov:activity": "run:run",
                            "prov:time": "2026-01-01T00:00:03+00:00"}, "is generated at two times"),
    ("wasStartedBy|_:x", {"prov:activity": "run:ctx/training", "prov:trigger": "run:run"},
     "needs entity as prov:trigger"),
    ("wasStartedBy|_:x", {"prov:activity": "run:ctx/training"}, "has no prov:trigger"),
    ("wasAssociatedWith|_:x", {"prov:activity": "run:run", "prov:agent": "run:user/ada", "prov:plan": "run:none"},
     "refers to `run:none`, which is not declared"),
])
def test_document_check_names_the_fault(path: str, value: Any, expected: str) -> None:
    doc = document()
    change_of(path, value)(doc)
    problems = check_document(doc)
    assert any(expected in p for p in problems), problems


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))


@settings(max_examples=200, deadline=None)
@given(section=st.sampled_from(sorted(document())), key=st.sampled_from(["_:id1", "run:run", "x", "prov:time"]),
       value=JSON)
def test_document_check_never_raises(section: str, key: str, value: Any) -> None:
    doc = document()
    doc[section][key] = value
    check_document(doc)
    doc[section] = value
    check_document(doc)
    check_document(value)


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
        root.create_array(f"meters/{name}", shape=(len(values),), dtype=dtype)[:] = values
    rewrite(run_dir, lambda doc: doc["entity"]["run:energy"].__setitem__("prov:location", "series.zarr/meters"))


def test_meters_that_add_up_to_the_figures_are_no_problem(run_dir: Path) -> None:
    metered(run_dir, energy=[60.0, 40.0, 90.0, float("nan")], counts=[1, 1, 0, 0], counts_gpu=[0, 1, 0, 0])
    assert validate_run(run_dir) == []


def test_meters_that_do_not_add_up_are_found(run_dir: Path) -> None:
    metered(run_dir, energy=[60.0, 41.0], counts=[1, 1], counts_gpu=[0, 1])
    assert validate_run(run_dir) == ["series.zarr: the meters counted 101.0 J; prov.json says energyJ 100.0",
                                     "series.zarr: the meters counted 41.0 J; prov.json says gpuEnergyJ 40.0"]


def test_a_table_of_meters_that_is_gone_is_found(run_dir: Path) -> None:
    rewrite(run_dir, lambda doc: doc["entity"]["run:energy"].__setitem__("prov:location", "series.zarr/meters"))
    (problem,) = validate_run(run_dir)
    assert "meters/energy" in problem
