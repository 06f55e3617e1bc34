"""Daemons that another program has placed: `yprov run --launch-with`, end to end, with stand-ins for the program."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.running import attribute, document, eventually, only_run, processes_about, start, state, yprov
from yprovd.config import COLLECTOR_FILE, KEY_FILE
from yprovd.errors import YprovError
from yprovd.step import _make_runtime_dir, is_first
from yprovd.stitch.validate import validate_run

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
    assert (state(run_dir), validate_run(run_dir), left_behind(run_dir)) == ("completed", [], [])
    assert not processes_about(place)


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
    (("n1", "n2"), {"SLURMD_NODENAME": "n1"}, "login", True), (("10.0.0.1",), {}, "10.0.0.2", False),
    (("*",), {}, "x", True), (("*",), {"OMPI_COMM_WORLD_RANK": "0"}, "x", True),
    (("*",), {"OMPI_COMM_WORLD_RANK": "1"}, "x", False), (("*",), {"PMI_RANK": "3"}, "x", False),
])
def test_the_collector_is_on_the_first_node_or_at_rank_0(
    nodes: tuple[str, ...], environ: dict[str, str], host: str, first: bool
) -> None:
    assert is_first(nodes, environ, host) is first


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
