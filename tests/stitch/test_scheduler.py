"""The scheduler's job in the document: its facts, its attempts, and the nodes that were dark."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from prov.model import ProvDocument

from tests.stitch.builders import RunSpool, gauge, ns
from tests.stitch.golden.small import (
    RUN_ID,
    SHA,
    T0,
    S,
    make_run_dir,
    node,
    small_attribution,
    small_record,
    small_series,
)
from yprovd.stitch.attribution import attribute
from yprovd.stitch.document import base_iri
from yprovd.stitch.presence import Dark, presence_of
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import Record
from yprovd.stitch.said import merged_facts
from yprovd.stitch.scheduling import job_of
from yprovd.stitch.series import write_series
from yprovd.stitch.validate import check_document, validate_run

GOLDEN = Path(__file__).parent / "golden" / "prov-slurm.json"
BEFORE = "11111111-2222-4333-8444-555555555555"
FACTS: dict[str, Any] = {
    "name": "slurm", "version": "22.05.8", "cluster": "tester", "job_id": "4242", "job_name": "train", "user": "ada",
    "account": "physics", "partition": "gpu", "qos": "normal", "state": "RUNNING", "node_list": "gpu[001-004]",
    "nodes": ["gpu001", "gpu002", "gpu003", "gpu004"], "node_count": 4, "batch_host": "gpu001",
    "requested_tres": {"cpu": 64, "mem": "256G", "node": 4, "gres/gpu": 16},
    "allocated_tres": {"cpu": 64, "mem": "256G", "node": 4, "gres/gpu": 16, "billing": 64},
    "gres_by_node": {f"gpu00{i}": "gpu:h100:4(IDX:0-3)" for i in range(1, 5)},
    "submit_time": "2026-01-01T00:58:00+01:00", "start_time": "2026-01-01T00:59:30+01:00", "time_limit_s": 3600,
    "dependency": "afterok:4241", "comment": "a test", "array_job_id": "4200", "array_task_id": "7",
    "restart_count": 1, "task_count": 16, "cpus_per_task": 4, "work_dir": "/home/ada/code",
    "command": "/home/ada/code/job.sh", "licenses": "matlab:1", "missing": {"topology": "no topology plugin"},
    "stored": {"batch_script": {"path": "source/batch-script.sh", "sha256": SHA},
               "job": {"path": "source/slurm-job.txt", "sha256": SHA}},
}
DAEMONS = {"placed_by": "srun --overlap", "fallbacks": ["--external-launcher: unrecognized option"],
           "expected": ["gpu001", "gpu002", "gpu003", "gpu004"], "ready": ["gpu001", "gpu002", "gpu003"],
           "dark": ["gpu004"]}


def slurm_record() -> Record:
    """The small run as a job of four nodes, in its second attempt: one daemon never spoke, one node's data is lost."""
    record = small_record()
    record.run |= {"scheduler": FACTS, "daemons": DAEMONS,
                   "previous": {"run_id": BEFORE, "directory": "20260101T000000Z-resnet-11111111"}}
    return record


def built(record: Record) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(build_document(record, small_attribution(), small_series()))
    assert check_document(doc) == []
    return doc


def plain(value: Any) -> Any:
    return value["$"] if isinstance(value, dict) else value


def test_run_in_a_job_is_the_golden_document() -> None:
    """YPROV_GOLDEN=write makes the file anew; look at the difference before it is committed."""
    data = build_document(slurm_record(), small_attribution(), small_series())
    if os.environ.get("YPROV_GOLDEN") == "write":
        GOLDEN.write_bytes(data)
    assert data.decode() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["json", "provn", "xml", "rdf"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # rdflib's, for how prov calls it
def test_document_of_a_job_survives_every_prov_syntax(name: str) -> None:
    needed = {"xml": "lxml", "rdf": "rdflib"}.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"prov needs {needed} for {name}, and it is not installed")
    doc = ProvDocument.deserialize(content=GOLDEN.read_text(encoding="utf-8"), format="json")
    assert ProvDocument.deserialize(content=doc.serialize(format=name), format=name) == doc


def test_job_has_the_schedulers_facts_with_their_types() -> None:
    job = built(slurm_record())["entity"]["run:job"]
    assert job["prov:label"] == "slurm job 4242"
    assert job["yp:submitTime"] == {"$": "2025-12-31T23:58:00+00:00", "type": "xsd:dateTime"}
    assert job["yp:nodeCount"] == {"$": "4", "type": "xsd:int"}
    assert job["yp:timeLimitSeconds"] == {"$": "3600", "type": "xsd:int"}
    assert job["yp:requestedTres"] == "cpu=64,gres/gpu=16,mem=256G,node=4"
    assert job["yp:gresByNode"] == "gpu[001-004]: gpu:h100:4(IDX:0-3)"
    assert job["yp:absences"] == "topology: no topology plugin"
    assert (job["yp:arrayJobId"], job["yp:arrayTaskId"], plain(job["yp:attempt"])) == ("4200", "7", "1")
    assert json.loads(job["yp:facts"]) == {"licenses": "matlab:1"}
    assert job["prov:location"] == "source/slurm-job.txt"


def test_facts_of_an_unexpected_shape_are_told_as_text() -> None:
    record = slurm_record()
    record.run["scheduler"] = {"name": "slurm", "job_id": 7, "node_count": "many", "submit_time": "Unknown",
                               "start_time": "2026-01-01T00:00:00", "requested_tres": "cpu=1", "missing": 3,
                               "array_task_id": {"odd": [1]}, "stored": "no", "nodes": 5, "state": None}
    job = built(record)["entity"]["run:job"]
    assert (job["yp:jobId"], job["yp:nodeCount"], job["yp:submitTime"]) == ("7", "many", "Unknown")
    assert job["yp:jobStartTime"] == "2026-01-01T00:00:00"  # without a zone it is no xsd:dateTime of ours


def test_scheduler_is_an_agent_and_the_batch_script_a_plan_that_the_run_used() -> None:
    doc = built(slurm_record())
    assert doc["agent"]["run:software/slurm"]["schema:softwareVersion"] == "22.05.8"
    script = doc["entity"]["run:job/script"]
    assert (script["prov:location"], script["yp:sha256"]) == ("source/batch-script.sh", SHA)
    assert any(r["prov:entity"] == "run:job/script" and r["prov:activity"] == "run:run" for r in doc["used"].values())


def test_run_of_a_requeued_job_is_informed_by_the_run_of_the_attempt_before() -> None:
    doc = built(slurm_record())
    assert doc["prefix"]["previous"] == base_iri(BEFORE)  # the very identifier of that run's own document
    assert ("run:run", "previous:run") in {
        (r["prov:informed"], r["prov:informant"]) for r in doc["wasInformedBy"].values()}
    assert doc["activity"]["previous:run"]["prov:location"] == "20260101T000000Z-resnet-11111111"
    assert plain(doc["activity"]["run:run"]["yp:attempt"]) == "1"


def test_a_run_is_not_informed_by_itself() -> None:
    record = slurm_record()
    record.run["previous"] = {"run_id": RUN_ID}
    assert "previous" not in built(record)["prefix"]


def test_without_the_schedulers_answer_the_runs_key_names_the_job() -> None:
    record = small_record()
    record.run["environment"] = {}
    record.run["config"]["job"] = {"scheduler": "slurm", "cluster": "c", "job_id": "9", "attempt": 0,
                                   "array_job_id": "8", "array_task_id": "1"}
    assert job_of(record) == {"name": "slurm", "cluster": "c", "job_id": "9", "restart_count": 0, "array_job_id": "8",
                              "array_task_id": "1"}
    doc = built(record)
    assert plain(doc["activity"]["run:run"]["yp:attempt"]) == "0"


def test_later_facts_complete_the_earlier_ones() -> None:
    known = {"state": "RUNNING", "comment": "x", "missing": {"end_time": "it runs", "qos": "unknown"}}
    new = {"state": "TIMEOUT", "end_time": "2026-01-01T00:00:00+00:00", "comment": "", "missing": {"x": "y"}}
    assert merged_facts(known, new) == {
        "state": "TIMEOUT", "comment": "x", "end_time": "2026-01-01T00:00:00+00:00",
        "missing": {"qos": "unknown", "x": "y"}}


def test_monitoring_says_how_the_daemons_were_placed() -> None:
    monitoring = built(slurm_record())["activity"]["run:monitoring"]
    assert monitoring["yp:placedBy"] == "srun --overlap"
    assert monitoring["yp:fallbacks"] == "--external-launcher: unrecognized option"


def test_nodes_that_were_never_heard_are_named() -> None:
    nodes = built(slurm_record())["entity"]["run:nodes"]
    assert nodes["yp:expected"] == "gpu[001-004]"
    assert nodes["yp:nodeList"] == "gpu[001-002]"
    assert nodes["yp:dark"] == "gpu[003-004]"
    assert nodes["yp:darkReasons"] == ("gpu003: its daemon was there at the start, and nothing of it arrived\n"
                                       "gpu004: no daemon was heard")


def test_all_nodes_dark_is_told_too() -> None:
    record = slurm_record()
    record.nodes = []
    nodes = built(record)["entity"]["run:nodes"]
    assert nodes["yp:dark"] == "gpu[001-004]"
    assert "prov:location" not in nodes


def test_schedulers_names_that_are_not_the_hosts_names_make_no_node_dark() -> None:
    record = slurm_record()
    record.run["daemons"] = {"expected": ["c1", "c2"], "ready": ["c1", "c2"], "dark": []}
    assert "yp:dark" not in built(record)["entity"]["run:nodes"]
    record.run["daemons"] = {"expected": ["gpu001.example.org", "gpu002.example.org"]}
    assert "yp:dark" not in built(record)["entity"]["run:nodes"]


def test_document_of_a_job_does_not_grow_with_its_nodes() -> None:
    few, many = slurm_record(), slurm_record()
    hosts = [f"frontier{i:05d}" for i in range(9402)]
    many.run["scheduler"] = FACTS | {"nodes": hosts, "gres_by_node": dict.fromkeys(hosts, "gpu:8")}
    many.run["daemons"] = DAEMONS | {"expected": hosts, "ready": hosts[:-1], "dark": hosts[-1:]}
    many.nodes = [node(h) for h in hosts[:300]]
    sizes = [sum(len(v) for v in built(r).values()) for r in (few, many)]
    assert sizes[0] == sizes[1]
    assert built(many)["entity"]["run:nodes"]["yp:dark"] == "frontier[00300-09401]"


# nodes that fall silent


def sampled(folder: Path, times: dict[str, list[float]], *, until: float) -> Record:
    """Nodes that sample at these times."""
    run = RunSpool(folder)
    run.begin(0.0)
    for host, ticks in times.items():
        spool = run.node(host, [gauge("system.cpu.utilization", "1", 0.01)])
        for at in ticks:
            spool.sample(at, [0.5])
    run.finish(until)
    return run.record()


def seconds(first: int, last: int) -> list[float]:
    return [float(t) for t in range(first, last + 1)]


def dark_of(record: Record) -> list[Dark]:
    account = attribute(record).accounts[0]
    return list(presence_of(record, account.begin_ns, account.end_ns).dark)


def test_node_that_dies_joins_late_or_falls_silent_is_named_with_the_gap(tmp_path: Path) -> None:
    record = sampled(tmp_path, {"n1": seconds(0, 60), "n2": seconds(0, 30), "n3": seconds(20, 60),
                                "n4": seconds(0, 10) + seconds(40, 60)}, until=60.0)
    assert dark_of(record) == [Dark("n2", ns(30), None), Dark("n3", None, ns(20)), Dark("n4", ns(10), ns(40))]
    nodes = json.loads(build_document(record, attribute(record), []))["entity"]["run:nodes"]
    assert nodes["yp:dark"] == "n[2-4]"
    assert nodes["yp:darkReasons"].split("\n")[0] == "n2: no samples from 2026-01-01T00:00:30Z to the end"


def test_a_gap_that_all_nodes_share_is_no_nodes_fault(tmp_path: Path) -> None:
    """The job was suspended."""
    both = seconds(0, 10) + seconds(40, 60)
    assert dark_of(sampled(tmp_path, {"n1": both, "n2": both}, until=60.0)) == []


def test_a_node_alone_is_never_dark_and_a_few_ticks_are_no_darkness(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert dark_of(sampled(tmp_path / "a", {"n1": seconds(0, 10)}, until=60.0)) == []
    assert dark_of(sampled(tmp_path / "b", {"n1": seconds(0, 60), "n2": seconds(2, 20) + seconds(24, 58)},
                           until=60.0)) == []


def test_daemon_that_was_started_again_and_node_that_came_back_are_one_host(tmp_path: Path) -> None:
    run = RunSpool(tmp_path)
    run.begin(0.0)
    for host, ticks in (("n1", seconds(0, 60)), ("n2", seconds(0, 30)), ("n2", seconds(31, 60))):
        spool = run.node(host, [gauge("system.cpu.utilization", "1", 0.01)])
        for at in ticks:
            spool.sample(at, [0.5])
    run.finish(60.0)
    assert dark_of(run.record()) == []


def test_daemon_without_samples_is_named(tmp_path: Path) -> None:
    record = sampled(tmp_path, {"n1": seconds(0, 10), "n2": []}, until=10.0)
    assert dark_of(record) == [Dark("n2", reason="its daemon was heard, and took no samples")]


def test_darkness_is_found_as_planted(tmp_path: Path) -> None:
    """Any mix of nodes with one gap each: what is found is what was planted, whatever the others do."""
    choice = random.Random(7)
    for case in range(20):
        folder = tmp_path / str(case)
        folder.mkdir()
        times, planted = {"n0": seconds(0, 100)}, []
        for i in range(1, 6):
            begin, length = choice.randrange(10, 80), choice.choice([0, 2, 4, 8, 15])
            end = begin + length
            times[f"n{i}"] = [t for t in seconds(0, 100) if not begin < t < end]
            if length > 5:
                planted.append(Dark(f"n{i}", ns(begin), ns(end)))
        assert dark_of(sampled(folder, times, until=100.0)) == planted


def test_a_dark_nodes_gap_is_missing_in_the_series_and_late_samples_are_not(tmp_path: Path) -> None:
    """n1 is there all the time, n2 dies at half time, n3 joins late, and n4 is cut off for 20 s: it keeps its samples
    in a spool of its own and delivers some of them a second time."""
    run = RunSpool(tmp_path)
    run.begin(0.0)
    metrics = [gauge("system.cpu.utilization", "1", 0.01)]
    for host, ticks in (("n1", seconds(0, 60)), ("n2", seconds(0, 30)), ("n3", seconds(20, 60)),
                        ("n4", seconds(0, 60))):
        spool = run.node(host, metrics)
        for at in ticks:
            spool.sample(at, [at / 100])
    run.finish(60.0)
    run.close()
    whole = sorted(tmp_path.glob("*.spool"))[-1]
    data = whole.read_bytes()
    (tmp_path / "9999.spool").write_bytes(data[len(data) // 3:])  # frames that came twice; its first one is torn
    record = run.record()
    attribution = attribute(record)
    write_series(record, attribution, tmp_path / "series.zarr")
    store = zarr.open_group(tmp_path / "series.zarr", mode="r")
    array = store["host/cpu_utilization"]
    cells = np.asarray(array[:]).astype(float)
    cells[cells == array.attrs["_FillValue"]] = np.nan
    assert list(store["host/hostname"][:]) == ["n1", "n2", "n3", "n4"]
    expected = np.tile(np.arange(61.0), (4, 1))
    expected[1, 31:] = expected[2, :20] = np.nan
    np.testing.assert_array_equal(cells, expected)
    assert [d.host for d in presence_of(record, T0, T0 + 60 * S).dark] == ["n2", "n3"]


def test_crate_lists_the_batch_script_and_what_slurm_said(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/batch-script.sh").write_text("test")
    (tmp_path / "source/slurm-job.txt").write_text("test")
    run_dir = make_run_dir(tmp_path, slurm_record())
    assert validate_run(run_dir) == []
    graph = {e["@id"]: e for e in json.loads((run_dir / "ro-crate-metadata.json").read_text())["@graph"]}
    script = graph["source/batch-script.sh"]
    assert (script["@type"], script["encodingFormat"]) == ("File", "text/x-shellscript")
    assert script["description"] == "The batch script of the scheduler's job"
    action = next(e for e in graph.values() if e["@type"] == "CreateAction")
    assert {"@id": "source/batch-script.sh"} in action["object"]
    assert graph["source/slurm-job.txt"]["description"] == "What the scheduler said of the job when the run began"


def test_times_of_the_job_are_told_in_utc() -> None:
    job = built(slurm_record())["entity"]["run:job"]
    assert datetime.fromisoformat(plain(job["yp:jobStartTime"])) == datetime(2025, 12, 31, 23, 59, 30, tzinfo=UTC)
