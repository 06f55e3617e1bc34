"""What the objects of frames hold, by type. A frame is whole by its checksum and may yet be another program's, or a
defect's: what is of another type than its kind promises (`yprovd.stitch.record`) is damage, and nothing else is lost
with it. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from yprovd.errors import WireError
from yprovd.wire import Kind

#: An integer that an array holds, also with another one added.
_MOST = 1 << 62


def is_whole(value: Any) -> bool:
    return type(value) is int and -_MOST < value < _MOST


def is_date(value: Any) -> bool:
    """Nanoseconds of a wall clock between 1933 and 2116: of any two of them there is a difference."""
    return type(value) is int and -(1 << 60) < value < 1 << 62


def is_clock(value: Any) -> bool:
    """Nanoseconds of a monotonic clock: 73 years, in both directions."""
    return type(value) is int and -(1 << 61) < value < 1 << 61


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_modified(value: Any) -> bool:
    """A file's time can be anything that a calendar has: 9999 is the last year."""
    return type(value) is int and abs(value) < 6e19


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_usage(value: Any) -> bool:
    return isinstance(value, dict) and all(
        x is None or (type(x) in (int, float) and math.isfinite(x) and abs(x) < _MOST) for x in value.values())


_Form = dict[str, Callable[[Any], bool]]
#: What an object of a kind has for certain: without it, it is none.
_CERTAIN: dict[int, _Form] = {
    Kind.SOURCE: {"role": is_text, "host": is_text, "boot_id": is_text, "pid": is_whole},
    Kind.FILE: {"t": is_clock, "role": is_text, "path": is_text, "name": is_text},
    Kind.FACTS: {"t": is_clock, "path": is_text, "source": is_text},
}
#: What it may have.
_POSSIBLE: dict[int, _Form] = {
    Kind.SOURCE: {"facts": _is_mapping, "rank": is_whole, "world_size": is_whole, "local_rank": is_whole,
                  "devices": _is_mapping, "argv": _is_list, "python": is_text, "executable": is_text},
    Kind.RUN: {"started_ns": is_date},
    Kind.END: {"state": is_text, "reason": is_text, "exit_code": is_whole, "signal": is_whole, "ended_ns": is_date,
               "rusage": _is_usage},
    Kind.FILE: {"context": is_text, "epoch": is_whole},
    Kind.FACTS: {"size": is_whole, "sha256": is_text, "modified_ns": _is_modified, "stored": is_text,
                 "reason": is_text},
    Kind.LOSS: {"events": is_whole, "rejected": is_whole, "reason": is_text},
}


def sound(kind: int, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the object without what is of a wrong type, that). Raises WireError for what is no object of the kind."""
    certain = _CERTAIN.get(kind, {})
    if not isinstance(value, dict) or not all(is_form(value.get(name)) for name, is_form in certain.items()):
        raise WireError(f"not an object of kind {kind}")
    wrong = {name: value[name] for name, is_form in _POSSIBLE.get(kind, {}).items()
             if value.get(name) is not None and not is_form(value[name])}
    return {k: v for k, v in value.items() if k not in wrong} if wrong else value, wrong


def moment(event: dict[str, Any], offset_ns: int) -> int:
    """The monotonic time of an event, `offset_ns` before the wall clock's. Raises WireError, KeyError, TypeError."""
    t = event["t"]
    if not is_clock(t) or not is_date(t + offset_ns):
        raise WireError(f"no time: {t}")
    return int(t)


def place(context: Any, epoch: Any) -> tuple[str | None, int | None]:
    """What something was logged in. Raises WireError."""
    if (context is not None and not is_text(context)) or (epoch is not None and not is_whole(epoch)):
        raise WireError(f"no context and epoch: {context}, {epoch}")
    return context, epoch


def opened(event: dict[str, Any]) -> tuple[int, int, str, str, str | None, int | None]:
    """id, parent, kind, name, context and epoch of a `begin`. Raises WireError, KeyError, TypeError."""
    context, epoch = place(event["context"], event["epoch"])
    number, parent, kind = event["id"], event["parent"], event["kind"]
    if not is_whole(number) or not is_whole(parent) or not (
            kind == "span" or (kind == "context" and context is not None) or (kind == "epoch" and epoch is not None)):
        raise WireError(f"no begin of a context, epoch or span: {number}, {parent}, {kind}")
    return number, parent, kind, str(event["name"]), context, epoch


def tally(event: dict[str, Any]) -> tuple[int, int, int]:
    """(logged, dropped, rejected) of a goodbye. Raises WireError, KeyError."""
    logged, dropped, rejected = event["logged"], event["dropped"], event.get("rejected", 0)
    if not is_whole(logged) or not is_whole(dropped) or not is_whole(rejected):
        raise WireError(f"no numbers of calls: {logged}, {dropped}, {rejected}")
    return logged, dropped, rejected
