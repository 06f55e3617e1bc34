"""A vendor's library that does not come back, under the real daemons: it costs its own values and nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path

import xarray as xr

from tests import nodes
from tests.running import attribute, document, environment, only_run, yprov

INTERVAL_S = 0.5


def recorded(tmp_path: Path, hang: str) -> tuple[Path, float]:
    """A run of 4 s on a node with 4 GPUs: its directory, and how long the end took."""
    node = nodes.grace_hopper(tmp_path / "root")
    with nodes.Driver(*node.parts):
        done = yprov("run", "--scheduler", "none", "--root", str(node.root), "--interval", str(INTERVAL_S), "--",
                     "bash", "-c", "sleep 4; date +%s.%N", cwd=tmp_path, env=environment(STUB_NVML_HANG=hang))
        ended = time.time()
    assert done.returncode == 0, done.stderr
    run_dir = only_run(tmp_path)
    assert yprov("validate", str(run_dir), cwd=tmp_path).returncode == 0
    return run_dir, ended - float(done.stdout)


def test_a_call_that_hangs_for_half_a_minute_costs_no_other_sensor_a_tick(tmp_path: Path) -> None:
    run_dir, end_s = recorded(tmp_path, "nvmlDeviceGetUtilizationRates:1.5:31.5")
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


def test_a_library_that_hangs_when_it_is_opened_is_absent_with_a_reason(tmp_path: Path) -> None:
    run_dir, end_s = recorded(tmp_path, "nvmlDeviceGetCount_v2:0:60")
    assert end_s < 12
    absences = attribute(document(run_dir)["activity"]["monitoring"], "absences")
    assert "nvidia" in json.dumps(absences)
    assert "could not be opened within" in json.dumps(absences)
    assert not (run_dir / "series.zarr/gpu").exists()
    assert xr.open_zarr(run_dir / "series.zarr", group="hwmon", consolidated=False).power.notnull().any()


