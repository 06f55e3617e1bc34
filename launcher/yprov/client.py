"""The in-script client. A call costs its caller a time stamp and an append; one thread sends.

Rules of this file: nothing here raises into the script, waits for anybody, prints to stdout, or grows without bound.
What cannot be kept is counted, and the count reaches the archive. At import only the standard library's smallest
modules are loaded; `threading`, `yprovd.wire` and `zmq` come with the first event.

Forked children (os.fork, multiprocessing, DataLoader workers) are processes of their own: they start with empty
queues, a connection of their own, and the context and epoch that their parent was in. A span that the parent opened
is the parent's to close.
"""

from __future__ import annotations

import atexit
import os
import sys
from _contextvars import ContextVar
from _thread import RLock, allocate_lock  # as `threading` has them, and there before it is loaded
from collections import deque, namedtuple
from collections.abc import Mapping
from itertools import count
from time import monotonic_ns, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

#: Calls kept until the thread takes them, metrics and other events each: half a million calls of many threads at once
#: are kept though our own thread gets its turn late (some 150 bytes for a metric, 600 for another event, at the worst).
QUEUE_LIMIT = 1 << 19
#: The thread ships this often while there is something to ship.
PERIOD_S = 0.1
#: How long the end of the program waits for the last events to be on disk.
EXIT_S = 2.0
#: How long a fork waits for our thread's imports: a child that is made in the middle of them inherits locked modules.
LOAD_S = 10.0

Run = namedtuple("Run", "id directory")  # not typing.NamedTuple: importing typing is slow
Scope = namedtuple("Scope", "context epoch span generation")
_NOWHERE = Scope(None, None, 0, 0)
#: Where this thread or task is; None: where the main thread is.
_scope: ContextVar[Scope | None] = ContextVar("yprov_scope", default=None)
_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE


class Span:
    """What `context()`, `epoch()` and `span()` return: a context manager, and a decorator."""

    __slots__ = ("_client", "_kind", "_name", "_open")

    def __init__(self, client: Client, kind: str, name: Any) -> None:
        self._client = client
        self._kind = kind
        self._name = name
        self._open: list[tuple[Scope, Scope | None]] = []  # what is inside and what was before; one may be re-entered

    def __enter__(self) -> Span:
        client = self._client
        if client.enabled:
            try:
                self._begin(client)
            except Exception:
                client.trouble(self._kind, self._name)
        return self

    def _begin(self, client: Client) -> None:
        before = _scope.get()
        scope = before or client.main_scope
        context, epoch, name = scope.context, scope.epoch, self._name
        if self._kind == "context":
            name = str(name)
            context = f"{context}/{name}" if context else name
        elif self._kind == "epoch":
            epoch = name = _index(name)
        name = str(name)
        inside = Scope(context, epoch, next(client.span_ids), client.generation)
        self._open.append((inside, before))
        _scope.set(inside)
        if client.in_main_thread():
            client.main_open.append(inside)
            client.main_scope = inside
        parent = scope.span if scope.generation == client.generation else 0  # our parent process's spans are its own
        client.put({"t": monotonic_ns(), "e": "begin", "id": inside.span, "parent": parent, "kind": self._kind,
                    "name": name, "context": context, "epoch": epoch})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        client = self._client
        if not self._open:
            return
        inside, before = self._open.pop()
        _scope.set(before)
        if inside in client.main_open:  # tasks of the main thread overlap: this need not be the innermost one
            client.main_open.remove(inside)
            client.main_scope = client.main_open[-1] if client.main_open else _NOWHERE
        if inside.generation == client.generation:  # else: we are a fork, and this span is our parent's
            try:
                client.put({"t": monotonic_ns(), "e": "end", "id": inside.span})
            except Exception:
                client.trouble(f"the end of {self._kind}", self._name)

    def __call__(self, function: F) -> F:
        """As a decorator: every call of the function is a span, of a coroutine function from its first to its last
        step."""
        from functools import wraps

        if getattr(getattr(function, "__code__", None), "co_flags", 0) & _CO_COROUTINE:
            @wraps(function)
            async def inner_task(*args: Any, **kwargs: Any) -> Any:
                with Span(self._client, self._kind, self._name):
                    return await function(*args, **kwargs)

            return inner_task  # type: ignore[return-value]

        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with Span(self._client, self._kind, self._name):
                return function(*args, **kwargs)

        return inner  # type: ignore[return-value]


class Client:
    """All of the API. One per process, made at import from the environment; `enabled` is whether anybody listens."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.endpoint = environ.get("YPROV_ENDPOINT", "")
        self.enabled = bool(self.endpoint)
        self.strict = environ.get("YPROV_STRICT", "") not in ("", "0")
        self.run_id = environ.get("YPROV_RUN_ID", "")
        self.run_dir = environ.get("YPROV_RUN_DIR", "")
        self.generation = 0
        self.main_scope = _NOWHERE
        self.main_open: list[Scope] = []  # of the main thread and its tasks, in the order in which they were opened
        self._graveyard: list[Any] = []
        self._reset()
        if self.enabled:
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)
            atexit.register(self._at_exit)  # at import, so that it runs after the handlers of the script
            if self.in_main_thread():
                _scope.set(_NOWHERE)  # so that a task without a span is nowhere, and not where another task is

    def _reset(self) -> None:
        # Appended to by the script's threads, emptied by ours; len() and append are atomic.
        self._metrics: deque[tuple[int, str, float, int | None, str | None, int | None]] = deque()
        self._events: deque[dict[str, Any]] = deque()
        self._thread: threading.Thread | None = None
        self._wake: Any = None  # threading.Event and Condition, made with the thread
        self._condition: Any = None
        self._loaded: Any = None
        self._idle = False
        self._stopping = False
        self._dropped = 0
        self._shipped = 0
        self._tickets = self._served = 0
        self._warned: set[str] = set()
        self.span_ids = count(1)

    def _before_fork(self) -> None:
        """A child that is forked while our thread imports finds modules that are half there and locked for good."""
        if self._loaded is not None:
            self._loaded.wait(LOAD_S)

    def _after_fork(self) -> None:
        """In the child: forget the parent's queues and thread; its socket is left alone, closing it is not ours."""
        self._graveyard.append(self._thread)
        self.generation += 1
        self._reset()

    # -- the API ---------------------------------------------------------------------------------------------------

    def log_metric(self, name: str, value: Any, step: int | None = None, context: str | None = None) -> None:
        """Record one number: a Python, numpy or torch scalar, NaN and infinity too. `context` is the one that is
        open (`yprov.context`) unless it is given; the epoch is the one that is open. Costs the caller about 0.5 us."""
        if not self.enabled:
            return
        try:
            if type(value) is not float:
                value = _number(value)
            if type(name) is not str:
                name = str(name)
            if step is not None and (type(step) is not int or not -_INT64 < step < _INT64):
                step = _index(step)
            scope = _scope.get() or self.main_scope
            queue = self._metrics
            if len(queue) >= QUEUE_LIMIT:
                return self._full()
            queue.append((monotonic_ns(), name, value, step, scope[0] if context is None else str(context), scope[1]))
            if self._thread is None or self._idle:
                self._rouse()
        except Exception:
            self.trouble("log_metric", name)

    def log_metrics(
        self, metrics: Mapping[str, Any], step: int | None = None, context: str | None = None
    ) -> None:
        """`log_metric` for each item of the mapping."""
        if self.enabled:
            try:
                items = list(metrics.items())
            except Exception:
                return self.trouble("log_metrics")
            for name, value in items:
                self.log_metric(name, value, step, context)

    def log_param(self, name: str, value: Any, role: str = "input") -> None:
        """Record a parameter of the run (a hyperparameter, a setting); with `role="output"` a result that the run came
        to (the best learning rate of a search). The last value logged counts."""
        if self.enabled:
            try:
                if role not in ("input", "output"):
                    raise ValueError(f"the role of a parameter is `input` or `output`, not `{role}`")
                self.put({"t": monotonic_ns(), "e": "param", "name": str(name), "value": plain(value),
                          **({} if role == "input" else {"role": role})})
            except Exception:
                self.trouble("log_param", name)

    def log_params(self, params: Mapping[str, Any], role: str = "input") -> None:
        """`log_param` for each item; nested mappings become names with dots (`optimizer.lr`)."""
        if self.enabled:
            try:
                items = list(flat(params))
            except Exception:
                return self.trouble("log_params")
            for name, value in items:
                self.log_param(name, value, role)

    def context(self, name: str) -> Span:
        """`with yprov.context("training"):` what happens inside belongs to it. Contexts nest: training/augment."""
        return Span(self, "context", name)

    def epoch(self, k: int) -> Span:
        """`with yprov.epoch(k):` inside of a context or around it."""
        return Span(self, "epoch", k)

    def span(self, name: str) -> Span:
        """`with yprov.span("forward"):` a stretch of the program that gets its own time and energy."""
        return Span(self, "span", name)

    def event(self, name: str, /, **attributes: Any) -> None:
        """Something that happened now."""
        if self.enabled:
            try:
                scope = _scope.get() or self.main_scope
                self.put({"t": monotonic_ns(), "e": "event", "name": str(name), "context": scope.context,
                          "epoch": scope.epoch, "attributes": {k: plain(v) for k, v in attributes.items()}})
            except Exception:
                self.trouble("event", name)

    def log_input(self, path: str | os.PathLike[str]) -> None:
        """A file that the run reads. Its size and SHA-256 are taken in the background, by the daemon."""
        self._file("input", path, None, copy=False)

    def log_artifact(self, path: str | os.PathLike[str], role: str = "output", copy: bool = False) -> None:
        """A file that the run made (or, with `role="input"`, read). `copy=True` keeps a copy in the run's archive."""
        self._file(role, path, None, copy=copy)

    def log_dataset(self, name: str, path: str | os.PathLike[str]) -> None:
        """A dataset that the run uses in the context that is open: models declared later come from it."""
        self._file("dataset", path, name, copy=False)

    def log_model(self, name: str, path: str | os.PathLike[str]) -> None:
        """A model or checkpoint, complete on disk at this moment. Declared again, it is the next version of it."""
        self._file("model", path, name, copy=False)

    def _file(self, role: str, path: str | os.PathLike[str], name: str | None, *, copy: bool) -> None:
        if not self.enabled:
            return
        try:
            if role not in ("input", "output", "dataset", "model"):
                raise ValueError(f"a role is `input`, `output`, `dataset` or `model`, not `{role}`")
            where = os.fspath(path)
            if "://" not in where:  # else the address of something that is no file here
                where = os.path.abspath(where)
            scope = _scope.get() or self.main_scope
            self.put({"t": monotonic_ns(), "e": "file", "role": role, "path": where,
                      "name": os.path.basename(where) if name is None else str(name),
                      "context": scope.context, "epoch": scope.epoch, "copy": bool(copy)})
        except Exception:
            self.trouble("the file", path)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait, `timeout` seconds at most, until everything logged so far is on disk. Returns whether it is.
        Call it before `os._exit`, which gives nobody a chance to send the last tenth of a second."""
        if not self.enabled:
            return not self.endpoint  # somebody should have listened, and it could not be reached
        if self._thread is None:
            return True
        try:
            with self._condition:
                self._tickets += 1
                ticket = self._tickets
                self._wake.set()
                return bool(self._condition.wait_for(lambda: self._served >= ticket, timeout))
        except Exception:
            self.trouble("flush")
            return False

    def current_run(self) -> Run | None:
        """The run that this process belongs to (`id`, `directory`), None outside of `yprov run`."""
        return Run(self.run_id, self.run_dir) if self.run_id else None

    # -- the caller's side -----------------------------------------------------------------------------------------

    def put(self, event: dict[str, Any]) -> None:
        if len(self._events) >= QUEUE_LIMIT:
            return self._full()
        self._events.append(event)
        if self._thread is None or self._idle:
            self._rouse()

    def in_main_thread(self) -> bool:
        threading = sys.modules.get("threading")
        return threading is None or threading.current_thread() is threading.main_thread()

    def _rouse(self) -> None:
        """Start the thread, or wake it from a long rest."""
        if self._thread is not None:
            self._idle = False
            self._wake.set()
            return
        lock = _lock("start")
        if not lock.acquire(blocking=False):
            return  # somebody is at it, perhaps this thread below a signal handler of the script
        try:
            if self._thread is not None:
                return
            import threading

            self._wake = threading.Event()
            self._condition = threading.Condition()
            self._loaded = threading.Event()
            thread = threading.Thread(target=self._ship_all, name="yprov", daemon=True)
            thread.start()
            self._thread = thread
        finally:
            lock.release()
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize  # such a child ends by os._exit, after its finalizers

            Finalize(None, self._at_exit, exitpriority=100)

    def _drop(self, calls: int = 1) -> None:
        with _lock("count"):
            self._dropped += calls

    def _full(self) -> None:
        self._drop()
        self._warn("full", "events come faster than they can be sent; what is left out is counted")

    def trouble(self, what: str, about: Any = None) -> None:
        """The one place where our own failures end: raised in strict mode, else counted and said once per `what`."""
        if self.strict:
            raise  # we are called from an except block
        self._drop()
        try:
            self._warn(what, f"{what}({'' if about is None else repr(about)}) was not recorded: {sys.exc_info()[1]}")
        except Exception:
            self._warn(what, f"{what} was not recorded")  # what it is about cannot even be shown
        if self._thread is None and self.enabled:
            try:
                self._rouse()  # to tell the count, also when nothing else is ever said
            except Exception:
                self.enabled = False

    def _warn(self, topic: str, text: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            try:
                sys.stderr.write(f"yprov: {text}\n")
            except Exception:
                pass

    def _at_exit(self) -> None:
        thread = self._thread
        if thread is None or self._stopping:
            return
        self._stopping = True
        self._wake.set()
        self._loaded.wait(LOAD_S)  # a short program on a slow file system is over before our imports are
        thread.join(EXIT_S + 0.5)

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _ship_all(self) -> None:
        """The thread: empty the queues every `PERIOD_S`, keep what is not acknowledged, end with the program."""
        try:
            shipper = _load()(self.endpoint)
            self._loaded.set()
        except Exception as e:
            self.enabled = False
            self._loaded.set()
            self._metrics.clear()
            self._events.clear()
            hint = "\nhint: pip install pyzmq" if isinstance(e, ImportError) else ""
            self._warn("start", f"nothing of this process is recorded: {e}{hint}")
            with self._condition:
                self._served = 1 << 62
                self._condition.notify_all()
            return
        wake, quiet = self._wake, 0
        while True:
            if self._stopping:
                break
            if quiet > 10:
                self._idle = True  # nothing for a second: rest until a caller wakes us
                if not (self._metrics or self._events or shipper.waiting):
                    wake.wait(60.0)
            else:
                wake.wait(PERIOD_S)
            wake.clear()
            self._idle = False
            tickets = self._tickets
            shipped = self._drain(shipper, sync=tickets > self._served)
            shipper.receive(0)
            quiet = 0 if shipped or shipper.waiting else quiet + 1
            if tickets > self._served:
                self._serve(shipper, tickets)
        self._drain(shipper, sync=True, last=True)
        shipper.wait(EXIT_S if shipper.reachable else 0.0)
        shipper.close()
        with self._condition:
            self._served = 1 << 62
            self._condition.notify_all()

    def _serve(self, shipper: Any, tickets: int) -> None:
        """Somebody waits in `flush`: stay until everything is acknowledged, or new things are to be sent."""
        shipper.wait(PERIOD_S)
        if not shipper.waiting:
            with self._condition:
                self._served = tickets
                self._condition.notify_all()
        else:
            self._wake.set()

    def _drain(self, shipper: Any, *, sync: bool, last: bool = False) -> int:
        metrics = [self._metrics.popleft() for _ in range(len(self._metrics))]
        events = [self._events.popleft() for _ in range(len(self._events))]
        calls = len(metrics) + len(events)
        refused = shipper.ship(metrics, events, dropped=self._dropped, sync=sync)
        self._shipped += calls - refused
        if refused:
            self._drop(refused)
            self._warn("refused", f"{refused} events were not recorded: they cannot be written")
        if last:
            leave = {"t": monotonic_ns(), "e": "exit", "logged": self._shipped, "dropped": self._dropped}
            shipper.ship([], [leave], dropped=self._dropped, sync=True)
        return calls


def _lock(purpose: str) -> Any:
    """A lock for a rare path, made when it is first needed (a fork must not inherit it locked)."""
    lock = _locks.get((purpose, os.getpid()))
    if lock is None:
        # A signal handler of the script may come back to us in the middle of counting, and must not wait for itself.
        new = RLock() if purpose == "count" else allocate_lock()
        lock = _locks.setdefault((purpose, os.getpid()), new)
    return lock


_locks: dict[tuple[str, int], Any] = {}


def _load() -> Any:
    """The class that ships. We import beside a script that imports too: now and then a module is seen half-loaded
    there ("name 'sys' is not defined" in the middle of zmq, seen once in some thousand starts), and is whole when it
    is asked for again."""
    before = set(sys.modules)
    for tries_left in (2, 1, 0):
        try:
            from yprov.shipping import Shipper

            return Shipper
        except ModuleNotFoundError:
            raise
        except Exception:
            if not tries_left:
                raise
            for name in set(sys.modules) - before:
                if name.partition(".")[0] == "zmq":
                    del sys.modules[name]
            sleep(PERIOD_S)
    raise AssertionError
_INT64 = 1 << 63


def _number(value: Any) -> float:
    """Anything that is one number, as a float; numpy and torch scalars by their `item()`. Raises TypeError."""
    if not isinstance(value, (int, float)) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"not a number: {value!r}")
    return float(value)


def _index(value: Any) -> int:
    """A whole number of 64 bits; also 3.0 and numpy's and torch's. Raises TypeError or ValueError."""
    number = _number(value)
    if number != number // 1:
        raise ValueError(f"not a whole number: {value!r}")
    whole = int(value)
    if not -_INT64 < whole < _INT64:
        raise ValueError(f"too large: {number:g}")
    return whole


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it: scalars and containers of them as they are, arrays as lists, anything else as its
    text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        value = value if type(value) in (bool, int, float, str, type(None)) else _base(value)
        # Python refuses to write an integer of more than 4300 digits as a decimal number.
        return hex(value) if type(value) is int and value.bit_length() > 4096 else value
    if depth < 8:
        if isinstance(value, Mapping):
            return {str(k): plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [plain(v, depth + 1) for v in value]
        if hasattr(value, "item") and getattr(value, "size", None) == 1:
            return plain(value.item(), depth + 1)
        if callable(getattr(value, "tolist", None)) and getattr(value, "nbytes", 1 << 20) <= 65536:
            return plain(value.tolist(), depth + 1)
    return str(value)


def _base(value: Any) -> Any:
    """An enum, a numpy float64 (which is a float) and other subclasses, as the plain type below them."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(value)
    return str(value)


def flat(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            out += flat(value, f"{prefix}{name}.")
        else:
            out.append((f"{prefix}{name}", value))
    return out


client = Client(os.environ)
