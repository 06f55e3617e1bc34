"""A vendor's library that does not come back, under the real daemons: it costs its own values and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import xarray as xr

from tests import nodes
from tests.running import attribute, document, environment, only_run, yprov
from yprovd.stitch.validate import validate_run

INTERVAL_S = 0.5
Recorded = Callable[[str], tuple[Path, float]]


#: Which call hangs, from when and until when (seconds since the library was opened), and how long the command takes.
RUNS = {"half a minute": ("nvmlDeviceGetUtilizationRates:1.5:31.5", 4), "opening": ("nvmlDeviceGetCount_v2:0:60", 1),
        "waking up": ("nvmlDeviceGetCount_v2:0:9", 5)}


def run(node: nodes.Node, hang: str, seconds: int) -> tuple[Path, float]:
    """A run on a node with 4 GPUs: its directory, and how long the end took."""
    cwd = node.root.parent
    with nodes.Driver(*node.parts):
        done = yprov("run", "--scheduler", "none", "--root", str(node.root), "--interval", str(INTERVAL_S), "--",
                     "bash", "-c", f"sleep {seconds}; date +%s.%N", cwd=cwd, env=environment(STUB_NVML_HANG=hang))
        ended = time.time()
    assert done.returncode == 0, done.stderr
    run_dir = only_run(cwd)
    assert validate_run(run_dir) == []
    return run_dir, ended - float(done.stdout)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A run of `RUNS`. They go on at once: they wait, most of the time."""
    built = {name: nodes.grace_hopper(tmp_path_factory.mktemp("node") / "root") for name in RUNS}
    with ThreadPoolExecutor() as pool:
        runs: dict[str, Future[tuple[Path, float]]] = {
            name: pool.submit(run, built[name], *about) for name, about in RUNS.items()}
        yield lambda name: runs[name].result()


def test_a_call_that_hangs_for_half_a_minute_costs_no_other_sensor_a_tick(recorded: Recorded) -> None:
    run_dir, end_s = recorded("half a minute")
    assert end_s < 12, "the last sample, and the archive; nobody waits for the library"
    host = xr.open_zarr(run_dir / "series.zarr", group="host", consolidated=False).load()
    assert int(host.memory_usage.isnull().sum()) == 0
    assert float(host.yprov_sampler_missed_ticks_increment.sum()) == 0
    sensors = xr.open_zarr(run_dir / "series.zarr", group="sensor", consolidated=False).load()
    late = {str(name): float(n) for name, n in zip(sensors.device.values, sensors.yprov_sensor_late_increment.sum(
        "time").values, strict=True)}
    assert late.pop("nvidia") >= 3, "the hang is in the record"
    assert set(late.values()) == {0.0}
    gpu = xr.open_zarr(run_dir / "series.zarr", group="gpu", consolidated=False).load()
    assert gpu.power.isel(time=1).notnull().all(), "before it hung"
    assert gpu.power.isel(time=-1).isnull().all()


def test_gpus_that_wake_up_slowly_join_later(recorded: Recorded) -> None:
    run_dir, _end_s = recorded("waking up")
    doc = document(run_dir)
    assert "nvidia" not in json.dumps(attribute(doc["activity"]["monitoring"], "absences"))
    gpu = xr.open_zarr(run_dir / "series.zarr", group="gpu", consolidated=False)
    host = xr.open_zarr(run_dir / "series.zarr", group="host", consolidated=False)
    assert gpu.power.notnull().all(dim="device").sum() >= 3
    assert host.memory_usage.notnull().sum() > gpu.power.isel(device=0).notnull().sum()
    assert "nvidia" in json.dumps(attribute(doc["activity"]["monitoring"], "sensors"))


def test_a_library_that_hangs_when_it_is_opened_is_absent_with_a_reason(recorded: Recorded) -> None:
    run_dir, end_s = recorded("opening")
    assert end_s < 12
    absences = attribute(document(run_dir)["activity"]["monitoring"], "absences")
    assert "nvidia" in json.dumps(absences)
    assert "could not be opened within" in json.dumps(absences)
    assert not (run_dir / "series.zarr/gpu").exists()
    assert xr.open_zarr(run_dir / "series.zarr", group="hwmon", consolidated=False).power.notnull().any()


