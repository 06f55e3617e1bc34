"""AMD GPUs by the files of their driver. No library, no device file, no lock that the job's own libraries take.

Sources (kernel documentation, gpu/amdgpu; drivers/gpu/drm/amd): /sys/class/drm/card<N>/device/{vendor,device,
product_name,unique_id,current_compute_partition}, gpu_metrics (see that module), mem_info_vram_{used,total} in bytes,
hwmon/hwmon*/power1_cap in microwatts; /sys/module/amdgpu/version, which the kernel's own driver does not have.

The order in which HIP and ROCr count is that of /sys/class/kfd/kfd/topology/nodes/*/properties: one node for a GPU, or
for each partition of an MI300. location_id is bus << 8 | device << 3, with the partition in the lowest bits. A device
cgroup hides these (EPERM) and not the others.

A read of a GPU that has crashed fails (EIO), or takes seconds: that one is then left alone for a while. One that never
came back would stop those of the other GPUs, too: they share a thread, because the driver refuses reads while it resets
a GPU, waits for its firmware for a limited time only, and resets the GPUs of a hive together.
"""

from __future__ import annotations

import glob
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from yprovd.sensors import gpu_metrics
from yprovd.sensors.amd_oam import address, strongest
from yprovd.sensors.files import KeptFile, read_word
from yprovd.sensors.gpu_metrics import REASONS, Layout

#: What a backend gives of a GPU: the table's, and what lies beside it (By, By, W).
COLUMNS = (*gpu_metrics.FIELDS, "used", "total", "limit")
USED, TOTAL, LIMIT = (COLUMNS.index(name) for name in ("used", "total", "limit"))
ABSENT = (math.nan,) * len(COLUMNS)

#: A power cap is asked of the firmware, and hardly ever changes (s).
CAP_PERIOD_S = 10.0
#: A read that takes longer is one of a GPU in trouble, which then rests for so many times as long, up to a minute (s).
SLOW_S, REST = 0.5, 20
_MOST_REST_S = 60.0
#: A time stamp that is further from now than this is not a time of this reading (ns).
_NOW_NS = 60_000_000_000
#: A change of less than this is what reading two clocks one after the other takes (ns).
_SLEPT_NS = 1_000_000

_XGMI = "11"
_NAMES = {
    0x738C: "AMD Instinct MI100", 0x7408: "AMD Instinct MI250X", 0x740C: "AMD Instinct MI250X/MI250",
    0x740F: "AMD Instinct MI210", 0x74A0: "AMD Instinct MI300A", 0x74A1: "AMD Instinct MI300X",
    0x74A5: "AMD Instinct MI325X", 0x75A0: "AMD Instinct MI350X", 0x75A3: "AMD Instinct MI355X",
}


class Gpu(NamedTuple):
    """A GPU as its driver shows it. `order`: where HIP counts it, one number for each partition; () when unknown.
    `hidden`: the device cgroup has others and not this one. `joined`: see `amd_oam`. `fields`: those of COLUMNS that it
    may have. `about`: more for the record. `library_unit_j`: what the library takes for the unit of energy."""

    pci: str
    device_id: int
    name: str
    uuid: str
    minor: int
    driver: str
    order: tuple[int, ...]
    hidden: bool
    joined: str
    fields: frozenset[str]
    about: Mapping[str, str]
    library_unit_j: float = math.nan


class _Node(NamedTuple):
    number: int
    pci: str
    links: Mapping[int, int]


class _Card:
    """The files of one GPU."""

    __slots__ = ("cap", "cap_due", "folder", "layout", "limit", "metrics", "residencies", "rest_until", "total", "used")

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.metrics = KeptFile(os.path.join(folder, "gpu_metrics"))
        self.used = KeptFile(os.path.join(folder, "mem_info_vram_used"), 32)
        self.layout: Layout | None = None
        self.residencies: tuple[int, ...] = ()
        self.total = _number(read_word(os.path.join(folder, "mem_info_vram_total")))
        self.limit: KeptFile | None = None
        self.cap, self.cap_due = math.nan, -math.inf
        self.rest_until = -math.inf

    def read_cap(self) -> None:
        """In W. The number in the name of its folder is another one each time that the driver is loaded."""
        self.cap = math.nan
        for _ in range(2):
            if self.limit is None:
                found = sorted(glob.glob(os.path.join(glob.escape(self.folder), "hwmon/hwmon*/power1_cap")))
                if not found:
                    return
                self.limit = KeptFile(found[0], 32)
            try:
                self.cap = _number(self.limit.read().decode("ascii", "replace").strip()) / 1e6
                return
            except OSError:
                self.close_limit()

    def close_limit(self) -> None:
        if self.limit is not None:
            self.limit.close()
            self.limit = None


class Sysfs:
    """All AMD GPUs of the machine below `root`, by PCI address. `unknown`: of those whose table we cannot use, why. No
    GPU is no error."""

    backend = "sysfs"

    def __init__(self, root: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.unknown: dict[str, str] = {}
        folders = _folders(root)
        self._cards = [_Card(folder) for folder in folders]
        nodes, some_hidden = _topology(root)
        numbers: dict[str, tuple[int, ...]] = {}
        for node in nodes:
            numbers[node.pci] = (*numbers.get(node.pci, ()), node.number)
        at = {node.number: node.pci for node in nodes}
        joined = {node.pci: strongest({at[to]: bw for to, bw in node.links.items() if to in at}) for node in nodes}
        driver = read_word(os.path.join(root, "sys/module/amdgpu/version")) or \
            "Linux " + read_word(os.path.join(root, "proc/sys/kernel/osrelease"))
        full = {_same(pci): pci for pci in map(os.path.basename, folders)}
        self.gpus: list[Gpu] = []
        for card, folder in zip(self._cards, folders, strict=True):
            pci = os.path.basename(folder)
            key = _same(pci)
            fields, about = self._open(card, pci)
            self.gpus.append(_gpu(
                folder, driver, numbers.get(key, ()), some_hidden and bool(nodes) and key not in numbers,
                full.get(joined.get(key, ""), ""), fields, about))

    def _open(self, card: _Card, pci: str) -> tuple[frozenset[str], dict[str, str]]:
        """What it may deliver, and what to record of its table. A GPU that fails now may come back."""
        beside = {"used", "total", "limit"}
        try:
            data = card.metrics.read()
        except (FileNotFoundError, PermissionError) as e:
            self.unknown[pci] = f"{card.metrics.path} cannot be read: {e.strerror}"
            return frozenset(beside), {}
        except OSError:
            return frozenset(COLUMNS), {}
        about = {"gpu_metrics": gpu_metrics.revision(data)}
        try:
            card.layout = gpu_metrics.layout_of(data)
        except gpu_metrics.Unknown as e:
            self.unknown[pci] = str(e)
            return frozenset(beside), about
        if "reasons" in card.layout.fields:
            about["clock_reasons"] = card.layout.reasons
        return card.layout.fields | beside, about

    def read(self, wanted: Sequence[int]) -> list[Sequence[float]]:
        """COLUMNS of these GPUs. A GPU that cannot be read is all NaN."""
        return [self._read(self._cards[i]) for i in wanted]

    def _read(self, card: _Card) -> Sequence[float]:
        began = self._clock()
        if began < card.rest_until:
            return ABSENT
        try:
            data = card.metrics.read()
            layout = card.layout
            if layout is None or data[:4] != layout.header or len(data) < layout.size:
                card.layout = layout = gpu_metrics.layout_of(data)
            values, residencies = layout.values(data)
            if residencies:
                values[REASONS] = gpu_metrics.grown(card.residencies, residencies)
                card.residencies = residencies
            if began >= card.cap_due:
                card.cap_due = began + CAP_PERIOD_S
                card.read_cap()
        except (OSError, ValueError):
            values = [math.nan] * len(gpu_metrics.FIELDS)
            card.cap, card.cap_due = math.nan, -math.inf
        try:
            values += (float(card.used.read()), card.total, card.cap)
        except (OSError, ValueError):
            values += (math.nan, math.nan, card.cap)
        ended = self._clock()
        if ended - began > SLOW_S:
            card.rest_until = ended + min(REST * (ended - began), _MOST_REST_S)
        return values

    def close(self) -> None:
        for card in self._cards:
            card.metrics.close()
            card.used.close()
            card.close_limit()


class Boottime:
    """Time stamps of CLOCK_BOOTTIME, which goes on while a machine sleeps, in seconds of CLOCK_MONOTONIC. One that
    is not of this reading (0, or a minute off) becomes the time of the reading."""

    def __init__(self) -> None:
        self._mono_ns = self._ahead_ns = 0
        self.look()

    def look(self) -> None:
        """Once per reading. The two clocks differ by a constant, until the machine sleeps: what is measured each time
        differs by microseconds, which would make two times of one."""
        self._mono_ns = time.monotonic_ns()
        ahead_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._mono_ns
        if abs(ahead_ns - self._ahead_ns) > _SLEPT_NS:
            self._ahead_ns = ahead_ns

    def seconds(self, stamp_ns: float) -> float:
        mono_ns = stamp_ns - self._ahead_ns
        return (mono_ns if abs(mono_ns - self._mono_ns) < _NOW_NS else self._mono_ns) * 1e-9


def _number(word: str) -> float:
    """NaN for what is no number, and for 0: what a file of ours says when there is no limit, no memory."""
    return float(word) if word.isdecimal() and int(word) else math.nan


def _folders(root: str) -> list[str]:
    """Where the GPUs of the amdgpu driver are in /sys/devices: the number of a card may change, this does not."""
    found = set()
    for entry in glob.glob(os.path.join(glob.escape(root), "sys/class/drm/card*/device")):
        if re.fullmatch(r"card\d+", os.path.basename(os.path.dirname(entry))):
            folder = os.path.realpath(entry)
            mine = os.path.exists(os.path.join(folder, "gpu_metrics")) or \
                os.path.exists(os.path.join(folder, "mem_info_vram_total"))
            if read_word(os.path.join(folder, "vendor")) == "0x1002" and mine:
                found.add(folder)
    return sorted(found, key=lambda folder: address(os.path.basename(folder)))


def _gpu(
    folder: str, driver: str, order: tuple[int, ...], hidden: bool, joined: str, fields: frozenset[str],
    about: Mapping[str, str]
) -> Gpu:
    device = read_word(os.path.join(folder, "device"))
    device_id = int(device, 16) if re.fullmatch(r"0x[0-9a-f]+", device) else 0
    name = read_word(os.path.join(folder, "product_name")) or _NAMES.get(device_id, f"AMD GPU {device}")
    unique = read_word(os.path.join(folder, "unique_id")).removeprefix("0x")
    renders = [m[1] for n in _listed(os.path.join(folder, "drm")) if (m := re.fullmatch(r"renderD(\d+)", n))]
    partition = read_word(os.path.join(folder, "current_compute_partition"))
    return Gpu(os.path.basename(folder), device_id, name, f"GPU-{unique}" if unique.strip("0") else "",
               int(renders[0]) if renders else -1, driver, order, hidden, joined, fields,
               {**about, "partition": partition} if partition else about)


def _topology(root: str) -> tuple[list[_Node], bool]:
    """The nodes that are GPUs, in HIP's order; whether some are hidden from this process."""
    base = os.path.join(root, "sys/class/kfd/kfd/topology/nodes")
    nodes, some_hidden = [], False
    for number in sorted(int(n) for n in _listed(base) if n.isdecimal()):
        folder = os.path.join(base, str(number))
        about = _properties(os.path.join(folder, "properties"))
        if about is None:
            some_hidden = True
        elif about.get("simd_count", "0") != "0":
            location = int(about.get("location_id", "0"))
            pci = f"{int(about.get('domain', '0')):04x}:{location >> 8:02x}:{location >> 3 & 31:02x}"
            links: dict[int, int] = {}
            for link in _listed(os.path.join(folder, "io_links")):
                to = _properties(os.path.join(folder, "io_links", link, "properties")) or {}
                if to.get("type") == _XGMI:
                    links[int(to.get("node_to", "-1"))] = int(to.get("max_bandwidth", "0"))
            nodes.append(_Node(number, pci, links))
    return nodes, some_hidden


def _properties(path: str) -> dict[str, str] | None:
    """None when it may not be read."""
    try:
        with open(path, "rb") as f:
            lines = f.read().decode("ascii", "replace").splitlines()
    except OSError:
        return None
    return {words[0]: words[1] for line in lines if len(words := line.split()) == 2}


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _same(pci: str) -> str:
    """Without the function: KFD writes the number of a partition there."""
    return pci.partition(".")[0]
