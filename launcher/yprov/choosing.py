"""Which run is meant: by its path, `last`, its identifier, its name or a part of it. Only names are read, and
run.json where an identifier is asked for.

The rule: a path of a run is that run. Else, among those in the directory: `last` is the newest; an identifier (a UUID,
its URN, or a beginning of at least eight characters) is that one; a whole name (`train` of `python train.py`), or that
of its directory, is the newest of that name; a part of a name must fit one run only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from yprovd.config import RUN_FILE, SPOOL_DIR
from yprovd.errors import YprovError

#: A UUID, or its first eight characters or more.
_ID = re.compile(r"(?:urn:uuid:)?([0-9a-f]{8}[0-9a-f-]{0,28})", re.IGNORECASE)


def find(given: str, directory: str = "yprov-runs", note: Callable[[str], None] = lambda sentence: None) -> Path:
    """A run by the rule above, within `directory`. `note` is told when one of several was taken. Raises YprovError when
    there is none, when several fit, or when it belongs to somebody who keeps it."""
    if not given:
        raise YprovError("no run was named: the name is empty", hint="yprov show last")
    path = Path(given)
    if _is_closed(path):
        raise _closed_to_us(given)
    if (path / RUN_FILE).is_file() or any((path / SPOOL_DIR).glob("*.spool")):
        return path
    if path.is_dir():
        if sub := all_runs(path):
            raise YprovError(f"`{given}` holds {len(sub)} runs and is none itself", hint=f"yprov show {sub[-1]}")
        raise YprovError(f"`{given}` is not a run: it has no {RUN_FILE}", hint="yprov ls")
    closed: list[Path] = []
    runs = all_runs(Path(directory), closed)
    matching = runs[-1:] if given == "last" else [r for r in runs if given in r.name] or _by_id(given, runs)
    named = [r for r in matching if given in (r.name, _named(r.name))]
    if len(matching) == 1 or named:
        taken = (named or matching)[-1]
        if len(named) > 1:
            note(f"{taken} is the newest of {len(named)} runs named `{given}`")
        return taken
    if matching:
        raise YprovError(f"`{given}` fits {len(matching)} runs: {', '.join(r.name for r in matching[:5])}"
                         + (f" and {len(matching) - 5} more" if len(matching) > 5 else ""),
                         hint="type more of the name, or `last`; of one whole name the newest is taken")
    if theirs := [p for p in closed if given in p.name]:
        raise _closed_to_us(str(theirs[-1]))
    if path.is_file():
        raise YprovError(f"`{given}` is a file, and this needs a run's directory",
                         hint=f"unzip -d DIRECTORY {given}" if path.suffix == ".zip" else "yprov ls")
    raise YprovError(f"there is no run `{given}`", hint=f"yprov ls --dir {directory}")


def _by_id(given: str, runs: list[Path]) -> list[Path]:
    """The runs whose identifier begins so. A run's directory ends with the first eight characters of it, unless
    somebody gave it another name: then all are looked into."""
    matched = _ID.fullmatch(given)
    if not matched:
        return []
    front = matched[1].lower()
    likely = [r for r in runs if r.name.endswith(front[:8])]
    return [r for r in likely if _id_of(r).startswith(front)] or [r for r in runs if _id_of(r).startswith(front)]


def _id_of(run_dir: Path) -> str:
    try:
        return str(json.loads((run_dir / RUN_FILE).read_bytes())["run_id"]).lower()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _named(directory: str) -> str:
    """`<stamp>-<name>-<id>` without the stamp and the id."""
    return directory.partition("-")[2].rpartition("-")[0]


def all_runs(directory: Path, closed: list[Path] | None = None) -> list[Path]:
    """The runs in a directory, oldest first (their names begin with the time), without those that their owners keep for
    themselves, as every run is at first: these are put into `closed`. Raises YprovError when unreadable."""
    try:
        found = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as e:
        raise YprovError(f"cannot read `{directory}`: {e.strerror}") from None
    theirs = [p for p in found if _is_closed(p)]
    if closed is not None:
        closed += theirs
    return [p for p in found if p not in theirs and (p / RUN_FILE).is_file()]


def _is_closed(path: Path) -> bool:
    """Whether it is a directory that we may not look into."""
    return os.path.isdir(path) and not os.access(path, os.X_OK)


def _closed_to_us(given: str) -> YprovError:
    return YprovError(f"`{given}` may not be read by you",
                      hint=f"its owner can allow it: chmod -R g+rX {given}   or  yprov export RUN --to zip")
