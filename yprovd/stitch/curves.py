"""One meter as energy over time: from its counter, else from its power. The steps of the rule in `yprovd.stitch.energy`
that concern a single meter. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yprovd.model import Device
from yprovd.stitch.columns import Columns, S, sees, values_of
from yprovd.stitch.record import F64, I64

#: Beyond its first and last value a meter is continued for so long (ns).
BEYOND = S
#: Power is not integrated over a gap of more than so many usual intervals.
BRIDGED = 3
#: A counter is believed when it grew by so many times what its own power integrates to.
BELIEVED = 0.1, 10.0
#: The power has to integrate to so many joules, and to so many steps of the counter, to say anything about it.
ENOUGH = 10.0

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Curve:
    """Joules since `times[0]` (ns of the node's monotonic clock), straight between the times and level beyond them.
    `missing`: of each time, for how many ns before it nothing was known."""

    times: I64
    joules: F64
    missing: F64 | None = None

    def at(self, mono_ns: I64) -> F64:
        out: F64 = np.interp(mono_ns - self.times[0], self.times - self.times[0], self.joules)
        return out

    def unknown(self, mono_ns: I64) -> F64:
        if self.missing is None:
            return np.zeros(len(mono_ns))
        out: F64 = np.interp(mono_ns - self.times[0], self.times - self.times[0], self.missing)
        return out

    def covered(self, begin: int, end: int) -> float:
        """Nanoseconds between two times for which the curve is known."""
        low, high = max(begin, int(self.times[0])), min(end, int(self.times[-1]))
        if low >= high:
            return 0.0
        return high - low - float(np.diff(self.unknown(np.array([low, high])))[0])

    def covers(self, begin: int, end: int) -> float:
        """The part of a stretch of time."""
        return self.covered(begin, end) / (end - begin) if end > begin else 1.0


@dataclass(frozen=True, eq=False)
class Reading:
    """What a meter gave in all that was recorded of it. `method`: "measured", "integrated", "estimated" (a counter that
    was partly filled) or "absent", then `curve` is None. `ratio`: growth of the counter over the integral of its own
    power in the same time, None when one of them is not there. `resets`: when the counter began anew (the ends of the
    intervals). `reason`: why it is absent, or not measured."""

    device: Device
    curve: Curve | None
    method: str
    ratio: float | None = None
    resets: tuple[int, ...] = ()
    reason: str = ""

    def energy(self, begin: int, end: int) -> float | None:
        return None if self.curve is None else float(np.diff(self.curve.at(np.array([begin, end])))[0])

    def coverage(self, begin: int, end: int) -> float:
        return 0.0 if self.curve is None else self.curve.covers(begin, end)

    @property
    def name(self) -> str:
        """`rapl/package-0`. Eight GPUs of a node have one name and eight ids."""
        device = self.device
        return f"{device.cls}/{device.name if device.cls == 'rapl' and device.name else device.id}"

    @property
    def sees(self) -> str:
        return sees(self.device)


def read(columns: Columns) -> Reading:
    """What a meter counted."""
    device = columns.device
    times, values, marks, stamped = values_of(columns.parts, "hw.energy")
    times, values, marks = _in_order(times, values, marks)
    power = _power(columns)
    if len(times) < 2:
        if power is None:
            few = "read less than twice" if len(times) else "never read"
            return Reading(device, None, "absent", reason=f"its counter and its power were {few}")
        return Reading(device, power, "integrated", reason="it has no counter that was read")
    grown = np.diff(values)
    fell = (grown < 0) | (marks[1:] > marks[:-1])
    ratio, fault = None, ""
    if power is not None:
        ratio, fault = _compared(times, grown, fell, power, columns.resolution)
        if not fault and _length(power) - 2 * BEYOND > 2 * (times[-1] - times[0] + BEYOND):
            fault = f"its counter was read for {(times[-1] - times[0]) / S:.0f} s only"
        if fault:
            return Reading(device, power, "integrated", ratio, reason=fault)
    resets = tuple(times[1:][fell].tolist())
    missing = None
    # RAPL's sensor gives what has been counted since its daemon began: it falls when the daemon begins anew, and what
    # the hardware counted in between is not known.
    if device.cls == "rapl" and resets:
        grown[fell] = 0.0
        missing = np.concatenate(([0.0], np.cumsum(np.where(fell, np.diff(times), 0))))
    elif resets:
        grown, missing = _filled(times, values, grown, fell, power)
    joules = np.concatenate(([0.0], np.cumsum(grown)))
    curve = _continued(Curve(times, joules, missing), power, stamped)
    reason = "its counter began anew" if resets and device.cls != "rapl" else ""
    if power is not None and curve.times[-1] - times[-1] > 2 * BEYOND:
        reason = reason or f"its counter was read until {(curve.times[-1] - times[-1]) / S - 1:.0f} s before the end"
    return Reading(device, curve, "estimated" if reason else "measured", ratio, resets, reason)


def _in_order(times: I64, values: F64, marks: F64) -> tuple[I64, F64, F64]:
    """Without single readings that are out of the order of the two around them, which agree: a counter that began anew
    does not catch up with itself from one reading to the next."""
    keep = np.ones(len(times), dtype=bool)
    before, it, after = values[:-2], values[1:-1], values[2:]
    keep[1:-1] = (before > after) | ((before <= it) & (it <= after))
    return times[keep], values[keep], marks[keep]


def _power(columns: Columns) -> Curve | None:
    """The integral of a device's power: of the curve that it recorded by itself, unless the samples know more."""
    traced = columns.traced
    own = _integral(traced.mono_ns, traced.values, 0) if traced is not None else None
    interval = max((samples.schema.interval_ns for samples, _at in columns.parts), default=0)
    for name in ("hw.power", "hw.power.average"):
        times, values, _marks, _stamped = values_of(columns.parts, name)
        if (sampled := _integral(times, values, interval)) is not None:
            return own if own is not None and _length(own) > 0.9 * _length(sampled) else sampled
    return own


def _length(curve: Curve) -> float:
    return curve.covered(int(curve.times[0]), int(curve.times[-1]))


def _integral(times: I64, watts: F64, interval_ns: int) -> Curve | None:
    """Trapezoids between the values; None when there are less than two. Nothing is known of a gap."""
    valid = np.isfinite(watts) & (watts >= 0)
    times, watts = times[valid], watts[valid]
    if len(times) < 2:
        return None
    steps = np.diff(times)
    gaps = steps > BRIDGED * max(interval_ns, float(np.median(steps)))
    grown = np.where(gaps, 0.0, (watts[1:] + watts[:-1]) / 2 * steps / S)
    grown = np.concatenate(([0.0, watts[0] * BEYOND / S], grown, [watts[-1] * BEYOND / S]))
    missing = np.concatenate(([0.0, 0.0], np.cumsum(np.where(gaps, steps, 0))))
    return Curve(np.concatenate(([times[0] - BEYOND], times, [times[-1] + BEYOND])), np.cumsum(grown),
                 np.append(missing, missing[-1]) if gaps.any() else None)


def _between(power: Curve, times: I64) -> tuple[F64, Bools]:
    """(what the power integrates to in each interval, whether it is known in all of it)."""
    known = np.diff(power.unknown(times)) < 1
    known &= (times[:-1] >= power.times[0]) & (times[1:] <= power.times[-1])
    return np.diff(power.at(times)), known


def _compared(times: I64, grown: F64, fell: Bools, power: Curve, resolution: float) -> tuple[float | None, str]:
    """(growth over integral of the power, what is wrong with the counter)."""
    integral, known = _between(power, times)
    both = known & ~fell
    counted, expected = float(grown[both].sum()), float(integral[both].sum())
    if expected <= 0:
        return None, ""
    ratio = counted / expected
    if expected <= ENOUGH * max(1.0, resolution) or BELIEVED[0] <= ratio <= BELIEVED[1]:
        return ratio, ""
    return ratio, f"its counter grew by {counted:.0f} J while its power integrates to {expected:.0f} J"


def _filled(times: I64, values: F64, grown: F64, fell: Bools, power: Curve | None) -> tuple[F64, F64 | None]:
    """(growth, time of which nothing is known) with the intervals in which the counter began anew filled: by the power,
    else by the new value, which is at most what it has counted since, if the meter's mean power allows so much."""
    steps = np.diff(times)
    whole = float(steps[~fell].sum())
    least = np.maximum(values[1:], 0.0)
    if whole:
        least = np.minimum(least, float(grown[~fell].sum()) / whole * steps)
    known = np.zeros(len(grown), dtype=bool)
    out = np.where(fell, least, grown)
    if power is not None:
        integral, known = _between(power, times)
        out = np.where(fell & known, integral, out)
    lost = fell & ~known
    return out, np.concatenate(([0.0], np.cumsum(np.where(lost, steps, 0)))) if lost.any() else None


def _continued(curve: Curve, power: Curve | None, stamped: bool) -> Curve:
    """With up to a second before and after: by the power, else, of a counter whose own stamps lag behind the samples,
    as it went on from there. A counter without either was read at the run's own edges. One that is read less often than
    the power is continued by that to its end."""
    times = curve.times
    first, last = int(times[0]), int(times[-1])
    early = _beyond(curve, power, stamped, first - BEYOND, first)
    late = _beyond(curve, power, stamped, last, last + BEYOND)
    if power is not None and power.times[0] <= last < power.times[-1] - 2 * BEYOND:
        after = power.times[power.times > last]
        edges = np.append(last, after)
        more, unknown = power.at(edges)[1:] - power.at(edges)[0], np.diff(power.unknown(edges))
        known = np.zeros(len(times)) if curve.missing is None else curve.missing
        curve = Curve(np.append(times, after), np.append(curve.joules, curve.joules[-1] + more),
                      np.append(known, known[-1] + np.cumsum(unknown)))
        times, late = curve.times, None
    joules, missing = curve.joules, curve.missing
    if early is not None:
        times, joules = np.append(first - BEYOND, times), np.append(0.0, joules + early)
        missing = None if missing is None else np.append(0.0, missing)
    if late is not None:
        times, joules = np.append(times, last + BEYOND), np.append(joules, joules[-1] + late)
        missing = None if missing is None else np.append(missing, missing[-1])
    return Curve(times, joules, missing)


def _beyond(curve: Curve, power: Curve | None, stamped: bool, begin: int, end: int) -> float | None:
    if power is not None and power.covered(begin, end) >= end - begin - 1:
        return float(np.diff(power.at(np.array([begin, end])))[0])
    if not stamped:
        return None
    edge = [end, end + BEYOND] if end == curve.times[0] else [begin - BEYOND, begin]
    near = np.clip(np.array(edge), curve.times[0], curve.times[-1])
    steps = int(near[1] - near[0])
    grown = float(np.diff(curve.at(near))[0])
    return grown * (end - begin) / steps if steps else None
