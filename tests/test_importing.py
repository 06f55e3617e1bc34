"""`yprov import`: which runs are found, what becomes of odd ones, what is refused, and what is left alone."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.imports import FIXTURES, attributes, copy_of, entities, import_one, known, logged, records
from tests.running import yprov
from yprov.imported import Columns, Notes, Rank, Series
from yprov.importing import import_runs
from yprov.importing_layouts import layout_of, rank_of
from yprov.importing_table import Table
from yprov.importing_values import number, plain, time_ns, typed, zone_of
from yprov.runs import all_runs
from yprovd.errors import YprovError
from yprovd.stitch.validate import validate_run

NEW, TEXT = "3.2.8/csv", "1.0.0/csv"


def hint_of(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(YprovError) as e:
        call()
    return str(e.value), e.value.hint


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def valid_or_refused(path: Path, tmp_path: Path) -> bool:
    """Whether importing it makes a valid archive, or is refused with a hint."""
    try:
        done = import_one(path, tmp_path)
    except YprovError as e:
        return bool(e.hint)
    return validate_run(done.directory) == []


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() + str(p.stat().st_mtime_ns)
            for p in sorted(folder.rglob("*")) if p.is_file()}


# finding and naming


def test_a_run_is_found_by_its_folder_and_by_the_ones_above_it(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    ids = {import_one(place, tmp_path, force=True).run_id for place in (home, home.parent, tmp_path / "original")}
    assert len(ids) == 1
    assert len(all_runs(tmp_path / "runs")) == 1


def test_the_same_run_is_imported_once_and_its_id_is_the_same_anywhere(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    first = import_one(home, tmp_path)
    assert first.made
    before = tree(first.directory)
    moved = Path(shutil.copytree(home, tmp_path / "elsewhere" / "x_7"))
    again = import_one(moved, tmp_path)
    assert (again.made, again.directory, again.run_id) == (False, first.directory, first.run_id)
    assert tree(first.directory) == before


def test_what_was_not_there_when_it_was_imported_is_told(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    (home / "metrics_GR1").rename(tmp_path / "away")
    first = import_one(home, tmp_path)
    assert import_one(home, tmp_path).notes == ()
    (tmp_path / "away").rename(home / "metrics_GR1")
    again = import_one(home, tmp_path)
    assert not again.made
    assert again.notes == (f"24 metrics were there when it was imported, and 48 are now: yprov import --force {home}",)
    made = import_one(home, tmp_path, force=True)
    assert (made.made, made.run_id, made.written.series) == (True, first.run_id, 48)
    assert import_one(home, tmp_path).notes == ()
    shutil.rmtree(home / "metrics_GR1")
    assert import_one(home, tmp_path).notes == ()  # the archive has more


def test_force_makes_it_again_with_the_same_bytes(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    first = import_one(home, tmp_path)
    document = (first.directory / "prov.json").read_bytes()
    (first.directory / "prov.json").write_bytes(b"{}")
    again = import_one(home, tmp_path, force=True)
    assert again.made
    assert again.directory == first.directory
    assert (again.directory / "prov.json").read_bytes() == document


def test_several_runs_are_listed_with_what_to_type(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    other = Path(shutil.copytree(FIXTURES / TEXT / "prov" / "démo_0", home.parent / "old_0"))
    message, hint = hint_of(lambda: import_one(home.parent, tmp_path))
    assert "holds 2 runs" in message
    assert f"`{home}` (démo, yProv4ML 3.x, 2 ranks)" in message
    assert f"`{other}` (démo, yProv4ML 1.x, 2 ranks)" in message
    assert "--all" in hint
    assert not list((tmp_path / "runs").iterdir())
    for force in (False, True):
        made = list(import_runs([home.parent], tmp_path / "runs", every=True, force=force))
        assert [d.source for d in made if d.made] == ["yProv4ML 3.x", "yProv4ML 1.x"]
        assert len(list((tmp_path / "runs").iterdir())) == 2


def test_one_run_that_cannot_be_imported_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    shutil.copytree(FIXTURES / TEXT / "prov" / "démo_0", home.parent / "old_0")
    place = import_one(home, tmp_path).directory
    (place / "prov.json").unlink()  # in its place lies what is no whole run
    failed: list[YprovError] = []
    made = list(import_runs([home.parent], tmp_path / "runs", every=True, failed=failed.append))
    assert [d.source for d in made] == ["yProv4ML 1.x"]
    assert "is no whole run" in str(failed[0])
    assert "--force" in failed[0].hint


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_is_the_same_whatever_is_imported_with_it(tmp_path: Path) -> None:
    odd = copy_of(NEW, tmp_path)  # "démo_0": of each of the others before it in one way or another
    (odd / "metrics_GR0" / "loss_TRAINING_None_GR0.csv").unlink()
    (odd / "prov_other_GR7_0.json").write_text("{")
    homes = [odd, *(Path(shutil.copytree(FIXTURES / release / "prov" / "démo_0", odd.parent / release[0]))
                    for release in (TEXT, "2.0.10/csv"))]
    alone = {done.directory: contents(done.directory) for done in (import_one(home, tmp_path) for home in homes)}
    assert len(alone) == 3
    together = list(import_runs([odd.parent], tmp_path / "runs", every=True, force=True))
    assert {done.directory: contents(done.directory) for done in together} == alone
    assert [any("is damaged" in note for note in done.notes) for done in together].count(True) == 1


def test_a_document_that_is_no_run_is_told_beside_the_runs_and_in_none_of_them(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    shutil.copytree(FIXTURES / TEXT / "prov" / "démo_0", home.parent / "old_0")
    (home.parent / "torn_0").mkdir()
    (home.parent / "torn_0" / "prov_torn_GR0_0.json").write_text('{"prefix": ')
    failed: list[YprovError] = []
    made = list(import_runs([home.parent], tmp_path / "runs", every=True, failed=failed.append))
    assert not [note for done in made for note in done.notes if "torn" in note]
    assert [str(e) for e in failed] == [
        f"`{home.parent}`: in `torn_0` `prov_torn_GR0_0.json` is damaged: it is not JSON"]
    with pytest.raises(YprovError, match="torn_0"):
        list(import_runs([home.parent], tmp_path / "runs", every=True))
    merged = scattered(tmp_path / "ranks")[0].parent
    (merged / "torn_0").mkdir()
    (merged / "torn_0" / "prov_torn_GR2_0.json").write_text("{")
    done = import_one(merged, tmp_path / "ranks", merge=True)  # it may be a rank of the one run
    assert any("`prov_torn_GR2_0.json` is damaged" in note for note in done.notes)


def test_the_name_and_the_directory_say_when_and_what_it_was(tmp_path: Path) -> None:
    done = import_one(copy_of(NEW, tmp_path), tmp_path, name="my run")
    assert done.directory.name == f"20251009T085320Z-my-run-{done.run_id[:8]}"
    assert attributes(done.directory)["prov:label"] == "my run"
    assert stat.S_IMODE(done.directory.stat().st_mode) == 0o700
    assert json.loads((done.directory / "run.json").read_text())["created_ns"] // 10**9 == known.T0


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', '{"prefix": {"other": "http://x/"}}', "[" * 100_000])
def test_a_folder_without_a_run_is_an_error_that_says_what_is_looked_for(tmp_path: Path, content: str) -> None:
    (tmp_path / "prov_x_GR0_0.json").write_text(content)
    message, hint = hint_of(lambda: import_one(tmp_path, tmp_path))
    assert "no run of yProv4ML" in message
    assert "prov_x_GR0_0.json" in message
    assert "prov_<experiment>_GR0_<n>.json" in hint


def test_a_run_of_ours_is_none_of_theirs(tmp_path: Path) -> None:
    done = import_one(copy_of(NEW, tmp_path), tmp_path)
    (done.directory / "artifacts").rename(tmp_path / "away")
    assert "no run of yProv4ML" in hint_of(lambda: import_one(done.directory, tmp_path))[0]


# ranks in folders of their own


def scattered(tmp_path: Path, change: Callable[[dict[str, Any]], None] = lambda document: None) -> tuple[Path, Path]:
    """The two ranks of a run in two folders, as they land when they start more than a second apart."""
    home = copy_of(NEW, tmp_path)
    other = home.with_name("démo_1")
    other.mkdir()
    for name in ("metrics_GR1", "artifacts_GR1", "prov_démo_GR1_0.json"):
        (home / name).rename(other / name.replace("GR1_0", "GR1_1"))

    def moved(document: dict[str, Any]) -> None:
        text = json.dumps(document, ensure_ascii=False).replace("mo_GR1_0", "mo_GR1_1").replace("mo_0/", "mo_1/")
        document.clear()
        document.update(json.loads(text))
        run = document["activity"]["démo_GR1_1"]
        run["yprov:experiment_dir"], run["yprov:run_id"] = "prov/démo_1", "1"
        change(document)

    edit(other / "prov_démo_GR1_1.json", moved)
    return home, other


def test_ranks_in_folders_of_their_own_become_one_run_when_asked(tmp_path: Path) -> None:
    home, other = scattered(tmp_path)
    message, hint = hint_of(lambda: import_one(home.parent, tmp_path))
    assert "rank 1" in message
    assert "--merge" in hint
    done = import_one(home.parent, tmp_path, merge=True, keep_spool=True)
    assert done.written.ranks == 2
    assert {key[0] for key in logged(done.directory)} == {0, 1}
    assert attributes(done.directory)["yp:importedFrom"] == f"{home}\n{other}"
    assert validate_run(done.directory) == []
    both = list(import_runs([other, home], tmp_path / "two", merge=True))
    assert [d.run_id for d in both] == [done.run_id]


def test_what_cannot_be_the_ranks_of_one_run_is_not_merged(tmp_path: Path) -> None:
    def later(document: dict[str, Any]) -> None:
        document["activity"]["démo_GR1_1"] |= {"prov:startedAtTime": "2025-10-10T00:00:00",
                                               "prov:endedAtTime": "2025-10-10T00:00:01"}

    home, _other = scattered(tmp_path, later)
    assert "had ended" in hint_of(lambda: import_one(home.parent, tmp_path, merge=True))[0]
    twin = Path(shutil.copytree(home, tmp_path / "twin"))
    assert "both have a rank 0" in hint_of(lambda: list(import_runs([home, twin], tmp_path / "runs", merge=True)))[0]
    edit(twin / "prov_démo_GR0_0.json", lambda d: d["activity"]["démo_GR0_0"].update(
        {"yprov:experiment_name": "other_GR0_0"}))
    assert "2 experiments" in hint_of(lambda: list(import_runs([home, twin], tmp_path / "runs", merge=True)))[0]


def test_two_documents_of_one_rank_in_a_folder_are_refused(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    shutil.copy(home / "prov_démo_GR0_0.json", home / "prov_démo_copy_GR0_0.json")
    message, hint = hint_of(lambda: import_one(home, tmp_path))
    assert "are both of rank 0" in message
    assert "move" in hint


def test_two_runs_in_one_folder_are_two_runs(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    text = (home / "prov_démo_GR0_0.json").read_text().replace("GR0_0\"", "GR0_5\"").replace(
        '"yprov:run_id": "0"', '"yprov:run_id": "5"')
    (home / "prov_démo_GR0_5.json").write_text(text)
    assert [d.written.ranks for d in import_runs([home], tmp_path / "runs", every=True)] == [2, 1]


# what is left alone


def test_originals_are_only_read_and_nothing_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_of("3.2.8/zarr", tmp_path)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("TMPDIR", str(cwd))
    before = tree(home)
    done = import_one(home, tmp_path)
    assert tree(home) == before
    assert not list(cwd.iterdir())
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [done.directory.name]
    assert sorted(p.name for p in done.directory.iterdir()) == [
        "artifacts", "prov.json", "ro-crate-metadata.json", "run.json", "series.zarr"]


def test_files_are_copied_when_asked_under_the_names_that_they_had(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    done = import_one(home, tmp_path, copy=True)
    for path in home.glob("artifacts_GR*/**/*"):
        if path.is_file():
            assert (done.directory / "artifacts" / path.relative_to(home)).read_bytes() == path.read_bytes()
    model = entities(done.directory, "model/")["lin.pt-GR0"]
    assert model["prov:location"] == "artifacts/artifacts_GR0/lin/lin.pt"
    assert model["yp:path"] == "prov/démo_0/artifacts_GR0/lin/lin.pt"
    assert validate_run(done.directory) == []


def test_a_path_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    secret = tmp_path / "secret.csv"
    secret.write_text("epoch,value,timestep\n0,42,1760000000100\n")
    (home / "metrics_GR0" / "loss_TRAINING_None_GR0.csv").unlink()
    (home / "metrics_GR0" / "loss_TRAINING_None_GR0.csv").symlink_to(secret)

    def lead_out(document: dict[str, Any]) -> None:
        document["entity"]["beat//TRAINING"]["dcterms:identifier"] = "prov/démo_0/../../secret.csv"
        document["entity"]["note.txt//TRAINING"]["dcterms:identifier"] = str(secret)
        document["entity"]["lin.pt//TRAINING"]["dcterms:identifier"] = f"prov/démo_0/{secret}/../../secret.csv"

    edit(home / "prov_démo_GR0_0.json", lead_out)
    done = import_one(home, tmp_path, copy=True, keep_spool=True)
    found = logged(done.directory)
    assert (0, "TRAINING", "loss") not in found
    assert (0, "TRAINING", "beat") not in found
    assert 42.0 not in {v for rows in found.values() for _s, v, _t in rows}
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    assert digest not in (done.directory / "prov.json").read_text()
    assert sum("is missing" in note for note in done.notes) == 2


def test_a_path_with_steps_back_in_it_names_no_copy(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    edit(home / "prov_démo_GR0_0.json", lambda d: d["entity"]["note.txt//TRAINING"].update(
        {"dcterms:identifier": "prov/démo_0/../démo_0/../démo_0/artifacts_GR0/note.txt"}))
    done = import_one(home, tmp_path, copy=True)
    assert not list((done.directory / "artifacts").rglob("artifacts_GR0/note.txt"))
    assert sorted(p.name for p in done.directory.iterdir()) == [
        "artifacts", "prov.json", "ro-crate-metadata.json", "run.json", "series.zarr"]


# zip files


def test_the_zipped_crate_of_a_run_is_read_like_its_folder(tmp_path: Path) -> None:
    crate = FIXTURES / NEW / "prov" / "démo_0.zip"
    done = import_one(crate, tmp_path, keep_spool=True)
    found = logged(done.directory)  # each rank zips what is its own, the last one stays
    assert found[1, "TRAINING", "beat"] == [(0, 10.0, found[1, "TRAINING", "beat"][0][2]),
                                            *found[1, "TRAINING", "beat"][1:]]
    assert [v for _s, v, _t in found[1, "TRAINING", "beat"]] == [10.0, 20.0, 31.0]
    assert attributes(done.directory)["yp:importedFrom"] == f"{crate}/prov/démo_0"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [done.directory.name]
    assert entities(done.directory, "model/")["lin.pt"]["yp:sizeBytes"] == 1861


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_a_zip_with_a_name_that_leads_out_is_refused_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(FIXTURES / NEW / "prov" / "démo_0" / "prov_démo_GR0_0.json", "prov_démo_GR0_0.json")
        archive.writestr(name, "evil")
    assert "outside" in hint_of(lambda: import_one(path, tmp_path))[0]
    assert not list(tmp_path.rglob("evil*"))
    assert not list((tmp_path / "runs").iterdir())


def test_links_in_a_zip_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(FIXTURES / NEW / "prov" / "démo_0" / "prov_démo_GR0_0.json", "prov_démo_GR0_0.json")
        link = zipfile.ZipInfo("metrics_GR0/loss_TRAINING_None_GR0.csv")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    done = import_one(path, tmp_path)
    assert any("`TRAINING/loss` is missing" in note for note in done.notes)


@pytest.mark.parametrize("cut", [10, 2000, 20_000])
def test_a_damaged_zip_is_an_error(tmp_path: Path, cut: int) -> None:
    data = bytearray((FIXTURES / NEW / "prov" / "démo_0.zip").read_bytes())
    data[cut:cut + 8] = b"\xff" * 8
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    assert valid_or_refused(path, tmp_path)


# partial and damaged runs


def test_a_missing_metric_file_is_a_note_and_the_rest_is_imported(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    (home / "metrics_GR0" / "loss_TRAINING_None_GR0.csv").unlink()
    done = import_one(home, tmp_path, keep_spool=True)
    assert any("rank 0: the file of the metric `TRAINING/loss` is missing" in note for note in done.notes)
    found = logged(done.directory)
    assert (0, "TRAINING", "loss") not in found
    assert len(found[1, "TRAINING", "loss"]) == 5
    assert records(done.directory, "activity")["monitoring"]["yp:noteCount"] == len(done.notes)
    assert "is missing" in records(done.directory, "activity")["monitoring"]["yp:notes"]


def test_lines_that_are_no_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    (home / "metrics_GR0" / "loss_TRAINING_None_GR0.csv").write_text(
        "epoch;value;timestep\n0;0.5;1760000000100\n1;np.float64(0.98);1760000000110\n2;[1; 2];1760000000120\n"
        "garbage\n3;0.125\n\nx;0.25;1760000000130\n5;1e400;1760000000140\n6;tensor(0.75);1760000000150\n7;0.0")
    done = import_one(home, tmp_path, keep_spool=True)
    rows = logged(done.directory)[0, "TRAINING", "loss"]
    assert [(s, None if v != v else v) for s, v, _t in rows] == [
        (0, 0.5), (1, 0.98), (2, None), (None, 0.25), (5, float("inf")), (6, 0.75)]
    notes = "\n".join(done.notes)
    assert "3 lines of metric files were no rows of three" in notes
    assert "1 values are no numbers and are stored as NaN: `TRAINING/loss`" in notes
    assert "1 steps or times are no whole numbers" in notes


@pytest.mark.parametrize("release", ["3.2.8/nc", "3.2.8/zarr"])
def test_a_damaged_metric_file_is_a_note(tmp_path: Path, release: str) -> None:
    home = copy_of(release, tmp_path)
    suffix = release.partition("/")[2]
    path = home / "metrics_GR0" / f"loss_TRAINING_None_GR0.{suffix}"
    if suffix == "nc":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        (path / "values" / "zarr.json").write_text("{}")
        (home / "metrics_GR0" / "beat_TRAINING_None_GR0.zarr" / "timestamps" / "c" / "0").write_bytes(b"\0" * 40)
    done = import_one(home, tmp_path, keep_spool=True)
    assert any("`TRAINING/loss` could not be read" in note for note in done.notes)
    assert len(logged(done.directory)[1, "TRAINING", "loss"]) == 5
    assert validate_run(done.directory) == []


def test_what_was_never_written_into_a_netcdf_file_is_nan(tmp_path: Path) -> None:
    home = copy_of("3.2.8/nc", tmp_path)
    with h5py.File(home / "metrics_GR0" / "loss_TRAINING_None_GR0.nc", "r+") as file:
        file["values"][2] = np.float32(9.969209968386869e36)  # NC_FILL_FLOAT: killed between two columns
    done = import_one(home, tmp_path, keep_spool=True)
    values = [v for _s, v, _t in logged(done.directory)[0, "TRAINING", "loss"]]
    assert np.isnan(values[2])
    assert np.isfinite(values).sum() == 4


def test_columns_of_different_lengths_are_read_as_far_as_all_go(tmp_path: Path) -> None:
    home = copy_of("3.2.8/zarr", tmp_path)
    group = zarr.open_group(home / "metrics_GR0" / "loss_TRAINING_None_GR0.zarr", mode="a")
    group["epochs"].append(np.array([9], dtype="i4"))
    group["values"].append(np.array([9.0], dtype="f4"))  # killed between two appends
    done = import_one(home, tmp_path, keep_spool=True)
    assert [s for s, _v, _t in logged(done.directory)[0, "TRAINING", "loss"]] == [0, 1, 2, 3, 4]
    assert any("lack their step, value or time" in note for note in done.notes)


def test_a_rank_that_was_killed_leaves_its_metrics_and_the_run_is_incomplete(tmp_path: Path) -> None:
    home = copy_of("2.0.10/csv", tmp_path)
    (home / "prov_démo_GR1_0.json").unlink()
    done = import_one(home, tmp_path, keep_spool=True)
    assert done.state == "incomplete"
    assert any("rank 1 left no document" in note for note in done.notes)
    found = logged(done.directory)
    assert [v for _s, v, _t in found[1, "TRAINING", "précision"]] == [0.125 * s + 1 for s in range(5)]
    assert [v for _s, v, _t in found[1, None, "plain"]] == [1.25]
    assert attributes(done.directory)["yp:processesWithoutGoodbye"] == 1
    assert validate_run(done.directory) == []


def renamed(home: Path, rank: int, to: int) -> None:
    """The files of a rank are those of another one."""
    for path in [p for p in home.iterdir() if f"_GR{rank}" in p.name]:
        for inner in sorted(path.glob("*") if path.is_dir() else ()):
            inner.rename(inner.with_name(inner.name.replace(f"_GR{rank}", f"_GR{to}")))
        if path.is_file():
            path.write_text(path.read_text().replace(f"_GR{rank}", f"_GR{to}"))
        path.rename(path.with_name(path.name.replace(f"_GR{rank}", f"_GR{to}")))


@pytest.mark.parametrize(("places", "told"), [
    ((0, 3), "ranks 1 to 2"), ((0, 2), "rank 1"), ((1, 3), "ranks 0, 2"), ((0, 999_999_999), "ranks 1 to 999999998")])
def test_ranks_of_which_there_is_nothing_are_told_and_the_run_is_incomplete(
    tmp_path: Path, places: tuple[int, int], told: str
) -> None:
    home = copy_of(NEW, tmp_path)
    for rank in (1, 0):
        if places[rank] != rank:
            renamed(home, rank, places[rank])
    done = import_one(home, tmp_path, keep_spool=True)
    assert done.state == "incomplete"
    assert [note for note in done.notes if "nothing of" in note] == [f"there is nothing of {told}"]
    assert {key[0] for key in logged(done.directory)} == set(places)
    about = attributes(done.directory)
    assert about["yp:worldSize"] == places[1] + 1
    assert about["yp:processCount"] == 2
    assert validate_run(done.directory) == []


@pytest.mark.parametrize(("release", "name"), [("3.2.8/nc", "loss"), ("3.2.8/zarr", "loss"),
                                               ("3.2.8/csv", "loss_TRAINING_None"), ("1.0.0/csv", "loss")])
def test_a_run_of_which_every_rank_was_killed_has_its_metrics(tmp_path: Path, release: str, name: str) -> None:
    home = copy_of(release, tmp_path)
    for path in home.glob("prov*.json"):
        path.unlink()
    done = import_one(home, tmp_path, keep_spool=True)
    assert done.state == "incomplete"
    rows = logged(done.directory)[0, None if "_" in name else "TRAINING", name]
    assert [s for s, _v, _t in rows] == [0, 1, 2, 3, 4]
    about = attributes(done.directory)
    assert about["yprov:experiment_name"] == known.EXPERIMENT
    assert about["prov:startTime"].startswith("2025-10-09T08:53:20")
    assert validate_run(done.directory) == []


def test_a_damaged_document_beside_a_whole_one_is_a_note(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    (home / "prov_démo_GR1_0.json").write_text('{"prefix": {')
    done = import_one(home, tmp_path)
    assert any("`prov_démo_GR1_0.json` is damaged: it is not JSON" in note for note in done.notes)
    assert any("rank 1 left no document" in note for note in done.notes)
    assert done.state == "incomplete"


def test_a_size_that_is_not_what_the_document_says_is_a_note(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    with open(home / "artifacts_GR0" / "note.txt", "a") as f:
        f.write("more")
    assert any("has 21 bytes; its document says 17" in note for note in import_one(home, tmp_path).notes)


def test_the_time_zone_may_be_told_where_nothing_shows_it(tmp_path: Path) -> None:
    home = copy_of("3.2.4/nc", tmp_path)
    done = import_one(home, tmp_path, time_zone="+02:00")
    assert attributes(done.directory)["prov:startTime"].startswith("2025-10-09T08:53:20")
    assert not any("time zone" in note for note in done.notes)
    assert "no time zone" in hint_of(lambda: import_one(home, tmp_path, time_zone="Rome"))[0]


def test_a_time_stamp_far_from_the_run_stays_and_does_not_stretch_its_context(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    (home / "metrics_GR0" / "loss_VALIDATION_None_GR0.csv").write_text(
        "epoch,value,timestep\n0,2.5,1760000000140\n4,0.75,1900000000000\n5,0.5,1760000000\n")
    done = import_one(home, tmp_path, keep_spool=True)
    assert logged(done.directory)[0, "VALIDATION", "loss"] == [
        (5, 0.5, 1760000000150),  # seconds are no milliseconds: as if nothing was told
        (0, 2.5, 1760000000140), (4, 0.75, 1900000000000)]
    assert records(done.directory, "activity")["ctx/VALIDATION"]["prov:endTime"].startswith("2025-10-09T08:53:20.3")
    assert any("1 values have no time of their own: `VALIDATION/loss`" in note for note in done.notes)


def test_values_without_times_share_the_row_of_their_turn() -> None:
    def columns(*values: float) -> Columns:
        return Columns(np.zeros(len(values), np.int64), np.array(values), np.zeros(len(values), np.int64))

    series = [Series("a", None, "", 7, lambda notes: columns(1, 2, 3)),
              Series("b", None, "", 8, lambda notes: columns(4, 5))]
    rank = Rank(0, "key", begin_ns=5, end_ns=9, series=series)
    (rows,) = Table(rank, Notes(), lambda stage: None).rows()
    assert [(name, value, t) for t, name, value, *_rest in rows] == [
        ("a", 1, 7), ("b", 4, 8), ("a", 2, 7), ("b", 5, 8), ("a", 3, 7)]


def test_what_is_too_large_for_a_record_is_left_out_and_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yprovd.wire.MAX_PAYLOAD", 30_000)
    home = copy_of(NEW, tmp_path)
    edit(home / "prov_démo_GR0_0.json", lambda d: d["entity"]["optimizer//démo_GR0_0"].update(
        {"prov:value": "x" * 40_000}))
    done = import_one(home, tmp_path)
    assert "rank 0: one thing is too large for a record and is left out" in done.notes
    assert entities(done.directory, "param/")["optimizer"]["prov:value"] == "adam"  # rank 1's
    assert attributes(done.directory)["yp:framesLost"] == 0


@pytest.mark.parametrize(("told", "made"), [("2025-10-09 08:53:20.100000", "2025-10-09T08:53:20.1"),
                                            ("2025-10-09 03:53:20.100000", "2025-10-09T08:53:20.27")])
def test_a_file_of_1_x_with_a_time_outside_of_the_run_was_made_by_its_end(
    tmp_path: Path, told: str, made: str
) -> None:
    home = copy_of(TEXT, tmp_path)
    model = "prov/démo_0/artifacts/lin/lin_0.pth"
    for rank in (0, 1):  # local time, of a zone that is nowhere named
        edit(home / f"provgraph_démo_GR{rank}.json", lambda d: d["entity"][model][0].update(
            {"prov-ml:creation_timestamp": told}))
    done = import_one(home, tmp_path)
    times = [r["prov:time"] for r in records(done.directory, "wasGeneratedBy").values()
             if str(r["prov:entity"]).startswith("run:model/")]
    assert len(times) == 2
    assert all(t.startswith(made) for t in times)


def test_names_that_no_file_or_syntax_likes_come_over(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)
    odd = "a b/ü:\"<&>\\\ud800\0\n"

    def rename(document: dict[str, Any]) -> None:
        document["entity"]["loss//TRAINING"]["prov:label"] = odd
        document["entity"]["lr//démo_GR0_0"]["prov:label"] = odd
        document["entity"]["lin.pt//TRAINING"]["prov:label"] = odd
        document["activity"]["démo_GR0_0"]["yprov:host_name"] = odd
        document["agent"] = {odd: {}}

    edit(home / "prov_démo_GR0_0.json", rename)
    done = import_one(home, tmp_path, keep_spool=True)
    assert [v for _s, v, _t in logged(done.directory)[0, "TRAINING", odd]][:2] == [0.9, 0.5]
    assert validate_run(done.directory) == []


def test_a_parameter_that_was_logged_twice_has_its_last_value(tmp_path: Path) -> None:
    home = copy_of(NEW, tmp_path)

    def twice(document: dict[str, Any]) -> None:
        record = document["entity"]["lr//démo_GR0_0"]
        document["entity"]["lr//démo_GR0_0"] = [record, {**record, "prov:value": "0.5"}]
        del document["entity"]["seed//démo_GR0_0"]

    edit(home / "prov_démo_GR0_0.json", twice)
    shutil.rmtree(home / "metrics_GR1")
    (home / "prov_démo_GR1_0.json").unlink()
    found = entities(import_one(home, tmp_path).directory, "param/")["lr"]
    assert (found["prov:value"], found["yp:values"]) == (0.5, 2)


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[Any], Any]:
    """Something else in the place of one value of a document, anywhere in it."""
    path = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    other = draw(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]),
                           st.just({}), st.just(["a", 1]),
                           st.sampled_from([{"$": value, "type": f"xsd:{kind}"} for kind in ("int", "double")
                                            for value in ("x", float("inf"), float("nan"), 10**400, [1])]),
                           st.sampled_from(["1e400", "-1", "2025-13-40", "0001-01-01T00:00:00", "9" * 400, "../.."])))

    def change(value: Any) -> Any:
        at = value
        for i, step in enumerate(path):
            if not isinstance(at, dict | list) or not at:
                break
            key = list(at)[step % len(at)] if isinstance(at, dict) else step % len(at)
            if i == len(path) - 1 or not isinstance(at[key], dict | list) or not at[key]:
                at[key] = copy.deepcopy(other)
                break
            at = at[key]
        return value

    return change


@pytest.mark.parametrize("release", [NEW, "2.0.10/csv", TEXT])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mutations(), min_size=1, max_size=4))
def test_whatever_stands_in_a_document_the_archive_is_valid_or_the_error_has_a_hint(
    release: str, tmp_path: Path, changes: list[Callable[[Any], Any]]
) -> None:
    shutil.rmtree(tmp_path / "original", ignore_errors=True)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    home = copy_of(release, tmp_path)
    for path in home.glob("prov*.json"):
        document = json.loads(path.read_text())
        for change in changes:
            change(document)
        path.write_text(json.dumps(document))
    assert valid_or_refused(home, tmp_path)


@pytest.mark.parametrize("release", [NEW, "2.0.10/csv", TEXT])
@settings(max_examples=150, deadline=None)
@given(changes=st.lists(mutations(), min_size=1, max_size=6))
def test_no_document_is_too_odd_to_be_read(release: str, changes: list[Callable[[Any], Any]]) -> None:
    home = FIXTURES / release / "prov" / "démo_0"
    document = json.loads(next(home.glob("prov*GR0*.json")).read_text())
    for change in changes:
        change(document)
    if layout := layout_of(document):
        notes = Notes()
        rank = rank_of(document, layout, home, "key", 0, notes)
        assert 0 <= rank.rank < 2**31
        assert all(isinstance(t, int) for t in (rank.begin_ns, rank.end_ns))
        for series in rank.series:
            columns = series.read(notes)
            assert len({len(c) for c in columns}) == 1


# values and times


@given(st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False)))
def test_a_number_that_was_written_as_text_is_that_number_again(value: float | bool) -> None:
    again = typed(str(value))
    assert type(again) is type(value)
    assert again == value


@given(st.text())
def test_a_text_is_never_read_as_anything_that_is_written_otherwise(text: str) -> None:
    assert str(typed(text)) == text


@pytest.mark.parametrize("text", ["007", "1_000", " 1", "1e3", "0x10", "true", "None", "1.", "+1", "٣", "1" * 5000])
def test_a_text_that_only_looks_like_a_number_stays_a_text(text: str) -> None:
    assert typed(text) == text
    assert isinstance(typed(text), str)


@pytest.mark.parametrize(("text", "value"), [
    ("np.float64(0.98)", 0.98), ("np.int64(-3)", -3.0), ("tensor(0.25, device='cuda:0')", 0.25), ("True", 1.0),
    ("tensor([0.5])", 0.5), ("-inf", float("-inf")), ("1e-7", 1e-7), ("abc", None), ("[1, 2]", None)])
def test_values_of_metrics_are_read_however_python_wrote_them(text: str, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(("value", "kind", "read"), [
    ("5", "int", 5), (5.0, "int", 5), ("0.5", "double", 0.5), (10**400, "int", 10**400),
    ("1e999", "double", float("inf")), (float("inf"), "int", float("inf")), (10**400, "double", 10**400),
    ("x", "int", "x"), ([1], "double", [1])], ids=range(9))
def test_a_typed_literal_is_of_its_type_where_that_can_hold_it(value: Any, kind: str, read: Any) -> None:
    found = plain({"$": value, "type": f"xsd:{kind}"})
    assert (found, type(found)) == (read, type(read))


def test_literals_that_their_types_cannot_hold_are_imported(tmp_path: Path) -> None:
    home = copy_of("2.0.10/csv", tmp_path)
    odd = {"a": {"$": float("inf"), "type": "xsd:int"}, "b": {"$": 10**400, "type": "xsd:double"}}
    edit(home / "prov_démo_GR0_0.json", lambda d: next(
        record for name, record in d["activity"].items() if name.endswith("Context.TRAINING")).update(odd))
    done = import_one(home, tmp_path)
    found = entities(done.directory, "param/")
    assert found["TRAINING/a"]["prov:value"] == float("inf")
    assert int(found["TRAINING/b"]["prov:value"]) == 10**400
    assert validate_run(done.directory) == []


@pytest.mark.parametrize("text", ["None", "", " ", "nan"])
def test_no_value_is_nan(text: str) -> None:
    found = number(text)
    assert found is not None
    assert found != found


@pytest.mark.parametrize(("text", "zone", "seconds"), [
    ("2025-10-09T08:53:20", 0, 1_760_000_000), ("2025-10-09T10:53:20", 7200, 1_760_000_000),
    ("2025-10-09T10:53:20+02:00", 0, 1_760_000_000), ("1760000000.5", 3600, 1_760_000_000.5), ("never", 0, 0),
    ("0", 0, 0), ("1e300", 0, 0), ("nan", 0, 0), ("0001-01-01T00:00:00", 0, 0), ("9999-12-31T23:59:59", 0, 0)])
def test_times_are_read_in_their_zone(text: str, zone: int, seconds: float) -> None:
    assert time_ns(text, zone) == round(seconds * 10**9)


@pytest.mark.parametrize(("text", "seconds"), [
    ("CEST+0200", 7200), ("UTC+0000", 0), ("-03:30", -12_600), ("UTC", 0), ("Rome", None), (None, None),
    ("+9999", None), ("+23:59", 86_340), ("-23:59", -86_340), ("+24:00", None), ("-24:00", None)])
def test_zones_are_read_as_they_are_named(text: str | None, seconds: int | None) -> None:
    assert zone_of(text) == seconds


# the command


@pytest.fixture
def prov(tmp_path: Path) -> Iterator[Path]:
    yield copy_of(NEW, tmp_path).parent
    assert not list(tmp_path.rglob(".import-*"))


def test_the_command_prints_the_run_and_notes_and_json(prov: Path, tmp_path: Path) -> None:
    done = yprov("import", str(prov), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "yProv4ML 3.x, 2 ranks, 48 series, 82 values" in done.stdout
    assert "note: 6 values were logged as none" in done.stderr
    again = yprov("import", str(prov), "--json", cwd=tmp_path)
    (row,) = json.loads(again.stdout)
    assert row["made"] is False
    assert Path(row["directory"]).parent == tmp_path / "yprov-runs"
    assert yprov("validate", "last", cwd=tmp_path).returncode == 0
    shown = json.loads(yprov("show", "last", "--json", cwd=tmp_path).stdout)
    assert shown["state"] == "completed"
    assert shown["params"]["limit"] == "inf"


@pytest.mark.parametrize("name", ["nothing-here", "a-file", "prov/démo_0/prov_démo_GR0_0.json"])
def test_a_wrong_path_is_an_error_with_a_hint_and_status_1(prov: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("x")
    shutil.copytree(prov, tmp_path / "prov")
    done = yprov("import", name, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="a directory that root may not write to")
def test_a_directory_that_cannot_be_written_is_an_error(prov: Path, tmp_path: Path) -> None:
    done = yprov("import", str(prov), "--dir", "/proc/nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot import into `/proc/nowhere`" in done.stderr
