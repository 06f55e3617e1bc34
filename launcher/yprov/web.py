"""HTTP to one service, with care: what fails for a moment is tried again, and a secret goes nowhere else.

- Tried again, at most `ATTEMPTS` times in all: no connection, a lost one, no answer in time, 429 and 5xx. The pause
  doubles from one second, or is what `Retry-After` says, up to a bound.
- The token stands in the header `Authorization` of requests to the service itself (scheme, host and port), and
  nowhere else: not in an address, a message, an exception or a file. A redirect to another place is not followed.
- What a service says is shown as one short line without control characters and without our secrets.
- Proxies are those of the environment (`https_proxy`, `no_proxy`), certificates those of the system (`SSL_CERT_FILE`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

from yprov.addresses import ascii_of, clean, is_local, is_web, json_of, origin
from yprov.bodies import Body
from yprov.connections import Endless, Passing, failure_of, opener
from yprovd import __version__
from yprovd.errors import YprovError

ATTEMPTS = 5
REDIRECTS = 5
LONGEST_PAUSE_S = 120.0
_BLOCK = 1 << 16
_LARGEST_ANSWER = 256 << 20
_ASCII = "".join(map(chr, range(128)))
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """None where it is no JSON."""
        return json_of(self.body)


class Refused(YprovError):
    """The service answered, and the answer is no. `code`: of HTTP."""

    def __init__(self, code: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    @property
    def for_good(self) -> bool:
        """Whether this request will never be taken, and nothing came of it."""
        return 400 <= self.code < 500 and self.code != 401 and self.code not in _PASSING


class Web:
    """The service at `address`. `say` takes a line of progress; `sleep` and `now_s` are for tests. `timeout_s`: for
    how long nothing may come."""

    def __init__(
        self, address: str, *, say: Callable[[str], None], timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep, now_s: Callable[[], float] = time.time,
    ) -> None:
        self.address = address
        self.say = say
        self._seen_at: datetime | None = None
        self._timeout_s, self._sleep, self._now_s = timeout_s, sleep, now_s
        self._token = ""
        self._secrets: list[str] = []
        self._opener = opener()
        self._warned: set[str] = set()
        self._warn(address)

    def __repr__(self) -> str:
        return f"Web({self.address!r})"

    def use(self, token: str) -> None:
        """Raises YprovError for what cannot be a token, without repeating it."""
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise YprovError("the token has characters that no token has", hint="was it copied as a whole?")
        self.keep_secret(token)
        self._token = token

    def keep_secret(self, text: str) -> None:
        self._secrets.append(text)
        self._secrets.sort(key=len, reverse=True)

    def keep_address(self, url: str) -> None:
        """Of one that bears its own permission: who has it may write there."""
        for secret in (url, url.partition("?")[0]):
            self.keep_secret(secret)

    def moment(self) -> datetime:
        """When the service answered last, by its own clock: it is asked where it never has."""
        if self._seen_at is None:
            self.call("GET", "/", accept=range(300, 600), signed=False)
        return self._seen_at or datetime.fromtimestamp(self._now_s(), UTC)

    def clean(self, text: str) -> str:
        return clean(text, self._secrets)

    def call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Body | None = None,
        accept: Iterable[int] = (), signed: bool = True, unless: Callable[[], Answer | None] | None = None,
    ) -> Answer:
        """The answer to a request, where it is a success or one of `accept`. `path`: below the service's address, or a
        whole address. `unless` is asked before a request is sent again or given up, and what it returns is the
        answer. Raises Refused for any other answer, YprovError when there is none."""
        url = path if "://" in path else self.address + path
        if not is_web(url):
            raise YprovError(f"{self.address} names an address that is none", hint="is it a service of yProv?")
        url = ascii_of(url)
        self._warn(url)
        if query:
            url += "?" + urlencode(query, errors="replace")
        late = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._once(method, url, body, frozenset(accept), signed)
            except Passing as e:
                late |= e.late
                pause = self._pause(e.come_back, attempt)
                if attempt == ATTEMPTS or pause > LONGEST_PAUSE_S:
                    with contextlib.suppress(YprovError):
                        if unless is not None and (found := unless()) is not None:
                            return found
                    raise self._given_up(url, e, attempt, pause, unless is not None, late) from None
                self.say(f"{method} {self._shown(url)}: {e}; again in {pause:g} s ({attempt + 1} of {ATTEMPTS})")
                self._sleep(pause)
                if unless is not None and (found := unless()) is not None:
                    return found
            else:
                if late and unless is not None:
                    self.say("warning: it may be there more than once: the service worked for longer than --timeout")
                return answer
        raise AssertionError("the last attempt returns or raises")

    def same_place(self, url: str) -> bool:
        return origin(url) == origin(self.address)

    def _warn(self, url: str) -> None:
        """Once for each place."""
        place = urlunsplit((*urlsplit(url)[:2], "", "", ""))
        if place.startswith("http:") and not is_local(place) and place not in self._warned:
            self._warned.add(place)
            self.say(f"warning: what is sent to {self.clean(place)} can be read on its way: it is http, not https")

    def refusal(self, answer: Answer, url: str) -> Refused:
        """A failure that says what the service said."""
        said = self.clean(_said(answer))
        where = f"{self._shown(url)}: {answer.status}" + (f": {said}" if said else "")
        if answer.status == 413:
            return Refused(413, f"it is too large for the service: {where}",
                           hint="its administrator may allow more; `yprov push --dry-run` tells the size")
        return Refused(answer.status, f"the service refused: {where}", hint={
            404: "is this the address of the service? see --to and --backend",
            405: "is this the kind of service that it is taken for? see --backend",
        }.get(answer.status, ""))

    def _once(self, method: str, url: str, body: Body | None, accept: frozenset[int], signed: bool) -> Answer:
        for _ in range(REDIRECTS):
            answer = self._send(method, url, body, signed)
            if answer.status in accept or answer.status < 300:
                return answer
            if answer.status in (301, 302, 303, 307, 308):
                url = self._redirected(method, url, answer)
            elif answer.status in _PASSING or answer.status > 505:
                raise Passing(f"{answer.status} {self.clean(_said(answer))}".strip(), answer.status,
                              answer.headers.get("Retry-After", ""), late=answer.status == 504)
            else:
                raise self.refusal(answer, url)
        raise YprovError(f"{self._shown(url)} leads round in circles")

    def _redirected(self, method: str, url: str, answer: Answer) -> str:
        try:
            # a header comes to us as Latin-1, whatever it was
            target = urljoin(url, quote(answer.headers.get("Location", "").encode("latin-1", "replace"), safe=_ASCII))
        except ValueError:
            target = ""
        ours = self.same_place(url)
        if not ours:
            self.keep_address(target)
        shown = self._shown(target) or "one without an address"
        if not is_web(target) or origin(target) != origin(url):
            raise YprovError(f"the service sends us to another place, {shown}; nothing was sent there",
                             hint=f"if that is the service: --to {shown}" if ours and is_web(target) else "")
        if method not in ("GET", "HEAD") and answer.status not in (307, 308):
            raise YprovError(f"the service has moved to {shown}", hint="give --to the new address")
        return target

    def _send(self, method: str, url: str, body: Body | None, signed: bool) -> Answer:
        request = urllib.request.Request(url, method=method, headers={
            "Accept": "application/json, */*", "User-Agent": f"yprov/{__version__}"})
        if body is not None:
            request.data = iter(body)
            request.add_header("Content-Type", body.kind)
            request.add_header("Content-Length", str(body.size))
        if signed and self._token and self.same_place(url):
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            try:
                response = self._opener.open(request, timeout=self._timeout_s)
            except urllib.error.HTTPError as e:
                response = e
            with response:
                answer = Answer(int(response.status), response.headers, self._read(response))
        except (OSError, http.client.HTTPException) as e:
            raise failure_of(e, url, request.host, self._timeout_s, self.clean) from None
        with contextlib.suppress(TypeError, ValueError):
            at = parsedate_to_datetime(answer.headers["Date"])
            self._seen_at = at.replace(tzinfo=at.tzinfo or UTC)
        return answer

    def _read(self, response: Any) -> bytes:
        out = bytearray()
        while block := response.read1(_BLOCK) if hasattr(response, "read1") else response.read(_BLOCK):
            out += block
            if len(out) > _LARGEST_ANSWER:
                raise Endless("the answer does not end")
        left = getattr(response, "length", None)
        if left:
            raise http.client.IncompleteRead(bytes(out), left)
        return bytes(out)

    def _pause(self, come_back: str, attempt: int) -> float:
        said = come_back.strip()
        if said.isdecimal():
            return float(said)
        with contextlib.suppress(TypeError, ValueError):
            return max(0.0, parsedate_to_datetime(said).timestamp() - self._now_s())
        return float(2 ** (attempt - 1))

    def _given_up(
        self, url: str, last: Passing, attempt: int, pause: float, looked_for: bool, late: bool
    ) -> YprovError:
        where = self._shown(url)
        hint = "try again later"
        if looked_for:
            hint += "; the next push looks first whether this one arrived"
        if looked_for and late:
            hint += ". A service that worked on after each try may have published it more than once"
        if pause > LONGEST_PAUSE_S:
            return YprovError(f"{where}: {last}; it asks to come back in {pause:.0f} s", hint=hint)
        if last.late and not last.status:
            hint += "; --timeout gives it more time"
        if last.status:
            return Refused(last.status, f"{where}: {last}; tried {attempt} times", hint=hint)
        return YprovError(f"no connection to {where}: {last}; tried {attempt} times", hint=hint)

    def _shown(self, url: str) -> str:
        """An address as people may see it: a signed one has its secret in its question."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return self.clean(urlunsplit((parts.scheme, host, parts.path, "", "")))


def _said(answer: Answer) -> str:
    """The service's own words: `error`, `description`, `detail` or `message` of its JSON, else a short text."""
    value = answer.json()
    if isinstance(value, dict):
        for key in ("error", "description", "detail", "message"):
            if value.get(key):
                return value[key] if isinstance(value[key], str) else json.dumps(value[key], ensure_ascii=False)
    kind = answer.headers.get_content_type()
    return "" if kind == "text/html" else answer.body.decode("utf-8", "replace")
