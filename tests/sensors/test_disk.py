import math

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.disk import DiskSensor


def disks(sensor):
    return list(dict.fromkeys(m.device.id for m in sensor.metrics))


def test_whole_disks_only_and_no_volume_on_top_of_them(host, opened):
    assert disks(opened(DiskSensor(host.where()))) == ["sda", "nvme0n1"]


def test_sectors_are_512_bytes(host, opened, value):
    sensor = opened(DiskSensor(host.where()))
    read = sensor.read()
    assert value(sensor, read, "system.disk.io.read", "sda") == 2000 * 512
    assert value(sensor, read, "system.disk.io.write", "sda") == 1000 * 512
    assert value(sensor, read, "system.disk.operations.read", "sda") == 100
    assert value(sensor, read, "system.disk.operations.write", "sda") == 50
    assert value(sensor, read, "system.disk.io_time", "sda") == pytest.approx(0.7)
    assert value(sensor, read, "system.disk.io.write", "nvme0n1") == 128000 * 512


def test_a_disk_that_vanishes_is_nan_and_the_others_stay(host, opened, value):
    sensor = opened(DiskSensor(host.where()))
    lines = (host.root / "proc/diskstats").read_text().splitlines(keepends=True)
    host.write("proc/diskstats", "".join(line for line in lines if " sda" not in line))
    read = sensor.read()
    assert math.isnan(value(sensor, read, "system.disk.io.read", "sda"))
    assert value(sensor, read, "system.disk.io.read", "nvme0n1") == 64000 * 512


def test_a_disk_plugged_in_again_counts_on(host, opened, value):
    sensor = opened(DiskSensor(host.where()))
    sensor.read()
    host.edit("proc/diskstats", "sda 100 5 2000", "sda 1 0 8")
    assert value(sensor, sensor.read(), "system.disk.io.read", "sda") == 2008 * 512


def test_old_kernels_have_fewer_columns(host, opened, value):
    host.write("proc/diskstats", "   8       0 sda 100 5 2000 300 50 6 1000 400 0 700 710\n")
    sensor = opened(DiskSensor(host.where()))
    assert value(sensor, sensor.read(), "system.disk.io_time", "sda") == pytest.approx(0.7)


def test_a_name_with_a_slash_and_a_hidden_path(host, opened):
    host.write("proc/diskstats", "".join(f"8 {i} {n} 1 0 8 0 0 0 0 0 0 0 0\n"
                                         for i, n in enumerate(("cciss/c0d0", "nvme0c0n1"))))
    host.write("sys/block/cciss!c0d0/size", "1")
    host.write("sys/block/nvme0c0n1/hidden", "1\n")
    assert disks(opened(DiskSensor(host.where()))) == ["cciss/c0d0"]


def test_a_node_without_disks_is_an_absence(host):
    host.write("proc/diskstats", "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n")
    with pytest.raises(SensorUnavailable, match="no disk"):
        DiskSensor(host.where())
    host.remove("proc/diskstats")
    with pytest.raises(SensorUnavailable, match="cannot be read"):
        DiskSensor(host.where())
