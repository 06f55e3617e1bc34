"""The /sys of nodes with AMD GPUs, as far as it is read, and gpu_metrics as the kernel declares it.

The tables are declared here as in the kernel's kgd_pp_interface.h, members in order, and laid out by C's rules
(ctypes): what the code under test knows of offsets is nothing to this.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from pathlib import Path
from typing import Any

_TYPES = {"u8": ctypes.c_uint8, "u16": ctypes.c_uint16, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64}
_HEADER = "u16 structure_size, u8 format_revision, u8 content_revision"
_TEMPERATURES = "u16 temperature_hotspot, u16 temperature_mem, u16 temperature_vrsoc, u16 power"
_ACTIVITY = "u16 average_gfx_activity, u16 average_umc_activity"
_ENERGY = "u64 energy_accumulator, u64 system_clock_counter"
_RESIDENCIES = ("u32 accumulation_counter, u32 prochot_residency_acc, u32 ppt_residency_acc, "
                "u32 socket_thm_residency_acc, u32 vr_thm_residency_acc, u32 hbm_thm_residency_acc")
_LINKS = "u16 pcie_link_width, u16 pcie_link_speed, u16 xgmi_link_width, u16 xgmi_link_speed"
_ACCUMULATED = "u32 gfx_activity_acc, u32 mem_activity_acc"
_PCIE = "u64 pcie_bandwidth_acc, u64 pcie_bandwidth_inst, u64 pcie_l0_to_recov, u64 pcie_replay, u64 pcie_rover"
_NAK = "u32 pcie_nak_sent, u32 pcie_nak_rcvd"
_XGMI = "u64 xgmi_read_data_acc[8], u64 xgmi_write_data_acc[8]"
_CLOCKS = ("u64 firmware_timestamp, u16 current_gfxclk[8], u16 current_socclk[4], u16 current_vclk0[4], "
           "u16 current_dclk0[4], u16 current_uclk")
_BUSY = "u32 gfx_busy_inst[8], u16 jpeg_busy[{jpeg}], u16 vcn_busy[4], u64 gfx_busy_acc[8]"


def _declare(*parts: str, **structs: type) -> type[ctypes.Structure]:
    fields: list[tuple[str, Any]] = []
    for member in ", ".join(parts).split(", "):
        kind, _, name = member.partition(" ")
        name, _, count = name.partition("[")
        base = structs.get(kind) or _TYPES[kind]
        fields.append((name, base * int(count[:-1]) if count else base))
    return type("Table", (ctypes.Structure,), {"_fields_": fields})


def _xcp(jpeg: int, below: int) -> type[ctypes.Structure]:
    more = ", ".join(f"u64 below_{i}[8]" for i in range(below))
    return _declare(_BUSY.format(jpeg=jpeg), *([more] if more else []))


_TAIL = "u16 num_partition, xcp xcp_stats[8], u32 pcie_lc_perf"
_V7 = (_HEADER, _TEMPERATURES, _ACTIVITY, "u64 mem_max_bandwidth", _ENERGY, _RESIDENCIES,
       "u32 gfxclk_lock_status", _LINKS, _ACCUMULATED, _PCIE, _NAK, _XGMI, "u16 xgmi_link_status[8], u16 padding",
       _CLOCKS, _TAIL)
#: name -> the C structure. `1.6` is that of kernels before 6.11, `1.6b` the later one.
TABLES: dict[str, type[ctypes.Structure]] = {
    "1.3": _declare(
        _HEADER, "u16 temperature_edge, u16 temperature_hotspot, u16 temperature_mem, u16 temperature_vrgfx, "
        "u16 temperature_vrsoc, u16 temperature_vrmem", _ACTIVITY, "u16 average_mm_activity, u16 power", _ENERGY,
        "u16 average_clocks[7], u16 current_gfxclk, u16 current_socclk, u16 current_uclk, u16 current_vclk0, "
        "u16 current_dclk0, u16 current_vclk1, u16 current_dclk1, u32 throttle_status, u16 current_fan_speed, "
        "u16 pcie_link_width, u16 pcie_link_speed, u16 padding", _ACCUMULATED, "u16 temperature_hbm[4], "
        "u64 firmware_timestamp, u16 voltage_soc, u16 voltage_gfx, u16 voltage_mem, u16 padding1, "
        "u64 indep_throttle_status"),
    "1.4": _declare(_HEADER, _TEMPERATURES, _ACTIVITY, "u16 vcn_activity[4]", _ENERGY, "u32 throttle_status, "
                    "u32 gfxclk_lock_status", _LINKS, _ACCUMULATED, _PCIE, _XGMI, _CLOCKS, "u16 padding"),
    "1.5": _declare(_HEADER, _TEMPERATURES, _ACTIVITY, "u16 vcn_activity[4], u16 jpeg_activity[32]", _ENERGY,
                    "u32 throttle_status, u32 gfxclk_lock_status", _LINKS, _ACCUMULATED, _PCIE, _NAK, _XGMI, _CLOCKS,
                    "u16 padding"),
    "1.6": _declare(_HEADER, _TEMPERATURES, _ACTIVITY, "u16 vcn_activity[4], u16 jpeg_activity[32]", _ENERGY,
                    _RESIDENCIES, "u32 throttle_status, u32 gfxclk_lock_status", _LINKS, _ACCUMULATED, _PCIE, _NAK,
                    _XGMI, _CLOCKS, "u16 padding"),
    "1.6b": _declare(_HEADER, _TEMPERATURES, _ACTIVITY, _ENERGY, _RESIDENCIES, "u32 gfxclk_lock_status", _LINKS,
                     _ACCUMULATED, _PCIE, _NAK, _XGMI, _CLOCKS, _TAIL, xcp=_xcp(32, 0)),
    "1.7": _declare(*_V7, xcp=_xcp(32, 1)),
    "1.8": _declare(*_V7, xcp=_xcp(40, 4)),
}


def table(revision: str, **members: Any) -> bytes:
    """A table in which everything is absent (all ones) but these members."""
    out = TABLES[revision].from_buffer(bytearray(b"\xff" * ctypes.sizeof(TABLES[revision])))
    out.structure_size = ctypes.sizeof(out)
    out.format_revision, out.content_revision = 1, int(revision[2])
    for name, value in members.items():
        if isinstance(value, (list, tuple)):
            getattr(out, name)[:len(value)] = value
        else:
            assert name in dict(out._fields_), name
            setattr(out, name, value)
    return bytes(out)


def unknown_table(format: int = 1, content: int = 9, size: int = 200) -> bytes:
    return struct.pack("<HBB", size, format, content) + bytes(size - 4)


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class AmdTree:
    """A node below `root` with these GPUs. Of each, `gpus[i]` is the PCI address; members of its table stay as they
    were set until they are set anew."""

    def __init__(self, root: Path, chip: int, buses: list[str], revision: str, name: str) -> None:
        self.root, self.revision = root, revision
        self.gpus = [f"0000:{bus}:00.0" for bus in buses]
        self._members: list[dict[str, Any]] = [{} for _ in self.gpus]
        self.write("sys/module/amdgpu/version", "6.16.13\n")
        self.write("proc/sys/kernel/osrelease", "6.4.0-150700.53.22-default\n")
        for i in range(len(self.gpus)):
            folder = self.folder(i)
            for file, text in {
                "vendor": "0x1002", "device": f"{chip:#06x}", "product_name": name,
                "unique_id": f"{0x8f1c2d3e4a5b6c00 + i:016x}", "mem_info_vram_used": 10 << 20,
                "mem_info_vram_total": 64 << 30, "hwmon/hwmon3/power1_cap": 560_000_000, "hwmon/hwmon3/name": "amdgpu",
            }.items():
                self.write(f"{folder}/{file}", f"{text}\n")
            (root / folder / f"drm/card{i}").mkdir(parents=True)
            (root / folder / f"drm/renderD{128 + i}").mkdir()
            card = root / f"sys/class/drm/card{i}"
            card.mkdir(parents=True)
            (card / "device").symlink_to(os.path.relpath(root / folder, card))
            (root / f"sys/class/drm/renderD{128 + i}").mkdir()
            self.kfd(4 + i, i)
            self.set(i)
        for number in range(4):
            self.write(f"{self.node(number)}/properties", "cpu_cores_count 16\nsimd_count 0\nlocation_id 0\ndomain 0\n")

    def folder(self, gpu: int) -> str:
        return f"sys/devices/pci0000:{self.gpus[gpu][5]}0/{self.gpus[gpu]}"

    @staticmethod
    def node(number: int) -> str:
        return f"sys/class/kfd/kfd/topology/nodes/{number}"

    def kfd(self, number: int, gpu: int, partition: int = 0) -> None:
        """The KFD node `number` is this GPU, or a partition of it."""
        bus = int(self.gpus[gpu][5:7], 16)
        self.write(f"{self.node(number)}/properties", f"cpu_cores_count 0\nsimd_count 440\nvendor_id 4098\n"
                   f"location_id {bus << 8 | partition}\ndomain 0\ndrm_render_minor {128 + gpu}\n")

    def link(self, gpu: int, other: int, mb_per_s: int) -> None:
        """An XGMI link, both ways."""
        for a, b in ((gpu, other), (other, gpu)):
            self.write(f"{self.node(4 + a)}/io_links/{b}/properties",
                       f"type 11\nnode_from {4 + a}\nnode_to {4 + b}\nweight 15\nmax_bandwidth {mb_per_s}\n")

    def set(self, gpu: int, **members: Any) -> None:
        """Write its table: these members, and the time of now unless it is one of them."""
        self._members[gpu] |= members
        self.raw(gpu, table(self.revision, **{"system_clock_counter": boottime_ns(), **self._members[gpu]}))

    def raw(self, gpu: int, data: bytes) -> None:
        """In place, so that descriptors that are open see it."""
        self.write(f"{self.folder(gpu)}/gpu_metrics", data)

    def write(self, path: str, data: str | bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)


#: In the order of the bus, which on Frontier is that of HIP.
FRONTIER = ["c1", "c6", "c9", "ce", "d1", "d6", "d9", "de"]


def frontier(root: Path) -> AmdTree:
    """Four OAMs of MI250X: the first GCD of each meters for both, the second says 0."""
    tree = AmdTree(root, 0x7408, FRONTIER, "1.3", "AMD INSTINCT MI250X (MCM) OAM AC MBA")
    for i in range(8):
        primary = i % 2 == 0
        tree.set(i, temperature_edge=40 + i, temperature_hotspot=45 + i, temperature_mem=50 + i, average_mm_activity=0,
                 average_gfx_activity=10 * i, average_umc_activity=i, power=90 + i if primary else 0,
                 energy_accumulator=(i + 1) * 1000 * 65536 if primary else 0, current_gfxclk=1700, current_uclk=1600,
                 throttle_status=0, indep_throttle_status=0)
    return tree


def mi300a(root: Path) -> AmdTree:
    """Four APUs, with a later kernel's table."""
    tree = AmdTree(root, 0x74a0, ["01", "41", "81", "c1"], "1.7", "AMD Instinct MI300A Accelerator")
    for i in range(4):
        tree.set(i, temperature_hotspot=50 + i, temperature_mem=40, power=200 + i, average_gfx_activity=25,
                 average_umc_activity=5, energy_accumulator=(i + 1) * 65536, current_gfxclk=[2100, 2000] + [0xFFFF] * 6,
                 current_uclk=1300, prochot_residency_acc=0, ppt_residency_acc=10, socket_thm_residency_acc=0,
                 vr_thm_residency_acc=0, hbm_thm_residency_acc=0, accumulation_counter=100,
                 xgmi_read_data_acc=[1, 2, 3, 0, 0, 0, 0, 0xFFFFFFFFFFFFFFFF], xgmi_write_data_acc=[0] * 8)
    return tree


def mi210(root: Path) -> AmdTree:
    """Two cards of one die each."""
    tree = AmdTree(root, 0x740f, ["23", "26"], "1.3", "AMD Instinct MI210")
    for i in range(2):
        tree.set(i, temperature_edge=35, temperature_hotspot=40, temperature_mem=45, average_gfx_activity=99,
                 average_umc_activity=50, power=43 + i, energy_accumulator=(7 + i) * 65536, current_gfxclk=800,
                 current_uclk=1600, throttle_status=2)
    return tree
