"""Each way in which GPUs are absent, partly absent, or go away has an outcome of its own."""

import math
import os
import subprocess
import sys
import threading
import time

import pytest

from tests.running import eventually
from tests.stubs.nvml import NvmlNode
from yprovd.clock import SystemClock
from yprovd.errors import SensorUnavailable
from yprovd.sampler import Sampler
from yprovd.sensors import libraries
from yprovd.sensors.nvidia import NvidiaSensor
from yprovd.testing import FakeSensor, MemorySink

UUIDS = [f"GPU-{0xabcd0000 + i:08x}-1111-4222-8333-{i:012x}" for i in range(8)]


@pytest.fixture
def node(host):
    return NvmlNode(host.root)


@pytest.fixture
def sensor(host, opened, clock):
    return lambda **environ: opened(NvidiaSensor(host.where(**environ), clock))


def names(sensor):
    return {m.name for m in sensor.metrics}


def of(nvidia, read, gpu):
    """The values of one device, by name."""
    return {m.name: v for m, v in zip(nvidia.metrics, read, strict=True) if m.device.id == UUIDS[gpu]}


def is_dead(nvidia, read, gpu):
    return all(math.isnan(v) for v in of(nvidia, read, gpu).values())


def test_no_library_is_an_absence_and_the_binding_is_not_even_loaded(host):
    code = ("import sys\nfrom yprovd.sensors import open_all, Surroundings\n"
            "print(open_all(Surroundings(sys.argv[1]), table={'nvidia': 'yprovd.sensors.nvidia:NvidiaSensor'}))\n"
            "print('pynvml' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, host.root], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert "no NVIDIA driver: there is no libnvidia-ml.so.1 below" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_library_of_the_machine_is_not_taken_for_the_nodes(host):
    assert libraries.find(str(host.root), "libc.so.6") == ""
    assert libraries.find("/", "libc.so.6") == "libc.so.6"
    path = host.root / "opt/vendor/lib/libc.so.6"
    host.write("opt/vendor/lib/libc.so.6", "")
    assert libraries.find(str(host.root), "libc.so.6", first=["/opt/vendor/lib"]) == str(path)


def test_a_file_that_is_no_library_is_an_absence(host):
    host.write("usr/lib/libnvidia-ml.so.1", "not an ELF file")
    with pytest.raises(SensorUnavailable, match="no NVIDIA driver"):
        NvidiaSensor(host.where())


def test_a_missing_binding_is_an_absence_with_the_command(node, host, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SensorUnavailable, match="binding is missing") as e:
        NvidiaSensor(host.where())
    assert e.value.hint == "python -m pip install nvidia-ml-py"


@pytest.mark.parametrize(("status", "reason", "hint"), [
    (9, "the NVIDIA driver is not loaded", "modprobe nvidia"),
    (18, "different versions", "reboot the node"),
    (4, "may not open", "ls -l /dev/nvidia"),
    (999, "NVML does not start: Unknown Error", "dmesg"),
])
def test_a_driver_that_does_not_open_says_why_and_what_to_do(node, host, status, reason, hint):
    node.init_status(status)
    with pytest.raises(SensorUnavailable, match=reason) as e:
        NvidiaSensor(host.where())
    assert hint in e.value.hint


def test_zero_devices_is_success_for_nvml_and_an_absence_here(node, host):
    node.count(0)
    with pytest.raises(SensorUnavailable, match="has no GPU"):
        NvidiaSensor(host.where())
    with pytest.raises(SensorUnavailable, match="Slurm gave it none") as e:
        NvidiaSensor(host.where(SLURM_JOB_ID="7"))
    assert "srun --overlap --gpus-per-node" in e.value.hint
    assert node.opened() == 0  # given back


def test_devices_of_others_only(node, host):
    with pytest.raises(SensorUnavailable, match="none of 8 GPUs is the job's: CUDA_VISIBLE_DEVICES="):
        NvidiaSensor(host.where(CUDA_VISIBLE_DEVICES=""))


def test_devices_that_do_not_answer_at_the_start_are_left_out(node, sensor, host):
    node.fail("nvmlDeviceGetHandleByIndex_v2", 3, 4)
    node.lose(5)
    assert {m.device.attributes["index"] for m in sensor().metrics} == {0, 1, 2, 4, 6, 7}
    node.fail("nvmlDeviceGetHandleByIndex_v2", -1, 4)
    with pytest.raises(SensorUnavailable, match="none of 8 GPUs answers: Insufficient Permissions"):
        NvidiaSensor(host.where())


#: What an NVML function (or field) gives here, and nothing else gives instead.
ONLY = {
    "nvmlDeviceGetUtilizationRates": {"hw.gpu.utilization", "hw.gpu.memory.activity"},
    "nvmlDeviceGetEnforcedPowerLimit": {"hw.power.limit"},
    "nvmlDeviceGetClockInfo": {"hw.gpu.clock", "hw.gpu.memory.clock"},
    "nvmlDeviceGetPowerUsage": {"hw.power.average"},
    "nvmlDeviceGetComputeRunningProcesses_v3": {"hw.gpu.process.count", "hw.gpu.process.memory",
                                                "hw.gpu.process.utilization"},
    "nvmlDeviceGetProcessUtilization": {"hw.gpu.process.utilization"},
    "nvmlDeviceRegisterEvents": {"hw.errors.xid", "hw.errors.xid.last"},
    "nvmlEventSetCreate": {"hw.errors.xid", "hw.errors.xid.last"},
    "nvmlEventSetWait_v2": {"hw.errors.xid", "hw.errors.xid.last"},
}
FIELDS = {
    "FieldValues:82:0": {"hw.gpu.memory.temperature"},
    "FieldValues:4:0": {"hw.errors"},
    "FieldValues:3:0": {"hw.errors.corrected"},
    f"FieldValues:139:{0xFFFFFFFF}": {"hw.gpu.nvlink.receive"},
}


@pytest.mark.parametrize("function", ONLY)
def test_a_library_without_a_function_lacks_that_metric_only(host, tmp_path, opened, function):
    NvmlNode(tmp_path / "newer")
    NvmlNode(host.root, without=[function])
    newer, older = (opened(NvidiaSensor(host.where()._replace(root=str(r)))) for r in (tmp_path / "newer", host.root))
    assert names(newer) - names(older) == ONLY[function]
    assert len(older.traced) == 8


def test_a_library_without_buffered_samples_has_no_curve(host, sensor):
    NvmlNode(host.root, without=["nvmlDeviceGetSamples"])
    nvidia = sensor()
    nvidia.read()
    assert (nvidia.traced, nvidia.traces()) == ((), [])


def test_buffered_samples_may_have_a_size_and_be_refused_all_the_same(node, sensor):
    node.fail("nvmlDeviceGetSamples:fetch", 1, 3)
    nvidia = sensor()
    assert UUIDS[1] not in {m.device.id for m in nvidia.traced}
    assert len(nvidia.traced) == 7


def test_a_curve_that_is_refused_later_is_not_asked_for_again(node, sensor):
    nvidia = sensor()
    node.fail("nvmlDeviceGetSamples", -1, 3)
    nvidia.read()
    assert nvidia.traces() == []
    asked = node.calls("nvmlDeviceGetSamples")
    node.fail("nvmlDeviceGetSamples", -1, 0)
    assert nvidia.traces() == []
    assert node.calls("nvmlDeviceGetSamples") == asked


def test_a_library_without_field_values_still_has_energy_and_power(host, sensor):
    node = NvmlNode(host.root, without=["nvmlDeviceGetFieldValues"])
    nvidia = sensor()
    values = of(nvidia, nvidia.read(), 0)
    assert values["hw.energy"] == pytest.approx(100 * values["hw.energy.time"], abs=0.5)
    assert values["hw.power"] == node.power(0, 0.0) == 100.0
    assert not names(nvidia) & set().union(*FIELDS.values())


@pytest.mark.parametrize("status", [3, 4])
@pytest.mark.parametrize("what", [*ONLY, *FIELDS])
def test_what_is_refused_at_the_start_is_not_announced(node, sensor, what, status):
    everything = names(sensor())
    node.fail(what, -1, status)
    nvidia = sensor()
    assert everything - names(nvidia) == (ONLY | FIELDS)[what]
    later = ("process", "xid.last")
    assert not any(math.isnan(v) for n, v in of(nvidia, nvidia.read(), 0).items() if not any(w in n for w in later))


def test_what_only_one_device_refuses_the_others_have(node, sensor):
    node.fail("nvmlDeviceGetUtilizationRates", 2, 3)
    having = {m.device.attributes["index"] for m in sensor().metrics if m.name == "hw.gpu.utilization"}
    assert having == {0, 1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(("what", "name", "counted"), [
    ("nvmlDeviceGetUtilizationRates", "hw.gpu.utilization", "nvmlDeviceGetUtilizationRates"),
    ("nvmlDeviceGetEnforcedPowerLimit", "hw.power.limit", "nvmlDeviceGetEnforcedPowerLimit"),
    ("FieldValues:82:0", "hw.gpu.memory.temperature", "FieldValues:82"),
])
def test_what_is_not_supported_any_more_is_never_asked_for_again(node, sensor, what, name, counted):
    nvidia = sensor()
    nvidia.read()
    node.fail(what, -1, 3)
    after = of(nvidia, nvidia.read(), 0)
    assert math.isnan(after[name])
    assert not math.isnan(after["hw.energy"])
    node.fail(what, -1, 0)
    asked = node.calls(counted)
    assert math.isnan(of(nvidia, nvidia.read(), 0)[name])
    assert node.calls(counted) == asked


@pytest.mark.parametrize("status", [4, 10, 19, 999])
@pytest.mark.parametrize(("what", "name"), [
    ("nvmlDeviceGetUtilizationRates", "hw.gpu.utilization"),
    ("nvmlDeviceGetEnforcedPowerLimit", "hw.power.limit"),
    ("FieldValues:83:0", "hw.energy"),
    ("nvmlDeviceGetFieldValues", "hw.energy"),
])
def test_any_other_failure_is_a_gap_of_one_sample(node, sensor, what, name, status):
    nvidia = sensor()
    node.fail(what, 1, status)
    read = nvidia.read()
    assert math.isnan(of(nvidia, read, 1)[name])
    assert not math.isnan(of(nvidia, read, 0)[name])
    assert not math.isnan(of(nvidia, read, 1)["hw.gpu.clock"])
    node.fail(what, 1, 0)
    assert not math.isnan(of(nvidia, nvidia.read(), 1)[name])


def test_what_fails_for_a_moment_at_the_start_is_announced(node, sensor):
    everything = names(sensor())
    node.fail("nvmlDeviceGetUtilizationRates", -1, 10)
    node.fail("FieldValues:83:0", -1, 999)
    nvidia = sensor()
    assert names(nvidia) == everything
    node.fail("nvmlDeviceGetUtilizationRates", -1, 0)
    node.fail("FieldValues:83:0", -1, 0)
    values = of(nvidia, nvidia.read(), 0)
    assert values["hw.gpu.utilization"] == 0.5
    assert values["hw.energy"] > 0


def test_a_lost_device_is_dead_and_the_others_go_on(node, sensor, clock):
    nvidia = sensor()
    node.lose(3)
    for clock.now in (1.0, 60.0):
        read = nvidia.read()
        traced = nvidia.traces()
        assert [gpu for gpu in range(8) if is_dead(nvidia, read, gpu)] == [3]
        assert nvidia.traced[3].device.id == UUIDS[3]
        assert 3 not in [t.metric for t in traced]
    asked = node.calls("nvmlDeviceGetEnforcedPowerLimit")
    nvidia.read()
    assert node.calls("nvmlDeviceGetEnforcedPowerLimit") == asked + 7
    assert node.opened() == 1  # nothing was opened anew for its sake


def test_a_device_that_is_lost_in_the_middle_of_a_reading_has_no_half_values(node, sensor):
    nvidia = sensor()
    node.fail("FieldValues:82:0", 4, 15)
    assert is_dead(nvidia, nvidia.read(), 4)
    assert not is_dead(nvidia, nvidia.read(), 5)


def test_a_driver_that_was_reset_is_opened_again_with_a_growing_delay(node, sensor, clock):
    nvidia = sensor(CUDA_VISIBLE_DEVICES=f"{UUIDS[6]},{UUIDS[2]}")
    before = of(nvidia, nvidia.read(), 6)
    node.reset_driver(2)
    tried = []
    for clock.now in (1.0, 1.1, 1.9, 2.1, 3.0, 4.0, 4.2):
        read = nvidia.read()
        tried.append(not is_dead(nvidia, read, 6))
    assert tried == [False, False, False, False, False, False, True]  # lost; failed at 1.1 and 2.1; not before 4.1
    after = of(nvidia, nvidia.read(), 6)
    assert after["hw.power"] == before["hw.power"] == 106.0  # the same device
    assert after["hw.energy"] < before["hw.energy"]
    assert {t.metric for t in nvidia.traces()} <= {0, 1}
    assert node.opened() == 1


def test_a_device_that_does_not_come_back_from_a_reset_stays_dead(node, sensor, clock):
    nvidia = sensor()
    node.reset_driver(0)
    assert is_dead(nvidia, nvidia.read(), 0)
    node.count(7)
    clock.now = 1.0
    read = nvidia.read()
    assert [gpu for gpu in range(8) if is_dead(nvidia, read, gpu)] == [7]


@pytest.mark.parametrize("status", [1, 9])
def test_a_library_that_says_it_is_not_open_is_opened_again(node, sensor, clock, status):
    nvidia = sensor()
    node.fail("nvmlDeviceGetEnforcedPowerLimit", 2, status)
    read = nvidia.read()
    assert is_dead(nvidia, read, 2)
    assert is_dead(nvidia, read, 7)
    node.fail("nvmlDeviceGetEnforcedPowerLimit", 2, 0)
    clock.now = 1.0
    read = nvidia.read()
    assert not any(is_dead(nvidia, read, gpu) for gpu in range(8))


def test_a_call_that_hangs_costs_the_other_sensors_nothing(node, host):
    assert NvidiaSensor.own_thread  # the others do not even wait until the sampler has seen that it hangs
    nvidia, other, sink = NvidiaSensor(host.where()), FakeSensor("other", [1.0]), MemorySink()
    before = set(threading.enumerate())
    sampler = Sampler([nvidia, other], [], interval_ns=10**8, clock=SystemClock(), sink=sink)
    sampler.start()
    power = next(i for i, m in enumerate(sampler.schema.metrics) if m.name == "hw.power")
    eventually(lambda: len(sink) >= 3, 5, "samples before")
    assert sink[2].values[power] == 100.0
    now = time.monotonic()
    node.hang("nvmlDeviceGetUtilizationRates", -1, now, now + 30)
    eventually(node.hanging, 5, "the call hangs")
    taken = len(sink)
    eventually(lambda: len(sink) >= taken + 8, 5, "samples during the hang")
    during = sink[taken + 2:]
    assert all(math.isnan(s.values[power]) for s in during)
    assert sink.column(sampler.schema, "other.0") == [1.0] * len(sink)
    assert sink.column(sampler.schema, "yprov.sampler.missed_ticks")[-1] == 0
    began = time.monotonic()
    sampler.stop()
    assert time.monotonic() - began < 2
    assert node.hanging() == 1  # still
    late = sampler.schema.metrics.index(next(
        m for m in sampler.schema.metrics if m.name == "yprov.sensor.late" and m.device.id == "nvidia"))
    assert sink[-1].values[late] >= 8
    node.release()
    eventually(lambda: set(threading.enumerate()) <= before, 5, "the threads end")
    nvidia.close()


def xid(nvidia, read, gpu):
    values = of(nvidia, read, gpu)
    return values["hw.errors.xid"], values["hw.errors.xid.last"]


def test_xid_errors_are_counted_and_the_last_one_is_named(node, sensor):
    nvidia = sensor()
    count, last = xid(nvidia, nvidia.read(), 3)
    assert (count, math.isnan(last)) == (0.0, True)
    for number in (31, 13):
        node.xid(3, number)
    node.xid(5, 94)
    read = nvidia.read()
    assert xid(nvidia, read, 3) == (2.0, 13.0)
    assert xid(nvidia, read, 5) == (1.0, 94.0)
    assert xid(nvidia, read, 4)[0] == 0.0
    assert xid(nvidia, nvidia.read(), 3) == (2.0, 13.0)


def test_a_device_that_falls_off_the_bus_says_so_with_its_last_sample(node, sensor):
    nvidia = sensor()
    node.lose(6)
    node.xid(6, 79)
    read = nvidia.read()
    assert xid(nvidia, read, 6) == (1.0, 79.0)
    assert sum(not math.isnan(v) for v in of(nvidia, read, 6).values()) == 2
    assert is_dead(nvidia, nvidia.read(), 6)


def test_after_a_reset_of_the_driver_errors_are_asked_for_again(node, sensor, clock):
    nvidia = sensor()
    node.xid(0, 31)
    nvidia.read()
    node.reset_driver(0)
    nvidia.read()
    clock.now = 1.0
    nvidia.read()
    node.xid(0, 45)
    assert xid(nvidia, nvidia.read(), 0) == (2.0, 45.0)


def test_a_gpu_of_which_errors_are_not_told_lacks_them_and_the_others_have_them(node, sensor):
    node.fail("nvmlDeviceRegisterEvents", 2, 4)
    nvidia = sensor()
    node.xid(2, 31)
    node.xid(1, 31)
    read = nvidia.read()
    assert "hw.errors.xid" not in of(nvidia, read, 2)
    assert xid(nvidia, read, 1) == (1.0, 31.0)


def test_a_driver_that_takes_long_to_say_that_there_is_no_error_is_not_asked(node, sensor):
    node.delay("nvmlEventSetWait_v2", 20_000)
    assert "hw.errors.xid" not in names(sensor())


def test_thousands_of_errors_do_not_hold_up_a_reading(node, sensor):
    nvidia = sensor()
    for _ in range(100):
        node.xid(0, 31)
    assert xid(nvidia, nvidia.read(), 0)[0] == 64.0
    assert xid(nvidia, nvidia.read(), 0)[0] == 100.0
