import math

import pytest

from yprovd.errors import SensorUnavailable
from yprovd.sensors.cgroup import CgroupSensor

MIB = 1048576
SLURMD = "sys/fs/cgroup/system.slice/slurmstepd.scope"
V1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" + "".join(
    f"3{i} 31 0:3{i} {{root}} /sys/fs/cgroup/{c} rw,relatime shared:{i} - cgroup cgroup rw,{c}\n"
    for i, c in enumerate(("cpu,cpuacct", "memory", "name=systemd")))
JOB = {"SLURM_JOB_ID": "4242"}


def names(sensor):
    return [m.name.removeprefix("container.") for m in sensor.metrics]


def version_1(host, cpu, memory, root="/", top=""):
    """A job of `cpu` seconds and `memory` bytes on a node with version 1 and, as usual, an empty version 2
    beside."""
    host.remove("sys/fs/cgroup")
    host.write("proc/self/mountinfo", V1.format(root=root) +
               "39 31 0:41 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n")
    host.write("proc/self/cgroup", f"9:name=systemd:/\n4:memory:{memory}\n2:cpu,cpuacct:{cpu}\n0::/\n")
    host.write("sys/fs/cgroup/unified/cpu.stat", "usage_usec 9\n")
    below = "" if top else memory
    host.write(f"sys/fs/cgroup/cpu,cpuacct{top or cpu}/cpuacct.usage", "2500000000\n")
    host.write(f"sys/fs/cgroup/memory{top or below}/memory.usage_in_bytes", f"{7 * MIB}\n")
    host.write(f"sys/fs/cgroup/memory{top or below}/memory.max_usage_in_bytes", f"{9 * MIB}\n")
    host.write(f"sys/fs/cgroup/memory{top or below}/memory.stat",
               f"cache 5\nrss 1\nshmem 1\ntotal_cache 6\ntotal_rss {3 * MIB}\ntotal_shmem {MIB}\n")


def test_version_2_the_own_group_without_slurm(host, opened):
    sensor = opened(CgroupSensor(host.where()))
    assert names(sensor) == ["cpu.time", "memory.usage", "memory.peak", "memory.anon"]
    assert sensor.read() == [1.0, MIB, 2 * MIB, 524288 + 1024]


def test_version_2_climbs_to_the_job(host, opened):
    sensor = opened(CgroupSensor(host.where(**JOB)))
    assert sensor.read() == [100.0, 100 * MIB, 200 * MIB, 100 * (524288 + 1024)]


def test_slurm_26_05_names_the_job_by_its_sluid(host, opened):
    (host.root / SLURMD / "job_4242").rename(host.root / SLURMD / "s0CK3FTQ8ZNW71")
    host.edit("proc/self/cgroup", "job_4242", "s0CK3FTQ8ZNW71")
    assert opened(CgroupSensor(host.where(**JOB))).read()[0] == 100.0


def test_another_jobs_directory_is_not_ours(host):
    with pytest.raises(SensorUnavailable, match="no directory of job 77 above"):
        CgroupSensor(host.where(SLURM_JOB_ID="77"))


def test_memory_peak_is_left_out_before_linux_5_19(host, opened):
    host.remove(f"{SLURMD}/job_4242/memory.peak")
    assert names(opened(CgroupSensor(host.where(**JOB)))) == ["cpu.time", "memory.usage", "memory.anon"]


def test_without_the_memory_controller_there_is_cpu_time(host, opened):
    for file in ("memory.current", "memory.peak", "memory.stat"):
        host.remove(f"{SLURMD}/job_4242/{file}")
    assert names(opened(CgroupSensor(host.where(**JOB)))) == ["cpu.time"]


def test_the_root_group_is_the_whole_machine_and_no_jobs(host):
    host.write("proc/self/cgroup", "0::/\n")
    host.write("sys/fs/cgroup/cpu.stat", "usage_usec 9\n")
    with pytest.raises(SensorUnavailable, match="root cgroup") as e:
        CgroupSensor(host.where())
    assert e.value.reason.count("root cgroup") == 1


def test_a_namespace_shows_the_own_group_as_the_root(host, opened):
    host.write("proc/self/cgroup", "0::/\n")
    for file, text in (("cgroup.events", "populated 1\n"), ("cpu.stat", "usage_usec 3000000\n")):
        host.write(f"sys/fs/cgroup/{file}", text)
    assert opened(CgroupSensor(host.where(**JOB))).read() == [3.0]


@pytest.mark.parametrize("path", ["/docker/0123", "/../../elsewhere"])
def test_a_path_that_the_mount_does_not_show_falls_back_to_its_top(host, opened, path):
    host.write("proc/self/cgroup", f"0::{path}\n")
    for file, text in (("cgroup.events", "populated 1\n"), ("cpu.stat", "usage_usec 3000000\n")):
        host.write(f"sys/fs/cgroup/{file}", text)
    assert opened(CgroupSensor(host.where())).read() == [3.0]


def test_version_1_each_controller_has_a_path_of_its_own(host, opened):
    version_1(host, "/slurm/uid_1000/job_4242", "/slurm/uid_1000/job_4242")
    host.write("proc/self/cgroup", "4:memory:/slurm/uid_1000/job_4242/step_0/task_1\n"
                                   "2:cpu,cpuacct:/slurm/uid_1000/job_4242/step_0\n0::/\n")
    for c, leaf in (("memory", "step_0/task_1"), ("cpu,cpuacct", "step_0")):
        host.write(f"sys/fs/cgroup/{c}/slurm/uid_1000/job_4242/{leaf}/tasks", "1\n")
    sensor = opened(CgroupSensor(host.where(**JOB)))
    assert sensor.read() == [2.5, 7 * MIB, 9 * MIB, 4 * MIB]


def test_hybrid_the_controllers_root_is_left_out(host, opened):
    version_1(host, "/", "/api/1")
    host.write("sys/fs/cgroup/cpu,cpuacct/release_agent", "")
    sensor = opened(CgroupSensor(host.where()))
    assert names(sensor) == ["memory.usage", "memory.peak", "memory.anon"]


def test_hybrid_memory_in_version_2(host, opened):
    host.write("proc/self/mountinfo", "31 1 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n"
                                      "32 1 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    job = "/system.slice/slurmstepd.scope/job_4242"
    host.write("proc/self/cgroup", f"3:cpuacct:{job}\n0::{job}\n")
    host.write(f"sys/fs/cgroup/cpuacct{job}/cpuacct.usage", "4000000000\n")
    assert opened(CgroupSensor(host.where(**JOB))).read()[:2] == [4.0, 100 * MIB]


def test_a_container_that_mounts_its_own_group_as_the_top(host, opened):
    version_1(host, "/docker/ab", "/docker/ab", root="/docker/ab", top="/")
    assert opened(CgroupSensor(host.where())).read() == [2.5, 7 * MIB, 9 * MIB, 4 * MIB]


def test_without_mountinfo_the_usual_places_are_tried(host, opened):
    host.remove("proc/self/mountinfo")
    assert opened(CgroupSensor(host.where())).read()[0] == 1.0


def test_a_mount_point_with_a_space_is_found(host, opened):
    (host.root / "sys/fs/cgroup").rename(host.root / "sys/fs/c group")
    host.edit("proc/self/mountinfo", "/sys/fs/cgroup", "/sys/fs/c\\040group")
    assert opened(CgroupSensor(host.where())).read()[0] == 1.0


def test_memory_stat_is_read_once_a_second(host, opened, clock):
    sensor = opened(CgroupSensor(host.where(), clock))
    host.edit(f"{SLURMD}/job_4242/step_extern/user/task_0/memory.stat", "anon 524288", "anon 1")
    assert sensor.read()[3] == 524288 + 1024
    clock.now = 1.0
    assert sensor.read()[3] == 1 + 1024


def test_a_group_that_is_removed_is_nan(host, opened):
    sensor = opened(CgroupSensor(host.where()))
    host.remove(f"{SLURMD}/job_4242")
    assert all(map(math.isnan, sensor.read()[:3]))


def test_no_groups_at_all_are_an_absence(host):
    host.remove("sys/fs/cgroup")
    with pytest.raises(SensorUnavailable, match="not mounted"):
        CgroupSensor(host.where())
    host.write("proc/self/cgroup", "")
    with pytest.raises(SensorUnavailable, match="not mounted"):
        CgroupSensor(host.where())
    host.remove("proc/self/cgroup")
    with pytest.raises(SensorUnavailable, match="no control groups"):
        CgroupSensor(host.where())
