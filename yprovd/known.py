"""Known secrets, however they are written: as they are, as JSON and URLs write them, in UTF-16, within base 64.

Base 64 takes three bytes for four characters: what a value becomes depends on where it stands among them. For each of
the three places the characters that the value alone decides are sought (RFC 4648, also with `-_` for `+/`), and the
ones beside them, which hold some of its bits, go with them. So `user:token` is found by the token. Values are held in
memory only. Standard library only.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote, quote_plus

from yprovd.sieve import LONG

#: Shorter values of variables are not sought in texts: they would be found everywhere.
SHORTEST = 8
#: Longer ones are sought by their first characters.
_LONGEST = 1024
_WORDS = re.compile(r"[A-Za-z0-9_-]+")


class _Form(NamedTuple):
    text: str
    before: int = 0    # characters beside it that hold bits of the value, too
    after: int = 0
    wide: bool = False  # UTF-16: only where there are zero bytes

    @property
    def core(self) -> str:
        """A long word in it, by which a long text is searched for it; "" where it has none."""
        word = max(_WORDS.findall(self.text), key=len, default="")
        return word if len(word) >= LONG else ""


class Known:
    """Values that are sought literally."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._forms: list[tuple[_Form, bytes]] = []

    def learn(self, values: Iterable[str]) -> None:
        """From now on these are sought, too."""
        new = {v for v in values if len(v) >= SHORTEST} - self._values
        if not new:
            return
        self._values |= new
        forms = {form for value in self._values for form in _forms_of(value) if len(form.text) >= SHORTEST}
        ordered = sorted(forms, key=lambda f: (-len(f.text), f))
        self._forms = [(form, form.core.encode()) for form in ordered]

    def spans(self, text: str, words: bytes | None = None) -> Iterator[tuple[int, int]]:
        """Where they stand, in no order; they may overlap. `words`: the `long_words` of a long text."""
        wide = "\0" in text
        for form, core in self._forms:
            if (form.wide and not wide) or (words is not None and core and core not in words):
                continue
            at = text.find(form.text)
            while at >= 0:
                end = at + len(form.text)
                yield max(0, at - form.before), min(len(text), end + form.after)
                at = text.find(form.text, end)

    def as_bytes(self) -> list[bytes]:
        """As a file of any kind may hold them."""
        return [f.text.encode("latin-1" if f.wide else "utf-8", "surrogateescape") for f, _core in self._forms]


def _forms_of(value: str) -> Iterator[_Form]:
    data = value.encode("utf-8", "surrogateescape")  # as it was given to us, UTF-8 or not
    once = json.dumps(value)[1:-1]
    for text in (value[:_LONGEST], once, json.dumps(once)[1:-1], once.replace("/", "\\/"),
                 json.dumps(value, ensure_ascii=False)[1:-1], quote(data, safe=""), quote(data), quote_plus(data),
                 data.decode("latin-1")):
        yield _Form(text)
    for encoding in ("utf-16-le", "utf-16-be"):
        wide = value[:_LONGEST].encode(encoding, "surrogatepass").decode("latin-1")
        yield _Form(wide.strip("\0"), wide=True)  # the zero at an end may be the next letter's, in the other order
    for place in range(3):
        encoded = base64.b64encode(b"\0" * place + data[:_LONGEST]).decode()
        bits = 8 * (place + len(data[:_LONGEST]))
        inner = encoded[-(-8 * place // 6):bits // 6]
        for text in (inner, inner.replace("+", "-").replace("/", "_")):
            yield _Form(text, before=int(place > 0), after=int(bits % 6 > 0))
