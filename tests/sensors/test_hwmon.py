import math
import shutil

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.hwmon import HwmonSensor

HWMON = "sys/class/hwmon"


def add(host, number, says, watts, *, device="device/", **more):
    """A power meter as most kernels show it: its files are those of the ACPI device."""
    host.write(f"{HWMON}/hwmon{number}/name", "power_meter\n")
    files = {"average": round(watts * 1e6), "average_interval": 1000, "oem_info": says, "model_number": ""} | more
    for name, text in files.items():
        host.write(f"{HWMON}/hwmon{number}/{device}power1_{name}", f"{text}\n")


def grace(host, *words, socket=0, first=1):
    watts = {"Module": 610.5, "Grace": 101.0, "CPU": 38.0, "SysIO": 21.0, "GPU": 480.0}
    for i, word in enumerate(words, first):
        add(host, i, f"{word} Power Socket {socket}", watts[word])


def summed(sensor):
    """(meter, ids) of what adds up."""
    out = {}
    for m in sensor.metrics:
        if m.device.attributes.get("summed"):
            out.setdefault(m.device.attributes["meter"], []).append(m.device.id)
    return out


@pytest.fixture(autouse=True)
def without_rapl(host):
    shutil.rmtree(host.root / "sys/class/powercap")


def test_one_meter_is_the_nodes(host, opened, value):
    add(host, 3, "", 412.345, model_number="4.0")
    add(host, 4, "CPU temperature", 1.0)
    host.write(f"{HWMON}/hwmon4/name", "k10temp\n")
    sensor = opened(HwmonSensor(host.where()))
    assert [m.device.id for m in sensor.metrics] == ["node"]
    assert sensor.metrics[0].device.attributes == {"meter": "node", "summed": True, "average_interval_ms": 1000}
    assert value(sensor, sensor.read(), "hw.power", "node") == pytest.approx(412.345)
    assert HwmonSensor.own_thread


def test_the_parts_of_a_grace_hopper_are_told_by_name_and_none_is_counted_twice(host, opened, value):
    grace(host, "Module", "Grace", "CPU", "SysIO")
    grace(host, "Module", "Grace", "CPU", "SysIO", socket=1, first=11)
    sensor = opened(HwmonSensor(host.where()))
    assert {m.device.id: m.device.attributes["meter"] for m in sensor.metrics if m.device.id.endswith("0")} == {
        "module-0": "module", "grace-0": "cpu", "cpu-0": "cpu", "sysio-0": "cpu"}
    assert summed(sensor) == {"module": ["module-0", "module-1"], "cpu": ["grace-0", "grace-1"]}
    assert sensor.metrics[0].device.name == "Module Power Socket 0"
    assert value(sensor, sensor.read(), "hw.power", "module-1") == 610.5


def test_rails_without_a_total_add_up(host, opened):
    grace(host, "CPU", "SysIO")
    add(host, 9, "DRAM Input Power Socket 0", 10.0)
    assert summed(opened(HwmonSensor(host.where()))) == {"cpu": ["cpu-0", "sysio-0"], "memory": ["dram-0"]}


def test_memory_is_within_the_total_of_its_socket_and_a_gpu_is_its_own_librarys(host, opened):
    grace(host, "Grace", "CPU", "GPU")
    add(host, 9, "DRAM Power Socket 0", 10.0)
    add(host, 10, "DRAM Power Socket 1", 10.0)
    assert summed(opened(HwmonSensor(host.where()))) == {"cpu": ["grace-0"], "memory": ["dram-1"]}


def test_a_meter_that_does_not_say_what_it_sees_is_nobodys_beside_others(host, opened):
    grace(host, "Grace")
    add(host, 7, "NVSwitch Power", 40.0)
    sensor = opened(HwmonSensor(host.where()))
    assert [m.device.id for m in sensor.metrics] == ["grace-0", "hwmon7"]
    assert "meter" not in sensor.metrics[1].device.attributes


def test_two_meters_that_say_nothing_are_not_each_the_node(host, opened):
    add(host, 1, "", 200.0)
    add(host, 2, "", 210.0)
    sensor = opened(HwmonSensor(host.where()))
    assert len(sensor.metrics) == 2
    assert summed(sensor) == {}


def test_the_same_name_twice_is_counted_once(host, opened):
    grace(host, "Grace")
    grace(host, "Grace", first=5)
    sensor = opened(HwmonSensor(host.where()))
    assert [m.device.id for m in sensor.metrics] == ["grace-0", "grace-0-hwmon5"]
    assert summed(sensor) == {"cpu": ["grace-0"]}


def test_a_battery_is_not_the_node(host, opened):
    add(host, 1, "UPS", 200.0, is_battery=1)
    add(host, 2, "", 210.0)
    sensor = opened(HwmonSensor(host.where()))
    assert summed(sensor) == {"node": ["node"]}
    assert sensor.read()[1] == 210.0


def test_files_beside_the_name_and_a_stable_id(host, opened):
    add(host, 1, "", 200.0, device="")
    add(host, 2, "", 210.0, device="")
    (host.root / "sys/devices/ACPI000D:00").mkdir(parents=True)
    (host.root / HWMON / "hwmon1/device").symlink_to(host.root / "sys/devices/ACPI000D:00")
    sensor = opened(HwmonSensor(host.where()))
    assert [m.device.id for m in sensor.metrics] == ["ACPI000D:00", "hwmon2"]


def test_a_name_that_is_the_acpi_devices(host, opened):
    add(host, 1, "", 200.0)
    host.remove(f"{HWMON}/hwmon1/name")
    host.write(f"{HWMON}/hwmon1/device/name", "power_meter\n")
    assert [m.device.id for m in opened(HwmonSensor(host.where())).metrics] == ["node"]


def test_not_known_is_no_power(host, opened, value):
    add(host, 1, "", 4294967.295)
    sensor = opened(HwmonSensor(host.where()))
    assert math.isnan(value(sensor, sensor.read(), "hw.power", "node"))


def test_a_meter_that_goes_away_is_nan(host, opened, value):
    grace(host, "Module", "Grace")
    sensor = opened(HwmonSensor(host.where()))
    host.remove(f"{HWMON}/hwmon1")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.power", "module-0"))
    assert value(sensor, read, "hw.power", "grace-0") == 101.0


def test_a_meter_that_may_not_be_read_is_an_absence_with_the_command(host, forbid):
    add(host, 1, "", 200.0)
    forbid("power1_average")
    with pytest.raises(SensorUnavailable, match="may not be read by this user") as e:
        HwmonSensor(host.where())
    assert "sudo chmod a+r" in e.value.hint


def test_a_meter_that_cannot_be_read_and_no_meter_are_absences(host):
    with pytest.raises(SensorUnavailable, match="no power meter") as e:
        HwmonSensor(host.where())
    assert "modprobe acpi_power_meter" in e.value.hint
    add(host, 1, "", 200.0)
    host.write(f"{HWMON}/hwmon1/device/power1_average", "")
    with pytest.raises(SensorUnavailable, match="cannot be read"):
        HwmonSensor(host.where())


def add_energy_module(host, name="amd_energy"):
    files = {"name": name, "energy1_label": "Ecore000", "energy1_input": 5, "energy2_label": "Esocket0",
             "energy2_input": 2500000, "energy3_label": "Esocket1", "energy3_input": 3500000}
    for file, text in files.items():
        host.write(f"{HWMON}/hwmon6/{file}", f"{text}\n")


@pytest.mark.parametrize("name", ["amd_energy", "zenergy"])
def test_sockets_of_an_energy_module_where_rapl_gives_nothing(host, opened, value, name):
    add_energy_module(host, name)
    sensor = opened(HwmonSensor(host.where()))
    assert summed(sensor) == {"cpu": ["socket-0", "socket-1"]}  # and no core
    assert value(sensor, sensor.read(), "hw.energy", "socket-0") == 2.5


def test_an_energy_module_beside_rapl_would_count_twice(host):
    add_energy_module(host)
    for file, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "100")):
        host.write(f"sys/class/powercap/intel-rapl:0/{file}", text)
    with pytest.raises(SensorUnavailable, match="no power meter"):
        HwmonSensor(host.where())


def test_an_energy_module_that_only_root_may_read_is_an_absence(host, forbid):
    add_energy_module(host)
    forbid("_input")
    with pytest.raises(SensorUnavailable, match="may not be read"):
        HwmonSensor(host.where())
