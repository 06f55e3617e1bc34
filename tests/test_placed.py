"""Daemons that another program has placed: `yprov run --launch-with`, end to end, with stand-ins for the program."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from tests import standins
from tests.running import attribute, document, eventually, only_run, processes_about, start, state, yprov
from tests.standins import HERE, StandIns
from yprov.placed import PlacedDaemons
from yprov.placement import Placement
from yprov.runs import create
from yprovd import collector, node, step
from yprovd.collector import Collector
from yprovd.config import COLLECTOR_FILE, KEY_FILE, RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.rendezvous import announce, announce_end, endpoint, has_ended, write_keys
from yprovd.step import _make_runtime_dir, elect, is_first
from yprovd.stitch.validate import validate_run
from yprovd.transport import Sender, new_keys

CLIENT = "import yprov\nwith yprov.context('training'):\n    yprov.log_metric('loss', 0.5)\n"


def stand_in(folder: Path, body: str) -> str:
    path = folder / "place"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def left_behind(run_dir: Path) -> list[str]:
    run_id = run_dir.name.rpartition("-")[2]
    return [*(p.name for p in Path("/dev/shm").glob(f"yprov-{run_id}*")),
            *(name for name in (KEY_FILE, COLLECTOR_FILE) if (run_dir / name).exists())]


def test_a_run_whose_daemons_were_placed_is_whole(tmp_path: Path) -> None:
    place = stand_in(tmp_path, 'exec "$@"')
    done = yprov("run", "--launch-with", place, "--", sys.executable, "-c", CLIENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    run_dir = only_run(tmp_path)
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])
    assert attribute(document(run_dir)["activity"]["monitoring"], "placedBy") == place
    assert not processes_about(str(run_dir))


def test_the_collector_listens_on_the_interface_that_was_asked_for(tmp_path: Path) -> None:
    place = stand_in(tmp_path, 'exec "$@"')
    done = yprov("run", "--interface", "lo", "--launch-with", place, "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    assert "warning" not in done.stderr
    assert attribute(document(only_run(tmp_path))["activity"]["monitoring"], "placedBy") == place


def test_the_secret_of_the_run_is_in_no_file_of_it(tmp_path: Path) -> None:
    place = stand_in(tmp_path, f'cp "$6/{KEY_FILE}" {tmp_path}/copied 2>/dev/null; exec "$@"')
    yprov("run", "--keep-spool", "--launch-with", place, "--", "true", cwd=tmp_path)
    run_dir = only_run(tmp_path)
    keys = (tmp_path / "copied").read_bytes().split()
    assert [len(key) for key in keys] == [40, 40]
    kept = b"".join(p.read_bytes() for p in run_dir.rglob("*") if p.is_file())
    assert not any(key in kept for key in keys)


@pytest.mark.parametrize("body", ["echo error: no such queue >&2; exit 1", "exec sleep 600"])
def test_a_program_that_places_nothing_costs_the_other_nodes_and_not_the_job(
    tmp_path: Path, body: str
) -> None:
    place = stand_in(tmp_path, body)
    began = time.monotonic()
    done = yprov("run", "--launch-with", place, "--", "echo", "done", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "only this node is recorded" in done.stderr
    assert time.monotonic() - began < 25
    run_dir = only_run(tmp_path)
    # Who comes late, once the scheduler has room, is to read that it is over.
    late = ["collector.json"] if "sleep" in body else []
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], late)
    assert not processes_about(place)


def test_a_program_that_is_not_there_costs_the_other_nodes_and_not_the_job(tmp_path: Path) -> None:
    done = yprov("run", "--launch-with", "mpirum -npernode 1", "--", "echo", "done", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "only this node is recorded" in done.stderr
    assert "mpirum -npernode 1: No such file or directory" in done.stderr
    run_dir = only_run(tmp_path)
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])


def test_a_shell_script_that_waits_for_its_children_sees_them_end(tmp_path: Path) -> None:
    place = stand_in(tmp_path, '"$@" &\nwait')
    done = yprov("run", "--launch-with", place, "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    run_dir = only_run(tmp_path)
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])
    assert not processes_about(place)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun here")
def test_a_real_mpirun_places_the_daemons(tmp_path: Path) -> None:
    mpirun = "mpirun --allow-run-as-root -npernode 1 --bind-to none"
    done = yprov("run", "--launch-with", mpirun, "--", sys.executable, "-c", CLIENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run_dir = only_run(tmp_path)
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])
    assert attribute(document(run_dir)["activity"]["monitoring"], "placedBy") == mpirun


NODES = (HERE, "yn2", "yn3")


def cluster(kind: str, folder: Path) -> dict[str, str]:
    """The environment of a batch script of this kind, with stand-ins for its commands in PATH."""
    made = StandIns(folder / "bin")
    job: dict[str, str] = {"NODES": " ".join(NODES)}
    if kind in ("pbs_tmrsh", "pbsdsh"):
        standins.pbs(made.add, tmrsh=kind == "pbs_tmrsh")
        (folder / "nodes").write_text("".join(f"{node}\n{node}\n" for node in NODES))
        job |= {"PBS_JOBID": "7.server", "PBS_NODEFILE": str(folder / "nodes")}
    elif kind == "flux exec":
        standins.flux(made.add, f"{HERE},yn[2-3]")
        job |= {"FLUX_URI": "local:///x", "FLUX_ENCLOSING_ID": "f9"}
    elif kind == "blaunch":
        standins.lsf(made.add)
        job |= {"LSB_JOBID": "9", "LSB_MCPU_HOSTS": " ".join(f"{node} 4" for node in NODES)}
    return made.environment(**job)


@pytest.mark.skipif(not standins.can_have_nodes(), reason="needs root and unshare(1)")
@pytest.mark.parametrize("kind", ["pbs_tmrsh", "pbsdsh", "flux exec", "blaunch"])
def test_all_nodes_of_another_scheduler_s_job_are_in_one_record(tmp_path: Path, kind: str) -> None:
    done = yprov("run", "--", sys.executable, "-c", CLIENT, cwd=tmp_path, env=cluster(kind, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    run_dir = only_run(tmp_path)
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])
    assert attribute(document(run_dir)["activity"]["monitoring"], "placedBy") == kind
    nodes = xr.open_zarr(run_dir / "series.zarr", group="nodes", consolidated=False)
    assert sorted(nodes["hostname"].values.tolist()) == sorted(NODES)
    assert not processes_about(str(run_dir))


def test_what_is_left_of_a_connection_that_was_made_anew_is_no_node(tmp_path: Path) -> None:
    """ZeroMQ hands the rest of the old connection out under a name of its own, which will never say goodbye."""
    run_dir, _ = create(Settings(dir=str(tmp_path)), ["true"], placement=Placement("", ("*",), {}, 10.0, ()))
    keys = new_keys()
    write_keys(run_dir, keys)
    collector = Collector(run_dir)
    sender = Sender(functools.partial(endpoint, run_dir), limit=1 << 20, identity=b"node-1", keys=keys)
    try:
        for _ in range(3):
            sender.send([b"frame"], sync=True)
        eventually(lambda: collector.receiver.socket.poll(10))
        sender.reconnect()
        eventually(lambda: (collector._turn(wait_ms=10), sender.receive(10)) and not sender.waiting)
        assert collector.roll.nodes == {b"node-1"}
    finally:
        sender.close()
        collector.receiver.close()
        collector.spool.close()


def test_when_the_launcher_is_killed_the_daemons_finish_by_themselves(tmp_path: Path) -> None:
    place = stand_in(tmp_path, 'exec "$@"')
    running = start("run", "--launch-with", place, "--", "sleep", "600", cwd=tmp_path)
    run_dir = eventually(lambda: only_run(tmp_path) if (tmp_path / "yprov-runs").is_dir()
                         and list((tmp_path / "yprov-runs").glob("*/run.json")) else None)
    eventually(lambda: "sleep" in " ".join(_command_lines(run_dir)))
    running.kill()
    running.communicate()
    eventually(lambda: (run_dir / "prov.json").exists())
    eventually(lambda: not processes_about(str(run_dir)))
    assert (state(run_dir), validate_run(run_dir)) == ("killed", [])


def _command_lines(run_dir: Path) -> list[str]:
    out = []
    for pid in processes_about(run_dir.name):
        try:
            out.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return out


@pytest.mark.parametrize(("nodes", "environ", "host", "first"), [
    (("n1", "n2"), {}, "n1", True), (("n1", "n2"), {}, "n2", False), (("n1.site", "n2.site"), {}, "n1", True),
    (("n1", "n2"), {"SLURMD_NODENAME": "n1"}, "login", True),
    (("10.0.0.1", "10.0.0.2"), {}, "10.0.0.2", False), (("10.0.0.1",), {}, "n1", None),
    (("n1-ib", "n2-ib"), {}, "n1", None), (("n1-ib", "n2-ib"), {"PALS_RANKID": "0"}, "n1", True),
    (("*",), {}, "x", None), (("*",), {"OMPI_COMM_WORLD_RANK": "0"}, "x", True),
    (("*",), {"OMPI_COMM_WORLD_RANK": "1"}, "x", False), (("*",), {"PMI_RANK": "3"}, "x", False),
])
def test_the_collector_is_on_the_first_node_or_at_rank_0_or_elected(
    nodes: tuple[str, ...], environ: dict[str, str], host: str, first: bool | None
) -> None:
    for elected in (True, False):
        assert is_first(nodes, environ, host, lambda e=elected: e) is (elected if first is None else first)


def test_the_first_host_that_asks_is_elected_and_stays_so(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    assert [elect(tmp_path, host) for host in ("n2", "n1", "n3", "n2")] == [True, False, False, True]


def test_a_sockets_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    with pytest.raises(YprovError, match="not ours alone"):
        _make_runtime_dir(open_to_all)
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(tmp_path)
    with pytest.raises(YprovError):
        _make_runtime_dir(elsewhere)
    _make_runtime_dir(tmp_path / "new")
    _make_runtime_dir(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_two_tasks_on_one_node_have_one_daemon(tmp_path: Path) -> None:
    place = stand_in(tmp_path, '"$@" & "$@" & wait')
    done = yprov("run", "--launch-with", place, "--", "true", cwd=tmp_path)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    run_dir = only_run(tmp_path)
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])


def placed_run(tmp_path: Path, **config: Any) -> Path:
    """A run's directory as a task of a daemon step finds it."""
    run_dir = tmp_path / "run"
    (run_dir / "spool").mkdir(parents=True)
    made = RunConfig("id", "run", 0, ("true",), "/", str(tmp_path / "sockets"), Settings(), nodes=("n1",))
    (run_dir / "run.json").write_text(json.dumps(made._replace(**config).to_json()))
    return run_dir


def test_a_task_that_comes_when_its_launcher_has_given_up_does_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert step.main(placed_run(tmp_path, nodes=())) == 0
    run_dir = tmp_path / "run"
    placed_run(tmp_path / "other")
    announce_end(tmp_path / "other/run")
    assert step.main(tmp_path / "other/run") == 0
    assert capfd.readouterr().err.count("too late") == 2
    assert not (run_dir / ".keys").exists()
    with pytest.raises(YprovError, match="given us up"):
        announce(tmp_path / "other/run", 1, ["10.0.0.1"])
    assert has_ended(tmp_path / "other/run")


def test_a_node_that_does_not_see_the_runs_directory_says_so_and_spoils_no_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert step.main(tmp_path / "elsewhere") == 0
    said = capfd.readouterr().err
    assert "is not there on" in said
    assert "that all nodes of the job share" in said


@pytest.fixture
def own_signals() -> Iterator[None]:
    """What the code under test does with signals is undone."""
    before = {s: signal.getsignal(s) for s in signal.valid_signals() if s not in (signal.SIGKILL, signal.SIGSTOP)}
    yield
    for signum, handler in before.items():
        if handler is not None and signal.getsignal(signum) != handler:
            signal.signal(signum, handler)


@pytest.mark.usefixtures("own_signals")
def test_a_collector_that_crashes_is_started_again_and_one_that_has_ended_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = placed_run(tmp_path, nodes=(os.uname().nodename,))

    def crash(run_dir: Path, config: RunConfig) -> int:
        with open(run_dir / "starts", "a") as f:
            f.write("x")
        if (run_dir / "starts").stat().st_size < 3:
            raise OSError("no space left")
        return 1  # of the stitch

    monkeypatch.setattr(collector, "main", crash)
    monkeypatch.setattr(node, "main", lambda run_dir, config: 0)
    assert step.main(run_dir) == 0
    assert (run_dir / "starts").read_text() == "xxx"


def test_nodes_that_the_scheduler_calls_otherwise_are_not_dark(tmp_path: Path) -> None:
    placed_run(tmp_path)
    daemons = PlacedDaemons(tmp_path / "run", Placement("pbs", ("10.0.0.1", "10.0.0.2"), {}, 10.0, ()))
    try:
        daemons.ready = ["n1"]
        assert daemons.dark == ["10.0.0.1", "10.0.0.2"]
        daemons.ready = ["n1", "n2"]
        assert daemons.dark == []
    finally:
        daemons.let_go()
