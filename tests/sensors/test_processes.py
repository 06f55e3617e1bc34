"""The job's processes in a /proc that the test writes."""

import errno
import math
import os
import shutil

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors import Surroundings
from yprovd.sensors.processes import ProcessesSensor

MARK = b"HOME=/\0YPROV_RUN_ID=fixture\0"


@pytest.fixture
def proc(host):
    """An empty /proc, and a function that writes one process into it. Times are (utime, stime, cutime,
    cstime)."""
    shutil.rmtree(host.root / "proc")
    (host.root / "proc").mkdir()

    def write(pid, ppid=1, times=(0, 0, 0, 0), env=b"", state="S", comm="python", start=5, threads=1, rss=0,
              io=(0, 0, 0, 0), pss=None, flags=0):
        fields = [state, ppid, 0, 0, 0, -1, flags, 0, 0, 0, 0, *times]
        fields += [20, 0, threads, 0, start, 0, rss, *[0] * 28]
        host.write(f"proc/{pid}/environ", env)
        host.write(f"proc/{pid}/io", "rchar: {}\nwchar: {}\nsyscr: 1\nsyscw: 1\n"
                                     "read_bytes: {}\nwrite_bytes: {}\n".format(*io))
        if pss is not None:
            host.write(f"proc/{pid}/smaps_rollup", f"0-1 ---p [rollup]\nRss: 9 kB\nPss:   {pss} kB\n")
        host.write(f"proc/{pid}/stat", f"{pid} ({comm}) {' '.join(map(str, fields))}\n")

    return write


@pytest.fixture
def job(host, clock, opened, value):
    """`job(name)` reads the sensor and gives one metric, in its unit; `job()` only reads."""
    sensor = opened(ProcessesSensor(host.where(), clock))

    def read(*names):
        values = sensor.read()
        found = [value(sensor, values, f"process.{name}") for name in names]
        return found[0] if len(found) == 1 else found

    return read


def test_the_plain_host(host, clock, opened):
    values = opened(ProcessesSensor(host.where(), clock)).read()
    page = os.sysconf("SC_PAGE_SIZE")
    assert values[0] == pytest.approx((640 + 50 + 25) / 100)  # the zombie's time counts
    assert values[1] == 30000 * page
    assert math.isnan(values[2])
    assert values[3:] == [2, 11, 1400, 240, 4608, 8192]


def test_no_run_and_no_proc_are_absences(tmp_path):
    with pytest.raises(SensorUnavailable, match="no run to follow"):
        ProcessesSensor(Surroundings("/"))
    with pytest.raises(SensorUnavailable, match="there is no"):
        ProcessesSensor(Surroundings(str(tmp_path), "run"))


def test_before_the_first_process_nothing_was_used(proc, job):
    assert job("cpu.time", "count", "io.read") == [0, 0, 0]


def test_a_child_without_the_mark_belongs_to_its_parent(proc, job):
    proc(10, env=MARK)
    proc(11, ppid=10)
    proc(12, ppid=11, env=b"YPROV_RUN_ID=other\0")
    proc(13)
    proc(14, env=b"YPROV_RUN_ID=fixture2\0")
    assert job("count") == 3


def test_a_daemon_with_another_parent_is_known_by_its_mark(proc, job):
    proc(10, ppid=1, env=MARK)
    assert job("count") == 1


def test_a_name_with_parentheses_does_not_confuse(proc, job):
    proc(10, env=MARK, comm="a) R 1 (b c", times=(100, 0, 0, 0))
    assert job("cpu.time") == 1


def test_a_process_that_had_not_started_its_program_is_looked_at_again(proc, job, clock):
    proc(10)
    assert job("count") == 0
    proc(10, env=MARK)
    assert job("count") == 1


def test_a_task_that_slurm_holds_back_is_found_later(proc, job, clock):
    proc(10)
    for _ in range(30):
        assert job("count") == 0
        clock.now += 0.1
    proc(10, env=MARK)
    clock.now += 2.0
    assert job("count") == 1


def test_a_foreign_process_is_not_read_for_ever(proc, job, clock, host):
    proc(10)
    for _ in range(60):
        job()
        clock.now += 1
    proc(10, env=MARK)  # too late: nobody's environment changes now
    assert job("count") == 0
    host.remove("proc/10")
    job()
    proc(10, env=MARK, start=9)  # its number is someone else's
    assert job("count") == 1


def test_threads_of_the_kernel_are_passed_over_and_children_of_a_containers_2_are_not(proc, job):
    proc(2, env=MARK)
    proc(3, ppid=2, env=MARK)
    proc(4, ppid=2, env=MARK, flags=0x00200040)
    assert job("count") == 2


def test_a_number_that_comes_back_is_a_new_process(proc, job):
    proc(10, env=MARK, times=(100, 0, 0, 0), start=5)
    assert job("cpu.time") == 1
    proc(10, env=MARK, times=(7, 0, 0, 0), start=6)
    job()
    assert job("cpu.time", "count") == [pytest.approx(1.07), 1]
    proc(10, env=b"", times=(50, 0, 0, 0), start=8)
    job()
    assert job("cpu.time", "count") == [pytest.approx(1.07), 0]


def test_a_reaped_child_is_counted_once(proc, job, host):
    proc(10, env=MARK, times=(10, 0, 0, 0))
    proc(11, ppid=10, times=(50, 10, 0, 0))
    assert job("cpu.time") == pytest.approx(0.7)
    host.remove("proc/11")
    proc(10, env=MARK, times=(10, 0, 55, 12))  # with what it used after it was last seen
    assert job("cpu.time") == pytest.approx(0.77)


def test_a_child_that_was_never_seen_is_counted_through_its_parent(proc, job):
    proc(10, env=MARK)
    job()
    proc(10, env=MARK, times=(0, 0, 30, 5))
    assert job("cpu.time") == pytest.approx(0.35)


def test_a_child_that_its_parent_ignored_is_not_lost(proc, job, host):
    proc(10, env=MARK)
    proc(11, ppid=10, times=(50, 0, 0, 0))
    job()
    host.remove("proc/11")  # SIGCHLD ignored: no cutime
    assert job("cpu.time") == 0.5
    assert job("cpu.time") == 0.5


def test_an_orphan_is_not_lost(proc, job, host):
    proc(10, ppid=1, env=MARK, times=(50, 0, 20, 0))
    assert job("cpu.time") == pytest.approx(0.7)
    host.remove("proc/10")
    assert job("cpu.time", "count", "memory.rss") == [pytest.approx(0.7), 0, 0]


def test_a_child_and_its_parent_that_vanish_together_are_with_who_waited(proc, job, host):
    proc(10, env=MARK)
    proc(11, ppid=10, times=(10, 0, 0, 0))
    proc(12, ppid=11, times=(30, 0, 0, 0))
    assert job("cpu.time") == pytest.approx(0.4)
    host.remove("proc/12")
    host.remove("proc/11")
    proc(10, env=MARK, times=(0, 0, 40, 0))  # 11 had waited for 12
    assert job("cpu.time") == pytest.approx(0.4)


def test_the_grandchild_of_a_vanished_parent_that_init_reaped_is_not_lost(proc, job, host):
    proc(10, env=MARK)
    proc(11, ppid=10, times=(10, 0, 0, 0))
    proc(12, ppid=11, times=(30, 0, 0, 0))
    job()
    host.remove("proc/12")
    host.remove("proc/11")
    proc(10, env=MARK, times=(0, 0, 10, 0))
    assert job("cpu.time") == pytest.approx(0.4)


def test_a_child_reaped_while_we_read_is_not_counted_twice(proc, job, host, monkeypatch):
    proc(10, env=MARK, times=(10, 0, 0, 0))
    proc(11, ppid=10, times=(60, 0, 0, 0))
    job()
    pread, armed = os.pread, [True]

    def reaped_after_its_parent_was_read(fd, size, offset):
        data = pread(fd, size, offset)
        if data.startswith(b"10 (") and armed:
            armed.clear()
            proc(10, env=MARK, times=(10, 0, 60, 0))
            host.remove("proc/11")
        return data

    monkeypatch.setattr(os, "pread", reaped_after_its_parent_was_read)
    # A removed file is ENODEV in this tree, and then ENOENT: gone, as ESRCH is in a real /proc.
    assert [job("cpu.time") for _ in range(3)] == [pytest.approx(0.7)] * 3


def test_a_process_that_is_being_reaped_has_given_its_time_away(proc, job):
    proc(10, env=MARK)
    proc(11, ppid=10, times=(60, 0, 0, 0))
    job()
    proc(10, env=MARK, times=(0, 0, 60, 0))
    proc(11, ppid=10, times=(60, 0, 0, 0), state="X")
    assert [job("cpu.time") for _ in range(3)] == [pytest.approx(0.6)] * 3


def test_a_zombie_has_time_and_no_memory(proc, job):
    proc(10, env=MARK, rss=100)
    proc(11, ppid=10, state="Z", times=(50, 0, 0, 0), rss=0)
    assert job("cpu.time", "count", "threads") == [0.5, 1, 1]


def test_io_of_a_reaped_child_is_in_its_parents(proc, job, host):
    proc(10, env=MARK, io=(100, 10, 4096, 0))
    proc(11, ppid=10, io=(1000, 50, 0, 512))
    names = "io.read", "io.write", "disk.read", "disk.write"
    assert job(*names) == [1100, 60, 4096, 512]
    host.remove("proc/11")
    proc(10, env=MARK, io=(1100, 60, 4096, 512))
    assert job(*names) == [1100, 60, 4096, 512]
    host.remove("proc/10")
    assert job(*names) == [1100, 60, 4096, 512]


def test_io_that_may_not_be_read_is_left_out_and_the_rest_counts(proc, job, forbid):
    forbid("/11/io")
    proc(10, env=MARK, io=(100, 0, 0, 0), times=(10, 0, 0, 0))
    proc(11, ppid=10, io=(1000, 0, 0, 0), times=(10, 0, 0, 0))
    assert job("io.read", "cpu.time") == [100, pytest.approx(0.2)]


def test_io_that_no_process_shows_is_nan(proc, job, forbid):
    forbid("/io")
    proc(10, env=MARK)
    assert math.isnan(job("io.read"))


def test_a_read_that_fails_does_not_end_a_process(proc, job, monkeypatch):
    proc(10, env=MARK, times=(50, 0, 0, 0), rss=3)
    job()

    def failing(fd, size, offset):
        raise OSError(errno.EIO, "odd")

    with monkeypatch.context() as m:
        m.setattr(os, "pread", failing)
        assert job("cpu.time", "count") == [0.5, 1]
    assert job("cpu.time", "count") == [0.5, 1]


def test_more_processes_than_descriptors(proc, job):
    before = len(os.listdir("/proc/self/fd"))
    proc(10, env=MARK)
    for pid in range(11, 411):
        proc(pid, ppid=10, times=(1, 0, 0, 0))
    assert job("count", "cpu.time") == [401, 4.0]
    assert len(os.listdir("/proc/self/fd")) - before <= 401


def test_nobody_forked_so_nothing_is_listed(proc, host, job, clock):
    host.write("proc/loadavg", "0 0 0 1/2 10\n")
    proc(10, env=MARK)
    job()
    proc(11, ppid=10)
    assert job("count") == 1
    host.write("proc/loadavg", "0 0 0 1/2 11\n")
    assert job("count") == 2
    proc(12, ppid=10)
    assert job("count") == 2
    clock.now = 5.0  # not for ever: the file may lag behind
    assert job("count") == 3


def test_pss_comes_after_two_seconds_and_is_held_for_thirty(proc, job, clock):
    proc(10, env=MARK, pss=100)
    proc(11, ppid=10, pss=20)
    assert math.isnan(job("memory.pss"))
    clock.now = 2.0
    assert job("memory.pss") == 120 * 1024
    proc(10, env=MARK, pss=300)
    clock.now = 31.9
    assert job("memory.pss") == 120 * 1024
    clock.now = 32.0
    assert job("memory.pss") == 320 * 1024


def test_pss_of_a_zombie_and_of_one_that_has_just_ended_is_nothing(proc, job, clock, host):
    proc(10, env=MARK, pss=100)
    proc(11, ppid=10, state="Z")
    proc(12, ppid=10)
    job()
    clock.now = 2.0
    assert job("memory.pss") == 100 * 1024


def test_pss_that_takes_too_long_is_nan_and_tried_less_often(proc, job, clock):
    proc(10, env=MARK, pss=100)
    proc(11, ppid=10, pss=100)
    job()
    clock.now, clock.step = 2.0, 0.015
    assert math.isnan(job("memory.pss"))
    clock.now, clock.step = 40.0, 0.0
    assert math.isnan(job("memory.pss"))
    clock.now = 63.0
    assert job("memory.pss") == 200 * 1024


def test_pss_of_a_large_job_is_not_even_begun(proc, job, clock):
    proc(10, env=MARK, pss=100, rss=2_000_000)  # 8 GB: its training would wait for a quarter of a second
    job()
    clock.now = 2.0
    assert math.isnan(job("memory.pss"))


def test_pss_that_may_not_be_read_is_nan(proc, job, clock, forbid, host):
    proc(10, env=MARK, pss=100)
    proc(11, ppid=10)
    host.write("proc/11/smaps_rollup", "")
    job()
    clock.now = 2.0
    assert math.isnan(job("memory.pss"))
