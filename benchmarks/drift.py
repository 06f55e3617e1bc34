"""Whether the schedule keeps time."""

from __future__ import annotations

import random

from benchmarks.common import Peer, Row, call, folder, only_run, record_of, under_yprov
from yprovd.clock import Ticker

S = 1_000_000_000


class Simulated:
    """A clock that only moves when somebody waits, wakes up late by up to 2 ms, and at times by 30 ms."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * S + 123_456_789
        self.rng = random.Random(1)

    def wall_ns(self) -> int:
        return self.now

    mono_ns = wall_ns

    def wait(self, ns: int) -> None:
        self.now += ns + int(self.rng.uniform(20_000, 30_000_000 if self.rng.random() < 0.01 else 2_000_000))


def drift(quick: bool) -> list[Row]:
    """Ten minutes at 10 Hz on a simulated clock that wakes late: how far the last sample is from where 10 Hz puts it,
    in % of the ten minutes; a loop that sleeps for the interval on the same clock beside it. Then 20 s (quick: 5 s)
    for real, at 10 Hz, under `yprov run`: how far each sample's own time stamp is from its tick, without the first and
    the last sample, which are taken at once and not at a tick."""
    interval, ticks = S // 10, 6000
    clock = Simulated()
    ticker = Ticker(interval, clock)
    taken = []
    while len(taken) < ticks:
        wait = ticker.wait_ns()
        if wait:
            clock.wait(wait)
        else:
            taken.append((ticker.take(), clock.now))
    nominal = [t - taken[0][0] for t, _ in taken]
    exact = nominal == [i * interval for i in range(ticks)] and ticker.missed == 0
    off = ((nominal[-1] - (ticks - 1) * interval) / ((ticks - 1) * interval)) * 100
    late = max(now - t for t, now in taken) / 1e6
    naive = Simulated()
    start = naive.now
    for _ in range(ticks - 1):
        naive.wait(interval)
    naive_off = (naive.now - start - (ticks - 1) * interval) / ((ticks - 1) * interval) * 100
    rows = [Row(
        "drift over 10 min at 10 Hz, simulated clock",
        f"{off:.2f} %, {ticks:,} of {ticks:,} ticks on the grid, latest {late:.1f} ms late", "0.00 %",
        exact and off == 0, [Peer("a loop that sleeps for the interval", f"{naive_off:.2f} %")],
        {"drift_percent": off, "naive_percent": naive_off, "latest_ms": late})]

    import numpy as np

    seconds = 5 if quick else 20
    with folder() as cwd:
        call(under_yprov(["--interval", "0.1", "--keep-spool"], ["sleep", str(seconds)]), cwd)
        (node,) = record_of(only_run(cwd)).nodes
    (samples,) = node.samples
    offsets = (samples.wall_ns - samples.nominal_ns)[1:-1] / 1e6
    gaps = np.diff(samples.nominal_ns[1:-1])
    missed = int((gaps // interval - 1).sum())
    slope = float(np.polyfit(samples.nominal_ns[1:-1] - samples.nominal_ns[1], offsets * 1e6, 1)[0]) * 100
    rows.append(Row(
        f"the same for real, {seconds} s: sample from its tick",
        f"median {np.median(np.abs(offsets)):.2f} ms, at most {np.abs(offsets).max():.2f} ms; {missed} of "
        f"{len(offsets) + missed} ticks missed; drift {abs(slope):.4f} %",
        "0.00 %", abs(slope) < 0.005 and missed == 0,
        raw={"offsets_ms": offsets.tolist(), "missed": missed, "slope_percent": slope}))
    return rows
