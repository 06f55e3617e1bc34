"""`yprov run`: the run's directory, the daemons, the command, and the end, in this order and whatever happens.

The command's exit status is ours. What goes wrong on our side is said on stderr, and costs the record, never the job.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from yprov import allocation
from yprov import command as commands
from yprov.archiving import see_to_archive
from yprov.capture import Capture, about_run
from yprov.channels import LOG_LIMIT, Channel, leave_pump, open_channels, resize
from yprov.placement import find as find_placement
from yprov.program import given_environment, state_of
from yprov.records import LauncherSpool
from yprov.runs import create
from yprov.saying import say, say_nothing, show_path
from yprov.starting import Started, call_the_roll, start_daemons
from yprovd.config import SPOOL_DIR, Settings
from yprovd.errors import YprovError
from yprovd.files import FileWorker
from yprovd.processes import MARKER, job_processes, short_name
from yprovd.secrets import Masker, known_values, values_of_command
from yprovd.wire import Kind

#: How long the end may take: the nodes' last samples and files; and then the archive, after which it is left to the
#: collector, which goes on by itself.
FINISH_S = 40.0
#: How long the end waits for the scheduler's answer about the job; it was asked at the start.
ASK_S = 5.0
#: Open files that the launcher and the daemons may need.
FILES_NEEDED = 64


class Wrapper:
    """One execution of `yprov run`. `quiet`: nothing is said of how it goes on, only what is wrong."""

    def __init__(self, settings: Settings, argv: Sequence[str], *, root: str = "/", quiet: bool = False) -> None:
        self.settings = settings
        self.progress = say_nothing if quiet else say
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
        started = start_daemons(self.run_dir, self.config, placement)
        self.daemons, self.config = started.daemons, started.config
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
        self._call_the_roll(started)
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

    def _call_the_roll(self, started: Started) -> None:
        roll = call_the_roll(self.run_dir, started, lambda: bool(self.signals.interrupted), self.progress)
        self.daemons, self.config = roll.daemons, roll.config
        self.spool.write(Kind.RUN, {"config": self.config.to_json(), "daemons": roll.about})
        for text, hint in roll.troubles:
            self._trouble(text, hint=hint)

    def _still_looking(self) -> Callable[[], bool]:
        """While the code is being looked at and the command has ended already; Ctrl-C leaves it out."""
        told = time.monotonic() + 2.0

        def meanwhile() -> bool:
            nonlocal told
            self.daemons.say_hello()
            if time.monotonic() > told:
                told = float("inf")
                self.progress("looking at the code and its packages (some seconds; Ctrl-C leaves out what is missing)")
            return not self.signals.interrupted

        return meanwhile

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

    def _trouble(self, text: str, *, hint: str = "") -> None:
        say(f"warning: {text}" + (f"\nhint: {hint}" if hint else ""))
        self.spool.write(Kind.NOTE, {"t": time.monotonic_ns(), "text": text})

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
        environ = {**given_environment(), MARKER: self.config.run_id, "YPROV_RUN_DIR": str(self.run_dir),
                   "YPROV_ENDPOINT": os.path.join(self.config.runtime_dir, "node.sock")}
        channels = []
        try:
            channels = open_channels(self.run_dir / "logs")
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
        self.signals.on_resize = lambda: resize(c for c, _ in channels)
        left = self._pass_through([c for c, _ in channels], self.child.pid)
        if left and not self.killed:
            leave_pump(left)
        for channel, fds in channels:
            if channel.error:
                self._trouble(f"{channel.lost} bytes of the command's output could not be written on: {channel.error}",
                              hint=f"see {self.run_dir / 'logs'}")
                self.unwritten = channel.error if 1 in fds else self.unwritten
            if channel.log_lost:
                self._trouble(f"{channel.log_lost} bytes of the command's output are not in logs/",
                              hint=f"{LOG_LIMIT >> 20} MiB of each stream are kept, where the disk has room")
            channel.close()

    def _pass_through(self, channels: list[Channel], pid: int) -> list[Channel]:
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
        see_to_archive(self.run_dir, self.daemons, self.signals, began, self.progress, in_order=in_order)
        return self.status
