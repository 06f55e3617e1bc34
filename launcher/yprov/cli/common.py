"""What the commands have in common: their options, and how they print, complain and say that they are at work."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from typing import Annotated, Any

import typer

from yprovd.errors import YprovError

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
Dir = Annotated[str, typer.Option("--dir", help="Directory of the runs.")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, its name or a part, its id, or `last`.")]
RunOrZip = Annotated[str, typer.Argument(
    metavar="RUN", help="A run's directory, its name or a part, its id, `last`, or a zip file of it.")]


def print_json(value: Any) -> None:
    text = json.dumps(_strict(value), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    try:
        text.encode("utf-8" if sys.stdout.encoding.lower() == "utf-8" else "ascii")
    except UnicodeEncodeError:  # another encoding, or a path with a byte that is none of UTF-8: JSON has escapes for it
        text = json.dumps(_strict(value), indent=1, allow_nan=False, default=str)
    print(text)


def _strict(value: Any) -> Any:
    """The same without the numbers that JSON has not: `inf`, `nan` as text."""
    if isinstance(value, dict):
        return {key: _strict(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def complain(error: YprovError) -> None:
    print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)


def say_note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


class Progress:
    """Says on stderr what takes longer than two seconds, and again every ten, for as long as the block lasts."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._done = threading.Event()

    def __call__(self, stage: str) -> None:
        self._stage = stage

    def __enter__(self) -> Progress:
        threading.Thread(target=self._run, args=(time.monotonic(),), daemon=True).start()
        return self

    def _run(self, began: float) -> None:
        pause = 2.0
        while not self._done.wait(pause):
            print(f"yprov: {self._stage} ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
            pause = 10.0

    def __exit__(self, *_error: object) -> None:
        self._done.set()
