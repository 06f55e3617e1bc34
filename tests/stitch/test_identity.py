"""The identifier of an archive's content: git's, the same in a copy and in a zip file, stated and checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stitch.golden.small import make_run_dir, small_attribution, small_record
from yprovd.stitch import CRATE_FILE
from yprovd.stitch.crate import NOT_LISTED, build_crate
from yprovd.stitch.identity import VERIFY, check_identity, content_id, content_id_of_zip, restate
from yprovd.stitch.validate import validate_run
from yprovd.swhid import stated_id

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and ".git" not in name.lower() and "git~" not in name.lower())


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    return make_run_dir(run)


def stated(run_dir: Path) -> str | None:
    return stated_id(json.loads((run_dir / CRATE_FILE).read_text()))


def verified(run_dir: Path) -> str:
    """What the documented command prints."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_COUNT": "1",
               "GIT_CONFIG_KEY_0": "core.protectNTFS", "GIT_CONFIG_VALUE_0": "false"}
    return subprocess.run(["bash", "-c", VERIFY], cwd=run_dir, env=environ, capture_output=True, text=True,
                          check=True).stdout.strip()


def test_crate_states_what_lies_there(run_dir: Path) -> None:
    assert stated(run_dir) == content_id(run_dir)
    assert check_identity(run_dir, ended=True) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_says_the_same_by_the_documented_command(run_dir: Path) -> None:
    (run_dir / "artifacts/run.sh").write_text("#!/bin/sh\n")
    (run_dir / "artifacts/run.sh").chmod(0o755)
    (run_dir / "artifacts/.gitignore").write_text("*\n")
    (run_dir / "artifacts/.gitattributes").write_text("* text eol=crlf\n")
    (run_dir / "artifacts/new\nline 100% 'x\".txt").write_bytes(b"a\r\nb\n")
    (run_dir / "artifacts/link").symlink_to("run.sh")
    for left_out in (*NOT_LISTED, ".series.zarr.7.tmp/zarr.json", "artifacts/.partial-1"):
        if not (run_dir / left_out).is_dir():
            (run_dir / left_out).parent.mkdir(exist_ok=True)
            (run_dir / left_out).write_text("x")
    assert verified(run_dir) == content_id(run_dir)
    assert sorted(p.name for p in run_dir.iterdir() if ".git" in p.name) == []


def test_readme_has_the_command_that_is_tested() -> None:
    assert VERIFY in (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=6))
def test_git_agrees_whatever_the_names(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("named") / "run"
    (folder / "artifacts").mkdir(parents=True)
    (folder / "series.zarr").mkdir()
    for name, data in files.items():
        (folder / "artifacts" / name).write_bytes(data)
        (folder / "series.zarr" / name).write_bytes(data)
    assert verified(folder) == content_id(folder)


def test_copy_without_modes_and_times_has_the_same(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "source/train.py").chmod(0o755)
    before = content_id(run_dir)
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    assert (copy / "source/train.py").stat().st_mode & 0o100 == 0
    assert content_id(copy) == before


@pytest.mark.parametrize("top", ["", "20260101T000000Z-resnet-0b7c1a52/"])
@pytest.mark.parametrize("packed", [True, False])
def test_zip_has_the_same(run_dir: Path, tmp_path: Path, top: str, packed: bool) -> None:
    path = tmp_path / "run.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(p for p in run_dir.rglob("*") if p.is_file()):
            name = file.relative_to(run_dir).as_posix()
            if not (packed and name.startswith("series.zarr/")):
                out.write(file, top + name)
        if packed:
            inner = tmp_path / "series.zarr.zip"
            with zipfile.ZipFile(inner, "w", zipfile.ZIP_STORED) as store:
                for file in sorted(p for p in (run_dir / "series.zarr").rglob("*") if p.is_file()):
                    store.write(file, file.relative_to(run_dir / "series.zarr").as_posix())
            out.write(inner, f"{top}series.zarr.zip", zipfile.ZIP_STORED)
        if top:
            out.writestr("beside/README", "not of the run")
    assert content_id_of_zip(path) == content_id(run_dir)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert content_id(tmp_path / "unpacked" / top) == content_id(run_dir)


def test_zip_without_a_run_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr("a", "b")
    with pytest.raises(ValueError, match=r"holds no prov\.json"):
        content_id_of_zip(tmp_path / "x.zip")


@pytest.mark.parametrize("change", ["content", "name", "more", "less", "chunk"])
def test_any_change_gives_another(run_dir: Path, change: str) -> None:
    before = content_id(run_dir)
    file = run_dir / "artifacts/1.pt"
    if change == "content":
        file.write_text("Weights")
    elif change == "name":
        file.rename(run_dir / "artifacts/2.pt")
    elif change == "more":
        (run_dir / "artifacts/empty").write_text("")
    elif change == "less":
        file.unlink()
    else:
        chunk = next(p for p in (run_dir / "series.zarr").rglob("*") if p.is_file())
        chunk.write_bytes(chunk.read_bytes() + b"x")
    assert content_id(run_dir) != before


@pytest.mark.parametrize("name", ["ro-crate-metadata.json", "logs/daemons.log", "spool/more.spool", ".x.tmp"])
def test_what_is_no_part_of_the_archive_does_not_count(run_dir: Path, name: str) -> None:
    before = content_id(run_dir)
    (run_dir / name).write_text("{}")
    assert content_id(run_dir) == before


def test_another_identifier_than_the_contents_is_found(run_dir: Path) -> None:
    crate = run_dir / CRATE_FILE
    said = str(stated(run_dir))
    crate.write_text(crate.read_text().replace(said, f"swh:1:dir:{'0' * 40}"))
    assert validate_run(run_dir) == [f"{CRATE_FILE}: states swh:1:dir:{'0' * 40}; what lies here is {said}"]


def test_archive_that_was_made_before_states_nothing(run_dir: Path) -> None:
    crate = run_dir / CRATE_FILE
    doc = json.loads(crate.read_text())
    root = next(e for e in doc["@graph"] if e["@id"] == "./")
    root["identifier"] = root["identifier"][0]
    crate.write_text(json.dumps(doc))
    assert stated(run_dir) is None
    assert check_identity(run_dir, ended=True) == []


def test_log_that_grew_after_the_archive_is_as_it_was(run_dir: Path) -> None:
    with open(run_dir / "logs/stdout.log", "a") as f:
        f.write("more\n")
    assert check_identity(run_dir, ended=False) == []
    assert check_identity(run_dir, ended=True) != []
    (run_dir / "logs/stdout.log").write_text("other\nmore\n")
    assert check_identity(run_dir, ended=False) != []


def test_identifier_is_that_of_the_content_alone(run_dir: Path) -> None:
    """The crate made anew over the same files states the same."""
    before = stated(run_dir)
    (run_dir / CRATE_FILE).unlink()
    (run_dir / CRATE_FILE).write_bytes(build_crate(run_dir, small_record(), small_attribution()))
    assert stated(run_dir) == before


def test_changed_document_changes_the_statement_and_nothing_is_blessed(run_dir: Path) -> None:
    """As `yprov stitch --refresh-slurm` does it."""
    def restated() -> str | None:
        crate = json.loads((run_dir / CRATE_FILE).read_bytes())
        restate(run_dir, crate, {"prov.json": b"{}"}, ended=True)
        assert crate["@graph"][1]["identifier"][0].startswith("urn:uuid:")
        return stated_id(crate)

    before, after = stated(run_dir), restated()
    assert after != before
    kept = (run_dir / "prov.json").read_bytes()
    (run_dir / "prov.json").write_bytes(b"{}")
    assert content_id(run_dir) == after
    (run_dir / "prov.json").write_bytes(kept)
    (run_dir / "source/train.py").write_text("import os\n")
    assert restated() == before
