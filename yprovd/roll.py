"""Whom the collector has heard, and how lately."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A node that has not said anything for so long is not waited for.
SILENT_S = 6.0


class Roll:
    """The peers of the run's connections, each under its name there. `nodes`: those that are a node's daemon; `gone`:
    who said goodbye, the launcher too; `hosts`: where a node's daemon runs, once it has said so."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.nodes: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.hosts: dict[bytes, str] = {}
        self._heard: dict[bytes, float] = {}
        self._busy: dict[bytes, int] = {}

    def heard(self, peer: bytes) -> None:
        self._heard[peer] = self._now()

    def hello(self, peer: bytes, host: str) -> None:
        """A node's daemon says where it runs; instead of one that died without a goodbye, perhaps."""
        if peer not in self.hosts:
            self.gone.update(other for other, its in self.hosts.items() if its == host)
        self.nodes.add(peer)
        self.hosts[peer] = host

    def counted(self, peer: bytes, processes: int) -> None:
        """A node's daemon says how many of the job's processes run there."""
        self._busy[peer] = processes

    @property
    def here(self) -> set[bytes]:
        return self.nodes - self.gone

    def lively(self) -> set[bytes]:
        """Of those here, who was heard lately: the dead do not answer."""
        recent = self._now() - SILENT_S
        return {n for n in self.here if self._heard.get(n, 0.0) > recent}

    def busy(self) -> int | None:
        """The job's processes on the nodes that answer; None while one has not said."""
        lively = self.lively()
        return sum(self._busy[n] for n in lively) if set(self._busy) >= lively else None

    def silent_hosts(self) -> set[str]:
        return {self.hosts[n] for n in self.here - self.lively() if n in self.hosts}

    def all_hosts(self) -> set[str]:
        """Hosts, not daemons: one that was started again counts once."""
        return set(self.hosts.values())

    def awaited(self, asked: float) -> set[bytes]:
        """Whose goodbye may still come, of those who were asked for it at this time: also of one that was silent, for a
        second."""
        since = self._now() - SILENT_S
        return {n for n in self.here if max(self._heard.get(n, 0.0), asked + 1.0 - SILENT_S) > since}

    def name_of(self, node: bytes) -> str:
        return self.hosts.get(node) or node.decode(errors="replace")
