"""Power and energy of a Cray EX or XC node as its node controller meters them: `pm_counters`.

Source: /sys/cray/pm_counters/{,cpu_,cpuN_,memory_,accel_,accelN_}{power,energy,power_cap,temp} and freshness,
generation, raw_scan_hz, startup, version (Cray-HPE/docs-csm, "User Access to Compute Node Power Data"). A file holds
`495 W 1784929200356706 us`: value, unit, and when it was scanned, in microseconds since the epoch; old trees
leave out the stamp, or the unit too. Every file has a stamp of its own, and energy may be 80 ms older than
power: a difference of energies needs the energies' own times (`hw.energy.time`).

Trust, where several sources meter the same: pm_counters before an ACPI power meter before RAPL (with the GPUs' own
meters added, a partial sum). `node` holds all the others, and what has no meter of its own (NICs, fans). The number
of an accelerator is the controller's and need not be ROCm's or CUDA's. An `accelN` of an MI250X is one OAM, two GCDs;
of a chip that is CPU and GPU at once it is whatever the controller calls so.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

from yprovd.clock import Clock, SystemClock
from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Kind, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, read_word

_NAME = re.compile(r"(?:([a-z]+)(\d*)_)?(power_cap|power|energy|temp)")
_HINT = "most systems let every user read these files: ask the administrators"

#: What a device sees (attribute `meter`), in the order of the devices.
_METERS = {"node": "node", "cpu": "cpu", "memory": "memory", "accel": "gpu"}

#: What a file measures -> metric, unit in the file, unit, kind, text.
_QUANTITIES: dict[str, tuple[str, bytes, str, Kind, str]] = {
    "power": ("hw.power", b"W", "W", "gauge", "Power at the scan of the node controller"),
    "energy": ("hw.energy", b"J", "J", "counter", "Energy used, in whole joules"),
    "temp": ("hw.temperature", b"C", "Cel", "gauge", "Temperature"),
    "power_cap": ("hw.power.limit", b"W", "W", "gauge", "Power cap, absent where there is none"),
}

#: Everything is scanned some ten times a second. What stands for longer than this, or for two scans of a slower
#: controller, is stale (s).
_STALE_S = 1.0
#: The oldest that a stamp may be when it is seen for the first time (s).
_OLD_S = 60.0


class _File:
    """One file, its unit and metrics: the value and, where the file is stamped, its time. Since when the stamp
    stands."""

    __slots__ = ("counter", "file", "metrics", "since", "stamp", "time", "unit")

    def __init__(self, file: KeptFile, unit: bytes, metrics: tuple[Metric, ...]) -> None:
        self.file = file
        self.unit = unit
        self.metrics = metrics
        self.counter = metrics[0].kind == "counter"
        self.stamp = b""
        self.time = math.nan
        self.since = -math.inf


class CraySensor:
    """Devices (`cray`): `node`, `cpu`, `memory`, `accel0`... with power, energy, their times, temperatures, caps.

    Where `freshness` moves while the files are read they are read again, once; if it moves again, they are taken and
    `yprov.cray.torn` of `node` counts it: two of them may be of two scans. Where freshness or a stamp stands for a
    second, powers and temperatures are NaN and `yprov.cray.stale` counts the read; energies stay as they are, with the
    time that they had. A stamp that is new was made since the read before: one that says otherwise is of a clock that
    is not ours, or was set, and is taken to be of now; the stamps after it by their distance to it.

    Energies are the raw counters. When the controller starts anew (`startup`), they begin anew: mostly they fall,
    but one that it kept, or that grew past its old value before we came, does not look like it.
    `yprov.cray.resets` grows at exactly the sample whose energies are the first of the new counters: a difference to
    the sample before, greater or less than 0, is no energy that anybody measured.
    """

    name = "cray"
    own_thread = True

    def __init__(self, where: Surroundings, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        base = os.path.join(where.root, "sys/cray/pm_counters")
        self._freshness, self._startup, self._generation = (
            KeptFile(os.path.join(base, name), 64) for name in ("freshness", "startup", "generation"))
        files, about = _discover(base)
        self._files = [f for f in files if f.metrics[0].name != "hw.power.limit"]
        self._caps = [f for f in files if f.metrics[0].name == "hw.power.limit"]
        self._limits = [math.nan] * len(self._caps)
        self._limits_of: bytes | None = b""
        self._fresh, self._fresh_since = _content(self._freshness), self._clock.mono_ns() / 1e9
        self._looked, self._ahead = self._fresh_since - _OLD_S, 0.0
        self._started = _content(self._startup)
        scans = about.get("raw_scan_hz")
        self._patience = max(_STALE_S, 2 / scans if isinstance(scans, int) and scans else 0.0)
        self._has_freshness = self._fresh is not None
        stamped = any(len(f.metrics) > 1 for f in self._files)
        self._torn = 0.0 if self._has_freshness else math.nan
        self._stale = 0.0 if self._has_freshness or stamped else math.nan
        self._resets = 0.0 if self._started is not None else math.nan
        self.metrics = (*_own_metrics(files, about), *(m for f in self._files + self._caps for m in f.metrics))

    def read(self) -> Sequence[float]:
        began = self._clock.mono_ns() / 1e9
        contents, started = self._consistent()
        if started != self._started and started is not None:
            self._resets += 1
            self._started = started
        mono_ns = self._clock.mono_ns()
        to_mono_ns, now = mono_ns - self._clock.wall_ns(), mono_ns / 1e9
        patience = self._patience
        stands = self._has_freshness and now - self._fresh_since > patience
        stale = stands
        values: list[float] = []
        for f, content in zip(self._files, contents, strict=True):
            value, stamp = _parse(content, f.unit)
            if len(f.metrics) == 1:
                values.append(math.nan if stands and not f.counter else value)
                continue
            if stamp != f.stamp:
                f.stamp, f.since = stamp, now
                # converted once: a clock that is set later does not move a time that has passed
                f.time = self._when((int(stamp) * 1000 + to_mono_ns) / 1e9, now) if stamp else math.nan
            old = stands or now - f.since > patience
            stale = stale or old
            values += (math.nan, math.nan) if value != value or (old and not f.counter) else (value, f.time)
        self._looked = began
        self._stale += stale
        generation = _content(self._generation)
        if generation is None or generation != self._limits_of:  # it says whether a cap has changed
            self._limits_of = generation
            self._limits = [_parse(_content(f.file), f.unit)[0] or math.nan for f in self._caps]
        return [self._torn, self._stale, self._resets, _parse(generation, b"")[0], *values, *self._limits]

    def close(self) -> None:
        for file in (self._freshness, self._startup, self._generation, *(f.file for f in self._files + self._caps)):
            file.close()

    def _when(self, stamp: float, now: float) -> float:
        """The time of a stamp that is new, by our clock."""
        at = stamp - self._ahead
        if not self._looked - self._patience < at < now + self._patience:
            self._ahead, at = stamp - now, now
        return at

    def _consistent(self) -> tuple[list[bytes | None], bytes | None]:
        """All files and `startup`, as of one scan if two tries can have them so."""
        before = _content(self._freshness)
        for _ in range(2):
            contents = [_content(f.file) for f in self._files]
            started = _content(self._startup)
            after = _content(self._freshness)
            if after == before:
                break
            before = after
        else:
            self._torn += 1
        if before != self._fresh:
            self._fresh, self._fresh_since = before, self._clock.mono_ns() / 1e9
        return contents, started


def _content(file: KeptFile) -> bytes | None:
    """None when it cannot be read."""
    try:
        return file.read()
    except OSError:
        return None


def _parse(content: bytes | None, unit: bytes) -> tuple[float, bytes]:
    """(value, stamp in microseconds or b""). NaN for a unit that is not the file's, and for what is no number."""
    words = content.split() if content is not None else []
    try:
        if len(words) > 1 and (words[1] != unit or len(words) == 3):
            return math.nan, b""
        stamped = len(words) == 4 and words[3] == b"us" and words[2].isdigit()
        return float(words[0]), words[2] if stamped else b""
    except (IndexError, ValueError):
        return math.nan, b""


def _discover(base: str) -> tuple[list[_File], dict[str, Scalar]]:
    """The files that have a value now, in the order of their devices, and what is known of them all. Raises
    SensorUnavailable."""
    try:
        names = [m for n in sorted(os.listdir(base)) if (m := _NAME.fullmatch(n))]
    except FileNotFoundError:
        raise SensorUnavailable(f"no {base}: not a node of a Cray EX or XC") from None
    except OSError as e:
        raise SensorUnavailable(f"{base} cannot be read: {e.strerror}", hint=_HINT) from e
    readable: list[tuple[str, str, str, KeptFile, bool]] = []
    refused: dict[str, str] = {}
    for m in names:
        cls, index, what = m[1] or "node", m[2] or "", m[3]
        file = KeptFile(os.path.join(base, m[0]), 128)
        try:
            content = file.read()
        except OSError as e:
            refused[m[0]] = f"{file.path} cannot be read: {e.strerror}"
            continue
        value, stamp = _parse(content, _QUANTITIES[what][1])
        if value == value:
            readable.append((cls, index, what, file, bool(stamp)))
        else:
            file.close()
            refused[m[0]] = f"{file.path} is not understood: {content[:60]!r}"
    if not readable:
        raise SensorUnavailable(next(iter(refused.values()), f"nothing of power or energy in {base}"), hint=_HINT)
    about: dict[str, Scalar] = {}
    for name in ("raw_scan_hz", "startup", "version"):
        if word := read_word(os.path.join(base, name)):
            about[name] = int(word) if word.isdigit() else word
    if refused:
        about["skipped"] = ",".join(refused)
    readable.sort(key=_place)
    metered = {(cls, index) for cls, index, what, *_ in readable if what in ("power", "energy")}
    return [_file(*r, _device(r[0], r[1], metered, about)) for r in readable], about


def _place(found: tuple[str, str, str, KeptFile, bool]) -> tuple[int, str, int, int]:
    cls, index, what, *_ = found
    rank = list(_METERS).index(cls) if cls in _METERS else len(_METERS)
    return rank, cls, int(index or -1), list(_QUANTITIES).index(what)


def _device(cls: str, index: str, metered: set[tuple[str, str]], about: dict[str, Scalar]) -> Device:
    attributes: dict[str, Scalar] = {"index": int(index)} if index else {}
    if cls in _METERS and (cls, index) in metered:
        attributes |= {"meter": _METERS[cls], "summed": _adds_up(cls, index, metered)}
    return Device("cray", cls + index, attributes=attributes | (about if cls == "node" else {}))


def _adds_up(cls: str, index: str, metered: set[tuple[str, str]]) -> bool:
    """Of a whole and its parts only one counts: of processors the whole (`cpu`), of accelerators the parts."""
    if cls == "accel" and not index:
        return not any(c == cls and i for c, i in metered)
    return cls == "accel" or not index or (cls, "") not in metered


def _file(cls: str, index: str, what: str, file: KeptFile, stamped: bool, device: Device) -> _File:
    metric, in_file, unit, kind, text = _QUANTITIES[what]
    metrics = [Metric(metric, unit, kind, text, 1.0, device)]
    if stamped and what in ("power", "energy"):
        metrics.append(Metric(f"{metric}.time", "s", "time", f"When {metric} had its value", 1e-6, device))
    return _File(file, in_file, tuple(metrics))


def _own_metrics(files: list[_File], about: dict[str, Scalar]) -> tuple[Metric, ...]:
    """What the sensor says of its reading, as metrics of the node."""
    devices = (f.metrics[0].device for f in files)
    node = next((d for d in devices if d is not None and d.id == "node"), Device("cray", "node", attributes=about))
    return (
        Metric("yprov.cray.torn", "{read}", "counter", "Reads of which the files may be of two scans", 1, node),
        Metric("yprov.cray.stale", "{read}", "counter", "Reads that found something standing", 1, node),
        Metric("yprov.cray.resets", "{reset}", "counter", "Starts of the node controller since we look", 1, node),
        Metric("yprov.cray.generation", "{change}", "counter", "Changes of a power cap, by the controller", 1, node),
    )
