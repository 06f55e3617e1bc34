"""The cases of `tests/slurm/endings.py`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.running import attribute, document, eventually
from tests.slurm.configuration import CTL
from tests.slurm.conftest import ROOTFS
from tests.slurm.endings import Case, Trial

COMPLETED, CANCELLED, FAILED, TIMEOUT, NODE_FAIL = (
    ("completed",), ("cancelled",), ("failed",), ("timeout",), ("node_fail",))
STRAY = ("USR1", "USR2", "HUP", "INT", "TSTP", "CONT")


def _go(trial: Trial) -> None:
    trial.go()


def _nothing(_trial: Trial) -> None:
    pass


def _scancel(*arguments: str) -> Callable[[Trial], None]:
    return lambda trial: trial.scancel(*arguments)


# --- what happens while it runs

def _signal_then_go(*arguments: str) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        trial.scancel(*arguments)
        eventually(lambda: len(_got(trial)) == 2, 10, f"{trial.case.name}: both ranks get the signal")
        trial.go()
    return act


def _got(trial: Trial) -> list[Path]:
    return list(trial.directory.glob("got-0-*"))


def _requeue(trial: Trial) -> None:
    trial.cluster.exec(CTL, ["scontrol", "requeue", str(trial.job)], check=True)


def _suspend(trial: Trial) -> None:
    trial.cluster.exec(CTL, ["scontrol", "suspend", str(trial.job)], check=True)
    eventually(lambda: trial.shown().get("JobState") == "SUSPENDED", 10)
    time.sleep(8.0)
    trial.cluster.exec(CTL, ["scontrol", "resume", str(trial.job)], check=True)
    _some_more(trial)
    trial.go()


def _some_more(trial: Trial, beats: int = 40) -> None:
    """Until every rank has gone on for so long."""
    wanted = [trial.alive(rank)[2] + beats for rank in range(trial.case.nodes)]
    eventually(lambda: all(trial.alive(r)[2] >= n for r, n in enumerate(wanted)), 60, "the ranks go on")


def _kill(name: str, which: int = 0, *, back: str = "") -> Callable[[Trial], None]:
    """SIGKILL one of our processes on the job's node of this number; another with the same name comes back."""
    def act(trial: Trial) -> None:
        old = trial.kill(name, trial.nodes[which])
        if back:
            eventually(lambda: [p for p in trial.ours(back, trial.nodes[which]) if p.pid != old], 20,
                       f"{trial.case.name}: another {back}")
        _some_more(trial)
        trial.go()
    return act


def _kill_launcher(trial: Trial) -> None:
    trial.kill("yprov", trial.nodes[0])
    eventually((trial.directory / "status").exists, 20, "the batch script goes on")


def _kill_launcher_and_script(trial: Trial) -> None:
    trial.kill("yprov", trial.nodes[0])


def _kill_batch_shell(trial: Trial) -> None:
    shell = [p for p in trial.cluster.processes(f"SLURM_JOB_ID={trial.job}\0") if p.command.startswith("/bin/bash")
             and "slurm_script" in p.command]
    os.kill(shell[0].pid, signal.SIGKILL)


def _leave(trial: Trial) -> None:
    (trial.directory / "leave").touch()


def _stray(trial: Trial) -> None:
    steps = trial.cluster.exec(CTL, ["squeue", "-h", "-s", "-o", "%i %j", f"--jobs={trial.job}"]).stdout.split("\n")
    ours = next(line.split()[0] for line in steps if line.endswith(" yprovd"))
    for name in STRAY:
        trial.cluster.scancel("-s", name, ours)
        time.sleep(0.3)
    _some_more(trial)
    trial.go()


# --- what is true afterwards besides

def _had_its_time(trial: Trial) -> Sequence[str]:
    """Ranks that use the whole time between SIGTERM and SIGKILL have it."""
    out = []
    for rank in range(trial.case.nodes):
        lines = (trial.directory / f"got-0-{rank}").read_text().splitlines()
        asked = next(float(line.split()[1]) for line in lines if line.startswith("SIGTERM"))
        lasted = trial.alive(rank)[1] - asked
        if lasted < trial.cluster.settings.kill_wait - 0.6:
            out.append(f"rank {rank} had {lasted:.1f} s after SIGTERM")
    return out


def _linked(trial: Trial) -> Sequence[str]:
    """The second attempt names the first."""
    first = document(trial.run_dir(0))["activity"]["run"]
    doc = document(trial.run_dir(1))
    links = [r for r in doc.get("wasInformedBy", {}).values() if r.get("prov:informed") == "run:run"]
    out = []
    if not links:
        out.append("the second attempt was not informed by the first")
    if trial.shown().get("Restarts") != "1":
        out.append(f"Restarts={trial.shown().get('Restarts')}")
    if str(attribute(doc["activity"]["run"], "attempt")) != "1" or str(attribute(first, "attempt")) != "0":
        out.append("attempts are not 0 and 1")
    return out


def _clean_exit(trial: Trial) -> Sequence[str]:
    derived = trial.cluster.jobs(trial.job)[0].get("DerivedExitCode", "")
    return [f"DerivedExitCode={derived}"] if derived not in ("", "0:0") else []


def _went_on(trial: Trial) -> Sequence[str]:
    return [] if (trial.directory / "went-on").exists() else ["the batch script did not go on"]


def _dark_named(trial: Trial) -> Sequence[str]:
    dark = str(attribute(document(trial.run_dir())["entity"]["nodes"], "dark"))
    return [] if dark == trial.nodes[1] else [f"dark: {dark}"]


GONE = {"job": ("CANCELLED",), "state": CANCELLED}

# Slurm looks every 30 s, and sends the signal of `--signal` when the next look may be too late: with @10 it comes 20 s
# after the job's start at the earliest, when there are ranks that take it.
#: Beside each other on one cluster.
CASES = [
    Case("walltime, USR1 to the steps", TIMEOUT, _nothing, mode="checkpoint", options=("-t1", "--signal=USR1@10"),
         job=("TIMEOUT",), exit="", after=_had_its_time, lucky=True),
    Case("exec, walltime, USR1 to the batch script", TIMEOUT, _nothing, form="exec",
         options=("-t1", "--signal=B:USR1@10"), job=("TIMEOUT",), exit=""),
    Case("trap, walltime", TIMEOUT, _nothing, form="trap", options=("-t1",), job=("TIMEOUT",), exit=""),
    Case("requeue", CANCELLED, _requeue, attempts=2, after=_linked, lucky=True),
    Case("success", COMPLETED, _go, after=_clean_exit),
    Case("exec, success", COMPLETED, _go, form="exec", after=_clean_exit),
    Case("a rank fails", FAILED, _go, mode="fail", job=("FAILED",), exit="3:0"),
    Case("a rank is out of memory", FAILED, _go, mode="oom", job=("FAILED", "OUT_OF_MEMORY"), exit=""),
    Case("exec, scancel", act=_scancel(), form="exec", exit="", **GONE),
    Case("child, scancel", act=_scancel(), exit="0:15", **GONE, lucky=True),
    Case("trap, scancel", act=_scancel(), form="trap", exit="", **GONE),
    Case("forward, scancel", act=_scancel(), form="forward", exit="", **GONE),
    Case("exec, scancel --full", act=_scancel("--full"), form="exec", exit="", **GONE),
    Case("child, scancel --full", act=_scancel("--full"), exit="0:15", **GONE, lucky=True),
    Case("trap, scancel --full", act=_scancel("--full"), form="trap", exit="", **GONE),
    Case("exec, scancel, ranks use their time", act=_scancel(), form="exec", mode="checkpoint", exit="",
         by_itself=False, clean=False, after=_had_its_time, **GONE),
    Case("child, scancel, ranks use their time", act=_scancel(), mode="checkpoint", exit="", by_itself=False,
         clean=False, after=_had_its_time, **GONE, lucky=True),
    Case("trap, scancel, ranks use their time", act=_scancel(), form="trap", mode="checkpoint", exit="",
         by_itself=False, clean=False, after=_had_its_time, **GONE),
    Case("scancel -s TERM", CANCELLED, _scancel("-s", "TERM"), job=("FAILED",), exit="143:0"),
    Case("exec, scancel -s TERM", CANCELLED, _scancel("-s", "TERM"), form="exec", job=("FAILED",), exit="143:0"),
    Case("scancel -s USR1", COMPLETED, _signal_then_go("-s", "USR1"), after=_clean_exit),
    Case("exec, scancel --batch -s USR1", COMPLETED, _signal_then_go("--batch", "-s", "USR1"), form="exec",
         after=_clean_exit),
    Case("child, scancel --batch -s USR1", ("failed", "killed"), _scancel("--batch", "-s", "USR1"), job=("FAILED",),
         exit="0:10", lucky=True),
    Case("exec, scancel -s TERM --full", CANCELLED, _scancel("-s", "TERM", "--full"), form="exec",
         job=("FAILED", "CANCELLED"), exit=""),
    Case("child, scancel -s TERM --full", ("failed", "killed", "cancelled"), _scancel("-s", "TERM", "--full"),
         job=("FAILED", "CANCELLED"), exit="0:15", lucky=True),
    Case("trap, scancel -s TERM --full", CANCELLED, _scancel("-s", "TERM", "--full"), form="trap",
         job=("FAILED", "CANCELLED"), exit=""),
    Case("suspend and resume", COMPLETED, _suspend, cut=True, after=_clean_exit),
    Case("stray signals to the daemons", COMPLETED, _stray, after=_clean_exit),
    Case("kill -9 of a node daemon", COMPLETED, _kill("yprov-node", 1, back="yprov-node"), cut=True,
         after=_clean_exit),
    Case("kill -9 of the collector", COMPLETED, _kill("yprov-collect", 0, back="yprov-collect"), after=_clean_exit),
    Case("kill -9 of the daemons' srun", COMPLETED, _kill("srun", 0), after=_clean_exit),
    Case("kill -9 of yprov run", ("killed",), _kill_launcher, form="bash goes on", after=_went_on, exit="0:0"),
    Case("kill -9 of yprov run, the script ends", ("killed",), _kill_launcher_and_script,
         form="bash ends", exit="0:0"),
    Case("kill -9 of the batch shell", ("failed", "killed"), _kill_batch_shell, job=("FAILED",), exit="0:9",
         lucky=True),
    Case("left behind by the batch script", ("cancelled", "killed"), _leave, form="left behind", lucky=True),
]


# --- each on a cluster of its own

def _crash(which: int, *, go: bool = False, wait_s: float = 0.0) -> Callable[[Trial], None]:
    """Power loss of a node of the job; with `go` the ranks that are left end well some seconds after it was noticed."""
    def act(trial: Trial) -> None:
        trial.cluster.crash(trial.nodes[which])
        if go:
            eventually(lambda: trial.nodes[which] not in trial.shown().get("NodeList", trial.nodes[which])
                       and not trial.shown().get("NodeList", "").endswith("]"), 60, "Slurm notices")
            time.sleep(wait_s)
            trial.go()
    return act


def _cut(which: int, seconds: float, *, go: bool) -> Callable[[Trial], None]:
    def act(trial: Trial) -> None:
        trial.cluster.link(trial.nodes[which], "down")
        time.sleep(seconds)
        trial.cluster.link(trial.nodes[which], "up")
        if go:
            _some_more(trial, 60)
            trial.go()
    return act


def _preempt(trial: Trial) -> None:
    urgent = trial.cluster.sbatch("sleep 1", "-N2", "--exclusive", "-p", "urgent", cwd=trial.directory)
    trial.cluster.wait(urgent, 40)
    trial.cluster.start_now(trial.job)


def _without_controller(trial: Trial) -> None:
    trial.cluster.slurmctld("stop")
    _some_more(trial, 60)
    trial.cluster.slurmctld("start")
    _some_more(trial)
    trial.go()


def _ends_without_controller(trial: Trial) -> None:
    trial.cluster.slurmctld("stop")
    trial.go()
    began = time.monotonic()
    eventually((trial.directory / "status").exists, 30, "the wrapper ends")
    if time.monotonic() - began > 8.0:
        trial.wrong(f"the end took {time.monotonic() - began:.1f} s without the controller")
    trial.cluster.slurmctld("start")


def _launcher_dies_without_controller(trial: Trial) -> None:
    trial.cluster.slurmctld("stop")
    trial.kill("yprov", trial.nodes[0])
    _some_more(trial)  # `srun` cannot end its tasks without the controller
    trial.go()
    eventually(lambda: not trial.ours("yprov-node"), 60, "the daemons finish")
    trial.cluster.slurmctld("start")


PATIENT = {"nodes": 2, "extra_conf": "SlurmdTimeout=90\n"}

APART = [
    Case("a worker's power is cut", NODE_FAIL, _crash(1), options=("--no-requeue",), job=("NODE_FAIL",), exit="",
         alone={"nodes": 2}, complete=(0,), cut=True, lucky=True),
    Case("a worker's power is cut, requeue", NODE_FAIL, _crash(1), alone={"nodes": 3}, complete=(0,), cut=True,
         attempts=2, after=_linked, lucky=True),
    # The status of `srun --no-kill` that has lost a node is 0 in 22.05 and 1 in 24.11, without us too.
    Case("a worker's power is cut, --no-kill", COMPLETED if ROOTFS is None else ("failed",),
         _crash(1, go=True, wait_s=3.0), options=("--no-kill",), step=("--no-kill",),
         job=("COMPLETED",) if ROOTFS is None else ("FAILED",), exit="0:0" if ROOTFS is None else "1:0",
         alone={"nodes": 2}, complete=(0,), after=_dark_named),
    Case("a worker's power is cut, sbatch --no-kill", ("failed", "killed", "node_fail"), _crash(1),
         options=("--no-kill",), job=("FAILED",), exit="", alone={"nodes": 2}, complete=(0,)),
    Case("the batch node's power is cut", NODE_FAIL, _crash(0), options=("--no-requeue",), job=("NODE_FAIL",), exit="",
         alone={"nodes": 2}, complete=(1,), by_itself=False, cut=True),
    Case("the batch node's power is cut, --no-kill", NODE_FAIL, _crash(0, go=True, wait_s=3.0),
         options=("--no-kill",), step=("--no-kill",), job=("CANCELLED", "NODE_FAIL"), exit="", alone={"nodes": 2},
         complete=(1,), by_itself=False, cut=True),
    Case("a worker's network is cut for 20 s", COMPLETED, _cut(1, 20.0, go=True), alone=PATIENT),
    Case("the batch node's network is cut for 20 s", COMPLETED, _cut(0, 20.0, go=True), alone=PATIENT),
    Case("a worker's network is cut for 28 s", NODE_FAIL, _cut(1, 28.0, go=False), options=("--no-requeue",),
         job=("NODE_FAIL",), exit="", alone={"nodes": 2}, complete=(0,), cut=True,
         settle_s=20.0, lucky=True),
    Case("preemption", CANCELLED, _preempt, attempts=2, after=_linked, alone={"nodes": 2}, lucky=True),
    Case("no controller in the middle", COMPLETED, _without_controller, alone={"nodes": 2}, after=_clean_exit),
    Case("no controller at the end", COMPLETED, _ends_without_controller, alone={"nodes": 2}),
    Case("no controller, kill -9 of yprov run", ("killed",), _launcher_dies_without_controller, alone={"nodes": 2},
         form="bash goes on", exit=""),
]
