import errno
import math
import os

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.lustre import LustreSensor

PROC, DEBUG = "proc/fs/lustre/llite", "sys/kernel/debug/lustre/llite"
STATS = """\
snapshot_time             1523008010.817348638 secs.nsecs
read_bytes                25673 samples [bytes] 1 3366225 145121869
write_bytes               13641 samples [bytes] 1 3366225 468230469 9123456789
open                      9 samples [regs]
close                     9 samples [regs]
"""


def add(host, place=PROC, name="scratch-ffff9d3a4c2f8000", stats=STATS):
    host.write(f"{place}/{name}/stats", stats)


def mount(host):
    host.write("proc/self/mounts", "tmpfs /tmp tmpfs rw 0 0\n10.0.0.1@tcp:/scratch /lustre lustre rw,flock 0 0\n")


@pytest.fixture
def closed(monkeypatch):
    """debugfs as a user finds it."""
    listdir = os.listdir

    def kernel_listdir(path="."):
        if "kernel/debug" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", kernel_listdir)


@pytest.mark.parametrize("place", [PROC, DEBUG])
def test_bytes_and_opens_of_each_file_system(host, opened, value, place):
    add(host, place)
    add(host, place, "home-ffff9d3a4c2f9000")
    sensor = opened(LustreSensor(host.where()))
    assert {m.device.id for m in sensor.metrics} == {"scratch", "home"}  # and not the number of the mount
    read = sensor.read()
    assert value(sensor, read, "system.filesystem.io.read", "scratch") == 145121869
    assert value(sensor, read, "system.filesystem.io.write", "home") == 468230469
    assert value(sensor, read, "system.filesystem.opens", "home") == 9


def test_one_file_system_mounted_twice_is_two_devices(host, opened):
    add(host, name="scratch-1")
    add(host, name="scratch-2")
    assert {m.device.id for m in opened(LustreSensor(host.where())).metrics} == {"scratch-1", "scratch-2"}


def test_what_never_happened_has_no_line_and_is_0(host, opened, value):
    add(host, stats="snapshot_time 1 secs.nsecs\n")
    sensor = opened(LustreSensor(host.where()))
    assert value(sensor, sensor.read(), "system.filesystem.io.read", "scratch") == 0
    add(host)
    assert value(sensor, sensor.read(), "system.filesystem.io.read", "scratch") == 145121869


def test_counters_that_are_cleared_go_on(host, opened, value):
    add(host)
    sensor = opened(LustreSensor(host.where()))
    sensor.read()
    for stats, read in (("snapshot_time 1 secs.nsecs\n", 145121869),
                        ("read_bytes 1 samples [bytes] 7 7 7\n", 145121876)):
        add(host, stats=stats)
        assert value(sensor, sensor.read(), "system.filesystem.io.read", "scratch") == read


def test_a_mount_that_goes_away_is_nan(host, opened, value):
    add(host)
    add(host, name="home-1")
    sensor = opened(LustreSensor(host.where()))
    host.remove(f"{PROC}/scratch-ffff9d3a4c2f8000")
    read = sensor.read()
    assert math.isnan(value(sensor, read, "system.filesystem.io.read", "scratch"))
    assert value(sensor, read, "system.filesystem.io.read", "home") == 145121869


def test_counters_for_root_only_are_an_absence_that_says_what_stands_in(host, closed):
    mount(host)
    with pytest.raises(SensorUnavailable, match=r"root only, as everywhere since Lustre 2\.12") as e:
        LustreSensor(host.where())
    assert "process.io.read" in e.value.hint


def test_a_node_without_lustre_is_told_so_and_not_of_root(host, closed):
    with pytest.raises(SensorUnavailable, match="no Lustre file system is mounted") as e:
        LustreSensor(host.where())
    assert not e.value.hint


def test_a_file_of_counters_that_may_not_be_read(host, forbid):
    mount(host)
    add(host, DEBUG)
    forbid("stats")
    with pytest.raises(SensorUnavailable, match="root only"):
        LustreSensor(host.where())


def test_a_mount_without_counters(host):
    mount(host)
    with pytest.raises(SensorUnavailable, match="neither in /proc nor in debugfs"):
        LustreSensor(host.where())


def test_a_line_that_is_cut_is_absent_for_now(host, opened, value):
    add(host)
    sensor = opened(LustreSensor(host.where()))
    add(host, stats="read_bytes 25673 samples\n")
    assert math.isnan(value(sensor, sensor.read(), "system.filesystem.io.read", "scratch"))
