import math

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.infiniband import InfinibandSensor

IB = "sys/class/infiniband"


def add(host, adapter="mlx5_0", port=1, state="4: ACTIVE", counters=(("port_xmit_data", 250), ("port_rcv_data", 1000)),
        rate="200 Gb/sec (4X HDR)", **more):
    base = f"{IB}/{adapter}/ports/{port}"
    for name, text in (("state", state), ("rate", rate), ("link_layer", "InfiniBand")):
        host.write(f"{base}/{name}", f"{text}\n")
    for name, count in counters:
        host.write(f"{base}/counters/{name}", f"{count}\n")
    for name, count in more.items():
        host.write(f"{base}/{name.replace('__', '/')}", f"{count}\n")


def test_words_of_four_bytes(host, opened, value):
    add(host)
    add(host, "mlx5_1", 2)
    sensor = opened(InfinibandSensor(host.where()))
    assert {m.device.id for m in sensor.metrics} == {"mlx5_0:1", "mlx5_1:2"}
    assert sensor.metrics[0].device.attributes == \
        {"link_layer": "InfiniBand", "speed_mbit": 200000, "rate": "200 Gb/sec (4X HDR)"}
    read = sensor.read()
    assert value(sensor, read, "hw.network.transmit", "mlx5_0:1") == 1000
    assert value(sensor, read, "hw.network.receive", "mlx5_1:2") == 4000


def test_64_bits_are_better_than_32(host, opened, value):
    add(host, counters_ext__port_xmit_data_64=2**40, counters_ext__port_rcv_data_64=2**41)
    sensor = opened(InfinibandSensor(host.where()))
    assert value(sensor, sensor.read(), "hw.network.transmit", "mlx5_0:1") == 2**42


def test_a_counter_of_32_bits_that_is_full_says_nothing(host, opened, value):
    add(host, counters=(("port_xmit_data", 2**32 - 1), ("port_rcv_data", 1000)))
    sensor = opened(InfinibandSensor(host.where()))
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.network.transmit", "mlx5_0:1"))
    assert value(sensor, read, "hw.network.receive", "mlx5_0:1") == 4000


def test_adapters_that_count_bytes(host, opened, value):
    add(host, "efa_0", counters=(), hw_counters__tx_bytes=77, hw_counters__rx_bytes=88)
    sensor = opened(InfinibandSensor(host.where()))
    assert value(sensor, sensor.read(), "hw.network.transmit", "efa_0:1") == 77


def test_ports_that_are_down_are_left_out(host, opened):
    add(host, "mlx5_0", state="1: DOWN")
    with pytest.raises(SensorUnavailable, match="no port is active: mlx5_0:1"):
        InfinibandSensor(host.where())
    add(host, "mlx5_1")
    assert {m.device.id for m in opened(InfinibandSensor(host.where())).metrics} == {"mlx5_1:1"}


def test_errors_are_asked_for_every_ten_seconds(host, opened, clock, value):
    add(host, counters__symbol_error=1, hw_counters__packet_seq_err=2)
    sensor = opened(InfinibandSensor(host.where(), clock))
    assert value(sensor, sensor.read(), "hw.errors", "mlx5_0:1") == 3
    host.write(f"{IB}/mlx5_0/ports/1/counters/symbol_error", "5\n")
    clock.now = 9.0
    assert value(sensor, sensor.read(), "hw.errors", "mlx5_0:1") == 3
    clock.now = 10.0
    assert value(sensor, sensor.read(), "hw.errors", "mlx5_0:1") == 7


def test_a_counter_that_an_administrator_cleared_goes_on(host, opened, value):
    add(host)
    sensor = opened(InfinibandSensor(host.where()))
    sensor.read()
    host.write(f"{IB}/mlx5_0/ports/1/counters/port_xmit_data", "10\n")
    assert value(sensor, sensor.read(), "hw.network.transmit", "mlx5_0:1") == 1040


def test_an_adapter_that_vanishes_is_nan(host, opened, clock, value):
    add(host, counters__symbol_error=1)
    add(host, "mlx5_1")
    sensor = opened(InfinibandSensor(host.where(), clock))
    host.remove(f"{IB}/mlx5_0")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.network.receive", "mlx5_0:1"))
    assert math.isnan(value(sensor, read, "hw.errors", "mlx5_0:1"))
    assert value(sensor, read, "hw.network.receive", "mlx5_1:1") == 4000


def test_no_adapter_and_no_permission_are_absences(host, forbid):
    with pytest.raises(SensorUnavailable, match="no InfiniBand or RoCE adapter"):
        InfinibandSensor(host.where())
    (host.root / IB / "broken").mkdir(parents=True)
    add(host)
    forbid("_data")
    with pytest.raises(SensorUnavailable, match="Permission denied"):
        InfinibandSensor(host.where())


def test_a_rate_that_is_not_understood_is_left_out(host, opened):
    add(host, rate="unknown")
    assert opened(InfinibandSensor(host.where())).metrics[0].device.attributes == {"link_layer": "InfiniBand"}
