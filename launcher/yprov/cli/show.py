"""`yprov show` and `yprov ls`: one run, all runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from yprov.cli.common import Dir, Json, Progress, RunOrZip, complain, print_json
from yprovd.errors import YprovError


def show(run: RunOrZip = "last", directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """One run: state, duration, nodes, energy, contexts, last metrics.

    Examples:  yprov show last  |  yprov show run.zip
    """
    from yprov.runs import find, view
    from yprov.summary import facts, identifiers, lines
    from yprov.zipped import is_zip

    seen = view(Path(run) if is_zip(run) else find(run, directory))
    if as_json:
        print_json({**facts(seen), **identifiers(seen)})
    else:
        print("\n".join(lines(seen)))
    if seen.state == "not stitched":
        print(f"hint: yprov stitch {seen.directory}", file=sys.stderr)


def list_runs(directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """All runs: state, duration, nodes, energy, last metrics.

    Example:  yprov ls --json
    """
    from yprov.runs import all_runs, view
    from yprov.summary import facts, row, table

    told: list[Any] = []
    closed: list[Path] = []
    with Progress("reading the runs"):
        for run_dir in all_runs(Path(directory), closed):
            try:
                told.append((facts if as_json else row)(view(run_dir)))
            except YprovError as e:
                complain(e)
    if as_json:
        print_json(told)
    elif told:
        print("\n".join(table(told)))
    else:
        print(f"no runs in `{directory}`", file=sys.stderr)
    if closed:
        print(f"note: {len(closed)} more may not be read by you", file=sys.stderr)
