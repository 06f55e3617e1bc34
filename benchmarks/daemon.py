"""What the daemons cost the node."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Peer, Row, Spread, children, cpu_ns, folder, memory_bytes, started, times, under_yprov
from benchmarks.environments import Missing, python, version

SETTLE_S = 3.0


def _watch(pids: dict[str, int], seconds: float) -> dict[str, dict[str, float]]:
    """CPU of each process in % of one core, and its memory, over the next `seconds`."""
    began, before = time.monotonic(), {name: cpu_ns(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    took = time.monotonic() - began
    out = {}
    for name, pid in pids.items():
        rss, pss = memory_bytes(pid)
        out[name] = {"cpu": (cpu_ns(pid) - before[name]) / 1e9 / took * 100, "rss": rss / 1e6, "pss": pss / 1e6}
    return out


def watched(
    interval_s: float, seconds: float, repeats: int, options: Sequence[str] = ()
) -> list[dict[str, dict[str, float]]]:
    """`_watch` of a run's three processes, `repeats` times after each other."""
    with folder() as cwd:
        argv = under_yprov(["--interval", str(interval_s), *options], ["sleep", str(seconds * repeats + SETTLE_S + 60)])
        with started(argv, cwd) as run:
            time.sleep(SETTLE_S)
            pids = {"launcher": run.pid}
            for pid, words in children(run.pid).items():
                role = re.search(r"-m yprovd (node|collect) ", words)
                if role:
                    pids[role[1]] = pid
            if set(pids) != {"launcher", "node", "collect"}:
                raise RuntimeError(f"of the launcher, the node daemon and the collector only {sorted(pids)} run")
            return [_watch(pids, seconds) for _ in range(repeats)]


def _duct(interval_s: float, seconds: float) -> dict[str, float]:
    duct = str(python("con-duct").with_name("con-duct"))
    with folder() as cwd:
        argv = [duct, "run", "-q", "-p", f"{cwd}/duct_", "--sample-interval", str(interval_s),
                "--report-interval", str(max(1.0, 10 * interval_s)), "sleep", str(seconds + 60)]
        with started(argv, cwd) as run:
            time.sleep(SETTLE_S)
            began, before = time.monotonic(), _family_cpu_ns(run.pid)
            time.sleep(seconds)
            used, took = _family_cpu_ns(run.pid) - before, time.monotonic() - began
            rss, pss = memory_bytes(run.pid)
            for pid, words in children(run.pid).items():
                if words.startswith("sleep "):
                    os.kill(pid, signal.SIGTERM)  # it ends when its command does
            run.wait(30)
    return {"cpu": used / 1e9 / took * 100, "rss": rss / 1e6, "pss": pss / 1e6}


def _family_cpu_ns(pid: int) -> int:
    """Its own CPU time, and that of the processes that it started and waited for."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    fields = stat[stat.rfind(b")") + 2:].split()
    return cpu_ns(pid) + (int(fields[13]) + int(fields[14])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def daemon_cost(quick: bool) -> list[Row]:
    """CPU time of the node daemon (the kernel's account of all its threads, in ns) while `yprov run -- sleep` runs
    with every sensor that this host has, in % of one core, at 1 Hz and at 10 Hz; three windows of 20 s (quick: of 5 s)
    after a pause of 3 s. Its memory at the end: resident, and proportional (shared pages divided). The collector and
    the launcher beside it. con-duct alike, with the `ps` that it starts for every sample."""
    seconds, repeats = (5.0, 3) if quick else (20.0, 3)
    rows = []
    for hertz, bar in ((1, 0.2), (10, 2.0)):
        windows = watched(1 / hertz, seconds, repeats)
        cpu = {role: Spread([w[role]["cpu"] for w in windows]) for role in windows[0]}
        last = windows[-1]
        cpu_peers, memory_peers = [], []
        try:
            theirs = _duct(1 / hertz, seconds)
            name = f"con-duct {version('con-duct', 'con-duct')}, no host sensors"
            cpu_peers.append(Peer(name, f"{theirs['cpu']:.2f} %", times(theirs["cpu"], cpu["node"].median)))
            memory_peers.append(Peer(name, f"{theirs['rss']:.1f} MB, proportional {theirs['pss']:.1f}",
                                     times(theirs["rss"], last["node"]["rss"])))
        except (Missing, RuntimeError) as e:
            cpu_peers.append(Peer("con-duct", str(e)))
        rows.append(Row(
            f"node daemon, {hertz} Hz, CPU of one core",
            f"{cpu['node'].text('%', digits=3)}; collector {cpu['collect'].median:.3f}, "
            f"launcher {cpu['launcher'].median:.3f}",
            f"<= {bar:g} %", cpu["node"].median <= bar, cpu_peers, {"windows": windows}))
        rows.append(Row(
            f"node daemon, {hertz} Hz, memory",
            f"{last['node']['rss']:.1f} MB, proportional {last['node']['pss']:.1f}; collector "
            f"{last['collect']['rss']:.1f}, launcher {last['launcher']['rss']:.1f}",
            "<= 25 MB", last["node"]["rss"] <= 25, memory_peers))
    return rows
