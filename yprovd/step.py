"""`python -m yprovd step RUN_DIR`: one task of the daemon step, one per node, started by the scheduler.

It forks this node's daemon and, on the run's first node, the collector; starts again what dies or crashes; and ends,
with status 0 in any case, when they have ended: a task that dies of a signal would spoil the status that the
scheduler derives for the user's job. SIGTERM it passes on, which may mean that the job ends: where Slurm tracks
processes by cgroups, only the tasks themselves get its signals (proctrack_cgroup.c), and not what they have started.
All others are ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from yprovd.config import SPOOL_DIR, RunConfig
from yprovd.errors import YprovError
from yprovd.processes import short_name
from yprovd.ranks import job_environment
from yprovd.rendezvous import has_ended

#: A daemon that dies this often is broken and not unlucky.
RESTARTS = 5
#: Exit status of a daemon that met an error that it does not know.
CRASHED = 70


def is_first(nodes: Sequence[str], environ: Mapping[str, str], host: str, elected: Callable[[], bool]) -> bool:
    """Whether the collector belongs on this node: the first of the run's nodes. Where the scheduler calls this node
    otherwise than it calls itself, or the names are not known (`*`): on that of rank 0, else on the first that asks."""
    name = short_name(environ.get("SLURMD_NODENAME") or host)
    if name in {short_name(node) for node in nodes}:
        return name == short_name(nodes[0])
    rank = job_environment(environ).rank
    return elected() if rank is None else rank == 0


def elect(run_dir: Path, host: str) -> bool:
    """Whether this host is the first that asks, also when it asks again."""
    path = run_dir / SPOOL_DIR / ".first"
    try:
        with open(path, "x", encoding="utf-8") as f:
            f.write(host)
        return True
    except FileExistsError:
        return path.read_text(encoding="utf-8") == host


def _make_runtime_dir(path: Path) -> None:
    """The directory of this node's sockets, ours and closed to others; the launcher has made it on its own node."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        about = path.lstat()
        if about.st_uid != os.getuid() or not path.is_dir() or path.is_symlink() or about.st_mode & 0o077:
            raise YprovError(f"`{path}` is there and not ours alone") from None


def _only_one(runtime_dir: str) -> int | None:
    """A lock that the first task on this node holds; None for another one that was placed beside it. Closed in our
    forks at their end: it stays until the last of them has gone."""
    fd = os.open(runtime_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _fork(role: str, run_dir: Path, config: RunConfig, running: dict[int, str]) -> None:
    """Start a daemon, and note it in `running`. It gets the configuration as we have read it: a launcher that has given
    us up meanwhile has written another one, for daemons that are its children."""
    # What comes before the daemon can take it waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid:
        running[pid] = role
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return
    status = CRASHED
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open("/proc/self/comm", "w", encoding="ascii") as f:  # what top(1) and pgrep(1) call it
            f.write(f"yprov-{role}")
        # Loaded here, so that the task itself stays small, and two daemons load beside each other.
        status = importlib.import_module("yprovd.node" if role == "node" else "yprovd.collector").main(run_dir, config)
    except YprovError as e:
        status = 1
        _say_error(e)
    except BaseException:  # noqa: BLE001  the fork must not go on as its parent
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status & 255)


def _say_error(error: YprovError) -> None:
    print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr, flush=True)


def main(run_dir: Path, first: str = "") -> int:
    """Blocks until the daemons of this node have ended. `first`: the node of the collector, where it is not the first
    of the run's nodes any more."""
    try:
        config = RunConfig.read(run_dir)
        if not config.nodes or has_ended(run_dir):
            print("step: the launcher has given us up: too late", file=sys.stderr, flush=True)
            return 0
        _make_runtime_dir(Path(config.runtime_dir))
        return _hold(run_dir, config, (first, *config.nodes) if first else config.nodes)
    except YprovError as e:
        missing = YprovError(f"the run's directory `{run_dir}` is not there on {os.uname().nodename}",
                             hint="yprov run --dir DIRECTORY   on a file system that all nodes of the job share")
        _say_error(e if run_dir.exists() else missing)
    except OSError as e:
        _say_error(YprovError(f"{os.uname().nodename}: {e}"))
    return 0


def _hold(run_dir: Path, config: RunConfig, nodes: Sequence[str]) -> int:
    running: dict[int, str] = {}

    def pass_on(signum: int, _frame: object) -> None:
        for pid in list(running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)
    alone = _only_one(config.runtime_dir)
    if alone is None:
        return 0
    roles = ["node"]
    host = os.uname().nodename
    if is_first(nodes, os.environ, host, lambda: elect(run_dir, host)):
        roles.insert(0, "collect")
    for role in roles:
        _fork(role, run_dir, config, running)
    starts = dict.fromkeys(roles, 1)
    while running:
        pid, status = os.wait()
        role = running.pop(pid, "")
        if role and status != 0 and starts[role] <= RESTARTS:
            # The collector's status is that of the stitch: when it has said its last word, it is not started again.
            if role == "collect" and os.WIFEXITED(status) and os.WEXITSTATUS(status) != CRASHED:
                continue
            if has_ended(run_dir):
                continue
            print(f"{time.strftime('%H:%M:%S')} step: the {role} daemon ended (wait status {status}) and is started "
                  "again", file=sys.stderr, flush=True)
            starts[role] += 1
            _fork(role, run_dir, config, running)
    return 0
