"""`yprov validate` and `yprov id`: is it what it claims to be, and what is it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from yprov.cli.common import Dir, Json, Progress, RunOrZip, print_json, say_note


def validate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, its name or a part, its id, `last`, a "
                                                           "zip file of it, or a file with a PROV document.")] = "last",
    directory: Dir = "yprov-runs", as_json: Json = False,
) -> None:
    """Check that the archive is what it claims: PROV-JSON, crate and checksums, series and their statistics.

    A file (.json .provn .xml .ttl .trig .rdf .jsonld), of whatever program, is checked against PROV-CONSTRAINTS only.

    Examples:  yprov validate last  |  yprov validate run.zip  |  yprov validate provenance.json
    """
    from yprov.choosing import find
    from yprov.runs import ensure_archive
    from yprov.zipped import is_zip, unpack
    from yprovd.stitch.validate import FORMATS, validate_file, validate_run

    what = Path(run)
    file = run != "last" and what.is_file()
    if file and what.suffix.lower() not in FORMATS and is_zip(run):
        with Progress("unpacking the archive") as progress, tempfile.TemporaryDirectory(prefix="yprov-") as folder:
            problems = unpack(what, Path(folder))
            progress("checking the archive")
            problems += validate_run(Path(folder))
    elif file:
        with Progress("checking the document"):
            problems = validate_file(what)
    else:
        what = find(run, directory, say_note)
        ensure_archive(what)
        with Progress("checking the archive"):
            problems = validate_run(what)
    if as_json:
        print_json({"file" if file else "directory": str(what), "valid": not problems, "problems": problems})
    else:
        print("\n".join(problems) if problems else f"{what}: valid")
    raise typer.Exit(1 if problems else 0)


def identify_run(run: RunOrZip = "last", directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """The identifiers of a run and of what its archive, or a zip file of it, holds. Status 1: not what it states.

    Examples:  yprov id last  |  yprov id run.zip
    """
    from yprov.identifying import identify

    with Progress("reading the archive"):
        found = identify(run, directory, say_note)
    if as_json:
        print_json(found)
    else:
        print("\n".join(filter(None, [found["urn"], found["content_id"]])))
    if not found["same"]:
        print(f"the crate states {found['stated']}", file=sys.stderr)
        raise typer.Exit(1)
