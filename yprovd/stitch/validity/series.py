"""series.zarr: every series that prov.json names, computed again from its array; and that no file of it is missing."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from yprovd.config import PROV_FILE
from yprovd.stitch import PACKED_SERIES, SERIES_DIR
from yprovd.stitch.contents import files_below
from yprovd.stitch.storage import SPARSE, files_of
from yprovd.stitch.validity.costs import check_accounts, check_energy
from yprovd.stitch.validity.files import guarded, number, plain, records

_TOLERANCE = 1e-9
_OVERFLOWS = 1e300


def check_series(run_dir: Path, doc: dict[str, Any], problems: list[str]) -> None:
    claims = _named(doc, problems) if doc else []
    packed = run_dir / PACKED_SERIES
    if (run_dir / SERIES_DIR).is_dir():
        _check_claims(zarr.open_group(run_dir / SERIES_DIR, mode="r"), claims, doc, problems)
    elif packed.is_file():  # an unpacked zip file of the run: its crate lists this file, and no folder
        zipfile.ZipFile(packed).close()  # raises what is wrong with it, which the store would hide
        with zarr.storage.ZipStore(packed, mode="r") as store:
            _check_claims(zarr.open_group(store, mode="r"), claims, doc, problems)
    else:
        problems.append(f"{SERIES_DIR}: is missing")


def _check_claims(store: Any, claims: list[dict[str, Any]], doc: dict[str, Any], problems: list[str]) -> None:
    for claim in claims:
        folder, _, path = str(claim.get("prov:location", "")).partition("/")
        try:
            array = store[path] if folder == SERIES_DIR and path else None
        except KeyError:
            problems.append(f"{SERIES_DIR}: `{path}` is missing; {PROV_FILE} names it")
            continue
        if array is None:
            problems.append(f"{PROV_FILE}: the series `{claim.get('prov:label')}` says at no prov:location in "
                            f"{SERIES_DIR}/ where it is")
        elif not hasattr(array, "shape"):
            problems.append(f"{SERIES_DIR}: `{path}` is no array")
        else:
            guarded(problems, f"{SERIES_DIR}: `{path}`", partial(_one_series, array, path, claim, problems))
    guarded(problems, SERIES_DIR, partial(_chunks, store, problems))
    guarded(problems, f"{SERIES_DIR}: `meters`", partial(check_energy, store, doc, problems))
    guarded(problems, f"{SERIES_DIR}: `accounts`", partial(check_accounts, store, doc, problems))


def _named(doc: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    """The series that prov.json names; it says of the collection how many there are."""
    entities = records(doc, "entity").values()
    claims = [r for r in entities if plain(r.get("yp:type")) == "yp:Series" or "yp:count" in r]
    for claim in claims:
        if number(claim.get("yp:count")) is None:
            problems.append(f"{PROV_FILE}: the series `{claim.get('prov:label')}` has no yp:count")
    left_out = sum(number(r.get("yp:seriesOmitted")) or 0 for r in records(doc, "activity").values())
    said = [number(r.get("yp:seriesCount")) for r in entities if plain(r.get("yp:type")) == "yp:Telemetry"]
    if said != [len(claims) + left_out]:
        problems.append(f"{PROV_FILE}: names {len(claims)} series and leaves {left_out:g} out; its yp:seriesCount is "
                        + (" and ".join(f"{n:g}" if n is not None else "no number" for n in said) or "missing"))
    return claims


def _chunks(store: Any, problems: list[str]) -> None:
    """Every file of every array (`yprovd.stitch.storage` says why they have to be counted). A store that says nothing
    of them was made before there was a count."""
    about, said = store.metadata.consolidated_metadata, store.attrs.get(SPARSE)
    if about is None or said is None:
        return
    there = Counter(name.rpartition("/")[0] for name in _files(store) if not name.endswith("zarr.json"))
    sparse = json.loads(said)
    for path, one in about.flattened_metadata.items():
        if one.node_type == "array":
            should = sparse.get(path, files_of(one.shape, one.shards or one.chunks))
            if there[path] != should:
                problems.append(f"{SERIES_DIR}: `{path}` has {there[path]} files of values; {should} were written")


def _files(store: Any) -> list[str]:
    where = store.store
    if isinstance(where, zarr.storage.ZipStore):
        with zipfile.ZipFile(where.path) as packed:
            return packed.namelist()
    return files_below(Path(where.root))


def _one_series(array: Any, path: str, claim: dict[str, Any], problems: list[str]) -> None:
    """`SeriesInfo` in `yprovd.stitch.series` says what the figures are."""
    def wrong(what: str, said: Any) -> None:
        problems.append(f"{SERIES_DIR}: `{path}` {what}; {PROV_FILE} says {said}")

    unit, units = str(claim.get("yp:unit", "")), str(array.attrs.get("units", ""))
    if unit != units:
        wrong(f"is in `{units}`", f"`{unit}`")
    said = {key: number(claim.get(f"yp:{key}")) for key in (
        "count", "missing", "nonFinite", "min", "mean", "max", "last", "total")}
    found = _statistics(array, script=claim.get("yprov:source") == "script")
    count = (said["count"] or 0) - (said["nonFinite"] or 0)
    if found.count != count:
        wrong(f"holds {found.count} finite values", f"{count:g}")
    elif found.size - found.count != (said["missing"] or 0) + (said["nonFinite"] or 0):
        wrong(f"has {found.size - found.count} cells without a finite value",
              f"{(said['missing'] or 0) + (said['nonFinite'] or 0):g} (missing and nonFinite)")
    for key, have, slack in (
        ("min", found.least, 0.0), ("mean", found.mean, found.largest), ("max", found.greatest, 0.0),
        ("last", found.last, 0.0), ("total", found.total, found.largest * found.count),
    ):
        want = said[key]
        if (key == "total" and want is None) or (slack and slack * found.count > _OVERFLOWS):
            continue  # only counters have a total; the order in which such numbers are added decides
        if (have is None) != (want is None) or (have is not None and want is not None and not math.isclose(
                have, want, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * slack)):
            wrong(f"has {key} {have}", want)


class _Found:
    """Figures of the finite values of an array, in its own unit."""

    def __init__(self) -> None:
        self.size = self.count = 0
        self.least: float | None = None
        self.greatest: float | None = None
        self.last: float | None = None
        self.sum: float = 0.0
        self._last_at: tuple[int, ...] = ()

    def take(self, values: Any, known: Any, corner: tuple[int, ...]) -> None:
        """A block of the array that begins at `corner`, and which of its cells are there."""
        self.size += values.size
        there = values[known]
        if not there.size:
            return
        self.count += there.size
        least, greatest = float(there.min()), float(there.max())
        self.least = least if self.least is None else min(self.least, least)
        self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)
        with np.errstate(over="ignore"):
            self.sum += float(there.sum())
        last = np.unravel_index(np.flatnonzero(known)[-1], values.shape)
        at = tuple(int(i) + c for i, c in zip(last, corner, strict=True))
        if at > self._last_at:  # blocks of one row come one after the other, but not all of them end in it
            self._last_at, self.last = at, float(values[last])

    @property
    def largest(self) -> float:
        return max(abs(self.least or 0.0), abs(self.greatest or 0.0))

    @property
    def total(self) -> float | None:
        return self.sum if self.count else None

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count and math.isfinite(self.sum) else None


def _statistics(array: Any, *, script: bool) -> _Found:
    """Of an array, read in blocks of whole chunks. What a script logged may be infinite, and is then no figure."""
    found = _Found()
    decimals = 10.0 ** int(array.attrs.get("decimals", 0))  # packed: the integer over this is the value, exactly
    missing = array.attrs.get("_FillValue")  # without one, integers are all values: Zarr's own fill value is then 0
    step = array.shards or array.chunks
    for corner in itertools.product(*(range(0, n, max(1, s)) for n, s in zip(array.shape, step, strict=True))):
        block = np.asarray(array[tuple(slice(c, c + s) for c, s in zip(corner, step, strict=True))])
        if not np.issubdtype(block.dtype, np.integer):
            found.take(block.astype(np.float64), np.isfinite(block) if script else ~np.isnan(block), corner)
        else:
            known = np.ones(block.shape, dtype=bool) if missing is None else block != missing
            found.take(block / decimals if decimals != 1 else block, known, corner)
    return found
