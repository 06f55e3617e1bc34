"""The energy of a run: which meters, which sum, and what is not in it. This is the one rule; nothing else decides.

**One meter** (a device with the attribute `meter`, see `yprovd.stitch.columns`). Its energy between two times is the
difference of its counter (`hw.energy`), read at the counter's own times (`hw.energy.time`; else when the sample was
taken) and interpolated between them. Readings with one time are one reading. Before the first and after the last
reading it is continued for at most a second: by its own power (`hw.power`), or, where the counter's own times lag
behind the samples, as it went on there. This counts as covered; beyond it the meter stands still and covers nothing. A
counter that is read less often than its power is continued by that to the end, and the figure is then *estimated*. A
meter that covers nothing of the run is absent.

- A counter that falls began anew (of a Cray, `yprov.cray.resets` says so even when it rises). That interval is what the
  power integrates to; without power, the new value, if the meter's mean power allows so much, and not covered. The
  figure is then *estimated*. (RAPL's sensor counts from the daemon's begin: an interval in which it falls is one
  between two daemons; it counts 0 and is not covered, and the rest is a measurement.) One reading that is less or more
  than both of its neighbours, which are in order, is none.
- A counter that grows by less than a tenth of what its own power integrates to in the same time, or by more than ten
  times that, is stuck or wrong and not used, if that integral is more than 10 J and ten steps of the counter. The power
  is integrated instead. So it is where the counter was read for less than half of the time of the power. The ratio of
  the two is recorded of every meter that has both.
- Without a counter the power is integrated: trapezoids between the values at their own times, of the curve that the
  device recorded by itself where there is one. A gap of more than three usual intervals is 0 J, and not covered.

*measured*: differences of a counter; *estimated*: of a counter, partly filled; *integrated*: from power; *absent*:
there is no figure, and a reason. A sum is called by the weakest of its parts, in the order measured, integrated,
estimated.

**GPUs of a node**: the meters of kind `gpu` that the GPU's vendor gives (classes `gpu`, and `socket` for what two dies
share), else those of the Cray, unless none of the GPUs is the job's. A vendor's meter of kind `module` (Grace Hopper)
holds the processor too: it is taken, and the figure's scope is then `module`.

**A node**: the first of these all of whose meters cover half of the run; without one, that which covers most. What was
passed over is told with its reason.

    1  node       what meters the whole node: pm_counters of a Cray
    2  node       an ACPI power meter of the whole node
    3  platform   the processors' platform meter (psys), and the GPUs
    4  module     processor, memory and GPU metered together, and nothing else
    5  partial    processors (of a Cray, else RAPL, else hwmon) + memory (likewise) + GPUs, as far as there are meters

Only meters with the attribute `summed` are added up: the others lie within one of these. (RAPL's packages lie within
psys: they count where psys does not.)

**The run**: the sum over the nodes. Its scope is the least of its nodes', and `partial` when a node has no meter. A sum
is covered while all of its meters are; nodes without a meter cover nothing. `shared`: other jobs may have used a device
or a part of a node that is in the figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from yprovd.stitch.absences import no_gpu_is_ours, unread_gpus
from yprovd.stitch.columns import columns_of
from yprovd.stitch.curves import Curve, Reading, read
from yprovd.stitch.record import F64, I64, Node

#: From the strongest to the weakest.
METHODS = ("measured", "integrated", "estimated", "absent")
SCOPES = ("node", "platform", "module", "partial")
#: Where several classes meter the same, the first.
_TRUST = ("cray", "rapl", "hwmon")
#: A meter is good for a sum when it covers this part of the run.
_ENOUGH = 0.5
_REST = "network, disks, cooling and power supplies"
_WORDS = {"cpu": "CPUs", "memory": "memory", "gpu": "GPUs"}
#: What the levels above the last one hold of a node, beside `_REST`.
_HOLDS = {"platform": ("cpu", "memory"), "module": ("cpu", "memory", "gpu")}

Window = tuple[int, int]


@dataclass(frozen=True)
class Total:
    """Meters that are added up."""

    readings: tuple[Reading, ...]

    @property
    def curves(self) -> list[Curve]:
        return [r.curve for r in self.readings if r.curve is not None]

    @property
    def method(self) -> str:
        return weakest([r.method for r in self.readings if r.curve is not None])

    def at(self, mono_ns: I64) -> F64:
        out: F64 = np.zeros(len(mono_ns))
        for curve in self.curves:
            out += curve.at(mono_ns)
        return out

    def energy(self, begin: int, end: int) -> float:
        return float(np.diff(self.at(np.array([begin, end])))[0])

    def covers(self, begin: int, end: int) -> float:
        """The part of a stretch of time that all of the meters cover."""
        curves = self.curves
        first = max(int(c.times[0]) for c in curves)
        last = min(int(c.times[-1]) for c in curves)
        low, high = max(first, begin), min(last, end)
        if end <= begin:
            return 1.0
        return min(c.covered(low, high) for c in curves) / (end - begin) if low < high else 0.0


@dataclass(frozen=True)
class NodeEnergy:
    """What the meters of one node say. `total` and `gpus` are None without a figure; `readings` are all its meters."""

    readings: tuple[Reading, ...] = ()
    total: Total | None = None
    scope: str = ""
    gpus: Total | None = None
    not_covered: tuple[str, ...] = ()
    gpus_without: int = 0
    notes: tuple[str, ...] = ()
    shared: bool = False


def weakest(methods: Iterable[str]) -> str:
    return max(methods, key=METHODS.index, default="absent")


def energy_of(node: Node, window: Window | None) -> NodeEnergy:
    """The rule, for one node. `window`: the run on its clock; without one nothing was sampled."""
    readings = tuple(read(columns) for columns in columns_of(node))
    if window is None or not readings:
        return NodeEnergy(readings)
    readings = tuple(_of_run(r, window) for r in readings)
    there = {m.device.cls for s in node.samples for m in s.schema.metrics if m.device is not None}
    unread = unread_gpus(node)
    gpus = [] if no_gpu_is_ours(node) else _gpus(readings, window)
    levels = [(scope, r) for scope, r in _levels(readings, gpus, window) if any(x.curve is not None for x in r)]
    if not levels:
        return NodeEnergy(readings)
    chosen = next((i for i, (_s, r) in enumerate(levels) if _complete(r, window)), None)
    if chosen is None:
        chosen = max(range(len(levels)), key=lambda i: (_mean(levels[i][1], window), -i))
    scope, summed = levels[chosen]
    notes = [f"{r.name} does not count: {_fault(r, window)}"
             for _s, r_ in levels[:chosen] for r in r_ if not _complete([r], window)]
    notes += [f"{r.name} does not count: {_fault(r, window)}" for r in _of_vendor(readings)
              if gpus and r not in gpus and not _complete([r], window)]
    notes += [f"{r.name} is not in the sum: {r.reason}" for r in summed if r.curve is None]
    notes += [f"{r.name} is {r.method}: {r.reason}" for r in (*summed, *gpus)
              if r.method == "estimated" or (r.method == "integrated" and r.ratio is not None)]
    metered = tuple(r for r in gpus if r.curve is not None)
    return NodeEnergy(
        readings, Total(tuple(r for r in summed if r.curve is not None)), scope, Total(metered) if metered else None,
        _lacking(scope, summed, bool(gpus or unread) or not there.isdisjoint(("gpu", "socket"))),
        len(gpus) - len(metered), tuple(dict.fromkeys(notes + unread)),
        any(m.device.attributes.get("shared") is True
            for s in node.samples for m in s.schema.metrics if m.device is not None),
    )


def _of_run(reading: Reading, window: Window) -> Reading:
    """A meter that covers nothing of the run has no figure, which is not 0."""
    if reading.curve is None or reading.coverage(*window) > 0:
        return reading
    return replace(reading, curve=None, method="absent", reason="it has no value of the time of the run")


def _gpus(readings: Sequence[Reading], window: Window) -> list[Reading]:
    """The meters that make up the figure of a node's GPUs."""
    vendor = _of_vendor(readings)
    cray = [r for r in readings if r.sees == "gpu" and r.device.cls == "cray" and _summed(r)]
    return _first([vendor, cray], window)


def _of_vendor(readings: Sequence[Reading]) -> list[Reading]:
    return [r for r in readings if r.sees in ("gpu", "module") and r.device.cls not in _TRUST and _summed(r)]


def _levels(readings: Sequence[Reading], gpus: list[Reading], window: Window) -> list[tuple[str, list[Reading]]]:
    def of(sees: str) -> dict[str, list[Reading]]:
        out: dict[str, list[Reading]] = {}
        for r in readings:
            if r.sees == sees and _summed(r):
                out.setdefault(r.device.cls, []).append(r)
        return out

    nodes, modules, platform = of("node"), of("module"), of("platform").get("rapl", [])
    vendors = [r for cls, rs in modules.items() if cls not in _TRUST for r in rs]
    module = _first([vendors, *(modules.get(cls, []) for cls in _TRUST)], window)
    parts = [r for sees in ("cpu", "memory") for r in _first([of(sees).get(cls, []) for cls in _TRUST], window)]
    return [
        *(("node", nodes[cls]) for cls in sorted(nodes, key=lambda c: (c != "cray", c))),
        *([("platform", platform + gpus)] if platform else []),
        *([("module", module)] if module else []),
        ("partial", parts + [r for r in gpus if r.sees == "gpu"]),
    ]


def _summed(reading: Reading) -> bool:
    """RAPL's packages and their memory lie in psys, and are asked for only where that one does not count."""
    device = reading.device
    return device.attributes.get("summed") is True or (
        device.cls == "rapl" and reading.sees in ("cpu", "memory") and "meter" in device.attributes)


def _complete(readings: Sequence[Reading], window: Window) -> bool:
    return all(r.curve is not None and r.coverage(*window) >= _ENOUGH for r in readings)


def _mean(readings: Sequence[Reading], window: Window) -> float:
    return sum(r.coverage(*window) for r in readings) / len(readings)


def _first(candidates: list[list[Reading]], window: Window) -> list[Reading]:
    """The first that is complete, else that which covers most, of those that there are."""
    there = [c for c in candidates if c]
    complete = next((c for c in there if _complete(c, window)), None)
    return complete or max(there, key=lambda c: _mean(c, window), default=[])


def _fault(reading: Reading, window: Window) -> str:
    return reading.reason if reading.curve is None else f"it covers {100 * reading.coverage(*window):.0f} % of the run"


def _lacking(scope: str, summed: list[Reading], has_gpus: bool) -> tuple[str, ...]:
    """What of a node is not in its figure, in words."""
    if scope == "node":
        return ()
    holds = {*_HOLDS.get(scope, ()), *(r.sees for r in summed if r.curve is not None)}
    parts = [word for sees, word in _WORDS.items() if sees not in holds and (sees != "gpu" or has_gpus)]
    return (*parts, _REST)
