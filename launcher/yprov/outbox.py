"""What a process of the job has said and nobody has sent yet, and the thread that sends it. Below `yprov.client`.

Nothing here raises into the script, waits for anybody (but `flush`, and the end of the program, for as long as they
say), prints to stdout, or grows without bound. The rare paths may be entered again from a signal handler or a
finalizer of the script, wherever they are: so nothing of the caller's side waits for a lock that it may hold itself.
What is not recorded is counted, and the counts reach the archive: *lost* is what could not be kept, *rejected* what
cannot be recorded because of what it is (a text where a number should be); of these the first reason is told too.
"""

from __future__ import annotations

import atexit
import os
import sys
from _thread import RLock, allocate_lock, get_ident  # as `threading` has them, and there before it is loaded
from collections import deque
from time import monotonic, monotonic_ns, sleep

from yprov.beginning import load, sign_in, sign_out

TYPE_CHECKING = False  # importing typing is slow
if TYPE_CHECKING:
    import threading
    from typing import Any

#: Calls kept until the thread takes them, metrics and other events each: half a million calls of many threads at once
#: are kept though our own thread gets its turn late (some 150 bytes for a metric, 600 for another event, at the worst).
QUEUE_LIMIT = 1 << 19
#: The thread ships this often while there is something to ship. After a rest it begins at once, and then waits longer
#: and longer: what is killed soon has said what it did, and a training that goes on logging costs no more for it.
PERIOD_S, FIRST_S = 0.1, 0.004
#: It rests when there was nothing for more of its turns than these.
TURNS = 2
#: How long the program's end waits for the last events to be on disk.
EXIT_S = 2.0
#: How long a fork waits for our thread's imports: a child that is made in the middle of them inherits locked modules.
LOAD_S = 10.0
_EVERYTHING = 1 << 62


class Outbox:
    """The queues, the thread, and how both pass a fork and the program's end. `enabled`: whether anybody listens."""

    def __init__(self, endpoint: str, *, strict: bool) -> None:
        self.endpoint = endpoint
        self.enabled = bool(endpoint)
        self.strict = strict
        self.limit = QUEUE_LIMIT
        self._graveyard: list[Any] = []
        self._reset()
        if self.enabled:
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)
            atexit.register(self._at_exit)  # at import, so that it runs after the handlers of the script

    def _reset(self) -> None:
        # Appended to by the script's threads, emptied by ours; len() and append are atomic.
        self._metrics: deque[tuple[int, str, float, int | None, str | None, int | None]] = deque()
        self._events: deque[dict[str, Any]] = deque()
        self._thread: threading.Thread | None = None
        self._starting = allocate_lock()
        self._wake = allocate_lock()  # held; to release it wakes the thread. An Event has a lock to be caught in
        self._wake.acquire()
        self._condition: Any = None  # threading.Condition and Event, made with the thread
        self._loaded: Any = None
        self._idle = self._stopping = False
        self._counting = RLock()  # a signal handler may come back to us in the middle of it
        self._source = 0  # its name as a source of frames, since its first call
        self._shipped = self._lost = self._rejected = 0
        self._reason = ""  # of the first call that was rejected
        self._tickets = self._served = 0
        self._warned: set[str] = set()

    def _before_fork(self) -> None:
        """See `LOAD_S`."""
        if self._loaded is not None:
            self._loaded.wait(LOAD_S)

    def _after_fork(self) -> None:
        """In the child: forget the parent's queues and thread; its socket is left alone, closing it is not ours."""
        self._graveyard.append(self._thread)
        self._reset()

    # -- the caller's side -----------------------------------------------------------------------------------------

    def put(self, event: dict[str, Any]) -> None:
        if len(self._events) >= self.limit:
            return self._full()
        self._events.append(event)
        if self._thread is None or self._idle:
            self._rouse()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait, `timeout` seconds at most, until everything logged so far is on disk. Returns whether it is.
        Call it before `os._exit`, which gives nobody a chance to send the last tenth of a second."""
        if not self.enabled or self._stopping or sys.is_finalizing():
            return not self.endpoint  # somebody should have listened, and could not be reached
        try:
            deadline = monotonic() + timeout
            while self._thread is None:
                if not (self._metrics or self._events or self._starting.locked()):
                    return True
                if monotonic() > deadline:
                    return False  # there is no thread to be had, or we are below a signal handler that interrupts one
                sleep(0.001)
            if self._thread.ident == get_ident():
                return False  # a finalizer of the script that runs in our thread: who should send?
            with self._condition:
                self._tickets += 1
                ticket = self._tickets
                self._wake_up()
                self._condition.wait_for(lambda: self._served >= ticket, max(0.0, deadline - monotonic()))
                return self._served >= ticket and self.enabled
        except Exception:
            self.trouble("flush")
            return False

    def _rouse(self) -> None:
        """Start the thread, or wake it from a long rest."""
        if self._stopping or sys.is_finalizing():  # a finalizer, or a handler of the end that comes after ours
            self._metrics.clear()
            self._events.clear()
            return self._warn("late", "what is logged after the program's end is not recorded")
        if self._thread is not None:
            self._idle = False
            self._wake_up()
            return
        if not self._starting.acquire(blocking=False):
            return  # somebody is at it, perhaps this thread below a signal handler of the script
        try:
            if self._thread is not None:
                return
            self._source = self._source or sign_in(self.endpoint)
            import threading

            self._condition = threading.Condition()
            self._loaded = threading.Event()
            thread = threading.Thread(target=self._ship_all, name="yprov", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # a limit is reached, or the interpreter ends: with the next call, or `_at_exit`
                self._loaded.set()
                return
            self._thread = thread
        finally:
            self._starting.release()
        if (process := sys.modules.get("multiprocessing.process")) and process.parent_process() is not None:
            from multiprocessing.util import Finalize  # such a child ends by os._exit, after its finalizers

            Finalize(None, self._at_exit, exitpriority=100)

    def _wake_up(self) -> None:
        try:
            self._wake.release()
        except RuntimeError:
            pass  # it is to wake already

    def _full(self) -> None:
        with self._counting:
            self._lost += 1
        self._warn("full", "events come faster than they can be sent; what is left out is counted")

    def trouble(self, what: str, about: Any = None) -> None:
        """The one place where our own failures end: raised in strict mode, else counted and said once per `what`."""
        if self.strict:
            raise  # we are called from an except block
        call = error = ""
        try:
            call, error = f"({'' if about is None else repr(about)})", f": {sys.exc_info()[1]}"
        except Exception:
            pass  # what it is about cannot even be shown
        self._reject(f"{what}{call}{error}")
        self._warn(what, f"{what}{call} was not recorded{error}")
        if self._thread is None and self.enabled:
            try:
                self._rouse()  # to tell the count, also when nothing else is ever said
            except Exception:
                self.enabled = False

    def _reject(self, reason: str) -> None:
        with self._counting:
            self._rejected += 1
            self._reason = self._reason or reason[:300]

    def _warn(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            try:
                sys.stderr.write(f"yprov: {text}\n")
            except Exception:
                pass  # there is no stderr

    def _at_exit(self) -> None:
        """The last words are sent, within `EXIT_S`; what is said after them is not recorded."""
        if self._stopping or not (self._thread or self._metrics or self._events or self._rejected):
            return  # for the second time; or nothing was said, and somebody who comes after us may still
        self._stopping = True
        try:
            if self._thread is not None:
                self._wake_up()
                self._loaded.wait(LOAD_S)  # a short program on a slow file system is over before our imports are
                self._thread.join(EXIT_S + 0.5)
                if self._thread.is_alive():
                    self._warn("end", f"the last events could not be sent within {EXIT_S:g} s")
            else:
                self._ship_all()  # no thread was to be had
        except KeyboardInterrupt:
            pass  # the user does not want to wait
        self._idle = True

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _ship_all(self) -> None:
        """The thread, from its imports to the end of the program."""
        try:
            shipper = load()(self.endpoint, self._source)
        except Exception as e:
            hint = "\nhint: pip install pyzmq" if isinstance(e, ImportError) else ""
            return self._give_up(f"nothing of this process is recorded: {e}{hint}")
        finally:
            if self._loaded is not None:
                self._loaded.set()
        try:
            self._ship_until_the_end(shipper)
        except Exception as e:
            self._give_up(f"the rest of this process is not recorded: {type(e).__name__}: {e}")

    def _give_up(self, text: str) -> None:
        self.enabled = False
        self._metrics.clear()
        self._events.clear()
        self._warn("start", text)
        self._serve(_EVERYTHING)

    def _ship_until_the_end(self, shipper: Any) -> None:
        """Empty the queues every `PERIOD_S`, keep what is not acknowledged, end with the program."""
        quiet, pause_s = 0, 0.0
        while not self._stopping:
            if quiet > TURNS and pause_s == PERIOD_S:
                self._idle = True  # rest until a caller wakes us
                if not (self._metrics or self._events or shipper.waiting):
                    self._wake.acquire(timeout=60.0)
                    pause_s = 0.0
            else:
                self._wake.acquire(timeout=pause_s)
            pause_s = min(max(2 * pause_s, FIRST_S), PERIOD_S)
            self._idle = False
            tickets = self._tickets
            shipped = self._ship(shipper, sync=tickets > self._served)
            shipper.receive(0)
            quiet = 0 if shipped or shipper.waiting else quiet + 1
            if tickets > self._served:  # somebody waits in `flush`: stay, unless new things are to be sent
                shipper.wait(PERIOD_S)
                if shipper.waiting:
                    self._wake_up()
                else:
                    self._serve(tickets)
        self._ship(shipper, sync=True)
        leave = {"t": monotonic_ns(), "e": "exit", "logged": self._shipped, "dropped": self._lost,
                 "rejected": self._rejected}
        self._hand_over(shipper, [], [leave], sync=True)
        shipper.wait(EXIT_S if shipper.reachable else 0.0)
        self.enabled = not shipper.waiting
        if self.enabled:
            sign_out(self.endpoint, self._source)
        shipper.close()
        self._serve(_EVERYTHING)

    def _serve(self, tickets: int) -> None:
        """Let those go who wait in `flush`."""
        if self._condition is not None:
            with self._condition:
                self._served = tickets
                self._condition.notify_all()

    def _ship(self, shipper: Any, *, sync: bool) -> bool:
        """Returns whether there was anything."""
        metrics = [self._metrics.popleft() for _ in range(len(self._metrics))]
        events = [self._events.popleft() for _ in range(len(self._events))]
        if events and shipper.reachable and (missing := shipper.look(events)):
            self._warn("missing", f"there is no `{missing}`: it is recorded as declared, and missing")
        self._shipped += len(metrics) + len(events) - self._hand_over(shipper, metrics, events, sync=sync)
        return bool(metrics or events)

    def _hand_over(self, shipper: Any, metrics: list[Any], events: list[Any], *, sync: bool) -> int:
        """Returns how many calls cannot be written."""
        refused = shipper.ship(metrics, events, lost=self._lost, rejected=self._rejected, reason=self._reason,
                               sync=sync)
        for reason in refused:
            self._reject(reason)
        if refused:
            self._warn("refused", f"{len(refused)} events were not recorded: they cannot be written")
        return len(refused)
