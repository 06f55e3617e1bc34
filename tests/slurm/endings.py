"""The ways in which a Slurm job can end, each as a case: what is run, what befalls it, and what must be true then.

A trial submits a job whose ranks log a metric and note on the common file system when they were last alive, does to it
what the case says, waits for its end, makes the archive by `yprov stitch` where it is not there, and looks for what is
wrong. The tests beside this file and `benchmarks/endings.py` run the same cases.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import xarray

from tests.running import YPROV, attribute, document, eventually
from tests.slurm.cluster import FINAL, Cluster, fields, tail
from tests.slurm.configuration import CTL
from tests.slurm.machines import MachineError, Process

INTERVAL_S = 0.5
#: What was taken so long before the end must be in the archive.
OLD_S = 2.0
#: A trial takes no longer than this after what befell it.
PATIENCE_S = 150.0

#: One rank: a beat every 50 ms, as a metric and as a note of its own, until it is told to end in the way of its mode.
TASK = """
import os, signal, sys, time
mode, rank = sys.argv[1], int(os.environ["SLURM_PROCID"])
attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
note = os.open(f"alive-{attempt}-{rank}", os.O_WRONLY | os.O_CREAT, 0o644)
got = []
def take(signum, frame):
    got.append(signum)
    with open(f"got-{attempt}-{rank}", "a") as f:
        print(signal.Signals(signum).name, time.time(), file=f)
for s in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(s, take)
if mode == "checkpoint":
    signal.signal(signal.SIGTERM, take)
import yprov
i = 0
while True:
    now = time.time()
    yprov.log_metric("t", now, step=i)
    os.pwrite(note, f"{os.uname().nodename} {now:.6f} {i:8}\\n".encode(), 0)
    i += 1
    if os.path.exists("go") or (attempt != "0" and i > 30):
        break
    time.sleep(0.05)
if mode == "fail" and rank == 1:
    sys.exit(3)
if mode == "oom" and rank == 1:
    hog = []
    while True:
        hog.append(bytearray(os.urandom(1 << 20) * 8))
"""

#: How the batch script calls `yprov run`. The status that it saw goes into the file `status`.
FORMS = {
    "exec": "exec {run}",
    "child": "{run}\nstatus=$?; echo $status > status; exit $status",
    "trap": "trap 'echo trapped' TERM\n{run}\nstatus=$?; echo $status > status; exit $status",
    "forward": "{run} &\ntrap \"kill -TERM $!\" TERM\nwait $!; wait $!; status=$?; echo $status > status; exit $status",
    "bash goes on": "{run}\necho $? > status; srun -N2 -n2 sleep 1.5; touch went-on; exit 0",
    "bash ends": "{run}\nexit 0",
    "left behind": "{run} &\nuntil [ -e leave ]; do sleep 0.1; done; exit 0",
}


class Jobs:
    """The states of all jobs of a cluster, asked for all threads at once."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._lock = Lock()
        self._asked = 0.0
        self._jobs: dict[int, dict[str, str]] = {}

    def get(self, job: int) -> dict[str, str]:
        """The fields of `scontrol show job`; empty while the controller does not answer."""
        with self._lock:
            if time.monotonic() > self._asked + 0.3:
                with contextlib.suppress(MachineError):
                    done = self.cluster.exec(CTL, ["scontrol", "-o", "-d", "show", "job"], timeout=30)
                    self._jobs = {int(f["JobId"]): f for line in done.stdout.splitlines()
                                  if line.startswith("JobId=") and (f := fields(line))}
                self._asked = time.monotonic()
            return self._jobs.get(job, {})


@dataclass(frozen=True)
class Case:
    """`state`: of the run, one of these words. `job`: Slurm's states that the job may end in. `exit`: its ExitCode,
    "" for any. `nodes`: of the job. `cut`: series may have holes (a suspended job, a node that was down).
    `complete`: nodes of the job (by number) whose data must be there; None: all. `by_itself`: the archive is there
    without `yprov stitch`. `clean`: no directory is left on the nodes. `attempts`: runs that there must be.
    `settle_s`: how long after Slurm's word processes may go on, on a node that it did not reach. `alone`: it
    damages its cluster, which is made with these settings. `after`: looks for more that is wrong. `lucky`: where
    the batch step is killed, the helper process of the daemons' `srun` may kill their step before it is killed
    itself: then the archive is there after `yprov stitch`, and a directory is left."""

    name: str
    state: tuple[str, ...]
    act: Callable[[Trial], None]
    mode: str = "plain"
    form: str = "child"
    options: tuple[str, ...] = ()
    step: tuple[str, ...] = ()
    job: tuple[str, ...] = ("COMPLETED",)
    exit: str = "0:0"
    nodes: int = 2
    cut: bool = False
    complete: tuple[int, ...] | None = None
    by_itself: bool = True
    clean: bool = True
    attempts: int = 1
    settle_s: float = 0.0
    lucky: bool = False
    alone: Mapping[str, Any] | None = None
    after: Callable[[Trial], Sequence[str]] = lambda trial: ()


@dataclass
class Trial:
    """One job of a case. `problems` is what is wrong with how it ended."""

    case: Case
    cluster: Cluster
    jobs: Jobs
    directory: Path
    job: int = 0
    nodes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left: list[Process] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    hit_at: float = 0.0
    lost_s: float = 0.0
    by_itself: bool = False
    refreshed: bool = False
    took_s: float = 0.0

    # --- what the cases do

    def submit(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "task.py").write_text(TASK)
        run = " ".join([*YPROV, "run", f"--interval={INTERVAL_S}", "--", "srun", f"-N{self.case.nodes}",
                        f"-n{self.case.nodes}", *self.case.step, sys.executable, "task.py", self.case.mode])
        script = FORMS[self.case.form].format(run=run)
        self.job = self.cluster.sbatch(script, f"-N{self.case.nodes}", "--open-mode=append", *self.case.options,
                                       cwd=self.directory)

    def begun(self, attempt: int = 0) -> bool:
        """Every rank has begun, and something of it is in the record."""
        names = [self.directory / f"alive-{attempt}-{rank}" for rank in range(self.case.nodes)]
        return all(p.exists() and int((p.read_text().split() or ["", "", "0"])[2]) > 25 for p in names)

    def wait_begun(self) -> None:
        try:
            eventually(self.begun, 60)
        except AssertionError:
            raise AssertionError(f"{self.case.name}: not all ranks have begun within 60 s: {self.show()}") from None
        self.nodes = [self.alive(rank)[0] for rank in range(self.case.nodes)]

    def show(self) -> str:
        out = self.directory / f"slurm-{self.job}.out"
        return f"job {self.job} {self.shown().get('JobState')}: {out.read_text()[-600:] if out.exists() else ''}"

    def shown(self) -> dict[str, str]:
        return self.jobs.get(self.job)

    def alive(self, rank: int, attempt: int = 0) -> tuple[str, float, int]:
        """(host, wall time, number) of a rank's last beat."""
        host, when, number = (self.directory / f"alive-{attempt}-{rank}").read_text().split()
        return host, float(when), int(number)

    def go(self) -> None:
        (self.directory / "go").touch()

    def scancel(self, *arguments: str) -> None:
        self.cluster.scancel(*arguments, self.job)

    def run_dir(self, attempt: int = 0) -> Path:
        runs = self.directory / "yprov-runs"
        return sorted(p for p in runs.iterdir() if (p / "run.json").exists())[attempt]

    def ours(self, name: str = "", host: str = "") -> list[Process]:
        """Our processes of this run: `yprov` (the wrapper), `yprov-node`, `yprov-collect`, `srun`..."""
        found = []
        about = f"SLURM_JOB_ID={self.job}\0" if name == "yprov" else str(self.run_dir())
        for process in self.cluster.processes(about):
            with contextlib.suppress(OSError):
                comm = Path(f"/proc/{process.pid}/comm").read_text().strip()
                comm = "yprov" if "yprov.cli run" in process.command else comm
                if (not name or comm == name) and host in ("", process.host):
                    found.append(process)
        return found

    def kill(self, name: str, host: str = "", number: int = signal.SIGKILL) -> int:
        """Signal the one process of ours that has this name."""
        process = eventually(lambda: self.ours(name, host), 10, f"{self.case.name}: {name} runs")[0]
        os.kill(process.pid, number)
        return int(process.pid)

    # --- the trial

    def run(self) -> None:
        began = time.monotonic()
        try:
            self.submit()
            self.wait_begun()
            self.hit_at = time.time()
            self.case.act(self)
            self.wait_end()
            self.check()
        except Exception as e:  # noqa: BLE001  whatever it is, the others go on
            self.wrong(f"{type(e).__name__}: {e}")
            if self.job:
                self.cluster.exec(CTL, ["scancel", str(self.job)])
        self.took_s = time.monotonic() - began

    def wrong(self, text: str) -> None:
        self.problems.append(text)

    def wait_end(self) -> None:
        def ended() -> bool:
            time.sleep(0.2)
            return self.shown().get("JobState") in FINAL
        eventually(ended, PATIENCE_S, f"{self.case.name}: the job ends: {self.shown().get('JobState')}")

    def check(self) -> None:
        shown = self.shown()
        if shown["JobState"] not in self.case.job:
            self.wrong(f"the job is {shown['JobState']}")
        if self.case.exit and shown["ExitCode"] != self.case.exit:
            self.wrong(f"the job's exit code is {shown['ExitCode']}, not {self.case.exit}")
        deadline = time.monotonic() + self.case.settle_s
        while (left := [p for p in self.cluster.processes(f"SLURM_JOB_ID={self.job}\0") if "yprov" in p.command.replace(
                "/yprov-runs/", "")]) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.left = left
        if self.left:
            self.wrong(f"left: {self.left}")
        runs = [self.run_dir(attempt) for attempt in range(self.case.attempts)]
        for run_dir in runs:
            self.by_itself = (run_dir / "prov.json").exists()
            if self.case.by_itself and not self.case.lucky and not self.by_itself:
                self.wrong("the archive is not there by itself")
            self._archive(run_dir)
        if self.case.clean and not self.case.lucky:
            self._runtime(runs)
        for text in self.case.after(self):
            self.wrong(text)

    def report(self) -> str:
        """What is wrong, and what was written."""
        written = [*self.directory.glob("*.out"), *self.directory.glob("yprov-runs/*/logs/*")]
        return "\n".join([*self.problems, *(tail(path, 30) for path in sorted(written) if path.stat().st_size)])

    def _runtime(self, runs: Sequence[Path]) -> None:
        for run_dir in runs:
            runtime = json.loads((run_dir / "run.json").read_text())["runtime_dir"]
            for number, node in enumerate(self.nodes):
                if self.case.complete is not None and number not in self.case.complete:
                    continue
                if self.cluster.is_on(node) and os.path.exists(f"/proc/{self.cluster.pid(node)}/root{runtime}"):
                    self.wrong(f"{runtime} is left on {node}")

    def _archive(self, run_dir: Path) -> None:
        from yprovd.errors import YprovError
        from yprovd.stitch import stitch
        from yprovd.stitch.validate import validate_run

        attempt = json.loads((run_dir / "run.json").read_text())["job"]["attempt"]
        try:
            if not (run_dir / "prov.json").exists() or any((run_dir / "spool").glob("*.spool")):
                stitch(run_dir)
            if attribute(document(run_dir)["activity"]["run"], "state") == "incomplete":  # only the scheduler knows
                self.refreshed = True
                self.cluster.exec(CTL, [*YPROV, "stitch", "--refresh-slurm", str(run_dir)], check=True)
        except (YprovError, MachineError) as e:
            self.wrong(f"stitch: {e}")
            return
        if problems := validate_run(run_dir):
            self.wrong(f"not valid: {problems[:3]}")
        run = document(run_dir)["activity"]["run"]
        state = attribute(run, "state")
        self.said.append((str(state), str(attribute(run, "stateReason"))))
        wanted = self.case.state if attempt == 0 else ("completed",)
        if state not in wanted:
            self.wrong(f"the state is {state} ({attribute(run, 'stateReason')}), true is {' or '.join(wanted)}")
        if attribute(run, "framesLost"):
            self.wrong(f"frames were lost: {attribute(run, 'framesLost')}")
        self._data(run_dir, attempt)

    def _data(self, run_dir: Path, attempt: int) -> None:
        """What is missing of what was there until `OLD_S` before the end."""
        with xarray.open_zarr(run_dir / "series.zarr", group="host", consolidated=False) as host:
            nodes = [str(n) for n in host["hostname"].values]
            times = host["time"].values.astype("datetime64[ns]").astype(np.int64) / 1e9
            memory = host["memory_usage"].values
        try:
            with xarray.open_zarr(run_dir / "series.zarr", group="metrics/run", consolidated=False) as table:
                ranks, steps = table["rank"].values.astype(int), table["step"].values.astype(int)
        except (FileNotFoundError, KeyError):
            ranks = steps = np.zeros(0, int)
        for rank in range(self.case.nodes):
            if self.case.complete is not None and rank not in self.case.complete:
                continue
            node, last, beats = self.alive(rank, attempt)
            mine = np.sort(steps[ranks == rank])
            count = len(mine)
            lost = (beats + 1 - count) * 0.055
            if count and mine[-1] + 1 != count:
                self.wrong(f"rank {rank} logged {beats + 1} metrics, {count} are there, with holes")
            if node not in nodes:
                self.wrong(f"{node} is not in the archive")
                continue
            there = times[np.isfinite(memory[nodes.index(node)])]
            if not len(there):
                self.wrong(f"{node} has no samples")
                continue
            holes = np.diff(there)
            if not self.case.cut and len(holes) and holes.max() > 3.1 * INTERVAL_S:
                self.wrong(f"{node} has a hole of {holes.max():.1f} s")
            lost = max(lost, last - there[-1])
            self.lost_s = max(self.lost_s, lost)
            if lost > OLD_S:
                self.wrong(f"{node}: {lost:.1f} s before the end of rank {rank} are missing "
                           f"({count} of {beats + 1} metrics, samples to {last - there[-1]:.1f} s before it)")


def run_all(cluster: Cluster, cases: Sequence[Case], directory: Path, *, at_once: int = 8) -> dict[str, Trial]:
    """The cases side by side, at most `at_once` at a time."""
    jobs = Jobs(cluster)
    trials = [Trial(case, cluster, jobs, directory / _slug(case)) for case in cases]
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(Trial.run, trials))
    return {trial.case.name: trial for trial in trials}


def run_apart(new_cluster: Callable[..., Cluster], cases: Sequence[Case], directory: Path, *,
              at_once: int = 8) -> dict[str, Trial]:
    """Each case on a cluster of its own, at most `at_once` at a time."""
    def one(case: Case) -> Trial:
        with new_cluster(**(case.alone or {})) as cluster:
            trial = Trial(case, cluster, Jobs(cluster), directory / _slug(case))
            trial.run()
            if trial.problems:
                trial.problems.append(cluster.tails())
        return trial
    with ThreadPoolExecutor(at_once) as pool:
        return {trial.case.name: trial for trial in pool.map(one, cases)}


def _slug(case: Case) -> str:
    return re.sub(r"[^a-z0-9]+", "-", case.name.lower())
