"""`yprov push`: a run, published."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from yprov.cli.common import Dir, Json, Progress, RunArg, print_json, say_note


def push(
    run: RunArg,
    to: Annotated[str, typer.Option("--to", metavar="URL", envvar="YPROV_API_URL", help="Address of the service.")],
    backend: Annotated[str, typer.Option(help="Which service it is: auto, v0, store (yProvStore).")] = "auto",
    parent: Annotated[str | None, typer.Option(metavar="PID", help="The document that this is a version of.")] = None,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Also send what is in artifacts/ (store).")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds without an answer.")] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent where, and send nothing.")] = False,
    directory: Dir = "yprov-runs", as_json: Json = False,
) -> None:
    """Publish a run's document in a service of yProv. Pushed again, only a changed document is sent.

    The token comes from the environment: YPROV_TOKEN, or YPROV_USER and YPROV_PASSWORD for a login.

    Example:  yprov push last --to https://yprov.example.org
    """
    from yprov.pushing import Options
    from yprov.pushing import push as publish
    from yprov.runs import find

    options = Options(to, backend, parent, artifacts, dry_run, timeout)
    with Progress("sending") as progress:
        told = publish(find(run, directory, say_note), options, os.environ, say=lambda line: print(
            line if line.startswith("warning: ") else f"yprov: {line}", file=sys.stderr, flush=True))
        progress("done")
    if as_json:
        print_json(told)
    elif told.get("there"):  # of a dry run
        print(f"{'but for artifacts, ' if told['artifacts'] else ''}nothing would be sent: it is {told['there']}")
        print("".join(f"  {name}\n" for name in told["artifacts"]), end="")
    elif dry_run:
        print(f"{told['method']} {told['url']}\n  {told['bytes']} bytes of {told['content_type']}, "
              f"with what is in {told['credentials'] or 'no variable: set YPROV_TOKEN'}")
        print("".join(f"  {key}: {value}\n" for key, value in told["query"].items()), end="")
    else:
        version = f", version {told['version']}" if told["version"] is not None else ""
        print(f"{told['url']} ({'published' if told['sent'] else 'is there already'}{version})")
        print("".join(f"  {name}: {pid}\n" for name, pid in told["artifacts"].items()), end="")
