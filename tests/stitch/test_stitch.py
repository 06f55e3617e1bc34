"""The stitch as a whole: killed on the way it leaves a good archive, and nothing but the run decides the bytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import yprovd.stitch
from tests.archives import make_run
from yprovd.stitch import stitch
from yprovd.stitch.validate import validate_run


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("kept"), keep_spool=True).path


@pytest.fixture
def run_dir(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / kept.name)
    return tmp_path / kept.name


class Killed(BaseException):
    pass


def test_a_stitch_killed_while_it_removes_the_spool_leaves_the_archive(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run_dir / "prov.json").read_bytes()
    really = shutil.rmtree

    def half(path: Path, **more: Any) -> None:
        files = sorted(Path(path).rglob("*.spool"))
        if not files:
            return really(path, **more)
        files[0].unlink()
        raise Killed

    monkeypatch.setattr(yprovd.stitch.shutil, "rmtree", half)
    with pytest.raises(Killed):
        stitch(run_dir, keep_spool=False)
    monkeypatch.undo()
    assert not stitch(run_dir, keep_spool=False).made
    assert (run_dir / "prov.json").read_bytes() == before
    assert not [p.name for p in run_dir.iterdir() if "spool" in p.name]
    assert validate_run(run_dir) == []


def test_a_spool_that_is_going_away_is_not_taken_for_the_series(run_dir: Path) -> None:
    """Neither is anything else that moved aside: only what bears the series' name is put back."""
    stitch(run_dir, keep_spool=False)
    shutil.rmtree(run_dir / "series.zarr")
    for name in (".spool.7.tmp", ".spool.7.old.tmp"):
        (run_dir / name).mkdir()
    stitch(run_dir)
    assert not (run_dir / "series.zarr").exists()
    (run_dir / ".series.zarr.7.old.tmp").mkdir()
    stitch(run_dir)
    assert (run_dir / "series.zarr").is_dir()


def test_the_names_of_the_archive_are_on_disk_before_the_spool_goes(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename, fsync = os.rename, yprovd.stitch._fsync

    def renamed(old: Path, new: Path) -> None:
        done.append(Path(old).name)
        rename(old, new)

    def synced(path: Path) -> None:
        done.append("synced" if path == run_dir else "")
        fsync(path)

    monkeypatch.setattr(yprovd.stitch.os, "rename", renamed)
    monkeypatch.setattr(yprovd.stitch, "_fsync", synced)
    stitch(run_dir, keep_spool=False)
    assert [d for d in done if d in ("synced", "spool")] == ["synced", "spool", "synced"]
