"""What is kept of a flood of events: when the program ends, and when it is killed with SIGKILL."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import INSIDE, Row, Spread, environ, folder, only_run, record_of, under_yprov, wait_for

RATE = 50_000
THREADS = 8
#: What a kill may cost: the last quarter of a second.
TAIL_S = 0.25


def _trial(seconds: float, kill_after_s: float | None) -> dict[str, Any]:
    with folder() as cwd:
        command = [sys.executable, INSIDE / "eight_threads.py", str(RATE), str(seconds), cwd]
        argv = under_yprov(["--keep-spool"], command)
        run = subprocess.Popen(argv, cwd=cwd, env=environ(), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        killed_ns = None
        try:
            wait_for(cwd / "pid")
            if kill_after_s is not None:
                time.sleep(kill_after_s)
                killed_ns = time.monotonic_ns()
                os.kill(int((cwd / "pid").read_text()), signal.SIGKILL)
            status = run.wait(300)
        finally:
            if run.poll() is None:
                run.kill()
                run.wait()
        return _judge(cwd, status, killed_ns)


def _judge(cwd: Path, status: int, killed_ns: int | None) -> dict[str, Any]:
    record = record_of(only_run(cwd))
    (process,) = record.processes
    names = {i: key[0] for i, key in enumerate(record.metrics.keys)}
    logged = late = begun_ns = 0
    kept_of = dict.fromkeys(names.values(), 0)
    whole = True
    for key, name in names.items():
        steps = record.metrics.step[record.metrics.key == key]
        kept_of[name] = len(steps)
        whole = whole and sorted(steps) == list(range(len(steps)))  # nothing missing in the middle, nothing twice
    oldest_lost_ns = killed_ns or 0
    rate_at = []
    for thread in range(THREADS):
        pairs = [p for p in struct.iter_unpack("<qq", (cwd / str(thread)).read_bytes()) if p[0]]
        kept = kept_of.get(f"thread{thread}", 0)
        logged += max(pairs[-1][1], kept)  # after the last pair a thread may have logged, and sent, a few more
        begun_ns = begun_ns or pairs[0][0]
        rate_at.append(pairs[-1][1] / ((pairs[-1][0] - pairs[0][0]) / 1e9))
        if killed_ns is not None:
            safe = max((n for t, n in pairs if t <= killed_ns - int(TAIL_S * 1e9)), default=0)
            late += max(0, safe - kept)
            lost = [t for t, n in pairs if n > kept]
            oldest_lost_ns = min([oldest_lost_ns, *lost])
    return {"status": status, "logged": logged, "kept": sum(kept_of.values()), "whole": whole,
            "dropped": process.dropped, "said": process.logged, "old_lost": late, "rate": sum(rate_at),
            "tail_s": (killed_ns - oldest_lost_ns) / 1e9 if killed_ns else 0.0}


def flood(quick: bool) -> list[Row]:
    """Eight threads log 50,000 events/s together, paced, for 20 s. Ended in order: events logged less events in the
    spool. Killed with SIGKILL at a random moment of the last quarter: how old the oldest lost event was at the kill,
    by the program's own memory-mapped account of what it had logged when. Nothing older than 0.25 s may be lost,
    and nothing in between; `yprov run` must end by itself."""
    seconds, kills = (3.0, 2) if quick else (20.0, 3)
    normal = _trial(seconds, None)
    lost = normal["logged"] - normal["kept"]
    ok = lost == 0 and normal["whole"] and normal["dropped"] == 0 and normal["status"] == 0
    rows = [Row(
        f"events lost, {RATE:,}/s from {THREADS} threads for {seconds:.0f} s, normal end",
        f"{lost:,} of {normal['logged']:,} at {normal['rate']:,.0f}/s", "0", ok, raw=normal)]
    rng = random.Random(1)
    trials = [_trial(seconds, seconds * rng.uniform(0.75, 0.98)) for _ in range(kills)]
    old = sum(t["old_lost"] for t in trials)
    whole = all(t["whole"] and t["status"] == 128 + signal.SIGKILL for t in trials)
    tail = Spread([t["tail_s"] for t in trials])
    share = Spread([t["kept"] / t["logged"] for t in trials])
    rows.append(Row(
        "the same, killed with SIGKILL: age of the oldest lost event",
        f"{tail.text('s', digits=3)}; kept {share.text('%', 100, 2)}"
        + (f"; {old:,} OLDER ONES LOST" if old else "") + ("" if whole else "; NOT WHOLE"),
        f"<= {TAIL_S} s", not old and whole and max(tail.values) <= TAIL_S, raw={"trials": trials}))
    return rows
