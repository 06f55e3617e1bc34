"""Whatever is killed, the run is there: made by itself where somebody is left to do it, by `yprov stitch` else."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.kills import ROLES, trial
from tests.running import (
    attribute,
    document,
    environment,
    eventually,
    nothing_left,
    only_run,
    processes_about,
    start,
    state,
    yprov,
)


@pytest.mark.parametrize("role", ROLES)
def test_one_process_killed_in_the_middle_costs_two_seconds_at_most(tmp_path: Path, role: str) -> None:
    result = trial(role, 1.8, tmp_path)
    assert result["hit"]
    assert result["ok"], result


def test_a_killed_launcher_takes_the_whole_command_with_it(tmp_path: Path) -> None:
    waits = "import time; print(1, flush=True); time.sleep(62)"
    tree = f"trap '' TERM; (exec sleep 61) & exec {sys.executable} -c '{waits}'"
    with start("run", "--", "bash", "-c", tree, cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        run_dir = only_run(tmp_path)
        run_id = json.loads((run_dir / "run.json").read_text())["run_id"]
        assert processes_about(f"YPROV_RUN_ID={run_id}")
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        eventually(lambda: not processes_about(f"YPROV_RUN_ID={run_id}"), 15, "the job's processes end")
        eventually(lambda: (run_dir / "prov.json").exists(), 30, "the collector makes the archive by itself")
    nothing_left(run_dir)
    assert state(run_dir) == "killed"
    assert yprov("validate", "last", cwd=tmp_path).returncode == 0


def test_when_everything_is_killed_stitch_makes_what_can_be_made(tmp_path: Path) -> None:
    program = "import time, yprov; yprov.log_metric('x', 1.5); yprov.flush(); print(1, flush=True); time.sleep(60)"
    with start("run", "--", sys.executable, "-c", program, cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        run_dir = only_run(tmp_path)
        pids = [running.pid, *processes_about(str(run_dir))]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # all at once: none is left to tell of another's end
            for pid in pids:
                os.kill(pid, number)
        running.wait()
    eventually(lambda: not processes_about(str(run_dir)), 10)
    assert not (run_dir / "prov.json").exists()
    assert yprov("show", "last", cwd=tmp_path).stdout.startswith("python: not stitched")
    done = yprov("stitch", "--json", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == state(run_dir) == "incomplete"
    assert attribute(document(run_dir)["entity"]["series/metrics/run/x"], "last") == 1.5
    assert yprov("validate", "last", cwd=tmp_path).returncode == 0


def test_a_daemon_that_was_started_again_is_told(tmp_path: Path) -> None:
    with start("run", "-q", "--", "bash", "-c", "echo ready; read line; echo $line", cwd=tmp_path, stdin=-1) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "ready\n"
        run_dir = only_run(tmp_path)

        def daemons() -> list[int]:
            return [p for p in processes_about(str(run_dir)) if b"\0node\0" in command_line(p)]

        def command_line(pid: int) -> bytes:
            try:
                return Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                return b""  # it has just gone

        (first,) = daemons()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: daemons() not in ([], [first]), what="another node daemon")
        out, err = running.communicate("go on\n", timeout=60)
        assert out == "go on\n"
        assert "node daemon ended (signal 9) and was started again" in err
    assert "started again" in attribute(document(run_dir)["activity"]["monitoring"], "notes")
    nothing_left(run_dir)


def test_a_stitch_can_be_repeated_and_gives_the_same_bytes(tmp_path: Path) -> None:
    program = "import yprov\nwith yprov.context('training'), yprov.epoch(0): yprov.log_metric('loss', 0.1, step=3)"
    assert yprov("run", "-q", "--keep-spool", "--", sys.executable, "-c", program, cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    before = (run_dir / "prov.json").read_bytes()
    files = {p: p.read_bytes() for p in (run_dir / "series.zarr").rglob("*") if p.is_file()}
    moved = tmp_path / "elsewhere"
    run_dir.rename(moved)
    assert yprov("stitch", "--keep-spool", str(moved), cwd=tmp_path).returncode == 0
    assert (moved / "prov.json").read_bytes() == before
    for path, data in files.items():
        assert (moved / path.relative_to(run_dir)).read_bytes() == data
    assert yprov("validate", str(moved), cwd=tmp_path).returncode == 0


def test_a_stitch_without_spool_leaves_the_archive_alone(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--", "true", cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    assert not (run_dir / "spool").exists()
    before = (run_dir / "prov.json").read_bytes()
    done = yprov("stitch", "last", cwd=tmp_path)
    assert done.returncode == 0
    assert "complete already" in done.stdout
    assert (run_dir / "prov.json").read_bytes() == before


def test_a_run_that_is_going_on_is_not_stitched_unless_forced(tmp_path: Path) -> None:
    with start("run", "-q", "--", "bash", "-c", "echo ready; read line", cwd=tmp_path, stdin=-1) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        refused = yprov("stitch", "last", cwd=tmp_path)
        assert refused.returncode == 1
        assert "still going" in refused.stderr
        assert "hint: yprov stitch --force" in refused.stderr
        assert yprov("ls", cwd=tmp_path).stdout.count("running") == 1
        forced = yprov("stitch", "--force", "last", cwd=tmp_path)
        assert forced.returncode == 0, forced.stderr
        assert state(only_run(tmp_path)) == "incomplete"
        assert (only_run(tmp_path) / "spool").exists()
        running.communicate("\n", timeout=60)
    assert state(only_run(tmp_path)) == "completed"
    nothing_left(only_run(tmp_path))


def test_stitch_of_what_is_no_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, expected in (("empty", "is not a run"), ("nowhere", "there is no run"), (".", "is not a run")):
        done = yprov("stitch", given, cwd=tmp_path)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "hint:" in done.stderr
        assert "Traceback" not in done.stderr


def test_stitch_of_a_damaged_spool_takes_what_is_whole(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--keep-spool", "--", "true", cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    for spool in (run_dir / "spool").glob("collector-*.spool"):
        data = bytearray(spool.read_bytes())
        data[len(data) // 2] ^= 1
        spool.write_bytes(data + b"\xf1yPv and then rubbish")
    done = yprov("stitch", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yprov("validate", "last", cwd=tmp_path).returncode == 0


def test_stitch_of_rubbish_fails_with_a_sentence(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--keep-spool", "--", "true", cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    for spool in (run_dir / "spool").glob("*.spool"):
        spool.write_bytes(b"\0" * 1000)
    (run_dir / "prov.json").unlink()
    done = yprov("stitch", "last", cwd=tmp_path)
    assert done.returncode == 1
    assert "could be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.stat().st_size for p in (run_dir / "spool").glob("*.spool")) == [1000, 1000]


def test_a_launcher_killed_before_its_command_began_leaves_nothing_running(tmp_path: Path) -> None:
    with start("run", "--", "sleep", "60", cwd=tmp_path) as running:
        eventually(lambda: list(tmp_path.glob("yprov-runs/*/run.json")), what="the run's directory")
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    run_dir = only_run(tmp_path)
    eventually(lambda: not processes_about(str(run_dir)), 60, "all processes end")


def test_environment_helper_hides_an_outer_run() -> None:
    assert not [k for k in environment() if k.startswith("YPROV_")]


WORKER = """
import os, signal, time, yprov
with yprov.context("training"):
    yprov.log_metric("x", 1.0)
    pid = os.fork()
    if pid == 0:
        with yprov.span("load"):
            yprov.flush()
            time.sleep(60)
    time.sleep(0.4)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
with yprov.context("validation"):
    for i in range(30):
        yprov.log_metric("x", 1.0)
        time.sleep(0.1)
"""


def test_a_worker_that_dies_in_a_span_does_not_hold_its_context_open(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--", sys.executable, "-c", WORKER, cwd=tmp_path).returncode == 0
    activities = document(only_run(tmp_path))["activity"]
    assert attribute(activities["ctx/training"], "durationSeconds") < 1.5
    assert attribute(activities["ctx/validation"], "durationSeconds") > 2.9


def test_every_parameter_and_file_is_in_the_store_also_those_that_the_document_leaves_out(tmp_path: Path) -> None:
    import xarray as xr

    program = ("import yprov\nyprov.log_params({f'p{i}': i for i in range(1500)})\n"
               "for i in range(400): yprov.log_artifact(f'file-{i}')")
    assert yprov("run", "-q", "--", sys.executable, "-c", program, cwd=tmp_path).returncode == 0
    store = only_run(tmp_path) / "series.zarr"
    with xr.open_zarr(store, group="params") as params, xr.open_zarr(store, group="files") as files:
        assert params["value"].values[params["name"].values == "p1499"] == ["1499"]
        assert params.sizes["row"] == 1500
        assert files.sizes["row"] == 400
    assert attribute(document(only_run(tmp_path))["activity"]["run"], "parametersOmitted") == 500
