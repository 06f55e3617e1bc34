"""Where the stitch draws its lines: each side of a bound."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.stitch.builders import RunSpool
from tests.stitch.golden.small import small_attribution, small_record
from tests.stitch.loads import meter, report
from yprovd.model import Metric
from yprovd.stitch.attribution import attribute
from yprovd.stitch.columns import NEWER, columns_of, values_of
from yprovd.stitch.crate import build_crate
from yprovd.stitch.epochs import MOST_METRICS, final_metrics
from yprovd.stitch.record import MetricTable, Process
from yprovd.stitch.series import write_series
from yprovd.stitch.validity.series import _statistics, check_series


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="bounds")
    return spool


@pytest.mark.parametrize(("until", "scope"), [(70, "node"), (40, "partial")])
def test_a_meter_counts_that_covers_half_of_the_run(run: RunSpool, until: int, scope: str) -> None:
    """The meter of the node stops after `until` of 100 seconds; that of the processors never does."""
    node, cpu = meter("cray", "node", "node"), meter("cray", "cpu", "cpu")
    daemon = run.node("n1", [Metric("hw.energy", "J", "counter", "", 1e-6, d) for d in (node, cpu)])
    for t in range(101):
        daemon.sample(float(t), [500.0 * t if t <= until else math.nan, 100.0 * t])
    run.finish(100.0)
    assert report(run).scope == scope


@pytest.mark.parametrize(("ahead", "kept"), [(1.9, 3), (2.1, 2)])
def test_a_stamp_of_more_than_two_seconds_after_the_sample_is_none(run: RunSpool, ahead: float, kept: int) -> None:
    assert NEWER == 2_000_000_000
    device = meter("rapl", "package-0", "cpu")
    daemon = run.node("n1", [Metric("hw.energy", "J", "counter", "", 1e-6, device),
                             Metric("hw.energy.time", "s", "time", "", 1e-9, device)])
    for t in (10, 20, 30):
        daemon.sample(float(t), [100.0 * t, daemon.mono(t) / 1e9 + (ahead if t == 20 else 0.0)])
    run.finish(40.0)
    (columns,) = columns_of(run.record().nodes[0])
    _times, values, _marks, stamped = values_of(columns.parts, "hw.energy")
    assert stamped
    assert len(values) == kept


@pytest.mark.parametrize("many", [MOST_METRICS, MOST_METRICS + 1])
def test_an_epoch_of_the_document_has_ten_metrics(many: int) -> None:
    names = [f"m{i:02}" for i in range(many)]
    zeros = np.zeros(many, dtype=np.int64)
    table = MetricTable([(n, "training", 0) for n in names], np.arange(many), zeros, zeros, np.full(many, 0.5), zeros)
    (text,) = final_metrics(table, [Process(1, "n1", "b", 1, 0, rank=0)]).values()
    assert text.count(":") == 10
    assert '"m09"' in text


@pytest.mark.parametrize(("unpushed", "expected"), [(2, True), (0, False), (None, False)])
def test_the_instrument_says_where_its_commit_cannot_be_had(
    tmp_path: Path, unpushed: Any, expected: bool
) -> None:
    record = small_record()
    code = record.run["code"] | {"unpushed": unpushed}
    data = build_crate(tmp_path, replace(record, run=record.run | {"code": code}), small_attribution()).decode()
    assert (f'"{"a" * 40} with uncommitted changes, not on the remote"' in data) == expected


def test_the_last_value_is_that_of_the_last_row_whatever_the_chunks() -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(2, 2), chunks=(2, 1), dtype="f8")
    array[:] = np.array([[1.0, 2.0], [3.0, math.nan]])
    assert _statistics(array, script=True).last == 3.0


def test_names_that_are_not_utf_8_are_told_apart_from_those_that_look_like_them(run: RunSpool, tmp_path: Path) -> None:
    """Two contexts with one path in the store: zarr refuses, and no archive is made."""
    rank = run.process("n1", rank=0)
    rank.metrics(1.0, [(1.0, name, 0.5, 0, name, None) for name in ("\udcff", "\\udcff")])
    run.finish(2.0)
    record = run.record()
    write_series(record, attribute(record), tmp_path / "series.zarr")
    assert len(list((tmp_path / "series.zarr/metrics").glob("*udcff*"))) == 2


@pytest.mark.parametrize(("factor", "found"), [(1 + 1e-12, 0), (1 + 1e-7, 1)])
def test_a_statistic_may_differ_by_what_adding_up_rounds_and_no_more(
    tmp_path: Path, factor: float, found: int
) -> None:
    root = zarr.create_group(tmp_path / "series.zarr")
    root.create_array("host/x", shape=(2,), dtype="f8", attributes={"units": "1"})[:] = np.array([1.0, 3.0])
    doc = {"entity": {
        "run:telemetry": {"yp:type": {"$": "yp:Telemetry", "type": "xsd:QName"}, "yp:seriesCount": 1},
        "run:series/host/x": {
            "prov:location": "series.zarr/host/x", "yp:unit": "1", "yp:count": 2, "yp:missing": 0, "yp:min": 1.0,
            "yp:mean": 2.0 * factor, "yp:max": 3.0, "yp:last": 3.0}}}
    problems: list[str] = []
    check_series(tmp_path, doc, problems)
    assert len(problems) == found
