"""A run in a zip file, or unpacked from one: shown and truly checked, as the run in its directory is."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

import yprov
from tests.archives import Kept, make_run
from tests.running import environment
from tests.running import yprov as command
from yprov import zipped
from yprov.export import export
from yprov.zipped import read_file, unpack
from yprovd.errors import YprovError
from yprovd.stitch.crate import file_hash
from yprovd.stitch.validate import validate_run


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def packed(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with yprov.open_run(kept.path) as run:
        return export(run, "zip", str(tmp_path_factory.mktemp("packed") / "run.zip")).path


@pytest.fixture
def unpacked(packed: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(packed) as z:
        z.extractall(tmp_path / "run")
    return tmp_path / "run"


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                z.write(file, file.relative_to(folder))
    return path


# -- validate ----------------------------------------------------------------------------------------------------------


def test_an_exported_zip_is_valid_and_so_is_what_is_unpacked_from_it(packed: Path, unpacked: Path) -> None:
    done = command("validate", str(packed), cwd=unpacked)
    assert (done.returncode, done.stdout) == (0, f"{packed}: valid\n")
    assert validate_run(unpacked) == []


def test_a_zip_of_the_directory_by_another_program_is_valid(kept: Kept, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "others"), "zip", kept.path.parent, kept.path.name)
    done = command("validate", "others.zip", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"file": "others.zip", "valid": True, "problems": []}


def change_array(run: Path) -> None:
    """A value of a series, in a packed store that fits its checksum: only the statistics are then at fault."""
    store = run / "series.zarr.zip"
    with zipfile.ZipFile(store) as z:
        z.extractall(run / "series.zarr")
    array = zarr.open_group(run / "series.zarr", mode="r+")["host/cpu_utilization"]
    array[...] = np.asarray(array[...]) + 1
    with zipfile.ZipFile(store, "w") as z:
        for file in (run / "series.zarr").rglob("*"):
            if file.is_file():
                z.write(file, file.relative_to(run / "series.zarr"))
    shutil.rmtree(run / "series.zarr")
    crate = run / "ro-crate-metadata.json"
    doc = json.loads(crate.read_text())
    (entity,) = (e for e in doc["@graph"] if e["@id"] == "series.zarr.zip")
    size, entity["sha256"] = file_hash(store)
    entity["contentSize"] = str(size)
    crate.write_text(json.dumps(doc))


def flip(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 1
        (run / name).write_bytes(data)

    return change


class Fault(NamedTuple):
    make: Callable[[Path], Any]
    said: str


@pytest.mark.parametrize("fault", [
    Fault(change_array, "series.zarr: `host/cpu_utilization` has mean "),
    Fault(flip("source/train.py"), "the file `source/train.py` is not as it was: its sha256 differs"),
    Fault(flip("series.zarr.zip"), "the file `series.zarr.zip` is not as it was: its sha256 differs"),
    Fault(lambda run: (run / "series.zarr.zip").unlink(), "series.zarr: is missing"),
    Fault(lambda run: (run / "series.zarr.zip").write_bytes(b"no zip"), "series.zarr: cannot be checked: BadZipFile"),
    Fault(lambda run: (run / "added.txt").write_text(""), "the file `added.txt` is not listed"),
    Fault(lambda run: (run / "prov.json").write_text("{"), "prov.json: is not JSON"),
], ids=lambda f: f.said.partition(" is ")[0][:40])
def test_what_is_wrong_is_found_in_an_unpacked_zip_and_in_a_zip(
    fault: Fault, unpacked: Path, tmp_path: Path
) -> None:
    fault.make(unpacked)
    problems = validate_run(unpacked)
    assert any(fault.said in p for p in problems), problems
    again = pack(unpacked, tmp_path / "again.zip")
    (tmp_path / "anew").mkdir()
    assert unpack(again, tmp_path / "anew") == []
    assert validate_run(tmp_path / "anew") == problems


def test_a_zip_that_is_damaged_is_not_valid_and_what_it_lacks_is_named(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as z:
        info = z.getinfo("logs/stdout.log")
    data = bytearray(packed.read_bytes())
    for i in range(4):
        data[info.header_offset + 30 + len(info.filename) + i] ^= 0xFF
    (tmp_path / "run.zip").write_bytes(data)
    done = command("validate", "run.zip", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("logs/stdout.log: cannot be unpacked: ")
    assert "Traceback" not in done.stderr


def test_nothing_is_left_of_what_was_unpacked(packed: Path, tmp_path: Path) -> None:
    done = command("validate", str(packed), cwd=tmp_path, env=environment(TMPDIR=str(tmp_path)))
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.iterdir()) == []


def test_names_that_lead_elsewhere_and_names_that_stand_twice_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
        for name in ("prov.json", "../out.txt", "/out.txt", "a", "a/b"):
            z.writestr(name, name)
        with pytest.warns(UserWarning, match="Duplicate name"):
            z.writestr("a", "again")
    (tmp_path / "in").mkdir()
    assert unpack(tmp_path / "x.zip", tmp_path / "in") == [
        "../out.txt: lies outside of the run", "/out.txt: lies outside of the run",
        "a/b: cannot be unpacked: File exists", "a: stands twice in the zip file"]
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["a", "prov.json"]


def test_a_disk_without_room_is_said_before_it_is_full(packed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(zipped.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(YprovError, match=r"bytes are needed, 10 are free") as e:
        unpack(packed, tmp_path)
    assert e.value.hint.startswith("TMPDIR=")
    assert list(tmp_path.iterdir()) == []


# -- show --------------------------------------------------------------------------------------------------------------


def test_show_tells_of_a_zip_what_it_tells_of_the_run(kept: Kept, packed: Path, tmp_path: Path) -> None:
    ours, theirs = (json.loads(command("show", str(path), "--json", cwd=tmp_path).stdout)
                    for path in (packed, kept.path))
    assert ours == {**theirs, "directory": str(packed)}
    assert ours["content_id"].startswith("swh:1:dir:")
    lines = [command("show", str(path), cwd=tmp_path).stdout.splitlines() for path in (packed, kept.path)]
    assert lines[0] == [*lines[1][:-1], f"  run      {packed}"]


@pytest.mark.parametrize(("content", "said"), [
    (None, "error: cannot read `x.zip`: it is no zip file\nhint: a run is a directory, or what"),
    ({"other": ""}, "error: `x.zip` holds no prov.json\nhint: yprov export RUN --to zip"),
    ({"a/prov.json": "", "b/prov.json": ""}, "error: `x.zip` holds 2 runs\nhint:"),
    ({"prov.json": "{}"}, "error: `x.zip` holds no run.json of yprov\nhint: yprov validate x.zip"),
])
@pytest.mark.parametrize("words", [["show"], ["validate"]])
def test_a_zip_of_something_else_is_refused(
    words: list[str], content: dict[str, str] | None, said: str, tmp_path: Path
) -> None:
    if content is None:
        (tmp_path / "x.zip").write_text("no zip")
    else:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as z:
            for name, text in content.items():
                z.writestr(name, text)
    done = command(*words, "x.zip", cwd=tmp_path)
    assert done.returncode == 1
    if words == ["validate"] and content == {"prov.json": "{}"}:  # that is its list
        assert "ro-crate-metadata.json: is missing" in done.stdout
    else:
        assert said in done.stderr


@pytest.mark.parametrize("words", [["stitch"], ["push", "--to", "http://localhost:1"]])
def test_what_takes_no_zip_says_so(words: list[str], packed: Path, tmp_path: Path) -> None:
    shutil.copy(packed, tmp_path / "run.zip")
    done = command(words[0], "run.zip", *words[1:], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ("error: `run.zip` is a file, and this needs a run's directory\n"
                           "hint: unzip -d DIRECTORY run.zip\n")


def test_an_empty_name_is_no_run(tmp_path: Path) -> None:
    for words in (["show", ""], ["validate", ""], ["id", ""], ["export", "", "--to", "dot"], ["stitch", ""]):
        done = command(*words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr == "error: no run was named: the name is empty\nhint: yprov show last\n"


def test_a_file_of_a_zip_is_read_by_its_name(packed: Path) -> None:
    assert read_file(packed, "source/train.py") == b"print()\n"
    with pytest.raises(FileNotFoundError):
        read_file(packed, "nothing")
