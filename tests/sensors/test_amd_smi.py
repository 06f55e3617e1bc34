import ctypes
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.running import eventually
from tests.sensors.amd_trees import FRONTIER, boottime_ns, frontier, mi210, unknown_table
from tests.stubs.amd_smi import AmdSmiNode, functions, installed
from yprovd.errors import SensorUnavailable
from yprovd.sensors import Surroundings
from yprovd.sensors.amd import AmdSensor
from yprovd.sensors.amd_library import LIBRARY
from yprovd.sensors.amd_sysfs import COLUMNS

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="no amdsmi there")
ROOT = Path(__file__).parents[2]
OAMS = [f"oam-0000:{bus}:00.0" for bus in FRONTIER[::2]]


@pytest.fixture(autouse=True)
def imports(monkeypatch):
    """As in a new process: no binding is loaded, no variable of ours set."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "amdsmi"]:
        del sys.modules[name]
    for name in ("ROCM_PATH", "ROCM_HOME", "STUB_AMD_INIT", "STUB_AMD_GPUS", "RSMI_MUTEX_THREAD_ONLY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def node(host):
    """A Frontier node with tables that are not known."""
    tree = frontier(host.root)
    for gcd in range(8):
        tree.raw(gcd, unknown_table())
    return tree


def of(sensor, name, read=None):
    values = sensor.read() if read is None else read
    return {m.device.id: v for m, v in zip(sensor.metrics, values, strict=True) if m.name == name}


def devices(sensor):
    return {m.device.id: m.device for m in sensor.metrics}


# the stand-in is what it stands for


@pytest.mark.parametrize(("ours", "theirs"), [
    ("gpu_metrics_t", "amdsmi_gpu_metrics_t"), ("power_info_t", "amdsmi_power_info_t"),
    ("cap_t", "amdsmi_power_cap_info_t"), ("asic_info_t", "amdsmi_asic_info_t"), ("kfd_info_t", "amdsmi_kfd_info_t"),
    ("usage_t", "amdsmi_engine_usage_t"), ("clk_info_t", "amdsmi_clk_info_t"), ("version_t", "amdsmi_version_t"),
])
def test_its_structures_have_the_size_of_the_bindings(host, opened, node, ours, theirs):
    stub = AmdSmiNode(host.root)
    opened(AmdSensor(host.where()))
    assert stub.sizeof(ours) == ctypes.sizeof(getattr(sys.modules["amdsmi.amdsmi_wrapper"], theirs))


def test_its_members_are_where_the_bindings_are(host, opened, node):
    stub = AmdSmiNode(host.root)
    opened(AmdSensor(host.where()))
    table = sys.modules["amdsmi.amdsmi_wrapper"].amdsmi_gpu_metrics_t
    members = ["energy_accumulator", "system_clock_counter", "average_socket_power", "current_gfxclk",
               "throttle_status", "indep_throttle_status", "current_socket_power", "xgmi_read_data_acc",
               "current_gfxclks", "ppt_residency_acc", "xcp_stats", "xgmi_link_status"]
    assert {m: stub.offset(m) for m in members} == {m: getattr(table, m).offset for m in members}


def test_it_has_every_function_that_the_binding_wants(host):
    library = ctypes.CDLL(str(AmdSmiNode(host.root).path))
    assert len(functions()) > 100
    assert not [name for name in functions() if not hasattr(library, name)]
    assert library.amdsmi_get_xgmi_info() == 2


# what is read


def test_it_is_asked_where_the_table_is_not_known(host, opened, node):
    AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where()))
    found = devices(sensor)
    assert list(found) == [*node.gpus, *OAMS]
    assert found[node.gpus[0]].attributes["backend"] == "amdsmi 26.0.0+own"
    assert found[OAMS[0]].attributes["members"] == ",".join(node.gpus[:2])
    read = sensor.read()
    assert of(sensor, "hw.power", read) == dict(zip(OAMS, (90, 92, 94, 96), strict=True))
    assert of(sensor, "hw.power.limit", read) == dict.fromkeys(OAMS, 560)
    assert of(sensor, "hw.gpu.utilization", read) == pytest.approx({pci: i / 10 for i, pci in enumerate(node.gpus)})
    assert of(sensor, "hw.gpu.memory.usage", read) == {pci: (10 + i) << 20 for i, pci in enumerate(node.gpus)}
    assert of(sensor, "hw.gpu.memory.limit", read)[node.gpus[7]] == 64 << 30
    assert of(sensor, "hw.gpu.clock.reasons", read)[node.gpus[1]] == 0x14  # and not True
    assert of(sensor, "hw.gpu.memory.temperature", read)[node.gpus[2]] == 52
    assert not [m for m in sensor.metrics if "xgmi" in m.name]  # it has no such counters


def test_energy_is_exact_at_its_own_time(host, opened, node):
    stub = AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where()))
    for watts in (0, 560):
        stub.power(2, watts)
        read = sensor.read()
        at = of(sensor, "hw.energy.time", read)[OAMS[1]]
        boottime = round(at * 1e9) + boottime_ns() - time.monotonic_ns()
        assert of(sensor, "hw.energy", read)[OAMS[1]] == pytest.approx(stub.joules(2, boottime), abs=560 * 1e-4)


def test_both_units_of_energy_are_recorded(host, opened, node):
    AmdSmiNode(host.root)
    oam = devices(opened(AmdSensor(host.where())))[OAMS[0]]
    assert oam.attributes["energy_unit_j"] == 2**-16
    assert oam.attributes["library_energy_unit_j"] == pytest.approx(15.3e-6, rel=1e-5)


@pytest.mark.parametrize("no_table", [False, True], ids=["table", "single calls"])
@pytest.mark.parametrize("how", [0, 1, 2], ids=["0", "all ones", "NOT_SUPPORTED"])
def test_a_secondary_die_is_found_however_it_is_silent(host, opened, node, how, no_table):
    stub = AmdSmiNode(host.root)
    stub.secondary(how)
    stub.no_table(int(no_table))
    sensor = opened(AmdSensor(host.where()))
    read = sensor.read()
    assert of(sensor, "hw.power", read) == dict(zip(OAMS, (90, 92, 94, 96), strict=True))
    expected = dict(zip(OAMS, (1000, 3000, 5000, 7000), strict=True))
    assert of(sensor, "hw.energy", read) == pytest.approx(expected, abs=99)


def test_single_calls_count_in_the_same_unit(host, opened, node):
    stub = AmdSmiNode(host.root)
    stub.no_table(1)
    sensor = opened(AmdSensor(host.where()))
    for gcd in (0, 2, 4, 6):
        stub.power(gcd, 0)
    now = boottime_ns()
    assert of(sensor, "hw.energy") == {oam: stub.joules(2 * i, now) for i, oam in enumerate(OAMS)}


def test_single_calls_give_the_same_as_the_table(host, opened, node):
    stub = AmdSmiNode(host.root)
    reads = []
    for no_table in (0, 1):
        stub.no_table(no_table)
        sensor = AmdSensor(host.where())
        reads.append({(m.device.id, m.name): v for m, v in zip(sensor.metrics, sensor.read(), strict=True)
                      if "energy" not in m.name and "reasons" not in m.name and "temperature" not in m.name})
        sensor.close()
    assert reads[0] == reads[1]


@pytest.mark.parametrize("no_table", [0, 1])
def test_marks_of_absence_are_no_numbers(host, opened, node, no_table):
    stub = AmdSmiNode(host.root)
    stub.no_table(no_table)
    sensor = opened(AmdSensor(host.where()))
    stub.absent(1)
    read = sensor.read()
    there = {m.name for m, v in zip(sensor.metrics, read, strict=True) if not math.isnan(v)}
    assert there == {"hw.gpu.memory.usage", "hw.gpu.memory.limit", "hw.power.limit"}


def test_a_call_that_fails_is_nan_for_that_time(host, opened, node):
    stub = AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where()))
    stub.fail("amdsmi_get_gpu_metrics_info", 16)
    stub.fail("amdsmi_get_gpu_memory_usage", 10)
    read = sensor.read()
    assert all(math.isnan(v) for v in of(sensor, "hw.energy", read).values())
    assert all(math.isnan(v) for v in of(sensor, "hw.gpu.memory.usage", read).values())
    stub.fail("amdsmi_get_gpu_metrics_info", 0)
    assert of(sensor, "hw.energy")[OAMS[0]] > 999


def test_a_counter_that_begins_anew_falls(host, opened, node):
    stub = AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where()))
    assert of(sensor, "hw.energy")[OAMS[0]] >= 1000
    stub.zero(0)
    assert 0 < of(sensor, "hw.energy")[OAMS[0]] < 100


def test_a_call_that_hangs_leaves_python_to_others(host, opened, node):
    stub = AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES="0")))
    stub.hang("amdsmi_get_gpu_metrics_info", 0.5)
    beats = []
    thread = threading.Thread(target=sensor.read)
    thread.start()
    eventually(lambda: beats.append(1) or not thread.is_alive())
    thread.join()
    assert len(beats) > 10


def test_of_half_an_oam_the_other_half_is_read_too(host, opened, node):
    AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES="3")))
    assert of(sensor, "hw.power") == {OAMS[1]: 92}
    assert devices(sensor)[OAMS[1]].attributes["shared"] is True


def test_what_it_cannot_open_is_not_paired(host, opened, node, monkeypatch):
    AmdSmiNode(host.root)
    monkeypatch.setenv("STUB_AMD_GPUS", "3")
    found = devices(opened(AmdSensor(host.where())))
    assert list(found) == node.gpus[:3]
    assert [id for id, d in found.items() if "meter" in d.attributes] == [node.gpus[0], node.gpus[2]]


def test_a_device_that_only_the_library_can_name(host, opened):
    tree = mi210(host.root)
    host.write(f"{tree.folder(0)}/product_name", "")
    host.write(f"{tree.folder(0)}/device", "0x7fff\n")
    host.remove(f"{tree.folder(0)}/unique_id")
    new = f"sys/devices/pci0000:c0/{'0000:c1:00.0'}"
    (host.root / new).parent.mkdir(parents=True, exist_ok=True)
    (host.root / tree.folder(0)).rename(host.root / new)
    card = host.root / "sys/class/drm/card0/device"
    card.unlink()
    card.symlink_to(os.path.relpath(host.root / new, card.parent))
    host.write(f"{new}/gpu_metrics", unknown_table())
    AmdSmiNode(host.root)
    device = devices(opened(AmdSensor(host.where(ROCR_VISIBLE_DEVICES="1"))))["0000:c1:00.0"]
    assert device.name == "AMD Instinct MI250X"
    assert device.attributes["uuid"] == "GPU-8f1c2d3e4a5b6c00"


# which library, which binding


def test_the_binding_of_the_librarys_own_tree_comes_first(host, opened, node):
    stub = AmdSmiNode(host.root, release="6.9.9")
    opened(AmdSensor(host.where()))
    assert Path(sys.modules["amdsmi"].__file__).is_relative_to(stub.rocm / "share/amd_smi")
    assert str(stub.rocm / "share/amd_smi") not in sys.path


def test_the_installed_binding_serves_where_the_release_is_the_same(host, opened, node):
    AmdSmiNode(host.root, binding=False, release="7.0.1-99")
    sensor = opened(AmdSensor(host.where()))
    assert Path(sys.modules["amdsmi"].__file__).parent == installed()
    assert devices(sensor)[node.gpus[0]].attributes["backend"].startswith("amdsmi 7.0.")


@pytest.mark.parametrize("release", ["6.2.4-123", "7.1.0", ""])
def test_a_binding_of_another_release_is_refused_before_anything_is_asked(host, node, release):
    stub = AmdSmiNode(host.root, binding=False, release=release)
    with pytest.raises(SensorUnavailable, match=r"v1\.9 .* the installed binding is amdsmi 7\.0\.") as e:
        AmdSensor(host.where())
    assert "amdsmi==" in e.value.hint
    assert stub.calls() == 0
    assert "amdsmi" not in sys.modules


def test_the_librarys_own_version_counts_where_the_tree_has_none(host, opened, node):
    stub = AmdSmiNode(host.root, binding=False, release="")
    stub.version(7, 0)
    assert opened(AmdSensor(host.where())).metrics


@pytest.mark.parametrize("variable", ["ROCM_PATH", "ROCM_HOME"])
def test_the_tree_may_be_named_by_a_variable(host, opened, node, variable):
    stub = AmdSmiNode(host.root, rocm="opt/cray/rocm-7.0.2")
    with pytest.raises(SensorUnavailable, match="cannot be loaded") as e:
        AmdSensor(host.where())
    assert "ROCM_PATH" in e.value.hint
    opened(AmdSensor(host.where(**{variable: "/opt/cray/rocm-7.0.2"})))
    loaded = sys.modules["amdsmi.amdsmi_wrapper"]._libraries[LIBRARY]._name
    assert Path(loaded).resolve() == stub.path.resolve()
    assert variable not in os.environ


def test_a_library_without_some_functions_does_not_fit(host, node):
    AmdSmiNode(host.root, without=["amdsmi_get_power_info", "amdsmi_get_cpu_affinity_with_scope"])
    with pytest.raises(SensorUnavailable, match="does not fit its library: AttributeError"):
        AmdSensor(host.where())


@pytest.mark.parametrize("error", ["ImportError", "OSError", "KeyError", "AttributeError"])
def test_whatever_its_import_raises_is_a_reason(host, node, error):
    stub = AmdSmiNode(host.root)
    (stub.rocm / "share/amd_smi/amdsmi/__init__.py").write_text(f"print('hello')\nraise {error}('odd')\n")
    with pytest.raises(SensorUnavailable, match=f"{error}: .*odd"):
        AmdSensor(host.where())


@pytest.mark.parametrize(("status", "says", "hint"), [
    ("18", "no GPU's device file may be opened", "renderD"), ("34", "amdgpu driver is not loaded", "modprobe"),
    ("16", "INTERNAL_EXCEPTION", "dmesg"), ("999", r"\(999\): unknown", "dmesg"),
])
def test_how_it_does_not_start(host, node, monkeypatch, status, says, hint):
    AmdSmiNode(host.root)
    monkeypatch.setenv("STUB_AMD_INIT", status)
    with pytest.raises(SensorUnavailable, match=says) as e:
        AmdSensor(host.where())
    assert hint in e.value.hint


def test_no_gpu_that_it_can_open(host, node, monkeypatch):
    AmdSmiNode(host.root)
    monkeypatch.setenv("STUB_AMD_GPUS", "0")
    with pytest.raises(SensorUnavailable, match="opens 0 GPUs") as e:
        AmdSensor(host.where())
    assert "--gpus-per-node" in e.value.hint


def test_a_second_sensor_uses_what_is_loaded(host, opened, node):
    AmdSmiNode(host.root)
    first = AmdSensor(host.where())
    module = sys.modules["amdsmi"]
    first.close()
    assert opened(AmdSensor(host.where())).read()
    assert sys.modules["amdsmi"] is module


def test_the_lock_of_the_jobs_own_libraries_is_not_taken(host, opened, node):
    AmdSmiNode(host.root)
    opened(AmdSensor(host.where()))
    assert os.environ["RSMI_MUTEX_THREAD_ONLY"] == "1"


_PRINTING = """
import sys
from yprovd.errors import SensorUnavailable
from yprovd.sensors import Surroundings
from yprovd.sensors.amd import AmdSensor
print("before")
try:
    AmdSensor(Surroundings(sys.argv[1], "run", {})).close()
except SensorUnavailable as e:
    print(e.reason, file=sys.stderr)
print("after")
"""


@pytest.mark.parametrize("fits", [True, False])
def test_what_they_print_is_not_on_standard_output(host, node, fits):
    """Python's `print` at import, and C's, which waits in a buffer until the process ends."""
    stub = AmdSmiNode(host.root)
    init = stub.rocm / "share/amd_smi/amdsmi/__init__.py"
    more = "import os\nprint('Unable to find libamd_smi.so')\nos.system('echo from a process')\n"
    init.write_text(more + (init.read_text() if fits else "raise KeyError('libamd_smi.so')\n"))
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # Python's waits, too
    done = subprocess.run([sys.executable, "-c", _PRINTING, str(host.root)], cwd=ROOT, env=environ,
                          capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
    assert ("KeyError" in done.stderr) is not fits


def test_a_closed_standard_output_is_no_harm(host, node):
    AmdSmiNode(host.root)
    done = subprocess.run([sys.executable, "-c", "import os; os.close(1)" + _PRINTING.replace("print(\"", "(\""),
                           str(host.root)], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_every_release_that_has_a_member_has_it_found(host, opened, node):
    """The layout comes from the loaded binding's own structure: nothing of one release is written down here."""
    AmdSmiNode(host.root)
    sensor = opened(AmdSensor(host.where()))
    layout = sensor._backend._devices[0]._layout
    assert layout.size == 4544
    assert layout.fields == set(COLUMNS) - {"used", "total", "limit"}


def test_no_library_is_no_error_where_the_table_is_known(host, opened):
    tree = frontier(host.root)
    sensor = opened(AmdSensor(Surroundings(str(host.root), "run", {})))
    assert devices(sensor)[tree.gpus[0]].attributes["backend"] == "sysfs"
    assert "amdsmi" not in sys.modules
