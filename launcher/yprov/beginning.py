"""How a process begins to speak: the mark by which it is missed when it is killed, and what has to be loaded first.

The mark is a line in the file `clients` beside the daemon's socket, in which every process of the node that logs
something has one or two: `+` and its name as a source of frames, 16 hexadecimal digits, at its first call, before
anything is sent; `-` and the same when its last words are on disk. The daemon makes the file, and at the end of the run
it reads it (`yprovd.node_intake`). A killed process leaves its `+`: so it is counted, also when nothing of it arrived.
"""

from __future__ import annotations

import os
import sys
from time import sleep

TYPE_CHECKING = False  # importing typing is slow
if TYPE_CHECKING:
    from typing import Any

#: Between two attempts to load what a script loads too.
AGAIN_S = 0.1


def sign_in(endpoint: str) -> int:
    """Leave a mark. Costs some 20 us, waits for nobody and does not raise. Returns the process's name as a source."""
    source = int.from_bytes(os.urandom(8), "little")
    _mark(endpoint, b"+", source)
    return source


def sign_out(endpoint: str, source: int) -> None:
    """All that the process had to say is on disk."""
    _mark(endpoint, b"-", source)


def _mark(endpoint: str, sign: bytes, source: int) -> None:
    try:
        fd = os.open(f"{os.path.dirname(endpoint)}/clients", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.write(fd, b"%s%016x\n" % (sign, source))
        finally:
            os.close(fd)
    except OSError:
        pass  # no daemon, or it has gone: nobody counts


def load() -> Any:
    """The class that ships. Beside a script that imports too a module is now and then seen half-loaded ("name 'sys' is
    not defined" in zmq, once in some thousand starts), and is whole when it is asked for again."""
    before = set(sys.modules)
    for tries_left in (2, 1, 0):
        try:
            from yprov.shipping import Shipper

            return Shipper
        except Exception as e:
            if not tries_left or isinstance(e, ModuleNotFoundError):
                raise
            for name in [n for n in set(sys.modules) - before if n.partition(".")[0] == "zmq"]:
                del sys.modules[name]
            sleep(AGAIN_S)
    raise AssertionError
