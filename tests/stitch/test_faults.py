"""Errors of the hardware are in the run, by device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tests.stitch.builders import RunSpool, counter, gauge
from tests.stitch.golden.small import small_record
from tests.stitch.test_provenance import built
from yprovd.model import Device
from yprovd.stitch.faults import fault_lines
from yprovd.stitch.record import Record

GPU = Device("gpu", "GPU-7", "H100")


def recorded(tmp_path: Path, values: list[list[float]]) -> Record:
    """Samples of (Xid errors, the last one, memory errors) of one GPU, a second apart."""
    run = RunSpool(tmp_path)
    run.begin(name="demo")
    node = run.node("n1", [counter("hw.errors.xid", "{error}", 1, GPU), gauge("hw.errors.xid.last", "1", 1, GPU),
                           counter("hw.errors", "{error}", 1, GPU)])
    for second, row in enumerate(values):
        node.sample(float(second), row)
    run.finish(float(len(values)))
    return run.record()


def document(record: Record) -> dict[str, Any]:
    small = small_record()
    small.nodes = record.nodes
    return built(small)


def test_a_run_without_errors_says_nothing_of_them(tmp_path: Path) -> None:
    record = recorded(tmp_path, [[0, math.nan, 5], [0, math.nan, 5]])
    assert fault_lines(record.nodes) == []
    assert "yp:deviceErrors" not in document(record)["entity"]["run:nodes"]


def test_errors_during_the_run_are_named_by_device(tmp_path: Path) -> None:
    record = recorded(tmp_path, [[0, math.nan, 5], [1, 31, 5], [math.nan] * 3, [3, 79, 6]])
    assert fault_lines(record.nodes) == ["n1 GPU-7: 1 memory error that could not be corrected",
                                         "n1 GPU-7: 3 Xid errors, the last 79"]
    assert "3 Xid errors, the last 79" in document(record)["entity"]["run:nodes"]["yp:deviceErrors"]


def test_what_was_counted_before_the_run_is_not_the_runs_and_xid_errors_before_the_first_sample_are(
    tmp_path: Path,
) -> None:
    record = recorded(tmp_path, [[2, 13, 7]])
    assert fault_lines(record.nodes) == ["n1 GPU-7: 2 Xid errors, the last 13"]


def test_a_counter_that_began_anew_loses_nothing(tmp_path: Path) -> None:
    record = recorded(tmp_path, [[1, 31, 5], [0, math.nan, 0], [2, 45, 1]])
    assert fault_lines(record.nodes) == ["n1 GPU-7: 1 memory error that could not be corrected",
                                         "n1 GPU-7: 3 Xid errors, the last 45"]
