"""What Slurm says of a job after its end gets into the archive, whether its spool is still there or not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.running import attribute, document, environment, yprov
from tests.stitch.builders import RunSpool, gauge, ns
from yprov.listing import listed, table
from yprov.refreshing import refresh
from yprov.runs import view
from yprov.summary import facts, lines
from yprovd import slurm
from yprovd.config import RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.stitch import stitch
from yprovd.stitch.document import in_lines
from yprovd.stitch.identity import content_id
from yprovd.stitch.refresh import patch_archive, patched
from yprovd.stitch.validate import check_document, validate_run
from yprovd.swhid import stated_id

ENDED = {"name": "slurm", "job_id": "7", "job_name": "train", "state": "TIMEOUT", "node_list": "n[1-2]",
         "start_time": "2026-01-01T00:00:00+00:00", "end_time": "2026-01-01T00:00:30+00:00",
         "consumed_energy_j": 4200, "steps": [{"step_id": "7.0", "name": "python", "state": "CANCELLED",
                                               "start_time": "2026-01-01T00:00:01+00:00", "exit_signal": 15,
                                               "end_time": "2026-01-01T00:00:31+00:00", "consumed_energy_j": 4100}]}


class Slurm:
    """Says what a test wants."""

    def __init__(self, accounted: Mapping[str, Any] | str, shown: Mapping[str, Any] | str = "Invalid job id") -> None:
        self.accounted, self.shown = accounted, shown
        self.attempts: list[int | None] = []

    def accounting(self, job_id: str, *, timeout_s: float, attempt: int | None) -> dict[str, Any]:
        self.attempts.append(attempt)
        return self._answer(self.accounted)

    def show_job(self, job_id: str, *, timeout_s: float) -> dict[str, Any]:
        return self._answer(self.shown)

    def final(self, facts: Mapping[str, Any]) -> tuple[str, str, int | None] | None:
        return slurm.final(facts)

    @staticmethod
    def _answer(answer: Mapping[str, Any] | str) -> dict[str, Any]:
        if isinstance(answer, str):
            raise slurm.SlurmUnavailable(answer)
        return dict(answer)


def make_run(
    folder: Path, end: str | None = "killed", *, at: float = 31.0, job: Mapping[str, Any] | None = None,
    keep_spool: bool = True, scheduler: Mapping[str, Any] | None = None, heard: tuple[float, str] | None = None,
) -> Path:
    """A run of two nodes that began at second 1, stitched; `end` is our own word at `at`, `heard` the scheduler's."""
    run_dir = folder / "20260101T000001Z-demo-0b7c1a52"
    (run_dir / "spool").mkdir(parents=True)
    config = RunConfig(
        run_id="0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55", name="demo", created_ns=ns(1.0), command=("train",), cwd="/",
        runtime_dir="/nowhere/yprov-x", settings=Settings(keep_spool=keep_spool), launcher={"host": "elsewhere"},
        nodes=("n1", "n2"), job={"scheduler": "slurm", "job_id": "7", "attempt": 0} if job is None else job)
    (run_dir / "run.json").write_text(json.dumps(config.to_json()))
    run = RunSpool(run_dir / "spool")
    more = {} if scheduler is None else {"scheduler": scheduler}
    run.begin(1.0, config=config.to_json(), **more)
    for host in config.nodes:
        node = run.node(host, [gauge("system.cpu.utilization", "1", 0.01)])
        for t in range(1, 31):
            node.sample(float(t), [0.5])
    if heard is not None:
        run.scheduler_said(*heard)
    if end == "killed":
        run.killed(at)
    elif end is not None:
        run.finish(at, state=end, exit_code={"completed": 0, "failed": 3, "cancelled": 143}[end])
    run.close()
    stitch(run_dir)
    for path in (run_dir / "spool").glob("*.spool"):
        os.utime(path, (1_767_225_700, 1_767_225_700))  # or it seems to be going on
    return run_dir


def run_of(run_dir: Path) -> dict[str, Any]:
    return document(run_dir)["activity"]["run"]


@pytest.mark.parametrize("keep_spool", [True, False])
def test_a_killed_run_gets_the_schedulers_word_and_its_facts(tmp_path: Path, keep_spool: bool) -> None:
    run_dir = make_run(tmp_path, keep_spool=keep_spool)
    assert (run_dir / "spool").exists() == keep_spool
    assert attribute(run_of(run_dir), "state") == "killed"
    asked = Slurm(ENDED)
    done = refresh(run_dir, asked)
    assert asked.attempts == [0]
    assert (done.state, done.reason, done.job_state) == ("timeout", "time limit", "TIMEOUT")
    run, job = run_of(run_dir), document(run_dir)["entity"]["job"]
    assert (attribute(run, "state"), attribute(run, "stateFrom")) == ("timeout", "scheduler")
    assert run["prov:endTime"] == "2026-01-01T00:00:31+00:00"  # what was asked later makes no run longer
    assert attribute(job, "jobState") == "TIMEOUT"
    assert attribute(job, "jobEndTime") == "2026-01-01T00:00:30+00:00"
    assert attribute(job, "slurmEnergyJ") == 4200.0
    assert json.loads(attribute(job, "slurmSteps"))[0]["consumed_energy_j"] == 4100
    assert validate_run(run_dir) == []


def test_patching_gives_what_a_stitch_of_the_spool_gives(tmp_path: Path) -> None:
    stitched = make_run(tmp_path / "a", keep_spool=True)
    patched_dir = make_run(tmp_path / "b", keep_spool=False)
    for run_dir in (stitched, patched_dir):
        refresh(run_dir, Slurm(ENDED))
    assert document(stitched) == document(patched_dir)


@pytest.mark.parametrize("keep_spool", [True, False])
def test_a_second_refresh_changes_nothing(tmp_path: Path, keep_spool: bool) -> None:
    run_dir = make_run(tmp_path, keep_spool=keep_spool)
    refresh(run_dir, Slurm(ENDED))
    before = {name: (run_dir / name).read_bytes() for name in ("prov.json", "ro-crate-metadata.json")}
    refresh(run_dir, Slurm(ENDED))
    assert {name: (run_dir / name).read_bytes() for name in before} == before


def test_crate_of_a_patched_run_tells_the_new_end(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, keep_spool=False)
    refresh(run_dir, Slurm(ENDED))
    graph = json.loads((run_dir / "ro-crate-metadata.json").read_text())["@graph"]
    action = next(e for e in graph if e["@type"] == "CreateAction")
    assert (action["error"], action["actionStatus"]) == ("timeout: time limit", "http://schema.org/FailedActionStatus")
    assert next(e for e in graph if e["@id"] == "./")["description"].endswith("State: timeout (time limit).")


@pytest.mark.parametrize("keep_spool", [True, False])
@pytest.mark.parametrize(("own", "at", "state"), [
    ("completed", 20.0, "completed"), ("failed", 20.0, "failed"), ("failed", 30.4, "timeout"),
    ("cancelled", 31.0, "timeout"), ("completed", 35.0, "timeout"), (None, 0.0, "timeout"),
])
def test_the_jobs_end_is_the_runs_only_where_they_coincide(
    tmp_path: Path, own: str | None, at: float, state: str, keep_spool: bool
) -> None:
    run_dir = make_run(tmp_path, own, at=at, keep_spool=keep_spool)
    code = attribute(run_of(run_dir), "exitCode")
    assert refresh(run_dir, Slurm(ENDED)).state == state
    assert attribute(run_of(run_dir), "exitCode") == code
    assert attribute(document(run_dir)["entity"]["job"], "jobState") == "TIMEOUT"
    assert validate_run(run_dir) == []


@pytest.mark.parametrize("keep_spool", [True, False])
@pytest.mark.parametrize(("job_state", "state"), [("FAILED", "failed"), ("CANCELLED", "cancelled")])
def test_a_cancellation_that_was_none_is_taken_back(
    tmp_path: Path, job_state: str, state: str, keep_spool: bool
) -> None:
    """While Slurm ends a job, one whose script had ended looks like one that was cancelled."""
    run_dir = make_run(tmp_path, "failed", at=29.5, keep_spool=keep_spool, heard=(30.0, "cancelled"))
    run = run_of(run_dir)
    assert (attribute(run, "state"), attribute(run, "commandState")) == ("cancelled", "failed")
    assert refresh(run_dir, Slurm(ENDED | {"state": job_state, "exit_code": 3})).state == state
    assert attribute(run_of(run_dir), "stateFrom") == (None if state == "failed" else "scheduler")
    assert validate_run(run_dir) == []


@pytest.mark.parametrize("keep_spool", [True, False])
def test_what_was_known_of_the_job_stays_and_reasons_go_when_a_fact_comes(tmp_path: Path, keep_spool: bool) -> None:
    before = {"name": "slurm", "version": "22.05.8", "job_id": "7", "comment": "mine", "licenses": "a:1",
              "missing": {"end_time": "the job runs", "topology": "no plugin"}}
    run_dir = make_run(tmp_path, keep_spool=keep_spool, scheduler=before)
    refresh(run_dir, Slurm(ENDED | {"submit_line": "sbatch x"}))
    doc = document(run_dir)
    job = doc["entity"]["job"]
    assert attribute(job, "comment") == "mine"
    assert attribute(job, "absences") == "topology: no plugin"
    assert json.loads(attribute(job, "facts")) == {"licenses": "a:1", "submit_line": "sbatch x"}
    assert attribute(doc["agent"]["software/slurm"], "softwareVersion") == "22.05.8"


def test_run_without_a_job_in_its_document_gets_one(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    doc = json.loads((run_dir / "prov.json").read_text())
    for kind in ("entity", "agent"):
        doc[kind] = {k: v for k, v in doc[kind].items() if k not in ("run:job", "run:software/slurm")}
    for relation in ("wasStartedBy", "wasAssociatedWith"):
        doc[relation] = {k: v for k, v in doc[relation].items()
                         if "run:job" not in v.values() and "run:software/slurm" not in v.values()}
    end = {"state": "timeout", "reason": "time limit", "ended_ns": ns(30.0)}
    once = patched(doc, ENDED, end)
    assert check_document(once) == []
    assert patched(once, ENDED, end) == once
    assert any(r["prov:trigger"] == "run:job" for r in once["wasStartedBy"].values())


def test_without_accounting_the_controller_is_asked(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    raw = {**ENDED, "raw": "JobId=7", "restart_count": 0}
    assert refresh(run_dir, Slurm("this cluster keeps no accounting (no slurmdbd)", raw)).state == "timeout"
    assert "JobId=7" not in (run_dir / "prov.json").read_text()


def test_accounting_that_lags_behind_gives_way_to_the_controller(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    assert refresh(run_dir, Slurm({**ENDED, "state": "RUNNING"}, ENDED)).state == "timeout"


@pytest.mark.parametrize("keep_spool", [True, False])
def test_a_job_that_was_requeued_has_cancelled_this_run(tmp_path: Path, keep_spool: bool) -> None:
    """The controller tells of the last attempt only."""
    run_dir = make_run(tmp_path, keep_spool=keep_spool)
    later = {"name": "slurm", "job_id": "7", "state": "RUNNING", "restart_count": 1, "node_list": "n9",
             "submit_time": "2026-01-01T00:00:30+00:00", "start_time": "2026-01-01T00:02:00+00:00"}
    done = refresh(run_dir, Slurm("no slurmdbd", later))
    assert (done.state, done.reason) == ("cancelled", "the job was requeued")
    job = document(run_dir)["entity"]["job"]
    assert attribute(job, "nodeList") is None  # the other attempt's nodes are not ours
    assert attribute(run_of(run_dir), "attempt") == 0


def test_accounting_is_asked_for_the_runs_own_attempt(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, job={"scheduler": "slurm", "job_id": "7", "attempt": 2})
    asked = Slurm({**ENDED, "restart_count": 2})
    assert refresh(run_dir, asked).state == "timeout"
    assert asked.attempts == [2]


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "SUSPENDED"])
def test_a_job_that_still_goes_on_is_said_to(tmp_path: Path, state: str) -> None:
    run_dir = make_run(tmp_path)
    before = (run_dir / "prov.json").read_bytes()
    with pytest.raises(YprovError, match=f"job 7 has not ended: {state}") as caught:
        refresh(run_dir, Slurm("no slurmdbd", {"job_id": "7", "state": state}))
    assert "again when it has" in caught.value.hint
    assert (run_dir / "prov.json").read_bytes() == before


def test_a_forgotten_job_is_an_error_with_both_reasons(tmp_path: Path) -> None:
    with pytest.raises(YprovError, match=r"job 7: Invalid job id; and of accounting: no slurmdbd") as caught:
        refresh(make_run(tmp_path), Slurm("no slurmdbd"))
    assert "MinJobAge" in caught.value.hint


@pytest.mark.parametrize(("job", "message"), [
    ({}, "did not run in a job"), ({"scheduler": "pbs", "job_id": "7.server"}, "ran in a job of `pbs`"),
])
def test_a_run_outside_of_slurm_has_nothing_to_refresh(tmp_path: Path, job: dict[str, Any], message: str) -> None:
    with pytest.raises(YprovError, match=message):
        refresh(make_run(tmp_path, job=job), Slurm(ENDED))


def test_a_damaged_archive_is_left_as_it_is(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, keep_spool=False)
    for text in ('{"activity": 3}', "{", '{"activity": {"run:run": []}}', "[]"):
        (run_dir / "prov.json").write_text(text)
        with pytest.raises(YprovError):
            refresh(run_dir, Slurm(ENDED))
        assert (run_dir / "prov.json").read_text() == text


def test_show_and_ls_tell_job_attempt_nodes_and_what_was_dark(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, scheduler={**ENDED, "restart_count": 1, "array_job_id": "5", "array_task_id": "3",
                                            "node_count": 3})
    doc = json.loads((run_dir / "prov.json").read_text())
    doc["entity"]["run:nodes"] |= {"yp:dark": "n3", "yp:darkCount": {"$": "1", "type": "xsd:int"},
                                   "yp:darkReasons": "n3: no daemon was heard"}
    (run_dir / "prov.json").write_text(json.dumps(doc))
    text = lines(view(run_dir))
    assert "  job      slurm 7 (train), task 3 of array 5, attempt 1, 3 nodes, 1 dark, timeout" in text
    assert "  dark     n3: no daemon was heard" in text
    assert "2 (1 dark)" in table([listed(view(run_dir)).cells])[1]
    told = facts(view(run_dir))
    assert told["job"]["id"] == "7"
    assert told["dark"] == {"nodes": 1, "hosts": "n3", "reasons": ["n3: no daemon was heard"]}


def test_the_state_of_a_job_that_ran_when_it_was_asked_about_is_not_shown(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, scheduler={**ENDED, "state": "RUNNING"})
    (told,) = [line for line in lines(view(run_dir)) if line.startswith("  job")]
    assert told.endswith("slurm 7 (train), 2 nodes")


def test_run_outside_of_a_job_has_no_line_for_one(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, job={})
    assert not [line for line in lines(view(run_dir)) if line.startswith("  job")]
    assert facts(view(run_dir))["job"] is None


# the command, with Slurm's commands as stand-ins


def stand_in(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def only_slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's commands are those of a test."""
    return environment(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_the_command_asks_slurm_and_prints_the_state(tmp_path: Path, only_slurm: dict[str, str]) -> None:
    run_dir = make_run(tmp_path)
    columns = ("JobID", "JobIDRaw", "State", "Submit", "Start", "End", "ExitCode", "NodeList")
    row = ("7", "7", "TIMEOUT", "2026-01-01T00:00:00+0000", "2026-01-01T00:00:00+0000", "2026-01-01T00:00:30+0000",
           "0:0", "n[1-2]")
    text = "\\037".join(columns) + "\\n" + "\\037".join(row) + "\\n"
    stand_in(tmp_path / "bin", "sacct",
             f"if [ \"$1\" = --helpformat ]; then echo '{' '.join(columns)}'; else printf '{text}'; fi")
    done = yprov("stitch", "--refresh-slurm", "--json", str(run_dir), cwd=tmp_path, env=only_slurm)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"directory": str(run_dir), "state": "timeout", "reason": "time limit",
                                       "job_id": "7", "job_state": "TIMEOUT"}
    done = yprov("stitch", "--refresh-slurm", str(run_dir), cwd=tmp_path, env=only_slurm)
    assert done.stdout == f"{run_dir}: timeout (time limit); Slurm's job 7: TIMEOUT\n"
    assert yprov("validate", str(run_dir), cwd=tmp_path).returncode == 0


def test_the_command_says_why_slurm_cannot_be_asked(tmp_path: Path, only_slurm: dict[str, str]) -> None:
    for name in ("sacct", "scontrol"):
        stand_in(tmp_path / "bin", name, f"echo '{name}: error: no controller' >&2; exit 1")
    done = yprov("stitch", "--refresh-slurm", str(make_run(tmp_path)), cwd=tmp_path, env=only_slurm)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Slurm does not say what became of job 7: `scontrol`: error: no controller")
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_goes_on_is_not_refreshed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    for path in (run_dir / "spool").glob("*.spool"):
        os.utime(path)
    done = yprov("stitch", "--refresh-slurm", "--force", str(run_dir), cwd=tmp_path)
    assert done.returncode == 1
    assert "is still going" in done.stderr


class Killed(BaseException):
    pass


FACTS = {"scheduler": "slurm", "name": "slurm", "job_id": "7", "state": "TIMEOUT"}
END = {"by_scheduler": True, "state": "timeout", "reason": "time limit", "ended_ns": ns(30.0)}


def killed_between(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """prov.json is the new one, the crate not yet."""
    really = os.replace

    def dies(old: Path, new: Path) -> None:
        if Path(new).name == "ro-crate-metadata.json":
            raise Killed
        really(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", dies)
        with pytest.raises(Killed):
            patch_archive(run_dir, FACTS, END)
    assert any("prov.json" in p for p in validate_run(run_dir))


@pytest.mark.parametrize("then", [{}, {"consumed_energy_j": 7}])
def test_a_refresh_that_was_killed_between_its_files_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: dict[str, Any]
) -> None:
    """Also where Slurm says more by then."""
    whole, run_dir = (make_run(tmp_path / name, keep_spool=False) for name in "ab")
    patch_archive(whole, {**FACTS, **then}, END)
    killed_between(run_dir, monkeypatch)
    patch_archive(run_dir, {**FACTS, **then}, END)
    assert validate_run(run_dir) == []
    for name in ("prov.json", "ro-crate-metadata.json"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()
    assert not list(run_dir.glob(".*.tmp"))


def test_a_stitch_ends_a_refresh_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path, keep_spool=False)
    killed_between(run_dir, monkeypatch)
    assert not stitch(run_dir).made
    assert validate_run(run_dir) == []


def test_a_crate_that_says_another_identifier_than_that_of_its_own_list_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a refresh left it that was killed when nobody ended it. What else differs is not blessed."""
    run_dir = make_run(tmp_path, keep_spool=False)
    killed_between(run_dir, monkeypatch)
    for left in run_dir.glob(".*.tmp"):
        left.unlink()
    patch_archive(run_dir, FACTS, END)
    assert validate_run(run_dir) == []
    killed = make_run(tmp_path / "changed", keep_spool=False)
    killed_between(killed, monkeypatch)
    for left in killed.glob(".*.tmp"):
        left.unlink()
    (killed / "run.json").write_text("{}")
    patch_archive(killed, FACTS, END)
    assert validate_run(killed) != []
    said = stated_id(json.loads((killed / "ro-crate-metadata.json").read_bytes()))
    assert said != content_id(killed)


def test_a_crate_that_was_cut_short_is_swept_and_not_taken(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, keep_spool=False)
    before = (run_dir / "ro-crate-metadata.json").read_bytes()
    for text in (before[:100], b"[]", b'{"@graph": [3]}', before.replace(b'"sha256"', b'"sha"')):
        (run_dir / ".ro-crate-metadata.json.7.tmp").write_bytes(text)
        assert not stitch(run_dir).made
        assert (run_dir / "ro-crate-metadata.json").read_bytes() == before
        assert not list(run_dir.glob(".*.tmp"))


def test_a_patched_document_is_written_as_a_stitch_writes_it(tmp_path: Path) -> None:
    """One attribute on a line, a relation on one: the same bytes where nothing is new, not a seventh more."""
    run_dir = make_run(tmp_path, keep_spool=False)
    patch_archive(run_dir, FACTS, END)
    once = (run_dir / "prov.json").read_bytes()
    assert in_lines(json.loads(once)).encode() == once
    stitched = make_run(tmp_path / "stitched", keep_spool=True)
    first = (stitched / "prov.json").read_bytes()
    assert in_lines(json.loads(first)).encode() == first
