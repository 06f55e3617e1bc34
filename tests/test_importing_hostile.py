"""`yprov import` of what nobody wrote by accident: files that are none, lead out, or claim to be huge."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.imports import FIXTURES, copy_of, import_one, logged
from yprov.imported import Notes
from yprov.importing import import_runs
from yprov.importing_series import attributes_of, read_file
from yprovd.errors import YprovError
from yprovd.stitch.validate import validate_run

NEW, LOSS = "3.2.8/csv", "loss_TRAINING_None_GR0"
ROW = "epoch,value,timestep\n0,42,1760000000100\n"


def noted(notes: Any, *words: str) -> bool:
    return any(all(word in note for word in words) for note in notes)


# files that are none


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_fifo_in_the_place_of_a_metric_holds_nothing_up(tmp_path: Path, rank: int, killed: bool) -> None:
    home = copy_of(NEW, tmp_path)
    path = home / f"metrics_GR{rank}" / f"loss_TRAINING_None_GR{rank}.csv"
    path.unlink()
    os.mkfifo(path)
    if killed:
        (home / f"prov_démo_GR{rank}_0.json").unlink()
    done = import_one(home, tmp_path)
    assert noted(done.notes, "loss", "could not be read", "no regular file")
    assert validate_run(done.directory) == []


def test_a_fifo_in_a_folder_of_zarr_holds_nothing_up(tmp_path: Path) -> None:
    home = copy_of("3.2.8/zarr", tmp_path)
    for name in ("loss_TRAINING_None_GR0.zarr/zarr.json", "beat_TRAINING_None_GR0.zarr/values/c/0"):
        path = home / "metrics_GR0" / name.replace("_None", "")
        path = path if path.exists() else home / "metrics_GR0" / name
        path.unlink()
        os.mkfifo(path)
    done = import_one(home, tmp_path)
    assert noted(done.notes, "`TRAINING/loss` could not be read", "`zarr.json` is no regular file")
    assert noted(done.notes, "`TRAINING/beat` could not be read", "`0` is no regular file")
    assert attributes_of(next((home / "metrics_GR0").glob("loss_TRAINING*"))) is None


def test_a_fifo_in_the_place_of_a_document_holds_nothing_up(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    (home / "prov_démo_GR1_0.json").unlink()
    os.mkfifo(home / "prov_démo_GR1_0.json")
    os.mkfifo(home / "notes.json")
    assert noted(import_one(home, tmp_path).notes, "`prov_démo_GR1_0.json` cannot be read", "no regular file")
    os.mkfifo(tmp_path / "crate.zip")
    with pytest.raises(YprovError, match="neither a folder nor a zip file"):
        import_one(tmp_path / "crate.zip", tmp_path)


@pytest.mark.parametrize("kind", ["csv", "zarr"])
def test_what_a_killed_rank_left_is_not_followed_out_of_the_folder(tmp_path: Path, kind: str) -> None:
    home = copy_of(f"3.2.8/{kind}", tmp_path)
    (home / "prov_démo_GR0_0.json").unlink()
    path = next((home / "metrics_GR0").glob("loss_TRAINING*"))
    path.rename(tmp_path / f"secret.{kind}")
    path.symlink_to(tmp_path / f"secret.{kind}")
    done = import_one(home, tmp_path, keep_spool=True)
    assert noted(done.notes, f"`metrics_GR0/{path.name}` leads out of its folder")
    assert not [key for key in logged(done.directory) if key[0] == 0 and "loss_TRAINING" in f"{key[2]}_{key[1]}"]


def test_a_link_within_a_folder_of_zarr_is_not_followed(tmp_path: Path) -> None:
    home = copy_of("3.2.8/zarr", tmp_path)
    chunk = next((home / "metrics_GR0").glob("loss_TRAINING*")) / "values" / "c" / "0"
    chunk.rename(tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    done = import_one(home, tmp_path, keep_spool=True)
    assert noted(done.notes, "`TRAINING/loss` could not be read", "no regular file")
    assert (0, "TRAINING", "loss") not in logged(done.directory)


def test_a_document_that_lies_elsewhere_is_not_read(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    path = home / "prov_démo_GR1_0.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    done = import_one(home, tmp_path)
    assert noted(done.notes, "`prov_démo_GR1_0.json` leads out of its folder")
    assert done.state == "incomplete"


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    path = home / "metrics_GR0" / f"{LOSS}.csv"
    path.rename(home / "moved.csv")
    path.symlink_to("../moved.csv")
    link = tmp_path / "link"
    link.symlink_to(home)
    done = import_one(link, tmp_path, keep_spool=True)
    assert len(logged(done.directory)[0, "TRAINING", "loss"]) == 5


# sizes


def claim(path: Path, rows: int, chunk: int) -> None:
    if path.suffix == ".nc":
        with h5py.File(path, "r+") as file:
            for array in file.values():
                array.resize((rows,))
        return
    for name in ("epochs", "values", "timestamps"):
        about = json.loads((path / name / "zarr.json").read_text())
        about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"] = [rows], [chunk]
        (path / name / "zarr.json").write_text(json.dumps(about))


@pytest.mark.parametrize(("kind", "rows", "chunk"), [
    ("zarr", 10**12, 1000), ("zarr", 5, 10**12), ("nc", 10**12, 1000)])
def test_a_metric_that_claims_more_values_than_its_bytes_hold_is_a_note(
    tmp_path: Path, kind: str, rows: int, chunk: int
) -> None:
    home = copy_of(f"3.2.8/{kind}", tmp_path)
    claim(next((home / "metrics_GR0").glob("loss_TRAINING*")), rows, chunk)
    done = import_one(home, tmp_path, keep_spool=True)
    assert noted(done.notes, "`TRAINING/loss` could not be read", "bytes and claims 1000000000000 values")
    assert len(logged(done.directory)[1, "TRAINING", "loss"]) == 5


def test_an_array_of_texts_of_a_gigabyte_is_a_note(tmp_path: Path) -> None:
    home = copy_of("3.2.8/zarr", tmp_path)
    path = next((home / "metrics_GR0").glob("loss_TRAINING*")) / "values" / "zarr.json"
    about = json.loads(path.read_text())
    about |= {"data_type": {"name": "null_terminated_bytes", "configuration": {"length_bytes": 10**9}},
              "codecs": [{"name": "bytes"}], "fill_value": ""}
    path.write_text(json.dumps(about))
    notes = Notes()
    read_file(path.parents[1], "`loss`", notes)
    assert noted(notes.lines(), "no list of numbers")


def test_too_little_memory_for_a_metric_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("yprov.importing_series._rows", full)
    path = tmp_path / "x.csv"
    path.write_text(ROW)
    notes = Notes()
    assert len(read_file(path, "`x`", notes).value) == 0
    assert noted(notes.lines(), "`x` could not be read: x.csv", "MemoryError")


def test_too_little_memory_for_a_run_keeps_no_other_from_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_of(NEW, tmp_path)
    shutil.copytree(FIXTURES / "1.0.0/csv" / "prov" / "démo_0", home.parent / "old_0")
    from yprov.importing_spool import write_spool

    def full(run_dir: Path, run: Any, *args: Any, **options: Any) -> Any:
        if run.layout == "3.x":
            raise MemoryError
        return write_spool(run_dir, run, *args, **options)

    monkeypatch.setattr("yprov.importing.write_spool", full)
    failed: list[YprovError] = []
    made = list(import_runs([home.parent], tmp_path / "runs", every=True, failed=failed.append))
    assert [done.source for done in made] == ["yProv4ML 1.x"]
    assert "not enough memory" in str(failed[0])
    with pytest.raises(YprovError, match="not enough memory"):
        import_one(home, tmp_path)


def test_a_document_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    os.truncate(home / "prov_démo_GR1_0.json", (1 << 30) + 1)  # a hole: it takes no room
    assert noted(import_one(home, tmp_path).notes, "`prov_démo_GR1_0.json` has 1073741825 bytes")


def test_a_zip_that_is_packed_tighter_than_any_run_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(FIXTURES / NEW / "prov" / "démo_0" / "prov_démo_GR0_0.json", "prov_démo_GR0_0.json")
        with archive.open("x.json", "w") as member:
            for _ in range(200):
                member.write(b" " * (1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(YprovError, match="no run is so dense") as e:
        import_one(path, tmp_path)
    assert "unpack it yourself" in e.value.hint
    assert not list((tmp_path / "runs").iterdir())
