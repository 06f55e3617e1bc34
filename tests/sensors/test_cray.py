"""The tree is that of a real node with four accelerators: values, stamps and the distances between them."""

import math

import pytest

from tests.sensors.cray_trees import NODE, PM, STAMP, Clocks, Controller
from yprovd.errors import SensorUnavailable
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
