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
from collections import namedtuple
from collections.abc import Mapping
from time import monotonic_ns

from yprov.spans import Span, Stage
from yprov.spans import scope as current
from yprov.values import INT64, flat, index_of, number_of, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Run = namedtuple("Run", "id directory")  # not typing.NamedTuple: importing typing is slow


class Client(Stage):
    """All of the API (`flush` too, which is the outbox's). One per process, made at import from the environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ.get("YPROV_ENDPOINT", ""), strict=environ.get("YPROV_STRICT", "") not in ("", "0"))
        self.run_id = environ.get("YPROV_RUN_ID", "")
        self.run_dir = environ.get("YPROV_RUN_DIR", "")

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
            at = current.get() or self.main_scope
            queue = self._metrics
            if len(queue) >= self.limit:
                return self._full()
            queue.append((monotonic_ns(), name, value, step, at.context if context is None else str(context),
                          at.epoch))
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

    def log_params(self, params: Any, role: str = "input") -> None:
        """`log_param` for each item of a mapping, of what argparse returns, of a dataclass instance, or for each public
        attribute of any other object; nested ones become names with dots (`optimizer.lr`)."""
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
                at = current.get() or self.main_scope
                self.put({"t": monotonic_ns(), "e": "event", "name": str(name), "context": at.context,
                          "epoch": at.epoch, "attributes": {k: plain(v) for k, v in attributes.items()}})
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
            at = current.get() or self.main_scope
            self.put({"t": monotonic_ns(), "e": "file", "role": role, "path": where,
                      "name": os.path.basename(where) if name is None else str(name),
                      "context": at.context, "epoch": at.epoch, "copy": bool(copy)})
        except Exception:
            self.trouble("the file", path)

    def current_run(self) -> Run | None:
        """The run that this process belongs to (`id`, `directory`), None outside of `yprov run`."""
        return Run(self.run_id, self.run_dir) if self.run_id else None


client = Client(os.environ)
