"""Figures and names in words, for one line of a terminal."""

from __future__ import annotations

from typing import Any


def on_one_line(text: str) -> str:
    """Without what would speak to the terminal: a name may be anything. A surrogate stands for a byte of a path."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else " " for c in text)


def shortened(text: str, most: int = 100) -> str:
    """On one line, and not too long for it."""
    line = " ".join(on_one_line(text).split())
    return line if len(line) <= most else f"{line[:most - 3]}..."


def count(n: Any, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}" if n is not None else ""


def duration(seconds: float | None) -> str:
    """1.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def energy(joules: float) -> str:
    for unit, factor in (("MJ", 1e6), ("kJ", 1e3)):
        if joules >= 10 * factor:
            return f"{joules / factor:.1f} {unit}"
    return f"{joules:.1f} J"


def size(number: float) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B"
