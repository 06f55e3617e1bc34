"""Where the collector is met when it is on another node: two files in the run's directory, which all nodes see.

`.keys` (mode 0600): the run's CURVE keys. The public half is the address's other part: a connection cannot be made
without it, it never travels in the clear, and it is published nowhere else (CurveZMQ, https://rfc.zeromq.org/spec/26).
`collector.json`: where the collector listens, by every address of its node, the fabric's first; written in place and
read anew at each connection, because a collector that was started again has another port, and because opening a file
is what makes a network file system look again. Both go away with the run.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

from yprovd.config import COLLECTOR_FILE, KEY_FILE
from yprovd.errors import YprovError
from yprovd.transport import Keys

#: Interfaces of fabrics come first: Slingshot, InfiniBand, Omni-Path; those of containers and bridges last.
_FABRIC = ("hsn", "ib", "opa", "cxi")
_INNER = ("lo", "docker", "br-", "virbr", "veth", "cni", "tun", "tap")
_SIOCGIFADDR = 0x8915
#: How long one address is tried.
PROBE_S = 0.5


def write_keys(run_dir: Path, keys: Keys) -> None:
    fd = os.open(run_dir / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "wb") as f:
        f.write(b"\n".join(keys))


def read_keys(run_dir: Path) -> Keys:
    """Raises YprovError."""
    try:
        public, secret = (run_dir / KEY_FILE).read_bytes().split(b"\n")
    except (OSError, ValueError) as e:
        raise YprovError(f"cannot read the run's keys, `{run_dir / KEY_FILE}`: {e}",
                         hint="the run's directory must be on a file system that all nodes share") from None
    return Keys(public, secret)


def announce(run_dir: Path, port: int, addresses: list[str]) -> None:
    """In place, not by renaming: a file that is there already is looked at again by those who wait for it. Raises
    YprovError when the launcher has given up waiting."""
    if has_ended(run_dir):
        raise YprovError("the launcher has given us up: too late")
    with open(run_dir / COLLECTOR_FILE, "w", encoding="ascii") as f:
        json.dump({"port": port, "addresses": addresses, "host": os.uname().nodename, "pid": os.getpid()}, f)
        f.write("\n")
        f.flush()
        os.fsync(f.fileno())


def announce_end(run_dir: Path) -> None:
    """There is no collector any more: a node that was cut off finishes by itself."""
    with open(run_dir / COLLECTOR_FILE, "w", encoding="ascii") as f:
        f.write('{"ended": true}\n')


def has_ended(run_dir: Path) -> bool:
    return bool((lookup(run_dir) or {}).get("ended"))


def lookup(run_dir: Path) -> dict[str, Any] | None:
    """What the collector announced; None while it has not."""
    try:
        text = (run_dir / COLLECTOR_FILE).read_text(encoding="ascii")
        return dict(json.loads(text)) if text.endswith("\n") else None
    except (OSError, ValueError):
        return None


def endpoint(run_dir: Path) -> str:
    """The collector's endpoint by the first of its addresses that answers from here; empty while there is none.
    Blocks at most `PROBE_S` for each address."""
    about = lookup(run_dir)
    if about is None or about.get("ended"):
        return ""
    for address in about["addresses"]:
        try:
            socket.create_connection((address, about["port"]), timeout=PROBE_S).close()
        except OSError:
            continue
        return f"tcp://[{address}]:{about['port']}" if ":" in address else f"tcp://{address}:{about['port']}"
    return ""


def addresses(interface: str = "", *, root: str = "/") -> list[str]:
    """This node's addresses, the best for other nodes first: those of the fabric, that of the host's name, others.
    With `interface` only its own. Raises YprovError when that has none."""
    found = [*_ipv4(), *_ipv6(root)]
    if interface:
        own = [address for name, address in found if name == interface]
        if not own:
            raise YprovError(f"the network interface `{interface}` has no address here",
                             hint=f"interfaces: {', '.join(sorted({name for name, _ in found})) or 'none'}")
        return own
    named = _of_host_name()

    def rank(at: tuple[str, str]) -> tuple[int, str]:
        name, address = at
        if name.startswith(_FABRIC):
            return 0, name
        if name.startswith(_INNER):
            return 3, name
        return (1 if address in named else 2), name

    ordered = sorted(found, key=rank)
    outer = [address for name, address in ordered if name != "lo"]  # there, another node would find itself
    return outer or [address for _name, address in ordered]


def _ipv4() -> list[tuple[str, str]]:
    out = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _index, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(s, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue
            out.append((name, socket.inet_ntoa(answer[20:24])))
    return out


def _ipv6(root: str) -> list[tuple[str, str]]:
    """Addresses of global scope, from /proc/net/if_inet6 (proc(5))."""
    try:
        with open(os.path.join(root, "proc/net/if_inet6"), encoding="ascii") as f:
            rows = [line.split() for line in f]
    except OSError:
        return []
    return [(row[5], socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0]))) for row in rows
            if len(row) == 6 and row[3] == "00"]


def _of_host_name() -> set[str]:
    try:
        return {str(at[4][0]) for at in socket.getaddrinfo(os.uname().nodename, None)}
    except OSError:
        return set()
