"""Addresses of services, and words of theirs: as JSON, and as people may see them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from yprovd.errors import YprovError

_SHOWN, _LOOKED_AT = 300, 1 << 16


def address_of(given: str) -> str:
    """The address of a service, in ASCII, without a slash at its end. Raises YprovError, which repeats no password."""
    try:
        parts = urlsplit(given.strip())
        _ = parts.port
    except ValueError:
        raise YprovError("this is no address of a service", hint="--to https://yprov.example.org") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise YprovError("the address of a service holds neither names, passwords nor questions",
                         hint="--to https://yprov.example.org   and the token in the environment: YPROV_TOKEN")
    if not is_web(given.strip()):
        raise YprovError(f"`{clean(given)}` is no address of a service", hint="--to https://yprov.example.org")
    return ascii_of(urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")))


def is_web(address: str) -> bool:
    """Whether it can be asked at all: http or https, a host that is one, and nothing that would break a request."""
    try:
        parts = urlsplit(address)
        _ = parts.port, parts.netloc.encode("idna")
        address.encode()
    except ValueError:  # UnicodeError is one: a label that is empty or too long, a lone surrogate
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s\x00-\x1f\x7f]", address)


def ascii_of(address: str) -> str:
    """The same address as it is sent: its host in IDNA (RFC 3490), the rest in UTF-8 and percents (RFC 3987, 3.1)."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.encode("idna").decode(), **{
        name: re.sub(r"[^\x00-\x7f]+", lambda found: quote(found[0]), getattr(parts, name))
        for name in ("path", "query", "fragment")}))


def is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """One line of at most 300 characters, without secrets: these go first, or a cut would leave a part of one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***").replace(json.dumps(secret)[1:-1], "***")
    text = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", text[:_LOOKED_AT]).strip()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def json_of(data: bytes | str) -> Any:
    """None where it is no JSON, or nested deeper than anything of ours."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: who gets our token."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
