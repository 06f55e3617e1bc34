"""The output of yProv4ML 1.x, 2.x and 3.x: where its runs are in a folder, and what they say (`importing_layouts`).

    <save dir>/<experiment>_<id>/prov_<experiment>_GR<k>_<id>.json   a document for rank k (1.x: provgraph_..._GR<k>)
                                 metrics_GR<k>/...                   its metrics (1.x: tmp/, left over)
                                 artifacts_GR<k>/...                 copies of its files

The documents of one experiment and id in one folder are the ranks of one run. Ranks that started more than a second
apart have a folder each: that they are one run is for a person to say. A rank that was killed left no
document, but the metrics that were written out by then; they are read, and the run is incomplete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from yprov.imported import Candidate, ForeignRun, Notes, Original, Rank, Series
from yprov.importing_layouts import layout_of, named, rank_of, run_of, zone_named
from yprov.importing_paths import inside, weight
from yprov.importing_series import attributes_of, read_file
from yprov.importing_values import first, text_of, time_ns
from yprovd.errors import YprovError

TOOL = "yProv4ML"
_DOCUMENT = re.compile(r"prov(?:graph)?_.+_GR\d{1,9}(?:_\d+)?\.json", re.DOTALL)
_METRICS = re.compile(r"metrics_GR(\d{1,9}|None)")
_LEFT = re.compile(r"(.*)_GR(\d{1,9}|None)", re.DOTALL)
#: Bytes of a document that is read: it is in memory as a whole, several times as large.
_LARGEST = 1 << 30
#: How deep runs may lie below the folder that is named.
_DEPTH = 3
_QUARTER = 900 * 10**9
#: So near to a quarter of an hour must the offset of a clock be to be one.
_NEAR = 60 * 10**9
#: Gaps between ranks that a note lists.
_SHOWN = 12
#: Metrics that are looked at for one with times, where a document names no time zone.
_LOOKED_AT = 50


def find(folder: Path, notes: Notes) -> list[Candidate]:
    """The runs in a folder and below, in the order of their names. What looks like a document and is none is noted
    by the runs in its folder, and in `notes` where there is none. Raises YprovError for two documents of one rank."""
    found: list[Candidate] = []
    for home, names, folders in _walk(folder, _DEPTH):
        groups: dict[tuple[str, str], Candidate] = {}
        here = Notes()
        for name in names:
            if not (_DOCUMENT.fullmatch(name) or home == folder) or name == "ro-crate-metadata.json":
                continue
            document = _load(home / name, here if _DOCUMENT.fullmatch(name) else Notes())
            if layout := layout_of(document):
                _place(groups, home / name, document, layout)
            elif document is not None and _DOCUMENT.fullmatch(name):
                here.say(f"`{name}` is no document of {TOOL}")
        left = dict(_left_metrics(home, folders, here))
        if not groups and left:
            layout = "1.x" if "tmp" in folders else _layout_left(left)
            groups["", ""] = Candidate(TOOL, layout, home, *_named_left(home))
        if len(groups) == 1:
            (run,) = groups.values()
            run.left = {rank: files for rank, files in left.items() if rank not in run.documents}
        for line in here.lines():
            for run in groups.values():
                run.notes.say(line)
            if not groups:
                notes.say(line if home == folder else f"in `{home.relative_to(folder)}` {line}")
        found += [groups[key] for key in sorted(groups)]
    return found


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, its files, its folders), without what runs are made of. Links to folders are not followed."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    except OSError as e:
        raise YprovError(f"cannot read `{folder}`: {e.strerror}") from None
    yield folder, sorted(n for n in files if n.endswith(".json")), sorted(folders)
    if depth:
        for name in sorted(folders):
            if not (name.startswith((".", "metrics_GR", "artifacts")) or name == "tmp" or name.endswith(".zarr")):
                yield from _walk(folder / name, depth - 1)


def _load(path: Path, notes: Notes) -> Any:
    try:
        if (found := inside(path.parent, path)) is None:
            notes.say(f"`{path.name}` leads out of its folder, and is not read")
        elif (size := weight(found)) > _LARGEST:
            notes.say(f"`{path.name}` has {size} bytes: a document of more than {_LARGEST} is not read")
        else:
            return json.loads(found.read_bytes())
    except OSError as e:
        notes.say(f"`{path.name}` cannot be read: {e.strerror}")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        notes.say(f"`{path.name}` is damaged: it is not JSON")
    except (ValueError, MemoryError) as e:  # what `weight` says, or a number of more digits than Python reads
        notes.say(f"`{path.name}` cannot be read: {str(e) or 'there is not enough memory'}")
    return None


def _place(groups: dict[tuple[str, str], Candidate], path: Path, document: dict[str, Any], layout: str) -> None:
    _id, run = run_of(document, layout)
    experiment, rank, run_id = named(text_of(first(run.get("experiment_name"))))
    if rank is None:
        experiment, rank, run_id = named(path.stem.removeprefix("provgraph_").removeprefix("prov_"))
    run_id = text_of(first(run.get("run_id"))) or run_id
    it = groups.setdefault((experiment, run_id), Candidate(TOOL, layout, path.parent, experiment, run_id))
    if other := it.documents.get(rank or 0):
        raise YprovError(f"`{other.name}` and `{path.name}` in `{path.parent}` are both of rank {rank or 0}",
                         hint="move the one that does not belong to the run somewhere else")
    it.documents[rank or 0] = path
    begin, end = _times(document, run, layout)
    it.begin_ns = min(b for b in (it.begin_ns or begin, begin or it.begin_ns))
    it.end_ns = max(it.end_ns, end)


def _times(document: dict[str, Any], run: dict[str, Any], layout: str) -> tuple[int, int]:
    if layout == "3.x":
        zone = zone_named(document, layout) or 0
        return tuple(time_ns(run.get(f"{what}edAtTime"), zone) for what in ("start", "end"))  # type: ignore[return-value]
    values = run
    if layout == "1.x":
        entities = document.get("entity")
        values = {k: v.get("prov-ml:parameter_value") for k, v in entities.items() if isinstance(v, dict)} \
            if isinstance(entities, dict) else {}
    return time_ns(values.get("execution_start_time"), 0), time_ns(values.get("execution_end_time"), 0)


# what a killed rank left


def _left_metrics(home: Path, folders: Iterable[str], notes: Notes) -> Iterator[tuple[int, list[Path]]]:
    of_rank: dict[int, list[Path]] = {}
    for name in folders:
        match = _METRICS.fullmatch(name)
        if match or name == "tmp":
            for path in sorted((home / name).iterdir()):
                stem = _LEFT.fullmatch(path.stem)
                if stem and path.suffix in (".csv", ".nc", ".zarr"):
                    if inside(home, path) is None:
                        notes.say(f"`{name}/{path.name}` leads out of its folder, and is not read")
                        continue
                    rank = match[1] if match else stem[2]
                    of_rank.setdefault(0 if rank == "None" else int(rank), []).append(path)
    yield from of_rank.items()


def _layout_left(left: dict[int, list[Path]]) -> str:
    return "2.x" if any("_Context." in p.name for files in left.values() for p in files) else "3.x"


def _named_left(home: Path) -> tuple[str, str]:
    """(experiment, id) of a run's folder."""
    name, _, number = home.name.rpartition("_")
    return (name, number) if name and number.isdecimal() else (home.name, "")


def _rank_left(rank: int, files: list[Path], experiment: str, notes: Notes) -> Rank:
    digest = hashlib.sha256()
    it = Rank(rank, "", experiment, ended=False)
    for path in files:
        stat = path.stat()
        it.written_ns = max(it.written_ns, stat.st_mtime_ns)
        digest.update(f"{path.name} {stat.st_size} ".encode("utf-8", "surrogateescape"))
        told = attributes_of(path)
        match = _LEFT.fullmatch(path.stem)
        name, context, source = told or (match[1] if match else path.stem, "", "")
        if told is None:
            notes.say(f"the name of {path.name} does not say where the metric's ends and its context begins: all of it "
                      "is the name")
        context = "" if named(context)[1] is not None else context.removeprefix("Context.")
        it.series.append(Series(name, context or None, text_of(source), 0,
                                partial(read_file, path, f"`{name}`")))
    it.key = digest.hexdigest()
    return it


# reading


def read(candidates: list[Candidate], zone: int | None, notes: Notes) -> ForeignRun:
    """One run from one candidate, or from several that are its ranks. `zone`: seconds east of Greenwich, for documents
    that do not name theirs. Raises YprovError when they cannot be one run, or nothing in them can be read."""
    originals: list[Original] = []
    ranks: list[Rank] = []
    for it in candidates:
        for rank, path in sorted(it.documents.items()):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            document = json.loads(data)
            del data
            one = rank_of(document, it.layout, it.folder, digest, _zone(document, it, zone, digest, notes), notes)
            one.rank, one.written_ns = rank, path.stat().st_mtime_ns
            ranks.append(one)
            originals.append(Original(path, digest, path.stat().st_size, rank, {"host": one.host, **one.about}))
        for rank, files in sorted(it.left.items()):
            notes.say(f"rank {rank} left no document: it did not come to its end; its {len(files)} metrics are read")
            ranks.append(_rank_left(rank, files, it.experiment, notes))
    ranks.sort(key=lambda r: r.rank)
    head = candidates[0]
    name = f"{head.experiment}_{head.run_id}" if head.run_id else head.experiment or head.folder.name
    run = ForeignRun(TOOL, head.layout, name, [c.place for c in candidates], originals, ranks, notes)
    if gaps := run.missing:
        listed = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in gaps[:_SHOWN])
        notes.say(f"there is nothing of {'rank' if gaps == [(gaps[0][0],) * 2] else 'ranks'} {listed}"
                  + (" and others" if len(gaps) > _SHOWN else ""))
    return run


def _zone(document: dict[str, Any], it: Candidate, zone: int | None, key: str, notes: Notes) -> int:
    """Of a document's times without one: what it names, what the user says, what its metrics' clocks show, else UTC."""
    if it.layout != "3.x" or (named_zone := zone_named(document, it.layout)) is not None:
        return 0 if it.layout != "3.x" else named_zone or 0
    if zone is not None:
        return zone
    quiet = Notes()
    offsets = set()
    for series in rank_of(document, it.layout, it.folder, key, 0, quiet).series[:_LOOKED_AT]:
        times = series.read(quiet).time_ns
        known = times[times > 0]
        if series.since_ns and len(known):
            offset = series.since_ns - int(known.min())
            quarters = round(offset / _QUARTER)
            if abs(offset - quarters * _QUARTER) < _NEAR and abs(quarters) <= 56:
                offsets.add(quarters * 900)
    if len(offsets) == 1:
        return offsets.pop()
    notes.say("the documents do not name the time zone of their times: they are taken as UTC")
    return 0
