"""Joules end to end: a node whose meter is known to the joule, recorded by the real daemons."""

from __future__ import annotations

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

    run_s = float(attribute(activities["run"], "durationSeconds"))
    assert joules("run") == pytest.approx(WATTS * run_s, rel=0.05)
    assert joules("ctx/training") == pytest.approx(WATTS * 1.0, rel=0.05)
    for k in (0, 1):
        assert joules(f"ctx/training/epoch/{k}") == pytest.approx(WATTS * 0.5, rel=0.05)
    assert joules("ctx/training/epoch/0") + joules("ctx/training/epoch/1") + outside("ctx/training") == pytest.approx(
        joules("ctx/training"), rel=1e-9)
    assert joules("ctx/training") + outside("run") == pytest.approx(joules("run"), rel=1e-9)
    assert attribute(activities["run"], "energyMethod") == "measured"
    assert "energy" in done.stderr
    assert "J (measured)" in done.stderr


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
