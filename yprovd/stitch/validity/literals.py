"""Typed values by their lexical forms: XML Schema 1.1, part 2 (W3C Recommendation, 5 April 2012)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

XSD = "http://www.w3.org/2001/XMLSchema#"

_DATE_TIME = re.compile(r"(-?(?:[1-9]\d{3,}|0\d{3}))-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)?",
                        re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?INF|NaN", re.ASCII)
#: Types with whole numbers: the least of each, None where there is none.
_LEAST: dict[str, int | None] = {"int": -(1 << 31), "long": -(1 << 63), "integer": None}


@dataclass(frozen=True, order=True, slots=True)
class Instant:
    """A moment: `second` in UTC, or without a zone, and the digits of its fraction, to the last that counts."""

    second: datetime
    fraction: str = ""

    @property
    def zoned(self) -> bool:
        return self.second.tzinfo is not None

    def isoformat(self) -> str:
        text = self.second.isoformat()
        return f"{text[:19]}.{self.fraction}{text[19:]}" if self.fraction else text


@lru_cache(maxsize=4096)  # the times of a document are those of few events
def instant(value: str) -> Instant | None:
    """An xsd:dateTime; None for one whose year is none of Python's (1 to 9999). Raises ValueError, TypeError."""
    match = _DATE_TIME.fullmatch(value)
    if match is None:
        raise ValueError(f"`{value}` is no xsd:dateTime")
    year = int(match[1])
    month, day, hour, minute, second = (int(match[i]) for i in range(2, 7))
    fraction = (match[7] or "").rstrip("0")
    zone = _zone(match[8])
    midnight = hour == 24
    if midnight and (minute or second or fraction):
        raise ValueError(f"`{value}` is after the end of its day")
    # Four hundred years have the same calendar, of which this is one.
    moment = datetime(2000 + year % 400, month, day, 0 if midnight else hour, minute, second)
    if not 1 <= year <= 9999:
        return None
    try:
        moment = moment.replace(year=year, tzinfo=zone) + timedelta(days=midnight)
        return Instant(moment.astimezone(UTC) if zone else moment, fraction)
    except OverflowError:
        return None


def _zone(text: str | None) -> timezone | None:
    if text is None or text == "Z":
        return UTC if text else None
    hours, minutes = int(text[1:3]), int(text[4:])
    if minutes > 59 or 60 * hours + minutes > 14 * 60:
        raise ValueError(f"`{text}` is no zone")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def moment_of(time: datetime) -> Instant:
    """What a reader of another syntax has made of a time."""
    fraction = f"{time.microsecond:06}".rstrip("0")
    second = time.replace(microsecond=0)
    return Instant(second.astimezone(UTC) if second.tzinfo else second, fraction)


def is_of_type(text: str, datatype: str) -> bool:
    """Whether `text` is a value of the type `xsd:...`; of one that is not in here, any is."""
    if datatype in _LEAST:
        least = _LEAST[datatype]
        return _INTEGER.fullmatch(text) is not None and (
            least is None or (len(text) < 30 and least <= int(text) < -least))
    if datatype == "double":
        return _DOUBLE.fullmatch(text) is not None
    if datatype == "boolean":
        return text in ("true", "false", "0", "1")
    if datatype == "dateTime":
        try:
            instant(text)
        except ValueError:
            return False
    return True
