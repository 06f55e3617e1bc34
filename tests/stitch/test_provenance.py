"""What prov.json says, and that it is PROV whatever a job calls its things."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prov.model import ProvDocument

from tests.stitch.golden.large import large_attribution, large_record, large_series
from tests.stitch.golden.small import (
    RUN_ID,
    T0,
    S,
    account,
    config,
    file,
    node,
    series_info,
    small_attribution,
    small_record,
    small_series,
)
from yprovd.model import Device, Metric, Schema
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.document import base_iri, clean, slug
from yprovd.stitch.facts import host_list
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import MetricTable, Node, Param, Record, Samples
from yprovd.stitch.report import EnergyReport, MeterRow
from yprovd.stitch.states import final_state
from yprovd.stitch.validate import check_document

GOLDEN = Path(__file__).parent / "golden" / "prov.json"


def built(record: Record | None = None, attribution: Attribution | None = None, series: Any = None) -> dict[str, Any]:
    """The document as JSON, checked."""
    data = build_document(record or small_record(), attribution or small_attribution(),
                          small_series() if series is None else series)
    doc = json.loads(data)
    assert check_document(doc) == []
    return doc


def plain(value: Any) -> Any:
    return value["$"] if isinstance(value, dict) else value


def edges(doc: dict[str, Any], relation: str, *roles: str) -> set[tuple[str, ...]]:
    return {tuple(r[f"prov:{role}"] for role in roles) for r in doc[relation].values()}


def empty_record() -> Record:
    none = np.zeros(0, dtype=np.int64)
    return Record({}, None, [], [], [], [], [], [], MetricTable([], none, none, none, np.zeros(0), none), [])


def test_small_run_is_the_golden_document() -> None:
    """YPROV_GOLDEN=write makes the file anew; look at the difference before it is committed."""
    data = build_document(small_record(), small_attribution(), small_series())
    if os.environ.get("YPROV_GOLDEN") == "write":
        GOLDEN.write_bytes(data)
    assert data.decode() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["json", "provn", "xml", "rdf"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # rdflib's, for how prov calls it
def test_document_survives_every_prov_syntax(name: str) -> None:
    needed = {"xml": "lxml", "rdf": "rdflib"}.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"prov needs {needed} for {name}, and it is not installed")
    doc = ProvDocument.deserialize(content=GOLDEN.read_text(encoding="utf-8"), format="json")
    again = ProvDocument.deserialize(content=doc.serialize(format=name), format=name)
    assert again == doc
    assert again.unified() == doc.unified()


def test_document_follows_the_json_schema_of_the_submission() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    spec = importlib.util.find_spec("prov")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "tests" / "schemas" / "prov-json.schema.json"
    if not path.is_file():
        pytest.skip("this prov was installed without its tests, where the schema is")
    jsonschema.Draft4Validator(json.loads(path.read_text())).validate(json.loads(GOLDEN.read_text(encoding="utf-8")))


def test_same_record_gives_the_same_bytes() -> None:
    first = build_document(small_record(), small_attribution(), small_series())
    assert build_document(small_record(), small_attribution(), small_series()[::-1]) == first


def test_small_document_is_made_in_no_time() -> None:
    best = 1e9
    for _ in range(5):
        begin = time.perf_counter()
        build_document(small_record(), small_attribution(), small_series())
        best = min(best, time.perf_counter() - begin)
    assert best < 0.2  # about 0.008 here; machines of a test farm are slow


def test_run_says_how_it_went() -> None:
    run = built()["activity"]["run:run"]
    assert run["yp:state"] == "completed"
    assert run["yprov:experiment_name"] == "imagenet"
    assert run["yp:command"] == "python train.py --note 'two words'"
    assert {k: plain(run[f"yp:{k}"]) for k in ("exitCode", "worldSize", "nodeCount", "framesLost", "eventsDropped",
                                               "processesWithoutGoodbye", "energyJ", "rusageUserSeconds")} == {
        "exitCode": "0", "worldSize": "2", "nodeCount": "2", "framesLost": "2", "eventsDropped": "3",
        "processesWithoutGoodbye": "1", "energyJ": "100.0", "rusageUserSeconds": "12.5"}


def test_failed_run_says_why() -> None:
    record = small_record()
    record.end = {"state": "failed", "reason": "exit status 3", "exit_code": 3, "ended_ns": T0 + 10 * S}
    run = built(record)["activity"]["run:run"]
    assert (run["yp:state"], run["yp:stateReason"], plain(run["yp:exitCode"])) == ("failed", "exit status 3", "3")


def test_killed_run_without_an_end_is_incomplete() -> None:
    record = small_record()
    record.end = None
    run = built(record)["activity"]["run:run"]
    assert (run["yp:state"], run["yp:stateReason"]) == final_state(record)
    assert run["yp:state"] == "incomplete"
    assert "no end was recorded" in run["yp:stateReason"]


def test_unknown_state_is_incomplete() -> None:
    record = small_record()
    record.end = {"state": "vanished"}
    assert final_state(record) == ("incomplete", "the end was recorded with an unknown state `vanished`")


def test_spool_without_a_run_record_gives_a_document_all_the_same() -> None:
    record = small_record()
    record.run = {}
    doc = built(record)
    assert doc["prefix"]["run"] == json.loads(build_document(record, small_attribution(), []))["prefix"]["run"]
    assert doc["prefix"]["run"].startswith("urn:uuid:")


def test_empty_record_gives_a_document_without_times() -> None:
    nothing = replace(account((), 0, 0, energy_j=None), begin_ns=0, end_ns=0)
    doc = built(empty_record(), Attribution([nothing], EnergyReport(None, "absent", (), None, "no node"),
                                            [], [], [], []), [])
    assert "prov:startTime" not in doc["activity"]["run:run"]
    assert doc["entity"]["run:energy"]["yp:energyReason"] == "no node"


def test_run_record_of_another_shape_does_no_harm() -> None:
    record = small_record()
    record.run = {"config": {"settings": None, "command": 7}, "code": "abc", "environment": [1], "scheduler": 5}
    record.end = {"state": "failed", "exit_code": {"odd": 1}, "rusage": 3}
    built(record)


def test_contexts_are_started_by_the_run_and_epochs_lie_in_their_context() -> None:
    doc = built()
    started = {r["prov:activity"]: r for r in doc["wasStartedBy"].values()}
    assert started["run:ctx/training"]["prov:trigger"] == "run:command"
    assert started["run:ctx/training"]["prov:starter"] == "run:run"
    assert started["run:run"]["prov:trigger"] == "run:job"
    assert edges(doc, "wasInformedBy", "informed", "informant") >= {
        ("run:ctx/training", "run:run"), ("run:ctx/training/augment", "run:ctx/training"),
        ("run:ctx/training/epoch/1", "run:ctx/training"),
        ("run:ctx/training/epoch/0/span/forward", "run:ctx/training/epoch/0"), ("run:monitoring", "run:run")}
    assert doc["activity"]["run:ctx/training"]["prov:type"] == "provml:TrainingExecution"
    assert doc["activity"]["run:ctx/validation"]["yp:energyMethod"] == "absent"
    assert "yp:energyJ" not in doc["activity"]["run:ctx/validation"]


def test_context_that_sticks_out_of_the_run_is_cut_to_it() -> None:
    attribution = small_attribution()
    attribution.accounts[1] = account(("ctx/training",), -5, 20)
    training = built(attribution=attribution)["activity"]["run:ctx/training"]
    assert training["prov:startTime"] == "2026-01-01T00:00:00+00:00"
    assert training["prov:endTime"] == "2026-01-01T00:00:10+00:00"


def test_only_the_first_epochs_and_spans_are_activities() -> None:
    epochs = [account(("ctx/training", f"epoch/{k}"), 1, 2) for k in range(600)]
    spans = [account(("ctx/training", f"epoch/{k}", "span/step"), 1, 2) for k in range(600)]
    attribution = replace(small_attribution(), accounts=[*small_attribution().accounts[:2], *epochs, *spans])
    doc = built(attribution=attribution)
    run = doc["activity"]["run:run"]
    assert plain(run["yp:epochsOmitted"]) == "100"
    assert plain(run["yp:spansOmitted"]) == "500"
    assert sum("/epoch/" in k and "/span/" not in k for k in doc["activity"]) == 500


def test_document_does_not_grow_with_the_nodes() -> None:
    few, many = small_record(), small_record()
    many.nodes = [node(f"gpu{i:05d}") for i in range(300)]
    sizes = [sum(len(v) for k, v in built(r).items() if k != "prefix") for r in (few, many)]
    assert sizes[0] == sizes[1]
    nodes = built(many)["entity"]["run:nodes"]
    assert nodes["yp:nodeList"] == "gpu[00000-00299]"
    assert nodes["yp:devices"] == "rapl: 300 x package-0"


def test_document_of_a_thousand_nodes_and_five_hundred_epochs_stays_small() -> None:
    data = build_document(large_record(), large_attribution(), large_series())
    doc = json.loads(data)
    assert check_document(doc) == []
    assert len(data) <= 1_000_000
    assert sum(len(records) for kind, records in doc.items() if kind != "prefix") <= 2000
    assert sum("/epoch/" in k for k in doc["activity"]) == 500
    assert doc["entity"]["run:nodes"]["yp:devices"] == "gpu: 8192 x NVIDIA H200"


def test_series_are_found_by_readers_of_yprov4ml() -> None:
    doc = built()
    loss = doc["entity"]["run:series/metrics/training/loss"]
    assert (loss["prov:type"], loss["prov:label"], loss["yprov:context"], loss["yprov:source"]) == (
        "provml:Metric", "loss", "training", "script")
    assert loss["dcterms:identifier"] == "series.zarr"
    assert loss["prov:location"] == "series.zarr/metrics/training/loss"
    runs = [k for k, v in doc["activity"].items() if "yprov:experiment_name" in v and "/" not in k]
    assert runs == ["run:run"]
    assert edges(doc, "wasGeneratedBy", "entity", "activity") >= {
        ("run:series/metrics/training/loss", "run:ctx/training"), ("run:series/host/cpu_utilization", "run:monitoring"),
        ("run:series/metrics/default/score", "run:run")}
    assert ("run:energy", "run:series/rapl/energy") in edges(doc, "wasDerivedFrom", "generatedEntity", "usedEntity")


def test_figures_that_are_no_numbers_are_left_out() -> None:
    doc = built(series=[series_info("host/x", min=float("nan"), max=float("inf"), last=np.float64(2.5))])
    entity = doc["entity"]["run:series/host/x"]
    assert "yp:min" not in entity
    assert entity["yp:max"] == {"$": "INF", "type": "xsd:double"}
    assert entity["yp:last"] == {"$": "2.5", "type": "xsd:double"}


def test_parameters_keep_their_types_and_the_last_value_stands() -> None:
    entities = built()["entity"]
    assert entities["run:param/lr"]["prov:value"] == {"$": "0.01", "type": "xsd:double"}
    assert plain(entities["run:param/lr"]["yp:values"]) == "2"
    assert entities["run:param/layers"]["prov:value"] == "[64, 64]"
    assert entities["run:param/layers"]["yp:valueType"] == "json"
    assert entities["run:param/on"]["prov:value"] is True
    assert entities["run:param/big"]["prov:value"] == {"$": str(1 << 70), "type": "xsd:integer"}
    assert entities["run:param/limit"]["prov:value"] == {"$": "INF", "type": "xsd:double"}
    assert entities["run:param/bad"]["prov:value"] == "NaN"
    assert entities["run:param/none"]["prov:value"] == "null"


def test_results_are_what_the_run_made_and_not_what_it_used() -> None:
    record = small_record()
    record.params = [Param("lr", 0.1, 0, T0), Param("lr", 0.3, 0, T0 + S, "output"), Param("best", 7, 0, T0, "output")]
    doc = built(record)
    assert plain(doc["entity"]["run:param/lr"]["prov:value"]) == "0.1"
    assert plain(doc["entity"]["run:result/lr"]["prov:value"]) == "0.3"
    used, made = edges(doc, "used", "entity"), edges(doc, "wasGeneratedBy", "entity", "activity")
    assert ("run:param/lr",) in used
    assert not {e for e in used if e[0].startswith("run:result/")}
    assert {("run:result/lr", "run:run"), ("run:result/best", "run:run")} <= made
    assert doc["entity"]["run:result/best"]["prov:type"] == "provml:HyperParameter"


def test_parameter_logged_again_with_an_older_value_has_that_value() -> None:
    record = small_record()
    record.params = [Param("lr", v, 0, T0 + i) for i, v in enumerate((1, 2, 1))]
    entity = built(record)["entity"]["run:param/lr"]
    assert (plain(entity["prov:value"]), plain(entity["yp:values"])) == ("1", "2")


def test_model_declared_twice_has_two_versions_of_one_model() -> None:
    doc = built()
    assert edges(doc, "specializationOf", "specificEntity", "generalEntity") == {
        ("run:model/resnet/1", "run:model/resnet"), ("run:model/resnet/2", "run:model/resnet")}
    assert ("run:model/resnet/2", "run:model/resnet/1") in edges(doc, "wasDerivedFrom", "generatedEntity", "usedEntity")
    made = edges(doc, "wasGeneratedBy", "entity", "activity")
    assert ("run:model/resnet/2", "run:ctx/training/epoch/1") in made
    assert doc["entity"]["run:model/resnet/2"]["prov:location"] == "artifacts/1.pt"
    assert doc["entity"]["run:model/resnet/2"]["prov:type"] == "provml:Model"


@pytest.mark.parametrize(("context", "sources"), [
    ("training", {"dataset/digits", "input/early.cfg", "dataset/augmented"}),
    (None, {"dataset/digits", "input/early.cfg", "dataset/augmented"}),
    ("training/inner", {"dataset/digits", "input/early.cfg", "dataset/augmented", "input/inner"}),
    ("fine-tuning", {"dataset/digits", "input/early.cfg"}),
])
def test_model_comes_from_the_data_that_its_training_had_used_by_then(context: str | None, sources: set[str]) -> None:
    record = small_record()
    record.files = [
        file("model", "net", 5.0, context=context),
        file("dataset", "digits", 1.0),
        file("input", "early.cfg", 2.0),
        file("dataset", "augmented", 3.0, context="training"),
        file("dataset", "held out", 3.0, context="validation"),
        file("input", "late.cfg", 6.0),
        file("code", "train.py", 1.0),
        *([file("input", "inner", 3.0, context="training/inner")] if context else []),
    ]
    doc = built(record)
    derived = {e[1].removeprefix("run:") for e in edges(doc, "wasDerivedFrom", "generatedEntity", "usedEntity")
               if e[0] == "run:model/net"}
    assert derived == sources
    assert doc["entity"]["run:dataset/digits"]["prov:type"] == "provml:Dataset"
    assert doc["entity"]["run:dataset/digits"]["yp:type"] == {"$": "yp:Dataset", "type": "xsd:QName"}


def test_a_later_version_comes_from_the_one_before_and_from_the_data_since_then() -> None:
    record = small_record()
    record.files = [
        file("dataset", "first", 1.0), file("model", "net", 2.0, path="/1.pt", sha256="1" * 64),
        file("dataset", "second", 3.0), file("input", "seen", 3.0, how="opened"),
        file("model", "net", 4.0, path="/2.pt", sha256="2" * 64),
    ]
    derived = edges(built(record), "wasDerivedFrom", "generatedEntity", "usedEntity")
    assert {e for e in derived if e[0].startswith("run:model")} == {
        ("run:model/net/1", "run:dataset/first"), ("run:model/net/2", "run:model/net/1"),
        ("run:model/net/2", "run:dataset/second")}


def test_a_file_that_was_declared_and_not_there_is_said_by_the_run_and_is_no_entity() -> None:
    record = small_record()
    gone = {"missing": True, "reason": "No such file or directory"}
    record.files = [
        file("output", "result", 2.0, path="/r", **gone), file("model", "net", 3.0, path="/net.pt", **gone),
        file("input", "data", 1.0, path="/d", **gone), file("output", "result", 4.0, path="/r", **gone),
        file("output", "by one rank only", 2.0, path="/one", **gone), file("output", "one", 2.0, path="/one"),
    ]
    doc = built(record)
    run = doc["activity"]["run:run"]
    assert run["yp:missingFiles"].splitlines() == [f"{what}: No such file or directory"
                                                   for what in ("input /d", "output /r", "model /net.pt")]
    assert plain(run["yp:missingFileCount"]) == "3"
    assert {i for i in doc["entity"] if i.startswith(("run:output/", "run:model/", "run:input/"))} == {"run:output/one"}
    assert "yp:missingFiles" not in built()["activity"]["run:run"]


def test_rejected_calls_are_counted_apart_from_what_was_lost() -> None:
    record = small_record()
    record.processes[0].rejected, record.processes[1].rejected = 2, 3
    record.processes[1].reject_reason = "log_metric('m'): not a number: 'x'"
    run = built(record)["activity"]["run:run"]
    assert {k: plain(run[f"yp:{k}"]) for k in ("eventsDropped", "callsRejected", "rejectReason")} == {
        "eventsDropped": "3", "callsRejected": "5", "rejectReason": "log_metric('m'): not a number: 'x'"}
    assert "yp:callsRejected" not in built()["activity"]["run:run"]


def test_epoch_says_what_the_metrics_had_come_to() -> None:
    record = small_record()
    rows = [  # name, context, epoch, process, at, value
        ("loss", "training", 0, 1, 3.5, 9.0),  # rank 1 is later, and rank 0 is the lowest
        ("loss", "training", 0, 0, 3.0, 1 / 3), ("loss", "training", 0, 0, 2.0, 0.9),
        ("accuracy", "training", 0, 1, 2.0, float("nan")), ("loss", "validation", 0, 0, 2.0, 5.0),
        ("loss", "training", None, 0, 2.0, 6.0), ("loss", "training", 1, 1, 5.0, 0.25),
    ]
    keys = list(dict.fromkeys((r[0], r[1], r[2]) for r in rows))
    record.metrics = MetricTable(
        keys, np.array([keys.index((r[0], r[1], r[2])) for r in rows]), np.array([T0 + round(r[4] * S) for r in rows]),
        np.zeros(len(rows), dtype=np.int64), np.array([r[5] for r in rows]), np.array([r[3] for r in rows]))
    activities = built(record)["activity"]
    assert activities["run:ctx/training/epoch/0"]["yp:metrics"] == '{"accuracy": "nan", "loss": 0.3333333}'
    assert activities["run:ctx/training/epoch/1"]["yp:metrics"] == '{"loss": 0.25}'
    assert "yp:metrics" not in activities["run:ctx/training"]


def test_each_kind_of_device_is_told_of_once() -> None:
    def gpus(host: str, names: list[str], **more: Any) -> Node:
        metrics = tuple(Metric("hw.power", "W", "gauge", "power", 1.0, Device("gpu", f"{host}-{i}", name, {
            "vendor": "amd", "index": i, **more})) for i, name in enumerate(names))
        ticks = T0 + S * np.arange(1, dtype=np.int64)
        return Node(host, f"boot-{host}", {}, [Samples(Schema(S, metrics, ()), ticks, ticks, ticks - T0,
                                                       np.zeros((1, len(metrics))))])

    record = small_record()
    record.nodes = [gpus("a", ["MI250X"] * 8, driver="6.2"), gpus("b", ["MI250X"] * 4 + ["MI300A"], driver="6.3")]
    doc = built(record)
    large, small = doc["entity"]["run:devices/gpu"], doc["entity"]["run:devices/gpu-2"]
    assert (large["yp:deviceModel"], plain(large["yp:deviceCount"])) == ("MI250X", "12")
    assert large["yp:devicesOfNodes"] == "4 on 1 nodes\n8 on 1 nodes"
    assert (large["yp:vendor"], large["yp:driver"]) == ("amd", "8 x 6.2\n4 x 6.3")
    assert (small["yp:deviceModel"], plain(small["yp:devicesPerNode"]), small["yp:driver"]) == ("MI300A", "1", "6.3")
    assert {("run:nodes", "run:devices/gpu"), ("run:nodes", "run:devices/gpu-2")} <= edges(
        doc, "hadMember", "collection", "entity")


def test_document_has_an_attribute_on_a_line_and_a_relation_on_one() -> None:
    lines = build_document(small_record(), small_attribution(), small_series()).decode().splitlines()
    assert '  "run:param/on": {' in lines
    assert '   "prov:value": true,' in lines
    (relation,) = [line for line in lines if '"prov:usedEntity": "run:code"' in line]
    assert relation.lstrip().endswith(': {"prov:generatedEntity": "run:code.diff", "prov:usedEntity": "run:code"}')


def test_input_of_many_ranks_is_one_entity_used_once() -> None:
    doc = built()
    assert plain(doc["entity"]["run:input/train.csv"]["yp:declarations"]) == "2"
    assert len([r for r in doc["used"].values() if r["prov:entity"] == "run:input/train.csv"]) == 1
    assert doc["entity"]["run:input/huge.bin"]["yp:checksumAbsent"] == "larger than 4294967296 bytes"


def test_files_beyond_the_bound_are_counted() -> None:
    record = small_record()
    record.files = [file("output", f"f{i}", 1.0) for i in range(350)]
    doc = built(record)
    assert plain(doc["activity"]["run:run"]["yp:filesOmitted"]) == "50"


def test_monitoring_says_what_was_absent_and_missed() -> None:
    monitoring = built()["activity"]["run:monitoring"]
    assert monitoring["yp:absences"] == "nvidia: libnvidia-ml.so.1 is not installed (on 2 of 2 nodes)"
    assert plain(monitoring["yp:missedTicks"]) == "2"
    assert monitoring["yp:sensors"] == "rapl"
    assert monitoring["yp:notes"] == "the daemon of gpu002 was started again"


def test_job_comes_from_slurms_variables_or_from_the_launcher() -> None:
    assert built()["entity"]["run:job"]["yp:jobId"] == "4242"
    record = small_record()
    record.run["scheduler"] = {"name": "pbs", "version": "23", "job_id": "7.server", "queue": "large"}
    doc = built(record)
    assert doc["entity"]["run:job"]["yp:facts"] == '{"queue": "large"}'
    assert plain(doc["agent"]["run:software/pbs"]["schema:softwareVersion"]) == "23"


def test_person_acts_for_the_organisation() -> None:
    doc = built()
    assert edges(doc, "actedOnBehalfOf", "delegate", "responsible") == {
        ("run:user/ada", "run:org/Analytical%20Engines")}
    assert doc["agent"]["run:user/ada"]["prov:type"] == {"$": "prov:Person", "type": "xsd:QName"}


def test_nothing_of_the_stitching_machine_is_in_the_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    data = build_document(small_record(), small_attribution(), small_series())
    monkeypatch.undo()
    time.tzset()
    assert data == GOLDEN.read_bytes()
    assert str(config().runtime_dir).encode() not in data


def test_run_id_that_is_no_uuid_makes_an_iri() -> None:
    assert base_iri(RUN_ID) == f"urn:uuid:{RUN_ID}#"
    assert base_iri("my run/1") == "https://w3id.org/yprov/run/my%20run%2F1#"


def test_hosts_are_written_as_slurm_writes_them() -> None:
    assert host_list(["n3", "n1", "n2", "n9", "login"]) == "login,n[1-3,9]"
    assert host_list(["x01-y07", "x01-y08", "a10"]) == "a10,x01-y[07-08]"
    assert host_list(["n08", "n09", "n10", "n8"]) == "n8,n[08-10]"


def test_slugs_of_long_names_are_short_and_differ() -> None:
    a, b = slug("ü" * 500 + "a"), slug("ü" * 500 + "b")
    assert a != b
    assert len(a) <= 160


def test_text_holds_what_xml_can_hold() -> None:
    assert clean("a\x00b\rc\ud800\nd\te") == "a\\u0000b\\u000dc\\ud800\nd\te"


def test_building_loads_only_the_json_serializer() -> None:
    """The others cost 0.1 s of imports, at the end of every run."""
    code = ("import sys, yprovd.stitch.provenance, yprovd.stitch.crate\n"
            "from tests.stitch.golden.small import *\n"
            "yprovd.stitch.provenance.build_document(small_record(), small_attribution(), small_series())\n"
            "print([m for m in sys.modules if m.startswith(('prov.serializers.', 'lxml', 'rdflib', 'zarr'))])")
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['prov.serializers.provjson']"


def test_energy_says_what_it_is_the_energy_of_and_what_not() -> None:
    energy = built()["entity"]["run:energy"]
    assert {k: plain(energy[f"yp:{k}"]) for k in ("energyJ", "unit", "energyMethod", "energyScope", "coverage",
                                                  "gpuEnergyJ", "gpuEnergyMethod", "gpuCoverage", "shared")} == {
        "energyJ": "100.0", "unit": "J", "energyMethod": "measured", "energyScope": "partial", "coverage": "0.99",
        "gpuEnergyJ": "40.0", "gpuEnergyMethod": "measured", "gpuCoverage": "1.0", "shared": True}
    assert energy["yp:notCovered"] == "gpu[001-002]: memory\ngpu[001-002]: network, disks"
    assert energy["yp:energyNotes"] == "gpu001: cray/node does not count: it covers 3 % of the run"
    assert energy["yp:energyText"] == (
        "100.0 J, measured, of a part of the nodes; 40.0 J of it, measured, are the GPUs; without gpu[001-002]: memory,"
        " gpu[001-002]: network, disks; the meters cover 99 % of the time; other jobs may have used a part of it")


def test_energy_that_was_integrated_is_derived_from_the_power() -> None:
    rows = tuple(MeterRow(0, "gpu", f"GPU-{i}", "gpu", method, 1.0, None, 0, 1.0, True, True, "")
                 for i, method in enumerate(["measured", "integrated"]))
    attribution = replace(small_attribution(), energy=replace(small_attribution().energy, rows=rows))
    series = [series_info("gpu_fast/power", metric="hw.power"), series_info("cray/power", metric="hw.power"),
              series_info("gpu/energy_increment", metric="hw.energy", total=5.0)]
    doc = built(attribution=attribution, series=series)
    assert {used for made, used in edges(doc, "wasDerivedFrom", "generatedEntity", "usedEntity")
            if made == "run:energy"} == {"run:series/gpu_fast/power", "run:series/gpu/energy_increment"}
    assert doc["entity"]["run:energy"]["prov:location"] == "series.zarr/meters"


def test_what_gpus_did_is_on_every_context_that_knows_it() -> None:
    doc = built()
    training, validation = (doc["activity"][f"run:ctx/{name}"] for name in ("training", "validation"))
    assert {k: plain(training[f"yp:{k}"]) for k in ("gpuEnergyJ", "gpuEnergyOutsideJ", "gpuHours",
                                                    "gpuPeakMemoryBytes")} == {
        "gpuEnergyJ": "40.0", "gpuEnergyOutsideJ": "2.5", "gpuHours": "0.005", "gpuPeakMemoryBytes": "40000000000"}
    assert not any(k.startswith("yp:gpu") for k in validation)
