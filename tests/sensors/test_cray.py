"""The tree is that of a real node with four accelerators: values, stamps and the distances between them."""

import math
import os

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.cray import CraySensor

PM = "sys/cray/pm_counters"
#: Of the power of the node; the others are before and after it, as they were in the dump.
STAMP = 1784929200356706
NODE = {
    "power": f"495 W {STAMP} us", "energy": f"4709337659 J {STAMP - 76296} us", "power_cap": "0 W",
    "cpu_power": f"35 W {STAMP + 30245} us", "cpu_energy": f"278012345 J {STAMP + 30245} us",
    "memory_power": f"76 W {STAMP + 116318} us", "memory_energy": f"593012345 J {STAMP + 116318} us",
    "cpu0_temp": f"44 C {STAMP + 30245} us",
    "freshness": "47760686", "generation": "4", "startup": "1780055122858757", "raw_scan_hz": "10", "version": "3",
} | {f"accel{i}_power": f"{92 + i} W {STAMP + 4995} us" for i in range(4)} \
  | {f"accel{i}_energy": f"{860000000 + i} J {STAMP + 4995} us" for i in range(4)} \
  | {f"accel{i}_power_cap": "0 W" for i in range(4)}


class Clocks:
    """Both clocks; the node was up for `up` seconds at the stamp."""

    def __init__(self, up=5000.0):
        self.mono, self.wall = round(up * 1e9) + 10**8, STAMP * 1000 + 10**8

    def forward(self, seconds):
        self.mono += round(seconds * 1e9)
        self.wall += round(seconds * 1e9)

    def wall_ns(self):
        return self.wall

    def mono_ns(self):
        return self.mono


class Controller:
    """A node controller: the files of a host, and the scans that renew them."""

    def __init__(self, host, files=NODE):
        self.host = host
        self.files = dict(files)
        self.put(**files)

    def put(self, **files):
        self.files |= files
        for name, text in files.items():
            self.host.write(f"{PM}/{name}", text + "\n")

    def scan(self, clocks, seconds=1.0, *, fresh=True, stamps=True):
        """Time goes on; what is scanned has new stamps."""
        clocks.forward(seconds)
        us = round(seconds * 1e6)
        moved = {n: " ".join((*w[:2], str(int(w[2]) + us), "us")) for n, t in self.files.items()
                 if len(w := t.split()) == 4 and stamps}
        if fresh:
            moved["freshness"] = str(int(self.files["freshness"]) + 10)
        self.put(**moved)


@pytest.fixture
def controller(host):
    return Controller(host)


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def sensor(host, controller, clocks, opened):
    return opened(CraySensor(host.where(), clocks))


@pytest.fixture
def during_reads(monkeypatch):
    """`during_reads(name, act)`: what happens while the file of that name is read, each time."""
    acts = {}
    pread = os.pread

    def reading(fd, size, offset):
        data = pread(fd, size, offset)
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        if name in acts:
            acts[name]()
        return data

    monkeypatch.setattr(os, "pread", reading)
    return acts.__setitem__


def test_every_meter_of_the_node_with_what_it_sees(sensor):
    devices = {m.device.id: m.device for m in sensor.metrics}
    assert list(devices) == ["node", "cpu", "cpu0", "memory", "accel0", "accel1", "accel2", "accel3"]
    assert {id: (d.attributes.get("meter"), d.attributes.get("summed")) for id, d in devices.items()} == {
        "node": ("node", True), "cpu": ("cpu", True), "cpu0": (None, None), "memory": ("memory", True),
        **{f"accel{i}": ("gpu", True) for i in range(4)}}
    assert devices["node"].attributes == {"meter": "node", "summed": True, "raw_scan_hz": 10, "version": 3,
                                          "startup": 1780055122858757}
    assert devices["accel2"].attributes["index"] == 2
    assert {d.cls for d in devices.values()} == {"cray"}
    assert CraySensor.own_thread


def test_values_in_base_units(sensor, value):
    read = sensor.read()
    assert value(sensor, read, "hw.power", "node") == 495
    assert value(sensor, read, "hw.energy", "node") == 4709337659
    assert value(sensor, read, "hw.power", "accel3") == 95
    assert value(sensor, read, "hw.temperature", "cpu0") == 44


def test_energy_is_76_ms_older_than_power_and_has_its_own_time(sensor, value):
    read = sensor.read()
    assert value(sensor, read, "hw.power.time", "node") == pytest.approx(5000.0, abs=1e-6)
    assert value(sensor, read, "hw.energy.time", "node") == pytest.approx(5000.0 - 0.076296, abs=1e-6)
    assert value(sensor, read, "hw.energy.time", "memory") == pytest.approx(5000.116318, abs=1e-6)
    assert {m.kind for m in sensor.metrics if m.name.endswith(".time")} == {"time"}


def test_a_wall_clock_that_is_set_does_not_move_a_time_that_has_passed(sensor, clocks, value):
    sensor.read()
    clocks.wall += 3600 * 10**9
    assert value(sensor, sensor.read(), "hw.energy.time", "node") == pytest.approx(4999.923704, abs=1e-6)


def test_files_of_one_two_and_four_words(host, clocks, opened, value):
    Controller(host, NODE | {"cpu_power": "35 W", "memory_power": "76", "memory_energy": "5 J 1784929200 s"})
    sensor = opened(CraySensor(host.where(), clocks))
    read = sensor.read()
    assert value(sensor, read, "hw.power", "cpu") == 35
    assert value(sensor, read, "hw.power", "memory") == 76
    timed = {m.device.id for m in sensor.metrics if m.name == "hw.power.time"}
    assert timed == {"node", "accel0", "accel1", "accel2", "accel3"}
    assert value(sensor, read, "hw.energy", "memory") == 5
    assert not [m for m in sensor.metrics if m.name == "hw.energy.time" and m.device.id == "memory"]


def test_a_stamp_that_is_lost_is_no_time(sensor, controller, value):
    controller.put(cpu_energy="278012399 J")
    read = sensor.read()
    assert value(sensor, read, "hw.energy", "cpu") == 278012399
    assert math.isnan(value(sensor, read, "hw.energy.time", "cpu"))


@pytest.mark.parametrize("text", ["35 kW 1784929200386951 us", "35 J 1784929200386951 us", "", "n/a W", "35 W 17"])
def test_an_unknown_unit_is_left_out(host, clocks, opened, text):
    Controller(host, NODE | {"cpu_power": text})
    sensor = opened(CraySensor(host.where(), clocks))
    of_cpu = {m.name for m in sensor.metrics if m.device.id == "cpu"}
    assert of_cpu == {"hw.energy", "hw.energy.time"}
    assert len(sensor.read()) == len(sensor.metrics)
    assert sensor.metrics[0].device.attributes["skipped"] == "cpu_power"


def test_a_unit_that_changes_is_absent_and_the_others_stay(sensor, controller, value):
    controller.put(cpu_power=f"35000 mW {STAMP + 30245} us")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.power", "cpu"))
    assert math.isnan(value(sensor, read, "hw.power.time", "cpu"))
    assert value(sensor, read, "hw.power", "node") == 495


def test_a_scan_during_a_read_is_read_again(sensor, controller, clocks, during_reads, value):
    scans = [100.0]

    def scan():
        if scans:
            controller.put(freshness="47760700", power=f"{495 + scans.pop()} W {STAMP + 100000} us")

    during_reads("memory_power", scan)
    read = sensor.read()
    assert value(sensor, read, "hw.power", "node") == 595  # it was read before the scan, and again after it
    assert value(sensor, read, "yprov.cray.torn", "node") == 0


def test_a_scan_during_every_read_is_torn_and_counted(sensor, controller, during_reads, value):
    scans = iter(range(47760700, 47760800))
    during_reads("memory_power", lambda: controller.put(freshness=str(next(scans))))
    read = sensor.read()
    assert value(sensor, read, "yprov.cray.torn", "node") == 1
    assert value(sensor, read, "hw.power", "node") == 495
    assert value(sensor, sensor.read(), "yprov.cray.torn", "node") == 2
    during_reads("memory_power", lambda: None)
    assert value(sensor, sensor.read(), "yprov.cray.torn", "node") == 2


def test_what_stands_for_a_second_is_stale(sensor, controller, clocks, value):
    sensor.read()
    controller.scan(clocks, 1.2, fresh=False, stamps=False)
    read = sensor.read()
    for name, device in (("hw.power", "node"), ("hw.power.time", "node"), ("hw.power", "accel0"),
                         ("hw.temperature", "cpu0")):
        assert math.isnan(value(sensor, read, name, device))
    assert value(sensor, read, "yprov.cray.stale", "node") == 1
    assert value(sensor, read, "hw.energy", "node") == 4709337659
    assert value(sensor, read, "hw.energy.time", "node") == pytest.approx(4999.923704, abs=1e-6)
    controller.scan(clocks)
    read = sensor.read()
    assert value(sensor, read, "hw.power", "node") == 495
    assert value(sensor, read, "yprov.cray.stale", "node") == 1


def test_one_meter_that_stands_is_stale_and_the_others_are_not(sensor, controller, clocks, value):
    sensor.read()
    stands = controller.files["accel1_power"]
    controller.scan(clocks, 1.2)
    controller.put(accel1_power=stands)
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.power", "accel1"))
    assert value(sensor, read, "hw.power", "accel0") == 92
    assert value(sensor, read, "yprov.cray.stale", "node") == 1


def test_reads_that_are_seconds_apart_are_not_stale(sensor, controller, clocks, value):
    for _ in range(3):
        controller.scan(clocks, 30.0)
        read = sensor.read()
    assert value(sensor, read, "hw.power", "node") == 495
    assert value(sensor, read, "yprov.cray.stale", "node") == 0


def test_ten_reads_a_second_see_one_scan_several_times_and_none_is_stale(sensor, controller, clocks, value):
    for i in range(40):
        controller.scan(clocks, 0.1, fresh=i % 8 == 0, stamps=i % 8 == 0)
        read = sensor.read()
    assert value(sensor, read, "yprov.cray.stale", "node") == 0


def test_a_slow_controller_has_two_of_its_scans(host, clocks, opened, value):
    controller = Controller(host, NODE | {"raw_scan_hz": "1"})
    sensor = opened(CraySensor(host.where(), clocks))
    sensor.read()
    controller.scan(clocks, 1.5, fresh=False, stamps=False)
    assert value(sensor, sensor.read(), "hw.power", "node") == 495
    controller.scan(clocks, 1.0, fresh=False, stamps=False)
    assert math.isnan(value(sensor, sensor.read(), "hw.power", "node"))


@pytest.mark.parametrize("energy", [17, 4709337659 + 500])
def test_a_controller_that_starts_anew_is_counted_whichever_way_the_energy_goes(sensor, controller, clocks, value,
                                                                                 energy):
    assert value(sensor, sensor.read(), "yprov.cray.resets", "node") == 0
    controller.scan(clocks)
    assert value(sensor, sensor.read(), "yprov.cray.resets", "node") == 0
    controller.put(startup=str(STAMP), freshness="3", energy=f"{energy} J {STAMP + 1500000} us")
    clocks.forward(1.0)
    read = sensor.read()
    assert value(sensor, read, "yprov.cray.resets", "node") == 1
    assert value(sensor, read, "hw.energy", "node") == energy  # the raw counter, of the same sample
    controller.scan(clocks)
    assert value(sensor, sensor.read(), "yprov.cray.resets", "node") == 1


@pytest.mark.parametrize("moment", ["accel3_energy", "startup", "freshness"])
def test_the_energies_of_a_sample_are_those_of_the_controller_that_its_resets_speak_of(
        sensor, controller, during_reads, value, moment):
    """Whenever it starts anew: while the energies are read, or after the last of them."""
    reads = []

    def restart():
        reads.append(moment)
        if len(reads) == (2 if moment == "freshness" else 1):  # the second look at it ends a read
            controller.put(startup=str(STAMP), freshness="3", energy=f"17 J {STAMP + 1500000} us")

    during_reads(moment, restart)
    first, second = sensor.read(), sensor.read()
    for read in (first, second):
        resets, energy = value(sensor, read, "yprov.cray.resets", "node"), value(sensor, read, "hw.energy", "node")
        assert (resets, energy) in ((0, 4709337659), (1, 17))
    assert value(sensor, second, "yprov.cray.resets", "node") == 1


def test_a_cap_of_0_is_none_and_one_that_is_set_is_seen(sensor, controller, clocks, value):
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.power.limit", "node"))
    assert value(sensor, read, "yprov.cray.generation", "node") == 4
    controller.put(generation="5", accel2_power_cap="400 W")
    read = sensor.read()
    assert value(sensor, read, "hw.power.limit", "accel2") == 400
    assert math.isnan(value(sensor, read, "hw.power.limit", "accel1"))
    assert value(sensor, read, "yprov.cray.generation", "node") == 5


def test_an_xc40_has_one_accelerator_without_number_and_no_stamps(host, clocks, opened, value):
    Controller(host, {"power": "55 W", "energy": "7654321 J", "power_cap": "0 W", "accel_power": "17 W",
                      "accel_energy": "1234567 J", "accel_power_cap": "0 W", "freshness": "1234", "generation": "1",
                      "startup": "1400000000", "version": "1"})
    sensor = opened(CraySensor(host.where(), clocks))
    devices = {m.device.id: m.device.attributes for m in sensor.metrics}
    assert (devices["accel"]["meter"], devices["accel"]["summed"]) == ("gpu", True)
    assert not [m for m in sensor.metrics if m.kind == "time"]
    assert value(sensor, sensor.read(), "hw.energy", "accel") == 1234567
    clocks.forward(1.2)
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.power", "node"))  # freshness stands
    assert value(sensor, read, "hw.energy", "node") == 7654321


def test_parts_of_a_whole_are_not_added_to_it(host, clocks, opened):
    """Nodes with four Grace-Hopper modules have a file per processor beside the one for all."""
    parts = {f"cpu{i}_energy": f"{i} J {STAMP} us" for i in range(4)}
    Controller(host, NODE | parts | {"accel_energy": f"9 J {STAMP} us"})
    sensor = opened(CraySensor(host.where(), clocks))
    summed = {m.device.id: m.device.attributes.get("summed") for m in sensor.metrics}
    assert [id for id in summed if id.startswith("cpu") and summed[id]] == ["cpu"]
    assert [id for id in summed if id.startswith("accel") and summed[id]] == ["accel0", "accel1", "accel2", "accel3"]


def test_processors_without_a_whole_add_up(host, clocks, opened, forbid):
    Controller(host, NODE | {f"cpu{i}_energy": f"{i} J {STAMP} us" for i in range(2)})
    forbid("/cpu_energy")
    forbid("/cpu_power")
    sensor = opened(CraySensor(host.where(), clocks))
    assert {m.device.id for m in sensor.metrics if m.device.attributes.get("meter") == "cpu"
            and m.device.attributes["summed"]} == {"cpu0", "cpu1"}


def test_a_tree_without_freshness_is_read_and_judged_by_its_stamps(host, clocks, opened, value):
    controller = Controller(host, {n: t for n, t in NODE.items() if n not in ("freshness", "startup")})
    sensor = opened(CraySensor(host.where(), clocks))
    read = sensor.read()
    assert value(sensor, read, "hw.power", "node") == 495
    assert math.isnan(value(sensor, read, "yprov.cray.torn", "node"))
    assert math.isnan(value(sensor, read, "yprov.cray.resets", "node"))
    clocks.forward(1.2)
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.power", "node"))
    assert value(sensor, read, "yprov.cray.stale", "node") == 1
    controller.scan(clocks, fresh=False)
    assert value(sensor, sensor.read(), "hw.power", "node") == 495


def test_a_file_that_goes_away_is_nan_and_comes_back(sensor, host, controller, value):
    sensor.read()
    host.remove(f"{PM}/cpu_energy")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.energy", "cpu"))
    assert value(sensor, read, "hw.energy", "node") == 4709337659
    controller.put(cpu_energy=NODE["cpu_energy"])
    assert value(sensor, sensor.read(), "hw.energy", "cpu") == 278012345


def test_no_tree_and_files_that_may_not_be_read_are_absences(host, forbid, clocks):
    with pytest.raises(SensorUnavailable, match="not a node of a Cray"):
        CraySensor(host.where(), clocks)
    Controller(host)
    for what in ("power", "energy", "temp", "cap"):
        forbid(what)
    with pytest.raises(SensorUnavailable, match="Permission denied") as e:
        CraySensor(host.where(), clocks)
    assert "administrators" in e.value.hint


def test_a_read_changes_nothing(sensor, host):
    tree = host.root / PM
    before = {p.name: p.read_bytes() for p in tree.iterdir()}
    sensor.read()
    assert {p.name: p.read_bytes() for p in tree.iterdir()} == before
