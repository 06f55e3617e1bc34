"""Addresses of services, and words of theirs as people may see them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

from yprovd.errors import YprovError


def address_of(given: str) -> str:
    """The address of a service without a slash at its end. Raises YprovError, which does not repeat a password."""
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
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def is_web(address: str) -> bool:
    """Whether it can be asked at all: http or https, a host, and nothing that would break a request."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s\x00-\x1f\x7f]", address)


def is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """One line of at most 300 characters, without secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***").replace(json.dumps(secret)[1:-1], "***")
    text = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", text).strip()
    return text if len(text) <= 300 else text[:300] + "..."


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: who gets our token."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
