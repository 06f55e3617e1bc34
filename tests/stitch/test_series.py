"""series.zarr as a reader finds it: opened with xarray, compared with what was sampled and logged."""

from __future__ import annotations

import itertools
import json
import math
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.stitch.builders import T0, RunSpool, S, counter, gauge, ns, package, time_of
from yprovd.model import Device, Metric
from yprovd.stitch.align import integers, storage_of, stored_counter, stored_gauge
from yprovd.stitch.attribution import attribute
from yprovd.stitch.record import Record
from yprovd.stitch.series import SeriesInfo, write_series
from yprovd.stitch.storage import CHUNK, SHARD, Store, encoded, layout
from yprovd.wire import Kind

CPU = gauge("system.cpu.utilization", "1", 0.01)
RSS = gauge("process.memory.rss", "By", 1)
ENERGY = counter("hw.energy", "J", 1e-6, package())


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="réseau")
    return spool


def write(run: RunSpool, record: Record | None = None, name: str = "series.zarr") -> tuple[Path, dict[str, SeriesInfo]]:
    record = record or run.record()
    path = run.folder.parent / name
    return path, {s.name: s for s in write_series(record, attribute(record), path)}


def opened(path: Path, group: str) -> xr.Dataset:
    """With default options, as a user does it; warnings are errors in these tests."""
    dataset = xr.open_zarr(path, group=group)
    dataset.load()
    return dataset


def test_every_group_opens_with_xarray(run: RunSpool) -> None:
    for host in ("n1", "n2"):
        node = run.node(host, [CPU, ENERGY, gauge("yprov.sensor.duration", "s", 1e-6, Device("sensor", "cpu"))],
                        facts={"logical_cpus": 4})
        for t in range(3):
            node.sample(t + 0.002, [0.25, 7.0 * t, 1e-4])
    rank = run.process("n1", rank=0)
    with rank.span(0.5, 2.0, "context", "training"):
        rank.metric(1.0, "loss", 0.5, step=1)
        rank.event(1.5, "checkpoint", path="a.pt")
    run.finish(3.0)
    path, _infos = write(run)
    groups = {"host", "rapl", "sensor", "clock", "metrics/training", "spans", "events", "nodes", "processes",
              "tasks", "meters", "accounts"}
    tree = xr.open_datatree(path, engine="zarr")
    assert {g.strip("/") for g in tree.groups} == groups | {"", "metrics"}
    for group in groups:
        assert opened(path, group).sizes
    assert set(json.loads(tree.attrs.pop("sparse")).values()) == {0}
    assert dict(tree.attrs) == {"Conventions": "CF-1.11", "title": "réseau", "format": "yprov-series", "version": 1}
    host = opened(path, "host")
    assert host.cpu_utilization.dims == ("node", "time")
    assert host.cpu_utilization.attrs == {"units": "percent", "long_name": "the system.cpu.utilization",
                                          "metric": "system.cpu.utilization", "cell_methods": "time: point"}
    assert host.cpu_utilization.values.tolist() == [[25.0] * 3] * 2
    assert host.time.dtype == "datetime64[ns]"
    assert host.time.values.astype(int).tolist() == [ns(0), ns(1), ns(2)]
    assert host.hostname.values.tolist() == ["n1", "n2"]
    rapl = opened(path, "rapl")
    assert rapl.energy_increment.dims == ("device", "time")
    assert rapl.node.values.tolist() == [0, 1]
    assert rapl.device_name.values.tolist() == ["package-0"] * 2
    assert json.loads(str(rapl.device_attributes.values[0])) == {"summed": True}
    assert opened(path, "sensor").yprov_sensor_duration.attrs["units"] == "us"
    assert opened(path, "clock").offset_us.values.tolist() == [[2000.0] * 3] * 2


def test_consolidated_metadata_are_those_that_zarr_would_write(run: RunSpool) -> None:
    node = run.node("n1", [CPU])
    node.sample(0.0, [0.5])
    path, _infos = write(run)
    ours = json.loads((path / "zarr.json").read_text())
    with pytest.warns(zarr.errors.ZarrUserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(path)
    theirs = json.loads((path / "zarr.json").read_text())

    def plain(document: dict[str, Any]) -> dict[str, Any]:
        below = document["consolidated_metadata"]["metadata"]
        return {k: {n: v for n, v in m.items() if n != "consolidated_metadata"} for k, m in below.items()}

    assert plain(ours) == plain(theirs)


def test_what_is_missing_is_nan_and_not_zero(run: RunSpool) -> None:
    """A value that was absent, a tick that was missed, and a node that started five seconds late."""
    n1, n2 = run.node("n1", [CPU, RSS]), run.node("n2", [CPU, RSS], at=5.0)
    for t in (0, 1, 2, 4, 5, 6):
        n1.sample(t, [math.nan if t == 1 else 0.5, 1e9])
    for t in (5, 6):
        n2.sample(t, [0.25, 5e9])
    path, infos = write(run)
    host = opened(path, "host")
    nan = math.nan
    np.testing.assert_array_equal(host.cpu_utilization, [[50, nan, 50, nan, 50, 50, 50], [nan] * 5 + [25, 25]])
    np.testing.assert_array_equal(host.process_memory_rss[1], [nan] * 5 + [5e9, 5e9])
    info = infos["host/cpu_utilization"]
    assert (info.count, info.missing, info.min, info.max, info.unit) == (7, 7, 25.0, 50.0, "percent")
    array = zarr.open_array(path / "host/cpu_utilization")
    assert array.fill_value == array.attrs["_FillValue"] == -(2**31)


def test_increments_of_a_counter_sum_to_last_minus_first(run: RunSpool) -> None:
    rng = np.random.default_rng(3)
    joules = 1e3 + np.cumsum(rng.uniform(0, 300, 50))
    node = run.node("n1", [ENERGY])
    for t, value in enumerate(joules.tolist()):
        node.sample(t, [math.nan if t in (0, 7, 8, 9) else value])
    path, infos = write(run)
    array = zarr.open_array(path / "rapl/energy_increment")
    stored = array[:][array[:] != array.fill_value]
    first, last = round(joules[1] * 1e6), round(joules[-1] * 1e6)
    assert int(stored.sum()) == last - first == infos["rapl/energy_increment"].total
    assert int(zarr.open_array(path / "rapl/energy_start")[0]) == first
    rapl = opened(path, "rapl")
    assert rapl.energy_increment.values[0, 1] == 0.0
    assert np.isnan(rapl.energy_increment.values[0, [0, 7, 8, 9]]).all()
    assert rapl.energy_increment.values[0, 10] == pytest.approx((joules[10] - joules[6]) * 1e6, abs=1)
    assert rapl.energy_increment.attrs["cell_methods"] == "time: sum"


def test_a_counter_that_falls_was_restarted(run: RunSpool) -> None:
    node = run.node("n1", [counter("system.disk.io", "By", 1)])
    for t, value in enumerate([100.0, 250.0, 30.0, 80.0]):
        node.sample(t, [value])
    path, infos = write(run)
    disk = opened(path, "host").disk_io_increment
    assert disk.values.tolist() == [[0.0, 150.0, 0.0, 50.0]]
    assert disk.attrs["resets"] == 1
    assert infos["host/disk_io_increment"].total == 200.0


@given(st.lists(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1e9)), min_size=6, max_size=6), min_size=1))
def test_increments_are_never_negative_and_sum_exactly(rows: list[list[float]]) -> None:
    x = np.array(rows)
    metric = counter("hw.energy", "J", 1e-3)
    cells, start, resets, figures = stored_counter(x.copy(), storage_of(metric))
    total = fell = 0
    for i, row in enumerate(rows):
        valid = [int(np.rint(v * 1000)) for v in row if not math.isnan(v)]
        total += sum(max(0, b - a) for a, b in itertools.pairwise(valid))
        fell += sum(b < a for a, b in itertools.pairwise(valid))
        assert int(start[i]) == (valid[0] if valid else -(2**63))
    there = cells[cells != -(2**63)]
    assert (there >= 0).all()
    assert (int(there.sum()), resets, figures.missing) == (total, fell, int(np.isnan(x).sum()))


def test_of_two_samples_in_one_slot_the_later_wins_where_it_has_a_value(run: RunSpool) -> None:
    """The daemon was started again within a second, once with another set of sensors."""
    first = run.node("n1", [CPU, RSS])
    first.sample(0.0, [0.1, 1.0])
    first.sample(1.0, [0.2, 2.0])
    second = run.node("n1", [CPU, RSS], at=1.2)
    second.sample(1.3, [0.3, math.nan])
    third = run.node("n1", [gauge("system.load", "{process}"), CPU], at=1.3)
    third.sample(1.4, [5.0, math.nan])
    third.sample(2.0, [6.0, 0.4])
    path, _infos = write(run)
    host = opened(path, "host")
    np.testing.assert_array_equal(host.cpu_utilization, [[10, 30, 40]])
    np.testing.assert_array_equal(host.process_memory_rss, [[1, 2, math.nan]])
    np.testing.assert_array_equal(host["load"], [[math.nan, 5, 6]])


def test_another_rate_is_a_group_with_a_time_of_its_own(run: RunSpool) -> None:
    slow, fast = run.node("n1", [CPU]), run.node("n2", [CPU], interval_s=0.5)
    for t in (0, 1, 2):
        slow.sample(t, [0.5])
        fast.sample(t, [0.5])
        fast.sample(t + 0.5, [0.6])
    path, _infos = write(run)
    assert opened(path, "host").sizes == {"node": 1, "time": 3}
    assert opened(path, "host_0.5s").sizes == {"node": 1, "time": 6}
    assert opened(path, "clock_0.5s").offset_us.shape == (1, 6)


def test_a_devices_own_time_is_stored_as_microseconds_after_the_tick(run: RunSpool) -> None:
    gpu = Device("gpu", "GPU-1", "H100", {"meter": "gpu", "summed": True})
    node = run.node("n1", [counter("hw.energy", "J", 1e-3, gpu), time_of("hw.energy", gpu)])
    offset = node.mono(0.0) / 1e9
    for t, lag in ((0, 0.1), (1, 0.025), (2, math.nan), (3, 4000.0)):
        node.sample(t + 0.002, [100.0 * t, t + 0.002 - lag + offset])
    path, infos = write(run)
    table = opened(path, "gpu")
    assert table.energy_time_offset.values[0].tolist()[:2] == [-98_000.0, -23_000.0]
    assert math.isnan(table.energy_time_offset.values[0, 2])
    assert table.energy_time_offset.values[0, 3] == 2_000.0 - 4_000_000_000.0  # stood still for an hour: stored wider
    assert table.energy_time_offset.attrs["units"] == "us"
    assert table.energy_time_offset.attrs["metric"] == "hw.energy.time"
    assert zarr.open_array(path / "gpu/energy_time_offset").dtype == np.int64
    assert infos["gpu/energy_time_offset"].total is None


def test_times_that_are_near_their_ticks_are_small_integers(run: RunSpool) -> None:
    gpu = Device("gpu", "GPU-1")
    node = run.node("n1", [time_of("hw.energy", gpu)])
    for t in range(3):
        node.sample(t, [node.mono(t) / 1e9])
    path, _infos = write(run)
    array = zarr.open_array(path / "gpu/energy_time_offset")
    assert (array.dtype, array[:].tolist()) == (np.int32, [[0, 0, 0]])


POWER = [gauge("hw.power", "W", 1e-3, Device("gpu", f"GPU-{i}")) for i in (0, 1)]
BUSY = [gauge("hw.gpu.utilization", "1", 0.01, Device("gpu", f"GPU-{i}")) for i in (0, 1)]


def test_what_devices_record_themselves_is_a_table_of_its_own(run: RunSpool) -> None:
    """Two GPUs; power and utilisation of the second have their values at the same times, some of the power's alone."""
    node = run.node("n1", POWER, traced=[*POWER, BUSY[1]])
    node.sample(0, [100.0, 200.0])
    node.trace(0.5, (1, [0.1, 0.2, 0.3], [200.5, 201.0, 202.0]), (2, [0.1, 0.3], [0.5, 0.7]))
    node.trace(1.0, (0, [0.55, 0.6], [99.0, 98.0]), (1, [0.7], [203.0]), (2, [], []))
    node.sample(1, [100.0, 200.0])
    path, infos = write(run)
    table = opened(path, "gpu_fast").to_dataframe()
    assert table.device.tolist() == [0, 0, 1, 1, 1, 1]
    assert [t.value for t in table.time] == [ns(t) for t in (0.55, 0.6, 0.1, 0.2, 0.3, 0.7)]
    assert table.power.tolist() == [99_000.0, 98_000.0, 200_500.0, 201_000.0, 202_000.0, 203_000.0]
    np.testing.assert_array_equal(table.gpu_utilization, [math.nan, math.nan, 50, math.nan, 70, math.nan])
    assert opened(path, "gpu").device.values.tolist() == ["GPU-0", "GPU-1"]
    info = infos["gpu_fast/power"]
    assert (info.metric, info.unit, info.count, info.last, info.source) == ("hw.power", "mW", 6, 203_000.0, "yprov")
    assert infos["gpu_fast/gpu_utilization"].missing == 4


def test_a_daemon_that_starts_again_reads_the_buffer_once_more_and_nothing_counts_twice(run: RunSpool) -> None:
    first, second = run.node("n1", POWER, traced=POWER[:1]), run.node("n1", POWER, traced=POWER[:1], at=5.0)
    first.sample(0, [1.0, 1.0])
    first.trace(4.0, (0, [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]))
    second.sample(5, [1.0, 1.0])
    second.trace(6.0, (0, [2.000004, 2.9, 3.5, 4.0], [20.0, 29.0, 35.0, 40.0]))
    path, _infos = write(run)
    assert opened(path, "gpu_fast").power.values.tolist() == [10_000.0, 20_000.0, 30_000.0, 35_000.0, 40_000.0]


def test_traces_have_the_rows_of_their_own_rate_and_a_device_that_only_records_has_one_too(run: RunSpool) -> None:
    slow, fast = run.node("n1", POWER[:1]), run.node("n2", POWER[1:], interval_s=0.5, traced=[POWER[1], BUSY[0]])
    slow.sample(0, [1.0])
    fast.sample(0, [1.0])
    fast.trace(1.0, (0, [0.25], [5.0]), (1, [0.5], [0.1]))
    path, _infos = write(run)
    assert opened(path, "gpu_0.5s").device.values.tolist() == ["GPU-1", "GPU-0"]
    assert opened(path, "gpu_0.5s_fast").device.values.tolist() == [0, 1]
    assert "gpu_fast" not in zarr.open_group(path, mode="r")


def test_traces_that_are_none_are_damage_and_the_others_count(run: RunSpool) -> None:
    node = run.node("n1", POWER, traced=POWER[:1])
    node.sample(0, [1.0, 1.0])
    node.frame(1.0, Kind.TRACE, b"\0")
    node.frame(1.0, Kind.TRACE, struct.pack("<IHHI", node.schema_id, 1, 0, 5))  # five values, and none there
    node.frame(1.0, Kind.TRACE, struct.pack("<IHHI", node.schema_id, 1, 9, 0))  # of a metric that was not announced
    node.trace(2.0, (0, [1.0], [7.0]))
    record = run.record()
    assert record.damaged_bytes == 1 + 12
    (curve,) = record.nodes[0].traces
    assert (curve.metric, curve.values.tolist(), curve.wall_ns.tolist()) == (POWER[0], [7.0], [ns(1.0)])
    assert curve.mono_ns.tolist() == [node.mono(1.0)]


def test_what_each_meter_counted_is_a_table(run: RunSpool) -> None:
    cray = Device("cray", "node", "", {"meter": "node", "summed": True})
    gpus = [Device("gpu", f"GPU-{i}", "H100", {"meter": "gpu", "summed": True}) for i in (0, 1)]
    node = run.node("n1", [counter("hw.energy", "J", 1.0, d) for d in (cray, *gpus)])
    for t in range(11):
        node.sample(t, [500.0 * t, 100.0 * t, math.nan])
    rank = run.process("n1", rank=0)
    with rank.span(2.0, 4.0, "context", "training"):
        pass
    run.finish(10.0)
    path, _infos = write(run)
    table = opened(path, "meters").to_dataframe()
    assert table["class"].tolist() == ["cray", "gpu", "gpu"]
    assert table.device.tolist() == ["node", "GPU-0", "GPU-1"]
    assert table.meter.tolist() == ["node", "gpu", "gpu"]
    assert table.method.tolist() == ["measured", "measured", "absent"]
    np.testing.assert_array_equal(table.energy, [5000.0, 1000.0, math.nan])
    assert (table.counts.tolist(), table.counts_gpu.tolist()) == ([1, 0, 0], [0, 1, 0])
    assert table.reason.tolist() == ["", "", "its counter and its power were never read"]
    assert (table.node.tolist(), table.resets.tolist()) == ([0, 0, 0], [0, 0, 0])
    assert opened(path, "spans").gpu_energy.values.tolist() == pytest.approx([200.0])


def test_a_node_whose_clock_is_years_off_does_not_blow_up_the_grid(run: RunSpool) -> None:
    n1, n2 = run.node("n1", [CPU]), run.node("n2", [CPU])
    for t in range(3):
        n1.sample(t, [0.5])
    n2.sample(-10 * 365 * 86_400.0, [0.9])
    path, infos = write(run)
    host = opened(path, "host")
    assert host.sizes["time"] < 100_000
    assert infos["host/cpu_utilization"].count == 3
    assert (path / "host/cpu_utilization").stat().st_size < 10_000


def test_a_value_that_does_not_fit_is_stored_wider_and_never_wraps() -> None:
    watt = gauge("hw.power", "W", 1.0)
    for value, dtype in ((2.0**31 - 1, "int32"), (2.0**31, "int64"), (-(2.0**31), "int64"), (1e19, "float64")):
        cells, figures = stored_gauge(np.array([[value, math.nan]]), storage_of(watt))
        assert cells.dtype == dtype
        assert cells[0, 0] == value
        assert (figures.count, figures.missing, figures.max) == (1, 1, value)
    assert integers(np.array([[math.nan]]), "i4")[0].tolist() == [[-(2**31)]]
    cells, figures = stored_gauge(np.array([[math.inf, 5.0]]), storage_of(watt))
    assert (figures.count, figures.missing) == (1, 1)


@pytest.mark.parametrize(("metric", "units", "dtype", "value", "stored"), [
    (gauge("a", "1", 0.01), "percent", "int32", 0.5, 50),
    (gauge("a", "1", 0.001), "1", "float32", 0.5, 0.5),
    (gauge("a", "By", 1 << 20), "MiB", "int64", 3 << 20, 3),
    (gauge("a", "By", 4096), "KiB", "int64", 4096, 4),
    (gauge("a", "By", 1), "byte", "int64", 7, 7),
    (gauge("a", "W", 1e-3), "mW", "int32", 1.5, 1500),
    (gauge("a", "s", 0.01), "ms", "int32", 0.25, 250),
    (gauge("a", "Hz", 1e6), "MHz", "int32", 1.98e9, 1980),
    (gauge("a", "Cel", 1), "degC", "int32", 55, 55),
    (gauge("a", "{process}", 1), "1", "int32", 9, 9),
    (gauge("a", "{thread}", 0.01), "1", "float32", 8.25, 8.25),
    (gauge("system.cpu.load_average.1m", "1", 0.01), "1", "float32", 8.25, 8.25),  # as it was before
    (gauge("a", "J", 0.5), "J", "float64", 0.5, 0.5),
    (gauge("a", "furlong", 1), "furlong", "float64", 1.25, 1.25),
])
def test_units_are_stored_as_the_table_says(
    metric: Metric, units: str, dtype: str, value: float, stored: float
) -> None:
    unit = storage_of(metric)
    cells, _figures = stored_gauge(np.array([[float(value)]]), unit)
    assert (unit.units, str(cells.dtype), cells[0, 0]) == (units, dtype, stored)


def test_metrics_of_one_short_name_get_arrays_of_their_own(run: RunSpool) -> None:
    node = run.node("n1", [gauge("system.load", "{p}"), gauge("hw.load", "{p}"), gauge("time", "{p}"),
                           counter("load", "{p}", 1)])
    node.sample(0, [1, 2, 3, 4])
    path, infos = write(run)
    host = opened(path, "host")
    assert {i.metric: n for n, i in infos.items()} == {
        "system.load": "host/load", "hw.load": "host/load_2", "time": "host/time_2", "load": "host/load_increment"}
    assert (host["load"].item(), host.load_2.item(), host.time_2.item(), host.load_start.item()) == (1, 2, 3, 4)


def test_a_table_holds_every_logged_value_exactly(run: RunSpool) -> None:
    rank = run.process("n1", rank=3)
    values = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308]
    with rank.span(0.0, 9.0, "context", "training"), rank.span(0.0, 9.0, "epoch", 2):
        for i, v in enumerate(values):
            rank.metric(1.0 + i, "loss", v, step=10 * i)
            rank.metric(1.5 + i, "accuracy", v / 2, step=10 * i)
    path, infos = write(run)
    table = opened(path, "metrics/training").to_dataframe()
    assert table.loss.tolist() == values
    assert np.signbit(table.loss[2])
    assert table.accuracy.tolist() == [v / 2 for v in values]
    assert table.step.tolist() == [0, 10, 20, 30, 40]
    assert table.epoch.tolist() == [2] * 5
    assert table["rank"].tolist() == [3] * 5
    assert [t.value for t in table.time] == [ns(1.0 + i) for i in range(5)]
    info = infos["metrics/training/loss"]
    assert (info.metric, info.context, info.source, info.count, info.missing) == ("loss", "training", "script", 5, 0)
    assert (info.min, info.max, info.last) == (-0.0, values[-1], values[-1])


def test_nan_and_infinity_that_were_logged_are_kept_and_counted(run: RunSpool) -> None:
    rank = run.process("n1")
    rank.metrics(1.0, [(1.0, "loss", v, i, None, None)
                       for i, v in enumerate([1.0, math.nan, math.inf] + [0.5] * 5000)])
    rank.metric(2.0, "other", 1.0, step=1)
    path, infos = write(run)
    table = opened(path, "metrics/run").to_dataframe()
    np.testing.assert_array_equal(table.loss[:4], [1.0, math.nan, math.inf, 0.5])
    info = infos["metrics/run/loss"]
    assert (info.count, info.non_finite, info.missing, info.max) == (5003, 2, 0, 1.0)
    assert infos["metrics/run/other"].missing == 5002


def test_a_metric_logged_again_opens_a_row_and_nothing_is_averaged(run: RunSpool) -> None:
    rank = run.process("n1", rank=0)
    for t, (name, value) in enumerate([("a", 1.0), ("b", 2.0), ("a", 3.0), ("b", 4.0), ("a", 5.0)]):
        rank.metric(t, name, value, step=7)
    for t, (name, value) in enumerate([("a", 6.0), ("a", 7.0), ("a", 8.0), ("b", 9.0)]):
        rank.metric(10 + t, name, value)  # without a step: what comes together is what was logged together
    path, _infos = write(run)
    table = opened(path, "metrics/run").to_dataframe()
    np.testing.assert_array_equal(table.a, [1, 3, 5, 6, 7, 8])
    np.testing.assert_array_equal(table.b, [2, 4, math.nan, math.nan, math.nan, 9])
    np.testing.assert_array_equal(table.step, [7, 7, 7, math.nan, math.nan, math.nan])


def test_ranks_have_rows_of_their_own_in_the_order_of_time(run: RunSpool) -> None:
    one, zero, none = run.process("n1", rank=1), run.process("n1", rank=0), run.process("n1")
    for step in range(3):
        one.metric(step + 0.2, "loss", 10.0 + step, step=step)
        zero.metric(step + 0.2, "loss", float(step), step=step)
    none.metric(9.0, "loss", 99.0, step=0)
    path, _infos = write(run)
    table = opened(path, "metrics/run").to_dataframe()
    assert table["rank"].tolist() == [0, 1, 0, 1, 0, 1, 2]  # the process without a rank is the third
    assert table.loss.tolist() == [0, 10, 1, 11, 2, 12, 99]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 5]), st.sampled_from([None, 0, 1]),
                          st.sampled_from("abc"), st.sampled_from(["x", None])), min_size=1, max_size=60))
def test_a_table_is_what_a_plain_loop_would_make(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, int | None, int | None, str, str | None]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "spool").mkdir()
    run = RunSpool(folder / "spool")
    ranks = [run.process("n1", rank=r) for r in range(3)]
    rows: dict[str | None, list[dict[str, Any]]] = {}
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for i, (r, step, epoch, name, context) in enumerate(calls):
        ranks[r].metrics(i, [(i, name, i + 0.5, step, context, epoch)])
        row = latest.get((r, step, epoch, context))
        if row is None or name in row:
            row = latest[r, step, epoch, context] = {"rank": r, "step": step, "epoch": epoch, "time": ns(i)}
            rows.setdefault(context, []).append(row)
        row[name] = i + 0.5
    path, _infos = write(run)
    for context, expected in rows.items():
        table = opened(path, f"metrics/{context or 'run'}").to_dataframe()
        found = [{k: int(v.value) if k == "time" else v for k, v in line.items() if v == v}
                 for line in table.to_dict("records")]
        assert found == [{k: v for k, v in row.items() if v is not None} for row in expected]


NAMES = ["loss/train", "Verlust é 你好", "step", "rank", "time", "row", "epoch", "zarr.json", ".hidden", "..", "__x",
         "50%", "a\\b", "tab\there", "%2F", " ", "loss train", "c"]


def test_names_are_kept_whatever_is_in_them(run: RunSpool) -> None:
    rank = run.process("n1", rank=0)
    for i, name in enumerate(NAMES):
        rank.metric(1.0, name, float(i), step=0)
        rank.metrics(2.0, [(2.0, "loss", float(i), 0, name, None)])
    rank.metrics(2.0, [(2.0, "loss", 77.0, 0, "run", None), (2.0, "loss", 78.0, 0, "a/b", None)])
    path, infos = write(run)
    table = opened(path, "metrics/run")
    columns = {unquote(str(name)): variable for name, variable in table.items()}
    for i, name in enumerate(NAMES):
        info = infos[f"metrics/run/{encoded(name, {'step', 'epoch', 'rank', 'time', 'row'})}"]
        assert (info.metric, info.context) == (name, None)
        assert unquote(info.name.rpartition("/")[2]) == name
        assert table[info.name.rpartition("/")[2]].attrs["long_name"] == name
        if name not in ("step", "epoch", "rank", "time"):
            assert columns[name].values.tolist() == [float(i)]
    contexts = {unquote(g.rpartition("/")[2]): g for g in xr.open_datatree(path, engine="zarr").groups
                if g.startswith("/metrics/")}
    for i, name in enumerate(NAMES):
        assert opened(path, contexts[name]).loss.values.tolist() == [float(i)]
    assert opened(path, "metrics/%72un").loss.item() == 77.0
    assert opened(path, "metrics/a%2Fb").loss.item() == 78.0


def test_a_name_that_no_file_can_have_is_cut_and_told_apart(run: RunSpool) -> None:
    rank = run.process("n1")
    names = ["x" * 400, "x" * 401, "é/" * 150, "", "\udcff"]
    for name in names:
        rank.metric(1.0, name, 1.0, step=0)
    path, infos = write(run)
    assert len(infos) == len(names)
    assert all(len(i.name.encode()) < 230 for i in infos.values())
    assert {v.attrs["long_name"] for v in opened(path, "metrics/run").values()} >= set(names[:4])


def test_long_columns_of_short_decimals_are_small_and_exact(run: RunSpool) -> None:
    rng = np.random.default_rng(5)
    n = 20_000
    columns = {
        "loss": np.round(rng.uniform(-3, 3, n), 4) + 0.0, "util": np.round(rng.uniform(0, 100, n)),
        "noise": rng.standard_normal(n), "zero": np.full(n, -0.0), "huge": np.full(n, 2.0**40),
    }
    rank = run.process("n1", rank=0)
    rank.metrics(1.0, [(i * 0.001, name, float(column[i]), i, "training", None)
                       for i in range(n) for name, column in columns.items() if name != "util" or i % 2 == 0])
    path, infos = write(run)
    group = zarr.open_group(path / "metrics/training", mode="r")
    for name, column in columns.items():
        array = group[name]
        raw = array[:]
        if name in ("loss", "util"):
            assert raw.dtype == np.int32
            there = raw != array.fill_value
            exact = np.where(there, raw / 10.0 ** int(array.attrs.get("decimals", 0)), np.nan)
            expected = column.copy()
            if name == "util":
                expected[1::2] = np.nan
            np.testing.assert_array_equal(exact, expected)
            decoded = opened(path, "metrics/training")[name].values
            np.testing.assert_array_max_ulp(decoded[there], expected[there], maxulp=1)
            assert np.isnan(decoded[~there]).all()
            assert infos[f"metrics/training/{name}"].max == np.nanmax(expected)
        else:
            assert raw.tobytes() == column.tobytes()
    assert group["loss"].attrs["decimals"] == 4
    time = opened(path, "metrics/training").time
    assert group["time"].attrs["units"].startswith("milliseconds since")
    assert time.values.astype(int).tolist() == [T0 + i * S // 1000 for i in range(n)]


def test_spans_events_nodes_and_processes_are_tables(run: RunSpool) -> None:
    node = run.node("n1", [ENERGY], facts={"logical_cpus": 8, "memory_bytes": 1 << 34, "cpu_model": "Example"})
    for t in range(11):
        node.sample(t, [10.0 * t])
    rank = run.process("n1", rank=0, pid=77)
    with rank.span(1.0, 9.0, "context", "training"), rank.span(2.0, 8.0, "epoch", 3):
        rank.begin(4.0, "span", "forward/é")
        rank.event(5.0, "checkpoint", path="a.pt", size=3)
    run.finish(10.0)
    path, _infos = write(run)
    spans = opened(path, "spans").to_dataframe()
    assert spans["name"].tolist() == ["training", "3", "forward/é"]
    assert spans.kind.tolist() == ["context", "epoch", "span"]
    assert spans.duration.tolist()[:2] == [8.0, 6.0]
    assert np.isnan(spans.duration[2])
    assert spans.end.isna().tolist() == [False, False, True]
    assert spans.begin[0].value == ns(1.0)
    assert spans.epoch.isna().tolist() == [True, False, False]
    assert spans.energy.tolist() == pytest.approx([90.0, 80.0, 60.0])  # the last one is open until the end of the run
    events = opened(path, "events").to_dataframe()
    assert json.loads(events["attributes"][0]) == {"path": "a.pt", "size": 3}
    assert (events.context[0], events.epoch[0]) == ("training", 3)
    nodes = opened(path, "nodes").to_dataframe()
    assert (nodes.hostname[0], nodes.logical_cpus[0], nodes.memory_bytes[0]) == ("n1", 8, 1 << 34)
    assert json.loads(nodes.facts[0])["cpu_model"] == "Example"
    processes = opened(path, "processes").to_dataframe()
    assert (processes.host[0], processes.pid[0], processes["rank"][0]) == ("n1", 77, 0)


def test_a_file_is_missing_when_neither_its_process_nor_the_daemon_has_seen_it(run: RunSpool) -> None:
    node, rank = run.node("n1", [ENERGY]), run.process("n1", rank=0)
    more: list[dict[str, Any]] = [{}, {"seen": True}, {"how": "opened"}, {}]
    for t, declared in enumerate(more):
        rank.json(t, Kind.FILE, {"t": t, "role": "output", "path": f"/{t}", "name": "", "copy": False, **declared})
        facts = {"t": t, "path": f"/{t}", "source": f"{rank.packer.source:016x}", "reason": "none"}
        node.json(t, Kind.FACTS, {**facts, "missing": True} if t < 3 else facts)
    run.finish(5.0)
    assert [f.missing for f in run.record().files] == [True, False, False, False]


def test_rejected_calls_of_a_process_are_not_its_lost_ones(run: RunSpool) -> None:
    killed, ended = run.process("n1", rank=0), run.process("n1", rank=1)
    for said in (killed, ended):
        said.json(1.0, Kind.LOSS, {"events": 1, "rejected": 2, "reason": "a", "pushed_out": 0, "why": ""})
        said.json(2.0, Kind.LOSS, {"events": 1, "rejected": 5, "reason": "a", "pushed_out": 0, "why": ""})
    ended.json(3.0, Kind.EVENTS, [{"t": 3, "e": "exit", "logged": 7, "dropped": 1, "rejected": 6}])
    run.process("n1", rank=2).exit(3.0, dropped=4)  # of before there was such a count
    run.finish(5.0)
    assert [(p.dropped, p.rejected, p.reject_reason) for p in run.record().processes] == [
        (1, 5, "a"), (1, 6, "a"), (4, 0, "")]


def test_what_every_part_of_the_run_cost_is_a_table(run: RunSpool) -> None:
    node = run.node("n1", [ENERGY])
    for t in range(11):
        node.sample(t, [10.0 * t])
    rank = run.process("n1", rank=0)
    with rank.span(1.0, 9.0, "context", "training"):
        for k in range(3):
            with rank.span(1.0 + 2 * k, 3.0 + 2 * k, "epoch", k):
                rank.metric(1.5 + 2 * k, "loss", 0.5, step=10 + k)
    run.finish(10.0)
    path, _infos = write(run)
    accounts = opened(path, "accounts").to_dataframe()
    assert accounts.path.tolist() == ["", "ctx/training", *(f"ctx/training/epoch/{k}" for k in range(3))]
    assert accounts.kind.tolist() == ["run", "context", "epoch", "epoch", "epoch"]
    assert accounts.energy.tolist() == pytest.approx([100.0, 80.0, 20.0, 20.0, 20.0])
    assert accounts.energy_outside.tolist() == pytest.approx([20.0, 20.0, 20.0, 20.0, 20.0])
    assert accounts.epoch.tolist()[2:] == [0, 1, 2]
    assert accounts.epoch.isna().tolist()[:2] == [True, True]
    assert accounts.first_step.tolist()[2:] == [10, 11, 12]
    assert accounts.begin[1].value == ns(1.0)
    assert accounts.duration.tolist() == pytest.approx([10.0, 8.0, 2.0, 2.0, 2.0])
    assert "gpu_energy" not in accounts  # nobody measured it


def test_an_empty_run_is_a_store_without_groups(run: RunSpool) -> None:
    path, infos = write(run)
    assert infos == {}
    assert list(zarr.open_group(path, mode="r").members()) == []
    assert xr.open_datatree(path, engine="zarr").attrs["format"] == "yprov-series"


def big_run(run: RunSpool) -> None:
    rng = np.random.default_rng(11)
    for n in range(70):
        node = run.node(f"n{n:02d}", [CPU, ENERGY])
        for t, row in enumerate(rng.uniform(0, 1, (3, 2)).cumsum(axis=0).tolist()):
            node.sample(t * 500, row)
    rank = run.process("n00", rank=0)
    rank.metrics(1.0, [(float(i), "loss", v, i, "training", None)
                       for i, v in enumerate(rng.uniform(size=70_000).tolist())])
    run.finish(1000.0)


def test_one_spool_gives_one_store_to_the_byte(run: RunSpool) -> None:
    big_run(run)
    record = run.record()
    one, _infos = write(run, record, "one.zarr")
    two, _infos = write(run, record, "two.zarr")
    files = sorted(f.relative_to(one) for f in one.rglob("*") if f.is_file())
    assert files == sorted(f.relative_to(two) for f in two.rglob("*") if f.is_file())
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)


def test_the_number_of_files_does_not_grow_with_nodes(tmp_path: Path) -> None:
    counts = []
    for nodes in (2, 200):
        folder = tmp_path / str(nodes)
        (folder / "spool").mkdir(parents=True)
        run = RunSpool(folder / "spool")
        for n in range(nodes):
            node = run.node(f"n{n}", [CPU, ENERGY])
            node.sample(0, [0.5, 1.0])
            node.sample(1, [0.5, 2.0])
        path, _infos = write(run)
        counts.append(sum(1 for f in path.rglob("*") if f.is_file()))
    assert counts[0] == counts[1]


def test_large_arrays_are_sharded_and_read_back(run: RunSpool) -> None:
    big_run(run)
    path, _infos = write(run)
    array = zarr.open_array(path / "host/cpu_utilization")
    assert (array.shape, array.chunks, array.shards) == ((70, 1001), (64, 900), (128, 1800))
    assert opened(path, "host").cpu_utilization.count().item() == 210
    assert zarr.open_array(path / "metrics/training/loss").shards is not None
    assert {c.name for c in (path / "host/cpu_utilization").iterdir()} == {"zarr.json", "c.0.0"}


@given(st.integers(1, 20_000), st.integers(1, 200_000))
def test_chunks_and_shards_fit_each_other(rows: int, slots: int) -> None:
    chunk, shard = layout((rows, slots))
    assert all(c <= n for c, n in zip(chunk, (rows, slots), strict=True))
    assert chunk[0] * chunk[1] <= 2 * CHUNK[0] * CHUNK[1] + CHUNK[0] + CHUNK[1]
    if shard is None:
        assert chunk == (rows, slots)
    else:
        assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
        assert shard[1] <= SHARD[1]


def test_a_store_written_in_several_batches_keeps_the_attributes_of_its_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yprovd.stitch.storage.BATCH", 10)
    store = Store(tmp_path / "s", {"format": "x"})
    store.group("g", {"interval_seconds": 2.0})
    for i in range(3):
        store.array(f"g/a{i}", np.arange(5, dtype=np.int32), ("row",), units="W")
    store.close()
    group = zarr.open_group(tmp_path / "s", mode="r")
    assert dict(group.attrs) == {"format": "x", "sparse": "{}"}
    assert dict(group["g"].attrs) == {"interval_seconds": 2.0}
    assert [group[f"g/a{i}"][:].tolist() for i in range(3)] == [[0, 1, 2, 3, 4]] * 3


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "_file", full)
    store = Store(tmp_path / "s", {})
    store.array("a", np.zeros(3), ("row",))
    with pytest.raises(OSError, match="No space"):
        store.close()
