"""Crates of all kinds before `roc-validator` (RO-Crate 1.1, Process Run Crate 0.5, REQUIRED and RECOMMENDED), and as
the `rocrate` package reads them. Both are in an environment of their own: make crate-env."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.running import only_run, yprov
from tests.stitch.builders import RunSpool, counter, gauge, package
from tests.stitch.golden.small import RUN_ID, SHA, T0, S, file, make_run_dir, small_attribution, small_record
from tests.stitch.test_scheduler import DAEMONS, FACTS
from yprovd.config import Settings
from yprovd.stitch import CRATE_FILE, SPOOL_DIR, stitch
from yprovd.stitch.agents import NOT_STATED
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.crate import build_crate, path_of_id
from yprovd.stitch.document import base_iri
from yprovd.stitch.record import Record

CHECKER = Path(__file__).with_name("crate_checker.py")
PYTHON = Path(__file__).parents[2] / ".venv-crate" / "bin" / "python"
DIGEST = "b" * 64


def checker(*words: str | Path) -> Any:
    if not PYTHON.is_file():
        reason = f"{PYTHON} is not there: make crate-env"
        (pytest.fail if os.environ.get("YPROV_REQUIRE_CRATE") else pytest.skip)(reason)
    done = subprocess.run([PYTHON, CHECKER, *words], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout) if done.stdout else None


def archive(
    folder: Path, record: Record | None = None, attribution: Attribution | None = None,
    files: dict[str, bytes] | None = None,
) -> None:
    """The archive of the small run, with more `files`."""
    record = record or small_record()
    make_run_dir(folder, record)
    for name, data in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / CRATE_FILE).write_bytes(build_crate(folder, record, attribution or small_attribution()))


def with_settings(**settings: Any) -> Record:
    record = small_record()
    record.run["config"] = {**record.run["config"], "settings": settings}
    return record


def about(**more: Any) -> Record:
    record = small_record()
    record.run |= more
    return record


def plain(folder: Path) -> None:
    archive(folder)


def failed(folder: Path) -> None:
    record = small_record()
    record.end = {"state": "timeout", "reason": "the time limit of the job", "ended_ns": T0 + 10 * S}
    archive(folder, record)


def recorded(folder: Path) -> None:
    """By `yprov run` itself, of a script in a git repository, with all that is captured beside it."""
    work = folder.with_name(f"{folder.name}-work")
    work.mkdir()
    (work / "train.py").write_text("open('model out.pt', 'w').write('x')\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=work, check=True)
    (work / "train.py").write_text("open('model out.pt', 'w').write('y')\n")
    done = yprov("run", "--output", "model out.pt", "--input", "train.py", "--", sys.executable, "train.py", cwd=work)
    assert done.returncode == 0, done.stderr
    shutil.copytree(only_run(work), folder, dirs_exist_ok=True)


def nothing_configured(folder: Path) -> None:
    record = with_settings(**Settings()._asdict())
    record.run["code"] = {}
    archive(folder, record)


def nothing_known(folder: Path) -> None:
    record = small_record()
    record.run, record.end, record.files, record.params = {}, None, [], []
    archive(folder, record)


def only_a_licence(folder: Path) -> None:
    archive(folder, with_settings(licence="all rights reserved, ask Ada", user={"name": "Ada", "id": "not an address"},
                                  organisation={"name": "", "id": "https://ror.org/02mhbdp94"}))


def an_organisation_by_name(folder: Path) -> None:
    archive(folder, with_settings(organisation={"name": "Analytical Engines", "id": ""}))


def odd_names(folder: Path) -> None:
    names = ("100%.txt", "%20.txt", "a b/c d.json", "ünï/日本語.pt", "quote'\".log", "a+b&c=d?e#f.csv", "[1]{2}|3.md",
             "-rf", "..hidden", "new\nline.txt", "back\\slash", ":colon", "~tilde", "e\u0301", "@id", "emoji😀.png",
             "http:/x", "data,file.txt", " lead", "trail ")
    archive(folder, files={f"artifacts/{name}": name.encode() for name in names})


def of_no_bytes(folder: Path) -> None:
    archive(folder, files={"artifacts/empty": b"", "logs/stderr.log": b"", "artifacts/.hidden": b""})


def many_files(folder: Path) -> None:
    archive(folder, files={f"artifacts/step {i:05}/shard.pt": b"%d" % i for i in range(1000)})


def one_file(folder: Path) -> None:
    """Where everything there is one of, lists of one must not stay lists."""
    record = small_record()
    record.files, record.params, record.run["environment"] = [], record.params[:1], {"LANG": "C"}
    folder.joinpath("prov.json").write_text("{}")
    (folder / CRATE_FILE).write_bytes(build_crate(folder, record, small_attribution()))


def outside_of_the_archive(folder: Path) -> None:
    record = small_record()
    record.files = [
        file("input", "train set", 0.1, path="/data/train set (1).csv"),
        file("input", "web", 0.2, path="https://example.org/data set/x.csv"),
        file("input", "web", 0.3, path="https://example.org/data.csv?v=1#part", sha256=None, size=None),
        file("input", "bucket", 0.4, path="s3://bucket/key"), file("dataset", "cifar", 0.5, path="/data/cifar"),
        file("input", "", 0.6, path=""), file("output", "a\x00b", 0.7, path="/tmp/a\nb"),
        file("input", "undecodable", 0.8, path="/data/caf\udce9"),
    ]
    archive(folder, record)


def models(folder: Path) -> None:
    record = small_record()
    record.files = [
        file("model", "resnet", i, path=f"/scratch/ckpt/{i}.pt", sha256=f"{i}" * 64, epoch=i, context="training",
             stored=f"artifacts/ckpt {i}.pt" if i % 2 else None) for i in range(1, 9)]
    archive(folder, record, files={f"artifacts/ckpt {i}.pt": b"w" for i in (1, 3, 5)})


def microseconds(folder: Path) -> None:
    account = small_attribution().accounts[0]
    account = replace(account, begin_ns=T0 + 123_456_789, end_ns=T0 + S + 987_654_321)
    archive(folder, attribution=replace(small_attribution(), accounts=[account]))


def carbon(folder: Path) -> None:
    archive(folder, with_settings(carbon={"intensity": 344.14, "country": "DE", "pue": 1.2, "source": "Ember",
                                          "year": 2024}))


def in_a_container(container: dict[str, Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        record = about(
            container=container, modules={"names": ["cuda/12.4", "python"]}, packages={
                "path": "source/environment.json", "requirements": {"path": "source/requirements.txt"}},
            locks=[{"stored": "source/project/uv.lock"}, {"stored": "source/gone.lock"}])
        archive(folder, record, files={"source/environment.json": b"{}", "source/requirements.txt": b"numpy==2.0\n",
                                       "source/project/uv.lock": b"version = 1\n"})
    return make


def without_a_script(folder: Path) -> None:
    record = about(code={"commit": "c" * 40, "tree": f"swh:1:dir:{'d' * 40}"})
    record.run["config"] = {**record.run["config"], "command": ["sleep", "1"]}
    archive(folder, record)


def under_slurm(folder: Path) -> None:
    """By the whole stitch, from a spool."""
    (folder / SPOOL_DIR).mkdir()
    run = RunSpool(folder / SPOOL_DIR)
    run.begin(name="train", scheduler=FACTS, daemons=DAEMONS, user="ada", environment={"SLURM_JOB_ID": "4242"})
    node = run.node("gpu001", [gauge("system.cpu.utilization", "1", 0.01), counter("hw.energy", device=package())])
    for i in range(6):
        node.sample(float(i), [0.5, 100.0 * i])
    rank = run.process("gpu001", rank=0)
    with rank.span(1.0, 4.0, "context", "training"):
        rank.metric(2.0, "loss", 0.5, step=1)
    rank.param(1.5, "lr", 0.1)
    run.finish(5.0, exit_code=0)
    run.close()
    (folder / "source").mkdir()
    (folder / "source/batch-script.sh").write_text("#!/bin/sh\nsrun python train.py\n")
    stitch(folder, keep_spool=True)


CASES: dict[str, Callable[[Path], None]] = {make.__name__: make for make in (
    plain, failed, recorded, nothing_configured, nothing_known, only_a_licence, an_organisation_by_name, odd_names,
    of_no_bytes, many_files, one_file, outside_of_the_archive, models, microseconds, carbon, without_a_script,
    under_slurm)} | {
    f"in {container.get('image')}": in_a_container(container) for container in (
        {"engine": "docker", "image": "nvcr.io/nvidia/pytorch:24.01-py3", "digest": f"sha256:{DIGEST}"},
        {"engine": "podman", "image": "pytorch"}, {"engine": "apptainer", "image": "docker://ubuntu:24.04"},
        {"engine": "apptainer", "image": "/images/torch 2.sif", "sha256": DIGEST}, {"engine": "docker", "image": None},
        {"engine": "enroot", "image": "/images/x.sqsh", "sha256": DIGEST}, {"engine": "apptainer", "image": "./box/"})}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for number, (name, make) in enumerate(CASES.items()):
        folders[name] = tmp_path_factory.mktemp(f"crate-{number}")
        make(folders[name])
    return folders


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "http"
    checker("seed", path)
    return path


@pytest.fixture(scope="module")
def issues(archives: dict[str, Path], cache: Path) -> dict[str, list[str]]:
    found = checker("validate", cache, *archives.values())
    return {name: found[str(folder)] for name, folder in archives.items()}


@pytest.mark.parametrize("case", CASES)
def test_validator_finds_nothing_required_or_recommended_to_be_missing(
    case: str, issues: dict[str, list[str]]
) -> None:
    assert issues[case] == []


def test_validator_would_say_what_is_wrong(archives: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    """It works, offline: a crate that lacks something fails."""
    def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
        doc = json.loads((archives["plain"] / CRATE_FILE).read_text())
        change({e["@id"]: e for e in doc["@graph"]})
        folder = tmp_path / name
        folder.mkdir()
        for part in archives["plain"].iterdir():
            if part.name != CRATE_FILE:
                (folder / part.name).symlink_to(part)
        (folder / CRATE_FILE).write_text(json.dumps(doc))
        return folder

    action = f"#run-{RUN_ID}"
    folders = [changed("licence", lambda e: e["./"].pop("license")), changed("end", lambda e: e[action].pop("endTime")),
               changed("tool", lambda e: e[action].pop("instrument")),
               changed("file", lambda e: e["run.json"].update({"@id": "gone.json"}))]
    found = checker("validate", cache, *folders)
    assert [bool(found[str(f)]) for f in folders] == [True] * 4
    assert any("REQUIRED" in issue and "instrument" in issue for issue in found[str(folders[2])])


def test_rocrate_reads_what_we_wrote(archives: dict[str, Path]) -> None:
    wanted = ("plain", "odd_names", "carbon")
    read = checker("load", *(archives[name] for name in wanted))
    for name in wanted:
        listed = {e["@id"] for e in json.loads((archives[name] / CRATE_FILE).read_text())["@graph"]
                  if e["@type"] in ("File", "Dataset")} - {"./"}
        assert set(read[str(archives[name])]["files"]) == listed
        assert read[str(archives[name])]["actions"] == [f"#run-{RUN_ID}"]
    first = read[str(archives["plain"])]
    assert (first["name"], first["license"]) == ("Run resnet", "https://spdx.org/licenses/CC-BY-4.0")
    assert first["usage"]["https://w3id.org/yprov/ns#energyJ"] == 100.0
    assert read[str(archives["carbon"])]["usage"]["https://w3id.org/yprov/ns#co2eGrams"] == pytest.approx(
        100.0 / 3.6e6 * 1.2 * 344.14)


#: Of schema.org, all in the context of RO-Crate 1.1 as well as in that of 1.3 with which the validator is fed here; the
#: others are those of Workflow Run.
TERMS = {
    "@id", "@type", "about", "actionStatus", "additionalType", "affiliation", "agent", "author", "conformsTo",
    "contentSize", "datePublished", "description", "encodingFormat", "endTime", "error", "hasPart", "identifier",
    "instrument", "keywords", "license", "mentions", "name", "object", "propertyID", "publisher", "result",
    "softwareRequirements", "softwareVersion", "startTime", "unitCode", "unitText", "url", "value", "version",
    "containerImage", "environment", "registry", "resourceUsage", "sha256", "tag",
}
TYPES = {"CreativeWork", "CreateAction", "ContainerImage", "Dataset", "File", "Organization", "Person", "PropertyValue",
         "SoftwareApplication"}


def test_every_term_is_one_that_the_contexts_have(archives: dict[str, Path]) -> None:
    for folder in archives.values():
        for entity in json.loads((folder / CRATE_FILE).read_text())["@graph"]:
            assert set(entity) <= TERMS, entity
            assert entity["@type"] in TYPES
            assert not any(c.isspace() or c in '<>"{}|\\^`' for c in entity["@id"])


def test_odd_names_lead_to_their_files(archives: dict[str, Path]) -> None:
    folder = archives["odd_names"]
    files = [e for e in json.loads((folder / CRATE_FILE).read_text())["@graph"] if e["@type"] == "File"]
    assert len(files) > 20
    assert all((folder / path_of_id(e["@id"])).is_file() for e in files)
    assert all(e["@id"].isascii() and " " not in e["@id"] for e in files)


def test_run_and_crate_share_the_uuid(archives: dict[str, Path]) -> None:
    for name in ("plain", "under_slurm", "nothing_known"):
        root = next(e for e in json.loads((archives[name] / CRATE_FILE).read_text())["@graph"] if e["@id"] == "./")
        prefix = json.loads((archives[name] / "prov.json").read_text())["prefix"]["run"]
        assert root["identifier"][0] == prefix.rstrip("#")
        assert prefix == base_iri(prefix.removeprefix("urn:uuid:").rstrip("#"))
        assert prefix.startswith("urn:uuid:")


def graph_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {e["@id"]: e for e in json.loads((folder / CRATE_FILE).read_text())["@graph"]}


def action_of(graph: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return next(e for e in graph.values() if e["@type"] == "CreateAction")


def test_requirements_are_the_lists_in_the_archive(archives: dict[str, Path]) -> None:
    graph = graph_of(archives["in nvcr.io/nvidia/pytorch:24.01-py3"])
    tool = graph[action_of(graph)["instrument"]["@id"]]
    assert {r["@id"] for r in tool["softwareRequirements"]} == {
        "source/environment.json", "source/requirements.txt", "source/project/uv.lock"}


def test_variables_and_modules_are_the_environment(archives: dict[str, Path]) -> None:
    graph = graph_of(archives["in nvcr.io/nvidia/pytorch:24.01-py3"])
    values = {graph[e["@id"]]["name"]: graph[e["@id"]]["value"] for e in action_of(graph)["environment"]}
    assert values == {"SLURM_JOB_ID": "4242", "SLURM_JOB_PARTITION": "gpu", "LANG": "C", "modules": "cuda/12.4, python"}


@pytest.mark.parametrize(("image", "expected"), [
    ("nvcr.io/nvidia/pytorch:24.01-py3", ("nvcr.io", "nvidia/pytorch", "24.01-py3", DIGEST)),
    ("pytorch", ("not recorded", "pytorch", None, None)),  # Podman asks the registries that it was configured to
    ("docker://ubuntu:24.04", ("docker.io", "ubuntu", "24.04", None)),
    ("/images/torch 2.sif", ("none (a local file)", "/images/torch 2.sif", None, DIGEST)),
])
def test_container_image_is_named_by_its_parts(
    image: str, expected: tuple[Any, ...], archives: dict[str, Path]
) -> None:
    graph = graph_of(archives[f"in {image}"])
    found = graph[action_of(graph)["containerImage"]["@id"]]
    assert tuple(found.get(key) for key in ("registry", "name", "tag", "sha256")) == expected


@pytest.mark.parametrize("image", ["/images/x.sqsh", "./box/"])
def test_image_of_a_kind_that_the_vocabulary_lacks_is_told_in_words(image: str, archives: dict[str, Path]) -> None:
    graph = graph_of(archives[f"in {image}"])
    assert "containerImage" not in action_of(graph)
    assert graph["#environment/container%20image"]["value"].startswith(image)


def test_what_nobody_configured_is_not_made_up(archives: dict[str, Path]) -> None:
    graph = graph_of(archives["nothing_configured"])
    root = graph["./"]
    assert graph[root["author"]["@id"]]["name"] == "ada"  # the login
    assert graph[root["publisher"]["@id"]]["name"] == "not stated"
    assert graph[root["license"]["@id"]]["name"] == "No licence was stated"
    tool = graph[action_of(graph)["instrument"]["@id"]]
    assert (tool["softwareVersion"], tool["url"]) == ("not recorded", {"@id": "prov.json"})
    assert {i for i in graph if graph[i]["@type"] == "Organization"} == {NOT_STATED}


def test_script_without_a_repository_has_its_checksum_for_a_version(tmp_path: Path) -> None:
    script = {"path": "/home/ada/train.py", "sha256": SHA, "stored": "source/train.py"}
    archive(tmp_path, about(code={"script": script}))
    graph = graph_of(tmp_path)
    tool = graph[action_of(graph)["instrument"]["@id"]]
    assert (tool["name"], tool["softwareVersion"], tool["url"]) == (
        "train.py", f"sha256:{SHA}", {"@id": "source/train.py"})


def test_every_figure_has_a_property_and_a_unit_of_its_own(archives: dict[str, Path]) -> None:
    graph = graph_of(archives["carbon"])
    rows = [graph[u["@id"]] for u in action_of(graph)["resourceUsage"]]
    units = {r["propertyID"].rpartition("#")[2]: r["unitCode"].rpartition("/")[2] for r in rows}
    assert len(units) == len(rows)
    assert units == {"durationSeconds": "SEC", "energyJ": "J", "gpuEnergyJ": "J", "co2eGrams": "GM", "gpuHours": "HR",
                     "cpuSeconds": "SEC", "peakMemoryBytes": "BYTE", "gpuPeakMemoryBytes": "BYTE"}
    assert "x PUE 1.2 x 344.14 g/kWh (DE, Ember, 2024)" in graph["#usage-co2eGrams"]["name"]


def test_command_that_no_sample_saw_has_the_kernels_account(tmp_path: Path) -> None:
    account = replace(small_attribution().accounts[0], cpu_s=None, energy_j=None)
    archive(tmp_path, attribution=replace(small_attribution(), accounts=[account]))
    assert graph_of(tmp_path)["#usage-cpuSeconds"]["value"] == 13.75
