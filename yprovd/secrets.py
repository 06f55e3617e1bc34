"""What looks like a secret, and texts without it: the one room that decides it. Standard library only.

Three things tell a secret: its *name* (`HF_TOKEN=...`, `--api-key ...`, `"password": "..."`), its *shape* (`ghp_...`,
a JWT, a PEM key, `https://user:password@host`), and its *value*, where that is known as the value of a variable or an
option with such a name (`known_values`, `values_of_command`). Known values are held in memory only, and never written.

Hexadecimal digests, UUIDs and the tokens of language models (`--pad-token`) are none. A text may hold a secret that
nothing tells: a password in prose.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from yprovd.known import SHORTEST, Known
from yprovd.shapes import ANCHORS, NOT_VALUES, STRONG, is_number, is_secret, spans_of
from yprovd.sieve import LONG_TEXT, in_bytes, long_words

HIDDEN = "***"
#: A secret that is longer than this may be missed where two blocks of a file meet.
OVERLAP = 24 << 10
_BLOCK = 512 << 10
#: Bytes of a file after which it is told how far it was looked at.
_TOLD = 16 << 20
#: Of a key in PEM a line has less, also in quotes and with signs in front.
_KEY_LINE = 100

def known_values(environ: Mapping[str, str]) -> set[str]:
    """The values of variables with secret names. Not to be stored."""
    return {value for name, value in environ.items()
            if is_secret(name) and len(value) >= SHORTEST and value.lower() not in NOT_VALUES
            and not value.startswith(("/", "~", "$", "file:")) and not is_number(value)}


class Masker:
    """Takes secrets out of texts. `values`: known ones, sought in each of their forms (`yprovd.known`)."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._known = Known()
        self.learn(values)

    def learn(self, values: Iterable[str]) -> None:
        """From now on these are sought, too."""
        self._known.learn(values)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the secrets stand, in order, without overlap."""
        found = list(self._spans(text))
        if len(found) < 2:
            return found
        found.sort()
        out = [found[0]]
        for start, end in found[1:]:
            if start <= out[-1][1]:
                out[-1] = out[-1][0], max(end, out[-1][1])
            else:
                out.append((start, end))
        return out

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        words = long_words(in_bytes(text)) if len(text) >= LONG_TEXT else None
        yield from self._known.spans(text, words)
        yield from spans_of(text, words)

    def suspects(self, data: bytes) -> bool:
        """Whether a JSON text may hold a secret, in a name or a value: quick, and mostly no."""
        text = data.decode("utf-8", "replace")
        lower = text.lower()
        return any(a in lower for a in ANCHORS) or any(True for _ in self._known.spans(text))

    def text(self, text: str) -> str:
        """`text` with `***` for each secret; the very same object where there is none."""
        spans = self.spans(text)
        if not spans:
            return text
        out, at = [], 0
        for start, end in spans:
            out += [text[at:start], HIDDEN]
            at = end
        return "".join([*out, text[at:]])

    def data(self, data: bytes) -> bytes:
        """The same of a file's bytes, whatever its encoding."""
        text = data.decode("latin-1")
        masked = self.text(text)
        return data if masked is text else masked.encode("latin-1")

    def holds_secret(self, data: bytes) -> bool:
        return bool(self.spans(data.decode("latin-1")))

    def document(self, value: Any) -> Any:
        """All texts of a JSON document, also its keys; and the values of keys with secret names."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(k) if isinstance(k, str) else k:
                    hidden(str(k), v) if is_secret(str(k)) and not isinstance(v, (dict, list, tuple))
                    else self.document(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.document(v) for v in value]
        return value

    def overwrite(
        self, path: str | os.PathLike[str], begin: int = 0, *, final: bool = True,
        told: Callable[[int], object] = lambda upto: None,
    ) -> int:
        """Put `*` in the place of each character of a secret in a file that may still be written to: its length and
        what others append stay. From `begin` on; returns up to where it has looked, from which a later call goes on,
        and gives that to `told` now and then. In blocks, each with the end of the one before it: a secret across two
        is found. One at the very end may not be complete yet, and is left unless `final`. Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            at = max(0, begin - OVERLAP)
            next_told = at + _TOLD
            while True:
                data = os.pread(fd, _BLOCK + OVERLAP, at)
                more = len(data) == _BLOCK + OVERLAP
                for start, end in self.spans(data.decode("latin-1")):
                    if (final and not more) or not _cut_short(data, start, end):
                        os.pwrite(fd, b"*" * (end - start), at + start)
                if not more:
                    return at + len(data)
                at += _BLOCK
                if at >= next_told:
                    told(at + OVERLAP)
                    next_told = at + _TOLD
        finally:
            os.close(fd)

    def in_binary(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file of any size and kind holds a known value, or a token that is told by its beginning."""
        forms = self._known.as_bytes()
        with open(path, "rb", buffering=0) as f:
            rest = b""
            while block := f.read(_BLOCK):
                data = rest + block
                if any(form in data for form in forms):
                    return True
                for anchor in STRONG:
                    at = data.find(anchor)
                    while at >= 0:
                        if any(True for _ in spans_of(data[max(0, at - 8):at + 4096].decode("latin-1"))):
                            return True
                        at = data.find(anchor, at + 1)
                rest = data[-4096:]
        return False


def _cut_short(data: bytes, start: int, end: int) -> bool:
    """Whether a secret near the end of what was read may go on behind it. A key of many lines does until its END, also
    where the last line is too short yet to be told as one of them; without its first line nothing tells the rest."""
    key = data[start:end]
    return end == len(data) or (end > len(data) - _KEY_LINE and start > len(data) - OVERLAP
                                and b"-----BEGIN" in key and b"-----END" not in key)


def hidden(name: str, value: Any) -> Any:
    """The value of something with a secret name: a number of tokens and a switch are none."""
    if value is None or isinstance(value, bool) or value == "":
        return value
    if isinstance(value, int | float) and name.lower().endswith("token"):
        return value
    return HIDDEN


#: From a name's beginning on: sought from each of its letters, a word of 100 kB would take a minute.
_MADE = r"\$\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|`[^`]*`"  # by a command in its place
_ASSIGNMENT = re.compile(rf"(?<![\w.-])([\w.-]+)=((?:{_MADE})|\"(?:{_MADE})\"|'[^']*'|\"[^\"]*\"|[^\s;&|'\"]+)")
_USER = ("-u", "--user", "--proxy-user")
_HEADER = ("-H", "--header")
_NOBODY = Masker()


def masked(command: Sequence[str], masker: Masker = _NOBODY) -> list[str]:
    """The command line without what looks like a secret: `--api-key X`, `TOKEN=X`, also within a `bash -c`."""
    return [masker.text(HIDDEN.join(pieces)) for pieces, _hidden in _taken_apart(command)]


def values_of_command(command: Sequence[str]) -> set[str]:
    """The secrets that a command line gives by name. Not to be stored."""
    values = {value.strip("'\"") for _pieces, hidden_ones in _taken_apart(command) for value in hidden_ones}
    for word in command:
        values |= {word[a:b] for a, b in _NOBODY.spans(word)}
    return {v for v in values if len(v) >= SHORTEST and v.lower() not in NOT_VALUES and not v.startswith(("$", "`"))
            and not is_number(v)}


def _taken_apart(command: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Each word as what stands around its secrets, and the secrets."""
    for i, word in enumerate(command):
        before = command[i - 1] if i else ""
        if before.startswith("-") and is_secret(before) and not word.startswith("-"):
            yield ["", ""], [word]
            continue
        if before in _USER and ":" in word and not word.partition(":")[2].isdecimal():
            user, _, password = word.partition(":")
            yield [f"{user}:", ""], [password]
            continue
        name, _, value = word.partition(":")
        if before in _HEADER and value.strip() and is_secret(name):
            yield [f"{name}: ", ""], [value.strip()]
            continue
        pieces, secrets, at = [], [], 0
        for m in _ASSIGNMENT.finditer(word):
            if is_secret(m[1]):
                pieces.append(word[at:m.start(2)])
                secrets.append(m[2])
                at = m.end()
        yield [*pieces, word[at:]], secrets
