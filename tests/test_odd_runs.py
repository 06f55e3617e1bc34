"""Runs that nobody would wish for, and readers that nobody thought of: one sentence, and the other runs are told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.archives import Kept, make_run
from tests.running import YPROV, environment, eventually, only_run, start
from tests.running import yprov as command

#: Root without what lets it read everything: the tests may be run as root, in a container.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def runs(kept: Kept, tmp_path: Path) -> Path:
    """Two runs in yprov-runs, of which the second is to suffer."""
    for name in ("20260101T000000Z-sound-00000001", "20260101T000001Z-odd-00000002"):
        shutil.copytree(kept.path, tmp_path / "yprov-runs" / name, ignore=shutil.ignore_patterns("series.zarr"))
    return tmp_path


def odd(runs: Path) -> Path:
    return runs / "yprov-runs/20260101T000001Z-odd-00000002"


def set_in(file: str, *keys: str, value: Any) -> Callable[[Path], None]:
    def change(run_dir: Path) -> None:
        doc = at = json.loads((run_dir / file).read_text())
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        (run_dir / file).write_text(json.dumps(doc))

    return change


@pytest.mark.parametrize("fault", [
    set_in("prov.json", "activity", "run:run", "yp:durationSeconds", value="long"),
    set_in("prov.json", "activity", "run:run", "yp:peakMemoryBytes", value=["much"]),
    set_in("prov.json", "activity", "run:run", "yp:durationSeconds", value={"$": "abc", "type": "xsd:double"}),
    set_in("prov.json", "entity", value=[]),
    set_in("run.json", "created_ns", value="today"),
    set_in("run.json", "settings", value=7),
    lambda run_dir: (run_dir / "prov.json").write_text("[]"),
], ids=["duration", "memory", "number", "entities", "created", "settings", "list"])
def test_one_damaged_run_is_named_and_the_others_are_listed(fault: Callable[[Path], object], runs: Path) -> None:
    fault(odd(runs))
    shown = command("show", "odd", cwd=runs)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("error: `yprov-runs/20260101T000001Z-odd-00000002") or (
        "20260101T000001Z-odd-00000002` is damaged" in shown.stderr)
    assert "damaged" in shown.stderr
    listed = command("ls", cwd=runs)
    assert [line.split()[0] for line in listed.stdout.splitlines()] in (
        ["RUN", "20260101T000000Z-sound-00000001"],
        ["RUN", "20260101T000000Z-sound-00000001", "20260101T000001Z-odd-00000002"])  # where `ls` has no such figure
    assert "Traceback" not in shown.stderr + listed.stderr


def closed(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UNPRIVILEGED, *YPROV, *words], cwd=cwd, env=environment(), text=True, capture_output=True,
                          check=False)


def test_runs_of_others_do_not_hide_ours(runs: Path) -> None:
    odd(runs).chmod(0)
    try:
        listed = closed("ls", cwd=runs)
        assert [line.split()[0] for line in listed.stdout.splitlines()] == ["RUN", "20260101T000000Z-sound-00000001"]
        assert listed.stderr == "note: 1 more may not be read by you\n"
        assert closed("show", "last", cwd=runs).stdout.splitlines()[-1].endswith("20260101T000000Z-sound-00000001")
        for given in ("odd", "yprov-runs/20260101T000001Z-odd-00000002"):
            for words in (["show", given], ["validate", given], ["export", given, "--to", "dot", "-o", "-"]):
                done = closed(*words, cwd=runs)
                assert (done.returncode, done.stdout) == (1, "")
                assert done.stderr.startswith(
                    "error: `yprov-runs/20260101T000001Z-odd-00000002` may not be read by you\nhint: its owner can")
    finally:
        odd(runs).chmod(0o700)


def test_a_run_that_goes_on_is_said_to(tmp_path: Path) -> None:
    with start("run", "-q", "--", "cat", cwd=tmp_path, stdin=subprocess.PIPE) as running:
        try:
            eventually(lambda: (tmp_path / "yprov-runs").is_dir() and list(tmp_path.glob("yprov-runs/*/spool/*.spool")))
            run_dir = only_run(tmp_path).relative_to(tmp_path)
            for words in (["validate"], ["id"], ["export", "last", "--to", "dot"]):
                done = command(*words, cwd=tmp_path)
                assert (done.returncode, done.stdout) == (1, "")
                assert done.stderr == (f"error: `{run_dir}` is still going\n"
                                       f"hint: yprov stitch --force {run_dir}\n"), words
            shown = command("show", cwd=tmp_path)
            assert (shown.returncode, shown.stderr) == (0, "")
            told = shown.stdout.splitlines()
            assert re.fullmatch(r"cat: running for \d+\.\d s", told[0])
            assert told[1] == "  command  cat"
            assert f"  node     1 node, {os.uname().nodename}" in told
            assert told[-1] == f"  run      {run_dir}"
            row = command("ls", cwd=tmp_path).stdout.splitlines()[1]
            assert re.search(r"  running +\d+\.\d s +1 ", row)
            assert command("stitch", "--force", "last", cwd=tmp_path).returncode == 0
            again = json.loads(command("show", "--json", cwd=tmp_path).stdout)
            assert (again["state"], again["reason"]) == ("running", None)
            assert again["running_s"] > again["duration_s"] > 0
            assert "(the figures are of the first " in command("show", cwd=tmp_path).stdout.splitlines()[0]
        finally:
            running.communicate("", timeout=60)


def test_names_of_several_lines_stay_on_one(runs: Path) -> None:
    doc = json.loads((odd(runs) / "prov.json").read_text())
    for record in doc["entity"].values():
        if record.get("yprov:source") == "script":
            record["prov:label"] = "a\nb\x1b[31m\u2028c"
    (odd(runs) / "prov.json").write_text(json.dumps(doc))
    listed, shown = command("ls", cwd=runs), command("show", "odd", cwd=runs)
    assert [line.split()[0] for line in listed.stdout.split("\n") if line] == [
        "RUN", "20260101T000000Z-sound-00000001", "20260101T000001Z-odd-00000002"]
    assert "a b [31m c" in listed.stdout
    assert "a b [31m c" in shown.stdout
    assert not {"\x1b", "\u2028"} & set(listed.stdout + shown.stdout)
    assert all(line.startswith("  ") for line in shown.stdout.split("\n")[1:] if line)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_a_name_that_the_terminal_does_not_have_is_written_in_another_way(encoding: str, runs: Path) -> None:
    set_in("run.json", "name", value="modèle ∑")(odd(runs))
    folder = os.fsdecode(b"yprov-\xff")
    os.rename(runs / "yprov-runs", runs / folder)
    for words in (["show", "odd"], ["ls"], ["validate", "odd"], ["export", "odd", "--to", "dot"]):
        done = subprocess.run([*YPROV, *words, "--dir", folder], cwd=runs, capture_output=True, check=False,
                              env=environment(PYTHONIOENCODING=encoding))
        assert b"Traceback" not in done.stderr, words
        assert done.stdout
    done = subprocess.run([*YPROV, "show", "odd", "--json", "--dir", folder], cwd=runs, capture_output=True, check=True,
                          env=environment(PYTHONIOENCODING=encoding))
    said = json.loads(done.stdout)  # JSON is UTF-8, whatever the terminal has
    assert (said["name"], said["directory"]) == ("modèle ∑", f"{folder}/20260101T000001Z-odd-00000002")


def test_a_file_of_the_same_name_does_not_hide_a_run(runs: Path) -> None:
    (runs / "odd").write_text("a program, say")
    done = command("show", "odd", cwd=runs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "  run      yprov-runs/20260101T000001Z-odd-00000002"
    done = command("show", "yprov-runs/20260101T000001Z-odd-00000002/prov.json", cwd=runs)
    assert done.returncode == 1
    assert "prov.json` is a file, and this needs a run's directory\nhint: yprov ls\n" in done.stderr
