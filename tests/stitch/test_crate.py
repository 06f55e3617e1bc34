"""The crate: what it lists, what it says of the run, and that it is the same every time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stitch.golden.small import T0, S, make_run_dir, small_attribution, small_record
from yprovd.stitch.crate import PROFILE, build_crate, folder_hash, id_of_path, path_of_id
from yprovd.stitch.entities import address, web_address
from yprovd.stitch.record import Record


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_dir(tmp_path_factory.mktemp("crate"))


def entities(run_dir: Path, record: Record | None = None) -> dict[str, dict[str, Any]]:
    doc = json.loads(build_crate(run_dir, record or small_record(), small_attribution()))
    assert doc["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    return {e["@id"]: e for e in doc["@graph"]}


def action_of(graph: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return next(e for e in graph.values() if e["@type"] == "CreateAction")


def test_lists_every_file_but_the_spool_itself_and_temporaries(run_dir: Path) -> None:
    graph = entities(run_dir)
    files = {path_of_id(i) for i, e in graph.items() if e["@type"] == "File"}
    assert files == {"artifacts/1.pt", "artifacts/odd näme #1?.txt", "logs/stdout.log", "prov.json", "run.json",
                     "source/changes.diff", "source/train.py"}
    assert {e["@id"] for e in graph["./"]["hasPart"]} == {id_of_path(f) for f in files} | {"series.zarr/"}
    log = graph["logs/stdout.log"]
    assert (log["contentSize"], log["encodingFormat"]) == ("6", "text/plain")
    assert log["sha256"] == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


def test_says_which_profile_it_follows(run_dir: Path) -> None:
    graph = entities(run_dir)
    assert graph["ro-crate-metadata.json"]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert graph["./"]["conformsTo"] == {"@id": PROFILE}
    assert graph[PROFILE]["@type"] == "CreativeWork"


def test_root_has_author_publisher_licence_and_the_runs_date(run_dir: Path) -> None:
    root = entities(run_dir)["./"]
    assert root["author"] == {"@id": "https://orcid.org/0000-0002-1825-0097"}
    assert root["publisher"] == {"@id": "https://ror.org/02mhbdp94"}
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    assert root["datePublished"] == "2026-01-01T00:00:10.000+00:00"


def test_action_tells_what_ran_on_what_and_made_what(run_dir: Path) -> None:
    graph = entities(run_dir)
    action = action_of(graph)
    assert action["instrument"] == {"@id": f"https://example.org/ada/train/tree/{'a' * 40}"}
    assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "error" not in action
    assert action["startTime"] == "2026-01-01T00:00:00.000+00:00"
    assert action["endTime"] == "2026-01-01T00:00:10.000+00:00"
    assert {"@id": "source/train.py"} in action["object"]
    assert {"@id": "artifacts/1.pt"} in action["result"]
    assert {"@id": "prov.json"} in action["result"]
    assert {graph[e["@id"]]["@type"] for e in (*action["object"], *action["result"])} <= {
        "File", "Dataset", "PropertyValue", "CreativeWork"}


def test_energy_is_resource_usage_when_it_was_measured(run_dir: Path) -> None:
    graph = entities(run_dir)
    usage = [graph[e["@id"]] for e in action_of(graph)["resourceUsage"]]
    energy = next(u for u in usage if u["propertyID"].endswith("#energyJ"))
    assert (energy["value"], energy["unitCode"]) == (100.0, "http://qudt.org/vocab/unit/J")
    assert len({u["propertyID"] for u in usage}) == len(usage)


def test_failed_run_has_an_error(run_dir: Path) -> None:
    record = small_record()
    record.end = {"state": "timeout", "reason": "the time limit of the job", "ended_ns": T0 + 10 * S}
    action = action_of(entities(run_dir, record))
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "timeout: the time limit of the job"


def test_run_of_which_nothing_is_known_has_a_crate(run_dir: Path) -> None:
    record = small_record()
    record.run, record.end = {}, None
    graph = entities(run_dir, record)
    root = graph["./"]
    assert graph[root["license"]["@id"]]["name"] == "No licence was stated"
    assert graph[root["publisher"]["@id"]]["name"] == "not stated"
    assert action_of(graph)["instrument"]["@id"].startswith("https://w3id.org/yprov/run/")


def test_every_reference_within_the_crate_leads_somewhere(run_dir: Path) -> None:
    graph = entities(run_dir)
    for entity in graph.values():
        for value in entity.values():
            for v in value if isinstance(value, list) else [value]:
                if isinstance(v, dict) and not v["@id"].startswith("http"):
                    assert v["@id"] in graph


def test_same_files_give_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(run_dir, copy)
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    assert build_crate(copy, small_record(), small_attribution()) == (run_dir / "ro-crate-metadata.json").read_bytes()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_hash_of_the_store_is_what_coreutils_say(run_dir: Path) -> None:
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    out = subprocess.run(command, shell=True, cwd=run_dir / "series.zarr", capture_output=True, text=True, check=True)
    count, _size, digest = folder_hash(run_dir / "series.zarr")
    assert out.stdout.split()[0] == digest
    assert count > 10


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(tmp_path / "secret")
    (run / "folder").symlink_to(tmp_path)
    graph = entities(run)
    assert [i for i, e in graph.items() if e["@type"] == "File"] == []


def test_name_that_is_no_unicode_is_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("x")
    graph = entities(tmp_path)
    assert path_of_id("caf%E9.txt") == name
    assert "caf%E9.txt" in graph


@pytest.mark.parametrize(("remote", "address"), [
    ("git@github.com:a/b.git", "https://github.com/a/b"),
    ("https://user:secret@example.org/a/b.git", "https://example.org/a/b"),
    ("ssh://git@example.org:2222/a/b/", "https://example.org/a/b"),
    ("https://gitlab.x:8443/a/b.git", "https://gitlab.x:8443/a/b"),
    ("http://gitlab.x:8080/a/b.git", "http://gitlab.x:8080/a/b"),
    ("http://gitlab.x/a/b.git", "https://gitlab.x/a/b"),
    ("https://x.org/a/b.git?private_token=abc#d", "https://x.org/a/b"),
    ("/srv/git/b.git", None),
    ("", None),
])
def test_remote_becomes_a_web_address_without_secrets(remote: str, address: str | None) -> None:
    assert web_address(remote) == address


@pytest.mark.parametrize(("said", "found"), [
    ("0000-0002-1825-0097", "https://orcid.org/0000-0002-1825-0097"),
    ("orcid.org/0000-0002-1694-233X", "https://orcid.org/0000-0002-1694-233X"),
    ("http://orcid.org/0000-0002-1825-0097", "https://orcid.org/0000-0002-1825-0097"),
    ("02mhbdp94", "https://ror.org/02mhbdp94"),
    ("https://ror.org/02mhbdp94", "https://ror.org/02mhbdp94"),
    ("https://example.org/~ada", "https://example.org/~ada"),
    ("0000-0002-1825", None),
    ("ada@example.org", None),
    ("", None),
])
def test_orcid_and_ror_are_web_addresses(said: str, found: str | None) -> None:
    assert address({"id": said}) == found
