"""`yprov export`: a run in the formats of others."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from yprov.cli.common import Dir, Json, Progress, RunOrZip, print_json, say_note


def export(
    run: RunOrZip,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="provn, xml, ttl, rdf, jsonld (PROV); dot, svg "
                                    "(graph); netcdf, parquet, csv (series); zip (all of it).")],
    output: Annotated[str | None, typer.Option(
        "-o", "--output", metavar="FILE", help="Where to (default: ./NAME.FORMAT); `-`: stdout, for one file.")] = None,
    groups: Annotated[list[str] | None, typer.Option("--group", help="Series: gpu, metrics... (repeatable).")] = None,
    full: Annotated[bool, typer.Option("--full", help="Graph: every record, nothing folded.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also over what exists.")] = False,
    directory: Dir = "yprov-runs", as_json: Json = False,
) -> None:
    """A run in the formats of others: PROV documents, a graph, tables, NetCDF, or one zip file. Prints its path.

    Examples:  yprov export last --to svg  |  yprov export last --to csv --group gpu -o -  |  yprov export last --to zip
    """
    from yprov.export import export as write
    from yprov.export import print_to
    from yprov.reading import open_run

    with Progress("opening the run") as progress, open_run(run, directory, say_note) as opened:
        if output == "-":
            print_to(opened, to, sys.stdout.buffer, groups=groups or [], full=full, progress=progress)
            return
        done = write(opened, to, output, groups=groups or [], full=full, force=force, progress=progress)
        if as_json:
            print_json({"directory": str(opened.directory), "format": to, "path": str(done.path),
                         "files": [str(f) for f in done.files], "bytes": done.bytes})
        else:
            print(done.path)
