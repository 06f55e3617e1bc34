"""The stitch: spool in, archive out. The only room with numpy, zarr and prov.

`stitch()` is the whole story: read the spool into a record, attribute joules and seconds, write the series, the PROV
document and the crate, check them, and only then let the spool go. It is a function of the spool alone: made again, on
another machine, next year, prov.json is the same to the byte and the arrays are equal.

Everything is written beside its final name and renamed; prov.json comes after the series that it speaks of, the crate
after both. A stitch that is killed leaves what was there before, and is simply called again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from yprovd.config import PROV_FILE, SPOOL_DIR, RunConfig
from yprovd.errors import YprovError
from yprovd.spool import spool_files

CRATE_FILE = "ro-crate-metadata.json"
SERIES_DIR = "series.zarr"
#: The same, packed: what `yprov export --to zip` makes of it.
PACKED_SERIES = f"{SERIES_DIR}.zip"


@dataclass(frozen=True)
class Stitched:
    """What a stitch did. `made` is False when the archive was there already and its spool gone."""

    directory: Path
    made: bool
    state: str
    reason: str
    damaged_bytes: int
    lost_frames: int


def stitch(
    run_dir: Path, *, keep_spool: bool | None = None, progress: Callable[[str], None] = lambda stage: None,
    known: Iterable[str] = (),
) -> Stitched:
    """Make the archive of one run. Blocks while another stitch of the same run is at work.

    `keep_spool`: None does what the run was asked for. `known`: secrets of the run's own environment, where that is
    ours. Raises YprovError when the folder is not a run, there is nothing to stitch, the disk is full, or the archive
    that was made does not pass its own check (the spool is then kept: a later yprov may make a better one of it).
    """
    if keep_spool is None:
        keep_spool = _keeps_spool(run_dir)
    with alone(run_dir, progress):
        files = spool_files(run_dir / SPOOL_DIR)
        if not files and (run_dir / PROV_FILE).is_file():
            return Stitched(run_dir, False, "", "", 0, 0)
        if not files:
            raise YprovError(f"there is nothing to stitch in `{run_dir}`: `{SPOOL_DIR}/` holds no spool",
                             hint="was the run ever started? see its logs/")
        try:
            done = _make(run_dir, files, progress, known)
            if not keep_spool:
                progress("checking the archive")
                _let_spool_go(run_dir)
        except OSError as e:
            raise YprovError(f"cannot write the archive in `{run_dir}`: {e.strerror or e}; the spool is kept",
                             hint=f"make room, then: yprov stitch {run_dir}") from e
    return done


def _keeps_spool(run_dir: Path) -> bool:
    """What the run was asked for. Where `run.json` is gone, the spool is all there is: it stays."""
    try:
        return RunConfig.read(run_dir).settings.keep_spool
    except YprovError:
        if spool_files(run_dir / SPOOL_DIR):
            return True
        raise


def _let_spool_go(run_dir: Path) -> None:
    from yprovd.stitch.validate import validate_run

    if problems := validate_run(run_dir, others=False):
        raise YprovError(f"the archive is made, and does not pass its own check: {problems[0]}; the spool is kept",
                         hint=f"yprov validate {run_dir}")
    _reach_disk(run_dir)
    # Files go one by one: a stitch that is killed among them must not find the rest and take it for the whole spool.
    going = run_dir / f".{SPOOL_DIR}.{os.getpid()}.tmp"
    os.rename(run_dir / SPOOL_DIR, going)
    _fsync(run_dir)
    shutil.rmtree(going, ignore_errors=True)  # what cannot be removed now is swept by the next stitch


def _reach_disk(run_dir: Path) -> None:
    """Only what is on disk replaces the spool, also the names. Raises OSError. Many at a time: the file system writes
    its journal for all of them at once (30 ms for the 200 files of a small archive, where one after the other takes
    700)."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(_fsync, [Path(folder, name) for folder, _dirs, names in os.walk(run_dir / SERIES_DIR)
                               for name in (*names, ".")]))
    _fsync(run_dir)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make(run_dir: Path, files: list[Path], progress: Callable[[str], None], known: Iterable[str]) -> Stitched:
    from yprovd.stitch.attribution import attribute
    from yprovd.stitch.crate import build_crate
    from yprovd.stitch.provenance import build_document
    from yprovd.stitch.reading import read_record
    from yprovd.stitch.series import write_series
    from yprovd.stitch.states import final_state

    progress("reading the spool")
    record = read_record(files)
    if not record.run and not record.nodes and not record.processes:
        raise YprovError(f"no frame in `{run_dir / SPOOL_DIR}` could be read: it is damaged or not written by yprov",
                         hint="is the disk intact? the files are left as they are")
    progress("attributing energy and time")
    attribution = attribute(record)
    progress("writing the series")
    partial = run_dir / f".{SERIES_DIR}.{os.getpid()}.tmp"
    try:
        series = write_series(record, attribution, partial)
        _replace_folder(partial, run_dir / SERIES_DIR)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress("writing prov.json")
    write_whole(run_dir / PROV_FILE, build_document(record, attribution, series))
    mask_logs(run_dir, record.run.get("masked_logs"), known)
    progress("writing the crate")
    write_whole(run_dir / CRATE_FILE, build_crate(run_dir, record, attribution))
    state, reason = final_state(record)
    return Stitched(run_dir, True, state, reason, record.damaged_bytes - record.torn_bytes, record.lost_frames)


def mask_logs(run_dir: Path, done: object, known: Iterable[str] = ()) -> None:
    """Take secrets out of the command's output, where the launcher has not: `{name: bytes}` were done. They are told by
    their shape, and by being one of `known`, of the run's own environment: what the one of a later stitch calls a
    secret is none of the run's. What is still appended stays where it is (`Masker.overwrite`). Where `logs` is a link
    its files are not the run's."""
    from yprovd.secrets import Masker

    looked_to = done if isinstance(done, dict) else {}
    masker = Masker(known)
    logs = run_dir / "logs"
    for path in [] if logs.is_symlink() else sorted(logs.glob("*.log")):
        with contextlib.suppress(OSError, TypeError, ValueError, OverflowError):
            upto = int(looked_to.get(path.name, 0))
            if upto != path.lstat().st_size:
                masker.overwrite(path, upto)


def _replace_folder(new: Path, final: Path) -> None:
    """A folder cannot be renamed over one that is not empty: the old one steps aside first."""
    old = final.with_name(f".{final.name}.{os.getpid()}.old.tmp")
    if final.exists():
        os.rename(final, old)
    os.rename(new, final)
    shutil.rmtree(old, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Files that must fit each other: all are written, also to the disk, before the first gets its name. The crate is
    the last: killed before it is renamed, it is (`_sweep`)."""
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    renamed = False
    try:
        for path, data in files.items():
            with open(partials[path], "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
            renamed = True
            if len(files) > 1:
                _fsync(path.parent)
    finally:
        for partial in () if renamed else partials.values():
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(run_dir: Path, progress: Callable[[str], None] = lambda stage: None) -> Iterator[None]:
    """One stitch of a run at a time, also from several hosts where the file system can lock."""
    fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another stitch of this run")
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: the renames keep readers safe
        _sweep(run_dir)
        yield
    finally:
        os.close(fd)


def _sweep(run_dir: Path) -> None:
    """Take away what a killed stitch left, put an archive back that it had moved aside, and end what it had begun: a
    crate that was written whole, of the prov.json that has its name already."""
    for left in run_dir.glob(".*.tmp"):
        if left.is_dir():
            final = run_dir / SERIES_DIR
            if left.name.startswith(f".{SERIES_DIR}.") and left.name.endswith(".old.tmp") and not final.exists():
                os.rename(left, final)
            else:
                shutil.rmtree(left, ignore_errors=True)
        elif left.name.startswith(f".{CRATE_FILE}.") and _is_crate_of(left, run_dir / PROV_FILE):
            os.replace(left, run_dir / CRATE_FILE)
        else:
            left.unlink(missing_ok=True)


def _is_crate_of(crate: Path, prov: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        listed = [e["sha256"] for e in json.loads(crate.read_bytes())["@graph"] if e.get("@id") == PROV_FILE]
        return listed == [hashlib.sha256(prov.read_bytes()).hexdigest()]
    return False
