"""Joules end to end: a node whose meter is known to the joule, recorded by the real daemons."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import attribute, document, environment, only_run, yprov

HOST = Path(__file__).parent / "fixtures" / "hosts" / "plain"
WATTS = 80.0
WRAP_UJ = 30_000_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A copy of the plain host whose package 0 draws 80 W; its counter wraps every 30 J."""
    root = tmp_path / "root"
    shutil.copytree(HOST, root, symlinks=True)
    shutil.rmtree(root / "sys/class/powercap", ignore_errors=True)
    zone = root / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text(f"{WRAP_UJ - 1}\n")
    counter = open(zone / "energy_uj", "w")  # noqa: SIM115  rewritten in place, as the kernel's is
    counter.write("0\n")
    counter.flush()
    done = threading.Event()
    began = time.monotonic()

    def draw() -> None:
        while not done.wait(0.005):
            value = int((time.monotonic() - began) * WATTS * 1e6) % WRAP_UJ
            counter.seek(0)
            counter.write(f"{value:012d}\n")
            counter.flush()

    drawing = threading.Thread(target=draw)
    drawing.start()
    yield root
    done.set()
    drawing.join()
    counter.close()


PROGRAM = """
import time, yprov
with yprov.context("training"):
    for k in range(2):
        with yprov.epoch(k):
            time.sleep(0.5)
time.sleep(0.3)
"""


def test_energy_of_run_context_and_epoch_is_what_the_meter_drew(tmp_path: Path, node: Path) -> None:
    done = yprov("run", "--interval", "0.1", "--root", str(node), "--", sys.executable, "-c", PROGRAM, cwd=tmp_path,
                 env=environment())
    assert done.returncode == 0, done.stderr
    activities = document(only_run(tmp_path))["activity"]

    def joules(activity: str) -> float:
        return float(attribute(activities[activity], "energyJ"))

    def outside(activity: str) -> float:
        return float(attribute(activities[activity], "energyOutsideJ"))

    def seconds(activity: str) -> float:
        return float(attribute(activities[activity], "durationSeconds"))

    for activity, least_s in {"run": 1.3, "ctx/training": 1.0, "ctx/training/epoch/0": 0.5,
                              "ctx/training/epoch/1": 0.5}.items():
        assert seconds(activity) >= least_s
        assert joules(activity) == pytest.approx(WATTS * seconds(activity), rel=0.05)
    assert joules("ctx/training/epoch/0") + joules("ctx/training/epoch/1") + outside("ctx/training") == pytest.approx(
        joules("ctx/training"), rel=1e-9)
    assert joules("ctx/training") + outside("run") == pytest.approx(joules("run"), rel=1e-9)
    assert attribute(activities["run"], "energyMethod") == "measured"
    assert "energy" in done.stderr
    assert "J (measured), partial: without memory, network" in done.stderr
    energy = document(only_run(tmp_path))["entity"]["energy"]
    assert (attribute(energy, "energyScope"), attribute(energy, "unit")) == ("partial", "J")
    checked = yprov("validate", str(only_run(tmp_path)), cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


METRICS = {"power": "{watts} W {us} us\n", "energy": "{joules} J {us} us\n"}


@pytest.fixture
def cray(tmp_path: Path) -> Iterator[Path]:
    """A Cray node that draws 1000 W, 600 of them in its accelerator; scanned ten times a second, in whole joules."""
    root = tmp_path / "cray"
    shutil.copytree(HOST, root, symlinks=True)
    counters = root / "sys/cray/pm_counters"
    counters.mkdir(parents=True)
    (counters / "startup").write_text("1780055122858757\n")
    (counters / "raw_scan_hz").write_text("10\n")
    done, began, scans = threading.Event(), time.time(), 0

    def scan() -> None:
        nonlocal scans
        scans += 1
        now = time.time()
        for prefix, watts in (("", 1000), ("cpu_", 250), ("memory_", 100), ("accel0_", 600)):
            for name, text in METRICS.items():
                joules, us = int(4.7e9 + watts * (now - began)), int(now * 1e6)
                # one write over the old bytes: a reader never sees an empty file, as it never does in sysfs
                with open(os.open(counters / f"{prefix}{name}", os.O_WRONLY | os.O_CREAT), "w") as file:
                    file.write(text.format(watts=watts, joules=joules, us=us))
        (counters / "freshness").write_text(f"{scans}\n")

    def keep_scanning() -> None:
        while not done.wait(0.1):
            scan()

    scan()
    scanning = threading.Thread(target=keep_scanning)
    scanning.start()
    yield root
    done.set()
    scanning.join()


def test_the_node_meter_of_a_cray_is_the_energy_of_the_run_and_its_accelerators_that_of_the_gpus(
    tmp_path: Path, cray: Path
) -> None:
    done = yprov("run", "--interval", "0.2", "--root", str(cray), "--", sys.executable, "-c", PROGRAM, cwd=tmp_path,
                 env=environment())
    assert done.returncode == 0, done.stderr
    prov = document(only_run(tmp_path))
    energy, run = prov["entity"]["energy"], prov["activity"]["run"]
    run_s = float(attribute(run, "durationSeconds"))
    assert float(attribute(energy, "energyJ")) == pytest.approx(1000.0 * run_s, rel=0.05)
    assert float(attribute(energy, "gpuEnergyJ")) == pytest.approx(600.0 * run_s, rel=0.05)
    assert float(attribute(energy, "coverage")) == pytest.approx(1.0, abs=0.02)
    assert [attribute(energy, name) for name in ("energyMethod", "energyScope", "gpuEnergyMethod", "notCovered")] == [
        "measured", "node", "measured", None]
    training = prov["activity"]["ctx/training"]
    training_s = float(attribute(training, "durationSeconds"))
    assert float(attribute(training, "gpuEnergyJ")) == pytest.approx(600.0 * training_s, rel=0.1)
    assert "J (measured), node" in done.stderr
    assert yprov("validate", str(only_run(tmp_path)), cwd=tmp_path).returncode == 0


def test_without_a_meter_energy_is_absent_with_a_reason(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(HOST, root, symlinks=True)
    shutil.rmtree(root / "sys/class/powercap", ignore_errors=True)
    done = yprov("run", "--root", str(root), "--", "true", cwd=tmp_path)
    assert done.returncode == 0
    assert "absent: no" in done.stderr
    prov = document(only_run(tmp_path))
    assert attribute(prov["activity"]["run"], "energyJ") is None
    assert attribute(prov["entity"]["energy"], "energyMethod") == "absent"
    assert attribute(prov["entity"]["energy"], "energyReason")
