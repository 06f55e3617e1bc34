"""Runs that releases of yProv4ML recorded, imported: every value is what the program logged (`known.py`)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.imports import FIXTURES, attributes, document, entities, import_one, known, logged, records
from tests.yprov_rules import complaints, connected, drawn, metrics_found
from yprovd.stitch.storage import encoded
from yprovd.stitch.validate import validate_run

RECORDED = sorted(str(p.relative_to(FIXTURES)) for p in FIXTURES.glob("*/*") if p.is_dir() and (p / "prov").is_dir())
BEGIN_MS = known.T0 * 1000


class Case:
    """One recorded run and what became of it."""

    def __init__(self, release: str, mode: str, prov: Path, tmp_path: Path) -> None:
        self.layout, self.mode, self.prov = int(release[0]), mode, prov / "démo_0"
        self.timed = release != "3.2.4"
        self.done = import_one(prov, tmp_path, keep_spool=True)
        self.run = self.done.directory

    def number(self, value: Any) -> float:
        """A value as the files of this mode can hold it."""
        if value is None:
            return math.nan
        return float(np.float32(value)) if self.mode in ("nc", "zarr") else float(value)

    def expected(self, rank: int) -> dict[tuple[str | None, str], list[tuple[int, float]]]:
        out: dict[tuple[str | None, str], list[tuple[int, Any]]] = {(c, n): v for (n, c), v in
                                                                  known.metrics(rank).items()}
        if self.mode == "csv":
            name, context, values = known.ABSENT
            out[context, name] = values
        if self.layout > 1:
            name, step, value = known.BARE
            out[None, name] = [(step, value)]
        if self.layout == 3:
            name, context, step, value = known.NESTED
            out[f"TRAINING/{context}", name] = [(step, value)]
            if self.mode == "csv":
                out |= {("TRAINING", name): [(1, value)] for name, value in known.SYSTEM.items()}
        return {key: [(step, self.number(value)) for step, value in values] for key, values in out.items()}


@pytest.fixture(scope="module", params=RECORDED)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    release, mode = request.param.split("/")
    return Case(release, mode, FIXTURES / request.param / "prov", tmp_path_factory.mktemp("imported"))


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


def check_values(case: Case) -> None:
    found = logged(case.run)
    wanted = {(rank, context, name): values for rank in (0, 1)
              for (context, name), values in case.expected(rank).items()}
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        assert [step for step, _v, _t in found[key]] == [step for step, _v in values], key
        assert all(same(a, b) for (_s, a, _t), (_s2, b) in zip(found[key], values, strict=True)), key


def check_store(case: Case) -> None:
    """The same in the archive: of each rank and step the finite values, in their order."""
    for context in {context for context, _n in case.expected(0)}:
        group = zarr.open_group(case.run / "series.zarr" / "metrics" / encoded(context or "run"), mode="r")
        steps, ranks = group["step"][:], group["rank"][:]
        for rank in (0, 1):
            for (where, name), values in case.expected(rank).items():
                if where != context:
                    continue
                column = np.asarray(group[name][:], dtype=np.float64)
                for step in {s for s, _v in values}:
                    cells = column[(steps == step) & (ranks == rank)].tolist()
                    assert [c for c in cells if not math.isnan(c)] == [
                        v for s, v in values if s == step and not math.isnan(v)], (name, step)


def test_every_value_step_and_rank_is_what_was_logged(case: Case) -> None:
    check_values(case)
    check_store(case)


@pytest.mark.parametrize("case", [r for r in RECORDED if r.endswith("csv") and not r.startswith("1.")], indirect=True)
def test_every_time_stamp_is_the_one_in_the_files(case: Case) -> None:
    of_context = {"augment": "TRAINING/augment", "démo_GR0_0": None, "démo_GR1_0": None}
    seen = 0
    found = logged(case.run)
    for path in case.prov.glob("metrics_GR*/*.csv"):
        _head, *lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        match = re.fullmatch(r"(.+?)_(?:Context\.)?(TRAINING|VALIDATION|augment|démo_GR\d_0)(?:_.*)?_GR\d", path.stem)
        assert match
        name, context = match.groups()
        rank = int(path.stem[-1])
        times = [t for _s, _v, t in found[rank, of_context.get(context, context), name]]
        wanted = [int(line.rpartition(",")[2]) for line in lines]
        if any(wanted):
            assert times == wanted, path
            seen += 1
        else:  # 3.2.4 writes none: all have the time at which the metric was first logged
            assert len(set(times)) == 1
            assert BEGIN_MS < times[0] < BEGIN_MS + 2000
    assert seen >= 10


def test_times_lie_within_the_run_whatever_zone_they_were_written_in(case: Case) -> None:
    about = attributes(case.run)
    begin, end = (datetime.fromisoformat(about[f"prov:{which}Time"]) for which in ("start", "end"))
    assert begin.tzinfo is not None
    if case.layout != 3 or case.mode == "csv" or case.timed:
        assert 0 < begin.timestamp() - known.T0 < 0.1
        assert 0.2 < end.timestamp() - known.T0 < 2
    else:  # neither a zone nor a time stamp to see it by: taken as UTC, and said
        assert begin == datetime.fromtimestamp(known.T0 + 3600 * known.ZONE_HOURS, UTC) + (begin - begin.replace(
            second=20, microsecond=0))
        assert any("time zone" in note for note in case.done.notes)
    for name, activity in records(case.run, "activity").items():
        if name.startswith("ctx/"):
            first, last = (datetime.fromisoformat(activity[f"prov:{which}Time"]) for which in ("start", "end"))
            assert begin <= first <= last <= end, name


def test_contexts_begin_and_end_with_what_was_logged_in_them(case: Case) -> None:
    contexts = {e["yp:context"]: e for n, e in records(case.run, "activity").items() if n.startswith("ctx/")}
    assert set(contexts) == {"TRAINING", "VALIDATION"} | ({"TRAINING/augment"} if case.layout == 3 else set())
    found = logged(case.run)
    times = [t for (_r, c, _n), rows in found.items() if c == "VALIDATION" for _s, _v, t in rows]
    first, last = (datetime.fromisoformat(contexts["VALIDATION"][f"prov:{which}Time"]).timestamp() * 1000
                   for which in ("start", "end"))
    assert (round(first), round(last)) == (min(times), max(times))


def test_parameters_have_their_types_and_roles_again(case: Case) -> None:
    inputs, outputs = entities(case.run, "param/"), entities(case.run, "result/")
    for name, (value, context, is_output) in known.PARAMS.items():
        is_output = is_output and case.layout == 3
        label = f"{context}/{name}" if context and case.layout > 1 else name
        found = (outputs if is_output else inputs)[label]["prov:value"]
        assert found == value, name
        assert type(found) is type(value), name
    assert inputs["seed"]["yp:values"] == 2
    group = zarr.open_group(case.run / "series.zarr" / "params", mode="r")
    seeds = {(int(p), json.loads(v)) for n, p, v in zip(group["name"][:], group["process"][:], group["value"][:],
                                                        strict=True) if n == "seed"}
    assert seeds == {(0, known.SEEDS[0]), (1, known.SEEDS[1])}
    assert not {"execution_start_time", "execution_end_time"} & set(inputs)  # they are the run's begin and end
    if case.layout == 2:
        assert json.loads(inputs["layers"]["prov:value"]) == [64, 32]


def test_statistics_of_datasets_and_models_are_parameters(case: Case) -> None:
    found = {**entities(case.run, "param/"), **entities(case.run, "result/")}
    dataset, model = {1: ("train_dataset", ""), 2: ("DATASETS/train", "MODELS/lin_"),
                      3: ("TRAINING/train", "TRAINING/lin_")}[case.layout]
    assert found[f"{dataset}_stat_batch_size"]["prov:value"] == 16
    assert found[f"{model}total_params"]["prov:value"] == 3


def test_files_have_the_sizes_and_checksums_of_what_lies_there(case: Case) -> None:
    home = case.prov
    models, outputs = entities(case.run, "model/"), entities(case.run, "output/")
    artifacts = "artifacts" if case.layout == 1 else "artifacts_GR0"
    if case.layout == 1:
        assert "yp:sha256" not in outputs["note.txt"]  # it was named, and lies outside of the folder
        assert outputs["note.txt"]["yp:checksumAbsent"] == "it is no part of the imported folder"
        model = home / artifacts / "lin" / "lin_0.pth"
        name = "lin_0.pth"
    else:
        model, name = home / artifacts / "lin" / "lin.pt", "lin.pt" if case.layout == 3 else "lin"
        notes = {e["yp:rank"]: e for e in records(case.run, "entity").values() if e.get("prov:label") == "note.txt"}
        for rank in (0, 1):
            text = known.NOTE.format(rank=rank).encode()
            assert notes[rank]["yp:sha256"] == hashlib.sha256(text).hexdigest()
            assert notes[rank]["yp:sizeBytes"] == len(text)
            assert notes[rank]["yp:copiedFrom"] == "note.txt"
            assert notes[rank]["yp:type"] == "yp:Artifact"
    entity = models[f"{name}-GR0"]
    assert entity["yp:sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert entity["yp:path"] == f"prov/démo_0/{model.relative_to(home)}"
    assert len({m["yp:rank"] for m in models.values()}) == 2
    dataset = entities(case.run, "dataset/")["train_dataset" if case.layout == 1 else "train"]
    assert dataset["yp:checksumAbsent"] == "the original names no file"


def test_who_where_and_what_is_the_originals(case: Case) -> None:
    about = attributes(case.run)
    assert about["yprov:experiment_name"] == known.EXPERIMENT
    assert about["yp:importedTool"] == f"yProv4ML {case.layout}.x"
    assert about["yp:originalRunId"] == "0"
    assert about["yp:importedFrom"] == str(case.prov)
    assert about["yp:python"] == "3.11.7"
    assert about["yp:worldSize"] == 2
    assert about["yp:state"] == "completed"
    assert about["yp:damagedBytes"] == about["yp:framesLost"] == about["yp:processesWithoutGoodbye"] == 0
    assert any(a.get("yp:login") == known.USER for a in records(case.run, "agent").values())
    if case.layout == 3 and case.timed:
        assert about["yp:host"] == known.HOSTS[0]
        assert {e["yp:host"] for e in entities(case.run, "model/").values()} == set(known.HOSTS)
    if case.layout == 1 or (case.layout == 3 and case.timed):
        assert entities(case.run, "code")["source code"]["yp:commit"] == known.COMMIT


def test_series_say_where_their_values_came_from(case: Case) -> None:
    series = entities(case.run, "series/")
    if case.layout == 3 and case.mode == "csv":
        assert series["gpu_power"]["yp:originalSource"] == known.SYSTEM_SOURCE
        assert series["gpu_power"]["yprov:context"] == "TRAINING"
        assert series["cpu_power"]["yp:nonFinite"] == series["cpu_power"]["yp:count"] == 2
    sources = {e.get("yp:originalSource") for e in series.values() if e["prov:label"] == "précision"}
    assert sources == {"LoggingItemKind.METRIC" if case.layout == 2 else None}
    assert {e["yprov:source"] for e in series.values()} == {"script"}  # what `yprov show` and `validate` go by


def test_the_original_documents_are_in_the_archive_and_the_series_are_derived_from_them(case: Case) -> None:
    originals = entities(case.run, "original/")
    names = sorted(p.name for p in case.prov.glob("prov*.json"))
    assert sorted(originals) == names
    for name, entity in originals.items():
        kept = case.run / entity["prov:location"]
        assert kept.read_bytes() == (case.prov / name).read_bytes()
        assert entity["yp:sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
        assert entity["yp:rank"] == (0 if "GR0" in name else 1)
    assert len(records(case.run, "wasDerivedFrom")) >= 2
    crate = json.loads((case.run / "ro-crate-metadata.json").read_text())
    assert {"artifacts/" + n for n in names} <= {
        e["@id"].replace("%C3%A9", "é") for e in crate["@graph"]}


def test_the_archive_is_valid_and_accepted_by_yprov_and_yprov4ml(case: Case) -> None:
    assert validate_run(case.run) == []
    doc = document(case.run)
    assert complaints(doc) == []
    nodes, links = drawn(doc)
    assert connected(nodes, links, "run:run") == nodes
    assert {name.removeprefix("run:series/metrics/") for name in metrics_found(doc)} == {
        name.removeprefix("series/metrics/") for name in records(case.run, "entity") if name.startswith("series/")}


# the releases themselves

PYTHON = os.environ.get("YPROV_YPROV4ML_PYTHON", "")


@pytest.mark.skipif(not PYTHON, reason="YPROV_YPROV4ML_PYTHON names no interpreter that has yProv4ML")
@pytest.mark.parametrize("mode", ["csv", "nc", "zarr"])
def test_what_an_installed_release_writes_now_is_read_alike(mode: str, tmp_path: Path) -> None:
    asked = [PYTHON, "-c", "import importlib.metadata as m; print(m.version('yprov4ml'))"]
    release = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if release.startswith("1.") and mode != "csv":
        pytest.skip("1.x has its values in the document")
    for rank in (0, 1):
        place = tmp_path / f"rank{rank}"
        place.mkdir()
        done = subprocess.run(
            [PYTHON, "-W", "ignore", str(FIXTURES / "generate.py"), release[0], mode, str(rank), "prov"], cwd=place,
            capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.returncode == 0, done.stderr
        shutil.copytree(place / "prov" / "démo_0", tmp_path / "prov" / "démo_0", dirs_exist_ok=True)
    made = Case(release, mode, tmp_path / "prov", tmp_path)
    check_values(made)
    check_store(made)
    test_parameters_have_their_types_and_roles_again(made)
    test_files_have_the_sizes_and_checksums_of_what_lies_there(made)
    test_the_archive_is_valid_and_accepted_by_yprov_and_yprov4ml(made)
