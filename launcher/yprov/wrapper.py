"""`yprov run`: the run's directory, the daemons, the command, and the end, in this order and whatever happens.

The command's exit status is ours. What goes wrong on our side is said on stderr, and costs the record, never the job.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yprov import allocation
from yprov import command as commands
from yprov.capture import Capture, about_run
from yprov.daemons import Daemons, clean_environment
from yprov.placement import Placement
from yprov.placement import find as find_placement
from yprov.records import LauncherSpool
from yprov.runs import create, on_this_machine
from yprovd.config import SPOOL_DIR, RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.files import FileWorker
from yprovd.processes import MARKER, job_processes, short_name
from yprovd.secrets import Masker, known_values, values_of_command
from yprovd.wire import Kind

if TYPE_CHECKING:
    from yprov.placed import PlacedDaemons

#: How long the daemons may take to be ready; the command starts then in any case.
READY_S = 10.0
#: How long the end may take: the nodes' last samples and files; and then the archive, after which it is left to the
#: collector, which goes on by itself.
FINISH_S = 40.0
#: How long the archive is waited for when the collector could not be asked to make it.
UNREACHED_S = 5.0
#: How long the end waits for the scheduler's answer about the job; it was asked at the start.
ASK_S = 5.0
#: Open files that the launcher and the daemons may need.
FILES_NEEDED = 64


class Wrapper:
    """One execution of `yprov run`."""

    def __init__(self, settings: Settings, argv: Sequence[str], *, root: str = "/") -> None:
        self.settings = settings
        self.argv = list(argv)
        self.masker = Masker(known_values(os.environ) | values_of_command(argv))
        self.root = root
        self.killed = False      # by a second Ctrl-C
        self.own_protocol = False
        self.by_srun = False     # its exit status may be 128 + N for tasks that a signal ended
        self.asking: threading.Thread | None = None
        self.status = 0
        self.unwritten = ""      # why stdout could not be written on
        self.ended_ns = 0
        # `wake` rouses the loop: a child ended, or the user wants out.
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.signals = commands.Signals(self._wake)
        self.signals.on_second = self._second
        self.child: subprocess.Popen[bytes] | None = None

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_in, b".")

    def _second(self) -> None:
        if self.own_protocol:
            self.own_protocol = False  # the third one is ours
            if self.child is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.child.pid, signal.SIGINT)
            return
        self.killed = True
        if self.child is not None:
            self._kill_job()
        self._wake()

    def _kill_job(self) -> None:
        assert self.child is not None
        for pid in {self.child.pid, *(p.pid for p in job_processes(self.config.run_id))}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def run(self) -> int:
        """Returns the exit status of the command. Raises YprovError before the command was started."""
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 0 <= allowed < FILES_NEEDED:  # ZeroMQ aborts where it cannot open one, and the command would never run
            raise YprovError(f"only {allowed} open files are allowed here, and a run needs {FILES_NEEDED}",
                             hint=f"ulimit -n {4 * FILES_NEEDED}")
        placement = find_placement(self.settings, os.environ, self.argv)
        self.run_dir, self.config = create(self.settings, self.argv, root=self.root, placement=placement,
                                           masker=self.masker)
        refused = self._start_daemons(placement)
        try:
            self.spool = LauncherSpool(self.run_dir, self.masker)
        except OSError as e:
            self.daemons.close()
            raise YprovError(f"cannot set up a run in `{self.run_dir}`: {e.strerror}",
                             hint="is there room on its disk, and for more files and processes (ulimit -a)?") from None
        self.spool.write(Kind.RUN, {"config": self.config.to_json(), **about_run(os.environ, self.masker)})
        capture = Capture(self.run_dir, self.argv, Path.cwd(), self.config.run_id, self.settings.hash_limit,
                          lambda part: self.spool.write(Kind.RUN, part))
        files = FileWorker(self.run_dir / "artifacts", self._on_facts, hash_limit=self.settings.hash_limit,
                           masker=self.masker)
        self._declare(files, "input", self.settings.inputs)
        if placement is not None:
            self._in_allocation()
        elif told := allocation.told_by_environment(os.environ):
            self.spool.write(Kind.RUN, {"scheduler": told})
        self._call_the_roll(refused)
        capture.wait_for_code()
        self._run_command()
        self._end()
        self._declare(files, "output", self.settings.outputs)
        if self.killed:
            capture.finish(0.0)
            self._reap()
            self.spool.close()
            self.daemons.let_go()
            say(f"stopped; the archive is being made in {show_path(self.run_dir)}\n"
                f"next: yprov stitch {show_path(self.run_dir)}")
            return self.status
        capture.finish(meanwhile=self._still_looking())
        if self.asking is not None:
            self._wait_for(self.asking, ASK_S)
            if self.asking.is_alive():
                reason = "Slurm had not answered when the run ended: this is what its variables tell"
                self.spool.write(Kind.RUN, {"scheduler": {"missing": {"job": reason}}})
        closing = threading.Thread(target=files.close, args=(FINISH_S,), name="yprov-files-end", daemon=True)
        closing.start()
        self._wait_for(closing, FINISH_S + 1.0)
        return self._finish()

    def _wait_for(self, thread: threading.Thread, timeout_s: float) -> None:
        """Meanwhile the collector hears that we are here: on another machine, silence means that we are gone."""
        deadline = time.monotonic() + timeout_s
        while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            thread.join(min(left, 1.0))
            if thread.is_alive():
                self.daemons.say_hello()

    def _still_looking(self) -> Callable[[], bool]:
        """While the code is being looked at and the command has ended already; Ctrl-C leaves it out."""
        told = time.monotonic() + 2.0

        def meanwhile() -> bool:
            nonlocal told
            self.daemons.say_hello()
            if time.monotonic() > told:
                told = float("inf")
                say("looking at the code and its packages (some seconds; Ctrl-C leaves out what is missing)")
            return not self.signals.interrupted

        return meanwhile

    def _start_daemons(self, placement: Placement | None) -> str:
        """First of all: they take the longest. Returns why the scheduler could not be used, where it could not."""
        refused = ""
        if placement is not None:
            placed: PlacedDaemons | None = None
            try:
                from yprov.placed import PlacedDaemons

                self.daemons: Daemons | PlacedDaemons = (placed := PlacedDaemons(self.run_dir, placement))
                placed.start()
                return ""
            except (YprovError, OSError, ImportError) as e:  # no ZeroMQ, say
                refused = str(e)
                if placed is not None:
                    refused = "; ".join([*placed.fallbacks, refused])
                    placed.close()  # its keys, too
                self.config = on_this_machine(self.run_dir, self.config)
        self.daemons = Daemons(self.run_dir, Path(self.config.runtime_dir))
        try:
            self.daemons.start()
        except OSError as e:
            self.daemons.close()
            raise YprovError(f"cannot set up a run in `{self.run_dir}`: {e.strerror}",
                             hint="are more processes allowed (ulimit -a)?") from None
        return refused

    def _call_the_roll(self, refused: str) -> None:
        """Until the daemons are ready, under a deadline; what is not there is said, and the command starts anyway."""
        nodes = len(self.config.nodes)
        here = self.daemons
        try:
            ready = here.roll_call(READY_S + 0.01 * nodes, lambda: bool(self.signals.interrupted), say)
        except YprovError as e:  # no way of the scheduler's was left
            refused, ready = str(e), False
            refused = "; ".join([*here.fallbacks, refused])
        if refused:
            here = self._on_this_machine()
            ready = here.roll_call(READY_S, lambda: bool(self.signals.interrupted), say)
            self._trouble(f"only this node is recorded: the daemons could not be placed ({refused})",
                          hint=f"see {self.run_dir / 'logs'}")
        about = here.about()
        self.spool.write(Kind.RUN, {"config": self.config.to_json(), "daemons": {**about, "refused": refused}})
        for sentence in here.fallbacks:
            self._trouble(f"the daemons were placed in another way: {sentence}")
        if ready or self.signals.interrupted:
            return
        if here.dark:
            dark = here.dark
            self._trouble(f"{len(dark)} of {nodes} nodes are not ready ({', '.join(dark[:8])}"
                          f"{'...' if len(dark) > 8 else ''}): the command runs, and may not be measured there",
                          hint=f"see {self.run_dir / 'logs' / 'daemons.log'}")
        else:
            self._trouble("the node daemon is not ready: the command runs, and may not be measured",
                          hint=f"see {self.run_dir / 'logs' / 'node.log'}")

    def _on_this_machine(self) -> Daemons:
        if isinstance(self.daemons, Daemons):
            return self.daemons
        self.daemons.close()
        self.config = on_this_machine(self.run_dir, self.config)
        self.daemons = Daemons(self.run_dir, Path(self.config.runtime_dir))
        self.daemons.start()
        return self.daemons

    def _in_allocation(self) -> None:
        job = self.config.job
        # To `srun` a second Ctrl-C within a second means that its tasks are to end: its own affair.
        self.own_protocol = self.by_srun = os.path.basename(self.argv[0]) == "srun"
        self.signals.choose = lambda group: allocation.receivers(job, group, self.daemons.job_ends)
        here = short_name(os.uname().nodename)
        if not self.own_protocol and self.config.nodes and here not in map(short_name, self.config.nodes):
            self._note(f"{here} is none of the job's nodes: what runs here is not recorded, only what it starts there",
                       hint="yprov run -- srun ...")
        if previous := allocation.previous_attempt(self.run_dir, job):
            self.spool.write(Kind.RUN, {"previous": previous})
        if allocation.is_plain_child(os.environ):
            self._note("a plain child of the batch shell is killed at once when the job is cancelled or out of time",
                       hint="exec yprov run ...   keeps its last lines (so does a trap for TERM in the script)")

        def ask() -> None:
            # At once, for a run that is over before Slurm has answered.
            if told := allocation.told_by_environment(os.environ):
                told.pop("missing", None)
                self.spool.write(Kind.RUN, {"scheduler": told})
            facts = allocation.facts_of(job, self.run_dir / "source", self.masker)
            self.spool.write(Kind.RUN, {"scheduler": facts})

        if job:
            self.asking = threading.Thread(target=ask, name="yprov-job", daemon=True)
            self.asking.start()

    def _note(self, text: str, *, hint: str) -> None:
        say(f"note: {text}\nhint: {hint}")

    def _record(self, kind: int, value: Mapping[str, Any]) -> None:
        if not self.spool.write(kind, value):
            self._trouble(f"cannot write to `{self.run_dir / SPOOL_DIR}`: is the disk full, or a limit reached (quota, "
                          "ulimit -f)?")

    def _on_facts(self, facts: dict[str, Any]) -> None:
        self._record(Kind.FACTS, facts)
        if "size" not in facts:
            say(f"warning: `{facts['path']}` was declared and cannot be read: {facts.get('reason')}")

    def _declare(self, files: FileWorker, role: str, paths: Sequence[str]) -> None:
        for given in paths:
            path = given if "://" in given else os.path.abspath(given)
            declared = {"t": time.monotonic_ns(), "role": role, "path": path, "name": os.path.basename(path),
                        "copy": False}
            self._record(Kind.FILE, declared)  # masked; the worker needs the real path
            files.declare(self.spool.source, declared)

    # -- the command -----------------------------------------------------------------------------------------------

    def _run_command(self) -> None:
        self.signal = 0
        if self.signals.interrupted:
            self.status = 128 + self.signals.interrupted
            return
        environ = {**_given_environment(), MARKER: self.config.run_id, "YPROV_RUN_DIR": str(self.run_dir),
                   "YPROV_ENDPOINT": os.path.join(self.config.runtime_dir, "node.sock")}
        channels = []
        try:
            channels = commands.open_channels(self.run_dir / "logs")
        except OSError as e:  # no more files: its output goes its own way
            self._trouble(f"the command's output is not kept: {e.strerror}")
        try:
            self.child = commands.start(self.argv, environ, channels, self.signals)
        except OSError as e:
            self.status = 127 if e.errno == errno.ENOENT else 126
            say(f"error: cannot run `{self.argv[0]}`: {e.strerror}")
            return
        self.spool.write(Kind.RUN, {"started_ns": time.time_ns()})  # until now it was our start
        if self.killed:
            self._kill_job()
        self.signals.on_resize = lambda: commands.resize(c for c, _ in channels)
        left = self._pass_through([c for c, _ in channels], self.child.pid)
        if left and not self.killed:
            commands.leave_pump(left)
        for channel, fds in channels:
            if channel.error:
                self._trouble(f"{channel.lost} bytes of the command's output could not be written on: {channel.error}",
                              hint=f"see {self.run_dir / 'logs'}")
                self.unwritten = channel.error if 1 in fds else self.unwritten
            if channel.log_lost:
                self._trouble(f"{channel.log_lost} bytes of the command's output are not in logs/",
                              hint=f"{commands.LOG_LIMIT >> 20} MiB of each stream are kept, where the disk has room")
            channel.close()

    def _pass_through(self, channels: list[commands.Channel], pid: int) -> list[commands.Channel]:
        """Until the command has ended: its output on, the daemons looked after. Returns the channels that a process
        which outlives it still holds."""
        open_ones = list(channels)
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._wake_out, selectors.EVENT_READ)
            for channel in channels:
                channel.watch(waiting)
            while not commands.has_ended(pid):
                for key, _ in waiting.select(1.0):
                    if key.data is None:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._wake_out, 4096)
                    elif key.data in open_ones and not key.data.goes_on(key.fd):
                        key.data.hang_up(waiting)
                        open_ones.remove(key.data)
                for sentence in self.daemons.look_after():
                    self._trouble(sentence, hint=f"see {self.run_dir / 'logs'}")
        self.ended_ns = time.time_ns()
        self.signals.stop_forwarding()
        return [c for c in open_ones if c.drain()]

    # -- the end ---------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """How the command ended, on disk at once. It is not reaped yet: the last samples still see what it used."""
        if self.child is not None:
            self.status, self.signal = commands.exit_of(self.child.pid)
        exit_code = self.status
        if self.killed:
            self.status = 130
        asked = self.killed or self.signals.interrupted or set(self.signals.forwarded) & set(commands.TO_END)
        state, reason = state_of(exit_code, self.signal, asked, of_tasks=self.by_srun)
        if self.unwritten and self.status == 0:  # most programs would have noticed it themselves
            self.status, state = 1, "failed"
            reason += f", but its output could not be written: {self.unwritten}"
        self._record(Kind.END, {"state": state, "reason": reason, "exit_code": exit_code, "signal": self.signal,
                                "ended_ns": self.ended_ns or time.time_ns()})

    def _reap(self) -> None:
        if self.child is not None:
            self._record(Kind.END, {"rusage": commands.reap(self.child.pid)})
            self.child.returncode = self.status

    def _finish(self) -> int:
        began = time.monotonic()
        in_order = False
        with contextlib.suppress(Exception):  # a daemon's trouble is in its log; the stitch works with what there is
            in_order = self.daemons.finish(FINISH_S)
        self._reap()
        if not in_order:
            self._trouble("a daemon did not end in order; the archive is made from what it left",
                          hint=f"see {self.run_dir / 'logs'}")
        self.spool.close()
        self.daemons.goodbye()
        # Daemons on other nodes that cannot be reached go on by themselves once we are gone.
        patience_s = UNREACHED_S if not in_order and not isinstance(self.daemons, Daemons) else float("inf")
        status = self._wait_for_archive(began, patience_s)
        if status is None:
            self.daemons.let_go()
            say(f"the archive is still being made in {show_path(self.run_dir)}")
            return self.status
        self.daemons.close()
        if status != 0:
            status = subprocess.run([sys.executable, "-P", "-m", "yprovd.stitch", str(self.run_dir)],
                                    stdin=subprocess.DEVNULL, env=clean_environment(), check=False).returncode
        if status != 0:
            say("warning: the archive could not be made; the spool is kept\n"
                f"hint: yprov stitch {show_path(self.run_dir)}")
        return self.status

    def _wait_for_archive(self, began: float, patience_s: float) -> int | None:
        """The status of the stitch; None when it is not there in time, or the user does not want to wait (Ctrl-C)."""
        self.signals.interrupted = 0
        told = began + 2.0
        deadline = time.monotonic() + patience_s
        while True:
            status = self.daemons.archive_made(0.1)
            if status is not None or self.signals.interrupted or time.monotonic() > deadline:
                return status
            if time.monotonic() > told:
                say(f"making the archive ({time.monotonic() - began:.0f} s; Ctrl-C leaves it to the background)")
                told = time.monotonic() + 10.0

    def _trouble(self, text: str, *, hint: str = "") -> None:
        say(f"warning: {text}" + (f"\nhint: {hint}" if hint else ""))
        self.spool.write(Kind.NOTE, {"t": time.monotonic_ns(), "text": text})


def _given_environment() -> dict[str, str]:
    """Our environment as we were given it: Python sets LC_CTYPE for itself where there is no locale (PEP 538)."""
    environ = dict(os.environ)
    with contextlib.suppress(OSError):
        given = b"\0" + Path("/proc/self/environ").read_bytes()
        if b"\0LC_CTYPE=" not in given:
            environ.pop("LC_CTYPE", None)
    return environ


def state_of(exit_code: int, signum: int, asked_to_stop: object, *, of_tasks: bool = False) -> tuple[str, str]:
    """(state, reason) of an ended command. Killed: by SIGKILL, ours or anybody's (the out-of-memory killer's).
    Cancelled: it was sent a signal through us and did not end with 0. Else its exit status decides; with `of_tasks` one
    of 128 + N tells that signal N ended the command's tasks."""
    reason = f"signal {signal.Signals(signum).name}" if signum else f"exit status {exit_code}"
    if of_tasks and not signum and exit_code - 128 in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        signum = exit_code - 128
        reason += f": {signal.Signals(signum).name} ended its tasks"
    if exit_code == 0:
        return "completed", reason
    if asked_to_stop or signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        return "cancelled", reason
    return ("killed" if signum == signal.SIGKILL else "failed"), reason


def say(text: str) -> None:
    """To stderr, each line marked as ours. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("".join(f"yprov: {line}\n" for line in text.splitlines()))
        sys.stderr.flush()


def show_path(path: Path) -> str:
    """Relative where that is shorter, as the user would type it."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def find_program(argv: Sequence[str]) -> None:
    """Raises YprovError with the status of a shell (127, 126) for a command that cannot be started."""
    program = argv[0]
    if shutil.which(program):
        return
    if os.sep in program and os.path.exists(program):
        kind = "is a directory" if os.path.isdir(program) else "is not executable"
        raise CommandError(f"`{program}` {kind}", 126, hint="" if os.path.isdir(program) else f"chmod +x {program}")
    raise CommandError(f"`{program}` was not found", 127,
                       hint="quote a shell command: yprov run -- bash -c '...'" if " " in program else "")


class CommandError(YprovError):
    """The command cannot be started; `status` is what a shell would return."""

    def __init__(self, message: str, status: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


__all__ = ["CommandError", "RunConfig", "Wrapper", "find_program", "say", "show_path", "state_of"]
