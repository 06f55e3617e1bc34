"""What a machine shows of itself: what it is, and the files that sensors read, each with its mode, what came of a try
to read it, and how long that took. Nothing is written, and of processes nothing is read but our own control group.
"""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import stat
import statistics
import struct
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from yprov.watching import CALL_S, Worker
from yprovd.node_facts import node_facts
from yprovd.sensors import Surroundings
from yprovd.sensors.files import read_word

#: What says which devices a job has, and how its libraries behave. Nothing else of the environment is told.
VARIABLES = (
    "CUDA_DEVICE_ORDER", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES", "HSA_XNACK", "NVIDIA_VISIBLE_DEVICES", "ROCM_HOME", "ROCM_PATH", "ROCR_VISIBLE_DEVICES",
    "RSMI_MUTEX_THREAD_ONLY", "RSMI_MUTEX_TIMEOUT", "SLURM_CPUS_ON_NODE", "SLURM_CPU_FREQ_REQ", "SLURM_GPUS",
    "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND", "SLURM_GPU_FREQ",
    "SLURM_JOB_GPUS", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "SLURM_SHARDS_ON_NODE", "SLURM_STEP_GPUS",
    "SLURM_TASKS_PER_NODE", "SLURM_TRES_PER_TASK",
)

#: Patterns below the root. Of each, so many files are looked at, `_READS` times.
KNOWN: dict[str, int] = {
    "sys/cray/pm_counters/*": 64,
    "sys/class/drm/card[0-9]*/device/gpu_metrics": 32,
    "sys/class/drm/card[0-9]*/device/mem_info_vram_used": 4,
    "sys/class/drm/card[0-9]*/device/gpu_busy_percent": 4,
    "sys/class/drm/card[0-9]*/device/hwmon/hwmon*/power1_average": 32,
    "sys/class/drm/card[0-9]*/device/hwmon/hwmon*/power1_input": 32,
    "sys/class/drm/card[0-9]*/device/hwmon/hwmon*/energy1_input": 32,
    "sys/class/kfd/kfd/topology/nodes/*/properties": 4,
    "sys/class/powercap/*/energy_uj": 16,
    "sys/class/hwmon/hwmon*/device/power1_average": 16,
    "sys/class/hwmon/hwmon*/power1_average": 16,
    "sys/class/cxi/cxi*/device/telemetry/hni_sts_tx_ok_octets": 4,
    "sys/class/infiniband/*/ports/*/counters/port_xmit_data": 4,
    "sys/kernel/debug/lustre": 1,
    "proc/fs/lustre/llite/*/stats": 2,
    "proc/sys/kernel/perf_event_paranoid": 1,
    "sys/fs/cgroup/cgroup.controllers": 1,
    "sys/module/amdgpu/version": 1,
    "proc/driver/nvidia/version": 1,
}
#: Only their modes are told, and whether this user may open them.
DEVICES = ("dev/kfd", "dev/dri/renderD*", "dev/nvidiactl", "dev/nvidia[0-9]*", "dev/nvidia-caps/*", "dev/cpu/0/msr",
           "dev/hsmp", "dev/ipmi0")
_READS = 20
#: `gpu_metrics` of this format and content revision: power and energy counter are at these places (little endian).
_V1_3 = (1, 3)
_UNSET = 0xFFFF
#: Of the files beside `gpu_metrics`, those that might tell which dies share a module.
_TELLING = ("vendor", "device", "subsystem_device", "xgmi_device_id", "xgmi_hive_info/xgmi_hive_id", "xgmi_physical_id",
            "xgmi_num_hops", "pcie_bw", "current_compute_partition", "current_memory_partition", "numa_node")


def identity(root: str) -> dict[str, Any]:
    """Kernel, processor, memory, product, distribution, drivers and the versions of our own libraries. What cannot be
    read is left out."""
    def word(path: str) -> str:
        return read_word(os.path.join(root, path))

    release = word("proc/sys/kernel/osrelease") or platform.release()
    words = {
        "vendor": word("sys/class/dmi/id/sys_vendor"), "product": word("sys/class/dmi/id/product_name"),
        "bios": word("sys/class/dmi/id/bios_version"),
        "model": word("sys/firmware/devicetree/base/model").strip("\0"),
        "distribution": next((line.partition("=")[2].strip('"') for line in word("etc/os-release").splitlines()
                              if line.startswith("PRETTY_NAME=")), ""),
        "amdgpu": word("sys/module/amdgpu/version"), "nvidia": word("proc/driver/nvidia/version").partition("\n")[0],
        "rocm": word("opt/rocm/.info/version"), "perf_event_paranoid": word("proc/sys/kernel/perf_event_paranoid"),
    }
    facts = {k: v for k, v in node_facts(root).items() if k != "kernel"}
    return {"kernel": f"Linux {release}", **facts, **{k: v for k, v in words.items() if v}, "libraries": _libraries(),
            "cgroup": _own_group(root)}


def _libraries() -> dict[str, str]:
    found = {}
    for name in ("amdsmi", "nvidia-ml-py", "psutil", "pyzmq"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _own_group(root: str) -> list[str]:
    """The lines of /proc/self/cgroup, without the number of the user."""
    text = read_word(os.path.join(root, "proc/self/cgroup"))
    return [re.sub(r"\b(user[-@]|uid_)\d+", r"\1N", line) for line in text.splitlines()[:16]]


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in VARIABLES if name in environ}


def paths(root: str) -> list[dict[str, Any]]:
    """One row for each known file: `path`, `mode`, `owner` (root, ours or other), `outcome` (ok, an errno's name, or
    `hangs`), and of what can be read `bytes`, `p50_us`, `p99_us`, `max_us`; of pm_counters also the `text`."""
    worker = Worker("paths")
    rows: list[dict[str, Any]] = []
    for pattern, most in KNOWN.items():
        for path in _glob(root, pattern)[:most]:
            row = _about(root, path)
            rows.append(row)
            if not stat.S_ISDIR(os.stat(path).st_mode):
                worker.ask(path, lambda path=path, row=row: _try(path, row))  # type: ignore[misc]
                if not worker.wait(CALL_S):
                    row["outcome"] = "hangs"
                    worker = Worker("paths")
    worker.end()
    rows += [{**_about(root, path), "outcome": "openable" if os.access(path, os.R_OK | os.W_OK) else "EACCES"}
             for pattern in DEVICES for path in _glob(root, pattern)[:16]]
    return rows


def _glob(root: str, pattern: str) -> list[str]:
    found = glob.glob(os.path.join(glob.escape(root), pattern))
    return sorted((p for p in found if os.path.exists(p)), key=_natural)


def _natural(path: str) -> list[str | int]:
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", path)]


def _about(root: str, path: str) -> dict[str, Any]:
    about = os.stat(path)
    owner = "root" if about.st_uid == 0 else "ours" if about.st_uid == os.getuid() else "other"
    return {"path": "/" + os.path.relpath(path, root), "mode": stat.filemode(about.st_mode), "owner": owner,
            "outcome": "ok"}


def _try(path: str, row: dict[str, Any]) -> None:
    """Read it some times, with a descriptor that stays open, as sensors do."""
    times = []
    data = b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for _ in range(_READS):
                began = time.perf_counter()
                data = os.pread(fd, 16384, 0)
                times.append(1e6 * (time.perf_counter() - began))
        finally:
            os.close(fd)
    except OSError as e:
        row["outcome"] = errno.errorcode.get(e.errno or 0, str(e.errno))
    if times:
        row.update(bytes=len(data), **latency(times))
    if "/pm_counters/" in path and data:
        row["text"] = data[:100].decode("ascii", "replace").strip()


def latency(us: list[float]) -> dict[str, float]:
    """p50, p99 and the longest, of microseconds."""
    ordered = sorted(us)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return {"p50_us": round(statistics.median(ordered), 1), "p99_us": round(p99, 1), "max_us": round(ordered[-1], 1)}


def cards(root: str) -> list[dict[str, Any]]:
    """The AMD GPUs as the kernel shows them, each with its raw `gpu_metrics`: for layouts that nobody knew, and for
    what a die without a meter of its own shows in the place of power and energy."""
    return [row for path in _glob(root, "sys/class/drm/card[0-9]*/device/gpu_metrics")[:32]
            if (row := _card(os.path.dirname(path)))]


def _card(device: str) -> dict[str, Any]:
    row: dict[str, Any] = {"card": os.path.basename(os.path.dirname(device)),
                           "pci": os.path.basename(os.path.realpath(device))}
    row |= {name: word for name in _TELLING if (word := read_word(os.path.join(device, name)))}
    try:
        with open(os.path.join(device, "gpu_metrics"), "rb", buffering=0) as f:
            data = f.read(16384)
    except OSError as e:
        return {**row, "outcome": errno.errorcode.get(e.errno or 0, str(e.errno))}
    if len(data) >= 4:
        size, form, content = struct.unpack_from("<HBB", data)
        row.update(size=size, revision=f"{form}.{content}", hex=data[:2048].hex())
        if (form, content) == _V1_3 and len(data) >= 32:
            power, energy = struct.unpack_from("<HQ", data, 22)
            row.update(raw_power=power, raw_energy=energy, shows=_shows(power, energy))
    return row


def _shows(power: int, energy: int) -> str:
    if energy in (0, 2**64 - 1):
        return "no energy counter: " + ("0" if energy == 0 else "not available")
    return "an energy counter" + ("" if power not in (0, _UNSET) else ", and no power")


def topology(root: str) -> list[dict[str, Any]]:
    """The GPUs of KFD: where each is, and which links it has to the others (`weight` and bandwidths tell the link
    within a module from those between modules)."""
    out = []
    for path in _glob(root, "sys/class/kfd/kfd/topology/nodes/*/properties")[:64]:
        node = dict(_lines(path, ("simd_count", "location_id", "domain", "hive_id", "gfx_target_version", "num_xcc")))
        if not node.get("simd_count"):
            continue  # a processor
        links = _glob(os.path.dirname(path), "io_links/*/properties")
        about = [dict(_lines(link, ("type", "node_to", "weight", "min_bandwidth", "max_bandwidth"))) for link in links]
        out.append({"node": os.path.basename(os.path.dirname(path)), **node, "links": about[:32]})
    return out


#: What AMD's library is asked of each GPU, and what is kept of its answer (all of it where nothing is named).
_ASKED: dict[str, tuple[str, ...]] = {
    "power_info": (), "energy_count": (),
    "gpu_asic_info": ("market_name", "device_id", "oam_id", "num_compute_units"),
    "xgmi_info": ("xgmi_hive_id", "xgmi_node_id", "index"), "gpu_xgmi_link_status": (),
}


def library(where: Surroundings) -> dict[str, Any]:
    """What AMD's library answers of each GPU: what it calls power and energy of a die without a meter, and whether it
    tells which dies share a module. `outcome`: ok, or why it cannot be asked. May block for as long as it likes."""
    from yprovd.sensors import amd_library

    os.environ["RSMI_MUTEX_THREAD_ONLY"] = "1"  # keep out of the lock that the job's ranks share
    try:
        with amd_library.quiet():
            amdsmi, version = amd_library.binding(where)
            amdsmi.amdsmi_init()
    except Exception as e:  # noqa: BLE001  a vendor's binding may raise anything
        return {"outcome": f"{type(e).__name__}: {e}"}
    rows = []
    for handle in amdsmi.amdsmi_get_processor_handles():
        row: dict[str, Any] = {"pci": _answer(amdsmi.amdsmi_get_gpu_device_bdf, handle)}
        for name, kept in _ASKED.items():
            answer = _answer(getattr(amdsmi, f"amdsmi_get_{name}", None), handle)
            row[name] = {k: answer[k] for k in kept if k in answer} if kept and isinstance(answer, dict) else answer
        rows.append(row)
    amdsmi.amdsmi_shut_down()
    return {"outcome": "ok", "version": version, "gpus": rows}


def _answer(function: Any, handle: Any) -> Any:
    """Its answer as it is, `N/A` and nonsense included; `error N` for a status."""
    if function is None:
        return "not in this binding"
    try:
        return function(handle)
    except Exception as e:  # noqa: BLE001  what it raises is what we want to know
        return f"error {getattr(e, 'err_code', '')} {type(e).__name__}".replace("  ", " ")


def _lines(path: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    for line in read_word(path).splitlines():
        name, _, value = line.partition(" ")
        if name in wanted and value.strip().lstrip("-").isdigit():
            yield name, int(value)
