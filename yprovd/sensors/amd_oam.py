"""Which GCDs of MI250 and MI250X make up an OAM, and which of the two speaks for both. Pure.

An MI250X is one module (OAM) of two dies (GCDs) that the system shows as two GPUs. Its power and energy are metered
once; the primary die gives them, for both. On the secondary one the driver says 0 (kernel, aldebaran_ppt.c: "only
primary die fetches valid power data"), the libraries 0, N/A or "not supported".

Nothing names the pairs. They are neighbours in the order of the bus, and joined by the strongest of the links between
GCDs (four, where others have one or two). Either rule, and both where both have an answer, must leave exactly one die
of each pair that meters; otherwise nothing is paired.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: PCI device ids of Aldebaran with two dies. (0x740f, MI210, has one.)
_DOUBLE = frozenset((0x7408, 0x740C))
_NAME = re.compile(r"\bMI250", re.IGNORECASE)


class Die(NamedTuple):
    """`meters`: whether its energy counter has a value; None when it cannot be read. `joined`: the die that its
    strongest link leads to, "" when that is not known or not one."""

    pci: str
    meters: bool | None
    joined: str = ""


def has_two_dies(device_id: int, name: str) -> bool:
    return device_id in _DOUBLE or _NAME.search(name) is not None


def address(pci: str) -> tuple[int, ...]:
    """`0000:c1:00.0` as numbers, to sort by."""
    return tuple(int(n, 16) for n in re.split("[:.]", pci) if n)


def paired(dies: Sequence[Die]) -> tuple[dict[str, str], str]:
    """(secondary or not: each die -> its sibling, why there is none). All of them, or none."""
    by_bus, by_links = _by_bus(dies), _by_links(dies)
    if by_bus and by_links and by_bus != by_links:
        return {}, "the order of the bus and the links between GCDs do not agree"
    siblings = by_links or by_bus
    if not siblings:
        return {}, f"{len(dies)} GCDs are no pairs"
    meters = {die.pci: die.meters for die in dies}
    for die, sibling in sorted(siblings.items()):
        if meters[die] and meters[sibling]:
            return {}, f"{die} and {sibling} both meter"
        neither = meters[die] is False and meters[sibling] is False
        if neither and not by_links and any(meters.values()):
            return {}, f"neither {die} nor {sibling} meters"
    return siblings, ""


def strongest(bandwidths: Mapping[str, int]) -> str:
    """Where the one link leads that is stronger than all others; "" when there is none."""
    best = sorted(bandwidths, key=lambda other: bandwidths[other])
    unique = best and (len(best) == 1 or bandwidths[best[-1]] > bandwidths[best[-2]])
    return best[-1] if unique else ""


def _by_bus(dies: Sequence[Die]) -> dict[str, str]:
    order = sorted((die.pci for die in dies), key=address)
    if len(order) % 2:
        return {}
    pairs = list(zip(order[::2], order[1::2], strict=True))
    return {**dict(pairs), **{second: first for first, second in pairs}}


def _by_links(dies: Sequence[Die]) -> dict[str, str]:
    joined = {die.pci: die.joined for die in dies}
    mutual = all(other in joined and joined[other] == pci for pci, other in joined.items())
    return joined if mutual else {}
