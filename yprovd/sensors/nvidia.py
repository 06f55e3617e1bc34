"""NVIDIA's GPUs, by NVML (`yprovd.sensors.nvml`). Those of the job only (`yprovd.devices`). Units: NVML's mW, mJ, MHz,
percent and degrees become W, J, Hz, 1 and Cel.

Which power is meant. `hw.power` is the field POWER_INSTANT, of the GPU, or of the module (GPU and CPU) where the GPU's
own is refused, as some Grace-Hopper do; and on every Grace-Hopper that tells the module's, because its energy counter
is the module's (measured by zeus on GH200). Of GPUs on one module (same NUMA node) only the first then is `summed`.
Without that field it is nvmlDeviceGetPowerUsage: an average of 1 s on Ampere (but GA100) and newer, an instantaneous
value before. The attributes `meter`, `power_scope` and `power_kind` tell. With MIG, energy and power are known for the
whole GPU only; memory is that of the job's instances.

What is read how often. Some values cost a driver 1 to 3 ms each (on an RTX 5090: POWER_AVERAGE 3.3, energy 2.6, memory
temperature 1.2) and others 1 us: each optional field is timed once, and a dear one is read every 10 s, as are those
that count bytes and corrected errors. The list of processes, 5 ms under a lock that stops others' work, is read every
30 s. In between they are NaN. nvmlDeviceGetPcieThroughput blocks for 20 ms and is never called.

A device that is lost stays NaN while the others go on. When all are, or the driver is gone, the library is opened anew
with a growing delay, and the devices are found by their UUIDs. A counter is given as it is: one that fell was reset.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from yprovd.devices import Found, of_job
from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric, Scalar, Trace
from yprovd.processes import job_processes, process_id
from yprovd.sensors import Surroundings
from yprovd.sensors.files import read_word
from yprovd.sensors.nvidia_events import Events
from yprovd.sensors.nvidia_gpu import SPECS, Gpu, equip
from yprovd.sensors.nvml import DOWN, LOST, NEVER, Library
from yprovd.sensors.nvml_calls import Clocks

#: Seconds between readings of dear fields, and of the processes: a little less than 10 and 30, because a tick may come
#: a little early, and with long intervals what the one before it gave is not recorded. The first list of processes is
#: soon: runs may be short.
_SLOW_S, _PROCESSES_S, _PROCESSES_FIRST_S = 9.5, 29.5, 5.0
#: Seconds before the library is opened anew once more.
_AGAIN_S, _AGAIN_MOST_S = 1.0, 60.0


class NvidiaSensor:
    """One device (`gpu`, by UUID) per GPU of the job, with the metrics that it has. Raises SensorUnavailable without
    library, driver, permission or GPU; each has its reason."""

    name = "nvidia"
    own_thread = True

    def __init__(self, where: Surroundings, clock: Callable[[], float] = time.monotonic) -> None:
        self._where, self._clock = where, clock
        self._nvml = Library(where.root)
        self._clocks = Clocks()
        self._curves: list[Gpu] = []
        try:
            self._gpus = self._of_job(self._found())
            self._events = Events(self._nvml, self._gpus)
            self.metrics, self.traced = self._announce()
        except BaseException:
            self._nvml.close()
            raise
        self._nothing = [math.nan] * len(self.metrics)
        now = clock()
        self._slow_due, self._processes_due = now, now + _PROCESSES_FIRST_S
        self._again_due, self._again_s = now, _AGAIN_S

    def _found(self) -> list[Gpu]:
        """All GPUs that can be seen, in NVML's order, which is that of the PCI bus."""
        count = self._nvml.ask("nvmlDeviceGetCount") or 0
        status = self._nvml.status
        found = []
        for index in range(count):
            handle = self._nvml.ask("nvmlDeviceGetHandleByIndex", index)
            if handle is not None and (gpu := Gpu.identify(self._nvml, index, handle)) is not None:
                found.append(gpu)
            else:
                status = self._nvml.status
        if found:
            return found
        if status:
            raise SensorUnavailable(f"none of {count} GPUs answers: {self._nvml.text(status)}", hint="nvidia-smi -L")
        if self._where.environ.get("SLURM_JOB_ID"):
            raise SensorUnavailable("the driver shows this step no GPU: Slurm gave it none",
                                    hint="srun --overlap --gpus-per-node=... (a step of an exclusive job has none)")
        raise SensorUnavailable("the NVIDIA driver is loaded, and has no GPU", hint="nvidia-smi -L; ls /dev/nvidia*")

    def _of_job(self, found: list[Gpu]) -> list[Gpu]:
        choice = of_job(self._where.environ, "nvidia",
                        [Found(g.index, g.uuid, g.pci, g.minor, tuple(g.parts)) for g in found])
        if not choice.mine:
            raise SensorUnavailable(f"none of {len(found)} GPUs is the job's: {choice.reason}")
        gpus = []
        for at, parts, shared in zip(choice.mine, choice.parts, choice.shared, strict=True):
            gpu = found[at]
            gpu.parts = {uuid: gpu.parts[uuid] for uuid in parts if uuid in gpu.parts}
            gpu.attributes |= {"shared": True} if shared else {}
            gpu.attributes |= {"mig": ",".join(parts)} if parts else {}
            gpus.append(gpu)
        return gpus

    def _announce(self) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
        driver = self._nvml.ask("nvmlSystemGetDriverVersion") or ""
        metrics: list[Metric] = []
        traced: list[Metric] = []
        modules: set[str] = set()
        for gpu in self._gpus:
            names = equip(self._nvml, gpu, len(metrics), with_processes=bool(self._where.run_id),
                          with_events=gpu in self._events.gpus)
            gpu.attributes |= {"driver": driver, **self._summed(gpu, modules)}
            device = Device("gpu", gpu.uuid, gpu.name, gpu.attributes)
            metrics += [_metric(name, device) for name in names]
            if gpu.curve is not None:
                self._curves.append(gpu)
                traced.append(_metric("hw.power", device))
        if not metrics:
            raise SensorUnavailable("the GPUs tell nothing of what is recorded", hint="nvidia-smi -q")
        return tuple(metrics), tuple(traced)

    def _summed(self, gpu: Gpu, modules: set[str]) -> dict[str, Scalar]:
        if "meter" not in gpu.attributes:
            return {}
        if gpu.attributes["meter"] != "module":
            return {"summed": True}
        node = read_word(f"{self._where.root}/sys/bus/pci/devices/{gpu.pci}/numa_node")
        module = node if node.isdigit() else gpu.uuid
        first = module not in modules
        modules.add(module)
        return {"summed": first}

    def read(self) -> Sequence[float]:
        self._clocks.look()
        now = self._clock()
        values = self._nothing.copy()
        if not all(gpu.lost for gpu in self._gpus) or self._revive(now):
            self._read_all(now, values)
        self._events.store(values)
        return values

    def _read_all(self, now: float, values: list[float]) -> None:
        slow = now >= self._slow_due
        if slow:
            self._slow_due = now + _SLOW_S
        for gpu in self._gpus:
            if not gpu.lost:
                self._read_one(gpu, values, slow)
            if not gpu.lost:
                self._again_s = _AGAIN_S
        if now >= self._processes_due:
            self._processes_due = now + _PROCESSES_S
            self._list_processes(values)

    def _read_one(self, gpu: Gpu, values: list[float], slow: bool) -> None:
        for number in gpu.numbers:
            function, arguments, out, (at, scale, positive) = number
            if not (status := function(*arguments)):
                value = out.value
                values[at] = value * scale if value or not positive else math.nan
            elif status in NEVER:
                gpu.numbers = [n for n in gpu.numbers if n is not number]
            elif self._lose(gpu, status, values):
                return
        for call in gpu.calls:
            if not (status := call.function(*call.arguments)):
                call.store(values)
            elif status in NEVER:
                gpu.calls = [c for c in gpu.calls if c is not call]
            elif self._lose(gpu, status, values):
                return
        for fields in gpu.fields if slow else gpu.fields[:1]:
            for status in fields.read(values, self._clocks):
                if status and self._lose(gpu, status, values):
                    return

    def _lose(self, gpu: Gpu, status: int, values: list[float]) -> bool:
        """Whether this status says that the device, or all of them, will not answer any more."""
        if status in DOWN:
            for each in self._gpus:
                each.lost = True
        elif status in LOST:
            gpu.lost = True
        else:
            return False
        values[gpu.first:gpu.end] = self._nothing[gpu.first:gpu.end]
        return True

    def _revive(self, now: float) -> bool:
        """Open the library anew, when that is due. Whether any device is back."""
        if now < self._again_due:
            return False
        self._again_due = now + self._again_s
        self._again_s = min(2 * self._again_s, _AGAIN_MOST_S)
        if self._nvml.restart():
            return False
        for gpu in self._gpus:
            gpu.lost = not gpu.find_again(self._nvml)
        self._events.register([gpu for gpu in self._events.gpus if not gpu.lost])
        return not all(gpu.lost for gpu in self._gpus)

    def _list_processes(self, values: list[float]) -> None:
        """The job's processes on each device. All of its processes are looked for at once: 1 ms."""
        gpus = [(gpu, gpu.processes) for gpu in self._gpus if gpu.processes is not None and not gpu.lost]
        if not gpus:
            return
        try:
            job = {process.pid for process in job_processes(self._where.run_id, self._where.root)}
        except OSError:  # no /proc there
            return
        for gpu, processes in gpus:
            listed = processes.memory()
            if listed is not None and (not job.isdisjoint(listed) or all(self._can_see(pid) for pid in listed)):
                told = processes.values(listed, job)
                values[gpu.processes_at:gpu.processes_at + len(told)] = told

    def _can_see(self, pid: int) -> bool:
        """NVML may number processes as another container's namespace does: then 0 of them would be the job's."""
        return process_id(pid, self._where.root) is not None

    def traces(self) -> list[Trace]:
        """What the devices recorded since the last time."""
        out = []
        for at, gpu in enumerate(self._curves):
            if gpu.lost or gpu.curve is None:
                continue
            mono_ns, watts = gpu.curve.read(self._clocks)
            if watts:
                out.append(Trace(at, mono_ns, watts))
            elif gpu.curve.status in NEVER:
                gpu.curve = None
        return out

    def close(self) -> None:
        self._nvml.close()


def _metric(name: str, device: Device) -> Metric:
    return Metric(name, *SPECS[name], device)
