"""`yprov doctor` says what can be measured here, how quickly and how finely, what not and why, and where the daemons of
a run would be started from here."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import yprov
from tests.standins import StandIns
from yprov import doctor
from yprov.cli.doctor import _own_stdout
from yprov.doctor import Source
from yprov.readiness import check_daemons

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-6]", "SLURM_JOB_NUM_NODES": "6"}
PROGRAMS = {"srun": "echo slurm 22.05.8", "scontrol": "exit 1"}


def daemons(tmp_path: Path, **environ: str) -> tuple[int, dict[str, Any], str]:
    made = StandIns(tmp_path / "bin")
    made.add(**PROGRAMS)
    done = yprov("doctor", "--json", cwd=tmp_path, env=made.environment(**environ))
    (found,) = [c for c in json.loads(done.stdout)["checks"] if c["check"] == "daemons"]
    text = yprov("doctor", cwd=tmp_path, env=made.environment(**environ)).stdout
    return done.returncode, found, text


def test_in_a_job_it_tells_the_nodes_and_the_ways(tmp_path: Path) -> None:
    status, found, text = daemons(tmp_path, **SLURM, SLURM_GPUS_ON_NODE="4")
    assert status == 0
    assert (found["ok"], found["scheduler"], found["encrypted"]) == (True, "slurm", True)
    assert found["nodes"] == ["n1", "n2", "n3", "n4", "n5", "n6"]
    assert found["ways"] == ["srun --overlap --gres=gpu:4", "srun --overlap", "srun --overlap --gres=none"]
    assert "on 6 nodes of slurm job 7: n1, n2, n3, n4 and 2 more; by srun --overlap --gres=gpu:4, else by" in text


@pytest.mark.parametrize(("environ", "detail"), [
    ({}, "no scheduler's job"), ({**SLURM, "SLURM_STEP_ID": "0"}, "in a job of slurm")])
def test_elsewhere_it_is_this_node_only(tmp_path: Path, environ: dict[str, str], detail: str) -> None:
    status, found, _ = daemons(tmp_path, **environ)
    assert (status, found["ok"], found["nodes"]) == (0, True, [])
    assert detail in found["detail"]


def test_a_container_without_slurm_s_commands_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    found = check_daemons()
    assert (found["ok"], found["ways"]) == (False, [])
    assert "in a job of slurm" in found["detail"]


def test_a_job_whose_commands_are_not_there_is_a_failure_with_a_hint(tmp_path: Path) -> None:
    status, found, text = daemons(tmp_path, PBS_JOBID="1.s", PBS_NODEFILE="/nowhere")
    assert (status, found["ok"]) == (1, False)
    assert "--launch-with" in found["hint"]
    assert found["hint"] in text


PLAIN = Path(__file__).parent / "fixtures" / "hosts" / "plain"
SENSOR = """
import math, threading, time
from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric
GPU = Device("gpu", "g0", attributes={"meter": "gpu", "summed": True})
never = threading.Event()
class Sensor:
    name = "NAME"
    metrics = (Metric("hw.energy", "J", "counter", "Energy", 1.0, GPU),
               Metric("hw.power", "W", "gauge", "Power", 1.0, GPU))
    def __init__(self, where):
        pass
    def close(self):
        pass
    def read(self):
        return [math.floor(time.monotonic() * 10) * 20.0, math.nan]
"""
BODIES = {
    "steady": SENSOR,
    "restless": SENSOR.replace("math.floor(time.monotonic() * 10) * 20.0", "time.monotonic()"),
    "hangs_at_once": SENSOR.replace("        pass\n    def close", "        never.wait()\n    def close"),
    "hangs_later": SENSOR.replace("        return", "        never.wait(); return"),
    "fails": SENSOR.replace("        return", "        raise OSError('no answer'); return"),
    "short": SENSOR.replace(", math.nan]", "]"),
    "refused": SENSOR.replace("        pass\n    def close",
                              "        raise SensorUnavailable('not for you', hint='ask')\n    def close"),
    "broken": "import no_such_library",
}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, str]]]:
    """`fakes("steady", ...)`: a table of those sensors."""
    for name, body in BODIES.items():
        (tmp_path / f"faked_{name}.py").write_text(body.replace("NAME", name))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda *names: {name: f"faked_{name}:Sensor" for name in names}
    for name in BODIES:
        sys.modules.pop(f"faked_{name}", None)


def test_rate_step_latency_and_what_is_silent(fakes: Callable[..., dict[str, str]]) -> None:
    (found,) = doctor.examine(table=fakes("steady"))
    assert (found.outcome, found.present, found.readable, found.metrics) == ("ok", True, True, 2)
    assert (found.rate_of, found.step, found.step_unit, found.at_least) == ("hw.energy", 20.0, "J", False)
    assert found.rate_hz == pytest.approx(10, rel=0.3)
    assert found.silent == ["gpu/g0 hw.power"]
    assert found.devices == ["gpu/g0"]
    assert found.read_us is not None
    assert 0 < found.read_us < 1e4


def test_a_number_that_changes_at_each_look_may_do_so_more_often(fakes: Callable[..., dict[str, str]]) -> None:
    (found,) = doctor.examine(table=fakes("restless"))
    assert found.at_least
    text = doctor.lines({"host": doctor.host(), "sources": [vars(found)], "checks": []})
    assert any(re.search(r" >\d+ Hz ", line) for line in text)


@pytest.mark.parametrize("name", ["hangs_at_once", "hangs_later"])
def test_a_call_that_hangs_is_an_outcome_and_holds_nobody_up(
    fakes: Callable[..., dict[str, str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yprov.watching.CALL_S", 0.3)
    began = time.monotonic()
    hanging, steady = doctor.examine(table=fakes(name, "steady"), open_s=0.3)
    assert time.monotonic() - began < 5
    assert (hanging.outcome, hanging.readable) == ("hangs", False)
    assert ("opening it" if name == "hangs_at_once" else "a read") in hanging.reason
    assert "has not come back for" in hanging.reason
    assert f"--disable {name}" in hanging.hint
    assert steady.outcome == "ok"


def test_reads_that_fail_and_what_cannot_be_opened_have_their_reasons(fakes: Callable[..., dict[str, str]]) -> None:
    found = {s.sensor: s for s in doctor.examine(table=fakes("fails", "short", "refused", "broken"))}
    assert {name: s.outcome for name, s in found.items()} == {
        "fails": "fails", "short": "fails", "refused": "absent", "broken": "absent"}
    assert found["fails"].reason == "OSError: no answer"
    assert found["short"].reason == "ValueError: 1 values for 2 metrics"
    assert (found["refused"].reason, found["refused"].hint) == ("not for you", "ask")
    assert "no_such_library" in found["broken"].reason
    assert not any(s.readable for s in found.values())


def test_a_library_that_hangs_while_it_is_kept_quiet_does_not_take_our_output(
    capfd: pytest.CaptureFixture[str]
) -> None:
    with _own_stdout():
        sys.stdout = io.StringIO()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    print("still here")
    assert capfd.readouterr().out == "still here\n"


def test_no_thread_is_left_of_sources_that_answer(fakes: Callable[..., dict[str, str]]) -> None:
    before = set(threading.enumerate())
    doctor.examine(table=fakes("steady", "refused"))
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


def examined(root: Path) -> dict[str, Source]:
    return {s.sensor: s for s in doctor.examine(str(root))}


def test_what_is_there_and_cannot_be_read_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(PLAIN, root, symlinks=True)
    for zone in (root / "sys/class/powercap").glob("*:*"):
        (zone / "energy_uj").unlink()
        (zone / "energy_uj").mkdir()  # a mode would not stop root, who runs these tests in CI
    found = examined(root)
    assert (found["rapl"].outcome, found["rapl"].present, found["rapl"].readable) == ("unreadable", True, False)
    assert (found["cray"].outcome, found["cray"].present) == ("absent", False)
    assert found["cpu"].outcome == "ok"


def test_whatever_is_not_here_says_why_and_what_it_would_need(tmp_path: Path) -> None:
    for source in examined(tmp_path).values():
        assert source.outcome == "absent", source
        assert source.reason, source
        assert source.hint, source


def test_the_table_has_a_line_for_each_source_and_the_hints_below(tmp_path: Path) -> None:
    done = yprov("doctor", "--root", str(PLAIN), cwd=tmp_path)
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("SOURCE"))
    assert lines[at].split() == ["SOURCE", "PRESENT", "READABLE", "METRICS", "READ", "RATE", "STEP"]
    rows = {line.split()[0]: line for line in lines[at + 1:] if line and not line.startswith(" ")}
    assert rows["rapl"].split()[1:3] == ["yes", "yes"]
    assert "rapl/package-0" in rows["rapl"]
    assert rows["cray"].split()[1:3] == ["no", "-"]
    assert any(line.strip().startswith("hint: it needs a node of an HPE Cray") for line in lines)


def test_json_has_the_same_for_programs(tmp_path: Path) -> None:
    done = yprov("doctor", "--json", "--root", str(PLAIN), cwd=tmp_path)
    sources = {s["sensor"]: s for s in json.loads(done.stdout)["sources"]}
    assert sources["rapl"]["metrics"] == 4
    assert sources["rapl"]["devices"][0] == "rapl/package-0"
    assert set(sources["cray"]) == set(Source.__dataclass_fields__)
