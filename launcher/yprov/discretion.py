"""What a report that is sent to strangers does not say."""

from __future__ import annotations

import hashlib
import hmac
import os
import pwd
import re
import secrets
from typing import Any

from yprovd.sensors.files import read_word


class Discretion:
    """Takes out of a document what a stranger need not know: names of users, their home directories; with `anonymous`
    also the host and serial numbers. A host has the same other name in each of its reports."""

    def __init__(self, *, anonymous: bool) -> None:
        me = pwd.getpwuid(os.getuid()) if _known_user() else None
        names = {w for w in (os.environ.get("USER"), os.environ.get("LOGNAME"), me.pw_name if me else "") if w}
        homes = {h for h in (os.environ.get("HOME"), me.pw_dir if me else "") if h and h != "/"}
        self._patterns = [(re.compile(rf"(?<![\w./~-]){re.escape(home)}(?![\w-])"), "~")
                          for home in sorted(homes, key=len)[::-1]]
        # In paths, also as a part of a name (`/scratch/me-data`, `user-me.slice`); elsewhere it may be a word of ours.
        self._names = [re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
                       for name in sorted(names - {"root"}, key=len)[::-1]]
        self._key = (read_word("/etc/machine-id") or secrets.token_hex()).encode()
        self._anonymous = anonymous
        if anonymous:
            host = os.uname().nodename
            names_of_host = {host, host.partition(".")[0]}
            self._patterns += [(re.compile(rf"(?<![\w-]){re.escape(h)}(?![\w-])"), self.other_name(h.partition(".")[0]))
                               for h in sorted(names_of_host, key=len)[::-1] if h]
            self._serial = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F][0-9a-fA-F-]{7,}")
        else:
            self._serial = re.compile(r"(?!)")

    def other_name(self, name: str) -> str:
        return "node-" + self._hash(name)

    def _hash(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:12]

    def text(self, text: str) -> str:
        for pattern, other in self._patterns:
            text = pattern.sub(other, text)
        for pattern in self._names if "/" in text else ():
            text = pattern.sub("USER", text)
        return self._serial.sub(lambda m: f"{m[1]}-{self._hash(m[0])}", text)

    def _number(self, number: Any) -> Any:
        """Of the hardware: which links join GPUs is told by which of these are the same."""
        return self._hash(str(number)) if str(number).strip("0x") else number

    def document(self, value: Any) -> Any:
        """All its texts, also the keys of objects: some are devices."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(k): self._number(v) if self._anonymous and k.endswith("hive_id") else self.document(v)
                    for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.document(v) for v in value]
        return value


def _known_user() -> bool:
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True
