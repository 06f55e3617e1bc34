"""`gpu_metrics`, the table in which the amdgpu driver gives all of a GPU's measurements at once. Pure.

Source: the kernel's drivers/gpu/drm/amd/include/kgd_pp_interface.h. The file /sys/class/drm/card<N>/device/gpu_metrics
is a C structure behind a header: u16 structure_size, u8 format_revision, u8 content_revision; little endian, members
aligned as C does. All ones in a member (0xFFFF, 0xFFFFFFFF, 2^64-1) say that there is no such value.

    1.3         MI200 (MI250X, MI210), Radeon RX 6000 and 7000
    1.4 - 1.8   MI300 and MI350. There are two of 1.6: kernel 6.7 to 6.10 and later ones differ, also in size.

Others are not known here: those of client APUs (2.x, 3.x), and 1.9, which describes itself, by codes of which several
widths have been published. They are refused by their name, and never guessed.

Units: deg C; %; W; energy_accumulator 2^-16 J (15.259 uJ; a library's constant of 15.3 is 0.27 % too much);
system_clock_counter ns of CLOCK_BOOTTIME, taken at the read; MHz; xgmi_*_data_acc KiB.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: J; exact in binary.
ENERGY_UNIT = 2.0**-16

#: What a table is unpacked to, in this order: J, ns (an int), W, 1, 1, Cel, Cel, Cel, Hz, Hz, bits, By, By.
FIELDS = ("energy", "clock", "power", "gfx", "umc", "edge", "hotspot", "memory", "gfxclk", "uclk", "reasons",
          "xgmi_read", "xgmi_write")
ENERGY, CLOCK, POWER, REASONS = (FIELDS.index(name) for name in ("energy", "clock", "power", "reasons"))
_GFXCLK, _MEMORY, _READ, _WRITE = (FIELDS.index(n) for n in ("gfxclk", "memory", "xgmi_read", "xgmi_write"))

#: field -> (factor to its base unit, greatest raw value that is believed). One rule for all sources: what is above
#: it is no measurement, be it one of the marks of absence or nonsense: a GPU of 5 kW, of 250 deg C, 101 % busy.
SANE: Mapping[str, tuple[float, int]] = {
    "energy": (ENERGY_UNIT, 1 << 62), "clock": (1, 1 << 62), "power": (1.0, 5000), "gfx": (0.01, 100),
    "umc": (0.01, 100), "edge": (1.0, 250), "hotspot": (1.0, 250), "memory": (1.0, 250), "gfxclk": (1e6, 10000),
    "uclk": (1e6, 10000), "reasons": (1.0, 0xFFFFFFFE), "xgmi_read": (1024.0, 1 << 62),
    "xgmi_write": (1024.0, 1 << 62),
}
#: `reasons` of a table that has no throttle_status: which of these counters of time have grown since the read before.
RESIDENCIES = ("prochot", "ppt", "socket_thermal", "vr_thermal", "hbm_thermal")


def clean(raw: object, field: str) -> float:
    """A raw number of whatever source in its base unit; NaN for what is none: a text, a mark of absence, nonsense."""
    factor, top = SANE[field]
    return raw * factor if isinstance(raw, int) and 0 <= raw <= top else math.nan


class Place(NamedTuple):
    """Where a member is, its type as `struct` writes it, and how many of it there are."""

    offset: int
    code: str
    number: int = 1


class Unknown(ValueError):
    """A table that is none of those that we know. Its text names the revision."""


class Layout:
    """How to unpack one kind of table. `fields`: those of FIELDS that it has. `header`: how it begins. `reasons`: what
    the bits of this field are, the lowest first, or the kernel's name of them."""

    def __init__(self, size: int, places: Mapping[str, Place], content: int = 0) -> None:
        self.size = size
        self.header = struct.pack("<HBB", size, 1, content)
        self.fields = frozenset(f for f in FIELDS if f in places or (f == "reasons" and "residencies" in places))
        self.reasons = "throttle_status" if "reasons" in places else ",".join(RESIDENCIES)
        format, at, position = "<", 0, 0
        where: dict[str, slice] = {}
        for name, (offset, code, count) in sorted(places.items(), key=lambda item: item[1].offset):
            format += f"{offset - at}x{count}{code}"
            at = offset + count * struct.calcsize(code)
            where[name] = slice(position, position + count)
            position += count
        self._unpack = struct.Struct(format).unpack_from
        single = [(f, where[f].start) for f in FIELDS if f in where and f not in ("gfxclk", "xgmi_read", "xgmi_write")]
        self._plan = tuple((FIELDS.index(f), i, *SANE[f]) for f, i in single)
        self._none = slice(0, 0)
        self._gfxclk = where.get("gfxclk", self._none)
        self._second_power = where.get("average_power", self._none)
        self._second_clock = where.get("one_gfxclk", self._none)
        self._hbm = where.get("hbm", self._none)
        self._links = [(i, where[f]) for i, f in ((_READ, "xgmi_read"), (_WRITE, "xgmi_write")) if f in where]
        self._residencies = where.get("residencies", self._none)

    def values(self, data: bytes | bytearray | memoryview) -> tuple[list[float], tuple[int, ...]]:
        """(a value for each of FIELDS, in base units, NaN where there is none; RESIDENCIES, or () where `reasons` has
        a value). Of the clocks of several dies the mean, of their links the sum."""
        raw = self._unpack(data)
        out = [math.nan] * len(FIELDS)
        for at, i, factor, top in self._plan:
            if (value := raw[i]) <= top:
                out[at] = value * factor
        if clocks := [c for c in raw[self._gfxclk] if c <= 10000]:
            out[_GFXCLK] = sum(clocks) / len(clocks) * 1e6
        if out[_MEMORY] != out[_MEMORY] and (stacks := [t for t in raw[self._hbm] if t <= 250]):
            out[_MEMORY] = float(max(stacks))
        for at, links in self._links:
            counts = [n for n in raw[links] if n <= 1 << 62]
            if counts:
                out[at] = sum(counts) * 1024.0
        for at, second, field in ((POWER, self._second_power, "power"), (_GFXCLK, self._second_clock, "gfxclk")):
            if out[at] != out[at] and (found := raw[second]):
                out[at] = clean(found[0], field)
        return out, raw[self._residencies] if out[REASONS] != out[REASONS] else ()


def _table(content: int, size: int, **offsets: int) -> Layout:
    """A table of 1.4 or later: what is the same in all of them, and offsets of what is not."""
    places = {
        "hotspot": Place(4, "H"), "memory": Place(6, "H"), "power": Place(10, "H"), "gfx": Place(12, "H"),
        "umc": Place(14, "H"), "energy": Place(offsets["energy"], "Q"), "clock": Place(offsets["energy"] + 8, "Q"),
        "xgmi_read": Place(offsets["xgmi"], "Q", 8), "xgmi_write": Place(offsets["xgmi"] + 64, "Q", 8),
        "gfxclk": Place(offsets["gfxclk"], "H", 8), "uclk": Place(offsets["gfxclk"] + 40, "H"),
    }
    if "reasons" in offsets:
        places["reasons"] = Place(offsets["reasons"], "I")
    else:
        places["residencies"] = Place(offsets["residencies"], "I", len(RESIDENCIES))
    return Layout(size, places, content)


_V1_3 = Layout(120, {
    "edge": Place(4, "H"), "hotspot": Place(6, "H"), "memory": Place(8, "H"), "gfx": Place(16, "H"),
    "umc": Place(18, "H"), "power": Place(22, "H"), "energy": Place(24, "Q"), "clock": Place(32, "Q"),
    "gfxclk": Place(54, "H"), "uclk": Place(58, "H"), "reasons": Place(68, "I"), "hbm": Place(88, "H", 4),
}, 3)
#: (content_revision, structure_size) of format_revision 1 -> layout. The offsets are checked against the kernel's
#: declarations by a test.
LAYOUTS: Mapping[tuple[int, int], Layout] = {(layout.header[3], layout.size): layout for layout in (
    _V1_3,
    _table(4, 288, energy=24, reasons=40, xgmi=104, gfxclk=240),
    _table(5, 360, energy=88, reasons=104, xgmi=176, gfxclk=312),
    _table(6, 384, energy=88, reasons=128, xgmi=200, gfxclk=336),
    _table(6, 1664, energy=16, residencies=36, xgmi=128, gfxclk=264),
    _table(7, 2208, energy=24, residencies=44, xgmi=136, gfxclk=296),
    _table(8, 3872, energy=24, residencies=44, xgmi=136, gfxclk=296),
)}


def revision(data: bytes) -> str:
    """`v1.3`; "" for what is no table."""
    return f"v{data[2]}.{data[3]}" if len(data) >= 4 else ""


def layout_of(data: bytes) -> Layout:
    """Raises Unknown for a table that is not known, or not whole."""
    if len(data) < 4:
        raise Unknown(f"gpu_metrics of {len(data)} bytes")
    size, format, content = struct.unpack_from("<HBB", data)
    layout = LAYOUTS.get((content, size)) if format == 1 else None
    if layout is None:
        raise Unknown(f"gpu_metrics {revision(data)} of {size} bytes is not known")
    if len(data) < size:
        raise Unknown(f"gpu_metrics {revision(data)} ends after {len(data)} of {size} bytes")
    return layout


def grown(before: Sequence[int], now: Sequence[int]) -> float:
    """The bits of RESIDENCIES (1, 2, 4...) that have changed; NaN without two readings. All ones: not there."""
    if len(before) != len(now) or not now:
        return math.nan
    there = [(bit, a, b) for bit, (a, b) in enumerate(zip(before, now, strict=True)) if b & 0xFFFFFFFF != 0xFFFFFFFF]
    return float(sum(1 << bit for bit, a, b in there if a != b)) if there else math.nan
