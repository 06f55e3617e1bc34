"""Which declarations are one version of a file, and that no order of them makes a document that is not valid."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stitch.golden.small import T0, S
from yprovd.stitch.attribution import attribute
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import DeclaredFile, MetricTable, Process, Record, Span
from yprovd.stitch.validate import check_document
from yprovd.stitch.versions import versions_of

NONE = np.zeros(0, dtype=np.int64)


def declared(at: float, process: int = 0, sha256: str | None = None, **more: Any) -> DeclaredFile:
    told: dict[str, Any] = {"role": "model", "path": "/ck.pt", "name": "m", "context": None, "epoch": None, **more}
    return DeclaredFile(process=process, wall_ns=T0 + round(at * S), sha256=sha256, **told)


def record_of(files: list[DeclaredFile], spans: list[Span] = []) -> Record:  # noqa: B006  never changed
    return Record(
        run={"config": {"name": "demo"}, "started_ns": T0}, end={"state": "completed", "ended_ns": T0 + 100 * S},
        nodes=[], processes=[Process(i, "n1", "b", i) for i in range(3)], spans=spans, params=[], events=[],
        files=files, notes=[], first_ns=T0, last_ns=T0 + 100 * S,
        metrics=MetricTable([], NONE, NONE, NONE, NONE.astype(float), NONE))


def checked(record: Record) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(build_document(record, attribute(record), []))
    assert check_document(doc) == []
    return doc


def made(doc: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Of each model: what made it, and the second when."""
    return {r["prov:entity"].removeprefix("run:"): (r["prov:activity"], (r.get("prov:time") or "")[17:19] or None)
            for r in doc["wasGeneratedBy"].values() if r["prov:entity"].startswith("run:model")}


def test_a_checksum_that_comes_later_leaves_the_version_where_it_began() -> None:
    """Rank 0 names it at 10 s while it is still being written, rank 1 at 30 s; rank 0 has made another by then."""
    record = record_of([
        declared(10, 0, reason="it changed while it was read", context="a", epoch=1), declared(20, 0, "b" * 64),
        declared(30, 1, "c" * 64, size=7, context="b", epoch=2)])
    (versions,), left_out = versions_of(record.files)
    assert left_out == 0
    assert [(v.first.wall_ns, v.first.sha256, v.declarations) for v in versions] == [
        (T0 + 10 * S, "c" * 64, 2), (T0 + 20 * S, "b" * 64, 1)]
    first = versions[0].first
    assert (first.context, first.epoch, first.size, first.process, first.reason) == ("a", 1, 7, 1, "")
    assert made(checked(record)) == {"model/m": ("run:run", "10"), "model/m/1": ("run:run", "10"),
                                     "model/m/2": ("run:run", "20")}


def test_content_that_one_process_wrote_twice_is_two_versions_where_nobody_knows_it() -> None:
    (versions,), _ = versions_of([declared(1, 0), declared(2, 1), declared(3, 0), declared(4, 1), declared(5, 2)])
    assert [v.declarations for v in versions] == [2, 3]


def test_a_file_that_lies_elsewhere_is_another_version() -> None:
    (versions,), _ = versions_of([declared(1, 0, "a" * 64), declared(2, 1, "a" * 64, path="/2.pt"), declared(3, 2)])
    assert [(v.first.path, v.declarations) for v in versions] == [("/ck.pt", 2), ("/2.pt", 1)]


def epoch_of_another_rank(begin: float, end: float) -> list[Span]:
    def span(number: int, kind: str, name: str, epoch: int | None) -> Span:
        b, e = T0 + round(begin * S), T0 + round(end * S)
        return Span(1, number, number - 1, kind, name, "training", epoch, b, b, e, e)

    return [span(1, "context", "training", None), span(2, "epoch", "3", 3)]


@pytest.mark.parametrize(("second", "expected"), [
    ({}, ("run:run", None)),
    ({"context": "training", "epoch": 3}, ("run:ctx/training/epoch/3", "12")),
])
def test_a_version_is_never_made_before_the_one_before_it(
    second: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    """Of rank 0 the frame of its spans was lost: what is known of its epoch are another's times."""
    record = record_of([declared(10, 0, "a" * 64, context="training", epoch=3), declared(11, 0, "b" * 64, **second)],
                       epoch_of_another_rank(12, 20))
    found = made(checked(record))
    assert found["model/m"] == found["model/m/1"] == ("run:ctx/training/epoch/3", "12")
    assert found["model/m/2"] == expected


def test_an_activity_that_was_over_by_then_made_no_later_version() -> None:
    early = [replace(s, id=s.id + 2, parent=s.id + 1, context="early", epoch=None if s.kind == "context" else 4)
             for s in epoch_of_another_rank(10, 11)]
    early[0] = replace(early[0], name="early", parent=0)
    record = record_of([declared(10, 0, "a" * 64, context="training", epoch=3),
                        declared(10.5, 0, "b" * 64, context="early", epoch=4), declared(21, 0, "c" * 64)],
                       [*early, *epoch_of_another_rank(12, 20)])
    found = made(checked(record))
    assert found["model/m/2"] == ("run:run", None)
    assert found["model/m/3"] == ("run:run", "21")


TIMES = st.integers(-5, 105)
PLACES = st.sampled_from([(None, None), ("training", None), ("training", 1), ("training", 2), ("other", 1), (None, 1)])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.builds(
        lambda at, process, sha256, place, role, path: declared(
            at, process, sha256, context=place[0], epoch=place[1], role=role, path=path),
        TIMES, st.integers(-1, 2), st.sampled_from([None, None, "a" * 64, "b" * 64, "c" * 64]), PLACES,
        st.sampled_from(["model", "model", "output", "input", "dataset"]), st.sampled_from(["/1", "/2"])), max_size=12),
    st.lists(st.tuples(TIMES, TIMES, st.integers(0, 2), PLACES), max_size=6),
)
def test_whatever_was_declared_whenever_the_document_is_valid(
    files: list[DeclaredFile], spans: list[tuple[int, int, int, tuple[str | None, int | None]]]
) -> None:
    opened = [Span(process, i + 1, 0, "context" if epoch is None else "epoch",
                   str(context or "x") if epoch is None else str(epoch), context, epoch, T0 + begin * S,
                   T0 + begin * S, T0 + end * S, T0 + end * S) for i, (begin, end, process, (context, epoch)) in
              enumerate(spans) if (context, epoch) != (None, None)]
    checked(record_of(sorted(files, key=lambda f: f.wall_ns), opened))


def slowly(files: list[DeclaredFile]) -> list[list[tuple[str | None, int]]]:
    """The same by looking through all versions, from the latest on."""
    groups: dict[tuple[str, str], list[tuple[list[DeclaredFile], set[int]]]] = {}
    for f in sorted(files, key=lambda f: f.wall_ns):
        group = groups.setdefault((f.role, f.name if f.role in ("model", "dataset") else f.path), [])
        for them, processes in reversed(group):
            sha256 = next((t.sha256 for t in them if t.sha256), None)
            both = sha256 is not None and f.sha256 is not None
            if them[0].path == f.path and (sha256 == f.sha256 if both else f.process not in processes):
                them.append(f)
                processes.add(f.process)
                break
        else:
            group.append(([f], {f.process}))
    return [[(next((t.sha256 for t in them if t.sha256), None), len(them)) for them, _ in g] for g in groups.values()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(
    lambda at, process, sha256, path: declared(at, process, sha256, path=path), st.integers(0, 20), st.integers(0, 2),
    st.sampled_from([None, None, "a", "b", "c"]), st.sampled_from(["/1", "/2"])), max_size=30))
def test_versions_are_those_that_a_look_through_all_of_them_finds(files: list[DeclaredFile]) -> None:
    found = [[(v.first.sha256, v.declarations) for v in versions] for versions in versions_of(files)[0]]
    assert found == slowly(files)


@pytest.mark.parametrize("sha256", [True, False])
def test_a_file_that_is_written_anew_at_every_step_takes_no_longer_for_each(sha256: bool) -> None:
    """20,000 declarations of eight ranks: 0.1 s, where a look through all of them takes a minute."""
    files = [declared(i, i % 8 if sha256 else 0, f"{i // 8:064x}" if sha256 else None) for i in range(20_000)]
    began = time.process_time()
    (versions,), left_out = versions_of(files)
    assert time.process_time() - began < 3
    assert len(versions) + left_out == (2500 if sha256 else 20_000)
