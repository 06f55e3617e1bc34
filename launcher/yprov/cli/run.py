"""`yprov run`: options to settings, the run, and its summary."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from yprov.cli.common import complain
from yprovd.errors import YprovError


def run(
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND...", help="What to run.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run (default: the script's).")] = None,
    experiment: Annotated[str | None, typer.Option(help="Experiment it belongs to (default: this folder's)")] = None,
    directory: Annotated[str | None, typer.Option("--dir", help="Where runs go (default: ./yprov-runs).")] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between samples (default: 1).")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the same settings.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="A file that is read (repeatable).")] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", help="A file that is made (repeatable).")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="K=V", help="A tag (repeatable).")] = None,
    disable: Annotated[list[str] | None, typer.Option(help="A sensor to leave out (repeatable).")] = None,
    keep_spool: Annotated[bool | None, typer.Option("--keep-spool", help="Keep the raw frames.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Where daemons go: auto, none (this machine), slurm...")] = None,
    launch_with: Annotated[str | None, typer.Option(help="What starts one process per node: 'mpirun -N 1'.")] = None,
    interface: Annotated[str | None, typer.Option(help="Network interface of the collector (hsn0).")] = None,
    carbon: Annotated[str | None, typer.Option(
        metavar="COUNTRY|G", help="The electricity's, for CO2e: a country (DE) or g CO2e/kWh (120).")] = None,
    pue: Annotated[float | None, typer.Option(help="Power of the data centre over that of its computers.")] = None,
    opened_files: Annotated[bool | None, typer.Option("--opened-files", help="Note the files that it opens.")] = None,
    hash_limit: Annotated[str | None, typer.Option(help="Larger files get no checksum (default: 4GiB).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no summary at the end.")] = False,
    root: Annotated[str, typer.Option(hidden=True, help="Directory that holds `proc` and `sys`.")] = "/",
) -> None:
    """Run a command and record it. Its exit status, output and signals are passed through unchanged.

    Examples:  yprov run -- python train.py --lr 0.1  |  yprov run --tag gpu=a100 -- bash -c 'a | b'
    """
    from yprov.settings import resolve

    if not command:
        raise YprovError("no command was given", hint="yprov run -- python train.py")
    _ensure_somewhere()
    settings = resolve(config, {
        "name": name, "experiment": experiment, "dir": directory, "interval": interval, "inputs": inputs,
        "outputs": outputs, "tags": tags, "disable": disable, "keep_spool": keep_spool,
        "scheduler": scheduler, "launch_with": launch_with, "interface": interface,
        "carbon": carbon, "pue": pue,
        "opened_files": opened_files, "hash_limit": hash_limit,
    })
    from yprov.placement import check
    from yprov.program import find_program
    from yprov.saying import say
    from yprov.wrapper import Wrapper
    from yprovd.ids import unknown_licence

    check(settings)
    if doubt := unknown_licence(settings.licence):
        say(f"{doubt}; it is recorded as it is")
    find_program(command)
    wrapper = Wrapper(settings, command, root=os.path.abspath(root), quiet=quiet)
    try:
        status = wrapper.run()
    except YprovError as e:
        complain(e)
        raise typer.Exit(125) from None
    if not quiet:
        _after_run(wrapper.run_dir)
    raise typer.Exit(status)


def _ensure_somewhere() -> None:
    """A run has a current directory, and a shell may stand in one that was removed."""
    try:
        os.getcwd()
    except OSError as e:
        what = "does not exist any more" if isinstance(e, FileNotFoundError) else f"cannot be told: {e.strerror}"
        complain(YprovError(f"the current directory {what}", hint="cd to one that exists"))
        raise typer.Exit(125) from None


def _after_run(run_dir: Path) -> None:
    from yprov.runs import view
    from yprov.saying import say, show_path
    from yprov.summary import lines

    try:
        seen = view(run_dir)
        if seen.run:
            path = show_path(run_dir)
            text = [line.replace(str(run_dir), path) for line in lines(seen)]
            say("\n".join([*text, f"  next     {_ourselves()} show {path}"]))
    except YprovError as e:
        complain(e)


def _ourselves() -> str:
    """How this program is typed here: `yprov` where that finds it, else as it was called."""
    called = Path(sys.argv[0])
    found = shutil.which("yprov")
    if called.name != "yprov":
        return f"{sys.executable} -m yprov.cli"
    return "yprov" if found and Path(found).resolve() == called.resolve() else str(called)
