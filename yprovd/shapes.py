"""What tells a secret: its name, and the shapes that those of well-known services have. Standard library only.

Each shape stands behind an anchor, a literal that every text with such a secret holds: texts are searched for anchors,
and only there for the shape; long texts for those that they can hold at all (`yprovd.sieve`), so that 100 MB of a log
are searched in a second.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from yprovd.sieve import sieved

#: `X_token` is none with these in front: of language models, and numbers of them.
_PLAIN_TOKENS = frozenset((
    "pad", "eos", "bos", "unk", "mask", "sep", "cls", "image", "audio", "video", "special", "additional", "begin",
    "end", "start", "stop", "first", "last", "next", "prev", "new", "max", "min", "num", "n", "per", "prefix",
    "suffix", "decoder", "id", "sub", "word", "context", "time", "total", "each", "every", "fim", "blank", "ignore",
    "query", "register"))
_SECRET_KEYS = frozenset((
    "api", "access", "private", "secret", "encryption", "signing", "master", "ssh", "auth", "account", "shared",
    "deploy", "subscription", "consumer", "storage", "client", "service", "session"))
_SECRET_LAST = frozenset((
    "credential", "credentials", "jwt", "passphrase", "authtoken", "signature", "sig", "webhook", "cookie", "connstr"))
_AFTER_ANOTHER = frozenset(("pass", "pwd", "pat", "auth", "sas"))
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
NOT_VALUES = frozenset((
    "none", "null", "true", "false", "str", "string", "bytes", "int", "bool", "any", "optional", "required", "disabled",
    "enabled", "anonymous", "undefined", "self", "basic", "bearer"))


def is_secret(name: str) -> bool:
    """Whether the value of an option, a variable or a parameter of this name is to be kept out of the record."""
    *before, last = [w for w in re.split(r"[-_.\s/]+", _CAMEL.sub("_", name).lower()) if w] or [""]
    front = before[-1] if before else ""
    if last == "token":
        return front not in _PLAIN_TOKENS
    if last == "key":
        return front in _SECRET_KEYS
    if last in _AFTER_ANOTHER:
        return bool(front) and front not in ("old", "no", "ma", "pre", "first", "forward", "backward", "single")
    return last.endswith(("password", "passwd", "secret", "apikey")) or last in _SECRET_LAST


def is_number(value: str) -> bool:
    return value.isdecimal() and len(value) < 12


def _shape(anchor: str, pattern: str, flags: int = 0) -> tuple[str, re.Pattern[str]]:
    return anchor, re.compile(pattern, flags | re.ASCII)


_EDGE = r"(?<![A-Za-z0-9_])"
_MIXED = r"(?=[\w.~+/=-]*\d)"
#: (what stands in it, in lower case; the pattern that must match there, whose group `s` is the secret)
_SHAPES = (
    *(_shape(f"gh{c}_", rf"{_EDGE}(?P<s>gh{c}_[A-Za-z0-9]{{16,}})") for c in "pousr"),
    _shape("github_pat_", r"(?P<s>github_pat_\w{16,})"),
    _shape("hf_", rf"{_EDGE}(?P<s>hf_[A-Za-z0-9]{{20,}})"),
    _shape("api_org_", rf"{_EDGE}(?P<s>api_org_[A-Za-z0-9]{{20,}})"),
    _shape("sk-", r"(?<![A-Za-z0-9_-])(?P<s>sk-(?:(?:ant|proj|svcacct|admin|or|lf)-[\w-]{12,}|"
                  rf"{_MIXED}[A-Za-z0-9]{{20,}}))"),
    _shape("sk_", rf"{_EDGE}(?P<s>sk_(?:live|test)_[A-Za-z0-9]{{12,}})"),
    _shape("rk_", rf"{_EDGE}(?P<s>rk_(?:live|test)_[A-Za-z0-9]{{12,}})"),
    *(_shape(p, rf"(?<![A-Za-z0-9])(?P<s>{p.upper()}[0-9A-Z]{{16}})(?![A-Za-z0-9])") for p in ("akia", "asia")),
    *(_shape(f"xox{c}-", rf"{_EDGE}(?P<s>xox{c}-[A-Za-z0-9-]{{10,}})") for c in "abeoprs"),
    _shape("xapp-", rf"{_EDGE}(?P<s>xapp-[A-Za-z0-9-]{{10,}})"),
    *(_shape(f"gl{k}-", rf"{_EDGE}(?P<s>gl{k}-[\w-]{{16,}})")
      for k in ("pat", "dt", "rt", "cbt", "ptt", "ft", "soat", "agent")),
    _shape("eyj", rf"{_EDGE}(?P<s>eyJ[\w-]{{8,}}\.[\w-]{{8,}}(?:\.[\w-]+)*)"),
    _shape("npm_", rf"{_EDGE}(?P<s>npm_[A-Za-z0-9]{{20,}})"),
    _shape("pypi-", rf"{_EDGE}(?P<s>pypi-(?=[\w-]*[A-Z]){_MIXED}[\w-]{{16,}})"),
    _shape("aiza", rf"{_EDGE}(?P<s>AIza[\w-]{{30,}})"),
    _shape("ya29.", rf"{_EDGE}(?P<s>ya29\.[\w-]{{16,}})"),
    _shape("gocspx-", rf"{_EDGE}(?P<s>GOCSPX-[\w-]{{16,}})"),
    _shape("hvs.", rf"{_EDGE}(?P<s>hvs\.[\w-]{{16,}})"),
    _shape("gsk_", rf"{_EDGE}(?P<s>gsk_[A-Za-z0-9]{{20,}})"),
    _shape("nvapi-", rf"{_EDGE}(?P<s>nvapi-[\w-]{{20,}})"),
    _shape("dckr_", r"(?P<s>dckr_[po]at_[\w-]{16,})"),
    _shape("wandb_v", r"(?P<s>wandb_v\d+_\w{16,})"),
    _shape("sg.", rf"{_EDGE}(?P<s>SG\.[\w-]{{16,}}\.[\w-]{{16,}})"),
    _shape("age-secret-key-", r"(?P<s>AGE-SECRET-KEY-1[0-9A-Z]{20,})"),
    _shape("hooks.slack.com/", r"hooks\.slack\.com/(?P<s>[\w/-]{8,})"),
    _shape("/api/webhooks/", r"/api/webhooks/(?P<s>[\w/-]{8,})"),
    _shape("bearer", rf"bearer[\s:=]+[\"']?(?P<s>{_MIXED}[\w.~+/=-]{{10,}})", re.IGNORECASE),
    _shape("authorization", r"authorization\\?[\"']?\s*[:=,]\s*\\?[\"']?(?:(?:bearer|basic|token|digest|apikey)\s+)?"
                            r"(?P<s>[\w.~+/=:-]{6,})", re.IGNORECASE),
    _shape("login(", r"login\(\s*(?:\w+\s*=\s*)?[\"'](?P<s>[^\"'\s]{8,})[\"']", re.IGNORECASE),
    _shape("password", r"password(?<=\blogin\s)?\s+(?P<s>[^\s\"']+)(?:(?=\s|$))", re.IGNORECASE),
    _shape("\"auth\"", r"\"auth\"\s*:\s*\"(?P<s>[A-Za-z0-9+/=_-]{8,})\"", re.IGNORECASE),
    _shape("\\\"auth\\\"", r"\\\"auth\\\"\s*:\s*\\\"(?P<s>[A-Za-z0-9+/=_-]{8,})\\\"", re.IGNORECASE),
    _shape("basic", r"basic\s+(?P<s>[A-Za-z0-9+/]{8,}={0,2})", re.IGNORECASE),
    _shape("-u", r"(?<![\w-])-u[ =]?[\"']?[^\s:\"'/]+:(?P<s>[^\s\"':]+)"),
    _shape("-user", r"-user[ =][\"']?[^\s:\"'/]+:(?P<s>[^\s\"':]+)"),
    _shape("://", r"://(?:[^\s/@:\"'<>]*:(?P<s>[^\s/\"'<>]+)|(?P<t>[^\s/@:\"'<>]{16,}))@"),
    _shape("-----begin", r"(?P<s>-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
                         r"(?:(?:(?!-----).){0,20000}?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
                         r"|(?:(?:\s|\\[nr]|[\"'+|>-])*[A-Za-z0-9+/=]{16,})*))", re.DOTALL),
)
#: Beginnings, as they are written, that random bytes do not have before such a shape.
STRONG = (b"ghp_", b"gho_", b"ghs_", b"github_pat_", b"hf_", b"sk-", b"AKIA", b"xoxb-", b"xoxp-", b"glpat-", b"eyJ",
          b"npm_", b"pypi-", b"AIza", b"PRIVATE KEY", b"hooks.slack.com/", b"AccountKey=")
#: Words of which names of secrets are made, as they stand in a text.
_WORDS: tuple[str, ...] = (
    "token", "passw", "passphrase", "secret", "key", "credential", "signature", "sig", "_pwd", "_pass",
    "auth", "cookie", "jwt", "_pat", "webhook")
#: Every text with a shape or a name of a secret holds one of these, in lower case.
ANCHORS = tuple({*(anchor for anchor, _pattern in _SHAPES), *(w.lstrip("_") for w in _WORDS), "pat"})
_ALL = frozenset((*(anchor for anchor, _pattern in _SHAPES), *_WORDS))
_BEHIND = frozenset("\"'=:] \t\\,")
_IN_NAME = re.compile(r"[\w.-]*\Z", re.ASCII)
_ASSIGNED = re.compile(
    r"(?P<name>[\w.-]+?)"
    # an annotation (`token: str | None =`), or what stands between any name and its value
    r"(?P<sep>\\?[\"']?\]?"
    r"(?:\s{0,8}:\s{0,4}[A-Za-z][\w.]{0,40}(?:\[[\w\[\]|., ]{0,40})?(?: ?\| ?[\w.\[\]]{1,40}){0,3}"
    r"\s{0,4}=\s{0,4}|\s{0,8}(?:=>|:=|==?|:)\s{0,8})"
    r"|\\?[\"']\s?,\s?(?=\\?[\"'])|\s{1,4}(?![-\s]))"
    r"(?P<quote>\\?[\"'`]|)"
    r"(?P<s>(?<=[\"'`])[^\"'`\n\\]{1,4096}|[^\s\"'`,;&|<>(){}\[\]\\]{1,4096})(?P<after>\\?.?)", re.ASCII)
#: In front of the name of a header that a program is given (curl, wget, http clients): its value ends with the quote.
_HEADER = re.compile(r"(?:-H|--header)[ =]?\\?([\"'])\Z")
_COLON = re.compile(r"[ \t]*:[ \t]*")
#: A value that a shell's line makes of what stands in it: `$(echo VALUE)`, `` `printf %s VALUE` ``, `$(rev <<< VALUE)`.
_ECHOED = re.compile(
    r"[\"']?(?:\$\(|`)\s*(?:(?:echo|printf)\s+(?:-\w+\s+|\\?[\"']?%\w(?:\\n)?\\?[\"']?\s+)*|[^<>()`\n]{0,200}<<<\s*)"
    r"(?:\\?\"(?P<a>[^\"`$\n\\]+)|\\?'(?P<b>[^'\n\\]+)|(?P<c>[^\s\"'`$|&;<>()\\]+))")
_EXPRESSION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_]+")


#: Where a program puts a password in: a variable of a shell's, a field of a format. A patch with it masked is no patch.
_PLACE = re.compile(r"\$[A-Z_][A-Z0-9_]*$|\$\{\w+\}$|\{[A-Za-z_][\w.]*\}$|\$\(")


def _holds(pattern: re.Pattern[str], m: re.Match[str], anchor: str) -> bool:
    """What a shape cannot say: netrc's words stand beside others, a basic authentication is base64 of `user:password`,
    `docker -u 1000:1000` and `-u $(id -u):$(id -g)` are no passwords."""
    if anchor == "password":
        around = m.string[max(0, m.start() - 200):m.start()].lower()
        return bool(re.search(r"\b(login|machine|default)\b", around))
    if anchor == "basic":
        try:
            return b":" in base64.b64decode(m["s"] + "=" * (-len(m["s"]) % 4), validate=True)
        except (binascii.Error, ValueError):
            return False
    if anchor in ("-u", "-user"):
        dated = m["s"].startswith("%") and "+%" in m[0]  # date -u +%H:%M
        return not m["s"].isdecimal() and not dated and not _PLACE.match(m["s"])
    if anchor == "://":
        return not _PLACE.fullmatch(m["s"] or "")
    return True


def _echoed(m: re.Match[str]) -> tuple[int, int] | None:
    """Where the literal is of which a shell's line makes the value of a secret, in the place of that value."""
    if m["sep"] != "=" or not is_secret(m["name"].rstrip(".-")):
        return None
    made = _ECHOED.match(m.string, m.end("sep"))
    return made.span(made.lastindex) if made is not None and made.lastindex is not None else None


def _in_header(m: re.Match[str]) -> tuple[int, int] | None:
    """Where the value of a header with a secret's name is, of whatever letters it is made."""
    opened = _HEADER.search(m.string, max(0, m.start() - 16), m.start())
    colon = _COLON.match(m.string, m.end("name"))
    if opened is None or colon is None or not is_secret(m["name"]):
        return None
    start = colon.end()
    end = m.string.find(opened[1], start)
    end = end if end >= 0 else m.end("s")
    while end > start and m.string[end - 1] == "\\":
        end -= 1
    value = m.string[start:end]
    plain = value.startswith(("$", "{", "<")) or value.lower() in NOT_VALUES or not value.strip("*")
    return None if plain or "\n" in value else (start, end)


def _is_value(m: re.Match[str]) -> bool:
    """Whether `NAME <sep> VALUE` gives a secret its value, and is not a program's expression or a sentence."""
    name, sep, value = m["name"].rstrip(".-"), m["sep"], m["s"]
    if not is_secret(name) or not value.strip("*"):
        return False
    option = m["name"].startswith("--")
    if sep.isspace() and not option:
        return False  # a sentence
    if value.startswith(("$", "%(", "{", "<", "[", "@")) or value.lower() in NOT_VALUES:
        return False
    weak = name.lower().endswith(("token", "sig", "auth", "signature", "cookie"))
    if weak and (is_number(value) or len(value) < 4):
        return False
    if m["quote"]:
        return len(value) >= 4 and (option or not weak or not re.search(r"\s", value))
    if m["after"][:1] in ("(", "["):
        return False  # a call
    if option or name.isupper():
        return True
    if _EXPRESSION.fullmatch(value):  # of letters only, or `args.token`
        return len(value) >= (16 if ":" in sep or ("=" in sep and " " not in sep) else 1000) and "." not in value \
            and "_" not in value
    return any(c.isdigit() for c in value) or len(value) >= 16


def _lower(text: str) -> str:
    """In lower case, letter for letter."""
    if text.isascii():
        return text.lower()
    try:
        return text.encode("latin-1").lower().decode("latin-1")  # quick; anchors are of ASCII
    except UnicodeEncodeError:
        return text.replace("\u0130", "i").lower()  # the one letter whose lower case is longer


def spans_of(text: str, words: bytes | None = None) -> Iterator[tuple[int, int]]:
    """Where in a text secrets stand, as shapes and names tell; in no order, and they may overlap. With the
    `yprovd.sieve.long_words` of a long text it is sieved first."""
    shapes, names = _SHAPES, _WORDS
    if words is not None:
        possible = sieved(text, words, _ALL)
        shapes = tuple(one for one in _SHAPES if one[0] in possible)
        names = tuple(one for one in _WORDS if one in possible)
    lower = _lower(text) if shapes or names else ""
    for anchor, pattern in shapes:
        at = lower.find(anchor)
        while at >= 0:
            m = pattern.match(text, at)
            if m is not None and _holds(pattern, m, anchor):
                span = m.span("s") if m["s"] is not None else m.span("t")
                if text[span[0]:span[1]].strip("*"):
                    yield span
            at = lower.find(anchor, max(at + 1, m.end() if m is not None else 0))
    for word in names:
        at = lower.find(word)
        while at >= 0:
            if word != "passw" and text[at + len(word):at + len(word) + 1] not in _BEHIND:
                at = lower.find(word, at + len(word))  # not the end of a name: `tokens/s`
                continue
            front = _IN_NAME.search(text, max(0, at - 64), at)
            start = front.start() if front is not None else at
            m = _ASSIGNED.match(text, start)
            if m is not None and m.end("name") >= at + len(word):
                if (made := _in_header(m) or _echoed(m)) is not None:
                    yield made
                elif _is_value(m):
                    yield m.span("s")
            at = lower.find(word, at + len(word))
