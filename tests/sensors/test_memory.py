import math

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.memory import MemorySensor

KIB = 1024.0


def test_values_are_bytes(host, opened, value):
    sensor = opened(MemorySensor(host.where()))
    read = sensor.read()
    assert value(sensor, read, "system.memory.usage") == (16384000 - 8192000) * KIB
    assert value(sensor, read, "system.memory.available") == 8192000 * KIB
    assert value(sensor, read, "system.memory.cached") == 4096000 * KIB  # and not SwapCached
    assert value(sensor, read, "system.swap.usage") == 1048576 * KIB


def test_a_machine_without_swap_has_no_swap_metric(host, opened):
    host.edit("proc/meminfo", "SwapTotal:       2097152 kB", "SwapTotal:             0 kB")
    sensor = opened(MemorySensor(host.where()))
    assert "system.swap.usage" not in [m.name for m in sensor.metrics]
    assert len(sensor.read()) == len(sensor.metrics)


def test_what_the_kernel_does_not_tell_is_nan(host, opened, value):
    host.edit("proc/meminfo", "MemAvailable:", "MemOther:")
    sensor = opened(MemorySensor(host.where()))
    read = sensor.read()
    assert math.isnan(value(sensor, read, "system.memory.available"))
    assert math.isnan(value(sensor, read, "system.memory.usage"))
    assert value(sensor, read, "system.memory.cached") == 4096000 * KIB


def test_no_meminfo_is_an_absence(host):
    host.remove("proc/meminfo")
    with pytest.raises(SensorUnavailable, match="meminfo"):
        MemorySensor(host.where())
