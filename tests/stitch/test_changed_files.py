"""A file that was changed between its declaration and the look at it: the document, the table of files and the summary
say so, and nobody else is suspected."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import yprov
from tests.stitch.builders import RunSpool, ns
from tests.stitch.golden.small import SHA, config, file, small_attribution, small_record, small_series
from tests.test_summary import view
from yprov.summary import facts, lines
from yprovd.stitch import stitch
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import DeclaredFile
from yprovd.wire import Kind


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    return RunSpool(tmp_path / "spool")


def looked_at(
    run: RunSpool, *, modified: float, declared: float = 5.0, looked: float = 6.0, how: str = "", **more: Any
) -> DeclaredFile:
    """A file declared, modified and looked at at these times."""
    node = run.node("n1", [])
    process = run.process("n1", rank=0)
    path = "/data/model.pt"
    process.json(declared + 0.1, Kind.FILE, {"t": process.mono(declared), "role": "model", "path": path, "name": "net",
                                             "copy": False, **({"how": how} if how else {})})
    node.json(looked, Kind.FACTS, {"path": path, "t": process.mono(declared), "source": f"{process.packer.source:016x}",
                                   "modified_ns": ns(modified), "size": 5, "sha256": SHA, **more})
    run.finish(10.0)
    (found,) = run.record().files
    return found


def test_a_file_that_was_changed_before_it_was_looked_at_is_told(run: RunSpool) -> None:
    run.begin()
    assert looked_at(run, modified=5.3).changed_after_ns == 300_000_000


@pytest.mark.parametrize("times", [
    {"modified": 4.9}, {"modified": 5.0}, {"modified": 5.009},  # clocks differ by some ms
    {"modified": 6.5},  # a clock of its own: it was looked at before
    {"modified": 5.3, "how": "opened"},  # nobody has said when it was complete
    {"modified": 5.3, "sha256": None, "reason": "a folder of 3 files"},
    {"modified": 5.3, "sha256": None, "modified_ns": None},
    {"modified": 5.3, "sha256": None, "modified_ns": "yesterday"},
])
def test_no_other_file_is_suspected(run: RunSpool, times: dict[str, Any]) -> None:
    run.begin()
    assert looked_at(run, **times).changed_after_ns == 0


def test_files_of_an_imported_run_bear_the_times_of_their_copies(run: RunSpool) -> None:
    run.begin(imported={"tool": "another"})
    assert looked_at(run, modified=5.3).changed_after_ns == 0


def test_document_and_summary_say_which_files_were_changed() -> None:
    record = small_record()
    record.files += [file("model", "late", 5.0, changed_after_ns=300_400_000),
                     file("output", "huge", 6.0, changed_after_ns=20_000_000, sha256=None, reason="larger")]
    document = json.loads(build_document(record, small_attribution(), small_series()))
    late, plain = document["entity"]["run:model/late"], document["entity"]["run:output/report.txt"]
    assert late["yp:changedText"] == (
        "it was changed 0.3 s after it was logged: the checksum is that of the later content")
    assert late["yp:changedAfterSeconds"]["$"] == "0.3"
    assert not {"yp:changedText", "yp:changedAfterSeconds"} & set(plain)
    run = document["activity"]["run:run"]
    assert run["yp:changedFileCount"]["$"] == "2"
    assert run["yp:changedFiles"].splitlines() == [
        "model late: it was changed 0.3 s after it was logged: the checksum is that of the later content",
        "output huge: it was changed 0.02 s after it was logged: its size is that of the later content"]


def test_the_summary_counts_them() -> None:
    told = view()
    assert not [line for line in lines(told) if line.startswith("  changed")]
    told = replace(told, run={**told.run, "changedFileCount": 2, "changedFiles": "model a: x\noutput b: y"})
    assert "  changed  2 files were changed after being logged, and before the checksum was taken" in lines(told)
    assert facts(told)["changed_files"] == {"count": 2, "files": ["model a: x", "output b: y"]}


def test_the_table_of_files_has_the_time(tmp_path: Path) -> None:
    folder = tmp_path / "20260101T000000Z-resnet-0b7c1a52"
    (folder / "spool").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(config().to_json()))
    spool = RunSpool(folder / "spool")
    spool.begin(config=config().to_json())
    assert looked_at(spool, modified=5.3004).changed_after_ns == 300_400_000
    stitch(folder, keep_spool=True)
    with yprov.open_run(folder) as read:
        assert read.files["changed_after"].tolist() == [0.3004]
