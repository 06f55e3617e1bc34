"""Where in the program something happens: stretches of it, which nest, and which of them each thread and task is in.

A span opened by a decorator lasts as long as what it decorates works: a function until it returns, a coroutine until it
ends, a generator from its first step to its last. Between two steps of a generator the program is where it was, and in
its next step where that generator was: generators may be interleaved, dropped, and closed by anybody.
"""

from __future__ import annotations

import sys
from _contextvars import ContextVar
from itertools import count
from time import monotonic_ns

from yprov.outbox import Outbox
from yprov.values import index_of

TYPE_CHECKING = False  # importing typing is slow
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from types import TracebackType
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])


class Scope:
    """Where something happens: in which context, epoch and span, and in which generation of forks that was opened."""

    __slots__ = ("context", "epoch", "generation", "span")

    def __init__(self, context: str | None, epoch: int | None, span: int, generation: int) -> None:
        self.context = context
        self.epoch = epoch
        self.span = span
        self.generation = generation


NOWHERE = Scope(None, None, 0, 0)
#: Where this thread or task is; None: where the main thread is.
scope: ContextVar[Scope | None] = ContextVar("yprov_scope", default=None)
# inspect.CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR
_GENERATOR, _COROUTINE, _AWAITED_GENERATOR, _ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200


class Stage(Outbox):
    """The outbox of a process that knows what is open in it."""

    def __init__(self, endpoint: str, *, strict: bool) -> None:
        super().__init__(endpoint, strict=strict)
        self.generation = 0
        self.main_scope = NOWHERE
        self.main_open: list[Scope] = []  # of the main thread and its tasks, in the order in which they were opened
        self.span_ids = count(1)
        if self.enabled and self.in_main_thread():
            scope.set(NOWHERE)  # so that a task without a span is nowhere, and not where another task is

    def _after_fork(self) -> None:
        super()._after_fork()
        self.generation += 1
        self.span_ids = count(1)

    def inside(self, kind: str, name: Any, around: Scope) -> Scope:
        """The scope of what is opened now. Raises for a name that is none."""
        context, epoch = around.context, around.epoch
        text = str(name)
        if kind == "context":
            context = f"{context}/{text}" if context else text
        elif kind == "epoch":
            epoch = index_of(name)
        return Scope(context, epoch, next(self.span_ids), self.generation)

    def say_begin(self, kind: str, name: Any, inside: Scope, around: Scope) -> None:
        parent = around.span if around.generation == self.generation else 0  # our parent process's spans are its own
        self.put({"t": monotonic_ns(), "e": "begin", "id": inside.span, "parent": parent, "kind": kind,
                  "name": str(inside.epoch if kind == "epoch" else name),
                  "context": inside.context, "epoch": inside.epoch})

    def say_end(self, kind: str, name: Any, inside: Scope) -> None:
        if inside.generation == self.generation:  # else: we are a fork, and this span is our parent's
            try:
                self.put({"t": monotonic_ns(), "e": "end", "id": inside.span})
            except Exception:
                self.trouble(f"the end of {kind}", name)

    def main_enters(self, *scopes: Scope) -> None:
        self.main_open += scopes
        self.main_scope = self.main_open[-1]

    def main_leaves(self, *scopes: Scope) -> None:
        """Tasks of the main thread overlap: these need not be the innermost ones."""
        for one in scopes:
            if one in self.main_open:
                self.main_open.remove(one)
        self.main_scope = self.main_open[-1] if self.main_open else NOWHERE

    def in_main_thread(self) -> bool:
        threading = sys.modules.get("threading")
        return threading is None or threading.current_thread() is threading.main_thread()


class Span:
    """What `context()`, `epoch()` and `span()` return: a context manager, and a decorator."""

    __slots__ = ("_kind", "_name", "_open", "_stage")

    def __init__(self, stage: Stage, kind: str, name: Any) -> None:
        self._stage = stage
        self._kind = kind
        self._name = name
        self._open: list[tuple[Scope, Scope | None]] = []  # what is inside and what was before; one may be re-entered

    def __enter__(self) -> Span:
        stage = self._stage
        if stage.enabled:
            try:
                before = scope.get()
                around = before or stage.main_scope
                inside = stage.inside(self._kind, self._name, around)
                self._open.append((inside, before))
                scope.set(inside)
                if stage.in_main_thread():
                    stage.main_enters(inside)
                stage.say_begin(self._kind, self._name, inside, around)
            except Exception:
                stage.trouble(self._kind, self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._open:
            return
        inside, before = self._open.pop()
        scope.set(before)
        self._stage.main_leaves(inside)
        self._stage.say_end(self._kind, self._name, inside)

    def __call__(self, function: F) -> F:
        """As a decorator: every call of the function is a span; of a coroutine function and a generator function from
        its first to its last step."""
        from functools import wraps

        stage, kind, name = self._stage, self._kind, self._name
        flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
        if flags & _COROUTINE:
            @wraps(function)
            async def inner_task(*args: Any, **kwargs: Any) -> Any:
                with Span(stage, kind, name):
                    return await function(*args, **kwargs)

            return inner_task  # type: ignore[return-value]

        if flags & _ASYNC_GENERATOR:
            @wraps(function)
            async def inner_stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
                generator, steps = function(*args, **kwargs), Steps(stage, kind, name)
                hooks = sys.get_asyncgen_hooks()
                sys.set_asyncgen_hooks(None, None)  # the event loop closes this one, and this one what it drives
                try:
                    step = generator.asend(None)
                finally:
                    sys.set_asyncgen_hooks(*hooks)
                try:
                    while True:
                        outside = steps.enter()
                        try:
                            value = await step
                        except StopAsyncIteration:
                            return
                        finally:
                            del step  # what was thrown in must not hold the frame that it has passed
                            steps.leave(outside)
                        try:
                            given = yield value
                        except BaseException as e:
                            step = generator.athrow(e)
                        else:
                            step = generator.asend(given)
                finally:
                    steps.end()

            return inner_stream  # type: ignore[return-value]

        if flags & _GENERATOR and not flags & _AWAITED_GENERATOR:
            @wraps(function)
            def inner_steps(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
                generator, steps = function(*args, **kwargs), Steps(stage, kind, name)
                step: Callable[[Any], Any] = generator.send
                given: Any = None
                try:
                    while True:
                        before, outside = list(stage.main_open), steps.enter()
                        try:
                            value = step(given)
                        except StopIteration as stop:
                            return stop.value
                        finally:
                            given = None  # what was thrown in must not hold the frame that it has passed
                            steps.leave(outside, before)
                        try:
                            given = yield value
                            step = generator.send
                        except BaseException as e:
                            step, given = generator.throw, e
                finally:
                    steps.end()

            return inner_steps  # type: ignore[return-value]

        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with Span(stage, kind, name):
                return function(*args, **kwargs)

        return inner  # type: ignore[return-value]


class Steps:
    """The span of one generator: entered for each of its steps, and left where it has arrived."""

    __slots__ = ("_at", "_begun", "_inside", "_kind", "_main", "_name", "_stage")

    def __init__(self, stage: Stage, kind: str, name: Any) -> None:
        self._stage, self._kind, self._name = stage, kind, name
        self._begun = False
        self._inside: Scope | None = None  # None: nobody listens, or it could not be opened
        self._at: Scope | None = None  # where the generator is: within what it has opened itself
        self._main: tuple[Scope, ...] = ()  # of these, what the threads see that have no scope of their own

    def enter(self) -> Scope | None:
        """Returns where the caller is, for `leave`."""
        stage, outside = self._stage, scope.get()
        if not self._begun:
            self._begun = True
            if stage.enabled:
                try:
                    around = outside or stage.main_scope
                    inside = stage.inside(self._kind, self._name, around)
                    self._inside = self._at = inside
                    self._main = (inside,)
                    stage.say_begin(self._kind, self._name, inside, around)
                except Exception:
                    stage.trouble(self._kind, self._name)
        if self._inside is not None:
            scope.set(self._at)
            if stage.in_main_thread():
                stage.main_enters(*self._main)
        return outside

    def leave(self, outside: Scope | None, before: list[Scope] | None = None) -> None:
        """`before`: what was open in the main thread before `enter`, where nobody else has opened anything since."""
        if self._inside is None:
            return
        stage = self._stage
        self._at = scope.get()
        scope.set(outside)
        if stage.in_main_thread():
            if before is not None:
                self._main = tuple(one for one in stage.main_open if one not in before)
            stage.main_leaves(*self._main)

    def end(self) -> None:
        if self._inside is not None:
            self._stage.say_end(self._kind, self._name, self._inside)
