import errno
import math
import os
import sys
import time

import pytest

from tests.sensors.amd_trees import FRONTIER, AmdTree, boottime_ns, frontier, mi210, mi300a, table, unknown_table
from yprovd.errors import SensorUnavailable
from yprovd.sensors import amd_sysfs
from yprovd.sensors.amd import AmdSensor
from yprovd.sensors.amd_oam import Die, has_two_dies, paired, strongest
from yprovd.sensors.amd_sysfs import Sysfs

OAMS = [f"oam-0000:{bus}:00.0" for bus in FRONTIER[::2]]


@pytest.fixture
def node(host):
    return frontier(host.root)


@pytest.fixture
def fails(monkeypatch):
    """`fails(path, error)`: reads of this file fail so from now on; without an error they work again."""
    errors = {}
    pread = os.pread

    def failing(fd, size, offset):
        error = errors.get(os.readlink(f"/proc/self/fd/{fd}"))
        if error:
            raise OSError(error, os.strerror(error))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    return lambda path, error=0: errors.update({str(path): error})


def devices(sensor):
    return {m.device.id: m.device for m in sensor.metrics}


def metrics_of(sensor, device):
    return {m.name for m in sensor.metrics if m.device.id == device}


def of(sensor, name, read=None):
    """device -> value."""
    values = sensor.read() if read is None else read
    return {m.device.id: v for m, v in zip(sensor.metrics, values, strict=True) if m.name == name}


def charge(node, gpu, joules, **members):
    node.set(gpu, energy_accumulator=round(joules * 65536), **members)


# what is metered, and where


def test_an_oam_is_one_meter_and_its_gcds_are_none(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    found = devices(sensor)
    assert [d.id for d in found.values() if "meter" in d.attributes] == OAMS
    assert {d.cls for d in found.values() if "meter" in d.attributes} == {"socket"}
    for i, pci in enumerate(node.gpus):
        assert not {n for n in metrics_of(sensor, pci) if n.startswith(("hw.energy", "hw.power"))}
        assert found[pci].attributes["socket"] == OAMS[i // 2]
    oam = found[OAMS[1]]
    assert oam.name == "AMD INSTINCT MI250X (MCM) OAM AC MBA"
    assert oam.attributes == {"vendor": "amd", "members": "0000:c9:00.0,0000:ce:00.0", "meter": "gpu", "summed": True,
                              "energy_unit_j": 2**-16}


def test_the_sum_over_the_node_is_the_four_meters(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    assert of(sensor, "hw.energy") == {OAMS[0]: 1000, OAMS[1]: 3000, OAMS[2]: 5000, OAMS[3]: 7000}
    assert of(sensor, "hw.power") == {OAMS[0]: 90, OAMS[1]: 92, OAMS[2]: 94, OAMS[3]: 96}
    assert of(sensor, "hw.power.limit") == dict.fromkeys(OAMS, 560)
    assert of(sensor, "hw.gpu.utilization") == pytest.approx({pci: i / 10 for i, pci in enumerate(node.gpus)})
    assert of(sensor, "hw.gpu.memory.usage") == dict.fromkeys(node.gpus, 10 << 20)


def test_what_is_known_of_a_gcd(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    read = sensor.read()
    values = {m.name: v for m, v in zip(sensor.metrics, read, strict=True) if m.device.id == node.gpus[3]}
    assert values == pytest.approx({
        "hw.gpu.utilization": 0.3, "hw.gpu.memory.activity": 0.03, "hw.gpu.memory.usage": 10 << 20,
        "hw.gpu.memory.limit": 64 << 30, "hw.gpu.temperature": 43, "hw.gpu.hotspot.temperature": 48,
        "hw.gpu.memory.temperature": 53, "hw.gpu.clock": 1.7e9, "hw.gpu.memory.clock": 1.6e9,
        "hw.gpu.clock.reasons": 0})
    assert devices(sensor)[node.gpus[3]].attributes == {
        "vendor": "amd", "index": 3, "uuid": "GPU-8f1c2d3e4a5b6c03", "pci": "0000:ce:00.0", "minor": 131,
        "driver": "6.16.13", "backend": "sysfs", "gpu_metrics": "v1.3", "clock_reasons": "throttle_status",
        "socket": OAMS[1]}


def test_the_throttle_status_is_a_mask_and_no_boolean(host, opened, node):
    node.set(2, throttle_status=0x40000014)
    assert of(opened(AmdSensor(host.where())), "hw.gpu.clock.reasons")[node.gpus[2]] == 0x40000014


@pytest.mark.parametrize("silence", [{"energy_accumulator": 0, "power": 0},
                                     {"energy_accumulator": 2**64 - 1, "power": 0xFFFF}], ids=["zero", "all ones"])
def test_a_secondary_die_is_found_however_it_is_silent(host, opened, node, silence):
    for gcd in (1, 3, 5, 7):
        node.set(gcd, **silence)
    assert of(opened(AmdSensor(host.where())), "hw.energy") == dict(zip(OAMS, (1000, 3000, 5000, 7000), strict=True))


def test_the_primary_die_need_not_be_the_first(host, opened, node):
    charge(node, 0, 0, power=0)
    charge(node, 1, 55, power=91)
    sensor = opened(AmdSensor(host.where()))
    read = sensor.read()
    assert of(sensor, "hw.energy", read)[OAMS[0]] == 55
    assert of(sensor, "hw.power", read)[OAMS[0]] == 91


def test_counters_that_have_not_begun_begin_later(host, opened, node):
    for gcd in range(8):
        charge(node, gcd, 0, power=0)
    sensor = opened(AmdSensor(host.where()))
    assert all(math.isnan(v) for v in of(sensor, "hw.energy").values())
    assert list(devices(sensor))[8:] == OAMS
    charge(node, 1, 2.5, power=100)
    assert of(sensor, "hw.energy")[OAMS[0]] == 2.5
    charge(node, 1, 3.5)
    assert of(sensor, "hw.energy")[OAMS[0]] == 3.5


def test_a_pair_of_which_both_come_to_count_is_none(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    charge(node, 1, 1, power=90)
    assert of(sensor, "hw.energy")[OAMS[0]] == 1000  # a number that stands counts nothing
    charge(node, 1, 2)
    read = sensor.read()
    assert math.isnan(of(sensor, "hw.energy", read)[OAMS[0]])  # neither half of it nor twice
    assert math.isnan(of(sensor, "hw.power", read)[OAMS[0]])
    assert of(sensor, "hw.energy", read)[OAMS[1]] == 3000


def test_gcds_that_both_meter_keep_their_meters_and_say_why(host, opened, node):
    charge(node, 1, 11, power=80)
    sensor = opened(AmdSensor(host.where()))
    found = devices(sensor)
    assert {d.cls for d in found.values()} == {"gpu"}
    meters = [id for id, d in found.items() if d.attributes.get("meter") == "gpu"]
    assert meters == [node.gpus[i] for i in (0, 1, 2, 4, 6)]
    assert found[node.gpus[3]].attributes["unpaired"] == "0000:c1:00.0 and 0000:c6:00.0 both meter"
    assert sum(of(sensor, "hw.energy").values()) == 1000 + 11 + 3000 + 5000 + 7000


def test_a_gcd_that_is_lost_leaves_no_false_pairs(host, opened, node):
    (host.root / "sys/class/drm/card1/device").unlink()
    found = devices(opened(AmdSensor(host.where())))
    assert [id for id, d in found.items() if "meter" in d.attributes] == node.gpus[::2]
    assert found[node.gpus[0]].attributes["unpaired"] == "7 GCDs are no pairs"


def test_two_lost_gcds_do_not_shift_the_pairs(host, opened, node):
    for card in (0, 4):  # primaries: what is left begins with a secondary die
        (host.root / f"sys/class/drm/card{card}/device").unlink()
    found = devices(opened(AmdSensor(host.where())))
    assert {d.cls for d in found.values()} == {"gpu"}
    assert [id for id, d in found.items() if "meter" in d.attributes] == [node.gpus[2], node.gpus[6]]


def test_links_between_gcds_confirm_the_pairs_or_there_are_none(host, opened, node):
    for gcd in range(0, 8, 2):
        node.link(gcd, gcd + 1, 200_000)
        node.link(gcd, (gcd + 3) % 8, 50_000)
    assert OAMS[0] in devices(opened(AmdSensor(host.where())))
    for gcd in range(0, 8, 2):
        node.link(gcd, gcd + 1, 50_000)
        node.link(gcd, (gcd + 3) % 8, 200_000)
    found = devices(opened(AmdSensor(host.where())))
    assert "do not agree" in found[node.gpus[0]].attributes["unpaired"]
    assert [id for id, d in found.items() if "meter" in d.attributes] == node.gpus[::2]


def test_pairs_are_a_matter_of_the_bus_as_a_number():
    dies = [Die(f"{bus}:00.0", bus in ("0000:c1", "0001:01")) for bus in ("0001:06", "0000:c6", "0001:01", "0000:c1")]
    siblings, why = paired(dies)
    assert siblings["0000:c6:00.0"] == "0000:c1:00.0"
    assert siblings["0001:01:00.0"] == "0001:06:00.0"
    assert why == ""


def test_the_strongest_link_is_one():
    assert strongest({"a": 50, "b": 200, "c": 100}) == "b"
    assert strongest({"a": 200, "b": 200}) == ""
    assert strongest({}) == ""


@pytest.mark.parametrize(("device", "name", "two"), [
    (0x7408, "", True), (0x740C, "", True), (0x740F, "AMD Instinct MI210", False), (0, "AMD INSTINCT MI250", True),
    (0x74A1, "AMD Instinct MI300X", False),
])
def test_which_devices_have_two_dies(device, name, two):
    assert has_two_dies(device, name) is two


def test_a_device_of_one_die_has_its_own_meter(host, opened):
    tree = mi210(host.root)
    sensor = opened(AmdSensor(host.where()))
    assert {d.attributes["meter"] for d in devices(sensor).values()} == {"gpu"}
    assert of(sensor, "hw.energy") == dict(zip(tree.gpus, (7, 8), strict=True))
    assert of(sensor, "hw.power.limit") == dict.fromkeys(tree.gpus, 560)


def test_the_meter_of_an_apu_is_that_of_the_module(host, opened):
    tree = mi300a(host.root)
    sensor = opened(AmdSensor(host.where()))
    assert {d.attributes["meter"] for d in devices(sensor).values()} == {"module"}
    assert "hw.gpu.temperature" not in metrics_of(sensor, tree.gpus[0])  # its table has no such sensor
    read = sensor.read()
    assert of(sensor, "hw.energy", read) == dict(zip(tree.gpus, (1, 2, 3, 4), strict=True))
    assert of(sensor, "hw.gpu.clock", read)[tree.gpus[0]] == 2.05e9
    assert of(sensor, "hw.gpu.xgmi.receive", read)[tree.gpus[0]] == 6 * 1024


def test_reasons_of_later_tables_are_what_has_grown(host, opened):
    tree = mi300a(host.root)
    sensor = opened(AmdSensor(host.where()))
    assert math.isnan(of(sensor, "hw.gpu.clock.reasons")[tree.gpus[1]])
    tree.set(1, ppt_residency_acc=11, hbm_thm_residency_acc=1)
    assert of(sensor, "hw.gpu.clock.reasons")[tree.gpus[1]] == 0b10010
    assert devices(sensor)[tree.gpus[1]].attributes["clock_reasons"].split(",")[1] == "ppt"


# time


def test_energy_has_the_time_of_its_own_stamp(host, opened, node):
    node.set(0, system_clock_counter=boottime_ns() - 3_000_000_000)
    before = time.monotonic()
    sensor = opened(AmdSensor(host.where()))
    assert of(sensor, "hw.energy.time")[OAMS[0]] == pytest.approx(before - 3, abs=1)


def test_a_clock_that_counted_while_the_machine_slept_is_converted(host, opened, node, monkeypatch):
    slept = 30
    real = time.clock_gettime_ns
    sensor = opened(AmdSensor(host.where()))
    monkeypatch.setattr(time, "clock_gettime_ns",
                        lambda id: real(id) + (slept * 10**9 if id == time.CLOCK_BOOTTIME else 0))
    node.set(0)
    assert of(sensor, "hw.energy.time")[OAMS[0]] == pytest.approx(time.monotonic(), abs=5)


def test_one_stamp_is_one_time(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    assert len({of(sensor, "hw.energy.time")[OAMS[0]] for _ in range(50)}) == 1


@pytest.mark.parametrize("stamp", [0, 2**64 - 1, 1])
def test_a_stamp_that_is_none_is_the_time_of_the_reading(host, opened, node, stamp):
    node.set(0, system_clock_counter=stamp)
    assert of(opened(AmdSensor(host.where())), "hw.energy.time")[OAMS[0]] == pytest.approx(time.monotonic(), abs=5)


def test_a_counter_that_falls_is_given_as_it_is(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    assert of(sensor, "hw.energy")[OAMS[0]] == 1000
    charge(node, 0, 0.25)
    assert of(sensor, "hw.energy")[OAMS[0]] == 0.25


def test_energy_of_zero_is_absent(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    charge(node, 0, 0, power=0)
    read = sensor.read()
    assert math.isnan(of(sensor, "hw.energy", read)[OAMS[0]])
    assert math.isnan(of(sensor, "hw.energy.time", read)[OAMS[0]])
    assert math.isnan(of(sensor, "hw.power", read)[OAMS[0]])


# which are the job's


def test_others_gpus_are_not_recorded(host, opened, node):
    environ = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "2,3", "SLURM_JOB_NUM_NODES": "1"}
    found = devices(opened(AmdSensor(host.where(**environ))))
    assert list(found) == [*node.gpus[2:4], OAMS[1]]
    assert "shared" not in found[OAMS[1]].attributes


@pytest.mark.parametrize("gcd", [2, 3], ids=["primary", "secondary"])
def test_half_an_oam_shares_its_meter(host, opened, node, gcd):
    sensor = opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES=str(gcd))))
    found = devices(sensor)
    assert list(found) == [node.gpus[gcd], OAMS[1]]
    assert found[OAMS[1]].attributes["shared"] is True
    assert found[OAMS[1]].attributes["members"] == ",".join(node.gpus[2:4])
    assert "shared" not in found[node.gpus[gcd]].attributes
    assert of(sensor, "hw.energy") == {OAMS[1]: 3000}


def test_a_gpu_by_its_uuid(host, opened, node):
    found = devices(opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES="GPU-8f1c2d3e4a5b6c05"))))
    assert list(found) == [node.gpus[5], OAMS[2]]


def test_hip_counts_in_the_order_of_kfds_nodes(host, opened, node):
    for gcd in range(8):
        node.kfd(4 + (gcd + 4) % 8, gcd)
    sensor = opened(AmdSensor(host.where()))
    assert devices(sensor)[node.gpus[4]].attributes["index"] == 0
    assert list(devices(sensor))[:2] == node.gpus[4:6]
    assert node.gpus[4] in devices(opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES="0"))))


def test_a_device_cgroup_hides_kfds_nodes_and_not_the_files(host, opened, node, monkeypatch):
    allowed = [f"{host.root}/{node.node(number)}/properties" for number in (0, 1, 2, 3, 8, 9)]
    read = amd_sysfs._properties
    monkeypatch.setattr(amd_sysfs, "_properties",
                        lambda path: read(path) if path in allowed or "io_links" in path else None)
    environ = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "4,5", "ROCR_VISIBLE_DEVICES": "0,1",
               "SLURM_GPUS_ON_NODE": "2"}
    found = devices(opened(AmdSensor(host.where(**environ))))
    assert list(found) == [*node.gpus[4:6], OAMS[2]]
    assert found[node.gpus[4]].attributes["index"] == 0  # what this process sees
    allowed[4:] = []  # a step without GPUs: none can be opened, all can be read
    assert len(devices(opened(AmdSensor(host.where())))) == 12


def test_partitions_are_counted_one_by_one(host, opened):
    tree = mi300a(host.root)
    for gpu in range(4):
        host.write(f"{tree.folder(gpu)}/current_compute_partition", "TPX\n")
        for partition in range(3):
            tree.kfd(4 + 3 * gpu + partition, gpu, partition)
    found = devices(opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES="3,4,5,7"))))
    assert list(found) == tree.gpus[1:3]
    assert [d.attributes.get("shared", False) for d in found.values()] == [False, True]
    assert [d.attributes["index"] for d in found.values()] == [3, 7]
    assert found[tree.gpus[1]].attributes["partition"] == "TPX"


def test_a_job_without_gpus_has_none(host, node):
    with pytest.raises(SensorUnavailable, match="none of 8 AMD GPUs is the job's: SLURM_JOB_GPUS=NoDevFiles"):
        AmdSensor(host.where(SLURM_JOB_ID="1", SLURM_JOB_GPUS="NoDevFiles"))


# what goes wrong


def test_a_gpu_that_fails_is_nan_and_the_others_go_on(host, opened, node, fails):
    sensor = opened(AmdSensor(host.where()))
    path = host.root / node.folder(0) / "gpu_metrics"
    fails(path, errno.EIO)
    read = sensor.read()
    assert math.isnan(of(sensor, "hw.energy", read)[OAMS[0]])
    assert math.isnan(of(sensor, "hw.gpu.utilization", read)[node.gpus[0]])
    assert of(sensor, "hw.gpu.memory.usage", read)[node.gpus[0]] == 10 << 20
    assert of(sensor, "hw.energy", read)[OAMS[1]] == 3000
    fails(path)
    assert of(sensor, "hw.energy")[OAMS[0]] == 1000


def test_a_gpu_that_fails_at_first_has_its_place(host, opened, node, fails):
    path = host.root / node.folder(1) / "gpu_metrics"
    fails(path, errno.EIO)
    sensor = opened(AmdSensor(host.where()))
    assert devices(sensor)[node.gpus[1]].attributes["socket"] == OAMS[0]
    assert math.isnan(of(sensor, "hw.gpu.utilization")[node.gpus[1]])
    fails(path)
    assert of(sensor, "hw.gpu.utilization")[node.gpus[1]] == pytest.approx(0.1)


def test_a_gpu_that_vanishes_and_comes_back(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    sensor.read()
    host.remove(node.folder(0))
    read = sensor.read()
    gone = [v for m, v in zip(sensor.metrics, read, strict=True) if m.device.id in (OAMS[0], node.gpus[0])]
    assert all(map(math.isnan, gone))
    assert of(sensor, "hw.energy", read)[OAMS[3]] == 7000
    charge(node, 0, 4)
    host.write(f"{node.folder(0)}/mem_info_vram_used", "77\n")
    host.write(f"{node.folder(0)}/hwmon/hwmon9/power1_cap", "500000000\n")
    read = sensor.read()
    assert of(sensor, "hw.energy", read)[OAMS[0]] == 4
    assert of(sensor, "hw.power.limit", read)[OAMS[0]] == 500
    assert of(sensor, "hw.gpu.memory.usage", read)[node.gpus[0]] == 77


def test_a_driver_that_comes_back_with_another_table(host, opened, node):
    sensor = opened(AmdSensor(host.where()))
    node.raw(0, unknown_table()[:4] + b"\x01" * 196)
    assert math.isnan(of(sensor, "hw.energy")[OAMS[0]])
    node.raw(0, table("1.5", energy_accumulator=5 * 65536, system_clock_counter=boottime_ns()))
    assert of(sensor, "hw.energy")[OAMS[0]] == 5


def test_a_gpu_that_takes_seconds_is_left_alone_for_a_while(host, node, clock, monkeypatch):
    sysfs = Sysfs(str(host.root), clock)
    slow = sysfs._cards[3].metrics
    reads = []
    monkeypatch.setattr(type(slow), "read", _slowly(type(slow).read, slow, clock, reads))
    try:
        for seconds in (0, 1, 2, 40, 70):
            clock.now = seconds
            rows = sysfs.read(range(8))
            assert rows[2][0] == 3000
        assert reads == [0, 70]  # 20 times as long as it took, at most a minute
    finally:
        sysfs.close()


def _slowly(read, slow, clock, reads):
    def reading(file):
        if file is slow:
            reads.append(clock.now)
            clock.now += 3
        return read(file)

    return reading


def test_a_power_cap_is_looked_at_every_ten_seconds(host, clock):
    tree = mi210(host.root)
    sysfs = Sysfs(str(host.root), clock)
    try:
        assert [row[-1] for row in sysfs.read([0, 1])] == [560, 560]
        host.write(f"{tree.folder(0)}/hwmon/hwmon3/power1_cap", "300000000\n")
        host.write(f"{tree.folder(1)}/hwmon/hwmon3/power1_cap", "0\n")
        clock.now += 9
        assert [row[-1] for row in sysfs.read([0, 1])] == [560, 560]
        clock.now += 1.1
        limits = [row[-1] for row in sysfs.read([0, 1])]
        assert limits[0] == 300
        assert math.isnan(limits[1])  # there is none
    finally:
        sysfs.close()


def test_a_table_that_is_not_known_is_an_absence_with_its_name(host, node):
    for gcd in range(8):
        node.raw(gcd, unknown_table())
    with pytest.raises(SensorUnavailable, match=r"gpu_metrics v1\.9 of 200 bytes is not known.*library") as e:
        AmdSensor(host.where())
    assert "ROCM_PATH" in e.value.hint


def test_a_table_that_may_not_be_read_is_an_absence(host, node, forbid):
    forbid("gpu_metrics")
    with pytest.raises(SensorUnavailable, match="gpu_metrics cannot be read: Permission denied"):
        AmdSensor(host.where())


def test_one_unknown_table_among_others_leaves_what_lies_beside_it(host, opened):
    tree = mi210(host.root)
    tree.raw(1, unknown_table(2, 4))
    sensor = opened(AmdSensor(host.where()))
    assert of(sensor, "hw.energy")[tree.gpus[0]] == 7
    assert of(sensor, "hw.gpu.memory.usage")[tree.gpus[1]] == 10 << 20
    assert "hw.gpu.utilization" not in metrics_of(sensor, tree.gpus[1])
    assert devices(sensor)[tree.gpus[1]].attributes["gpu_metrics"] == "v2.4"


def test_no_gpu_of_amds(host):
    with pytest.raises(SensorUnavailable, match="no GPU of the amdgpu driver"):
        AmdSensor(host.where())


def test_other_vendors_cards_and_connectors_are_none_of_ours(host, opened):
    tree = mi210(host.root)
    host.write(f"{tree.folder(1)}/vendor", "0x10de\n")
    (host.root / "sys/class/drm/card0-DP-1").mkdir()
    assert list(devices(opened(AmdSensor(host.where())))) == tree.gpus[:1]


def test_the_kernels_own_driver_has_the_kernels_version(host, opened):
    mi210(host.root)
    host.remove("sys/module/amdgpu/version")
    host.write("proc/sys/kernel/osrelease", "6.12.3\n")
    assert {d.attributes["driver"] for d in devices(opened(AmdSensor(host.where()))).values()} == {"Linux 6.12.3"}


def test_a_name_without_a_product_name(host, opened):
    tree = AmdTree(host.root, 0x74A1, ["05"], "1.8", "")
    tree.set(0, energy_accumulator=65536)
    assert devices(opened(AmdSensor(host.where())))[tree.gpus[0]].name == "AMD Instinct MI300X"


# what it costs


def test_neither_library_nor_device_files_are_touched(host, opened, node, monkeypatch):
    touched = []
    os_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: (touched.append(str(path)), os_open(path, *a, **k))[1])
    loaded = set(sys.modules)
    sensor = opened(AmdSensor(host.where()))
    sensor.read()
    assert not [path for path in touched if not path.startswith(str(host.root / "sys"))]
    assert not {name for name in set(sys.modules) - loaded if name.startswith("amdsmi")}
    before = len(touched)
    sensor.read()
    assert len(touched) == before  # the descriptors are kept


def test_it_is_read_in_a_thread_of_its_own():
    assert AmdSensor.own_thread is True


def test_it_gives_back_its_descriptors(host, node):
    before = len(os.listdir("/proc/self/fd"))
    sensor = AmdSensor(host.where())
    sensor.read()
    sensor.close()
    sensor.close()
    with pytest.raises(SensorUnavailable):
        AmdSensor(host.where(SLURM_JOB_ID="1", SLURM_JOB_GPUS="NoDevFiles"))
    assert len(os.listdir("/proc/self/fd")) == before
