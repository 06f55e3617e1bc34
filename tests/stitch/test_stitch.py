"""The stitch as a whole: killed on the way it leaves a good archive, and nothing but the run decides the bytes."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import yprovd.stitch
from tests.archives import make_run
from yprovd.errors import YprovError
from yprovd.stitch import contents, mask_logs, stitch
from yprovd.stitch.__main__ import main
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

    monkeypatch.setattr("shutil.rmtree", half)
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

    monkeypatch.setattr("os.rename", renamed)
    monkeypatch.setattr(yprovd.stitch, "_fsync", synced)
    stitch(run_dir, keep_spool=False)
    assert [d for d in done if d in ("synced", "spool")] == ["synced", "spool", "synced"]


SECRET = "ghp_" + "a1" * 18


def test_what_a_later_environment_calls_a_secret_is_none_of_the_run(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "completed")
    (run_dir / "logs/stdout.log").write_text(f"epoch 1 completed\n{SECRET}\n")
    stitch(run_dir, keep_spool=True)
    assert (run_dir / "logs/stdout.log").read_text() == f"epoch 1 completed\n{'*' * 40}\n"


def test_what_the_runs_own_environment_calls_a_secret_is_masked(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector and the launcher start the stitch so; the launcher may be dead, and have masked nothing."""
    monkeypatch.setenv("DB_PASSWORD", "a-known-value")
    monkeypatch.setattr("signal.pthread_sigmask", lambda how, mask: None)
    (run_dir / "logs/stdout.log").write_text("it is a-known-value\n")
    assert main([str(run_dir)]) == 0
    assert (run_dir / "logs/stdout.log").read_text() == f"it is {'*' * 13}\n"


@pytest.mark.parametrize(("looked_to", "masked"), [(50, False), (49, True), (51, True), (0, True)])
def test_a_log_of_which_all_is_done_is_left_alone(tmp_path: Path, looked_to: int, masked: bool) -> None:
    log = tmp_path / "logs/stdout.log"
    log.parent.mkdir()
    log.write_text(f"{SECRET} the end.\n")
    mask_logs(tmp_path, {"stdout.log": looked_to})
    assert log.read_text() == f"{'*' * 40 if masked else SECRET} the end.\n"


def test_a_stitch_reads_each_file_for_the_crate_and_once_more_to_check_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an artifact of 100 GB each time takes minutes."""
    really, read = contents.hashes, Counter[str]()

    def counted(path: str | Path, most: int | None = None) -> contents.Hashes:
        read[os.path.relpath(path, run_dir)] += 1
        return really(path, most)

    (run_dir / "artifacts/large.bin").write_bytes(b"x" * 1000)
    monkeypatch.setattr(contents, "hashes", counted)
    stitch(run_dir, keep_spool=False)
    assert set(read.values()) == {2}
    assert {"artifacts/large.bin", "prov.json", "series.zarr/zarr.json"} <= set(read)


def test_an_archive_that_does_not_pass_its_own_check_is_there_with_its_fault_and_its_spool(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read, and a later yprov can make a better one of the spool."""
    monkeypatch.setattr("yprovd.stitch.validate.validate_run", lambda path, **more: ["prov.json: a fault of ours"])
    for name in ("prov.json", "ro-crate-metadata.json"):
        (run_dir / name).unlink()
    with pytest.raises(YprovError, match=r"archive is made, and does not pass .* fault of ours; the spool is kept"):
        stitch(run_dir, keep_spool=False)
    monkeypatch.undo()
    assert list((run_dir / "spool").glob("*.spool"))
    assert validate_run(run_dir) == []
