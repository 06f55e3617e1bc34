"""`yprov show` and `yprov ls`: one run, all runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from yprov.cli.common import Dir, Json, Progress, RunOrZip, complain, print_json, say_note
from yprovd.errors import YprovError


def show(run: RunOrZip = "last", directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """One run: state, duration, experiment, tags, commit, nodes, energy, contexts, last metrics.

    Examples:  yprov show last  |  yprov show 5cd7ae3d  |  yprov show run.zip
    """
    from yprov.choosing import find
    from yprov.runs import view
    from yprov.summary import facts, identifiers, lines
    from yprov.zipped import is_zip

    seen = view(Path(run) if is_zip(run) else find(run, directory, say_note))
    if as_json:
        print_json({**facts(seen), **identifiers(seen)})
    else:
        print("\n".join(lines(seen)))
    if seen.state == "not stitched":
        print(f"hint: yprov stitch {seen.directory}", file=sys.stderr)


def list_runs(
    limit: Annotated[int | None, typer.Option("-n", "--limit", min=1, help="So many only: the newest.")] = None,
    states: Annotated[list[str] | None, typer.Option(
        "--state", help="Only: completed, failed, running... (repeatable).")] = None,
    experiment: Annotated[str | None, typer.Option(help="Only those of this experiment.")] = None,
    by: Annotated[str, typer.Option("--sort", help="time, name, state; duration, energy: the largest first.")] = "time",
    directory: Dir = "yprov-runs", as_json: Json = False,
) -> None:
    """All runs: state, duration, nodes, energy, last metrics. The newest is the last.

    Examples:  yprov ls -n 20  |  yprov ls --state failed --json
    """
    from yprov.choosing import all_runs
    from yprov.listing import Listed, ensure_known, fits, in_order, listed, table
    from yprov.runs import view

    ensure_known(states or [], by)
    told: list[Listed] = []
    closed: list[Path] = []
    with Progress("reading the runs"):
        runs = all_runs(Path(directory), closed)
        for run_dir in reversed(runs):
            if by == "time" and len(told) == limit:
                break
            try:
                run = listed(view(run_dir))
            except YprovError as e:
                complain(e)
                continue
            if fits(run, states or [], experiment):
                told.append(run)
    told = told[::-1] if by == "time" else in_order(told[::-1], by)[:limit]
    if as_json:
        print_json([run.facts for run in told])
    elif told:
        print("\n".join(table([run.cells for run in told])))
    else:
        print(f"no runs in `{directory}`" + (" that are asked for" if runs else ""), file=sys.stderr)
    if closed:
        print(f"note: {len(closed)} more may not be read by you", file=sys.stderr)
