"""Code, environment, packages and container as records: few, valid, and whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stitch.golden.small import SHA, file, small_attribution, small_record, small_series
from yprov.runs import value_of
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import Record
from yprovd.stitch.validate import check_document

KEPT = {"sha256": SHA, "bytes": 10}
ABOUT: dict[str, Any] = {
    "code": {
        "remote": "https://example.org/x.git", "commit": "a" * 40, "branch": "main", "dirty": True, "untracked": 2,
        "tree": "swh:1:dir:" + "b" * 40, "diff": {"path": "source/code.diff", "files": 3, "masked": 1, **KEPT},
        "unpushed": 4, "bundle": {"path": "source/code.bundle", "commits": 4, **KEPT},
        "lists": {"path": "source/repository.json", **KEPT}, "submodules": 1, "lfs": 5, "lfs_missing": 2, "left_out": 6,
        "masked": 1, "reasons": {"tree": "no time was left"},
        "script": {"path": "/home/ada/train.py", "stored": "source/train.py", "masked": True, **KEPT}},
    "environment": {"LANG": "C"}, "modules": {"names": ["gcc/12", "cuda/12"], "files": ["/m/gcc", "/m/cuda"]},
    "packages": {"path": "source/environment.json", "count": 120, "hashes": 100, "conda": 3,
                 "interpreter": "/v/bin/python", "how": "`python` of the command", "version": "3.12.7",
                 "requirements": {"path": "source/requirements.txt", **KEPT},
                 "conda_list": {"path": "source/conda.txt", **KEPT}, **KEPT},
    "locks": [{"path": "/c/uv.lock", "stored": "source/project/uv.lock", **KEPT},
              {"path": "/c/huge.lock", "reason": "larger than 5 bytes"}],
    "container": {"engine": "apptainer", "image": "x.sif", "inside": False, "sha256": SHA, "bytes": 9, "id": "i"},
    "capture": {"seconds": 0.25, "unfinished": {"unpushed": "the run ended before it was looked at"}},
}


def built(record: Record) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(build_document(record, small_attribution(), small_series()))
    assert check_document(doc) == []
    return doc


def with_run(**about: Any) -> Record:
    record = small_record()
    return replace(record, run={**record.run, **about})


def attributes(doc: dict[str, Any], entity: str) -> dict[str, Any]:
    plain = {k: value_of(v) for k, v in doc["entity"][f"run:{entity}"].items()}
    return {k: v for k, v in plain.items() if k.startswith(("yp:", "prov:location")) and k != "yp:type"}


def test_a_repository_that_could_not_be_read_has_a_reason() -> None:
    record = small_record()
    record.run["code"] = {"reasons": {"repository": "`git` is not in PATH"}}
    code = json.loads(build_document(record, small_attribution(), []))["entity"]["run:code"]
    assert code["yp:absent"] == "repository: `git` is not in PATH"


def test_everything_that_was_captured_is_in_the_document() -> None:
    doc = built(with_run(**ABOUT))
    assert attributes(doc, "code") == {
        "yp:remote": "https://example.org/x.git", "yp:commit": "a" * 40, "yp:branch": "main", "yp:dirty": True,
        "yp:tree": "swh:1:dir:" + "b" * 40, "yp:untrackedFiles": 2, "yp:unpushedCommits": 4, "yp:submodules": 1,
        "yp:lfsFiles": 5, "yp:lfsFilesMissing": 2, "yp:filesLeftOut": 6, "yp:filesMasked": 1, "yp:sha256": SHA,
        "prov:location": "source/repository.json", "yp:absent": "tree: no time was left"}
    assert attributes(doc, "code.diff") == {
        "prov:location": "source/code.diff", "yp:sha256": SHA, "yp:sizeBytes": 10, "yp:files": 3, "yp:masked": 1}
    assert attributes(doc, "code.bundle") == {
        "prov:location": "source/code.bundle", "yp:sha256": SHA, "yp:sizeBytes": 10, "yp:commits": 4}
    assert attributes(doc, "script")["yp:masked"] is True
    environment = attributes(doc, "environment")
    assert environment["yp:modules"] == "gcc/12\ncuda/12"
    assert (environment["yp:moduleFiles"], environment["yp:moduleCount"]) == ("/m/gcc\n/m/cuda", 2)
    assert environment["yp:captureUnfinished"] == "unpushed: the run ended before it was looked at"
    assert attributes(doc, "packages") == {
        "prov:location": "source/environment.json", "yp:sha256": SHA, "yp:sizeBytes": 10, "yp:packageCount": 120,
        "yp:hashed": 100, "yp:condaCount": 3, "yp:interpreter": "/v/bin/python", "yp:python": "3.12.7",
        "yp:foundBy": "`python` of the command", "yp:requirements": "source/requirements.txt",
        "yp:requirementsSha256": SHA, "yp:condaList": "source/conda.txt", "yp:lockFileCount": 2,
        "yp:lockFiles": f"source/project/uv.lock sha256:{SHA}\n/c/huge.lock larger than 5 bytes"}
    assert attributes(doc, "container") == {
        "yp:engine": "apptainer", "yp:image": "x.sif", "yp:inside": False, "yp:sha256": SHA, "yp:sizeBytes": 9,
        "yp:imageId": "i"}
    roles = {r["prov:entity"].removeprefix("run:"): r.get("prov:role") for r in doc["used"].values()}
    assert {"code", "code.diff", "script", "environment", "packages", "container"} <= set(roles)
    derived = {(r["prov:generatedEntity"], r["prov:usedEntity"]) for r in doc["wasDerivedFrom"].values()}
    assert {("run:code.diff", "run:code"), ("run:code", "run:code.bundle")} <= derived


def test_all_of_it_is_few_records() -> None:
    def count(doc: dict[str, Any]) -> int:
        return sum(len(records) for kind, records in doc.items() if kind != "prefix")

    record = small_record()
    bare = replace(record, run={k: v for k, v in record.run.items() if k not in ABOUT})
    assert count(built(with_run(**ABOUT))) - count(built(bare)) <= 16


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["path", "sha256", "diff", "bundle", "lists", "reasons", "script", "names", "commit", "image"]),
        inner, max_size=4), max_leaves=8)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ABOUT, NONSENSE)))
def test_what_is_not_as_it_should_be_is_no_error(about: dict[str, Any]) -> None:
    built(with_run(**about))


@pytest.mark.parametrize(("role", "relation"), [("input", "used"), ("output", "wasGeneratedBy")])
def test_a_file_that_was_only_seen_open_says_so(role: str, relation: str) -> None:
    record = replace(small_record(), files=[file(role, "x.csv", 1.0, how="opened", masked=True)])
    doc = built(record)
    (edge,) = [r for r in doc[relation].values() if r["prov:entity"] == f"run:{role}/x.csv"]
    assert edge["prov:role"] == "opened"
    assert attributes(doc, f"{role}/x.csv")["yp:masked"] is True
