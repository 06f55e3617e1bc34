"""`yprov export`: a run in the formats of others. Each is written beside its name and renamed, and over nothing that is
there, unless forced."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from yprovd.errors import YprovError

if TYPE_CHECKING:
    from yprov.reading import RecordedRun


@dataclass(frozen=True)
class Format:
    """`suffix`: of its file. `of`: "prov" (written by the package `prov`, which calls it `prov_name`), "graph",
    "series" or "run". `folder`: a file for each group."""

    suffix: str
    of: str
    about: str
    prov_name: str = ""
    rdf_name: str = ""
    folder: bool = False


FORMATS = {
    "provn": Format("provn", "prov", "PROV-N, the notation for people", "provn"),
    "xml": Format("xml", "prov", "PROV-XML", "xml"),
    "ttl": Format("ttl", "prov", "PROV-O as Turtle", "rdf", "turtle"),
    "rdf": Format("rdf", "prov", "PROV-O as RDF/XML", "rdf", "xml"),
    "jsonld": Format("jsonld", "prov", "PROV-JSONLD", "jsonld"),
    "dot": Format("dot", "graph", "the graph, for Graphviz"),
    "svg": Format("svg", "graph", "the graph as a picture"),
    "netcdf": Format("nc", "series", "all series in one NetCDF-4 file"),
    "parquet": Format("parquet", "series", "a table for each group of series", folder=True),
    "csv": Format("csv", "series", "the same as text", folder=True),
    "zip": Format("zip", "run", "the whole run in one file, which `yprov.open_run` reads"),
}


@dataclass(frozen=True)
class Exported:
    """What was written: a file, or a folder with these files. `bytes` of all of them."""

    path: Path
    files: list[Path]
    bytes: int


def export(
    run: RecordedRun, to: str, output: str | None = None, *, groups: Sequence[str] = (), full: bool = False,
    force: bool = False, progress: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Write `run` as `to`. `output`: a file (or folder, for a format of many files), or a folder to put it into; by
    default it has the run's name and lies in the current directory. `groups`: the series that are
    wanted, all by default; of one a table is a file and no folder. `full`: a graph with nothing folded.

    Raises YprovError: unknown format or group, something is there already, the disk is full.
    """
    kind = format_of(to)
    _ensure_asked_well(kind, groups, full)
    chosen = _choose(run, groups) if kind.of == "series" else []
    single = not kind.folder or (bool(groups) and len(chosen) == 1)
    final = _destination(run, kind, output, chosen[0] if single and kind.folder else "", single)
    _ensure_outside(final, run)
    _ensure_free(final, kind, force)
    partial = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        if kind.of in ("prov", "graph"):
            partial.write_bytes(text_of(run, to, full=full, progress=progress))
        elif kind.of == "run":
            _zip(run, partial, progress)
        else:
            _series(run, kind, chosen, partial, single, progress)
        _put(partial, final, force)
    except OSError as e:
        raise YprovError(f"cannot write `{final}`: {e.strerror or e}") from None
    finally:
        _remove(partial)
    files = sorted(p for p in final.rglob("*") if p.is_file()) if final.is_dir() else [final]
    return Exported(final, files, sum(f.stat().st_size for f in files))


def print_to(
    run: RecordedRun, to: str, out: BinaryIO, *, groups: Sequence[str] = (), full: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> None:
    """The bytes of the file that `export` would write to `out`. Raises YprovError where it would be a folder, and
    where `out` is a terminal and they are not text."""
    kind = format_of(to)
    if kind.of in ("prov", "graph"):
        out.write(text_of(run, to, groups=groups, full=full, progress=progress))
        return
    _ensure_asked_well(kind, groups, full)
    if kind.folder and len(found := _choose(run, groups)) != 1:
        raise YprovError(f"{to} of {len(found)} groups is a folder, and one table is printed",
                         hint=f"--group {'host' if 'host' in found else found[0]}" if found else "")
    if kind.suffix != "csv" and out.isatty():
        raise YprovError(f"{to} is not text, and is not printed to a terminal",
                         hint=f"yprov export RUN --to {to} -o FILE")
    with tempfile.TemporaryDirectory(prefix="yprov-") as folder:  # NetCDF and zip are not written from end to end
        done = export(run, to, os.path.join(folder, "out"), groups=groups, progress=progress)
        with open(done.path, "rb") as f:
            shutil.copyfileobj(f, out, 1 << 20)


def text_of(
    run: RecordedRun, to: str, *, groups: Sequence[str] = (), full: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> bytes:
    """The bytes of a format that is text. Raises YprovError."""
    kind = format_of(to)
    _ensure_asked_well(kind, groups, full)
    if kind.of == "prov":
        document = run.document
        progress(f"writing {kind.about}")
        more = {"rdf_format": kind.rdf_name} if kind.rdf_name else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="rdflib")  # of its own functions
            text: str = document.serialize(format=kind.prov_name, **more)
        return text.encode()
    if kind.of != "graph":
        raise YprovError(f"{to} is not text, and is not printed", hint=f"yprov export RUN --to {to} -o FILE")
    from yprov.graph import graph_of
    from yprov.graph_dot import dot_text, svg

    progress("drawing the graph")
    dot = dot_text(graph_of(run.prov, full=full))
    return svg(dot) if kind.suffix == "svg" else dot.encode()


def format_of(name: str) -> Format:
    """By its name or its usual suffix. Raises YprovError."""
    wanted = name.lower().lstrip(".")
    for known, kind in FORMATS.items():
        if wanted in (known, kind.suffix):
            return kind
    near = difflib.get_close_matches(wanted, [f for f in FORMATS if f[0] == wanted[:1]], n=1, cutoff=0.5)
    hint = f"did you mean `--to {near[0]}`?" if near else "yprov export --help"
    if wanted in ("pdf", "png", "jpg", "ps", "eps"):
        hint = f"yprov export RUN --to dot -o - | dot -T{wanted} -o FILE   draws the graph so"
    raise YprovError(f"there is no format `{name}`; there are {', '.join(FORMATS)}", hint=hint)


def _ensure_asked_well(kind: Format, groups: Sequence[str], full: bool) -> None:
    if groups and kind.of != "series":
        raise YprovError(f"`--group` chooses series, and {kind.suffix} has none to choose",
                         hint="yprov export RUN --to csv --group host")
    if full and kind.of != "graph":
        raise YprovError(f"`--full` is for the graph, and {kind.suffix} is none",
                         hint="yprov export RUN --to svg --full")


def _choose(run: RecordedRun, wanted: Sequence[str]) -> list[str]:
    """The groups that are named, or lie in one that is (`metrics`), or match (`*`)."""
    from yprov.reading import no_group

    known = run.groups
    chosen: set[str] = set()
    for name in wanted:
        found = [g for g in known if g == name or g.startswith(f"{name.rstrip('/')}/") or fnmatch.fnmatchcase(g, name)]
        if not found:
            raise no_group(run.name, name, known)
        chosen.update(found)
    return sorted(chosen) if wanted else known


def _destination(run: RecordedRun, kind: Format, output: str | None, group: str, single: bool) -> Path:
    plain = re.sub(r"[^\w.+-]+", "-", run.name).strip("-.")[:80] or "run"
    if single:
        name = plain + (f"-{group.replace('/', '-')}" if group else "") + f".{kind.suffix}"
    else:
        name = f"{plain}-{kind.suffix}"
    if output is None:
        return Path(name)
    path = Path(output).expanduser()
    if path.is_dir():
        return path / name
    if not path.parent.is_dir():
        raise YprovError(f"there is no directory `{path.parent}`", hint=f"mkdir -p {path.parent}")
    return path


def _ensure_outside(final: Path, run: RecordedRun) -> None:
    """A file more in the run's directory would make another archive of it, which is not what its crate lists."""
    if run.directory.is_dir() and Path(os.path.realpath(final.parent)).is_relative_to(os.path.realpath(run.directory)):
        raise YprovError(f"`{final}` would lie in the run itself, which is complete and has an identifier",
                         hint=f"-o {shlex.quote(os.path.relpath(os.path.dirname(os.path.realpath(run.directory))))}"
                              "   writes beside the run")


def _ensure_free(final: Path, kind: Format, force: bool) -> None:
    if not final.exists() and not final.is_symlink():
        return
    if not force:
        raise YprovError(f"`{final}` exists", hint="--force writes over it, -o FILE writes elsewhere")
    if final.is_dir():
        from yprov.export_tables import not_ours

        other = not_ours(final, kind.suffix) if kind.folder else next((p for p in final.rglob("*")), None)
        if other is not None or not kind.folder:
            raise YprovError(f"`{final}` is not removed: it holds `{other.name if other else '...'}`, which is no "
                             "export", hint="-o FILE writes elsewhere")


def _put(partial: Path, final: Path, force: bool) -> None:
    if partial.is_dir():
        old = final.with_name(f".{final.name}.{os.getpid()}.old.tmp")
        if force and final.is_dir():
            os.rename(final, old)
        os.rename(partial, final)
        shutil.rmtree(old, ignore_errors=True)
    elif force:
        os.replace(partial, final)
    else:
        try:
            os.link(partial, final)  # fails where somebody else was faster
        except FileExistsError:
            raise YprovError(f"`{final}` exists", hint="--force writes over it, -o FILE writes elsewhere") from None
        except OSError:  # a file system without hard links
            os.rename(partial, final)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _series(
    run: RecordedRun, kind: Format, groups: list[str], path: Path, single: bool, progress: Callable[[str], None]
) -> None:
    if not kind.folder:
        from yprov.export_netcdf import export_netcdf

        export_netcdf(run, groups, path, progress)
        return
    from yprov.export_tables import write_table, write_tables

    if single:
        write_table(run, groups[0], kind.suffix, path, progress)
    else:
        write_tables(run, groups, kind.suffix, path, progress)


def _zip(run: RecordedRun, path: Path, progress: Callable[[str], None]) -> None:
    from yprov.export_zip import write_zip

    if not run.directory.is_dir():
        raise YprovError(f"`{run.directory}` is a zip file already", hint=f"cp {run.directory} ELSEWHERE")
    write_zip(run.directory, path, progress)
