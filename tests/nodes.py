"""Directories that look like whole nodes, whose power is known at every moment, and so is their energy.

A node is built from nothing below a root: what its kernel, its node controller and its vendors' drivers would show.
`Load` says how many watts each of its parts draws; `Driver` rewrites the counters as often as the real ones change, in
place, as the kernel's files do, with the time stamps that the real ones have. What a meter counts between two moments
is then an exact function (`Load.joules`), quantised as the real meter quantises it.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from tests.sensors import amd_trees
from tests.sensors.amd_trees import FRONTIER, TABLES, AmdTree, boottime_ns
from tests.stubs.build import FOLDER, build

HOST = Path(__file__).parent / "fixtures" / "hosts" / "plain"
PM = "sys/cray/pm_counters"
#: How often a node controller scans (Hz).
SCANS_HZ = 10


class Load(NamedTuple):
    """A power that rises by so many watts each second: no two moments are alike, and a reading at the wrong one shows.

    Times are wall clock, seconds since the epoch; `since` is the one at which it is `watts`."""

    watts: float
    rise: float = 0.0
    since: float = 0.0

    def power(self, at: float) -> float:
        return self.watts + self.rise * (at - self.since)

    def joules(self, begin: float, end: float) -> float:
        """Drawn between two moments."""
        return (end - begin) * (self.power(begin) + self.power(end)) / 2

    def counted(self, at: float) -> float:
        """Drawn since `since`: what a counter that stood at 0 then shows."""
        return self.joules(self.since, at)


class Turn(NamedTuple):
    """`busy` watts for one second, then `idle` until the other `turns` have had theirs."""

    idle: float
    busy: float
    turn: int
    turns: int
    since: float

    def power(self, at: float) -> float:
        return self.busy if int((at - self.since) % self.turns) == self.turn else self.idle

    def counted(self, at: float) -> float:
        rounds, rest = divmod(at - self.since, self.turns)
        return (at - self.since) * self.idle + (self.busy - self.idle) * (rounds + min(max(rest - self.turn, 0.0), 1.0))


class InPlace:
    """A file of the kernel: it stays the same file, and its content changes at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = -1

    def write(self, data: bytes | str) -> None:
        content = data.encode() if isinstance(data, str) else data
        os.pwrite(self._fd, content, 0)
        if len(content) != self._size:
            os.ftruncate(self._fd, len(content))
            self._size = len(content)

    def close(self) -> None:
        os.close(self._fd)


class Part(Protocol):
    """What changes of a node: called with the wall clock, so often."""

    hz: float

    def __call__(self, now: float, /) -> None: ...


class Driver:
    """Keeps the parts of a node alive, from a thread of its own, while it is open. The first call of each is before
    `with` goes on."""

    def __init__(self, *parts: Part) -> None:
        self._due = dict.fromkeys(parts, 0.0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _turn(self) -> None:
        now = time.monotonic()
        for part, due in self._due.items():
            if now >= due:
                part(time.time())
                self._due[part] = max(due + 1 / part.hz, now)

    def _run(self) -> None:
        while not self._done.wait(max(0.001, min(self._due.values(), default=1e9) - time.monotonic())):
            self._turn()

    def __enter__(self) -> Driver:
        self._turn()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


def host(root: Path) -> None:
    """What every node has: processors, memory, disks, network, as the plain host. Without RAPL: `rapl` adds it."""
    shutil.copytree(HOST, root, symlinks=True)
    shutil.rmtree(root / "sys/class/powercap")
    write(root / "proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 7A53 64-Core Processor\n")
    write(root / "proc/sys/kernel/osrelease", "6.4.0-150600.23.84_15.0.28-cray_shasta_c\n")


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


class PmCounters:
    """The node controller of a Cray EX: the files of a real node with four accelerators, each with a stamp of its own.

    `loads`: of `node`, `cpu`, `memory`, `accel0`... The energies are older than the powers by 76 ms, as they were on
    that node, and are whole joules."""

    hz: float = SCANS_HZ
    FIRST_J = 4_709_337_659
    ENERGY_AGE_S, POWER_AGE_S = 0.076, 0.0

    def __init__(self, root: Path, loads: Mapping[str, Load | Turn]) -> None:
        self._loads = loads
        self._base = root / PM
        self._files: dict[str, InPlace] = {}
        self._scans = 47_760_686
        for name, text in {
            "generation": "4", "startup": "1780055122858757", "raw_scan_hz": str(SCANS_HZ), "version": "3",
            "power_cap": "0 W", **{f"{part}_power_cap": "0 W" for part in loads if part.startswith("accel")},
        }.items():
            write(self._base / name, text + "\n")

    def __call__(self, now: float) -> None:
        for part, load in self._loads.items():
            prefix = "" if part == "node" else f"{part}_"
            at = now - self.ENERGY_AGE_S
            joules = self.FIRST_J + int(load.counted(at))
            self._put(f"{prefix}energy", f"{joules} J {round(at * 1e6)} us\n")
            at = now - self.POWER_AGE_S
            self._put(f"{prefix}power", f"{round(load.power(at))} W {round(at * 1e6)} us\n")
        self._put("cpu0_temp", f"44 C {round(now * 1e6)} us\n")
        self._scans += 1
        self._put("freshness", f"{self._scans}\n")

    def _put(self, name: str, text: str) -> None:
        if name not in self._files:
            self._files[name] = InPlace(self._base / name)
        self._files[name].write(text)


class Rapl:
    """Packages that users may read: microjoules, which go round. The real ones are renewed each millisecond."""

    hz: float = 200
    RANGE_UJ = 65_532_610_987

    def __init__(self, root: Path, loads: dict[str, Load]) -> None:
        self._files = []
        for i, (name, load) in enumerate(loads.items()):
            zone = root / f"sys/class/powercap/intel-rapl:{i}"
            write(zone / "name", f"{name}\n")
            write(zone / "max_energy_range_uj", f"{self.RANGE_UJ}\n")
            self._files.append((InPlace(zone / "energy_uj"), load))

    def __call__(self, now: float) -> None:
        for file, load in self._files:
            file.write(f"{int(load.counted(now) * 1e6) % (self.RANGE_UJ + 1)}\n")


class AcpiMeters:
    """Power meters of the firmware, by what they say of themselves (`Module Power Socket 0`): microwatts, averaged over
    a second at most; here the power of the moment."""

    hz: float = 20

    def __init__(self, root: Path, loads: dict[str, Load], *, interval_ms: int = 50) -> None:
        self._files = []
        for i, (says, load) in enumerate(loads.items(), 1):
            base = root / f"sys/class/hwmon/hwmon{i}"
            write(base / "name", "power_meter\n")
            for name, text in {"oem_info": says, "model_number": "", "average_interval": str(interval_ms),
                               "is_battery": "0"}.items():
                write(base / f"device/power1_{name}", f"{text}\n")
            self._files.append((InPlace(base / "device/power1_average"), load))

    def __call__(self, now: float) -> None:
        for file, load in self._files:
            file.write(f"{round(load.power(now) * 1e6)}\n")


class AmdGpus:
    """The `gpu_metrics` of a tree's GPUs, alive: power, energy and the time of the reading. The load of each; None for
    a die that has no meter of its own."""

    hz: float = 50
    FIRST_J = 1_000_000

    def __init__(self, tree: AmdTree, loads: Sequence[Load | Turn | None]) -> None:
        self._gpus = []
        for i, load in enumerate(loads):
            path = tree.root / tree.folder(i) / "gpu_metrics"
            self._gpus.append((InPlace(path), load, TABLES[tree.revision].from_buffer(bytearray(path.read_bytes()))))

    def __call__(self, now: float) -> None:
        for file, load, table in self._gpus:
            at, table.system_clock_counter = time.time(), boottime_ns()
            if load is not None:
                table.power = round(load.power(at))
                table.energy_accumulator = int((self.FIRST_J + load.counted(at)) * 2**16)
            file.write(bytes(table))


class Slingshot:
    """The telemetry of CXI adapters: a count and when it was taken. `rate`: bytes per second, each way."""

    hz: float = 2

    def __init__(self, root: Path, count: int, rate: float) -> None:
        self._rate, self._since = rate, time.time()
        self._files = []
        for i in range(count):
            base = root / f"sys/class/cxi/cxi{i}/device"
            write(base / "properties/speed", "200000\n")
            write(base / f"net/hsn{i}/mtu", "9000\n")
            self._files += [InPlace(base / f"telemetry/hni_sts_{way}_ok_octets") for way in ("tx", "rx")]

    def __call__(self, now: float) -> None:
        for file in self._files:
            file.write(f"{int(self._rate * (now - self._since))}@{now:.9f}\n")


class InfiniBand:
    """Two ports of 200 Gb/s. `rate`: bytes per second, each way."""

    hz: float = 2

    def __init__(self, root: Path, rate: float) -> None:
        self._rate, self._since = rate, time.time()
        self._files = []
        for adapter in ("mlx5_0", "mlx5_1"):
            base = root / f"sys/class/infiniband/{adapter}/ports/1"
            for name, text in {"state": "4: ACTIVE", "rate": "200 Gb/sec (4X HDR)", "link_layer": "InfiniBand",
                               "counters/symbol_error": "0", "hw_counters/packet_seq_err": "3"}.items():
                write(base / name, f"{text}\n")
            self._files += [InPlace(base / f"counters/port_{way}_data") for way in ("xmit", "rcv")]

    def __call__(self, now: float) -> None:
        for file in self._files:
            file.write(f"{int(self._rate * (now - self._since) / 4)}\n")


class Lustre:
    """A file system whose counters users may read, as before 2.12. `rate`: bytes per second, each way."""

    hz: float = 2

    def __init__(self, root: Path, rate: float) -> None:
        self._rate, self._since = rate, time.time()
        self._file = InPlace(root / "proc/fs/lustre/llite/scratch-ffff9d3a4c2f8000/stats")

    def __call__(self, now: float) -> None:
        count = int(self._rate * (now - self._since))
        self._file.write(f"snapshot_time {now:.9f} secs.nsecs\nread_bytes 7 samples [bytes] 1 4096 {count}\n"
                         f"write_bytes 7 samples [bytes] 1 4096 {count}\nopen 9 samples [regs]\n")


class Node(NamedTuple):
    """A directory that is a node. `counted`: the loads that make up the energy of a run on it, by the rule of
    `yprovd.stitch.energy`; `gpus`: those of its GPUs. `parts`: what a `Driver` keeps alive."""

    root: Path
    counted: dict[str, Load]
    gpus: dict[str, Load]
    parts: tuple[Part, ...] = ()


def joules(loads: dict[str, Load], begin: float, end: float) -> float:
    """All of them, between two moments."""
    return sum(load.joules(begin, end) for load in loads.values())


def nvml(root: Path, count: int, watts: float, *, name: str, chip: int, parts: int = 0, module: int = 0) -> None:
    """NVIDIA's library, for this node and no other. GPU d draws `watts` + d. `parts`: MIG instances of each; `module`:
    1 where it tells the power of the module only."""
    build("nvml", root / FOLDER, more=f"""
        void stub_count(int), stub_parts(int), stub_module(int), stub_update(double);
        void stub_product(const char *, unsigned, unsigned), stub_wave(int, const char *, double, double, double);
        __attribute__((constructor)) static void node(void)
        {{
            stub_count({count}), stub_parts({parts}), stub_module({module}), stub_update(0.02);
            stub_product("{name}", {chip:#x}, 9), stub_wave(-1, "constant", 0, {watts}, 0);
        }}""")


def nvidia_uuid(index: int, part: int = 0) -> str:
    """Of a GPU of that library, or of its MIG instance, counted from 1."""
    if part:
        return f"MIG-{0xabcd0000 + index:08x}-1111-5222-8333-{part:012x}"
    return f"GPU-{0xabcd0000 + index:08x}-1111-4222-8333-{index:012x}"


def h100_mig(root: Path) -> Node:
    """8 x H100 with two MIG instances each, and RAPL."""
    host(root)
    nvml(root, 8, 400.0, name="NVIDIA H100 80GB HBM3", chip=0x2330, parts=2)
    # A file has no time stamp, and on a busy machine it is written late: what that makes wrong is little beside GPUs.
    packages = {f"package-{i}": Load(15.0 + 3 * i) for i in range(2)}
    gpus = {nvidia_uuid(d): Load(400.0 + d) for d in range(8)}
    return Node(root, {**packages, **gpus}, gpus, (Rapl(root, packages),))


def grace_hopper(root: Path) -> Node:
    """4 x GH200: NVML tells the power of the module only, and so does the firmware, which also tells what is in it."""
    host(root)
    nvml(root, 4, 500.0, name="NVIDIA GH200 120GB", chip=0x2342, module=1)
    meters: dict[str, Load] = {}
    for d in range(4):
        write(root / f"sys/bus/pci/devices/0000:{0x1A + 0x10 * d:02x}:00.0/numa_node", f"{4 + 8 * d}\n")
        watts = {"Module": 500.0 + d, "Grace": 110.0, "CPU": 60.0, "SysIO": 25.0}
        meters |= {f"{says} Power Socket {d}": Load(w) for says, w in watts.items()}
    modules = {nvidia_uuid(d): Load(500.0 + d) for d in range(4)}
    return Node(root, modules, modules, (AcpiMeters(root, meters),))


#: The GCDs of a Frontier node in the order of HIP. Two neighbours are one OAM, and the first one speaks for both.
GCDS = tuple(f"0000:{bus}:00.0" for bus in FRONTIER)
#: Which OAM each accelerator of pm_counters is: not in the order of the bus.
ACCELERATORS = {"accel0": 2, "accel1": 3, "accel2": 0, "accel3": 1}


def frontier(root: Path) -> Node:
    """8 GCDs of 4 MI250X, pm_counters, 4 Slingshot NICs. The loads of the OAMs differ in level and slope; upstream of
    their regulators pm_counters sees a tenth more."""
    since = time.time() - 10
    oams = [Load(300.0 + 40 * i, 4.0 + 3 * i, since) for i in range(4)]
    node = Load(2300.0, 40.0, since)
    accelerators = {name: Load(1.1 * oams[i].watts, 1.1 * oams[i].rise, since) for name, i in ACCELERATORS.items()}
    return Node(root, {"node": node}, {f"oam-{GCDS[2 * i]}": oam for i, oam in enumerate(oams)},
                _frontier(root, oams, {"node": node, "cpu": Load(180.0), "memory": Load(76.0), **accelerators}))


def frontier_in_turns(root: Path) -> Node:
    """The same, each OAM busy for a second after the other. What it counts is not told."""
    since = time.time() - 10
    oams = [Turn(90.0, 450.0, i, 4, since) for i in range(4)]
    accelerators = {name: Turn(99.0, 495.0, i, 4, since) for name, i in ACCELERATORS.items()}
    return Node(root, {}, {}, _frontier(root, oams, {"node": Load(1500.0), **accelerators}))


def _frontier(root: Path, oams: Sequence[Load | Turn], pm: Mapping[str, Load | Turn]) -> tuple[Part, ...]:
    host(root)
    tree = amd_trees.frontier(root)
    for i in range(8):
        for j in range(i):
            tree.link(i, j, 200_000 if i // 2 == j // 2 else 50_000)
    gpus = AmdGpus(tree, [oams[i // 2] if i % 2 == 0 else None for i in range(8)])
    return PmCounters(root, pm), gpus, Slingshot(root, 4, 1e6)


def mi300a(root: Path) -> Node:
    """4 x MI300A: processor, memory and GPU in one package with one meter."""
    host(root)
    tree = amd_trees.mi300a(root)
    since = time.time() - 10
    loads = {pci: Load(350.0 + 20 * i, 5.0, since) for i, pci in enumerate(tree.gpus)}
    return Node(root, loads, loads, (AmdGpus(tree, list(loads.values())),))


def cluster_node(root: Path) -> Node:
    """Without GPUs: RAPL, InfiniBand and Lustre."""
    host(root)
    packages = {"package-0": Load(150.0)}
    return Node(root, packages, {}, (Rapl(root, packages), InfiniBand(root, 1e6), Lustre(root, 1e6)))
