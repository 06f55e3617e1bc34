"""`yprov template` and `yprov submit`: batch scripts that record their job."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from yprov.cli.common import Json, print_json
from yprovd.errors import YprovError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Batch scripts for Slurm that record their job, and run by hand too. `--json` for programs.\n\n"
         "Example:  yprov template list",
)

TemplateArg = Annotated[str, typer.Argument(metavar="TEMPLATE", help="A name of `yprov template list`, or a file.")]
Set = Annotated[list[str] | None, typer.Option(
    "--set", metavar="K=V", help="An option of sbatch, or a variable of the template (repeatable); `K=` removes it.")]


@app.command("list")
def list_templates(as_json: Json = False) -> None:
    """The templates, one line each.

    Example:  yprov template list
    """
    from yprov.templating import load, names

    templates = [load(name) for name in names()]
    if as_json:
        print_json([{"name": t.name, "description": t.description} for t in templates])
    else:
        width = max(len(t.name) for t in templates)
        print("\n".join(f"{t.name:{width}}  {t.description}" for t in templates))


@app.command("show")
def show_template(template: TemplateArg, as_json: Json = False) -> None:
    """One template: the script itself; with --json also what can be set in it.

    Example:  yprov template show multi_node_ddp
    """
    from yprov.templating import load

    found = load(template)
    if as_json:
        print_json({"name": found.name, "description": found.description, "text": found.text,
                     "settings": [vars(s) for s in found.settings]})
    else:
        print(found.text, end="")


@app.command("write")
def write_template(
    template: TemplateArg,
    to: Annotated[Path | None, typer.Option("--to", help="File or directory (default: ./TEMPLATE.sbatch).")] = None,
    settings: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Also over a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """A copy of a template, to change and to submit by `sbatch`.

    Example:  yprov template write single_node --set time=04:00:00 --to job.sbatch
    """
    from yprov.templating import fill, load, parse, write

    path = write(fill(load(template), parse(settings or []))[0], to, force=force)
    if as_json:
        print_json({"path": str(path)})
    else:
        print(path)


def submit(
    template: TemplateArg,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND...", help="What the job runs.")] = None,
    settings: Set = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script, submit nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Fill in a template, say what that changed, and give it to sbatch. Prints the job's id.

    Example:  yprov submit multi_node_ddp --set nodes=4 --set time=02:00:00 -- python train.py --lr 0.1
    """
    import shlex

    from yprov import templating

    if not command:
        raise YprovError("no command was given", hint=f"yprov submit {template} -- python train.py")
    plain = templating.load(template)
    filled, words = templating.fill(plain, templating.parse(settings or []))
    line = templating.sbatch_line(filled, words, command)
    for text in [*templating.changes(plain, filled), shlex.join(line)]:
        print(text, file=sys.stderr, flush=True)
    if shutil.which("yprov") is None:
        print("warning: `yprov` is not in PATH here; where the job does not find it either, it fails", file=sys.stderr)
    job = None
    if not dry_run:
        job, said = templating.submit(filled, words, command)
        if said:
            print(said, file=sys.stderr)
    if as_json:
        print_json({"job_id": job, "template": filled.name, "command": command, "sbatch": line, "script": filled.text})
    else:
        print(filled.text if job is None else job, end="" if job is None else "\n")
