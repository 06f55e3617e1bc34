"""`yprov import`: runs of other tools as runs of ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from yprov.cli.common import Dir, Json, Progress, complain, print_json
from yprovd.errors import YprovError


def import_runs(
    paths: Annotated[list[Path], typer.Argument(
        metavar="DIR...", help="Folders of runs of yProv4ML, or zip files of its crates.")],
    directory: Dir = "yprov-runs",
    every: Annotated[bool, typer.Option("--all", help="Every run below DIR.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="All runs below are the ranks of one.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run (default: the original's).")] = "",
    time_zone: Annotated[str, typer.Option(
        metavar="+HH:MM", help="Of times whose zone the original does not name.")] = "",
    copy: Annotated[bool, typer.Option("--copy", help="Keep copies of models and artifacts, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what was imported before.")] = False,
    keep_spool: Annotated[bool, typer.Option("--keep-spool", help="Keep the raw frames.")] = False,
    as_json: Json = False,
) -> None:
    """Make runs of ours from the output of yProv4ML 1.x, 2.x and 3.x: one run from the documents of all its ranks.

    Examples:  yprov import prov/experiment_0  |  yprov import --all prov  |  yprov import --merge prov/exp_0 prov/exp_1
    """
    from dataclasses import asdict

    from yprov import importing
    from yprov.importing_work import ended_by_signals

    rows = []
    failures: list[YprovError] = []
    with ended_by_signals(), Progress("looking for runs") as progress:
        for done in importing.import_runs(
                paths, Path(directory), merge=merge, every=every, name=name, time_zone=time_zone, copy=copy,
                force=force, keep_spool=keep_spool, failed=failures.append, progress=progress):
            if as_json:
                rows.append({"directory": str(done.directory), "run_id": done.run_id, "made": done.made,
                             "source": done.source, "state": done.state, **asdict(done.written),
                             "notes": list(done.notes)})
                continue
            for note in done.notes:
                print(f"note: {note}", file=sys.stderr)
            w = done.written
            print(f"{done.directory}: " + (
                f"{done.source}, {w.ranks} {'rank' if w.ranks == 1 else 'ranks'}, {w.series} series, {w.values} values"
                if done.made else "imported already"), flush=True)
    if as_json:
        print_json(rows)
    for failure in failures:
        complain(failure)
    raise typer.Exit(1 if failures else 0)
