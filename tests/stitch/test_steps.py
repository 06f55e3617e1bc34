"""Each srun of a run is an activity: who took part, when, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.stitch.builders import NodeSpool, RunSpool, counter, gauge, ns, package
from yprov.runs import value_of
from yprovd.stitch.attribution import attribute
from yprovd.stitch.provenance import MOST, build_document
from yprovd.stitch.record import Record
from yprovd.stitch.series import write_series
from yprovd.stitch.steps import Step
from yprovd.stitch.tasks import Task
from yprovd.stitch.validate import check_document
from yprovd.wire import Kind

METERS = [counter("hw.energy", "J", 1e-6, package()), counter("process.cpu.time", "s", 0.01),
          gauge("process.memory.rss", "By", 1)]
PLAIN = [gauge("system.cpu.utilization", "1", 0.01)]


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="pipeline")
    return spool


def metered(run: RunSpool, host: str, until: float = 20.0, *, watt: float = 100.0) -> NodeSpool:
    """A node that burns `watt`, with two processors at work and 1 GB more every second."""
    node = run.node(host, METERS)
    for t in np.arange(0.0, until + 0.5).tolist():
        node.sample(t, [7.0 + watt * t, 2.0 * t, 1e9 * t])
    return node


def begin(node: NodeSpool, at: float, rank: int, step: str = "7.0", **more: Any) -> dict[str, Any]:
    """A task's first row; noticed half a second after it was started."""
    pid = 100 + rank + 100 * int(step.partition(".")[2] or 0)
    row = {"e": "begin", "t": node.mono(at + 0.5), "started_ns": node.mono(at), "id": f"{pid}-1", "pid": pid,
           "start": 1, "step": step, "launcher": "slurm", "rank": rank, "local_rank": 0, "world_size": 2,
           "cpus": "0-3", "devices": {}, "program": "python train.py", **more}
    node.json(at + 0.5, Kind.TASK, {"tasks": [row]})
    return row


def end(node: NodeSpool, at: float, *rows: dict[str, Any], seen: float | None = None) -> None:
    last = {} if seen is None else {"seen": node.mono(seen)}
    node.json(at, Kind.TASK, {"tasks": [{"e": "end", "t": node.mono(at), "id": row["id"], **last} for row in rows]})


def task(node: NodeSpool, first: float, last: float, rank: int, step: str = "7.0", **more: Any) -> None:
    end(node, last, begin(node, first, rank, step, **more))


def steps(record: Record) -> dict[str, Step]:
    return {s.id: s for s in attribute(record).steps}


def document(record: Record) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(build_document(record, attribute(record), []))
    assert check_document(doc) == []
    return doc


def pipeline(run: RunSpool) -> Record:
    """Two steps one after the other: one rank on n1, then two ranks on each of n1 and n2."""
    n1, n2 = metered(run, "n1"), metered(run, "n2", watt=50.0)
    task(n1, 1.0, 4.0, 0, "7.0", world_size=1, program="python prepare.py")
    for rank in range(4):
        task(n1 if rank < 2 else n2, 5.0, 15.0, rank, "7.1", world_size=4,
             devices={"CUDA_VISIBLE_DEVICES": str(rank % 2)})
    run.finish(20.0)
    return run.record()


# tasks


def test_tasks_have_the_times_and_places_of_their_rows(run: RunSpool) -> None:
    record = pipeline(run)
    assert [(t.step, t.rank, t.host, t.node) for t in record.tasks] == [
        ("7.0", 0, "n1", 0), ("7.1", 0, "n1", 0), ("7.1", 1, "n1", 0), ("7.1", 2, "n2", 1), ("7.1", 3, "n2", 1)]
    first = record.tasks[0]
    assert (first.begin_wall_ns, first.end_wall_ns, first.seen_wall_ns) == (ns(1.0), ns(4.0), ns(4.0))
    assert (first.cpus, first.program, first.world_size, first.process) == ("0-3", "python prepare.py", 1, -1)
    assert record.damaged_bytes == 0


def test_a_daemon_that_started_again_announces_the_same_tasks(run: RunSpool) -> None:
    row = begin(metered(run, "n1"), 1.0, 0)
    again = run.node("n1", METERS)
    again.json(9.0, Kind.TASK, {"tasks": [{**row, "t": again.mono(9.0)}]})
    end(again, 10.0, row)
    run.finish(20.0)
    (only,) = run.record().tasks
    assert (only.begin_wall_ns, only.end_wall_ns) == (ns(1.0), ns(10.0))


def test_rows_that_are_none_are_damage_and_the_others_count(run: RunSpool) -> None:
    n1 = metered(run, "n1")
    n1.json(1.0, Kind.TASK, {"tasks": [{"e": "begin"}, 5, {"e": "begin", "t": 1 << 70}, {"e": "end", "t": 1}]})
    n1.json(1.0, Kind.TASK, {"tasks": 5})
    task(n1, 1.0, 2.0, 0)
    run.finish(20.0)
    record = run.record()
    assert len(record.tasks) == 1
    assert record.damaged_bytes > 0


def announce(run: RunSpool, host: str, at: float, rank: int | None, pid: int, **more: Any) -> Any:
    process = run.process(host, rank, pid, at=at)
    about = {"role": "process", "host": host, "boot_id": f"boot-{host}", "pid": pid, "start": 1, "rank": rank, **more}
    process.json(at, Kind.SOURCE, about)
    return process


def test_a_process_with_the_client_belongs_to_its_task(run: RunSpool) -> None:
    n1 = metered(run, "n1")
    own, shell = begin(n1, 1.0, 0), begin(n1, 1.0, 1)
    announce(run, "n1", 2.0, 0, own["pid"], launcher="slurm", step="7.0").metric(3.0, "loss", 1.0)
    announce(run, "n1", 2.0, 1, 5000, launcher="slurm", step="7.0").metric(3.0, "loss", 1.0)  # its child
    announce(run, "n1", 2.0, None, 6000, launcher="local", step="")
    end(n1, 10.0, own, shell)
    run.finish(20.0)
    record = run.record()
    assert [(t.rank, t.pid, record.processes[t.process].pid) for t in record.tasks] == [
        (0, own["pid"], own["pid"]), (1, shell["pid"], 5000)]


def test_a_process_that_no_daemon_saw_is_a_task_by_its_own_word(run: RunSpool) -> None:
    metered(run, "n1")
    process = announce(run, "n9", 2.0, 3, 5000, launcher="slurm", step="7.0", cpus="0-7", argv=["/a/train.py"],
                       devices={"CUDA_VISIBLE_DEVICES": "1"}, world_size=4, local_rank=1)
    process.metric(6.0, "loss", 1.0)
    process.exit(6.5)
    run.finish(20.0)
    record = run.record()
    (only,) = record.tasks
    assert only == Task("n9", "boot-n9", -1, 5000, 1, "7.0", "slurm", 3, 1, 4, "0-7", {"CUDA_VISIBLE_DEVICES": "1"},
                        "train.py", only.begin_mono_ns, ns(2.0), only.end_mono_ns, ns(6.5), ns(6.5), 0)
    step = steps(record)["7.0"]
    assert (step.begin_ns, step.end_ns, step.nodes, step.energy_j) == (ns(2.0), ns(6.5), ("n9",), None)


# steps


def test_steps_in_sequence_have_their_own_ranks_nodes_times_and_energy(run: RunSpool) -> None:
    found = steps(pipeline(run))
    assert list(found) == ["7.0", "7.1"]
    first, second = found.values()
    assert (first.name, first.rank_count, first.world_size, first.nodes) == ("prepare.py", 1, 1, ("n1",))
    assert (first.begin_ns, first.end_ns, first.endless, first.shared) == (ns(1.0), ns(4.0), 0, False)
    assert first.energy_j == pytest.approx(300.0)
    assert first.cpu_s == pytest.approx(6.0)
    assert first.memory_peak_bytes == pytest.approx(4e9)
    assert (second.name, second.rank_count, second.world_size, second.nodes) == ("train.py", 4, 4, ("n1", "n2"))
    assert second.energy_j == pytest.approx(1500.0)
    assert second.cpu_s == pytest.approx(40.0)
    assert second.memory_peak_bytes == pytest.approx(30e9)
    assert second.coverage == 1.0
    assert second.layout == ("n[1-2]: 2 ranks each, 4 CPUs and 1 device per rank",)
    assert not second.shared


def test_steps_are_activities_that_the_command_of_the_run_started(run: RunSpool) -> None:
    doc = document(pipeline(run))
    step = {k.rpartition(":")[2]: value_of(v) for k, v in doc["activity"]["run:step/7.1"].items()}
    assert step == {
        "startTime": "2026-01-01T00:00:05+00:00", "endTime": "2026-01-01T00:00:15+00:00",
        "label": "step 7.1: train.py", "type": "yp:Step", "stepId": "7.1", "launcher": "slurm",
        "rankCount": 4, "worldSize": 4, "nodeCount": 2, "nodeList": "n[1-2]", "programs": "python train.py",
        "layout": "n[1-2]: 2 ranks each, 4 CPUs and 1 device per rank", "durationSeconds": step["durationSeconds"],
        "energyJ": step["energyJ"], "energyMethod": "measured", "coverage": step["coverage"],
        "cpuSeconds": step["cpuSeconds"], "peakMemoryBytes": step["peakMemoryBytes"],
    }
    assert float(step["energyJ"]) == pytest.approx(1500.0)
    started = {(r["prov:activity"], r["prov:trigger"], r.get("prov:starter")) for r in doc["wasStartedBy"].values()}
    assert ("run:step/7.1", "run:command", "run:run") in started
    informed = {(r["prov:informed"], r["prov:informant"]) for r in doc["wasInformedBy"].values()}
    assert {("run:step/7.0", "run:run"), ("run:step/7.1", "run:run")} <= informed
    assert value_of(doc["activity"]["run:run"]["yp:worldSize"]) == 4


def test_several_programs_in_one_step_are_named_with_their_ranks(run: RunSpool) -> None:
    n1, n2 = metered(run, "n1"), metered(run, "n2")
    task(n1, 1.0, 9.0, 0, program="server", cpus="0-15")
    for rank in (1, 2, 3, 5):
        task(n2, 1.0, 9.0, rank, program="python work.py", cpus=str(rank))
    run.finish(20.0)
    step = steps(run.record())["7.0"]
    assert step.name == "server, work.py"
    assert step.programs == ("server: rank 0", "python work.py: ranks 1-3,5")
    assert step.layout == ("n1: 1 rank, 16 CPUs", "n2: 4 ranks, 1 CPU per rank")


def test_the_ranks_of_a_step_are_those_of_the_innermost_launcher(run: RunSpool) -> None:
    n1 = metered(run, "n1")
    task(n1, 1.0, 9.0, 0, program="python torchrun", world_size=1)
    for rank in range(4):
        task(n1, 2.0, 8.0, rank, launcher="torchrun", pid=5000 + rank, id=f"{5000 + rank}-1", world_size=4)
    run.finish(20.0)
    step = steps(run.record())["7.0"]
    assert (step.launcher, step.rank_count, step.world_size, step.name) == ("torchrun", 4, 4, "train.py")
    assert (step.begin_ns, step.end_ns) == (ns(1.0), ns(9.0))


def test_steps_that_share_a_node_at_one_time_say_so(run: RunSpool) -> None:
    n1, n2 = metered(run, "n1"), metered(run, "n2")
    task(n1, 1.0, 10.0, 0, "7.0")
    task(n1, 2.0, 3.0, 0, "7.1")
    task(n1, 5.0, 12.0, 0, "7.2")
    task(n2, 1.0, 10.0, 0, "7.3")  # at the same time, elsewhere
    task(n1, 12.0, 14.0, 0, "7.4")
    run.finish(20.0)
    record = run.record()
    assert {k: s.shared for k, s in steps(record).items()} == {
        "7.0": True, "7.1": True, "7.2": True, "7.3": False, "7.4": False}
    activities = document(record)["activity"]
    assert value_of(activities["run:step/7.0"]["yp:shared"]) in (True, "true")
    assert "yp:shared" not in activities["run:step/7.3"]


def test_an_end_that_was_noticed_late_is_no_overlap(run: RunSpool) -> None:
    n1 = metered(run, "n1")
    end(n1, 5.0, begin(n1, 1.0, 0, "7.0"), seen=4.0)
    task(n1, 4.2, 9.0, 0, "7.1")
    run.finish(20.0)
    assert not any(s.shared for s in steps(run.record()).values())


def test_a_step_whose_tasks_never_ended_lasts_as_long_as_its_nodes_were_heard_of(run: RunSpool) -> None:
    n1, n2 = metered(run, "n1"), metered(run, "n2", until=8.0)  # n2 goes dark
    begin(n1, 1.0, 0, "7.0")
    begin(n2, 1.0, 1, "7.0")
    begin(n2, 2.0, 0, "7.1")
    run.finish(15.0)
    record = run.record()
    found = steps(record)
    assert (found["7.0"].end_ns, found["7.0"].endless) == (ns(15.0), 2)
    assert (found["7.1"].end_ns, found["7.1"].endless) == (ns(8.0), 1)
    assert found["7.1"].energy_j == pytest.approx(600.0)
    assert found["7.0"].coverage == pytest.approx((1 + 0.5) / 2)
    assert value_of(document(record)["activity"]["run:step/7.0"]["yp:tasksWithoutEnd"]) == 2


def test_a_step_without_a_meter_has_no_energy(run: RunSpool) -> None:
    n1 = run.node("n1", PLAIN)
    n1.sample(0.0, [0.5])
    task(n1, 1.0, 4.0, 0)
    run.finish(5.0)
    record = run.record()
    step = steps(record)["7.0"]
    assert (step.energy_j, step.coverage, step.cpu_s, step.memory_peak_bytes) == (None, None, None, None)
    activity = document(record)["activity"]["run:step/7.0"]
    assert activity["yp:energyMethod"] == "absent"
    assert "yp:energyJ" not in activity


def test_only_a_part_of_the_nodes_with_a_meter_is_said(run: RunSpool) -> None:
    n1, n2 = metered(run, "n1"), run.node("n2", PLAIN)
    n2.sample(0.0, [0.5])
    task(n1, 1.0, 4.0, 0)
    task(n2, 1.0, 4.0, 1)
    run.finish(20.0)
    step = steps(run.record())["7.0"]
    assert step.energy_j == pytest.approx(300.0)
    assert step.coverage == 0.5


def test_a_run_without_ranks_has_no_steps(run: RunSpool) -> None:
    metered(run, "n1")
    run.finish(20.0)
    assert steps(run.record()) == {}


def test_mpirun_s_ranks_on_its_own_node_and_those_by_slurm_are_one_step(run: RunSpool) -> None:
    """It starts the first itself, in no step of Slurm's, and the others by an srun of its daemons."""
    n1, n2 = metered(run, "n1"), metered(run, "n2")
    mpi: dict[str, Any] = {"launcher": "openmpi", "launch": "3434", "world_size": 3}
    task(n2, 1.0, 9.0, 0, "7.1", world_size=1, program="orted", pid=50, id="50-1")
    for rank in (0, 1):
        task(n1, 2.0, 8.0, rank, "", **mpi)
    task(n2, 2.0, 8.0, 2, "7.1", **mpi)
    task(n1, 10.0, 12.0, 0, "", **{**mpi, "launch": "3435", "world_size": 1}, pid=60, id="60-1")
    run.finish(20.0)
    found = steps(run.record())
    assert list(found) == ["7.1", "openmpi.0"]
    assert (found["7.1"].rank_count, found["7.1"].world_size, found["7.1"].nodes) == (3, 3, ("n1", "n2"))
    assert found["7.1"].launcher == "openmpi"
    assert found["7.1"].layout == ("n1: 2 ranks, 4 CPUs per rank", "n2: 1 rank, 4 CPUs")
    assert found["openmpi.0"].rank_count == 1
    document(run.record())


def test_launches_without_a_name_are_told_apart_by_time_size_and_ranks(run: RunSpool) -> None:
    n1 = metered(run, "n1")
    for number, (first, last, size) in enumerate([(1.0, 3.0, 2), (4.0, 6.0, 2), (7.0, 9.0, 2), (7.0, 9.0, 2),
                                                  (8.0, 9.0, 3)]):
        for rank in range(size):
            pid = 100 * number + rank + 1
            task(n1, first, last, rank, "", launcher="pmi", world_size=size, pid=pid, id=f"{pid}-1")
    run.finish(20.0)
    assert [(s.id, s.rank_count, s.begin_ns) for s in steps(run.record()).values()] == [
        ("pmi.0", 2, ns(1.0)), ("pmi.1", 2, ns(4.0)), ("pmi.2", 2, ns(7.0)), ("pmi.3", 2, ns(7.0)),
        ("pmi.4", 3, ns(8.0))]


def test_a_step_stays_within_the_run(run: RunSpool) -> None:
    n1 = metered(run, "n1")
    task(n1, -3.0, 30.0, 0)
    run.finish(10.0)
    step = steps(run.record())["7.0"]
    assert (step.begin_ns, step.end_ns) == (ns(0.0), ns(10.0))
    assert step.energy_j == pytest.approx(1000.0)


def test_the_document_is_bounded_and_the_store_holds_every_step(run: RunSpool, tmp_path: Path) -> None:
    n1 = metered(run, "n1", until=300.0)
    count = MOST["step"] + 7
    for k in range(count):
        task(n1, k + 0.1, k + 0.9, 0, f"7.{k}")
    run.finish(300.0)
    record = run.record()
    doc = document(record)
    assert sum(k.startswith("run:step/") for k in doc["activity"]) == MOST["step"]
    assert value_of(doc["activity"]["run:run"]["yp:stepsOmitted"]) == 7
    attribution = attribute(record)
    write_series(record, attribution, tmp_path / "series.zarr")
    table = xr.open_zarr(tmp_path / "series.zarr", group="steps").load()
    assert table.sizes["row"] == count
    assert table.energy.values == pytest.approx(80.0)


def test_many_ranks_on_many_nodes_are_a_short_text(run: RunSpool) -> None:
    for n in range(1, 65):
        node = run.node(f"n{n:03d}", [])
        for local in range(8):
            task(node, 1.0, 9.0, 8 * (n - 1) + local, pid=100 + local, id=f"{100 + local}-1",
                 cpus="0-6", devices={"ROCR_VISIBLE_DEVICES": str(local)}, world_size=512)
    run.finish(10.0)
    record = run.record()
    doc = document(record)
    step = {k: value_of(v) for k, v in doc["activity"]["run:step/7.0"].items()}
    assert step["yp:layout"] == "n[001-064]: 8 ranks each, 7 CPUs and 1 device per rank"
    assert step["yp:rankCount"] == 512
    assert sum(len(records) for records in doc.values()) < 60


def test_the_store_holds_a_row_for_each_task(run: RunSpool, tmp_path: Path) -> None:
    n1 = metered(run, "n1")
    task(n1, 1.0, 4.0, 0, devices={"CUDA_VISIBLE_DEVICES": "2,3"})
    begin(n1, 1.0, 1, local_rank=None)
    run.finish(20.0)
    record = run.record()
    write_series(record, attribute(record), tmp_path / "series.zarr")
    table = xr.open_zarr(tmp_path / "series.zarr", group="tasks").load()
    assert set(table.variables) == {"host", "step", "launcher", "cpus", "program", "devices", "gpus", "gpus_by",
                                    "gpus_reason", "rank", "local_rank", "world_size", "pid", "node",
                                    "process", "begin", "end"}
    assert table["rank"].values.tolist() == [0, 1]
    assert table.host.values.tolist() == ["n1", "n1"]
    assert json.loads(table.devices.values[0]) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert np.isnan(table.local_rank.values[1])
    assert table.begin.values.astype("datetime64[ns]").astype(np.int64).tolist() == [ns(1.0), ns(1.0)]
    assert np.isnat(table.end.values[1])
    assert table.end.values[0] == np.datetime64(ns(4.0), "ns")
