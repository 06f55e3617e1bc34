"""One run from its command to its identifiers and its carbon, by the command line."""

from __future__ import annotations

import json
import re
import shutil
import uuid
import zipfile
from pathlib import Path

import pytest

from tests.running import only_run, yprov
from yprov.identifying import identify
from yprovd.errors import YprovError


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it, for which a grid was configured."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "config.yaml").write_text("carbon: {country: NO, pue: 1.1}\nlicence: MIT\n")
    done = yprov("run", "--config", "config.yaml", "--carbon", "DE", "--", "sh", "-c", "echo $YPROV_RUN_ID", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_has_one_uuid_everywhere(workplace: Path) -> None:
    run_dir = only_run(workplace)
    run_id = json.loads((run_dir / "run.json").read_text())["run_id"]
    urn = uuid.UUID(run_id).urn
    assert json.loads((run_dir / "prov.json").read_text())["prefix"]["run"] == f"{urn}#"
    crate = {e["@id"]: e for e in json.loads((run_dir / "ro-crate-metadata.json").read_text())["@graph"]}
    assert crate["./"]["identifier"][0] == urn
    assert f"#run-{run_id}" in crate
    assert (run_dir / "logs/stdout.log").read_text() == f"{run_id}\n"
    assert json.loads(yprov("show", "--json", cwd=workplace).stdout)["urn"] == urn
    assert yprov("id", cwd=workplace).stdout.splitlines()[0] == urn


def test_show_and_id_tell_what_the_archive_holds(workplace: Path) -> None:
    told = json.loads(yprov("show", "--json", cwd=workplace).stdout)["content_id"]
    assert re.fullmatch("swh:1:dir:[0-9a-f]{40}", told)
    assert told in yprov("show", cwd=workplace).stdout
    assert yprov("id", cwd=workplace).stdout.splitlines()[1] == told
    assert yprov("validate", cwd=workplace).returncode == 0


def test_id_reads_a_zip_and_finds_a_change(workplace: Path, tmp_path: Path) -> None:
    run_dir = only_run(workplace)
    packed = shutil.make_archive(str(tmp_path / "run"), "zip", run_dir.parent, run_dir.name)
    first = json.loads(yprov("id", "--json", str(run_dir), cwd=tmp_path).stdout)
    assert json.loads(yprov("id", "--json", packed, cwd=tmp_path).stdout) == first
    assert first["same"] is True
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(f"{run_dir.name}/artifacts/more", "x")
    changed = yprov("id", packed, cwd=tmp_path)
    assert changed.returncode == 1
    assert changed.stderr == f"the crate states {first['stated']}\n"


@pytest.mark.parametrize("made", ["no zip", "empty zip", "nothing"])
def test_id_of_what_is_no_run_is_an_error(made: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    if made == "no zip":
        path.write_text("x")
    elif made == "empty zip":
        zipfile.ZipFile(path, "w").close()
    done = yprov("id", str(path), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", ["encrypted", "damaged"])
def test_id_of_a_zip_that_cannot_be_read_is_an_error(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("prov.json", "run.json", "ro-crate-metadata.json"):
            archive.writestr(name, "{}" * 1000)
    data = bytearray(path.read_bytes())
    if fault == "encrypted":
        for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.find(header)
            while at >= 0:
                data[at + flags] |= 1
                at = data.find(header, at + 1)
    else:
        data[39:45] = b"\xff" * 6
    path.write_bytes(data)
    with pytest.raises(YprovError, match="as a zipped run") as e:
        identify(str(path), str(tmp_path))
    assert e.value.hint == "was it copied as a whole?"


def test_carbon_is_that_of_the_option_and_of_the_files_overhead(workplace: Path) -> None:
    told = json.loads((only_run(workplace) / "run.json").read_text())["settings"]["carbon"]
    assert (told["country"], told["intensity"], told["pue"], told["year"]) == ("DE", 344.14, 1.1, 2024)
    shown = json.loads(yprov("show", "--json", cwd=workplace).stdout)
    if shown["energy_j"] is None:  # no meter here
        assert shown["co2e_g"] is None
        assert shown["co2e_text"].startswith("no CO2e: no energy was measured")
    else:
        assert shown["co2e_g"] == pytest.approx(shown["energy_j"] / 3.6e6 * 1.1 * 344.14)
    assert shown["co2e_text"] in yprov("show", cwd=workplace).stdout


@pytest.mark.parametrize(("words", "message"), [
    (["--carbon", "Germny"], "did you mean `DE` (Germany)?"), (["--carbon", "-5"], "from 0 to 5000, not `-5.0`"),
    (["--carbon", "nan"], "from 0 to 5000, not `nan`"), (["--pue", "0.5", "--carbon", "DE"], "from 1 to 10, not `0.5`"),
])
def test_a_grid_that_is_none_is_refused_before_the_run(words: list[str], message: str, tmp_path: Path) -> None:
    done = yprov("run", *words, "--", "true", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "yprov-runs").exists()
