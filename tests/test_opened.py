"""Files that nobody declares: a look at what the job's processes have open."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.running import attribute, document, only_run, yprov
from yprovd import opened
from yprovd.opened import OpenedFiles

ME = str(os.getpid())


def looked(watch: OpenedFiles, folder: Path) -> dict[str, str]:
    """{path below the folder: role} of what is new."""
    return {os.path.relpath(row["path"], folder): row["role"] for row in watch.look([ME], 5)
            if row["path"].startswith(str(folder))}


def test_what_is_open_is_an_input_or_an_output(tmp_path: Path) -> None:
    for name in ("in.csv", "both.db", "lib.so.3", "mod.py", "run/own.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    watch = OpenedFiles("/", str(tmp_path / "run"))
    os.mkfifo(tmp_path / "pipe")
    with (open(tmp_path / "in.csv") as read, open(tmp_path / "out.pt", "wb"), open(tmp_path / "both.db", "r+b"),
          open(tmp_path / "lib.so.3"), open(tmp_path / "mod.py"), open(tmp_path / "run/own.log"),
          open(os.open(tmp_path / "pipe", os.O_RDWR), "rb"), open("/dev/null"), open("/proc/self/stat")):
        assert looked(watch, tmp_path) == {"in.csv": "input", "out.pt": "output", "both.db": "output"}
        assert looked(watch, tmp_path) == {}
        read.close()
        with open(tmp_path / "in.csv", "a"):
            assert looked(watch, tmp_path) == {"in.csv": "output"}  # it is written now
    assert watch.look(["0", "999999999"], 5) == []  # gone


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MOST_FILES", 0)
    watch = OpenedFiles("/", "/nowhere")
    with open(tmp_path / "a", "w"):
        assert looked(watch, tmp_path) == {}
    assert watch.beyond >= 1


def test_a_run_that_asks_for_it_notes_them_and_what_is_declared_stays_declared(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("data")
    (tmp_path / "declared.csv").write_text("data")
    program = ("import time; a = open('in.csv'); b = open('declared.csv'); c = open('out.pt', 'w'); c.write('x'); "
               "c.flush(); time.sleep(3)")
    done = yprov("run", "-q", "--opened-files", "--output", "declared.csv", "--", sys.executable, "-c", program,
                 cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    doc = document(only_run(tmp_path))
    roles = {record["prov:entity"].removeprefix("run:"): record.get("prov:role")
             for kind in ("used", "wasGeneratedBy") for record in doc[kind].values()}
    assert (roles["input/in.csv"], roles["output/out.pt"]) == ("opened", "opened")
    assert roles["output/declared.csv"] == "output"
    assert "input/declared.csv" not in roles
    assert attribute(doc["entity"]["output/out.pt"], "sha256") is not None


def test_without_asking_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("data")
    program = "import time; a = open('in.csv'); time.sleep(0.8)"
    assert yprov("run", "-q", "--", sys.executable, "-c", program, cwd=tmp_path).returncode == 0
    assert not [e for e in document(only_run(tmp_path))["entity"] if e.startswith("input/")]
