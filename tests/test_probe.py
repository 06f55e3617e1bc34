"""`yprov doctor --probe`: what it says of machines whose numbers are known, and what it never says."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import nodes
from tests.running import environment, start, yprov
from yprov import probe, sightings
from yprov.discretion import Discretion
from yprov.findings import Pairs
from yprov.seen import Meter, Seen
from yprov.watching import Watch
from yprovd.errors import YprovError
from yprovd.model import Device, Metric
from yprovd.sensors import Surroundings

TOP = {"format", "version", "made", "host", "variables", "sources", "devices", "metrics", "meters", "modules", "pairs",
       "library", "cards", "topology", "paths", "open_points"}


@pytest.fixture
def cray(tmp_path: Path) -> Iterator[Path]:
    """A live node with pm_counters and RAPL: 1 kW that rises slowly."""
    root = tmp_path / "root"
    nodes.host(root)
    since = time.time() - 10
    watts = {"node": 1000.0, "cpu": 100.0, "memory": 80.0, "accel0": 200.0, "accel1": 300.0}
    loads = {part: nodes.Load(w, 2.0, since) for part, w in watts.items()}
    with nodes.Driver(nodes.PmCounters(root, loads), nodes.Rapl(root, {"package-0": loads["cpu"]})):
        yield root


def reported(done: subprocess.CompletedProcess[str], cwd: Path) -> dict[str, Any]:
    """The report whose path the command printed last."""
    name = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"yprov-probe-[\w.-]+-\d{8}T\d{6}Z\.json", name)
    doc: dict[str, Any] = json.loads((cwd / name).read_text())
    return doc


def row(rows: Sequence[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    (found,) = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return found


def test_the_report_of_a_node_whose_numbers_are_known(tmp_path: Path, cray: Path) -> None:
    done = yprov("doctor", "--probe", "3", "--root", str(cray), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Ctrl-C ends it early" in done.stderr
    doc = reported(done, tmp_path)
    assert set(doc) == TOP
    assert (doc["format"], doc["version"], doc["made"]["ended_early"]) == ("yprov-probe", 1, False)
    assert doc["made"]["watched_s"] == pytest.approx(3, abs=0.5)
    assert doc["host"]["kernel"] == "Linux 6.4.0-150600.23.84_15.0.28-cray_shasta_c"
    assert doc["host"]["cpu_model"] == "AMD EPYC 7A53 64-Core Processor"
    assert len(json.dumps(doc)) < 200_000

    energy = row(doc["metrics"], device="cray/accel1", name="hw.energy")
    assert energy["update_s"] == pytest.approx(0.1, abs=0.03)
    assert energy["looked_s"] < 0.08
    assert 20 <= energy["step"] <= 40  # 310 W for 0.1 s
    assert energy["last"] - energy["first"] == pytest.approx(320 * doc["made"]["watched_s"], rel=0.25)
    assert energy["stamp"]["update_s"] == pytest.approx(0.1, abs=0.03)
    assert 0.07 < energy["stamp"]["lag_min_s"] < energy["stamp"]["lag_max_s"] < 0.5  # 76 ms, and up to a scan
    assert row(doc["metrics"], device="", name="system.memory.usage")["unit"] == "By"

    meters = {m["device"]: m for m in doc["meters"]}
    assert set(meters) == {f"cray/{p}" for p in ("node", "cpu", "memory", "accel0", "accel1")}  # RAPL has no power
    assert meters["cray/node"]["ratio"] == pytest.approx(1, abs=0.02)
    assert meters["cray/node"]["meter"] == "node"
    source = row(doc["sources"], sensor="cray")
    assert (source["rate_of"], source["outcome"]) == ("hw.energy", "ok")
    assert 0 < source["p50_us"] <= source["p99_us"] <= source["max_us"]
    seen = {p["point"]: p["seen"] for p in doc["open_points"]}
    assert "files" in seen["reading a file of pm_counters"]
    assert row(doc["paths"], path="/sys/cray/pm_counters/energy")["text"].split()[1] == "J"
    assert row(doc["paths"], path="/sys/cray/pm_counters/energy")["mode"] == "-rw-r--r--"
    assert re.search(r"5 x cray each 1\d\d ms, by \d+ J", seen["energy counters are renewed"])
    assert re.search(r"^cray/node +\d+\.\d +\d+\.\d +\d+\.\d +[01]\.\d{3}$", done.stdout, re.M)


def test_ctrl_c_ends_it_early_with_what_there_is(tmp_path: Path, cray: Path) -> None:
    process = start("doctor", "--probe", "600", "--json", "--root", str(cray), cwd=tmp_path)
    assert process.stderr is not None
    assert any("watching" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    said = json.loads(out)
    doc = json.loads((tmp_path / said["report"]).read_text())
    assert doc["made"]["ended_early"]
    assert doc["made"]["watched_s"] < 60
    assert row(said["sources"], sensor="cray")["readable"]


def test_nothing_is_told_that_nobody_needs_to_know(tmp_path: Path) -> None:
    root = tmp_path / "root"
    nodes.host(root)
    nodes.write(root / "proc/self/cgroup", "0::/user.slice/user-4711.slice/session-1.scope\n")
    env = environment(USER="mallory", LOGNAME="mallory", HOME="/home/mallory", ROCM_PATH="/home/mallory/rocm-7.0",
                      ROCM_HOME="/gpfs/users/mallory/rocm", SLURM_STEP_GPUS="2,3", SLURM_JOB_USER="mallory",
                      SLURM_JOB_NAME="my-secret-job", API_TOKEN="hunter2")
    env.pop("RSMI_MUTEX_THREAD_ONLY", None)  # another test has read a GPU in this process
    done = yprov("doctor", "--probe", "1", "--root", str(root), cwd=tmp_path, env=env)
    doc = reported(done, tmp_path)
    text = json.dumps(doc)
    for word in ("mallory", "my-secret-job", "hunter2", "4711"):
        assert word not in text
    assert doc["variables"] == {
        "ROCM_HOME": "/gpfs/users/USER/rocm", "ROCM_PATH": "~/rocm-7.0", "SLURM_STEP_GPUS": "2,3"}
    assert doc["host"]["cgroup"] == ["0::/user.slice/user-N.slice/session-1.scope"]


def test_anonymous_takes_out_the_host_and_serial_numbers_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"nodename": "frontier00123.olcf"})())
    doc = {"host": "frontier00123.olcf", "short": "on frontier00123, at once", "other": "frontier001234",
           "id": "gpu/GPU-1a2b3c4d-0000-1111-2222-333344445555", "pci": "0000:c1:00.0",
           "mig": ["MIG-1a2b3c4d-0000-1111-2222-333344445555"], "n": 5, "text": "GPU-bound",
           "data": {"gpu/GPU-1a2b3c4d-0000-1111-2222-333344445555": {"updates": 3}}}
    once, again = (Discretion(anonymous=True).document(doc) for _ in range(2))
    assert once == again
    assert re.fullmatch(r"node-[0-9a-f]{12}", once["host"].removesuffix(".olcf"))
    assert once["short"] == f"on {once['host']}, at once"
    assert re.fullmatch(r"gpu/GPU-[0-9a-f]{12}", once["id"])
    assert re.fullmatch(r"MIG-[0-9a-f]{12}", once["mig"][0])
    assert once["data"] == {once["id"]: {"updates": 3}}
    assert {k: once[k] for k in ("other", "pci", "n", "text")} == {k: doc[k] for k in ("other", "pci", "n", "text")}
    assert Discretion(anonymous=False).document(doc) == doc


@pytest.mark.parametrize("text", [
    "0::/user.slice/user-mallory.slice/session-1.scope", "/htcondor/slot1_mallory@host", "/scratch/mallory-data/rocm",
    "/gpfs/mallory_group/rocm", "/lus/mallory.old/rocm", "PermissionError: '/home/mallory/rocm'", "/x/~mallory/rocm"])
def test_a_user_s_name_is_in_no_path(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "mallory")
    said = Discretion(anonymous=False).text(text)
    assert "mallory" not in said
    assert said.count("/") == text.count("/")
    assert Discretion(anonymous=False).text(text.replace("mallory", "mallory2")) == text.replace("mallory", "mallory2")


def test_a_name_that_is_a_word_of_ours_spoils_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "gpu")
    doc = {"class": "gpu", "name": "hw.gpu.clock", "meter": "gpu"}
    assert Discretion(anonymous=False).document(doc) == doc


def test_an_anonymous_report_has_no_number_of_the_hardware() -> None:
    """XGMI's hive is the same for the GPUs of a node, and for no others in the world."""
    doc = {"cards": [{"xgmi_hive_info/xgmi_hive_id": "0x53d9f1bb1b1ab0fd"}] * 2, "topology": [{"hive_id": 99},
           {"hive_id": 0}], "library": {"gpus": [{"xgmi_info": {"xgmi_hive_id": 99, "index": 3}}]}}
    said = Discretion(anonymous=True).document(doc)
    assert "53d9f1bb1b1ab0fd" not in json.dumps(said)
    assert said["cards"][0] == said["cards"][1]
    assert said["topology"][0]["hive_id"] == said["library"]["gpus"][0]["xgmi_info"]["xgmi_hive_id"] != 99
    assert (said["topology"][1]["hive_id"], said["library"]["gpus"][0]["xgmi_info"]["index"]) == (0, 3)
    assert Discretion(anonymous=False).document(doc) == doc


def test_an_anonymous_report_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    done = yprov("doctor", "--probe", "1", "--anonymous", "--root", str(tmp_path / "root"), cwd=tmp_path)
    doc = reported(done, tmp_path)
    assert doc["made"]["anonymous"] is True
    assert re.fullmatch(r"node-[0-9a-f]{12}", doc["host"]["host"])
    assert done.stdout.splitlines()[-1].startswith(f"yprov-probe-{doc['host']['host']}-")
    done = yprov("doctor", "--anonymous", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "hint: yprov doctor --anonymous --probe" in done.stderr


def test_a_directory_that_cannot_be_written_is_known_before_the_look() -> None:
    with pytest.raises(YprovError, match="cannot write the report"):
        probe.ensure_writable(Path("/proc"))


def test_a_source_that_hangs_does_not_hang_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_sensor.py").write_text(
        "import threading\nclass Sensor:\n def __init__(self, where):\n  threading.Event().wait()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("yprov.watching.CALL_S", 0.3)
    nodes.host(tmp_path / "root")
    began = time.monotonic()
    doc = probe.take(str(tmp_path / "root"), 0.5, stop=threading.Event(), open_s=0.2, table={
        "hanging": "hanging_sensor:Sensor", "memory": "yprovd.sensors.memory:MemorySensor"})
    assert time.monotonic() - began < 8
    assert row(doc["sources"], sensor="hanging")["outcome"] == "hangs"
    assert row(doc["sources"], sensor="memory")["outcome"] == "ok"
    sys.modules.pop("hanging_sensor")


def gpu_metrics(root: Path, card: int, power: int, energy: int, revision: tuple[int, int] = (1, 3)) -> None:
    data = bytearray(120)
    struct.pack_into("<HBB", data, 0, 120, *revision)
    struct.pack_into("<HQ", data, 22, power, energy)
    nodes.write(root / f"sys/class/drm/card{card}/device/gpu_metrics", bytes(data))
    nodes.write(root / f"sys/class/drm/card{card}/device/xgmi_hive_info/xgmi_hive_id", "4711\n")


def test_what_dies_show_in_the_place_of_power_and_energy(tmp_path: Path) -> None:
    for card, (power, energy) in enumerate([(92, 10**9), (0, 0), (0, 10**9), (0xFFFF, 2**64 - 1)]):
        gpu_metrics(tmp_path, card, power, energy)
    gpu_metrics(tmp_path, 10, 0, 0, (1, 9))
    cards = sightings.cards(str(tmp_path))
    assert [c["card"] for c in cards] == ["card0", "card1", "card2", "card3", "card10"]
    assert [c.get("shows") for c in cards] == [
        "an energy counter", "no energy counter: 0", "an energy counter, and no power",
        "no energy counter: not available", None]
    assert cards[4]["revision"] == "1.9"
    assert bytes.fromhex(cards[4]["hex"])[:4] == struct.pack("<HBB", 120, 1, 9)
    assert cards[0]["xgmi_hive_info/xgmi_hive_id"] == "4711"


def test_paths_have_their_modes_and_what_came_of_reading_them(tmp_path: Path) -> None:
    nodes.write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", "1\n")
    os.chmod(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", 0o400)
    (tmp_path / "sys/cray/pm_counters/power").mkdir(parents=True)
    nodes.write(tmp_path / "dev/kfd", "")
    rows = {r["path"]: r for r in sightings.paths(str(tmp_path))}
    rapl = rows["/sys/class/powercap/intel-rapl:0/energy_uj"]
    assert (rapl["mode"], rapl["bytes"]) == ("-r--------", 2)
    assert 0 < rapl["p50_us"] <= rapl["max_us"]
    assert rows["/dev/kfd"]["outcome"] == "openable"
    assert rows["/sys/cray/pm_counters/power"]["mode"].startswith("d")


def test_what_the_library_answers_of_dies_without_a_meter_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class AmdSmiLibraryException(Exception):
        err_code = 2

    def energy(handle: str) -> dict[str, Any]:
        if handle == "c":
            raise AmdSmiLibraryException
        return {"energy_accumulator": {"a": 10**9, "b": 0}[handle], "counter_resolution": 15.3, "timestamp": 1}

    amdsmi = SimpleNamespace(
        amdsmi_init=lambda: print("a banner"), amdsmi_shut_down=lambda: None,
        amdsmi_get_processor_handles=lambda: ["a", "b", "c"], amdsmi_get_gpu_device_bdf=lambda h: f"0000:{h}:00.0",
        amdsmi_get_power_info=lambda h: {"socket_power": "N/A"}, amdsmi_get_energy_count=energy,
        amdsmi_get_gpu_asic_info=lambda h: {"oam_id": 3, "asic_serial": "0xSECRET"})
    monkeypatch.setattr("yprovd.sensors.amd_library.binding", lambda where: (amdsmi, "7.0"))
    found = sightings.library(Surroundings())
    assert found["outcome"] == "ok"
    assert [row["energy_count"] for row in found["gpus"]] == [
        energy("a"), energy("b"), "error 2 AmdSmiLibraryException"]
    assert found["gpus"][0]["gpu_asic_info"] == {"oam_id": 3}
    assert found["gpus"][0]["xgmi_info"] == "not in this binding"


def test_links_between_dies_are_told(tmp_path: Path) -> None:
    base = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    nodes.write(base / "0/properties", "cpu_cores_count 64\nsimd_count 0\n")
    nodes.write(base / "4/properties", "simd_count 440\nlocation_id 49408\ndomain 0\nhive_id 99\n")
    nodes.write(base / "4/io_links/1/properties", "type 11\nnode_to 5\nweight 15\nmax_bandwidth 200000\n")
    assert sightings.topology(str(tmp_path)) == [
        {"node": "4", "simd_count": 440, "location_id": 49408, "domain": 0, "hive_id": 99,
         "links": [{"type": 11, "node_to": 5, "weight": 15, "max_bandwidth": 200000}]}]


# -- what a number did

COUNTER = Metric("hw.energy", "J", "counter", "Energy", 1.0)


def test_how_often_a_number_changes_and_by_how_little() -> None:
    seen = Seen(COUNTER)
    for i in range(100):
        seen.take(0.01 * i, 5.0 * (i // 10))
    assert (seen.reads, seen.absent, seen.changes, len(seen.values)) == (100, 0, 9, 10)
    assert (seen.first, seen.last, seen.step, seen.backward) == (0.0, 45.0, 5.0, 0)
    assert seen.update_s == pytest.approx(0.1)
    assert seen.looked_s == pytest.approx(0.01)


def test_what_quick_looks_have_told_stays_when_looks_get_seldom() -> None:
    quick, slow = Seen(COUNTER), Seen(COUNTER)
    for i in range(100):
        quick.take(0.001 * i, float(i // 10))
        slow.take(0.001 * i, 0.0)
    for seen in (quick, slow):
        seen.slower()
        for i in range(20):
            seen.take(100 + i, float(100 + i))
    assert quick.update_s == pytest.approx(0.01)
    assert slow.update_s == pytest.approx(1.0)


def test_absent_is_counted_and_nothing_else() -> None:
    seen = Seen(COUNTER)
    for value in (math.nan, 3.0, math.nan, 2.0):
        seen.take(0.0, value)
    assert (seen.absent, seen.first, seen.min, seen.max, seen.backward) == (2, 3.0, 2.0, 3.0, 1)


def test_the_age_of_a_stamp() -> None:
    seen = Seen(Metric("hw.energy.time", "s", "time", "When", 1e-6))
    for i in range(10):
        seen.take(50 + 0.1 * i, 49.9 + 0.1 * i)
    assert min(seen.lags) == pytest.approx(0.1)
    assert list(seen.strides) == pytest.approx([0.1] * 9)


@pytest.mark.parametrize(("late", "stamped"), [(0.0, False), (0.3, True)])
def test_a_counter_against_its_power(late: float, stamped: bool) -> None:
    """A power that rises: a counter that is `late`, and says so, agrees with it all the same."""
    meter = Meter(0, 1, 2 if stamped else -1)
    for i in range(200):
        now = 0.05 * i
        at = max(0.0, now - late)
        meter.take(now, [100 * at + 5 * at**2, 100 + 10 * now, at])
    seconds, joules, integrated = meter.result()
    assert seconds == pytest.approx(10, rel=0.05)
    assert joules / integrated == pytest.approx(1, abs=1e-3)


def test_a_counter_that_begins_anew_is_compared_from_there() -> None:
    meter = Meter(0, 1, -1)
    for i in range(100):
        meter.take(0.1 * i, [1e6 + i if i < 50 else 10.0 * (i - 50), 100.0])
    assert meter.resets == 1
    seconds, joules, integrated = meter.result()
    assert (seconds, joules / integrated) == (pytest.approx(4.8), pytest.approx(1))


def test_a_counter_that_stands_still_has_no_ratio() -> None:
    meter = Meter(0, 1, -1)
    for i in range(100):
        meter.take(0.1 * i, [7.0, 100.0])
    assert all(math.isnan(figure) for figure in meter.result())


# -- accelerators and GPUs

class Powers:
    """Stands for a watch: powers of GPU meters, now."""

    def __init__(self, cls: str, ids: Sequence[str]) -> None:
        self.seen = [Seen(Metric("hw.power", "W", "gauge", "Power", 1.0, Device(cls, i, attributes={"meter": "gpu"})))
                     for i in ids]
        self.latest: list[float] = []


def matched(curves: Sequence[Sequence[float]], order: Sequence[int]) -> dict[str, Any]:
    """accel<i> shows the power of GPU order[i], and the losses of its regulator."""
    ours, theirs = Powers("cray", [f"accel{i}" for i in range(len(order))]), Powers("socket", "abcd"[:len(order)])
    pairs = Pairs()
    for now in zip(*curves, strict=True):
        theirs.latest = list(now)
        ours.latest = [1.1 * now[i] + 8 for i in order]
        watches: Any = [ours, theirs]
        pairs.take(watches)
    result: dict[str, Any] = pairs.result()["matches"]
    return result


def test_accelerators_are_matched_by_the_shape_of_their_power() -> None:
    curves = [[500.0 if 10 * k <= i < 10 * k + 10 else 100.0 for i in range(40)] for k in range(4)]
    found = matched(curves, [2, 3, 0, 1])
    assert {a: m["with"] for a, m in found.items()} == {
        "cray/accel0": "socket/c", "cray/accel1": "socket/d", "cray/accel2": "socket/a", "cray/accel3": "socket/b"}
    assert all(m["clear"] for m in found.values())


def test_the_same_load_everywhere_matches_nothing_clearly() -> None:
    curve = [100.0 + 10 * (i % 7) for i in range(40)]
    assert not any(m["clear"] for m in matched([curve] * 4, [0, 1, 2, 3]).values())


def test_no_load_at_all_matches_nothing() -> None:
    assert matched([[90.0] * 40] * 2, [0, 1]) == {}


def test_a_watch_records_what_a_device_recorded_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracing_sensor.py").write_text('''
from yprovd.model import Metric, Trace
class Sensor:
    metrics = (Metric("a", "1", "gauge", "A", 1),)
    traced = (Metric("hw.power", "W", "gauge", "Power", 1),)
    n = 0
    def __init__(self, where): pass
    def read(self):
        self.n += 1
        return [0.0]
    def traces(self):
        which = range(5 * self.n, 5 * self.n + 5)
        return [Trace(0, [20_000_000 * i for i in which], [100.0 + i for i in which])]
    def close(self): pass
''')
    monkeypatch.syspath_prepend(str(tmp_path))
    watch = Watch("tracing", "tracing_sensor:Sensor", Surroundings())
    assert watch.open()
    assert watch.burst(0.5, 10)
    watch.end(1.0)
    (traced,) = watch.traced
    assert traced.reads == 50
    assert traced.update_s == pytest.approx(0.02)
    assert (traced.first, traced.last) == (105.0, 154.0)
    sys.modules.pop("tracing_sensor")
