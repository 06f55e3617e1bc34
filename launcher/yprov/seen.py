"""What a number did while it was looked at: how often and by how much it changed; and an energy counter beside its own
power. Pure: they are told what was read, and when (monotonic seconds)."""

from __future__ import annotations

import math
import statistics
from array import array
from bisect import bisect_right
from collections.abc import Sequence

from yprovd.model import Metric

#: Kept of each number: different values, and times between changes.
DISTINCT, INTERVALS = 1000, 20000
#: Without a power for longer than this, nothing is integrated: a driver that reads dear values seldom does not matter.
GAP_S = 2.0
#: Intervals that tell how often a number changes.
ENOUGH = 5


class Seen:
    """What one number did while it was looked at.

    `step`: the smallest change, in the metric's unit. `update_s`: median time between changes; `looked_s`: median time
    between looks, below which it cannot tell. Of a metric of kind `time`, `lags`: how old the stamps were, seconds, and
    `strides`: from one to the next.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.reads = self.absent = self.changes = self.backward = 0
        self.first = self.last = self.min = self.max = self.step = math.nan
        self.values: set[float] = set()
        self.lags, self.strides = array("d"), array("d")
        self._intervals = array("d")
        self._looks = array("d")
        self._looked = self._changed = math.nan
        self._told = False  # the intervals are known already

    def take(self, at_s: float, value: float) -> None:
        self.reads += 1
        if value != value:
            self.absent += 1
            return
        if self._looked == self._looked and len(self._looks) < INTERVALS and not self._told:
            self._looks.append(at_s - self._looked)
        self._looked = at_s
        if len(self.values) < DISTINCT:
            self.values.add(value)
        if self.metric.kind == "time" and len(self.lags) < INTERVALS:
            self.lags.append(at_s - value)
        if self.last == self.last:
            self._compare(at_s, value)
        else:
            self.first = self.min = self.max = value
        self.last = value
        self.min, self.max = min(self.min, value), max(self.max, value)

    def _compare(self, at_s: float, value: float) -> None:
        step = abs(value - self.last)
        if not step:
            return
        self.changes += 1
        if self.metric.kind == "time" and len(self.strides) < INTERVALS:
            self.strides.append(value - self.last)
        self.backward += value < self.last
        self.step = step if self.step != self.step else min(self.step, step)
        if self._changed == self._changed and len(self._intervals) < INTERVALS and not self._told:
            self._intervals.append(at_s - self._changed)
        self._changed = at_s

    def slower(self) -> None:
        """From now on it is looked at more seldom: the intervals seen so far stay if they are enough to tell."""
        self._looked = self._changed = math.nan
        self._told = len(self._intervals) >= ENOUGH
        if not self._told:
            self._intervals, self._looks = array("d"), array("d")

    @property
    def update_s(self) -> float:
        return statistics.median(self._intervals) if self._intervals else math.nan

    @property
    def looked_s(self) -> float:
        return statistics.median(self._looks) if self._looks else math.nan


class Meter:
    """The energy counter of a device against its own power, integrated over the same time.

    From the first change of the counter to its last: by its own time stamps where it has them, else by when the change
    was seen.
    """

    def __init__(self, energy: int, power: int, stamp: int) -> None:
        self.at = (energy, power, stamp)
        self.resets = 0
        self._curve: list[tuple[float, float]] = []  # when, joules integrated until then
        self._watts = self._last = math.nan
        self._edges: list[tuple[float, float]] = []  # joules of the counter, integrated joules: first and last change
        self._since = self._until = math.nan

    def take(self, at_s: float, values: Sequence[float]) -> None:
        energy, power, stamp = (values[i] if i >= 0 else math.nan for i in self.at)
        if power == power:
            self._integrate(at_s, power)
        if energy == energy and self._curve:
            self._compare(at_s, energy, stamp)

    def _integrate(self, at_s: float, power: float) -> None:
        before, joules = self._curve[-1] if self._curve else (at_s, 0.0)
        if at_s - before > GAP_S:
            self.pause()
            joules = 0.0
        elif self._curve:
            joules += (at_s - before) * (power + self._watts) / 2
        self._curve.append((at_s, joules))
        del self._curve[:-200]
        self._watts = power

    def _compare(self, at_s: float, energy: float, stamp: float) -> None:
        if energy < self._last:
            self.resets += 1
            self.pause()
        elif energy > self._last:
            when = stamp if stamp == stamp else at_s
            edge = (energy, self._integrated(when))
            if self._edges:
                self._edges[1:] = [edge]
                self._until = when
            else:
                self._edges, self._since = [edge], when
        self._last = energy

    def _integrated(self, when: float) -> float:
        """Joules until then, by the curve of the last reads; beyond them it goes on as it did."""
        if len(self._curve) < 2:
            return self._curve[-1][1]
        i = max(1, min(bisect_right(self._curve, when, key=lambda p: p[0]), len(self._curve) - 1))
        (a, low), (b, high) = self._curve[i - 1], self._curve[i]
        return low + (high - low) * (when - a) / (b - a) if b > a else high

    def pause(self) -> None:
        """What follows is a new window; only the last one counts."""
        self._curve, self._edges = [], []
        self._watts = self._last = self._since = self._until = math.nan

    def result(self) -> tuple[float, float, float]:
        """(seconds, joules of the counter, joules of the integrated power), NaN where it did not change twice."""
        if len(self._edges) < 2:
            return math.nan, math.nan, math.nan
        (first, begun), (last, ended) = self._edges
        return self._until - self._since, last - first, ended - begun


def meters_of(metrics: Sequence[Metric]) -> list[Meter]:
    """One for each device with an energy counter and a power."""
    at = {(m.device and (m.device.cls, m.device.id), m.name): i for i, m in enumerate(metrics)}
    out = []
    for (device, name), i in at.items():
        power = at.get((device, "hw.power"), at.get((device, "hw.power.average"), -1))
        if name == "hw.energy" and power >= 0:
            out.append(Meter(i, power, at.get((device, "hw.energy.time"), -1)))
    return out
