"""The command line. Each command parses, calls, prints: data on stdout, everything else on stderr. A file for each
command, or for two that belong together; this package alone imports typer.

Exit status: `run` has the command's own, 127 or 126 when it cannot be started, 125 when the run cannot be made;
the others have 0, 1 for a failure (with a hint), 2 for a misused option.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from yprov.channels import hold_standard_streams
from yprov.cli import doctor, export, import_, push, run, show, stitch, template, validate
from yprov.cli.common import complain
from yprovd import __version__
from yprovd.errors import YprovError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Record what a training job ran, on what, with what, and what it cost. One word in front of the command.\n\n"
         "Example:  yprov run -- python train.py",
)
# In the order of the help.
app.command("run", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})(run.run)
app.command("stitch")(stitch.stitch)
app.command("show")(show.show)
app.command("ls")(show.list_runs)
app.command("validate")(validate.validate)
app.command("id")(validate.identify_run)
app.command("export")(export.export)
app.command("import")(import_.import_runs)
app.command("push")(push.push)
app.command("doctor")(doctor.doctor)
app.add_typer(template.app, name="template")
app.command("submit")(template.submit)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"yprov {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script. The one place where an error becomes an exit status."""
    running = sys.argv[1:2] == ["run"]
    hold_standard_streams()
    sys.stdout = sys.stdout or io.StringIO()  # None where we were started without one
    sys.stderr = sys.stderr or io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding has not
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except YprovError as e:
        complain(e)
        sys.exit(getattr(e, "status", 2 if running else 1))
    except OSError as e:  # what is left: our own output, which has no name, or a file that nobody thought of
        if not isinstance(e, BrokenPipeError):
            sys.stderr.write(f"error: {f'`{e.filename}`: ' if e.filename else ''}{e.strerror or e}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that nothing is written at the end, and fails again
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
