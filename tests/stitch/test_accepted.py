"""Every document that the stitch builds is one that yProv's programs take: validator, service, Explorer, readers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stitch.builders import RunSpool, counter, gauge, package
from tests.stitch.golden.large import large_attribution, large_record, large_series
from tests.stitch.golden.small import RUN_ID, file, small_attribution, small_record, small_series
from tests.stitch.test_scheduler import slurm_record
from tests.yprov_rules import (
    CannotAnswer,
    complaints,
    connected,
    drawn,
    facts,
    metrics_found,
    run_found,
    through_the_service,
)
from yprov.service_v0 import text_only
from yprovd.stitch.attribution import attribute
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import Param
from yprovd.stitch.series import write_series

Doc = dict[str, Any]
#: As many nodes as the Explorer's own test has.
MOST_NODES = 2000


def of_spool(folder: Path, fill: Callable[[RunSpool], None]) -> Doc:
    """The document of a run as its spool tells it."""
    run = RunSpool(folder)
    fill(run)
    record = run.record()
    attribution = attribute(record)
    series = write_series(record, attribution, folder / "series.zarr")
    doc: Doc = json.loads(build_document(record, attribution, series))
    return doc


def trained(run: RunSpool, *, rank: int = 0) -> None:
    """Ten seconds of a training that a rank tells of."""
    node = run.node("n1", [gauge("system.cpu.utilization", "1", 0.01), counter("hw.energy", "J", 1e-3, package())],
                    absences=[("nvidia", "no driver")])
    for at in range(11):
        node.sample(at, [0.5, 100.0 * at])
    process = run.process("n1", rank=rank)
    process.param(0.5, "lr", 3e-4)
    process.param(0.5, "a name, with\nodd things", [1, {"x": None}])
    process.file(0.6, "input", "/data/train.csv")
    for epoch, begin in enumerate((1.0, 4.0)):
        with process.span(begin, begin + 3, "context", "training"), process.span(begin, begin + 2.9, "epoch", epoch):
            process.metric(begin + 1, "loss", 0.5, step=epoch)
            process.metric(begin + 1, "train/accuracy (%)", float("nan"), step=epoch)
            with process.span(begin + 1, begin + 2, "span", "forward"):
                process.file(begin + 1.5, "model", f"/out/{epoch}.pt", "net")
    with process.span(7.0, 8.0, "context", "validation/second set"):
        process.metric(7.5, "loss", 0.7)
        process.file(7.6, "output", "/out/report, final.txt")
    process.exit(9.0)


def whole(run: RunSpool) -> None:
    run.begin(name="whole", user="ada", environment={"LANG": "C"})
    trained(run)
    run.finish(10.0, exit_code=0)


def failed(run: RunSpool) -> None:
    run.begin(name="failed")
    trained(run)
    run.finish(10.0, state="failed", exit_code=3)


def killed(run: RunSpool) -> None:
    run.begin(name="killed")
    trained(run)
    run.process("n1", rank=1).begin(2.0, "context", "training")  # never ended
    run.killed(9.5)


def cut_off(run: RunSpool) -> None:
    """Nobody told that it began or ended."""
    trained(run)


def timed_out(run: RunSpool) -> None:
    run.begin(name="slow", scheduler={"name": "slurm", "job_id": "7", "node_list": "n1"},
              daemons={"expected": ["n1", "n2"], "dark": ["n2"]})
    trained(run)
    run.killed(9.5)
    run.scheduler_said(9.0, "timeout", "the job's time limit")


def bare(run: RunSpool) -> None:
    """A command that no daemon saw and that told nothing."""
    run.begin(name="bare")
    run.finish(0.1, exit_code=0)


def many_versions(run: RunSpool) -> None:
    run.begin(name="versions")
    process = run.process("n1", rank=0)
    for at in (1.0, 2.0, 3.0):
        for role in ("input", "dataset", "output", "code", "model"):
            process.file(at, role, f"/data/{role}.bin")
    run.finish(5.0, exit_code=0)


SPOOLS = (whole, failed, killed, cut_off, timed_out, bare, many_versions)


def of_values(record: Any, attribution: Any = None, series: Any = None) -> Doc:
    doc: Doc = json.loads(build_document(record, attribution or small_attribution(),
                                         small_series() if series is None else series))
    return doc


def versioned() -> Doc:
    record = small_record()
    record.files += [file(role, "thing", at, context="training", sha256=f"{at:064.0f}")
                     for role in ("input", "dataset", "output", "code", "model") for at in (2.0, 3.0, 4.0)]
    record.params.append(Param("", "", 0, 0))
    return of_values(record)


VALUES: dict[str, Callable[[], Doc]] = {
    "small": lambda: of_values(small_record()),
    "slurm": lambda: of_values(slurm_record()),
    "versions": versioned,
    "large": lambda: of_values(large_record(), large_attribution(), large_series()),
    "no series": lambda: of_values(small_record(), series=[]),
}


@pytest.fixture(scope="module", params=[*(f.__name__ for f in SPOOLS), *VALUES])
def doc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Doc:
    if make := VALUES.get(request.param):
        return make()
    fill = next(f for f in SPOOLS if f.__name__ == request.param)
    return of_spool(tmp_path_factory.mktemp("run"), fill)


def test_the_validator_has_no_complaint(doc: Doc) -> None:
    assert complaints(doc) == []


def test_the_service_gives_back_all_that_it_was_given(doc: Doc) -> None:
    back = through_the_service(json.loads(text_only(doc)))
    assert facts(back) == facts(doc)
    assert complaints(back) == []


def test_the_explorer_connects_every_node_with_the_run(doc: Doc) -> None:
    nodes, links = drawn(doc)
    assert nodes - connected(nodes, links, "run:run") == set()


def test_the_explorer_can_hold_as_many_nodes(doc: Doc) -> None:
    assert len(drawn(doc)[0]) <= MOST_NODES


def test_the_explorer_finds_its_nodes_by_what_it_writes(doc: Doc) -> None:
    """It joins the ids of neighbours with `, ` and cuts them apart again."""
    assert not [name for name in drawn(doc)[0] if ", " in name or " " in name]


def test_the_readers_of_yprov4ml_find_the_run_and_every_series(doc: Doc) -> None:
    assert run_found(doc) == "run:run"
    found = metrics_found(doc)
    assert found.keys() == {name for name in doc["entity"] if name.startswith("run:series/")}
    assert {file for _label, _context, _source, file in found.values()} <= {"series.zarr"}


def test_the_readers_find_a_metric_by_its_context(tmp_path: Path) -> None:
    found = set(metrics_found(of_spool(tmp_path, whole)).values())
    assert {(label, context, source) for label, context, source, _file in found} >= {
        ("loss", "training", "script"), ("train/accuracy (%)", "training", "script"),
        ("loss", "validation/second set", "script"), ("system.cpu.utilization", "run", "yprov")}


# The rules themselves: each sees the one thing that is wrong.


def golden() -> Doc:
    return VALUES["slurm"]()


@pytest.mark.parametrize(("change", "said"), [
    (lambda d: d.update(experiment={}), "unknown key"),
    (lambda d: d["entity"].update({"run:x": [{}]}), "no object"),
    (lambda d: d["entity"].update({"run:run": {}}), "is activity and entity"),
    (lambda d: d["used"].update({"_:u": {"prov:activity": "run:run"}}), "has no prov:entity"),
    (lambda d: d["used"].update({"_:u": {"prov:activity": "run:run", "prov:entity": "run:x"}}), "not there"),
    (lambda d: d["used"].update({"_:u": {"prov:activity": "run:run", "prov:entity": "run:run"}}), "no entity"),
    (lambda d: d["used"].update({"_:u": ["run:run"]}), "no object"),
    (lambda d: d["activity"]["run:run"].update({"prov:startTime": "yesterday"}), "no time"),
    (lambda d: d["activity"]["run:run"].update({"prov:startTime": {"$": "2026-01-01", "type": "xsd:date"}}), "no time"),
    (lambda d: d["activity"]["run:run"].update({"prov:label": 5}), "no text"),
    (lambda d: d["activity"]["run:run"].update({"prov:value": "5"}), "unknown attribute"),
    (lambda d: d["activity"]["run:run"].update({"prov:type": 5}), "no type"),
    (lambda d: d["activity"]["run:run"].update({"ex:a": "5"}), "not declared"),
    (lambda d: d["activity"]["run:run"].update({"prov:type": "ex:Run"}), "not declared"),
    (lambda d: d["prefix"].update({"a b": "x"}), "prefix a b"),
    (lambda d: d["wasStartedBy"].update({"_:s": {"prov:activity": "run:run"}}), "has no prov:trigger"),
    (lambda d: next(iter(d["wasAssociatedWith"].values())).update({"prov:plan": "run:run"}), "no entity"),
])
def test_the_validators_rules(change: Callable[[Doc], None], said: str) -> None:
    doc = golden()
    change(doc)
    found = complaints(doc)
    assert found
    assert all(said in line for line in found), found


@pytest.mark.parametrize("change", [
    lambda d: d["entity"]["run:job"].update({"yp:twice": ["a", "b"]}),
    lambda d: d.update(bundle={"run:b": {"entity": {"run:e": {}}}}),
    lambda d: d["used"].update({"_:again": next(iter(d["used"].values())) | {"prov:role": "another"}}),
])
def test_the_service_loses(change: Callable[[Doc], None]) -> None:
    doc = golden()
    change(doc)
    assert facts(through_the_service(json.loads(text_only(doc)))) != facts(doc)


def test_the_service_cannot_give_back_a_number() -> None:
    with pytest.raises(CannotAnswer):
        through_the_service(golden())


def test_text_only_leaves_the_document_as_it_was_but_for_types() -> None:
    doc = golden()
    before = copy.deepcopy(doc)
    sent = json.loads(text_only(doc))
    assert doc == before
    assert facts(sent) == facts(doc)
    assert sent["entity"]["run:param/big"]["prov:value"] == str(1 << 70)
    assert sent["entity"]["run:job"]["yp:type"] == {"$": "yp:Job", "type": "xsd:QName"}
    assert not [v for kind in ("entity", "activity", "agent") for r in sent[kind].values() for v in r.values()
                if not isinstance(v, str) and v.get("type") != "xsd:QName"]


@pytest.mark.parametrize("change", [
    lambda d: d.pop("entity"),
    lambda d: d["activity"]["run:run"].update({"prov:type": {"$": "mls:Run", "type": "xsd:QName"}}),
    lambda d: d["used"].update({"_:x": [{}]}),
])
def test_the_explorer_fails_on(change: Callable[[Doc], None]) -> None:
    doc = golden()
    change(doc)
    with pytest.raises(TypeError):
        drawn(doc)


def test_the_explorer_leaves_alone_what_only_an_influence_names() -> None:
    doc = golden()
    doc["entity"]["run:alone"] = {}
    doc["wasInfluencedBy"]["_:x"] = {"prov:influencee": "run:alone", "prov:influencer": "run:run"}
    nodes, links = drawn(doc)
    assert nodes - connected(nodes, links, "run:run") == {"run:alone"}


def test_readers_do_not_take_a_typed_name_for_a_metric_nor_an_unknown_file() -> None:
    doc = golden()
    series = doc["entity"]["run:series/host/cpu_utilization"]
    series["prov:type"] = {"$": "provml:Metric", "type": "xsd:QName"}
    assert "run:series/host/cpu_utilization" not in metrics_found(doc)
    series |= {"prov:type": "provml:Metric", "dcterms:identifier": "series.zip"}
    with pytest.raises(KeyError):
        metrics_found(doc)


def test_the_run_of_the_attempt_before_is_not_taken_for_the_run() -> None:
    assert set(golden()["activity"]) >= {"run:run", "previous:run"}
    assert run_found(golden()) == "run:run"


def test_a_document_has_the_same_id_in_the_service_whoever_builds_it() -> None:
    from yprov.service_v0 import database_name

    assert database_name(RUN_ID) == f"yprov-{RUN_ID}"
