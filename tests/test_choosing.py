"""Which run a word means, and which runs `yprov ls` shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import yprov
from tests.archives import Kept, leave_spool, make_run
from tests.running import yprov as command
from yprov.choosing import find
from yprov.listing import Listed, ensure_known, fits, in_order, listed
from yprov.runs import ensure_archive, view
from yprovd.config import RunConfig, Settings
from yprovd.errors import YprovError

FIRST, SECOND = "0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55", "0b7c1a52-0000-4d1c-9a43-6d2f8e1b7c55"
OTHER = "20260101-3f6e-4d1c-9a43-6d2f8e1b7c55"


def make(runs: Path, name: str, run_id: str) -> Path:
    path = runs / name
    path.mkdir(parents=True)
    config = RunConfig(run_id, name.split("-")[1], 1, ("true",), "/", "/tmp/none", Settings())
    (path / "run.json").write_text(json.dumps(config.to_json()))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make(tmp_path, "20260101T000000Z-train-0b7c1a52", FIRST)
    make(tmp_path, "20260101T000001Z-train-aaaaaaaa", "aaaaaaaa-3f6e-4d1c-9a43-6d2f8e1b7c55")
    make(tmp_path, "20260101T000002Z-trainer-bbbbbbbb", "bbbbbbbb-3f6e-4d1c-9a43-6d2f8e1b7c55")
    make(tmp_path, "renamed-by-somebody", "cccccccc-3f6e-4d1c-9a43-6d2f8e1b7c55")
    return tmp_path


@pytest.mark.parametrize("given", [FIRST, FIRST.upper(), f"urn:uuid:{FIRST}", FIRST[:8], FIRST[:13],
                                   f"urn:uuid:{FIRST[:9]}"])
def test_a_run_is_found_by_its_identifier_or_a_beginning_of_it(given: str, runs: Path) -> None:
    assert find(given, str(runs)).name == "20260101T000000Z-train-0b7c1a52"


def test_a_run_whose_directory_has_another_name_is_found_by_its_identifier(runs: Path) -> None:
    assert find("cccccccc-3f6e", str(runs)).name == "renamed-by-somebody"


@pytest.mark.parametrize("given", [FIRST[:-1] + "6", f"urn:uuid:{FIRST[:7]}", FIRST[9:], "deadbeef"])
def test_what_is_no_beginning_of_an_identifier_is_no_run(given: str, runs: Path) -> None:
    with pytest.raises(YprovError, match="there is no run"):
        find(given, str(runs))


def test_an_identifier_that_fits_two_runs_is_refused_and_a_longer_one_is_not(runs: Path) -> None:
    make(runs, "20260101T000003Z-other-0b7c1a52", SECOND)
    with pytest.raises(YprovError, match="`0b7c1a52` fits 2 runs"):
        find("0b7c1a52", str(runs))
    assert find(SECOND[:10], str(runs)).name == "20260101T000003Z-other-0b7c1a52"


def test_a_date_is_a_part_of_names_before_it_is_an_identifier(runs: Path) -> None:
    make(runs, "renamed-too", OTHER)
    with pytest.raises(YprovError, match="`20260101` fits 3 runs") as e:
        find("20260101", str(runs))
    assert e.value.hint == "type more of the name, or `last`; of one whole name the newest is taken"


def test_of_several_runs_of_one_name_the_newest_is_taken_and_that_is_said(runs: Path) -> None:
    said: list[str] = []
    assert find("train", str(runs), said.append).name == "20260101T000001Z-train-aaaaaaaa"
    assert said == [f"{runs / '20260101T000001Z-train-aaaaaaaa'} is the newest of 2 runs named `train`"]
    for given in ("trainer", "last", "0b7c", FIRST, str(runs / "renamed-by-somebody")):
        find(given, str(runs), said.append)
    assert len(said) == 1


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_run(tmp_path_factory.mktemp("runs") / "yprov-runs")


def test_the_commands_say_which_of_several_they_took(kept: Kept, tmp_path: Path) -> None:
    for name in ("20260101T000000Z-resnet-00000001", "20260101T000001Z-resnet-00000002"):
        shutil.copytree(kept.path, tmp_path / "yprov-runs" / name, ignore=shutil.ignore_patterns("series.zarr"))
    for words in (["show", "resnet"], ["export", "resnet", "--to", "provn", "-o", "-"], ["id", "resnet"]):
        done = command(*words, cwd=tmp_path)
        taken = "yprov-runs/20260101T000001Z-resnet-00000002"
        assert f"note: {taken} is the newest of 2 runs named `resnet`\n" in done.stderr


def test_what_identifies_a_run_is_what_opens_it(kept: Kept) -> None:
    done = command("id", "last", cwd=kept.path.parents[1])
    urn = done.stdout.splitlines()[0]
    with yprov.open_run(urn, kept.path.parent) as run:
        assert (run.directory, f"urn:uuid:{run.id}") == (kept.path, urn)


# what is left of a damaged one


@pytest.mark.parametrize(("gone", "message"), [
    (["prov.json"], r"has no prov\.json: the archive is damaged; left of it: series\.zarr, ro-crate"),
    (["prov.json", "series.zarr", "ro-crate-metadata.json"], r"has no prov\.json: there is no spool to make it of")])
def test_a_run_without_its_document_and_spool_is_not_sent_to_stitch(
    gone: list[str], message: str, kept: Kept, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(kept.path, path)
    for name in gone:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink()
    for ask in (ensure_archive, view, yprov.open_run):
        with pytest.raises(YprovError, match=message) as e:
            ask(path)
        assert "stitch" not in e.value.hint
    leave_spool(path)
    with pytest.raises(YprovError, match="was not stitched yet"):
        ensure_archive(path)
    assert view(path).state == "not stitched"


# ls


def told(name: str, **facts: Any) -> Listed:
    return Listed({"name": name, "state": "completed", "experiment": "a", "duration_s": None, "energy_j": None,
                   "created": name, **facts}, (name,))


def test_runs_are_sorted_and_what_has_no_figure_is_last() -> None:
    runs = [told("b", duration_s=1.0, energy_j=5.0), told("a"), told("c", duration_s=9, state="failed")]

    def names(by: str) -> str:
        return "".join(r.cells[0] for r in in_order(runs, by))

    assert [names(by) for by in ("time", "name", "state", "duration", "energy")] == ["abc", "abc", "bac", "cba", "bac"]
    assert names("duration") == "cba"
    runs.append(told("d", duration_s="long"))  # of a damaged one
    assert names("duration") == "cbad"


def test_runs_are_chosen_by_state_and_experiment() -> None:
    run = told("x", state="failed", experiment="e")
    assert fits(run, [], None)
    assert fits(run, ["completed", "failed"], "e")
    assert not fits(run, ["completed"], None)
    assert not fits(run, [], "f")


@pytest.mark.parametrize(("states", "by", "message"), [
    (["fail"], "time", "no run is ever `fail`"), ([], "size", "runs are not sorted by `size`")])
def test_a_state_or_an_order_that_there_is_not_is_refused(states: list[str], by: str, message: str) -> None:
    with pytest.raises(YprovError, match=message):
        ensure_known(states, by)


def test_ls_shows_the_newest_and_those_that_are_asked_for(kept: Kept, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        path = tmp_path / f"yprov-runs/20260101T00000{number}Z-resnet-0000000{number}"
        shutil.copytree(kept.path, path, ignore=shutil.ignore_patterns("series.zarr"))
        config = json.loads((path / "run.json").read_text())
        config["settings"] |= {"experiment": f"e{number % 2}", "tags": {"model": f"m{number}"}}
        (path / "run.json").write_text(json.dumps(config))
    (path / "prov.json").write_text((path / "prov.json").read_text().replace('"completed"', '"failed"'))

    def shown(*words: str) -> list[str]:
        done = command("ls", *words, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [run["tags"]["model"] for run in json.loads(done.stdout)]

    assert shown("-n", "2") == ["m2", "m3"]
    assert shown("--experiment", "e1", "--limit", "1") == ["m3"]
    assert shown("--state", "completed", "--sort", "name") == ["m1", "m2"]
    none = command("ls", "--experiment", "e7", cwd=tmp_path)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no runs in `yprov-runs` that are asked for\n")


def test_show_and_open_run_tell_experiment_tags_and_commit(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / kept.path.name
    shutil.copytree(kept.path, path)
    config = json.loads((path / "run.json").read_text())
    config["settings"] |= {"experiment": "night", "tags": {"model": "resnet", "on": "2"}}
    (path / "run.json").write_text(json.dumps(config))
    doc = json.loads((path / "prov.json").read_text())
    doc["entity"]["run:code"] = {"yp:commit": "0123456789abcdef0123456789abcdef01234567",
                                 "yp:dirty": {"$": "true", "type": "xsd:boolean"}}
    (path / "prov.json").write_text(json.dumps(doc))
    done = command("show", str(path), cwd=tmp_path)
    assert "  labels   experiment night, model=resnet, on=2, commit 0123456789ab with changes\n" in done.stdout
    facts = listed(view(path)).facts
    assert (facts["tags"], facts["dirty"]) == ({"model": "resnet", "on": "2"}, True)
    with yprov.open_run(path) as run:
        assert (run.experiment, run.tags, run.commit) == ("night", {"model": "resnet", "on": "2"}, facts["commit"])
