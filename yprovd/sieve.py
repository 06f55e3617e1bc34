"""Which anchors of `yprovd.shapes` a long text can hold at all: a log of numbers is searched for none of them.

A search for each of seventy anchors is a pass over the text each. Here it is folded once: lower case, each separator as
`=`, letters that make the ends of several names alike as one of them (`ken=`, `ret=`, `kie=` and `key=` are the same),
digits and letters that no anchor needs left out. What is left out, or alike, makes neighbours of what was apart: a gate
may be found where there is no anchor, and is always found where there is one. The tokens of services have long words
without an end in them: only such words are searched for their beginnings. Standard library only.
"""

from __future__ import annotations

_ALIKE = ("tenyi", "kr", "pj", "wa", "ds")
_LEFT_OUT = b"0123456789fmqvxzFMQVXZ"
#: Shorter words of `[A-Za-z0-9_-]` hold no token that is told by its beginning, which may stand in front of it, with a
#: full stop between (`hvs.`).
LONG, _IN_FRONT = 15, 8
#: Texts of so many characters are worth a sieve.
LONG_TEXT = 4096


def _folding() -> bytes:
    alike = {c: letters[0] for letters in _ALIKE for c in letters}
    lower = [chr(c).lower() if c < 128 else "=" for c in range(256)]
    return "".join(alike.get(c, c) if c.isalpha() or c in "_-" else "=" for c in lower).encode("latin-1")


_FOLD = _folding()
_WORD = bytes(97 if c < 128 and (chr(c).isalnum() or c in b"_-") else 32 for c in range(256))


def folded(data: bytes) -> bytes:
    return data.translate(_FOLD, _LEFT_OUT)


#: {what every text with one of these anchors holds, folded: the anchors}
GATES = {folded(gate): anchors for gate, anchors in (
    (b"key=", ("token", "secret", "key", "cookie")),
    (b"pas", ("passw", "passphrase", "_pass", "_pwd", "password")),
    (b"pat=", ("_pat", "jwt")),
    (b"sig", ("sig", "signature")),
    (b"auth", ("auth", "authorization", '"auth"', '\\"auth\\"')),
    (b"hook", ("webhook", "hooks.slack.com/", "/api/webhooks/")),
    (b"dential=", ("credential",)),
    (b"login=", ("login(",)),
    (b"basic", ("basic",)),
    (b"bearer", ("bearer",)),
    (b"=-u", ("-u",)),
    (b"-user", ("-user",)),
    (b"-----begin", ("-----begin",)),
)}
#: The same, as it is written.
WRITTEN = {b"://": "://", b"eyJ": "eyj"}
_BEHIND_A_GATE = frozenset(anchor for anchors in GATES.values() for anchor in anchors) | frozenset(WRITTEN.values())


def sieved(text: str, words: bytes, anchors: frozenset[str]) -> set[str]:
    """Those of the anchors of `yprovd.shapes` that the text can hold. `words`: its `long_words`."""
    data = in_bytes(text)
    small = b"=" + folded(data)
    found = {anchor for gate, behind in GATES.items() if gate in small for anchor in behind}
    found.update(anchor for written, anchor in WRITTEN.items() if written in data)
    lower = words.lower().decode("latin-1")
    missing = [sign for sign in "_-." if sign not in lower]  # a dump in base 64 has long words only
    return {a for a in anchors if a in found
            or (a not in _BEHIND_A_GATE and not any(sign in a for sign in missing) and a in lower)}


def in_bytes(text: str) -> bytes:
    """All ASCII of a text, in its order; of what else there is, something else."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.replace("\u212a", "k").encode("utf-8", "surrogatepass")  # ASCII in lower case


def long_words(data: bytes) -> bytes:
    """The words of `data` that are long, each with a little of what stands in front."""
    alike = data.translate(_WORD)
    long = b"a" * LONG
    out, at = [], alike.find(long)
    while at >= 0:
        end = alike.find(b" ", at)
        end = end if end >= 0 else len(data)
        out.append(data[max(0, at - _IN_FRONT):end])
        at = alike.find(long, end)
    return b"\n".join(out)
