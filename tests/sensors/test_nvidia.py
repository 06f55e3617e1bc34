"""What the GPUs tell, through the real binding and a stand-in for the driver's library."""

import ctypes
import math
import time
from itertools import pairwise

import pynvml
import pytest

from tests.stubs.nvml import NvmlNode
from yprovd.sensors import nvml_calls
from yprovd.sensors.nvidia import NvidiaSensor

GIB = 1 << 30
UUIDS = [f"GPU-{0xabcd0000 + i:08x}-1111-4222-8333-{i:012x}" for i in range(8)]


@pytest.fixture
def node(host):
    return NvmlNode(host.root)


@pytest.fixture
def sensor(host, opened, clock):
    """`sensor(**environ)`: opened when the node is as the test wants it."""
    return lambda **environ: opened(NvidiaSensor(host.where(**environ), clock))


def devices(sensor):
    return {m.device.id: m.device for m in sensor.metrics}


def names(sensor, uuid=UUIDS[0]):
    return [m.name for m in sensor.metrics if m.device.id == uuid]


def test_the_stand_in_has_the_layout_of_the_installed_binding(node):
    for structure in ("c_nvmlFieldValue_t", "c_nvmlSample_t", "nvmlPciInfo_t", "c_nvmlMemory_t", "c_nvmlMemory_v2_t",
                      "c_nvmlUtilization_t", "c_nvmlTemperature_v1_t", "c_nvmlProcessInfo_v3_t",
                      "c_nvmlEventData_t"):
        assert node.sizeof(structure) == ctypes.sizeof(getattr(pynvml, structure)), structure
    assert pynvml.nvmlMemory_v2 == node.sizeof("c_nvmlMemory_v2_t") | 2 << 24
    assert pynvml.nvmlTemperature_v1 == node.sizeof("c_nvmlTemperature_v1_t") | 1 << 24


def test_our_own_reading_of_structures_fits_the_installed_binding():
    entry = pynvml.c_nvmlFieldValue_t(fieldId=1, scopeId=2, timestamp=3, latencyUsec=4, valueType=5, nvmlReturn=6)
    entry.value.ullVal = 7
    assert nvml_calls.struct.unpack("=" + nvml_calls.ENTRY, entry) == (1, 2, 3, 4, 5, 6, 7)
    memory = pynvml.c_nvmlMemory_v2_t(version=1, total=2, reserved=3, free=4, used=5)
    assert nvml_calls.struct.unpack("=8xQ16xQ", memory) == (2, 5)
    assert nvml_calls.struct.unpack("=Q8xQ", pynvml.c_nvmlMemory_t(total=2, free=4, used=5)) == (2, 5)
    assert nvml_calls.struct.unpack("=8xi", pynvml.c_nvmlTemperature_v1_t(temperature=-3)) == (-3,)
    assert nvml_calls.struct.unpack("=II", pynvml.c_nvmlUtilization_t(gpu=1, memory=2)) == (1, 2)
    sample = pynvml.c_nvmlSample_t(timeStamp=1)
    sample.sampleValue.ullVal = 2
    assert nvml_calls.struct.unpack("=QQ", sample) == (1, 2)
    for name, id in (("TOTAL_ENERGY_CONSUMPTION", nvml_calls.ENERGY), ("ENERGY", nvml_calls.SCOPED_ENERGY),
                     ("POWER_AVERAGE", nvml_calls.POWER_AVERAGE), ("POWER_INSTANT", nvml_calls.POWER_INSTANT),
                     ("MEMORY_TEMP", nvml_calls.MEMORY_TEMPERATURE), ("ECC_SBE_VOL_TOTAL", nvml_calls.ECC_CORRECTED),
                     ("ECC_DBE_VOL_TOTAL", nvml_calls.ECC_UNCORRECTED),
                     ("PCIE_COUNT_TX_BYTES", nvml_calls.PCIE_TRANSMIT),
                     ("PCIE_COUNT_RX_BYTES", nvml_calls.PCIE_RECEIVE),
                     ("NVLINK_THROUGHPUT_DATA_TX", nvml_calls.NVLINK_TRANSMIT),
                     ("NVLINK_THROUGHPUT_DATA_RX", nvml_calls.NVLINK_RECEIVE)):
        assert getattr(pynvml, f"NVML_FI_DEV_{name}") == id


def test_who_the_devices_are(node, sensor):
    found = devices(sensor())
    assert list(found) == UUIDS
    first = found[UUIDS[0]]
    assert (first.cls, first.name) == ("gpu", "NVIDIA H100 80GB HBM3")
    assert first.attributes == {
        "vendor": "nvidia", "index": 0, "uuid": UUIDS[0], "pci": "0000:1a:00.0", "minor": 7, "driver": "580.65.06",
        "meter": "gpu", "summed": True, "power_kind": "instant", "power_scope": "gpu", "memory_reserved": "apart"}


def test_only_the_jobs_devices_are_recorded(node, sensor):
    found = devices(sensor(SLURM_JOB_ID="1", SLURM_STEP_GPUS="2,5", CUDA_VISIBLE_DEVICES="2,5"))
    assert list(found) == [UUIDS[2], UUIDS[5]]
    assert found[UUIDS[5]].attributes["minor"] == 2  # not the index, which the job's list means
    by_uuid = devices(sensor(CUDA_VISIBLE_DEVICES=f"{UUIDS[6]}"))
    assert list(by_uuid) == [UUIDS[6]]


def test_everything_in_base_units(node, sensor, value):
    nvidia = sensor()
    read = nvidia.read()
    expected = {
        "hw.power": 103.0, "hw.power.average": 103.0, "hw.power.limit": 700.0, "hw.gpu.utilization": 0.53,
        "hw.gpu.memory.activity": 0.23, "hw.gpu.memory.usage": 4 * GIB, "hw.gpu.memory.limit": 80 * GIB,
        "hw.gpu.temperature": 43.0, "hw.gpu.memory.temperature": 63.0, "hw.gpu.clock": 1.98e9,
        "hw.gpu.memory.clock": 2.619e9, "hw.gpu.clock.reasons": 4.0, "hw.errors": 0.0, "hw.errors.corrected": 0.0,
    }
    assert {name: value(nvidia, read, name, UUIDS[3]) for name in expected} == pytest.approx(expected)
    kinds = {m.name: (m.unit, m.kind) for m in nvidia.metrics}
    assert kinds["hw.energy"] == ("J", "counter")
    assert kinds["hw.energy.time"] == ("s", "time")
    assert kinds["hw.gpu.clock.reasons"] == ("{bitmask}", "gauge")


@pytest.mark.parametrize("shape", ["constant", "square", "ramp"])
def test_energy_is_the_counter_at_its_own_time(node, sensor, value, shape):
    node.wave(-1, shape, 90.0, 650.0, 0.01)
    nvidia = sensor()
    first, second = nvidia.read(), nvidia.read()
    for uuid, device in ((UUIDS[0], 0), (UUIDS[7], 7)):
        since, until = (value(nvidia, read, "hw.energy.time", uuid) for read in (first, second))
        assert since < until
        gained = value(nvidia, second, "hw.energy", uuid) - value(nvidia, first, "hw.energy", uuid)
        assert gained == pytest.approx(node.work(device, since, until), abs=0.0025)  # counted in mJ, stamped in us


def test_the_counters_stamp_is_the_devices_and_not_when_we_looked(node, sensor, value):
    node.update(0.5)
    nvidia = sensor()
    read = nvidia.read()
    at = value(nvidia, read, "hw.energy.time", UUIDS[0])
    assert at == pytest.approx(0.5 * round(at / 0.5), abs=1e-4)
    assert 0 <= time.monotonic() - at < 2
    assert value(nvidia, read, "hw.energy", UUIDS[0]) == pytest.approx(100.0 * at, abs=0.02)


@pytest.mark.parametrize("from_boot", [0, 1])
def test_stamps_count_from_1970_or_from_the_boot(node, sensor, value, from_boot):
    node.stamps_from_boot(from_boot)
    nvidia = sensor()
    before = time.monotonic()
    read = nvidia.read()
    assert before - 1e-3 <= value(nvidia, read, "hw.energy.time", UUIDS[0]) <= time.monotonic()


def test_a_stamp_of_an_unknown_clock_is_replaced_by_the_time_of_reading():
    clocks = nvml_calls.Clocks()
    an_hour = 3_600_000_000
    assert clocks.behind_ns(time.time_ns() // 1000 + an_hour) is None
    assert clocks.behind_ns(time.time_ns() // 1000 - an_hour) is None


def test_a_counter_that_falls_is_given_as_it_is(node, sensor, value):
    nvidia = sensor()
    before = value(nvidia, nvidia.read(), "hw.energy", UUIDS[1])
    reset = time.monotonic()
    node.reset_energy_at(1, reset)
    read = nvidia.read()
    after, at = value(nvidia, read, "hw.energy", UUIDS[1]), value(nvidia, read, "hw.energy.time", UUIDS[1])
    assert after < before
    assert after == pytest.approx(101.0 * (at - reset), abs=0.01)
    assert value(nvidia, read, "hw.energy", UUIDS[0]) > before / 2


@pytest.mark.parametrize(("name", "chip", "architecture", "kind"), [
    ("NVIDIA H100 80GB HBM3", 0x2330, 9, "average"),
    ("NVIDIA A100-SXM4-80GB", 0x20B2, 7, "instant"),   # GA100
    ("NVIDIA A40", 0x2235, 7, "average"),
    ("Tesla V100-SXM2-16GB", 0x1DB1, 5, "instant"),
    ("of tomorrow", 0x9999, 0xFFFFFFFF, "unknown"),
])
def test_whether_the_fallback_of_power_is_an_average_is_recorded(node, sensor, value, name, chip, architecture, kind):
    node.product(name, chip, architecture)
    for field in ("FieldValues:186:0", "FieldValues:185:0"):
        node.fail(field, -1, 3)
    nvidia = sensor()
    assert devices(nvidia)[UUIDS[0]].attributes["power_kind"] == kind
    assert value(nvidia, nvidia.read(), "hw.power", UUIDS[2]) == 102.0
    assert "hw.power.average" not in names(nvidia)


def test_the_average_is_read_where_it_costs_least(node, sensor, value):
    nvidia = sensor()
    before = node.calls("FieldValues:185")
    assert value(nvidia, nvidia.read(), "hw.power.average", UUIDS[2]) == 102.0
    assert node.calls("FieldValues:185") == before == 0
    node.product("Tesla V100-SXM2-16GB", 0x1DB1, 5)  # whose nvmlDeviceGetPowerUsage is no average
    volta = sensor()
    before = node.calls("FieldValues:185")
    assert value(volta, volta.read(), "hw.power.average", UUIDS[2]) == 102.0
    assert node.calls("FieldValues:185") == before + 8


def test_power_of_0_w_is_no_power(node, sensor, value):
    nvidia = sensor()
    node.wave(-1, "constant", 0.0, 0.0, 0.0)
    read = nvidia.read()
    assert math.isnan(value(nvidia, read, "hw.power", UUIDS[0]))
    assert math.isnan(value(nvidia, read, "hw.power.average", UUIDS[0]))
    assert value(nvidia, read, "hw.power", UUIDS[1]) == 1.0


def test_energy_by_the_function_where_there_is_no_field(node, sensor, value):
    node.fail("FieldValues:83:0", -1, 3)
    nvidia = sensor()
    before = time.monotonic()
    read = nvidia.read()
    at = value(nvidia, read, "hw.energy.time", UUIDS[0])
    assert before <= at <= time.monotonic()
    assert value(nvidia, read, "hw.energy", UUIDS[0]) == pytest.approx(100 * at, abs=0.5)


def test_without_a_counter_power_has_its_time(node, sensor, value):
    node.fail("FieldValues:83:0", -1, 3)
    node.fail("nvmlDeviceGetTotalEnergyConsumption", -1, 3)
    for with_field in (True, False):
        nvidia = sensor()
        assert "hw.energy" not in names(nvidia)
        assert "hw.energy.time" not in names(nvidia)
        before = time.monotonic()
        read = nvidia.read()
        assert before - 1e-3 <= value(nvidia, read, "hw.power.time", UUIDS[0]) <= time.monotonic()
        assert devices(nvidia)[UUIDS[0]].attributes["meter"] == "gpu", with_field
        node.fail("FieldValues:186:0", -1, 3)


@pytest.mark.parametrize("status", [2, 3])
def test_grace_hopper_that_refuses_the_gpus_own_power_is_metered_as_a_module(node, sensor, value, status):
    node.product("NVIDIA GH200 480GB", 0x2342, 9)
    node.module(1)
    node.fail("FieldValues:186:0", -1, status)
    nvidia = sensor()
    attributes = devices(nvidia)[UUIDS[0]].attributes
    assert (attributes["meter"], attributes["power_scope"], attributes["summed"]) == ("module", "module", True)
    read = nvidia.read()
    assert value(nvidia, read, "hw.power", UUIDS[1]) == 101.0
    assert value(nvidia, read, "hw.power.average", UUIDS[1]) == 101.0
    assert node.calls("FieldValues:191") > node.calls("FieldValues:83") == 0
    assert len(nvidia.traced) == 8  # of the module, too


def test_grace_hoppers_energy_counter_is_the_modules_also_where_the_gpus_own_power_is_told(node, sensor):
    node.module(2)
    assert {d.attributes["meter"] for d in devices(sensor()).values()} == {"module"}
    node.product("NVIDIA GB200", 0x2941, 10)
    assert {d.attributes["meter"] for d in devices(sensor()).values()} == {"gpu"}


def test_a_module_without_a_counter_of_that_scope_has_the_plain_one(node, sensor):
    node.module(1)
    node.fail("FieldValues:191:1", -1, 3)
    nvidia = sensor()
    assert "hw.energy" in names(nvidia)
    assert devices(nvidia)[UUIDS[0]].attributes["meter"] == "module"


def test_two_gpus_of_one_module_are_summed_once(node, sensor, host):
    node.product("NVIDIA GB200", 0x2941, 10)
    node.count(4)
    node.module(1)
    for gpu, numa in enumerate((0, 0, 1, 1)):
        host.write(f"sys/bus/pci/devices/0000:{0x1a + 0x10 * gpu:02x}:00.0/numa_node", f"{numa}\n")
    assert [d.attributes["summed"] for d in devices(sensor()).values()] == [True, False, True, False]


def test_memory_of_version_1_counts_what_is_reserved(host, sensor, value):
    NvmlNode(host.root, without=["nvmlDeviceGetMemoryInfo_v2"])
    nvidia = sensor()
    assert devices(nvidia)[UUIDS[0]].attributes["memory_reserved"] == "used"
    assert value(nvidia, nvidia.read(), "hw.gpu.memory.usage", UUIDS[0]) == 1.5 * GIB


@pytest.mark.parametrize(("new", "name"), [
    ("nvmlDeviceGetTemperatureV", "hw.gpu.temperature"),
    ("nvmlDeviceGetCurrentClocksEventReasons", "hw.gpu.clock.reasons"),
])
def test_an_older_driver_has_it_under_the_older_name(host, sensor, value, new, name):
    node = NvmlNode(host.root, without=[new])
    nvidia = sensor()
    assert value(nvidia, nvidia.read(), name, UUIDS[0]) == {"hw.gpu.temperature": 40, "hw.gpu.clock.reasons": 4}[name]
    assert node.calls(new) == 0


def test_counters_of_errors_and_bytes_are_read_every_ten_seconds(node, sensor, value, clock):
    nvidia = sensor()
    slow = ("hw.errors.corrected", "hw.gpu.pcie.transmit", "hw.gpu.pcie.receive", "hw.gpu.nvlink.transmit",
            "hw.gpu.nvlink.receive")

    def have():
        read = nvidia.read()
        return {name for name in slow if not math.isnan(value(nvidia, read, name, UUIDS[0]))}

    assert have() == set(slow)
    clock.now = 9.0
    assert have() == set()
    clock.now = 9.99  # of an interval of 10 s, a tick that is a little early
    assert have() == set(slow)
    node.set("corrected", 0, 3.0)
    clock.now = 19.98
    read = nvidia.read()
    assert value(nvidia, read, "hw.errors.corrected", UUIDS[0]) == 3
    transmit, receive = (value(nvidia, read, f"hw.gpu.nvlink.{way}", UUIDS[0]) for way in ("transmit", "receive"))
    assert transmit == pytest.approx(time.monotonic() * 1.024e9, rel=1e-3)  # KiB
    assert receive == pytest.approx(2 * transmit, rel=1e-3)


def test_a_field_that_costs_much_is_read_every_ten_seconds(node, sensor, value, clock):
    node.delay("FieldValues:82:0", 1000)
    nvidia = sensor()
    assert value(nvidia, nvidia.read(), "hw.gpu.memory.temperature", UUIDS[1]) == 61
    read = nvidia.read()
    assert math.isnan(value(nvidia, read, "hw.gpu.memory.temperature", UUIDS[1]))
    assert value(nvidia, read, "hw.errors", UUIDS[1]) == 0


def test_the_jobs_processes_every_thirty_seconds(node, sensor, value, clock):
    for device, pid, memory in ((0, 1000, 3 * GIB), (0, 1001, GIB), (0, 900, 7 * GIB), (1, 900, GIB),
                                (2, 1000, (1 << 64) - 1)):
        node.process(device, pid, memory)
    nvidia = sensor()
    listed = node.calls("nvmlDeviceGetComputeRunningProcesses_v3")

    def processes(device):
        read = nvidia.read()
        return [value(nvidia, read, f"hw.gpu.process.{what}", UUIDS[device]) for what in ("count", "memory")]

    assert all(math.isnan(v) for v in processes(0))
    assert node.calls("nvmlDeviceGetComputeRunningProcesses_v3") == listed
    clock.now = 5.0
    assert processes(0) == [2, 4 * GIB]
    assert all(math.isnan(v) for v in processes(0))
    clock.now = 34.0
    assert all(math.isnan(v) for v in processes(1))
    clock.now = 34.99
    assert processes(1) == [0, 0]
    clock.now = 64.98
    count, memory = processes(2)
    assert (count, math.isnan(memory)) == (1, True)  # the driver does not tell how much


def test_how_much_of_the_time_the_jobs_processes_used_a_device(node, sensor, value, clock):
    for pid, percent in ((1000, 40), (1001, 25), (900, 30)):  # the last is another job's
        node.process(0, pid, GIB)
        node.busy(0, percent)
    nvidia = sensor()
    clock.now = 5.0
    read = nvidia.read()
    assert value(nvidia, read, "hw.gpu.process.utilization", UUIDS[0]) == pytest.approx(0.65)
    assert value(nvidia, read, "hw.gpu.process.utilization", UUIDS[1]) == 0  # nobody's kernels ran
    node.fail("nvmlDeviceGetProcessUtilization", 0, 999)
    clock.now = 35.0
    read = nvidia.read()
    assert math.isnan(value(nvidia, read, "hw.gpu.process.utilization", UUIDS[0]))
    assert value(nvidia, read, "hw.gpu.process.count", UUIDS[0]) == 2


def test_processes_numbered_in_another_namespace_are_not_none_of_the_jobs(node, sensor, value, clock):
    node.process(0, 77777, GIB)
    nvidia = sensor()
    clock.now = 5.0
    read = nvidia.read()
    assert math.isnan(value(nvidia, read, "hw.gpu.process.count", UUIDS[0]))
    assert value(nvidia, read, "hw.gpu.process.count", UUIDS[1]) == 0


@pytest.mark.parametrize("from_boot", [0, 1])
def test_the_devices_own_power_curve(node, sensor, from_boot):
    node.stamps_from_boot(from_boot)
    node.wave(-1, "ramp", 100.0, 700.0, 0.5)
    node.samples(0.005)
    began = time.monotonic_ns()
    nvidia = sensor()
    assert [m.name for m in nvidia.traced] == ["hw.power"] * 8
    mono, watts = [], []
    while len(mono) < 60:
        nvidia.read()
        for trace in nvidia.traces():
            assert nvidia.traced[trace.metric].device.id in UUIDS
            if trace.metric == 2:
                mono += trace.mono_ns
                watts += trace.values
    assert mono[0] > began - 5_000_000  # nothing from before
    assert {round((b - a) / 1e5) for a, b in pairwise(mono)} == {50}  # each 5 ms, none missing, none twice
    for at, power in zip(mono, watts, strict=True):
        assert power == pytest.approx(node.power(2, round(at / 5e6) * 5e-3), abs=0.01)


def test_mig_has_the_gpus_energy_and_the_instances_memory(node, sensor, value):
    node.parts(3)
    mine = [f"MIG-{0xabcd0001:08x}-1111-5222-8333-{part:012x}" for part in (1, 3)]
    nvidia = sensor(SLURM_JOB_ID="1", CUDA_VISIBLE_DEVICES=",".join(mine))
    (device,) = devices(nvidia).values()
    assert (device.id, device.attributes["mig"], device.attributes["shared"]) == (UUIDS[1], ",".join(mine), True)
    read = nvidia.read()
    assert value(nvidia, read, "hw.power", UUIDS[1]) == 101.0
    assert value(nvidia, read, "hw.gpu.memory.usage", UUIDS[1]) == (1 + 3) * GIB
    assert value(nvidia, read, "hw.gpu.memory.limit", UUIDS[1]) == 20 * GIB
    assert "hw.gpu.utilization" not in names(nvidia, UUIDS[1])


def test_closing_gives_the_library_back(node, host):
    nvidia = NvidiaSensor(host.where())
    assert node.opened() == 1
    nvidia.close()
    nvidia.close()
    assert node.opened() == 0
