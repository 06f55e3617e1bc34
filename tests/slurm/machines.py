"""Machines of their own on one machine: a controller `ctl` and nodes, each a set of Linux namespaces.

A machine has its own host name, network address, process ids, /proc, /dev/shm, /run, /tmp, /var/tmp, boot id and, where
the kernel can, monotonic clock. The rest of the file system is common to all, like that of a cluster; of what lies in
/tmp and the like, only the paths in `shared` are. `ctl` holds the network, and the nodes are children of its process
namespace: nothing is made in the machine's own network or /etc, and one SIGKILL ends everything. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.running import environment
from tests.slurm.configuration import CTL

INIT = Path(__file__).resolve().with_name("init.sh")
T = TypeVar("T")


class MachineError(AssertionError):
    """The test's machines do not do what a test needs. An AssertionError: the test fails, by this reason."""


class Process(NamedTuple):
    host: str
    pid: int  # as the whole machine numbers it
    command: str


def until(condition: Callable[[], T], timeout: float, what: Callable[[], str] | str, pause: float = 0.02) -> T:
    """What the condition gives, as soon as it is true; MachineError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise MachineError(f"not within {timeout:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause)
    return value


def own_clock() -> bool:
    """Whether a node can have a monotonic clock of its own."""
    if not os.path.exists("/proc/self/ns/time"):
        return False
    tried = subprocess.run(["unshare", "--time", "--monotonic", "1", "--fork", "true"], capture_output=True)
    return tried.returncode == 0


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rfind(b")") + 2:][:1] not in (b"Z", b"X")


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _is_init(pid: int) -> bool:
    """PID 1 of a process namespace, and not one of its children that has the same command line still."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines())


class Machines:
    """`directory`: state of all machines; absolute, and common to them. Not to be moved while they are up."""

    def __init__(self, directory: Path, shared: Sequence[Path] = ()) -> None:
        self.directory = directory
        self.shared = [directory, *shared]
        self.nodes: list[str] = []
        self._lifeline: subprocess.Popen[bytes] | None = None
        self._clock = own_clock()

    # --- the life of machines

    def start_ctl(self, *, persistent: bool) -> int:
        """Power on the controller, which then waits for `go`: its pid.

        `persistent`: it outlives this process. Otherwise it ends with it, by whatever death, and all nodes with it.
        """
        fifo = self.directory / "run" / "lifeline"
        stdin: int = subprocess.PIPE
        if persistent:
            os.mkfifo(fifo)
            stdin = os.open(fifo, os.O_RDWR)  # it holds the other end itself, so it never ends
        with open(self.directory / "log" / "init-ctl.log", "ab") as log:
            self._lifeline = subprocess.Popen(
                ["unshare", "-n", "-u", "-i", "-m", "-p", "--fork", "--kill-child", "--mount-proc",
                 "bash", str(INIT), "ctl", str(self.directory)],
                stdin=stdin, stdout=log, stderr=log, cwd="/", env={"PATH": os.environ["PATH"]}, start_new_session=True)
        self._persistent_stdin = stdin if persistent else None
        pid = until(lambda: self._init_of("ctl"), 10, "the controller starts: " + log.name) or 0
        self._write_pid(CTL, pid)
        return pid

    def go(self, timeout: float) -> None:
        """Let the controller set itself up, and wait until it has."""
        assert self._lifeline is not None
        if self._persistent_stdin is None:
            assert self._lifeline.stdin is not None
            self._lifeline.stdin.write(b"go\n")
            self._lifeline.stdin.flush()
        else:
            os.write(self._persistent_stdin, b"go\n")
            os.close(self._persistent_stdin)
        ready, log = self.directory / "run" / "ctl.ready", self.directory / "log" / "init-ctl.log"

        def started() -> bool:
            if not _alive(self.pid(CTL)):
                raise MachineError("the controller died: " + log.read_text()[-2000:])
            return ready.exists()
        until(started, timeout, lambda: "the controller is ready: " + log.read_text()[-2000:])

    def power_on(self, nodes: Sequence[str], *, fresh_clock: bool = False) -> None:
        """Boot nodes. Their monotonic clocks differ by days, or begin at 0 (`fresh_clock`), as after a boot."""
        specs = []
        for node in nodes:
            days = 86400 * (1 + self.nodes.index(node))
            shift = -int(time.monotonic()) if fresh_clock else days
            specs.append(f"{node}@{shift if self._clock else ''}")
        log = self.directory / "log" / "boot.log"
        with open(log, "ab") as out:
            done = subprocess.run([*self._enter(CTL), "bash", str(INIT), "boot", str(self.directory), *specs],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/",
                                  env={"PATH": os.environ["PATH"]}, timeout=30 + len(nodes), check=False)
        if done.returncode:
            raise MachineError(f"cannot boot {' '.join(nodes)}: {log.read_text()[-2000:]}")
        wanted = [["node", str(self.directory), node] for node in nodes]
        for pid in _pids():
            arguments = _arguments(pid)[2:5]
            if arguments in wanted and _is_init(pid):
                self._write_pid(arguments[2], pid)
        for node in nodes:
            if not self.is_on(node):
                raise MachineError(f"{node} did not boot: "
                                   + (self.directory / "log" / f"init-{node}.log").read_text()[-2000:])

    def power_off(self, node: str) -> None:
        """Power loss: no process gets a word out, and no connection is closed."""
        self.link(node, "down")
        pid = self.pid(node)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not _alive(pid), 20, f"{node} dies")
        subprocess.run([*self._enter(CTL), "ip", "link", "del", f"v{node}"], capture_output=True, timeout=20)

    def link(self, node: str, state: str) -> None:
        """Cut ("down") or heal ("up") the network of a node."""
        self.exec(CTL, ["ip", "link", "set", f"v{node}", state], check=True)

    def kill(self) -> None:
        """End everything; returns when nothing is left. Harmless when nothing is there."""
        pid = self._init_of("ctl")
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            until(lambda: not _alive(pid), 30, "the controller and all nodes die")
        if self._lifeline is not None:
            if self._lifeline.stdin is not None:
                with contextlib.suppress(OSError):
                    self._lifeline.stdin.close()
            self._lifeline.wait(timeout=20)
            self._lifeline = None
        for name in ("run", "munge"):
            shutil.rmtree(self.directory / name, ignore_errors=True)

    # --- running something on them

    def exec(self, host: str, argv: Sequence[str | os.PathLike[str]], *, timeout: float = 60, check: bool = False,
             input: str | None = None, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on `ctl` or a node as `subprocess.run` does, its output captured as text.

        At the end of `timeout` it and its process group are killed, and MachineError says what it had printed. `check`:
        MachineError when it fails.
        """
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        kwargs["stdin"] = subprocess.DEVNULL if input is None else subprocess.PIPE
        process, what = self.popen(host, argv, **kwargs), f"`{' '.join(map(str, argv))}` on {host}"
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise MachineError(f"{what}: still there after {timeout} s\n{out}{err}") from None
        if check and process.returncode:
            raise MachineError(f"{what}: status {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(list(map(str, argv)), process.returncode, out, err)

    def popen(self, host: str, argv: Sequence[str | os.PathLike[str]], *, cwd: Path | str | None = None,
              env: Mapping[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[str]:
        """Start a command on `ctl` or a node. `env`: instead of ours without YPROV_*; `cwd`: instead of ours.

        The process returned is the door; `signal` reaches the command itself.
        """
        environ = {**(environment() if env is None else env), **self.variables()}
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([*self._enter(host), "env", f"--chdir={cwd or os.getcwd()}", *map(str, argv)],
                                env=environ, text=True, errors="replace", start_new_session=True, **kwargs)

    def signal(self, process: subprocess.Popen[str], number: int) -> None:
        """Send a signal to the command that `popen` started."""
        def child() -> int | None:
            found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return int(found[0]) if found else None
        os.kill(until(child, 5, "the command starts") or 0, number)

    def variables(self) -> dict[str, str]:
        """Environment of every command."""
        return {}

    def processes(self, text: str) -> list[Process]:
        """What runs on `ctl` or any node, in whose command line or environment `text` is."""
        hosts = {}
        for host in (CTL, *self.nodes):
            with contextlib.suppress(OSError, MachineError):
                hosts[os.readlink(f"/proc/{self.pid(host)}/ns/pid")] = host
        found = []
        for pid in _pids():
            try:
                host = hosts.get(os.readlink(f"/proc/{pid}/ns/pid"), "")
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                about = command + Path(f"/proc/{pid}/environ").read_bytes() if host else b""
            except OSError:
                continue
            if host and text.encode() in about and _alive(pid):
                found.append(Process(host, pid, command.replace(b"\0", b" ").decode(errors="replace").strip()))
        return found

    def is_on(self, host: str) -> bool:
        return self._pid_file(host).exists() and _alive(self.pid(host))

    def pid(self, host: str) -> int:
        """Of the machine's PID 1, as the whole machine numbers it."""
        try:
            return int(self._pid_file(host).read_text())
        except FileNotFoundError:
            raise MachineError(f"{host} is not up") from None

    # --- details

    def _enter(self, host: str) -> list[str]:
        clock = ["-T"] if self._clock else []
        return ["nsenter", "-t", str(self.pid(host)), "-n", "-u", "-i", "-m", "-p", "-r", "-w", *clock, "--"]

    def _init_of(self, verb: str) -> int | None:
        wanted = [verb, str(self.directory)]
        inside = [f"{verb}-inside", str(self.directory)]
        return next((pid for pid in _pids() if _arguments(pid)[2:4] in (wanted, inside) and _is_init(pid)), None)

    def _pid_file(self, host: str) -> Path:
        return self.directory / "run" / f"{host}.pid"

    def _write_pid(self, host: str, pid: int) -> None:
        self._pid_file(host).write_text(f"{pid}\n")
