"""`yprov doctor`: what a node can measure."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from yprov.cli.common import Json, Progress, print_json
from yprovd.errors import YprovError


def doctor(
    as_json: Json = False,
    probe: Annotated[float | None, typer.Option(
        metavar="SECONDS", min=1, max=86400, help="Watch every source for so long, and write a report.")] = None,
    anonymous: Annotated[bool, typer.Option(
        "--anonymous", help="With --probe: other names for the host and serial numbers.")] = False,
    root: Annotated[str, typer.Option(hidden=True)] = "/",
) -> None:
    """What this node can measure, what not and why, and the hint that would change it.

    With --probe a small report file for those who have never seen this machine: what each number really does, how
    often, how long a look takes. No names of users, no commands, no data. Ctrl-C ends it early. Its path comes last.

    Examples:  yprov doctor  |  yprov doctor --probe 60
    """
    from yprov import doctor as room

    if probe is None:
        if anonymous:
            raise YprovError("`--anonymous` is for the report", hint="yprov doctor --anonymous --probe 60")
        with Progress("asking the sensors"), _own_stdout():
            doc = room.report(room.examine(os.path.abspath(root)))
        text = room.lines(doc)
    else:
        doc, text = _probe(os.path.abspath(root), probe, anonymous)
    if as_json:
        print_json(doc)
    else:
        print("\n".join(text))
    status = 0 if all(c["ok"] for c in doc["checks"]) else 1
    if any(s["outcome"] == "hangs" for s in doc["sources"]):  # its library may not let go of us, either
        sys.stdout.flush()
        os._exit(status)
    raise typer.Exit(status)


@contextlib.contextmanager
def _own_stdout() -> Iterator[None]:
    """Ours again afterwards: a vendor's library that hangs while it is kept quiet would keep us so, too."""
    stream, kept = sys.stdout, os.dup(1)
    try:
        yield
    finally:
        sys.stdout = stream
        os.dup2(kept, 1)
        os.close(kept)


def _probe(root: str, seconds: float, anonymous: bool) -> tuple[dict[str, Any], list[str]]:
    """The documents of `doctor`, with the path of the report."""
    from yprov import doctor as room
    from yprov import probe
    from yprov.readiness import checks

    probe.ensure_writable(Path())
    print(f"yprov: looking at this node for {seconds:g} s and a little more; Ctrl-C ends it early, with what there is",
          file=sys.stderr, flush=True)
    with probe.ended_by_signals() as stop, _own_stdout(), Progress("opening the sources") as progress:
        seen = probe.take(root, seconds, stop=stop, anonymous=anonymous, progress=progress)
    path = probe.write(seen, Path())
    doc = {"host": seen["host"], "sources": seen["sources"], "checks": checks(), "report": str(path)}
    return doc, [*room.lines(doc), "", *probe.lines(seen), "", str(path)]
