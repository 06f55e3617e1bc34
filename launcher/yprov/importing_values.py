"""Values and times as yProv4ML wrote them, and its PROV-JSON, as plain Python.

yProv4ML 1.x and 3.x write every value as text, 2.x as typed literals and lists as the text of a dictionary
(`{'$': '[64, 32]', 'type': 'list'}`). A text becomes a number or a truth value again only where Python writes that
value so: `0.001` and `1e-05` are floats, `007` and `1E5` stay what they are, so nothing is lost.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

_NUMPY = re.compile(r"(?:np|numpy)\.\w+\((.*)\)", re.DOTALL)
_TENSOR = re.compile(r"tensor\(\s*\[*\s*([^,\[\]()\s]+)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Times beyond are nonsense: years 1971 to 2262, which 64 bits of nanoseconds hold.
EARLIEST_NS, LATEST_NS = 31_536_000 * 10**9, 9_200_000_000 * 10**9


def typed(text: str) -> Any:
    """An int, float or bool where the text is exactly how Python writes it, else the text."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:  # also: more digits than Python is ready to read
            continue
        if str(value) == text:
            return value
    return text


def number(text: str) -> float | None:
    """A metric's value: also `np.float64(0.98)`, `tensor(0.5)`, `True`. NaN for none (`None`, empty); None for what
    is no number."""
    text = text.strip()
    if text in ("", "None", "null"):
        return float("nan")
    if match := _NUMPY.fullmatch(text) or _TENSOR.match(text):
        text = match[1]
    if text in ("True", "False"):
        return float(text == "True")
    try:
        return float(text)
    except ValueError:
        return None


def plain(value: Any) -> Any:
    """A PROV-JSON value: typed literals as what they are typed, anything else unchanged."""
    if isinstance(value, str) and value.startswith("{'$'"):
        return _told(value)
    if not isinstance(value, dict) or "$" not in value:
        return value
    text, kind = value["$"], str(value.get("type", "")).rpartition(":")[2]
    try:
        if kind in ("int", "long", "integer", "short"):
            return int(text)
        if kind in ("double", "float", "decimal"):
            return float(text)
    except (ValueError, TypeError, OverflowError):  # no such number, or an infinite or huge one of another kind
        return text
    return text in ("true", "True", True) if kind == "boolean" else text


def _told(text: str) -> Any:
    """What is in the text of a dictionary with a value and the name of its type."""
    try:
        told = ast.literal_eval(text)
        inner, kind = str(told["$"]), told["type"]
        if kind in ("list", "dict", "tuple", "NoneType"):
            value = ast.literal_eval(inner)
            return list(value) if kind == "tuple" else value
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return text
    return inner


def text_of(value: Any) -> str:
    """A value as a text; nothing for what is absent (`None` is how Python writes it)."""
    value = plain(value)
    return "" if value is None or value == "None" else str(value)


def records(document: dict[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, attributes) of each record of a kind; a list of several under one id one by one. Attributes go by the name
    behind the prefix; ids keep theirs."""
    section = document.get(kind)
    for name, value in (section.items() if isinstance(section, dict) else ()):
        for record in value if isinstance(value, list) else [value]:
            if isinstance(record, dict):
                yield name, {local(key): v for key, v in record.items()}


def local(name: str) -> str:
    return name.partition(":")[2] if ":" in name else name


def first(value: Any) -> Any:
    """One of several values of an attribute."""
    return value[0] if isinstance(value, list) and value else value


def zone_of(text: Any) -> int | None:
    """Seconds east of Greenwich from `CEST+0200`, `+02:00`; None where nothing is said."""
    match = _OFFSET.search(str(text or ""))
    if match is None:
        return 0 if str(text or "").upper() in ("UTC", "Z", "GMT") else None
    seconds = int(match[2]) * 3600 + int(match[3]) * 60
    return None if seconds >= 86_400 else seconds if match[1] == "+" else -seconds  # what Python takes as a zone


def time_ns(value: Any, zone: int) -> int:
    """ISO 8601 or seconds since 1970, as ns; without a zone of its own it is in `zone`. 0 for what is no time."""
    text = text_of(first(value))
    if not text:
        return 0
    try:
        ns = round(float(text) * 1e6) * 1000
    except (ValueError, OverflowError):
        try:
            at = datetime.fromisoformat(text)
            if at.tzinfo is None:
                at = at.replace(tzinfo=timezone(timedelta(seconds=zone)))
            ns = (at - _EPOCH) // timedelta(microseconds=1) * 1000
        except (ValueError, OverflowError):
            return 0
    return ns if EARLIEST_NS < ns < LATEST_NS else 0
