"""A user's mistake gets one sentence and a hint, never a traceback, and costs nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import YPROV, environment, nothing_left, only_run, start, state, yprov


@pytest.mark.parametrize(
    ("settings", "expected", "hint"),
    [
        ("intervall: 2", "unknown key `intervall`", "did you mean `interval`?"),
        ("interval: soon", "`interval` must be a number of seconds", ""),
        ("interval: 0", "`interval` must be a number of seconds", ""),
        ("- a\n- b", "must hold settings", ""),
        ("a: [", "is not YAML", ""),
        ("disable: [cpus]", "unknown sensor `cpus`", "did you mean `cpu`?"),
        ("tags: [a]", "`tags` must be a mapping", ""),
        ("user: {name: Ada, id: 0000-0002-1825-0098}", "`settings.yaml`: `user.id` is no ORCID", "hint: is a digit"),
        ("organisation: {id: acme}", "`settings.yaml`: `organisation.id` must be a ROR", "hint: id: https://ror.org/"),
        ("licence: my own", "`settings.yaml`: `licence` must be an SPDX identifier", "hint: licence: CC-BY-4.0"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(tmp_path: Path, settings: str, expected: str, hint: str) -> None:
    (tmp_path / "settings.yaml").write_text(settings)
    done = yprov("run", "--config", "settings.yaml", "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "yprov-runs").exists()


def test_a_licence_that_nobody_knows_is_said_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("licence: CC-BY-4\n")
    done = yprov("run", "-q", "--config", "settings.yaml", "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ("yprov: `licence: CC-BY-4` is no SPDX identifier that we know; did you mean `CC-BY-4.0`?; "
                           "it is recorded as it is\n")
    assert '"licence": "CC-BY-4"' in (only_run(tmp_path) / "run.json").read_text()


def test_options_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("name: from-file\ntags: {a: 1, b: 2}\n"
                                            "user: {name: Ada, id: 0000-0002-1825-0097}\n")
    done = yprov("run", "-q", "--config", "settings.yaml", "--name", "by-hand", "--tag", "b=3", "--", "true",
                 cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (only_run(tmp_path) / "run.json").read_text()
    assert "by-hand" in only_run(tmp_path).name
    assert '"b": "3"' in text
    assert '"a": "1"' in text
    assert "Ada" in text


def test_a_directory_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = yprov("run", "--dir", "file/runs", "--", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 125
    assert "cannot make a run in" in done.stderr
    assert "hint: yprov run --dir" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tag", ["novalue", "=x"])
def test_a_tag_without_a_value_is_refused(tmp_path: Path, tag: str) -> None:
    done = yprov("run", "--tag", tag, "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert "hint: --tag dataset=digits" in done.stderr


def test_an_unknown_option_is_refused_with_status_2(tmp_path: Path) -> None:
    done = yprov("run", "--intervall", "2", "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert "--intervall" in done.stderr


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    done = yprov("run", "--config", "none.yaml", "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert "none.yaml" in done.stderr


@pytest.mark.parametrize("command", [["show", "x"], ["validate", "x"], ["stitch", "x"], ["show", "last"]])
def test_a_run_that_is_not_there_is_named(tmp_path: Path, command: list[str]) -> None:
    done = yprov(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no run" in done.stderr
    assert "hint: yprov ls" in done.stderr


def test_a_damaged_archive_is_said_by_show_and_listed_by_validate(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--", "true", cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    (run_dir / "prov.json").write_text("{")
    shown = yprov("show", "last", cwd=tmp_path)
    assert shown.returncode == 1
    assert "is damaged" in shown.stderr
    checked = yprov("validate", "last", cwd=tmp_path)
    assert checked.returncode == 1
    assert "prov.json" in checked.stdout
    assert "Traceback" not in shown.stderr + checked.stderr


def test_inputs_and_outputs_named_on_the_command_line_are_hashed_or_excused(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("abc")
    done = yprov("run", "-q", "--input", "in.txt", "--input", "nowhere.txt", "--output", "out.txt", "--",
                 "cp", "in.txt", "out.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    prov = (only_run(tmp_path) / "prov.json").read_text()
    assert prov.count("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 2
    assert "No such file" in prov


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    """A file system of 6 MB that goes away again."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True,
                             check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> None:
    """Take all room that is left."""
    fd = os.open(disk / "more", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)


@pytest.mark.root
def test_a_disk_that_fills_up_while_running_costs_no_data_when_it_is_emptied_in_time(
    tmp_path: Path, small_disk: Path
) -> None:
    program = (
        "import yprov, sys\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(20000): yprov.log_metric('x', i, step=i)\n"
        "print(yprov.flush(1), flush=True); sys.stdin.readline()\n"
        "print(yprov.flush(20), flush=True)\n"
    )
    with start("run", "--keep-spool", "--dir", str(small_disk / "runs"), "--", sys.executable, "-c", program,
               cwd=tmp_path, stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "ready\n"
        (run_dir,) = (small_disk / "runs").iterdir()
        fill(small_disk)
        running.stdin.write("go\n")
        running.stdin.flush()
        assert running.stdout.readline() == "False\n"
        (small_disk / "more").unlink()
        out, err = running.communicate("go\n", timeout=60)
        assert out == "True\n"
        assert running.returncode == 0, err
    assert state(run_dir) == "completed"
    import xarray as xr

    with xr.open_zarr(run_dir / "series.zarr", group="metrics/run", consolidated=False) as ds:
        assert sorted(ds["x"].values) == list(range(20000))


@pytest.mark.root
def test_a_disk_that_stays_full_keeps_the_status_and_says_what_to_do(tmp_path: Path, small_disk: Path) -> None:
    with start("run", "--dir", str(small_disk / "runs"), "--", "bash", "-c", "echo ready; read line; exit 7",
               cwd=tmp_path, stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        fill(small_disk)
        _, err = running.communicate("\n", timeout=90)
    assert running.returncode == 7
    assert "Traceback" not in err
    assert "yprov stitch" in err
    (small_disk / "more").unlink()
    (run_dir,) = (small_disk / "runs").iterdir()
    done = subprocess.run([*YPROV, "stitch", str(run_dir)], capture_output=True, text=True, env=environment(),
                          check=False)
    assert done.returncode == 0, done.stderr
    assert state(run_dir) == "failed"
    nothing_left(run_dir)


@pytest.mark.parametrize("options", ["", "--experiment x --dir ../runs", "--dir /tmp"])
def test_a_directory_that_is_gone_is_said(options: str, tmp_path: Path) -> None:
    program = f"mkdir d && cd d && rmdir ../d && {' '.join(YPROV)} run {options} -- touch {tmp_path}/ran"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          check=False)
    assert done.returncode == 125
    assert done.stderr == "error: the current directory does not exist any more\nhint: cd to one that exists\n"
    assert list(tmp_path.iterdir()) == []


def test_too_few_files_for_a_run_are_said_and_nothing_is_left(tmp_path: Path) -> None:
    program = f"ulimit -n 12; {' '.join(YPROV)} run -- true"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True,
                          env=environment(TMPDIR=str(tmp_path)), check=False)
    assert done.returncode == 125
    assert "only 12 open files" in done.stderr
    assert "hint: ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("yprov-*"))
