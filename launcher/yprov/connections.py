"""Connections beneath `web`, which bear what services do to them.

- A service that refuses a large body answers and hangs up without reading it (RFC 9112, section 9.6): the answer that
  is there already is read, although the rest of the request could not be sent.
- An answer, its head as well as its body, that drips for longer than `PATIENCE` times that for which nothing may come
  is none: `Endless`.
- No proxy is asked for this machine itself: what is `localhost` to a proxy is another one, and would have our token.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from yprov.addresses import is_local
from yprovd.errors import YprovError

PATIENCE = 10


class Passing(Exception):
    """A failure that may not come again. `status`, `come_back`: of an answer, and its `Retry-After`. `late`: somebody
    waited for too long, and somebody else may work on."""

    def __init__(self, why: str, status: int = 0, come_back: str = "", *, late: bool = False) -> None:
        super().__init__(why)
        self.status, self.come_back, self.late = status, come_back, late


class Endless(TimeoutError):
    """An answer that does not end."""


class _Until(io.RawIOBase):
    """What comes from `raw` until a moment of the monotonic clock."""

    def __init__(self, raw: io.RawIOBase, deadline: float) -> None:
        self._raw, self._deadline = raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._deadline:
            raise Endless("the answer does not end")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        patience = PATIENCE * (sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(_Until(self.fp.detach(), time.monotonic() + patience))


class _Connection(http.client.HTTPConnection):
    response_class = _Response
    _lost: OSError | None = None

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        try:
            if self._lost is None:
                super().send(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as e:
            self._lost = e

    def getresponse(self) -> http.client.HTTPResponse:
        try:
            response = super().getresponse()
        except (OSError, http.client.HTTPException):
            if self._lost is not None:
                raise self._lost from None
            raise
        if self._lost is not None and response.status < 300:  # of something that it has not seen the whole of
            raise self._lost
        return response


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


class _Proxies(urllib.request.ProxyHandler):
    def proxy_open(self, request: urllib.request.Request, proxy: str, kind: str) -> Any:
        return None if is_local(request.full_url) else super().proxy_open(request, proxy, kind)


def opener() -> urllib.request.OpenerDirector:
    """For http and https, with the proxies of the environment, and for no other scheme."""
    made = urllib.request.OpenerDirector()
    for handler in (_Proxies, _Http, _Https, urllib.request.HTTPDefaultErrorHandler,
                    urllib.request.HTTPErrorProcessor):
        made.add_handler(handler())
    return made


def failure_of(error: Exception, url: str, asked: str, timeout_s: float, clean: Callable[[str], str]) -> Exception:
    """A failure as it is told: `Passing`, or one that stays. `asked`: the host of the service, or a proxy."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    host = urlsplit(url).netloc
    through = "" if asked == host else f" (through the proxy {clean(asked)})"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return YprovError(f"the certificate of {host} is not trusted: {clean(str(reason.verify_message))}",
                          hint="SSL_CERT_FILE=/path/to/ca.pem yprov push ...   where its authority is private")
    if isinstance(reason, ssl.SSLError) and not isinstance(reason, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return YprovError(f"no secure connection to {host}: {clean(str(reason.reason or reason))}",
                          hint="does it speak https there, and at this port?")
    if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
        if through:
            return YprovError(f"there is no host `{clean(asked)}`, which the environment names as the proxy",
                              hint="see http_proxy, https_proxy and no_proxy")
        return YprovError(f"there is no host `{urlsplit(url).hostname}`", hint="see --to")
    if isinstance(reason, Endless):
        return Passing(f"{reason}{through}", late=True)
    if isinstance(reason, TimeoutError):
        return Passing(f"no answer within {timeout_s:g} s{through}", late=True)
    if isinstance(reason, http.client.HTTPException):
        return Passing(f"the answer is torn{through}")
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return Passing((clean(text) or type(reason).__name__) + through)
