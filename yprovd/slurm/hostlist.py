"""Slurm's host list expressions: `n[1-3,07-09]b,login` (slurm.conf(5), NodeName; hostlist.c for the zeros)."""

from __future__ import annotations

import itertools
import re

from yprovd.errors import YprovError

#: A list that names more hosts is a mistake, and would fill the memory.
MAX_HOSTS = 1 << 20
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_PARTS = re.compile(r"\[([^\[\]]*)\]|([^\[\],\s]+)", re.ASCII)


def expand(text: str) -> list[str]:
    """Host names in the order of the list, repeated ones repeated. Any number of brackets, text before, between and
    after them (Slurm itself takes no text after the last). A number is as wide as its range's first (`[07-10]`: 07,
    08, 09, 10). Raises YprovError for what is no host list."""
    hosts: list[str] = []
    for item in _items(text):
        choices, at, size = [], 0, 1
        for match in _PARTS.finditer(item):
            if match.start() != at:
                raise _not_a_list(text)
            at = match.end()
            ranges = None if match[1] is None else _ranges(match[1], text)
            size *= sum(high - low + 1 for low, high, _width in ranges) if ranges else 1
            if size + len(hosts) > MAX_HOSTS:
                raise YprovError(f"a host list names more than {MAX_HOSTS} hosts: `{text[:80]}`")
            choices.append([match[2]] if ranges is None else
                           [f"{n:0{width}}" for low, high, width in ranges for n in range(low, high + 1)])
        if at != len(item):
            raise _not_a_list(text)
        hosts += map("".join, itertools.product(*choices))
    return hosts


def _items(text: str) -> list[str]:
    """The list's items: what stands between commas that are outside of brackets."""
    items, depth, start = [], 0, 0
    for at, c in enumerate(text):
        if c == "[":
            depth += 1
        elif c == "]":
            depth -= 1
        elif c == "," and depth == 0:
            items.append(text[start:at])
            start = at + 1
        if not 0 <= depth <= 1:
            raise _not_a_list(text)
    if depth:
        raise _not_a_list(text)
    return [item.strip() for item in [*items, text[start:]] if item.strip()]


def _ranges(inner: str, text: str) -> list[tuple[int, int, int]]:
    """(first, last, width) of each."""
    found = []
    for one in inner.split(","):
        match = _RANGE.fullmatch(one)
        # int() of thousands of digits is slow, and no host has them.
        if match is None or len(one) > 40 or int(match[2] or match[1]) < int(match[1]):
            raise _not_a_list(text)
        found.append((int(match[1]), int(match[2] or match[1]), len(match[1])))
    return found


def _not_a_list(text: str) -> YprovError:
    return YprovError(f"not a host list: `{text[:80]}`")
