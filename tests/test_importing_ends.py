"""How `yprov import` ends: whole, cut at any moment, or by a signal. What was there stays, and nothing else is left."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from tests.imports import copy_of, import_one
from tests.running import eventually, start
from yprov.importing_work import ended_by_signals, put_in_place, work_folder

NEW = "3.2.8/csv"


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def cut_at_rename(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, *, done: bool) -> None:
    """The n-th rename of the import is cut: before it is made, or (`done`) just after."""
    real, count = os.rename, iter(range(1, 100))

    def rename(source: Path, target: Path) -> None:
        now = next(count) == number
        if now and not done:
            raise error
        real(source, target)
        if now:
            raise error

    monkeypatch.setattr(os, "rename", rename)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_replacement_that_is_cut_leaves_the_one_run_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, done: bool
) -> None:
    old, runs = tmp_path / "run", tmp_path
    old.mkdir()
    (old / "prov.json").write_text("old")
    cut_at_rename(monkeypatch, number, error, done=done)

    def replace() -> None:
        with work_folder(runs) as work:
            (work / "made").mkdir()
            (work / "made" / "prov.json").write_text("new")
            put_in_place(work / "made", old, old, work)

    with pytest.raises(type(error)):
        replace()
    assert names(runs) == ["run"]
    assert (old / "prov.json").read_text() == ("new" if (number, done) >= (2, True) else "old")


@pytest.mark.parametrize("end", ["source", "target"])
def test_ctrl_c_during_force_keeps_the_run_that_was_imported_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    home = copy_of(NEW, tmp_path)
    first = import_one(home, tmp_path)
    real, cut = os.rename, iter([True])

    def rename(source: Path, target: Path) -> None:
        """Cut at the first rename out of the place of the runs, or into it."""
        if Path(source if end == "source" else target).parent == tmp_path / "runs" and next(cut, False):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        import_one(home, tmp_path, force=True)
    monkeypatch.undo()
    assert names(tmp_path / "runs") == [first.directory.name]
    assert not import_one(home, tmp_path).made


def test_what_a_killed_import_left_is_put_right_by_the_next_one(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    first = import_one(home, tmp_path)
    left = tmp_path / "runs" / ".import-killed"
    (left / "aside").mkdir(parents=True)
    (left / "lock").write_text(os.uname().nodename)
    first.directory.rename(left / "aside" / first.directory.name)
    assert import_one(home, tmp_path).directory == first.directory
    assert names(tmp_path / "runs") == [first.directory.name]
    assert not import_one(home, tmp_path).made


def test_the_folder_of_an_import_that_lives_or_of_another_host_stays(tmp_path: Path) -> None:
    for name, host in (("elsewhere", "another-host"), ("begun", ""), ("alive", os.uname().nodename)):
        (tmp_path / f".import-{name}" / "aside" / name).mkdir(parents=True)
        (tmp_path / f".import-{name}" / "lock").write_text(host)
    with open(tmp_path / ".import-alive" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with work_folder(tmp_path) as work, work_folder(tmp_path) as other:
            assert work.is_dir()
            assert other.is_dir()
    assert names(tmp_path) == [".import-alive", ".import-begun", ".import-elsewhere"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_import_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    home = copy_of(NEW, tmp_path)
    seen: list[list[str]] = []

    def progress(stage: str) -> None:
        if stage.startswith("reading rank 1"):
            seen.append(names(tmp_path / "runs"))
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as e, ended_by_signals():
        import_one(home, tmp_path, progress=progress)
    assert e.value.code == 128 + number
    assert len(seen[0]) == 1
    assert names(tmp_path / "runs") == []
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_cleans_up_at_sigterm(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    with open(home / "metrics_GR0" / "loss_TRAINING_None_GR0.csv", "a") as f:
        f.writelines(f"{i},{i / 7},{1760000000100 + i}\n" for i in range(200_000))
    process = start("import", str(home), cwd=tmp_path)
    try:
        eventually(lambda: list((tmp_path / "yprov-runs").glob(".import-*/lock")))
        process.terminate()
        _out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert names(tmp_path / "yprov-runs") == []
