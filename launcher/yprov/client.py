"""The in-script client. A call costs its caller a time stamp and an append; one thread sends (`yprov.outbox`).

Rules of this file: nothing here raises into the script, waits for anybody, prints to stdout, or grows without bound.
What cannot be kept is counted, and the count reaches the archive. At import only the standard library's smallest
modules are loaded; `threading`, `yprovd.wire` and `zmq` come with the first event.

Forked children (os.fork, multiprocessing, DataLoader workers) are processes of their own: they start with empty
queues, a connection of their own, and the context and epoch that their parent was in. A span that the parent opened
is the parent's to close.
"""

from __future__ import annotations

import os
import sys
from _contextvars import ContextVar
from collections import namedtuple
from collections.abc import Mapping
from itertools import count
from time import monotonic_ns

from yprov.outbox import Outbox
from yprov.values import INT64, flat, index_of, number_of, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

Run = namedtuple("Run", "id directory")  # not typing.NamedTuple: importing typing is slow


class Scope:
    """Where something happens: in which context, epoch and span, and in which generation of forks that was opened."""

    __slots__ = ("context", "epoch", "generation", "span")

    def __init__(self, context: str | None, epoch: int | None, span: int, generation: int) -> None:
        self.context = context
        self.epoch = epoch
        self.span = span
        self.generation = generation


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
            epoch = name = index_of(name)
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


class Client(Outbox):
    """All of the API (`flush` too, which is the outbox's). One per process, made at import from the environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ.get("YPROV_ENDPOINT", ""), strict=environ.get("YPROV_STRICT", "") not in ("", "0"))
        self.run_id = environ.get("YPROV_RUN_ID", "")
        self.run_dir = environ.get("YPROV_RUN_DIR", "")
        self.generation = 0
        self.main_scope = _NOWHERE
        self.main_open: list[Scope] = []  # of the main thread and its tasks, in the order in which they were opened
        self.span_ids = count(1)
        if self.enabled and self.in_main_thread():
            _scope.set(_NOWHERE)  # so that a task without a span is nowhere, and not where another task is

    def _after_fork(self) -> None:
        super()._after_fork()
        self.generation += 1
        self.span_ids = count(1)

    # -- the API ---------------------------------------------------------------------------------------------------

    def log_metric(self, name: str, value: Any, step: int | None = None, context: str | None = None) -> None:
        """Record one number: a Python, numpy or torch scalar, NaN and infinity too. `context` is the one that is
        open (`yprov.context`) unless it is given; the epoch is the one that is open. Costs the caller about 0.5 us."""
        if not self.enabled:
            return
        try:
            if type(value) is not float:
                value = number_of(value)
            if type(name) is not str:
                name = str(name)
            if step is not None and (type(step) is not int or not -INT64 < step < INT64):
                step = index_of(step)
            scope = _scope.get() or self.main_scope
            queue = self._metrics
            if len(queue) >= self.limit:
                return self._full()
            queue.append((monotonic_ns(), name, value, step, scope.context if context is None else str(context),
                          scope.epoch))
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

    def current_run(self) -> Run | None:
        """The run that this process belongs to (`id`, `directory`), None outside of `yprov run`."""
        return Run(self.run_id, self.run_dir) if self.run_id else None

    def in_main_thread(self) -> bool:
        threading = sys.modules.get("threading")
        return threading is None or threading.current_thread() is threading.main_thread()


client = Client(os.environ)
