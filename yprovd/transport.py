"""The only file that opens ZeroMQ sockets: frames from a sender to a receiver, acknowledged when they are on disk.

The same two ends serve both hops, process of the job -> node daemon and node daemon -> collector:

- `Sender` (DEALER) numbers each message, keeps it until it is acknowledged, within a bound, and sends it again when
  nothing was heard for a while. It never blocks. What the bound pushes out is counted, never silently gone.
- `Receiver` (ROUTER) hands messages out and acknowledges them when its owner says that they are safe.

A frame may arrive twice, and the spool may hold it twice: (source, seq) tells. A message is a first part, one letter
and what follows it, and then the frames:

    D u64 number, u8 sync | frame...   data; sync asks for an acknowledgement as soon as possible
    A u64...                           these numbers are on disk
    S                                  stop: drain, say what is left, end
    B                                  goodbye: this sender has said all
    Q / R json                         a question and its answer (the roll-call)

Endpoints are `ipc://` paths below a directory of mode 0700: no other user can open them; or `tcp://` with the run's
CURVE keys (`yprovd.rendezvous`): what goes over the network is encrypted, and nobody without the keys can connect.
"""

from __future__ import annotations

import os
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from yprovd.errors import WireError, YprovError
from yprovd.wire import from_json, to_json

DATA, ACK, STOP, GOODBYE, QUESTION, REPLY = b"D", b"A", b"S", b"B", b"Q", b"R"
_DATA = struct.Struct("<cQB")

#: How long a sender waits for any sign of life before it connects anew and sends all again.
RESEND_S = 1.0
#: The longest path that fits into a sockaddr_un, less the terminating zero.
MAX_IPC_PATH = 107


class Message(NamedTuple):
    """`number` and `sync` are set for DATA, `body` for QUESTION and REPLY."""

    peer: bytes
    kind: bytes
    number: int
    sync: bool
    frames: list[bytes]
    body: Any


def ipc(path: str) -> str:
    """The endpoint of a socket file. Raises YprovError for a path that the system cannot bind."""
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise YprovError(f"the socket path `{path}` is longer than {MAX_IPC_PATH} bytes",
                         hint="set TMPDIR to a shorter path")
    return "ipc://" + path


class Keys(NamedTuple):
    """A pair of CURVE keys in Z85, 40 characters each. The public half is the receiver's name: who does not know it
    cannot connect, and it does not travel in the clear."""

    public: bytes
    secret: bytes


def new_keys() -> Keys:
    """Raises YprovError where ZeroMQ was built without encryption."""
    try:
        return Keys(*zmq.curve_keypair())
    except zmq.ZMQError:
        raise YprovError("this ZeroMQ cannot encrypt: it was built without CURVE",
                         hint="pip install --force-reinstall pyzmq   the wheel can") from None


def _parse(peer: bytes, parts: Sequence[bytes]) -> Message:
    kind = parts[0][:1]
    if kind == DATA:
        _, number, sync = _DATA.unpack(parts[0])
        return Message(peer, kind, number, bool(sync), list(parts[1:]), None)
    if kind in (QUESTION, REPLY):
        return Message(peer, kind, 0, False, [], from_json(parts[0][1:]))
    return Message(peer, kind, 0, False, [], None)


def _pending(socket: zmq.Socket[Any]) -> bool:
    """Whether a message can be received now: far cheaper than the exception that says there is none."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


class Sender:
    """One connection to a receiver. For one thread; `socket` may be polled by its owner.

    `endpoint`: also a function, asked at each connection, which gives "" while there is none. `keys`: the receiver's,
    for TCP. `limit` bounds the bytes kept until they are acknowledged. `pushed_out` counts the frames that it cost.
    """

    def __init__(
        self, endpoint: str | Callable[[], str], *, limit: int, identity: bytes,
        context: zmq.Context[Any] | None = None, keys: Keys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.keys = keys
        self.identity = identity  # stays the same when it connects anew, so that the receiver knows it again
        self.limit = limit
        self.pushed_out = 0
        self.malformed = 0
        self.bytes_kept = 0
        self.heard = 0.0  # when the receiver last gave a sign of life (monotonic), 0 before the first
        self.connections = 0  # made so far
        self.sent = 0.0   # when something was last sent to it
        self._context = context or zmq.Context(io_threads=1)
        self._own_context = context is None
        self._number = 0
        self._kept: OrderedDict[int, tuple[bool, list[bytes], int, float]] = OrderedDict()
        self._wait_s = RESEND_S
        self._resend_at = 0.0
        self.socket = self._connect()

    def _connect(self) -> zmq.Socket[Any]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, self.identity)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 100_000)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        if self.keys is not None:
            socket.setsockopt(zmq.IPV6, 1)
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.curve_serverkey = self.keys.public
        endpoint = self.endpoint if isinstance(self.endpoint, str) else self.endpoint()
        self.connected = bool(endpoint)
        if endpoint:
            socket.connect(endpoint)
            self.connections += 1
        return socket

    def reconnect(self) -> None:
        """A new connection, and all that is kept is sent again: the receiver may be elsewhere now. A new one, so that
        the old one's queue does not pile up copies."""
        self.socket.close(0)
        self.socket = self._connect()
        for number, (sync, frames, _size, _since) in self._kept.items():
            self._put([_DATA.pack(DATA, number, sync), *frames])

    @property
    def waiting(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._kept)

    @property
    def oldest(self) -> int:
        """The number of the oldest message that is not acknowledged; the next one's when all are."""
        return next(iter(self._kept), self._number)

    def oldest_s(self) -> float:
        """Age of the oldest message that is not acknowledged, 0 when there is none."""
        for _sync, _frames, _size, since in self._kept.values():
            return time.monotonic() - since
        return 0.0

    def send(self, frames: list[bytes], *, sync: bool = False) -> int:
        """Send and keep. Returns the number of the message. Never blocks; pushes out the oldest over the bound."""
        number = self._number
        self._number = number + 1
        size = sum(map(len, frames))
        while self._kept and self.bytes_kept + size > self.limit:
            _, (_sync, lost, lost_size, _since) = self._kept.popitem(last=False)
            self.bytes_kept -= lost_size
            self.pushed_out += len(lost)
        now = time.monotonic()
        if not self._kept:
            self._resend_at = now + self._wait_s
        self._kept[number] = (sync, frames, size, now)
        self.bytes_kept += size
        self._put([_DATA.pack(DATA, number, sync), *frames])
        return number

    def control(self, kind: bytes, body: Any = None) -> None:
        self._put([kind if body is None else kind + to_json(body)])

    def _put(self, parts: list[bytes]) -> None:
        self.sent = time.monotonic()
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            pass  # its queue is full: what is kept is sent again

    def receive(self, timeout_ms: int = 0) -> tuple[list[int], list[Message]]:
        """(numbers acknowledged, other messages). Waits at most `timeout_ms` for the first one."""
        acked: list[int] = []
        others: list[Message] = []
        if timeout_ms and not self.socket.poll(timeout_ms):
            return acked, others
        while _pending(self.socket):
            parts = self.socket.recv_multipart(zmq.NOBLOCK)
            self.heard = time.monotonic()
            self._wait_s = RESEND_S
            self._resend_at = self.heard + self._wait_s
            try:
                if parts[0][:1] == ACK:
                    for (number,) in struct.iter_unpack("<Q", parts[0][1:]):
                        kept = self._kept.pop(number, None)
                        if kept is not None:
                            self.bytes_kept -= kept[2]
                            acked.append(number)
                else:
                    others.append(_parse(b"", parts))
            except (WireError, struct.error):
                self.malformed += 1
        return acked, others

    def resend_if_due(self) -> bool:
        """When nothing was heard for a while though something is waiting: connect anew, send all again, wait longer
        the next time."""
        now = time.monotonic()
        if not self._kept or now < self._resend_at:
            return False
        self._wait_s = min(self._wait_s * 2, 8.0)
        self._resend_at = now + self._wait_s
        self.reconnect()
        return True

    def kept(self) -> list[bytes]:
        """The frames that are not acknowledged, in order."""
        return [frame for _sync, frames, _size, _since in self._kept.values() for frame in frames]

    def forget(self) -> list[int]:
        """What was kept is safe elsewhere: the numbers of those messages."""
        numbers = list(self._kept)
        self._kept.clear()
        self.bytes_kept = 0
        return numbers

    def close(self, linger_ms: int = 0) -> None:
        self.socket.close(linger_ms)
        if self._own_context:
            self._context.term()


class Receiver:
    """The bound end. For one thread; `socket` may be polled by its owner. `keys`: for TCP; `port` is then where it
    listens, on every interface or on the one of `endpoint`."""

    def __init__(
        self, endpoint: str, *, context: zmq.Context[Any] | None = None, keys: Keys | None = None
    ) -> None:
        self.endpoint = endpoint
        self.malformed = 0
        self._context = context or zmq.Context(io_threads=1)
        self._own_context = context is None
        self.socket: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a sender that connects anew keeps its identity
        self.socket.setsockopt(zmq.LINGER, 200)
        self.socket.setsockopt(zmq.RCVHWM, 100_000)
        self.socket.setsockopt(zmq.SNDHWM, 100_000)
        if keys is not None:
            self.socket.setsockopt(zmq.IPV6, 1)
            self.socket.curve_publickey, self.socket.curve_secretkey = keys
            self.socket.curve_server = True
        self.socket.bind(endpoint)

    @property
    def port(self) -> int:
        """Of a TCP endpoint."""
        bound = self.socket.getsockopt(zmq.LAST_ENDPOINT)
        return int(bytes(bound).rstrip(b"\0").rpartition(b":")[2])

    def receive(self, limit: int = 1000) -> list[Message]:
        """What has arrived, at most `limit` messages; never waits. What is not ours is counted and passed over."""
        out: list[Message] = []
        while len(out) < limit and _pending(self.socket):
            peer, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
            try:
                out.append(_parse(peer, parts))
            except (WireError, struct.error, IndexError):
                self.malformed += 1
        return out

    def ack(self, peer: bytes, numbers: Sequence[int]) -> None:
        self._put(peer, ACK + struct.pack(f"<{len(numbers)}Q", *numbers))

    def control(self, peer: bytes, kind: bytes, body: Any = None) -> None:
        self._put(peer, kind if body is None else kind + to_json(body))

    def _put(self, peer: bytes, part: bytes) -> None:
        try:
            self.socket.send_multipart([peer, part], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # the peer is gone; it would ask again if it were not

    def close(self) -> None:
        self.socket.close()
        if self._own_context:
            self._context.term()


def wait_readable(*things: Any, timeout_ms: int) -> set[int]:
    """Positions of the sockets and file descriptors among `things` that can be read. Blocks up to `timeout_ms`."""
    poller = zmq.Poller()
    for thing in things:
        poller.register(thing, zmq.POLLIN)
    ready = dict(poller.poll(timeout_ms))
    return {i for i, thing in enumerate(things) if thing in ready}
