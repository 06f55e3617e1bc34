"""A node's way to the collector: what is sent is kept until it is on disk, there or here.

When the collector is silent for too long, the same frames are written to a spool file of the node's own in the run's
directory. In either case the processes whose messages they came in are told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from yprovd.config import SPOOL_DIR
from yprovd.errors import SpoolFull
from yprovd.spool import SpoolWriter
from yprovd.transport import Message, Receiver, Sender

#: How long an acknowledgement of the collector is waited for.
SILENCE_S = 3.0


class Uplink:
    """`receiver`: to which the processes of the job speak. `log`: for what cannot be written."""

    def __init__(
        self, run_dir: Path, host: str, sender: Sender, receiver: Receiver, log: Callable[[str], None]
    ) -> None:
        self._folder = run_dir / SPOOL_DIR
        self._host = host
        self._sender = sender
        self._receiver = receiver
        self._log = log
        self._spool: SpoolWriter | None = None
        self._full = False  # our own spool cannot be written, and it has been said
        # Which messages of which process ride in which message to the collector.
        self._riders: dict[int, list[tuple[bytes, int]]] = {}

    def send(self, frames: list[bytes], riders: Sequence[tuple[bytes, int]] = (), *, sync: bool = False) -> None:
        """Without frames (what came was damaged, not worth keeping) the riders are told at once: so that it is not
        sent again."""
        if not frames:
            for peer, theirs in riders:
                self._receiver.ack(peer, [theirs])
            return
        number = self._sender.send(frames, sync=sync)
        if riders:
            self._riders[number] = list(riders)
        for pushed_out in [n for n in self._riders if n < self._sender.oldest]:
            del self._riders[pushed_out]

    def receive(self) -> tuple[bool, list[Message]]:
        """(whether anything was acknowledged, what else the collector says)."""
        acked, others = self._sender.receive()
        self._pass_on(acked)
        return bool(acked), others

    def keep_safe(self, *, now: bool = False) -> None:
        """Nobody acknowledges: try again, and after `SILENCE_S` (or now) write to our own spool instead."""
        if not self._sender.waiting:
            return
        if not now and self._sender.oldest_s() < SILENCE_S:
            self._sender.resend_if_due()
            return
        try:
            if self._spool is None:
                self._spool = SpoolWriter(self._folder / f"node-{self._host}-{os.getpid()}.spool")
            self._spool.append(self._sender.kept())
            self._spool.sync()
        except (SpoolFull, OSError) as e:
            self._sender.resend_if_due()
            if not self._full:
                self._log(f"cannot write to {self._folder}: {e}; kept in memory and tried again")
            self._full = True
            return
        self._full = False
        self._pass_on(self._sender.forget())

    def _pass_on(self, acked: list[int]) -> None:
        """Tell the processes of the job that their frames are on disk."""
        by_peer: dict[bytes, list[int]] = {}
        for number in acked:
            for peer, theirs in self._riders.pop(number, ()):
                by_peer.setdefault(peer, []).append(theirs)
        for peer, numbers in by_peer.items():
            self._receiver.ack(peer, numbers)

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
