"""What a shell's text runs, as far as it can be told without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each simple command, in order, its keywords before it (`then`, `do`) among them; those that a
    pipeline, a list or a subshell holds are told one by one. Lines that are no whole command (a here-document, a string
    of several lines) are left out."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:
            continue
        part: list[str] = []
        for word in [*words, ";"]:
            if word.strip(";&|()"):
                part.append(word)
            elif part:
                yield part
                part = []
