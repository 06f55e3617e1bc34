"""What scans, stamps and restarts of the node controller make of a reading: torn, stale, of which clock, of which
counter."""

import math
import os
from itertools import pairwise

import pytest

from tests.sensors.cray_trees import NODE, STAMP, Clocks, Controller
from yprovd.sensors.cray import CraySensor


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


def test_a_wall_clock_that_is_set_does_not_move_a_time_that_has_passed(sensor, clocks, value):
    sensor.read()
    clocks.wall += 3600 * 10**9
    assert value(sensor, sensor.read(), "hw.energy.time", "node") == pytest.approx(4999.923704, abs=1e-6)


@pytest.mark.parametrize("off_s", [-300.0, -30.0, 30.0, 300.0])
def test_a_controller_whose_clock_is_another_has_the_times_of_ours(sensor, controller, clocks, value, off_s):
    """A second lies between two scans, whatever they say of when it was."""
    clocks.wall += round(off_s * 1e9)
    times, mono = [], []
    for _ in range(5):
        read = sensor.read()
        times.append(value(sensor, read, "hw.energy.time", "node"))
        mono.append(clocks.mono / 1e9)
        controller.scan(clocks)
    assert times[1:] == pytest.approx(mono[1:], abs=0.2)
    assert [b - a for a, b in pairwise(times[1:])] == pytest.approx([1.0] * 3, abs=1e-6)


@pytest.mark.parametrize("set_s", [-3600.0, -10.0, 10.0, 3600.0])
def test_a_clock_that_is_set_while_the_controllers_is_not_leaves_no_gap(sensor, controller, clocks, value, set_s):
    sensor.read()
    controller.scan(clocks)
    before = value(sensor, sensor.read(), "hw.energy.time", "node")
    clocks.wall += round(set_s * 1e9)
    controller.scan(clocks)
    after = value(sensor, sensor.read(), "hw.energy.time", "node")
    assert after - before == pytest.approx(1.0, abs=0.2)
