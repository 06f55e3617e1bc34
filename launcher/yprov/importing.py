"""`yprov import`: what another tool recorded, as one of our runs.

A reader finds runs and says what they hold (`yprov.importing_yprov4ml`, in `READERS`); they are written as a spool
(`yprov.importing_spool`), and the archive is made of it by the stitch. Another tool's format is another reader.

An imported run is known by an id that follows from its originals: imported again, it is there already. It is made in a
hidden folder beside its place and renamed when it is whole (`yprov.importing_work`). Nothing else is written, and the
originals are only read; of a zip file its members are unpacked into that hidden folder for as long as it takes.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from yprov import importing_yprov4ml
from yprov.imported import Candidate, ForeignRun, Notes, Reader
from yprov.importing_spool import Written, write_spool
from yprov.importing_values import zone_of
from yprov.importing_work import put_in_place, work_folder
from yprov.importing_zip import unpack
from yprov.runs import all_runs, slug_of, view, write_config
from yprovd import __version__
from yprovd.config import PROV_FILE, SPOOL_DIR, RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.stitch import stitch

READERS: tuple[Reader, ...] = (importing_yprov4ml,)
#: Runs that a message lists.
_SHOWN = 12

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """One run that was imported, or (`made` is False) was there already."""

    directory: Path
    run_id: str
    made: bool
    source: str
    state: str = ""
    written: Written = field(default_factory=Written)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Lot:
    """What becomes one run."""

    reader: Reader
    candidates: list[Candidate]


def import_runs(
    paths: Sequence[Path], directory: Path, *, merge: bool = False, every: bool = False, name: str = "",
    time_zone: str = "", copy: bool = False, force: bool = False, keep_spool: bool = False,
    failed: Callable[[YprovError], None] | None = None, progress: Progress = lambda stage: None,
) -> Iterator[Imported]:
    """Import the runs in folders or zip files into `directory`, one after the other.

    A path with several runs needs `every`; `merge` takes all of them as the ranks of one run. `time_zone`, `+02:00`: of
    times whose zone the documents do not name. `copy`: keep a copy of the files that the runs made. `force`: replace
    what was imported before. `failed` is told of a run that cannot be imported, and the others are; without it such a
    one is raised. Raises YprovError.
    """
    zone = zone_of(time_zone) if time_zone else None
    if time_zone and zone is None:
        raise YprovError(f"`{time_zone}` is no time zone", hint="yprov import --time-zone +02:00 DIR")
    directory = directory.expanduser().absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with work_folder(directory) as work:
            lots, strays = _lots(paths, work, merge=merge, every=every, progress=progress)
            if name and len(lots) > 1:
                raise YprovError(f"`--name` is for one run, and these are {len(lots)}",
                                 hint=f"yprov import --name {name} {lots[0].candidates[0].place}")
            for lot in lots:
                progress(f"reading {lot.candidates[0].place}")
                try:
                    yield _import(lot, directory, work, name, zone, copy=copy, force=force,
                                  keep_spool=keep_spool, progress=progress)
                except YprovError as e:
                    if failed is None or len(lots) == 1:
                        raise
                    failed(YprovError(f"`{lot.candidates[0].place}`: {e}", hint=e.hint))
            for stray in strays:
                if failed is None:
                    raise stray
                failed(stray)
    except OSError as e:
        place = str(e.filename or directory)
        doing = "import into" if Path(place).is_relative_to(directory) else "read"
        raise YprovError(f"cannot {doing} `{place}`: {e.strerror or e}",
                         hint="yprov import --dir DIRECTORY DIR   with a directory that you may write to"
                         if doing == "import into" else "may you read all of it?") from e


# what to import


def _lots(
    paths: Sequence[Path], work: Path, *, merge: bool, every: bool, progress: Progress
) -> tuple[list[_Lot], list[YprovError]]:
    """What becomes runs, and, where each is for itself, what is none of theirs and cannot be read."""
    lots: list[_Lot] = []
    strays: list[YprovError] = []
    for path in paths:
        progress(f"looking into {path}")
        notes, folder = Notes(), _opened(path, work)
        found = [_Lot(reader, [c]) for reader in READERS for c in reader.find(folder, notes)]
        for lot in found:
            for it in lot.candidates:
                inside = it.folder.relative_to(folder)
                it.place = str(path.absolute() / inside)
        if not found:
            why = "; ".join(notes.lines())
            tools = " or ".join(reader.TOOL for reader in READERS)
            raise YprovError(f"there is no run of {tools} in `{path}`" + (f": {why}" if why else ""),
                             hint="name the folder that holds prov_<experiment>_GR0_<n>.json, or the one above it")
        if len(found) > 1 and not every and not merge:
            raise _which(path, [c for lot in found for c in lot.candidates])
        for line in notes.lines():
            if every and not merge:
                strays.append(YprovError(f"`{path}`: {line}", hint="the runs beside it are imported without it"))
            else:
                found[0].candidates[0].notes.say(line)
        lots += found
    return [_merged(lots)] if merge else lots, strays


def _which(path: Path, found: list[Candidate]) -> YprovError:
    shown = "".join(f"\n  {c}" for c in found[:_SHOWN])
    more = f"\n  ... and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    if any(0 not in c.ranks for c in found) and not _why_not_one(found):
        hint = f"they look like the ranks of one run: yprov import --merge {path}"
    else:
        hint = f"yprov import {found[0].place}   or all of them: yprov import --all {path}"
    return YprovError(f"`{path}` holds {len(found)} runs:{shown}{more}", hint=hint)


def _merged(lots: list[_Lot]) -> _Lot:
    """The candidates as the ranks of one run. Whether they are is for a person to say: ranks of one run that landed in
    folders of their own look like runs that went on side by side. What cannot be one is refused."""
    candidates = [c for lot in lots for c in lot.candidates]
    if why := _why_not_one(candidates):
        raise YprovError(f"these are not the ranks of one run: {why}",
                         hint="without --merge they are imported one by one")
    return _Lot(lots[0].reader, candidates)


def _why_not_one(candidates: list[Candidate]) -> str:
    """Why these cannot be the ranks of one run: they have one experiment, no rank twice, and some time in common."""
    names = sorted({f"`{c.experiment}` of {c.tool}" for c in candidates})
    if len(names) > 1:
        return f"there are {len(names)} experiments, {', '.join(names[:_SHOWN])}"
    seen: dict[int, Candidate] = {}
    for it in candidates:
        for rank in it.ranks:
            if rank in seen:
                return f"`{seen[rank].place}` and `{it.place}` both have a rank {rank}"
            seen[rank] = it
    begin, end = max(c.begin_ns for c in candidates), min((c.end_ns for c in candidates if c.end_ns), default=0)
    return "the one began when the other had ended" if begin and end and begin > end else ""


def _opened(path: Path, work: Path) -> Path:
    """The folder to be looked into; a zip file is unpacked."""
    if path.is_dir():
        return path
    if not path.exists():
        raise YprovError(f"there is no `{path}`", hint="yprov import prov/experiment_0")
    if path.is_file() and zipfile.is_zipfile(path):
        target = Path(tempfile.mkdtemp(prefix="zip-", dir=work))
        unpack(path, target)
        return target
    if path.suffix == ".json":
        raise YprovError(f"`{path}` is one file of a run", hint=f"yprov import {path.parent}   reads all of its ranks")
    raise YprovError(f"`{path}` is neither a folder nor a zip file", hint="yprov import prov/experiment_0")


# making it one of our runs


def _import(
    lot: _Lot, directory: Path, work: Path, name: str, zone: int | None, *, copy: bool, force: bool, keep_spool: bool,
    progress: Progress,
) -> Imported:
    notes = Notes()
    for it in lot.candidates:
        for line in it.notes.lines():
            notes.say(line)
    run = lot.reader.read(lot.candidates, zone, notes)
    source = f"{run.tool} {run.layout}"
    old = _known(directory, run.run_id)
    if old is not None and not force:
        before = view(old).run.get("originalMetrics")
        more = isinstance(before, int) and before < run.metrics  # the id is that of the documents
        return Imported(old, run.run_id, False, source, notes=(
            f"{before} metrics were there when it was imported, and {run.metrics} are now: "
            f"yprov import --force {lot.candidates[0].place}",) if more else ())
    made = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    (made / SPOOL_DIR).mkdir()
    try:
        written, config = write_spool(made, run, _config(run, name, directory), copy=copy, progress=progress)
        write_config(made, config)
        done = stitch(made, keep_spool=keep_spool, progress=progress)
    except MemoryError:
        raise YprovError("there is not enough memory for its values",
                         hint="import it on a node that has more") from None
    except YprovError as e:  # the spool goes, too: what it was made of is there
        raise YprovError(str(e).removesuffix("; the spool is kept"),
                         hint="is there room? otherwise please report it, with the original documents") from e
    stamp = datetime.fromtimestamp(config.created_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    final = directory / f"{stamp}-{slug_of(config.name)}-{run.run_id[:8]}"
    if old is None and final.exists() and not force:
        raise YprovError(f"`{final}` is there, and is no whole run", hint="yprov import --force   puts it in its place")
    made.chmod(0o700)
    put_in_place(made, final, old or final, work)
    return Imported(final, run.run_id, True, source, done.state, written, tuple(run.notes.lines()))


def _config(run: ForeignRun, name: str, directory: Path) -> RunConfig:
    settings = Settings(name=name or run.name, experiment=run.ranks[0].experiment or run.name, dir=str(directory))
    return RunConfig(run_id=run.run_id, name=name or run.name, created_ns=0, command=(), cwd="", runtime_dir="",
                     settings=settings, software=__version__)


def _known(directory: Path, run_id: str) -> Path | None:
    """The run with this id, if its archive is there."""
    for path in all_runs(directory):
        if re.search(f"-{run_id[:8]}$", path.name) and (path / PROV_FILE).is_file():
            try:
                if RunConfig.read(path).run_id == run_id:
                    return path
            except YprovError:
                continue
    return None
