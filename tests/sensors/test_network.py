import math

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.network import NetworkSensor


def test_interfaces_that_reach_out_of_the_node(host, opened):
    sensor = opened(NetworkSensor(host.where()))
    devices = {m.device.id: m.device for m in sensor.metrics}
    assert list(devices) == ["eth0", "hsn0"]
    assert {d.cls for d in devices.values()} == {"nic"}
    assert devices["eth0"].attributes == {}  # no link: -1
    assert devices["hsn0"].attributes == {"speed_mbit": 200000}


def test_bytes_and_errors_also_without_a_space_after_the_colon(host, opened, value):
    sensor = opened(NetworkSensor(host.where()))
    read = sensor.read()
    assert value(sensor, read, "system.network.io.receive", "eth0") == 1000000
    assert value(sensor, read, "system.network.io.transmit", "eth0") == 2000000
    assert value(sensor, read, "system.network.errors", "eth0") == 7
    assert value(sensor, read, "system.network.io.receive", "hsn0") == 123456789012
    assert value(sensor, read, "system.network.io.transmit", "hsn0") == 987654321098


def test_an_interface_that_vanishes_is_nan_and_counts_on_when_it_is_back(host, opened, value):
    sensor = opened(NetworkSensor(host.where()))
    sensor.read()
    host.edit("proc/net/dev", "eth0:", "ethX:")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "system.network.io.receive", "eth0"))
    assert value(sensor, read, "system.network.io.receive", "hsn0") == 123456789012
    host.edit("proc/net/dev", "ethX: 1000000", "eth0: 50")
    assert value(sensor, sensor.read(), "system.network.io.receive", "eth0") == 1000050


def test_an_interface_called_like_the_loopback_is_not_it(host, opened):
    host.edit("proc/net/dev", "  eth0:", "lowan0:")
    assert "lowan0" in [m.device.id for m in opened(NetworkSensor(host.where())).metrics]


def test_loopback_alone_is_an_absence(host):
    lines = (host.root / "proc/net/dev").read_text().splitlines(keepends=True)
    host.write("proc/net/dev", "".join(lines[:3]))
    with pytest.raises(SensorUnavailable, match="no network interface"):
        NetworkSensor(host.where())
    host.remove("proc/net/dev")
    with pytest.raises(SensorUnavailable, match="cannot be read"):
        NetworkSensor(host.where())
