"""series.zarr: every series that prov.json names, computed again from its array."""

from __future__ import annotations

import itertools
import math
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from yprovd.config import PROV_FILE
from yprovd.stitch import PACKED_SERIES, SERIES_DIR
from yprovd.stitch.validity.files import guarded

_TOLERANCE = 1e-9
_OVERFLOWS = 1e300


def check_series(run_dir: Path, doc: dict[str, Any], problems: list[str]) -> None:
    claims = [r for r in (doc.get("entity") or {}).values() if isinstance(r, dict) and "yp:count" in r]
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
    guarded(problems, f"{SERIES_DIR}: `meters`", partial(_energy, store, doc, problems))


def _energy(store: Any, doc: dict[str, Any], problems: list[str]) -> None:
    """The energy of the run and of its GPUs, summed again from what each meter counted."""
    claims = [r for r in (doc.get("entity") or {}).values() if isinstance(r, dict) and "yp:energyMethod" in r]
    for claim in claims:
        if claim.get("prov:location") != f"{SERIES_DIR}/meters":
            continue
        try:
            energy = store["meters/energy"][:]
            columns = {"energyJ": store["meters/counts"][:], "gpuEnergyJ": store["meters/counts_gpu"][:]}
        except KeyError as e:
            problems.append(f"{SERIES_DIR}: {e} is missing; {PROV_FILE} names it")
            continue
        for key, counts in columns.items():
            said, found = _number(claim.get(f"yp:{key}")), float(energy[counts == 1].sum())
            if not math.isclose(said or 0.0, found, rel_tol=1e-6, abs_tol=1e-6):
                problems.append(f"{SERIES_DIR}: the meters counted {found} J; {PROV_FILE} says {key} {said}")


def _one_series(array: Any, path: str, claim: dict[str, Any], problems: list[str]) -> None:
    """`SeriesInfo` in `yprovd.stitch.series` says what the figures are."""
    def wrong(what: str, said: Any) -> None:
        problems.append(f"{SERIES_DIR}: `{path}` {what}; {PROV_FILE} says {said}")

    unit, units = str(claim.get("yp:unit", "")), str(array.attrs.get("units", ""))
    if unit != units:
        wrong(f"is in `{units}`", f"`{unit}`")
    said = {key: _number(claim.get(f"yp:{key}")) for key in (
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


def _number(value: Any) -> float | None:
    """A PROV-JSON value as a number."""
    if isinstance(value, dict):
        value = value.get("$")
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
