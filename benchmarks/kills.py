"""kill -9 of launcher, collector, daemon or command at random moments: is the run still all there?

A trial starts a run that logs a time stamp every 10 ms and samples every 0.2 s, kills one process, waits for the
archive (or makes it by `yprov stitch`, as a user would) and checks it: valid, the true state, and nothing missing that
is older than two seconds before the kill. `python benchmarks/kills.py [N]` does N trials (50) and prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

YPROV = [sys.executable, "-m", "yprov.cli"]
ROLES = ("launcher", "collector", "daemon", "command")
SCRIPT = """
import pathlib, time, yprov
pathlib.Path("began").touch()
with yprov.context("training"):
    for i in range(250):
        yprov.log_metric("t", time.time(), step=i)
        time.sleep(0.01)
pathlib.Path("done").touch()
"""
OLD_S = 2.0
INTERVAL_S = 0.2


def _victim(role: str, launcher: int, folder: Path) -> int | None:
    """The process to kill: the launcher's child of that role, while it is there."""
    wanted = {"collector": b"\0collect\0", "daemon": b"\0node\0", "command": b"\0-c\0"}
    if role == "launcher":
        return launcher
    for pid in subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True,
                              check=False).stdout.split():
        with contextlib.suppress(OSError):
            if wanted[role] in Path("/proc", pid, "cmdline").read_bytes():
                return int(pid)
    return None


def trial(role: str, moment_s: float, folder: Path) -> dict[str, Any]:
    """One kill, `moment_s` after `yprov run` was started in the empty `folder`. Blocks until all is over."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("YPROV_")}
    began = time.monotonic()
    with open(folder / "output", "wb") as output:
        run = subprocess.Popen([*YPROV, "run", "--interval", str(INTERVAL_S), "--", sys.executable, "-c", SCRIPT],
                               cwd=folder, stdout=output, stderr=output, env=environ)
    time.sleep(max(0.0, moment_s - (time.monotonic() - began)))
    had_begun, was_done = (folder / "began").exists(), (folder / "done").exists()
    victim = _victim(role, run.pid, folder)
    killed_at = time.time()
    if victim is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    status = run.wait(120)
    result: dict[str, Any] = {"role": role, "moment_s": round(moment_s, 3), "hit": victim is not None, "status": status}
    runs = list((folder / "yprov-runs").glob("*")) if (folder / "yprov-runs").is_dir() else []
    if not runs or not (runs[0] / "run.json").exists():
        return {**result, "ok": not had_begun, "why": "killed before there was a run"}
    run_dir = runs[0]
    runtime = Path(json.loads((run_dir / "run.json").read_text())["runtime_dir"])
    if not _wait(lambda: not _about(run_dir), 60):
        return {**result, "ok": False, "why": f"left behind: {_about(run_dir)}"}
    by_itself = (run_dir / "prov.json").exists()
    stitched = _yprov("stitch", run_dir, environ)
    valid = _yprov("validate", run_dir, environ)
    if stitched.returncode or valid.returncode:
        return {**result, "ok": False, "why": (stitched.stderr + valid.stdout + valid.stderr).strip()}
    found = subprocess.run([*YPROV, "show", "--json", str(run_dir)], capture_output=True, env=environ, check=True)
    state = json.loads(found.stdout)["state"]
    truth = {"completed"}
    if victim is not None and role == "command":
        truth = {"killed"} | ({"completed"} if was_done else set())
    elif victim is not None and role == "launcher":
        truth = {"completed", "killed"} if was_done else {"killed"}
    missing = _missing(run_dir, killed_at, cut=role in ("launcher", "command"), had_begun=had_begun)
    left = "a runtime directory is left" if runtime.exists() else ""
    why = "; ".join(filter(None, [missing, left, "" if state in truth else f"state {state}, true is {truth}"]))
    return {**result, "ok": not why, "state": state, "by_itself": by_itself, "why": why}


def _yprov(word: str, run_dir: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*YPROV, word, str(run_dir)], capture_output=True, text=True, env=environ, check=False)


def _about(run_dir: Path) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                stat = Path("/proc", entry, "stat").read_bytes()
                if stat[stat.rfind(b")") + 2:][:1] != b"Z" and (
                        str(run_dir).encode() in Path("/proc", entry, "cmdline").read_bytes()
                        or str(run_dir).encode() in Path("/proc", entry, "environ").read_bytes()):
                    found.append(entry)
    return found


def _wait(condition: Any, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _missing(run_dir: Path, killed_at: float, *, cut: bool, had_begun: bool) -> str:
    """What should be in the archive and is not. `cut`: the kill ended the data; else they go on behind it."""
    import numpy as np
    import xarray as xr

    if had_begun:
        try:
            with xr.open_zarr(run_dir / "series.zarr", group="metrics/training", consolidated=False) as ds:
                steps, times = ds["step"].values.astype(int), ds["t"].values
        except (FileNotFoundError, KeyError):
            steps, times = np.zeros(0, int), np.zeros(0)
        expected = range(250) if not cut else range(steps.max() + 1 if len(steps) else 0)
        if sorted(steps) != list(expected):
            return f"{len(expected)} metrics expected, {len(steps)} there"
        if cut and len(times) and times.max() < killed_at - OLD_S and len(times) < 250:
            return f"metrics end {killed_at - times.max():.2f} s before the kill"
    try:
        with xr.open_zarr(run_dir / "series.zarr", group="host", consolidated=False) as ds:
            memory = ds["memory_usage"].values[0]
            seconds = ds["time"].values.astype("datetime64[ns]").astype(np.int64) / 1e9
    except (FileNotFoundError, KeyError):
        return "" if not had_begun else "no samples at all"
    old = seconds < killed_at - OLD_S
    if np.isnan(memory[old][1:]).any():
        return f"{int(np.isnan(memory[old]).sum())} old samples are missing"
    if not cut and had_begun and np.isnan(memory[seconds > killed_at + OLD_S][:-1]).any():
        return "samples after the daemon was started again are missing"
    return ""


def main(trials: int = 50, seed: int = 1) -> dict[str, Any]:
    rng = random.Random(seed)
    results = []
    for i in range(trials):
        result: dict[str, Any] = {"hit": False, "ok": True}
        while result["ok"] and not result["hit"]:  # there was nothing to kill at that moment
            with tempfile.TemporaryDirectory(prefix="yprov-kill-") as folder:
                result = trial(ROLES[i % len(ROLES)], rng.uniform(0.05, 3.6), Path(folder))
        results.append(result)
        print(f"{i + 1}/{trials} {results[-1]}", file=sys.stderr)
    failures = [r for r in results if not r["ok"]]
    return {"trials": trials, "ok": trials - len(failures), "failures": failures,
            "by_itself": sum(bool(r.get("by_itself")) for r in results)}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50), indent=1))
