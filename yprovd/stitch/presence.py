"""Which nodes were to be watched, which were heard, and where one fell silent while others went on. Pure.

A gap that all nodes share is none of a node's (the job was suspended), and neither are samples that arrived late: what
counts is when they were taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from yprovd.processes import short_name
from yprovd.stitch.document import time_of
from yprovd.stitch.facts import host_list, part
from yprovd.stitch.record import I64, Record

#: A node is silent after so many intervals without a sample, and not before so many seconds.
INTERVALS, SECONDS = 5, 5.0
_MOST_SLOTS = 1 << 22


@dataclass(frozen=True)
class Dark:
    """One stretch of one node. `from_ns`, `to_ns`: wall clock; None: from the beginning, to the end. Both None: never
    heard, for the `reason`."""

    host: str
    from_ns: int | None = None
    to_ns: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Presence:
    """`expected`: the nodes on which daemons were to run, empty where that was this machine only."""

    expected: tuple[str, ...] = ()
    dark: tuple[Dark, ...] = ()

    @property
    def dark_hosts(self) -> list[str]:
        return sorted({d.host for d in self.dark})

    def lines(self) -> list[str]:
        """`n[3-4]: no daemon was heard`, `n2: no samples from 12:00:31Z to the end`; equal ones are one line."""
        hosts: dict[str, list[str]] = {}
        for d in self.dark:
            if d.reason:
                text = d.reason
            else:
                begin = "the beginning" if d.from_ns is None else _text(d.from_ns)
                end = "the end" if d.to_ns is None else _text(d.to_ns)
                text = f"no samples from {begin} to {end}"
            hosts.setdefault(text, []).append(d.host)
        return [f"{host_list(names)}: {text}" for text, names in hosts.items()]


def _text(ns: int) -> str:
    return time_of(ns).isoformat(timespec="seconds").replace("+00:00", "Z")


def presence_of(record: Record, begin_ns: int, end_ns: int) -> Presence:
    """`begin_ns`, `end_ns`: of the run. O(samples)."""
    daemons, config = part(record.run, "daemons"), part(record.run, "config")
    expected = _names(daemons.get("expected")) or _names(config.get("nodes"))
    ready = _names(daemons.get("ready"))
    dark = [Dark(host, reason="its daemon was there at the start, and nothing of it arrived" if host in ready
                 else "no daemon was heard") for host in never_heard(record)]
    return Presence(tuple(sorted(set(expected))), tuple(dark + _silent(record, begin_ns, end_ns)))


def never_heard(record: Record) -> list[str]:
    """The nodes on which daemons were to run and of which nothing is in the record, sorted."""
    daemons, config = part(record.run, "daemons"), part(record.run, "config")
    expected = set(_names(daemons.get("expected")) or _names(config.get("nodes")))
    heard = {short_name(n.host) for n in record.nodes}
    silent = [host for host in sorted(expected) if short_name(host) not in heard]
    if heard and len(silent) == len(expected):  # this scheduler's names are not those that the hosts have
        silent = [host for host in silent if host in _names(daemons.get("dark"))]
    return silent


def _names(value: object) -> list[str]:
    return [str(v) for v in value if v != "*"] if isinstance(value, (list, tuple)) else []


def _silent(record: Record, begin_ns: int, end_ns: int) -> list[Dark]:
    """Stretches without a sample on one node, during which another one had some."""
    times: dict[str, list[I64]] = {}
    interval = 0
    for node in record.nodes:
        times.setdefault(node.host, []).extend(s.wall_ns for s in node.samples if len(s.wall_ns))
        interval = max([interval, *(s.schema.interval_ns for s in node.samples)])
    if len(times) < 2 or not any(times.values()):
        return []
    longest = max(round(SECONDS * 1e9), INTERVALS * interval)
    out: list[Dark] = [Dark(h, reason="its daemon was heard, and took no samples") for h, ts in times.items() if not ts]
    gaps: list[tuple[str, int, int]] = []
    sampled = {host: _sorted(parts) for host, parts in times.items() if parts}
    last = min(end_ns or (1 << 62), max(int(t[-1]) for t in sampled.values()))
    first = max(begin_ns, min(int(t[0]) for t in sampled.values()))
    for host, t in sampled.items():
        if t[0] - first > longest:
            gaps.append((host, first, int(t[0])))
        gaps += [(host, int(t[i]), int(t[i + 1])) for i in np.flatnonzero(np.diff(t) > longest)]
        if last - t[-1] > longest:
            gaps.append((host, int(t[-1]), last))
    if not gaps:
        return out
    present = _Coverage(sampled.values(), first, last, max(interval, 1))
    for host, begin, end in gaps:
        if present.anywhere(begin + longest // 2, end - longest // 4):
            ts = sampled[host]
            out.append(Dark(host, None if begin < ts[0] else begin, None if end > ts[-1] else end))
    return out


def _sorted(parts: list[I64]) -> I64:
    joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return joined if bool(np.all(joined[1:] >= joined[:-1])) else np.sort(joined)


class _Coverage:
    """Whether any node has a sample in a stretch of time: how many slots with a sample lie before each slot."""

    def __init__(self, times: Iterable[I64], first: int, last: int, interval: int) -> None:
        self._first = first
        self._step = max(interval, (last - first) // _MOST_SLOTS + 1)
        slots = np.zeros((last - first) // self._step + 1, dtype=bool)
        for t in times:
            which = (t - first) // self._step
            slots[which[(which >= 0) & (which < len(slots))]] = True
        self._before = np.concatenate(([0], np.cumsum(slots)))

    def anywhere(self, begin: int, end: int) -> bool:
        most = len(self._before) - 1
        low, high = (min(max((ns - self._first) // self._step, 0), most) for ns in (begin, end))
        return bool(self._before[high] > self._before[low])
