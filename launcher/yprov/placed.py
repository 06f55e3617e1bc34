"""The daemons of a run on the nodes of an allocation: started by the scheduler, met over the network.

One task of the daemon step runs on each node and holds that node's daemon, the first also the collector. The
scheduler's commands that hold it are those of `yprov.placed_steps`. The daemons end by message, and see for themselves
when we are gone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprov.placed_steps import Steps
from yprov.placement import Placement, Way, without_lost
from yprovd.config import COLLECTOR_FILE, KEY_FILE, PROV_FILE, SPOOL_DIR, RunConfig
from yprovd.errors import YprovError
from yprovd.inquiry import Inquiry
from yprovd.processes import short_name
from yprovd.rendezvous import announce_end, endpoint, has_ended, write_keys
from yprovd.spool import spool_files
from yprovd.transport import GOODBYE, QUESTION, STOP, Sender, new_keys

#: The collector hears from us this often.
HELLO_S = 1.0
#: A step that ends this often is not unlucky.
RESTARTS = 3
#: The collector was heard so recently: its step is there, whatever has become of the scheduler's command.
HEARD_S = 3.0
#: The collector was not heard for so long: whether its step has lost a node is asked.
LOST_S = 10.0
#: How long the archive of a step is waited for whose end nobody tells us.
MAKE_S = 60.0
#: How long a step may take to end once the archive is there.
LEAVE_S = 10.0


class PlacedDaemons:
    """The collector and one daemon for each node of the placement. For one thread. Raises YprovError when there is no
    way at all to start them."""

    def __init__(self, run_dir: Path, placement: Placement) -> None:
        self.run_dir = run_dir
        self.placement = placement
        self.fallbacks: list[str] = []      # a sentence for each way that was refused
        self.ready: list[str] = []          # hosts that have answered
        self._ways = list(placement.ways)
        self._way: Way | None = None
        self._steps = Steps(run_dir, placement.scheduler)
        self._restarts = 0
        self._said = 0.0
        self._ending = False
        self._without_client = False
        self._archive_by = 0.0
        self._inquiry = Inquiry(placement.job)
        self._first: list[str] = []  # the collector's node, where that is not the first any more
        self._gave_up = False
        self._whole_at = 0.0
        keys = new_keys()
        write_keys(run_dir, keys)
        (run_dir / COLLECTOR_FILE).touch(0o600)  # a file that is there is looked at again, also over NFS
        self._sender = Sender(functools.partial(endpoint, run_dir), limit=1 << 20, keys=keys,
                              identity=b"launcher-%d" % os.getpid())

    @property
    def placed_by(self) -> str:
        return self._way.name if self._way else ""

    @property
    def dark(self) -> list[str]:
        """Nodes that have not answered."""
        nodes, heard = self.placement.nodes, {short_name(host) for host in self.ready}
        if heard.isdisjoint(map(short_name, nodes)) and len(self.ready) >= len(nodes):
            return []  # the scheduler calls them otherwise than they call themselves
        return [node for node in nodes if node != "*" and short_name(node) not in heard]

    def about(self) -> dict[str, Any]:
        """For the run's record."""
        return {"placed_by": self.placed_by, "fallbacks": self.fallbacks, "expected": list(self.placement.nodes),
                "ready": sorted(self.ready), "dark": self.dark}

    # -- the start -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemons by the first way that is left. Raises YprovError when none is."""
        while self._ways:
            way = self._ways.pop(0)
            self._way = way
            try:
                self._steps.start(way, self._first)
                return
            except OSError as e:
                self.fallbacks.append(f"{way.name}: {e.strerror}")
        raise YprovError("no way is left to start the daemons on the nodes")

    def roll_call(self, timeout_s: float, interrupted: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Wait until every node has answered. False when one has not in time. Raises YprovError when no node can have a
        daemon by any way."""
        began = time.monotonic()
        expected = len(self.placement.nodes)
        asked = told = 0.0
        told = began + 2.0
        while not interrupted():
            now = time.monotonic()
            if now > began + timeout_s:
                break
            if not self._sender.connected:
                self._sender.reconnect()
            if self._sender.connected and now > asked + 0.01:
                # The list of hosts is long where there are many: only when all are there.
                self._sender.control(QUESTION, {"hosts": len(self.ready) >= expected})
                asked = now
            _, answers = self._sender.receive(5) if self._sender.connected else (None, [])
            if self._take(answers, expected):
                return True
            if self._steps.ended:
                self._fall_back()
            if not self._sender.connected:
                time.sleep(0.005)
            if now > told:
                say(f"waiting for the daemons: {len(self.ready)} of {expected} nodes")
                told = now + 5.0
        if interrupted():
            return False
        if not self.ready:
            self._give_up()
        self._ask_who_is_there()
        return False

    def _take(self, answers: list[Any], expected: int) -> bool:
        """Whether all nodes are there, by name."""
        for answer in answers:
            body = answer.body or {}
            if "hosts" in body:
                self.ready = list(body["hosts"])
                if self.placement.nodes == ("*",) or not self.dark:
                    return True
            elif "nodes" in body and len(self.ready) < expected:
                self.ready = ["?"] * int(body["nodes"])  # a number so far
        return False

    def _ask_who_is_there(self) -> None:
        deadline = time.monotonic() + 1.0
        self.ready = []
        while self._sender.connected and time.monotonic() < deadline:
            self._sender.control(QUESTION, {"hosts": True})
            _, answers = self._sender.receive(100)
            for answer in answers:
                if answer.body and "hosts" in answer.body:
                    self.ready = list(answer.body["hosts"])
                    return

    def _fall_back(self) -> None:
        """The scheduler has refused this way: the next one."""
        assert self._way is not None
        self.fallbacks.append(f"{self._way.name}: {self._steps.last_words()}")
        self.start()

    def _give_up(self) -> None:
        """Nobody can be reached. What has been started may come yet, or be healthy and only not to be seen from here:
        it finds that it is over, and leaves."""
        self._gave_up = True
        announce_end(self.run_dir)
        words = f": {said}" if (said := self._steps.complaint()) else ""
        self._steps.kill()
        raise YprovError(f"{self.placed_by}: no node answered{words}")

    # -- while the command runs ------------------------------------------------------------------------------------

    def say_hello(self) -> None:
        """Tell the collector that we are here, not more often than it needs."""
        now = time.monotonic()
        self._sender.receive(0)
        if now > self._said + HELLO_S:
            self._said = now
            if not self._sender.connected or now - self._sender.heard > 5.0:
                self._sender.reconnect()  # it was started again, and listens elsewhere
            self._sender.control(QUESTION, {})

    def look_after(self) -> list[str]:
        """Tell the collector that we are here, and start the step again when it has ended. About every second."""
        now = time.monotonic()
        self.say_hello()
        self._steps.let_live()
        left = self._nodes_left(now)
        if self._ending or not self._steps or not self._steps.ended:
            return []
        if now - self._sender.heard < HEARD_S:
            self._without_client = True
            return []  # the scheduler's command was killed, and the step goes on
        self._without_client = False
        if self._restarts >= RESTARTS or self._way is None:
            self._steps.forget()
            return ["the daemon step ended again and again, and is left alone"]
        self._restarts += 1
        try:
            if left:
                self.placement = self.placement._replace(nodes=tuple(left))
                self._first = left[:1]
                self._ways = list(without_lost(left, os.environ))
                self.start()
            else:
                self._steps.start(self._way, self._first)
        except (YprovError, OSError) as e:
            self._steps.forget()
            return [f"the daemon step ended and cannot be started again: {e}"]
        return ["the daemon step ended and was started again"]

    def _nodes_left(self, now: float) -> list[str]:
        """The nodes that the job goes on with, when the daemon step was lost with another one. Slurm's command then
        waits for ever for the tasks of the lost node, and is ended: it has none that lives."""
        silent_since = max(self._sender.heard, self._steps.started)
        if now < silent_since + LOST_S or self.placement.scheduler != "slurm" or "het_job_id" in self.placement.job:
            return []
        self._inquiry.ask()
        there = self._inquiry.facts.get("nodes")
        if self._inquiry.answered < silent_since or not there or set(self.placement.nodes) <= set(there):
            return []
        self._steps.kill()
        return list(there)

    def job_ends(self) -> None:
        """The scheduler ends the job: what ends now has ended for good."""
        self._ending = True

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self, timeout_s: float) -> bool:
        """Ask the collector to stop the nodes; wait until they have taken their last samples. Returns whether all ended
        in order."""
        self._ending = True
        deadline = time.monotonic() + timeout_s
        asked = 0.0
        tried = time.monotonic()  # when the connection was made, or made anew
        while (now := time.monotonic()) < deadline:
            if now > asked + 1.0:
                if not self._sender.connected or now - max(self._sender.heard, tried) > 2.0:
                    self._sender.reconnect()  # it was started again, and listens elsewhere
                    tried = now
                self._sender.control(STOP)
                asked = now
                self._nodes_left(now)
            _, answers = self._sender.receive(50)
            ended = self._steps.ended
            if any(a.body and "stopped" in a.body for a in answers):
                self._without_client = self._without_client or ended
                return True
            if not self._without_client and ended and now > self._sender.heard + HEARD_S:
                return False
        return False

    def goodbye(self) -> None:
        self._sender.control(GOODBYE)

    def archive_made(self, wait_s: float) -> int | None:
        """0 once the step has ended and left an archive, 1 when it has ended without; None while it is at work. A
        step that does not end though the archive has long been there is not waited for."""
        if self._without_client and not self._archive_is_whole():
            self._archive_by = self._archive_by or time.monotonic() + MAKE_S
            time.sleep(wait_s)
            return None if time.monotonic() < self._archive_by else 1
        ended, whole = self._steps.wait(wait_s), self._archive_is_whole()
        if ended:
            return 0 if whole else 1
        if not whole:
            return None
        self._whole_at = self._whole_at or time.monotonic()
        return 0 if time.monotonic() > self._whole_at + LEAVE_S else None

    def _archive_is_whole(self) -> bool:
        """Made, and no node has brought anything after it: one that was cut off comes back with a spool of its own."""
        try:
            made = (self.run_dir / PROV_FILE).stat().st_mtime_ns
            return all(path.stat().st_mtime_ns < made for path in spool_files(self.run_dir / SPOOL_DIR))
        except OSError:
            return False

    def close(self) -> None:
        """Leave. A step that is still there ends by itself; nothing here may hold up the job."""
        ended = self._steps.wait(LEAVE_S)
        self._sender.close()
        if ended:
            (self.run_dir / KEY_FILE).unlink(missing_ok=True)
            if not has_ended(self.run_dir):  # who comes late is to read so
                (self.run_dir / COLLECTOR_FILE).unlink(missing_ok=True)
            if self._gave_up:
                return
            with contextlib.suppress(YprovError):  # of daemons that were killed
                shutil.rmtree(RunConfig.read(self.run_dir).runtime_dir, ignore_errors=True)

    def let_go(self) -> None:
        """Leave at once: the collector sees that we are gone and finishes."""
        self._sender.close()
