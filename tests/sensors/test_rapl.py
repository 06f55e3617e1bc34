import math
import shutil

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.rapl import RaplSensor

RANGE = 262143328850
CAP = "sys/class/powercap"


def devices(sensor):
    return {m.device.id: m.device for m in sensor.metrics}


def add_zone(host, zone, name, energy):
    for file, text in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", RANGE)):
        host.write(f"{CAP}/{zone}/{file}", f"{text}\n")


def test_packages_and_their_memory_once_each(host, opened):
    sensor = opened(RaplSensor(host.where()))
    found = devices(sensor)
    assert list(found) == ["package-0", "dram-0", "package-1", "dram-1"]  # no core, nothing twice
    assert {d.attributes["summed"] for d in found.values()} == {True}
    assert found["package-0"].attributes == \
        {"zone": "intel-rapl:0", "max_energy_range_uj": RANGE, "meter": "cpu", "summed": True}


def test_what_each_zone_sees(host, opened):
    add_zone(host, "intel-rapl:2", "psys", 5)
    found = devices(opened(RaplSensor(host.where())))
    assert {id: d.attributes["meter"] for id, d in found.items()} == \
        {"package-0": "cpu", "dram-0": "memory", "package-1": "cpu", "dram-1": "memory", "psys": "platform"}


def test_a_die_of_a_package_is_a_processor(host, opened):
    host.write(f"{CAP}/intel-rapl:1/name", "package-0-die-1\n")
    found = devices(opened(RaplSensor(host.where())))
    assert {id: d.attributes["meter"] for id, d in found.items()}["package-0-die-1"] == "cpu"
    assert found["dram-0-die-1"].attributes["meter"] == "memory"


def test_joules_from_the_first_raw_reading(host, opened, value):
    sensor = opened(RaplSensor(host.where()))
    assert value(sensor, sensor.read(), "hw.energy", "package-0") == 1.0
    host.write(f"{CAP}/intel-rapl:0/energy_uj", "3500000\n")
    assert value(sensor, sensor.read(), "hw.energy", "package-0") == 3.5


def test_the_counter_goes_round_and_the_energy_grows(host, opened, value):
    host.write(f"{CAP}/intel-rapl:0/energy_uj", f"{RANGE}\n")
    sensor = opened(RaplSensor(host.where()))
    first = value(sensor, sensor.read(), "hw.energy", "package-0")
    for raw, more in ((0, 1e-6), (2000000, 2.000001), (1000000, (RANGE + 1 + 1000001) / 1e6)):
        host.write(f"{CAP}/intel-rapl:0/energy_uj", f"{raw}\n")
        assert value(sensor, sensor.read(), "hw.energy", "package-0") == pytest.approx(first + more, abs=1e-4)


def test_the_platform_meter_covers_the_others(host, opened):
    add_zone(host, "intel-rapl:2", "psys", 5)
    found = devices(opened(RaplSensor(host.where())))
    assert [id for id, d in found.items() if d.attributes["summed"]] == ["psys"]
    assert len(found) == 5


def test_a_platform_meter_that_stands_at_zero_covers_nothing(host, opened):
    add_zone(host, "intel-rapl:2", "psys", 0)
    found = devices(opened(RaplSensor(host.where())))
    assert [id for id, d in found.items() if not d.attributes["summed"]] == ["psys"]


def test_a_memory_mapped_meter_counts_where_there_is_no_other(host, opened, value):
    for zone in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"):
        host.remove(f"{CAP}/{zone}")
    found = devices(opened(RaplSensor(host.where())))
    assert found["package-0"].attributes["zone"] == "intel-rapl-mmio:0"
    assert found["dram-0"].attributes["zone"] == "intel-rapl-mmio:0:0"


def test_equal_names_on_two_sockets_get_ids_of_their_own(host, opened):
    host.write(f"{CAP}/intel-rapl:1/name", "package-0\n")
    assert list(devices(opened(RaplSensor(host.where())))) == \
        ["package-0", "dram-0", "package-0-zone1", "dram-0-zone1:1"]


def test_amd_has_packages_only(host, opened):
    shutil.rmtree(host.root / CAP)
    add_zone(host, "intel-rapl:0", "package-0", 7)
    add_zone(host, "intel-rapl:0:0", "core", 7)
    assert list(devices(opened(RaplSensor(host.where())))) == ["package-0"]


def test_a_zone_that_vanishes_is_nan_and_the_others_stay(host, opened, value):
    sensor = opened(RaplSensor(host.where()))
    sensor.read()
    host.remove(f"{CAP}/intel-rapl:1")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.energy", "package-1"))
    assert value(sensor, read, "hw.energy", "package-0") == 1.0
    add_zone(host, "intel-rapl:1", "package-1", 3000500)
    assert value(sensor, sensor.read(), "hw.energy", "package-1") == pytest.approx(3.0005)


def test_energy_that_only_root_may_read_is_an_absence_with_the_command(host, forbid):
    forbid("energy_uj")
    with pytest.raises(SensorUnavailable, match="intel-rapl:0/energy_uj may not be read") as e:
        RaplSensor(host.where())
    assert "sudo chmod a+r /sys/class/powercap/*/energy_uj" in e.value.hint


def test_one_readable_zone_is_enough(host, opened, forbid):
    forbid("intel-rapl:1/energy_uj")
    assert "package-1" not in devices(opened(RaplSensor(host.where())))


def test_no_driver_and_broken_files_are_absences(host):
    for zone in (host.root / CAP).glob("*:*"):
        (zone / "energy_uj").write_text("")
    with pytest.raises(SensorUnavailable, match="cannot be read"):
        RaplSensor(host.where())
    shutil.rmtree(host.root / CAP)
    with pytest.raises(SensorUnavailable, match="virtual machine"):
        RaplSensor(host.where())
