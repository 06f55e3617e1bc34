"""The command line. Each command parses, calls, prints: data on stdout, everything else on stderr.

Exit status: `run` has the command's own, 127 or 126 when it cannot be started, 125 when the run cannot be made;
the others have 0, 1 for a failure (with a hint), 2 for a misused option.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from yprov.command import hold_standard_streams
from yprovd import __version__
from yprovd.errors import YprovError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Record what a training job ran, on what, with what, and what it cost. One word in front of the command.\n\n"
         "Example:  yprov run -- python train.py",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
Dir = Annotated[str, typer.Option("--dir", help="Directory of the runs.")]
RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, a part of its name, or `last`.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"yprov {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary at the end.")] = False,
    root: Annotated[str, typer.Option(hidden=True, help="Directory that holds `proc` and `sys`.")] = "/",
) -> None:
    """Run a command and record it. Its exit status, output and signals are passed through unchanged.

    Examples:  yprov run -- python train.py --lr 0.1  |  yprov run --tag gpu=a100 -- bash -c 'a | b'
    """
    from yprov.settings import resolve

    if not command:
        raise YprovError("no command was given", hint="yprov run -- python train.py")
    settings = resolve(config, {
        "name": name, "experiment": experiment, "dir": directory, "interval": interval, "inputs": inputs,
        "outputs": outputs, "tags": tags, "disable": disable, "keep_spool": keep_spool,
        "scheduler": scheduler, "launch_with": launch_with, "interface": interface,
        "carbon": carbon, "pue": pue,
        "opened_files": opened_files, "hash_limit": hash_limit,
    })
    from yprov.placement import check
    from yprov.wrapper import Wrapper, find_program

    check(settings)
    find_program(command)
    wrapper = Wrapper(settings, command, root=os.path.abspath(root))
    try:
        status = wrapper.run()
    except YprovError as e:
        _complain(e)
        raise typer.Exit(125) from None
    if not quiet:
        _after_run(wrapper.run_dir)
    raise typer.Exit(status)


def _after_run(run_dir: Path) -> None:
    from yprov.runs import view
    from yprov.summary import lines
    from yprov.wrapper import say, show_path

    try:
        seen = view(run_dir)
        if seen.run:
            path = show_path(run_dir)
            text = [line.replace(str(run_dir), path) for line in lines(seen)]
            say("\n".join([*text, f"  next     {_ourselves()} show {path}"]))
    except YprovError as e:
        _complain(e)


def _ourselves() -> str:
    """How this program is typed here: `yprov` where that finds it, else as it was called."""
    called = Path(sys.argv[0])
    found = shutil.which("yprov")
    if called.name != "yprov":
        return f"{sys.executable} -m yprov.cli"
    return "yprov" if found and Path(found).resolve() == called.resolve() else str(called)


@app.command()
def stitch(
    run: RunArg, directory: Dir = "yprov-runs",
    keep_spool: Annotated[bool | None, typer.Option("--keep-spool", help="Keep the raw frames.")] = None,
    force: Annotated[bool, typer.Option(help="Also while the run seems to be going on.")] = False,
    refresh_slurm: Annotated[bool, typer.Option(
        "--refresh-slurm", help="Ask Slurm how the job ended, and put that into the archive.")] = False,
    as_json: Json = False,
) -> None:
    """Make the archive of a run from whatever spool there is: how a killed run is recovered. Can be repeated.

    Examples:  yprov stitch last  |  yprov stitch --refresh-slurm last
    """
    from yprov.runs import clear_runtime, find, still_going, view
    from yprovd.config import RUN_FILE, RunConfig
    from yprovd.stitch import stitch as make

    run_dir = find(run, directory)
    going = (run_dir / RUN_FILE).exists() and still_going(run_dir, RunConfig.read(run_dir))
    if going and refresh_slurm:
        raise YprovError(f"`{run_dir}` is still going", hint="Slurm knows the end of a job when it has ended")
    if going and not force:
        raise YprovError(f"`{run_dir}` is still going", hint=f"yprov stitch --force {run_dir}   makes an archive of it "
                                                             "as it is now; the run goes on")
    if not going:
        clear_runtime(run_dir)
    if refresh_slurm:
        from yprov.refreshing import refresh
        from yprovd import slurm

        with _Progress("asking Slurm") as progress:
            fresh = refresh(run_dir, slurm, keep_spool=keep_spool, progress=progress)
        if as_json:
            _print_json({"directory": str(run_dir), "state": fresh.state, "reason": fresh.reason,
                         "job_id": fresh.job_id, "job_state": fresh.job_state})
        else:
            print(f"{run_dir}: {fresh.state}" + (f" ({fresh.reason})" if fresh.reason else "")
                  + f"; Slurm's job {fresh.job_id}: {fresh.job_state}")
        return
    with _Progress("looking at the run") as progress:
        done = make(run_dir, keep_spool=True if going else keep_spool, progress=progress)
    state = done.state or str(view(run_dir).state)
    if as_json:
        _print_json({"directory": str(run_dir), "made": done.made, "state": state, "reason": done.reason,
                     "damaged_bytes": done.damaged_bytes, "lost_frames": done.lost_frames})
    else:
        print(f"{run_dir}: " + ("the archive is made" if done.made else "the archive was complete already")
              + f"; state of the run: {state}" + (f" ({done.reason})" if done.reason else ""))
        if done.damaged_bytes or done.lost_frames:
            print(f"  {done.damaged_bytes} bytes damaged, {done.lost_frames} frames lost")


class _Progress:
    """Says on stderr what takes longer than two seconds, and again every ten, for as long as the block lasts."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._done = threading.Event()

    def __call__(self, stage: str) -> None:
        self._stage = stage

    def __enter__(self) -> _Progress:
        threading.Thread(target=self._run, args=(time.monotonic(),), daemon=True).start()
        return self

    def _run(self, began: float) -> None:
        pause = 2.0
        while not self._done.wait(pause):
            print(f"yprov: {self._stage} ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
            pause = 10.0

    def __exit__(self, *_error: object) -> None:
        self._done.set()


@app.command()
def show(run: RunArg = "last", directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """One run: state, duration, nodes, energy, contexts, last metrics.

    Example:  yprov show last
    """
    from yprov.runs import find, view
    from yprov.summary import facts, identifiers, lines

    seen = view(find(run, directory))
    if as_json:
        _print_json({**facts(seen), **identifiers(seen)})
    else:
        print("\n".join(lines(seen)))
    if seen.state == "not stitched":
        print(f"hint: yprov stitch {seen.directory}", file=sys.stderr)


@app.command("ls")
def list_runs(directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """All runs: state, duration, nodes, energy, last metrics.

    Example:  yprov ls --json
    """
    from yprov.runs import all_runs, view
    from yprov.summary import facts, table

    views = []
    with _Progress("reading the runs"):
        for run_dir in all_runs(Path(directory)):
            try:
                views.append(view(run_dir))
            except YprovError as e:
                _complain(e)
    if as_json:
        _print_json([facts(v) for v in views])
    elif views:
        print("\n".join(table(views)))
    else:
        print(f"no runs in `{directory}`", file=sys.stderr)


@app.command()
def validate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, a part of its name, `last`, or a file "
                                                           "with a PROV document.")] = "last",
    directory: Dir = "yprov-runs", as_json: Json = False,
) -> None:
    """Check that the archive is what it claims: PROV-JSON, crate and checksums, series and their statistics.

    A file (.json .provn .xml .ttl .trig .rdf .jsonld), of whatever program, is checked against PROV-CONSTRAINTS only.

    Examples:  yprov validate last  |  yprov validate provenance.json
    """
    from yprov.runs import find
    from yprovd.config import PROV_FILE
    from yprovd.stitch.validate import validate_file, validate_run

    what = Path(run)
    if is_file := run != "last" and what.is_file():
        with _Progress("checking the document"):
            problems = validate_file(what)
    else:
        what = find(run, directory)
        if not (what / PROV_FILE).is_file():
            raise YprovError(f"`{what}` has no archive yet", hint=f"yprov stitch {what}")
        with _Progress("checking the archive"):
            problems = validate_run(what)
    if as_json:
        _print_json({"file" if is_file else "directory": str(what), "valid": not problems, "problems": problems})
    else:
        print("\n".join(problems) if problems else f"{what}: valid")
    raise typer.Exit(1 if problems else 0)


@app.command("id")
def identify_run(run: RunArg = "last", directory: Dir = "yprov-runs", as_json: Json = False) -> None:
    """The identifiers of a run and of what its archive, or a zip file of it, holds. Status 1: not what it states.

    Examples:  yprov id last  |  yprov id run.zip
    """
    from yprov.identifying import identify

    with _Progress("reading the archive"):
        found = identify(run, directory)
    if as_json:
        _print_json(found)
    else:
        print("\n".join(filter(None, [found["urn"], found["content_id"]])))
    if not found["same"]:
        print(f"the crate states {found['stated']}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def export(
    run: RunArg,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="provn, xml, ttl, rdf, jsonld (PROV); dot, svg "
                                    "(graph); netcdf, parquet, csv (series); zip (all of it).")],
    output: Annotated[str | None, typer.Option(
        "-o", "--output", metavar="FILE", help="Where to (default: ./NAME.FORMAT); `-`: stdout, for text.")] = None,
    groups: Annotated[list[str] | None, typer.Option("--group", help="Series: gpu, metrics... (repeatable).")] = None,
    full: Annotated[bool, typer.Option("--full", help="Graph: every record, nothing folded.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also over what exists.")] = False,
    directory: Dir = "yprov-runs", as_json: Json = False,
) -> None:
    """A run in the formats of others: PROV documents, a graph, tables, NetCDF, or one zip file. Prints its path.

    Examples:  yprov export last --to svg  |  yprov export last --to csv --group gpu  |  yprov export last --to zip
    """
    from yprov.export import export as write
    from yprov.export import text_of
    from yprov.reading import open_run

    with _Progress("opening the run") as progress, open_run(run, directory) as opened:
        if output == "-":
            sys.stdout.buffer.write(text_of(opened, to, groups=groups or [], full=full, progress=progress))
            return
        done = write(opened, to, output, groups=groups or [], full=full, force=force, progress=progress)
        if as_json:
            _print_json({"directory": str(opened.directory), "format": to, "path": str(done.path),
                         "files": [str(f) for f in done.files], "bytes": done.bytes})
        else:
            print(done.path)


@app.command("import")
def import_(
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

    from yprov.importing import import_runs
    from yprov.importing_work import ended_by_signals

    rows = []
    failures: list[YprovError] = []
    with ended_by_signals(), _Progress("looking for runs") as progress:
        for done in import_runs(paths, Path(directory), merge=merge, every=every, name=name, time_zone=time_zone,
                                copy=copy, force=force, keep_spool=keep_spool, failed=failures.append,
                                progress=progress):
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
        _print_json(rows)
    for failure in failures:
        _complain(failure)
    raise typer.Exit(1 if failures else 0)


@app.command()
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
    with _Progress("sending") as progress:
        told = publish(find(run, directory), options, os.environ, say=lambda line: print(
            line if line.startswith("warning: ") else f"yprov: {line}", file=sys.stderr, flush=True))
        progress("done")
    if as_json:
        _print_json(told)
    elif dry_run:
        print(f"{told['method']} {told['url']}\n  {told['bytes']} bytes of {told['content_type']}, "
              f"with what is in {told['credentials'] or 'no variable: set YPROV_TOKEN'}")
        print("".join(f"  {key}: {value}\n" for key, value in told["query"].items()), end="")
    else:
        version = f", version {told['version']}" if told["version"] is not None else ""
        print(f"{told['url']} ({'published' if told['sent'] else 'is there already'}{version})")
        print("".join(f"  {name}: {pid}\n" for name, pid in told["artifacts"].items()), end="")


@app.command()
def doctor(
    as_json: Json = False,
    probe: Annotated[float | None, typer.Option(
        metavar="SECONDS", min=1, max=86400, help="Watch every source for so long, and write a report.")] = None,
    anonymous: Annotated[bool, typer.Option(
        "--anonymous", help="With --probe: other names for the host and serial numbers.")] = False,
    root: Annotated[str, typer.Option(hidden=True)] = "/",
) -> None:
    """What this node can measure, what not and why, and the hint that would change it.

    With --probe a small report file for those who have never seen this machine: what each number really does, how
    often, how long a look takes. No names of users, no commands, no data. Ctrl-C ends it early. Its path comes last.

    Examples:  yprov doctor  |  yprov doctor --probe 60
    """
    from yprov import doctor as room

    if probe is None:
        if anonymous:
            raise YprovError("`--anonymous` is for the report", hint="yprov doctor --anonymous --probe 60")
        with _Progress("asking the sensors"), _own_stdout():
            doc = room.report(room.examine(os.path.abspath(root)))
        text = room.lines(doc)
    else:
        doc, text = _probe(os.path.abspath(root), probe, anonymous)
    if as_json:
        _print_json(doc)
    else:
        print("\n".join(text))
    status = 0 if all(c["ok"] for c in doc["checks"]) else 1
    if any(s["outcome"] == "hangs" for s in doc["sources"]):  # its library may not let go of us, either
        sys.stdout.flush()
        os._exit(status)
    raise typer.Exit(status)


@contextlib.contextmanager
def _own_stdout() -> Iterator[None]:
    """Ours again afterwards: a vendor's library that hangs while it is kept quiet would keep us so, too."""
    stream, kept = sys.stdout, os.dup(1)
    try:
        yield
    finally:
        sys.stdout = stream
        os.dup2(kept, 1)
        os.close(kept)


def _probe(root: str, seconds: float, anonymous: bool) -> tuple[dict[str, Any], list[str]]:
    """The documents of `doctor`, with the path of the report."""
    from yprov import doctor as room
    from yprov import probe
    from yprov.readiness import checks

    probe.ensure_writable(Path())
    print(f"yprov: looking at this node for {seconds:g} s and a little more; Ctrl-C ends it early, with what there is",
          file=sys.stderr, flush=True)
    with probe.ended_by_signals() as stop, _own_stdout(), _Progress("opening the sources") as progress:
        seen = probe.take(root, seconds, stop=stop, anonymous=anonymous, progress=progress)
    path = probe.write(seen, Path())
    doc = {"host": seen["host"], "sources": seen["sources"], "checks": checks(), "report": str(path)}
    return doc, [*room.lines(doc), "", *probe.lines(seen), "", str(path)]


template_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Batch scripts for Slurm that record their job, and run by hand too. `--json` for programs.\n\n"
         "Example:  yprov template list",
)
app.add_typer(template_app, name="template")

TemplateArg = Annotated[str, typer.Argument(metavar="TEMPLATE", help="A name of `yprov template list`, or a file.")]
Set = Annotated[list[str] | None, typer.Option(
    "--set", metavar="K=V", help="An option of sbatch, or a variable of the template (repeatable); `K=` removes it.")]


@template_app.command("list")
def list_templates(as_json: Json = False) -> None:
    """The templates, one line each.

    Example:  yprov template list
    """
    from yprov.templating import load, names

    templates = [load(name) for name in names()]
    if as_json:
        _print_json([{"name": t.name, "description": t.description} for t in templates])
    else:
        width = max(len(t.name) for t in templates)
        print("\n".join(f"{t.name:{width}}  {t.description}" for t in templates))


@template_app.command("show")
def show_template(template: TemplateArg, as_json: Json = False) -> None:
    """One template: the script itself; with --json also what can be set in it.

    Example:  yprov template show multi_node_ddp
    """
    from yprov.templating import load

    found = load(template)
    if as_json:
        _print_json({"name": found.name, "description": found.description, "text": found.text,
                     "settings": [vars(s) for s in found.settings]})
    else:
        print(found.text, end="")


@template_app.command("write")
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
        _print_json({"path": str(path)})
    else:
        print(path)


@app.command()
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
        _print_json({"job_id": job, "template": filled.name, "command": command, "sbatch": line, "script": filled.text})
    else:
        print(filled.text if job is None else job, end="" if job is None else "\n")


def _print_json(value: Any) -> None:
    print(json.dumps(_strict(value), indent=1, ensure_ascii=False, allow_nan=False, default=str))


def _strict(value: Any) -> Any:
    """The same without the numbers that JSON has not: `inf`, `nan` as text."""
    if isinstance(value, dict):
        return {key: _strict(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _complain(error: YprovError) -> None:
    print(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)


def main() -> None:
    """The console script. The one place where an error becomes an exit status."""
    running = sys.argv[1:2] == ["run"]
    hold_standard_streams()
    sys.stdout = sys.stdout or io.StringIO()  # None where we were started without one
    sys.stderr = sys.stderr or io.StringIO()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except YprovError as e:
        _complain(e)
        sys.exit(getattr(e, "status", 2 if running else 1))
    except OSError as e:  # what is left: our own output cannot be written
        if not isinstance(e, BrokenPipeError):
            sys.stderr.write(f"error: {e.strerror or e}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that nothing is written at the end, and fails again
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
