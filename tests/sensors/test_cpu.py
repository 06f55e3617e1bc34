import math
import shutil

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.cpu import CpuSensor


def test_times_are_seconds_by_state(host, opened, value):
    sensor = opened(CpuSensor(host.where()))
    read = sensor.read()
    assert value(sensor, read, "system.cpu.time.user") == pytest.approx(1020.0)
    assert value(sensor, read, "system.cpu.time.system") == pytest.approx(310.0)
    assert value(sensor, read, "system.cpu.time.idle") == pytest.approx(8000.0)
    assert value(sensor, read, "system.cpu.time.iowait") == pytest.approx(50.0)
    assert value(sensor, read, "system.cpu.load_average.1m") == 1.25
    assert next(m.unit for m in sensor.metrics if m.name == "system.cpu.load_average.1m") == "{thread}"  # no share
    assert value(sensor, read, "system.cpu.frequency") == 2.25e9


def test_utilization_is_of_the_time_since_the_last_read(host, opened, value):
    sensor = opened(CpuSensor(host.where()))
    assert math.isnan(value(sensor, sensor.read(), "system.cpu.utilization"))
    assert math.isnan(value(sensor, sensor.read(), "system.cpu.utilization"))  # no time has passed
    host.edit("proc/stat", "cpu  100000 2000 30000 800000", "cpu  100030 2000 30010 800060")
    assert value(sensor, sensor.read(), "system.cpu.utilization") == pytest.approx(0.4)


def test_idle_time_that_steps_back_is_held(host, opened, value):
    sensor = opened(CpuSensor(host.where()))
    sensor.read()
    host.edit("proc/stat", "cpu  100000 2000 30000 800000 5000", "cpu  100100 2000 30000 799990 4990")
    read = sensor.read()
    assert value(sensor, read, "system.cpu.time.idle") == pytest.approx(8000.0)
    assert value(sensor, read, "system.cpu.time.iowait") == pytest.approx(50.0)
    assert value(sensor, read, "system.cpu.utilization") == 1.0


def test_without_cpufreq_there_is_no_frequency(host, opened):
    shutil.rmtree(host.root / "sys/devices")
    assert "system.cpu.frequency" not in [m.name for m in opened(CpuSensor(host.where())).metrics]


def test_cpufreq_that_says_nothing_is_no_cpufreq(host, opened):
    for cpu in "01":
        host.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", "<unknown>\n")
    assert "system.cpu.frequency" not in [m.name for m in opened(CpuSensor(host.where())).metrics]


def test_an_offline_cpu_is_left_out_of_the_mean(host, opened, value):
    sensor = opened(CpuSensor(host.where()))
    host.remove("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    assert value(sensor, sensor.read(), "system.cpu.frequency") == 2.5e9
    host.remove("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq")
    assert math.isnan(value(sensor, sensor.read(), "system.cpu.frequency"))


def test_of_many_cpus_eight_are_asked_spread_evenly(host, opened, value):
    for cpu in range(128):
        khz = 1_000_000 if cpu % 16 == 0 else 9_000_000
        host.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", f"{khz}\n")
    sensor = opened(CpuSensor(host.where()))
    assert value(sensor, sensor.read(), "system.cpu.frequency") == 1e9


def test_frequencies_that_are_slow_to_read_take_turns_and_a_rest(host, opened, value, clock):
    clock.step = 0.010
    sensor = opened(CpuSensor(host.where(), clock))

    def frequency():
        return value(sensor, sensor.read(), "system.cpu.frequency")

    first = frequency()
    assert [frequency() for _ in range(5)] == [first] * 5
    clock.now += 2.0
    assert {first, frequency()} == {2.0e9, 2.5e9}


@pytest.mark.parametrize("text", ["", "intr 1\n", "cpu 1 2\n"])
def test_an_unreadable_table_is_an_absence(host, text):
    host.write("proc/stat", text)
    with pytest.raises(SensorUnavailable, match="proc/stat"):
        CpuSensor(host.where())


def test_no_proc_is_an_absence(host):
    host.remove("proc/stat")
    with pytest.raises(SensorUnavailable):
        CpuSensor(host.where())
