import math
import os
import shutil

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.slingshot import SlingshotSensor

CXI = "sys/class/cxi"
AT = "@1784929200.123456789\n"
BUCKETS = {"hni_tx_ok_27": 5, "hni_tx_ok_64": 10, "hni_tx_ok_65_to_127": 3, "hni_tx_ok_8192_to_max": 2,
           "hni_rx_ok_36_to_63": 7, "hni_rx_ok_64": 1, "hni_tx_ok_ieee": 99, "hni_rx_ok_bad_64": 99}


def add(host, nic="cxi0", tx=1000, rx=2000, counted=True, **more):
    counts = BUCKETS | {"hni_pcs_uncorrected_cw": 4, "pct_sct_timeouts": 8} | more
    if counted:
        counts |= {"hni_sts_tx_ok_octets": tx, "hni_sts_rx_ok_octets": rx}
    for name, count in counts.items():
        host.write(f"{CXI}/{nic}/device/telemetry/{name}", f"{count}{AT}")
    host.write(f"{CXI}/{nic}/device/telemetry/reset_counters", "")
    host.write(f"{CXI}/{nic}/device/properties/speed", "200000\n")
    host.write(f"{CXI}/{nic}/device/net/hsn{nic[3:]}/mtu", "9000\n")


def test_bytes_of_every_nic(host, opened, value):
    for i in (0, 1, 10, 2):
        add(host, f"cxi{i}", tx=1000 + i)
    sensor = opened(SlingshotSensor(host.where()))
    assert list(dict.fromkeys(m.device.id for m in sensor.metrics)) == ["cxi0", "cxi1", "cxi2", "cxi10"]
    assert sensor.metrics[0].device.attributes == {"method": "counted", "speed_mbit": 200000, "interface": "hsn0"}
    read = sensor.read()
    assert value(sensor, read, "hw.network.transmit", "cxi10") == 1010
    assert value(sensor, read, "hw.network.receive", "cxi1") == 2000
    assert value(sensor, read, "hw.errors", "cxi0") == 4


def test_sizes_of_packets_give_a_lower_bound_and_it_is_called_so(host, opened, value):
    add(host, counted=False)
    sensor = opened(SlingshotSensor(host.where()))
    assert sensor.metrics[0].device.attributes["method"] == "lower_bound"
    read = sensor.read()
    assert value(sensor, read, "hw.network.transmit", "cxi0") == 5 * 27 + 10 * 64 + 3 * 65 + 2 * 8192
    assert value(sensor, read, "hw.network.receive", "cxi0") == 7 * 36 + 64


def test_one_direction_counted_and_the_other_not_is_a_lower_bound_of_both(host, opened):
    add(host)
    host.remove(f"{CXI}/cxi0/device/telemetry/hni_sts_rx_ok_octets")
    assert opened(SlingshotSensor(host.where())).metrics[0].device.attributes["method"] == "lower_bound"


@pytest.mark.parametrize("counted", [True, False])
def test_nothing_is_ever_opened_for_writing_nor_a_file_that_resets(host, opened, monkeypatch, counted):
    add(host, counted=counted)
    os_open = os.open
    asked = []

    def noting(path, flags, *args, **kwargs):
        asked.append((path, flags))
        return os_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", noting)
    opened(SlingshotSensor(host.where())).read()
    telemetry = [(path, flags) for path, flags in asked if "telemetry" in str(path)]
    assert len(telemetry) > 2
    assert {flags & os.O_ACCMODE for _, flags in telemetry} == {os.O_RDONLY}
    assert not [path for path, _ in telemetry if "reset" in path]


def test_a_counter_that_is_reset_goes_on(host, opened, value):
    add(host, tx=1000)
    sensor = opened(SlingshotSensor(host.where()))
    sensor.read()
    host.write(f"{CXI}/cxi0/device/telemetry/hni_sts_tx_ok_octets", f"50{AT}")
    assert value(sensor, sensor.read(), "hw.network.transmit", "cxi0") == 1050


def test_a_nic_that_vanishes_is_nan(host, opened, value):
    add(host, "cxi0")
    add(host, "cxi1")
    sensor = opened(SlingshotSensor(host.where()))
    host.remove(f"{CXI}/cxi0")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "hw.network.transmit", "cxi0"))
    assert value(sensor, read, "hw.network.transmit", "cxi1") == 1000


def test_no_nic_no_telemetry_and_no_permission_are_absences(host, forbid):
    with pytest.raises(SensorUnavailable, match="no Slingshot NIC"):
        SlingshotSensor(host.where())
    add(host)
    forbid("octets")
    for name in BUCKETS:
        forbid(name)
    with pytest.raises(SensorUnavailable, match="Permission denied") as e:
        SlingshotSensor(host.where())
    assert e.value.hint
    shutil.rmtree(host.root / CXI / "cxi0/device/telemetry")
    with pytest.raises(SensorUnavailable, match="cannot be read"):
        SlingshotSensor(host.where())


def test_a_link_that_is_down_has_no_speed(host, opened):
    add(host)
    host.write(f"{CXI}/cxi0/device/properties/speed", "0\n")
    host.remove(f"{CXI}/cxi0/device/net")
    assert opened(SlingshotSensor(host.where())).metrics[0].device.attributes == {"method": "counted"}
