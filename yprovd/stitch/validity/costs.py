"""What prov.json says that the run and its parts cost, against the tables `meters` and `accounts` of series.zarr.

An activity is found in `accounts` by its identifier, which is made of the row's path. Of two paths with one identifier,
and of a path that text cannot give back (lone surrogates, names that an identifier shortens), any row will do that has
the same figures.
"""

from __future__ import annotations

import math
import re
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.stitch import SERIES_DIR
from yprovd.stitch.document import slug
from yprovd.stitch.validity.files import number, plain, records

_METERS = f"{SERIES_DIR}/meters"
#: Attribute of an activity: the column of its figure.
_COLUMNS = {
    "energyJ": "energy", "energyOutsideJ": "energy_outside", "cpuSeconds": "cpu_time",
    "peakMemoryBytes": "memory_peak", "gpuEnergyJ": "gpu_energy", "gpuEnergyOutsideJ": "gpu_energy_outside",
    "gpuHours": "gpu_time", "gpuPeakMemoryBytes": "gpu_memory_peak", "durationSeconds": "duration",
    "firstStep": "first_step", "lastStep": "last_step", "opened": "count",
}
_BYTES = ("peakMemoryBytes", "gpuPeakMemoryBytes")
_KINDS = {"yp:Context": "context", "yp:Epoch": "epoch", "yp:Span": "span"}
_TOLERANCE = 1e-9


def check_energy(store: Any, doc: dict[str, Any], problems: list[str]) -> None:
    """The energy of the run and of its GPUs, summed again from what each meter counted; the run says the same."""
    reports = [r for r in records(doc, "entity").values()
               if plain(r.get("yp:type")) == "yp:EnergyReport" or "yp:energyMethod" in r]
    for report in reports:
        figures = {key: number(report.get(f"yp:{key}")) for key in ("energyJ", "gpuEnergyJ")}
        if report.get("prov:location") == _METERS:
            _meters(store, figures, problems)
        elif any(figure is not None for figure in figures.values()):
            problems.append(f"{PROV_FILE}: the energy says at no prov:location which meters counted it: {_METERS}")
    said = {name: r for name, r in records(doc, "activity").items() if "yp:state" in r}
    for name, run in said.items():
        for key in ("energyJ", "gpuEnergyJ", "energyMethod"):
            ours, theirs = plain(run.get(f"yp:{key}")), [plain(r.get(f"yp:{key}")) for r in reports]
            if not (ours is None and not theirs) and not (len(theirs) == 1 and _same(ours, theirs[0], store, key)):
                problems.append(f"{PROV_FILE}: `{name}` says {key} {ours}; the energy of the run says "
                                + (" and ".join(map(str, theirs)) or "nothing"))


def _same(run: Any, energy: Any, store: Any, key: str) -> bool:
    """The run's is summed up from its parts: what these are rounded by is no difference, however they cancel out."""
    a, b = number(run), number(energy)
    if run == energy or (b is not None and not math.isfinite(b)):
        return True
    column = "accounts/energy_outside" if key == "energyJ" else "accounts/gpu_energy_outside"
    parts = [abs(v) for v in store[column][:].tolist() if math.isfinite(v)] if column in store else []
    return a is not None and b is not None and math.isclose(
        a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * max(parts, default=0.0))


def _meters(store: Any, figures: dict[str, float | None], problems: list[str]) -> None:
    try:
        energy = store["meters/energy"][:]
        columns = {"energyJ": store["meters/counts"][:], "gpuEnergyJ": store["meters/counts_gpu"][:]}
    except KeyError as e:
        problems.append(f"{SERIES_DIR}: {e} is missing; {PROV_FILE} names it")
        return
    for key, counts in columns.items():
        said, found = figures[key], float(energy[counts == 1].sum())
        if not math.isclose(said or 0.0, found, rel_tol=1e-6, abs_tol=1e-6):
            problems.append(f"{SERIES_DIR}: the meters counted {found} J; {PROV_FILE} says {key} {said}")


def check_accounts(store: Any, doc: dict[str, Any], problems: list[str]) -> None:
    """Each activity has the figures of its row, and each row that prov.json does not leave out has an activity."""
    activities = records(doc, "activity")
    kinds = {name: _KINDS[kind] for name, r in activities.items() if (kind := plain(r.get("yp:type"))) in _KINDS}
    run = next((name for name, r in activities.items() if "yp:state" in r), None)
    if "accounts" not in store:
        if kinds:  # of a run without contexts, epochs and spans there is no table
            problems.append(f"{SERIES_DIR}: `accounts` is missing; {PROV_FILE} has {len(kinds)} contexts, epochs and "
                            "spans")
        return
    table = _Table(store["accounts"])
    if run is not None:
        table.compare(run, activities[run], [0], problems)
    for kind in _KINDS.values():
        mine = [name for name in kinds if kinds[name] == kind]
        rows = [i for i, k in enumerate(table.kind) if k == kind]
        left_out = number(activities[run].get(f"yp:{kind}sOmitted")) or 0 if run is not None else 0
        if len(mine) + left_out != len(rows):
            problems.append(f"{SERIES_DIR}: `accounts` holds {len(rows)} {kind}s; {PROV_FILE} names {len(mine)} and "
                            f"leaves {left_out:g} out")
        of = table.named(rows, mine)
        for name in mine:
            base = re.sub(r"-\d+$", "", name)  # `-2`: the second one of those with one identifier
            likely = [row for n in dict.fromkeys((name, base)) for row in of.get(n, ())]
            table.compare(name, activities[name], likely or rows, problems)


class _Table:
    """The group `accounts`, column by column as it is asked for."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._columns: dict[str, list[Any]] = {}
        self.kind, self.path = ([str(v) for v in group[name][:]] for name in ("kind", "path"))

    def named(self, rows: list[int], names: list[str]) -> dict[str, list[int]]:
        """The rows of each identifier; not of all rows, where the first ones are those that the document has."""
        missing, out = set(names), dict[str, list[int]]()
        for row in rows:
            if not missing:
                break
            parts = re.split(r"/(?=epoch/|span/)", self.path[row])
            name = "run:" + "/".join(slug(p) for p in parts)
            out.setdefault(name, []).append(row)
            missing.discard(name)
        return out

    def compare(self, name: str, record: dict[str, Any], rows: list[int], problems: list[str]) -> None:
        """That one of the rows has all the figures of the activity. Of several, none of them is named."""
        differ: list[str] = []
        for row in rows:
            differ = [f"{key} {found}; {PROV_FILE} says {said}" for key, found, said in self._differences(record, row)]
            if not differ:
                return
        if len(rows) == 1:
            problems += [f"{SERIES_DIR}: `accounts` says of `{name}` {text}" for text in differ]
        else:
            problems.append(f"{SERIES_DIR}: `accounts` has no row with the figures of `{name}`")

    def _differences(self, record: dict[str, Any], row: int) -> list[tuple[str, float | None, Any]]:
        out = []
        for key, column in _COLUMNS.items():
            if (key == "opened" and not self.path[row]) or any(
                    key == k and plain(record.get(f"yp:{how}")) == "rusage"
                    for k, how in (("cpuSeconds", "cpuMethod"), ("peakMemoryBytes", "peakMemoryMethod"))):
                continue  # the run is no part of itself; what the kernel said of a short command is in no table
            said = number(record.get(f"yp:{key}"))
            found = self._value(column, row)
            if key in _BYTES and found is not None:
                found = float(round(found)) if math.isfinite(found) else None
            if (found is None) != (said is None) or (found is not None and said is not None and not math.isclose(
                    found, said, rel_tol=_TOLERANCE)):
                out.append((key, found, plain(record.get(f"yp:{key}"))))
        return out

    def _value(self, column: str, row: int) -> float | None:
        if column not in self._columns:
            array = self._group.get(column)
            self._columns[column] = [] if array is None else [
                None if v == array.attrs.get("_FillValue") or v != v else v for v in array[:].tolist()]
        values = self._columns[column]
        return None if not values or values[row] is None else float(values[row])
