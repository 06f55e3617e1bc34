"""A recorded run, read: what `yprov.open_run` returns. Nothing is written, nothing is unpacked.

Parameters, metrics, files and energy come from series.zarr, which holds all of them, whatever prov.json has room for.
Times are UTC, without a zone, as xarray gives them. Figures are in s, J, h and bytes; what is absent is NaN (or None,
NaT), never 0.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from yprov.choosing import find
from yprov.reading_folder import Folder
from yprov.runs import ensure_archive, plain
from yprovd.config import PROV_FILE, RUN_FILE, RunConfig
from yprovd.errors import YprovError
from yprovd.stitch import SERIES_DIR

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from prov.model import ProvDocument

    from yprov.reading_zip import ZippedRun

#: Columns of `RecordedRun.energy`, and what the store calls them.
_ENERGY = {
    "kind": "kind", "context": "context", "epoch": "epoch", "name": "name", "begin": "begin", "end": "end",
    "duration_s": "duration", "energy_j": "energy", "energy_outside_j": "energy_outside", "gpu_energy_j": "gpu_energy",
    "gpu_energy_outside_j": "gpu_energy_outside", "gpu_hours": "gpu_time", "cpu_s": "cpu_time",
    "peak_memory_bytes": "memory_peak", "gpu_peak_memory_bytes": "gpu_memory_peak", "first_step": "first_step",
    "last_step": "last_step", "count": "count",
}
#: The same of the run in prov.json, where the store has no such table: no context was open.
_OF_RUN = {
    "begin": "startTime", "end": "endTime", "duration_s": "durationSeconds", "energy_j": "energyJ",
    "energy_outside_j": "energyOutsideJ", "gpu_energy_j": "gpuEnergyJ", "gpu_energy_outside_j": "gpuEnergyOutsideJ",
    "gpu_hours": "gpuHours", "cpu_s": "cpuSeconds", "peak_memory_bytes": "peakMemoryBytes",
    "gpu_peak_memory_bytes": "gpuPeakMemoryBytes", "first_step": "firstStep", "last_step": "lastStep",
}
_KINDS = ("run", "context", "epoch", "span")
_TIMES, _INTEGERS, _TEXTS = ("begin", "end"), ("epoch", "first_step", "last_step", "count"), ("kind", "context", "name")


class RecordedRun:
    """A run that has ended and was stitched. Use it as a context manager, or `close()` it: a zip file stays open.

    `directory`: the run's directory, or the zip file. `id`: UUID. `state`: completed, failed, cancelled, timeout,
    node_fail, killed or incomplete. `config`: what was asked for (command, cwd, settings). `experiment`, `tags`:
    those of the run; `commit`: of the code's repository, None without one.
    """

    def __init__(self, files: Folder | ZippedRun) -> None:
        self.directory = files.path
        self._files = files
        self._store: Any = None
        self._root: Any = None
        try:
            self.prov: dict[str, Any] = self._json(PROV_FILE)
            self.config = RunConfig.from_json(self._json(RUN_FILE))
            self._run = plain(self.prov["activity"]["run:run"])
        except (KeyError, TypeError, AttributeError, ValueError):
            raise YprovError(f"`{self.directory}` is damaged", hint=f"yprov validate {self.directory}") from None
        self.id, self.name = self.config.run_id, self.config.name
        self.experiment, self.tags = self.config.settings.experiment, dict(self.config.settings.tags)
        commit = plain(self.prov.get("entity", {}).get("run:code") or {}).get("commit")
        self.commit = None if commit is None else str(commit)
        self.state = str(self._run.get("state", "incomplete"))

    def __repr__(self) -> str:
        return f"<run {self.name} {self.id}: {self.state}, {self.directory}>"

    def __enter__(self) -> RecordedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Datasets of `series` that were not loaded cannot be read any more."""
        self._files.close()
        self._root = None

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._files.read(name))
        except FileNotFoundError:
            raise YprovError(f"`{self.directory}` has no {name}", hint=f"yprov validate {self.directory}") from None
        except OSError as e:
            raise YprovError(f"cannot read `{self.directory}/{name}`: {e.strerror}") from None

    @property
    def document(self) -> ProvDocument:
        """prov.json as `prov` has it. `prov` (the attribute) is the same as plain dicts."""
        from prov.model import ProvDocument

        return ProvDocument.deserialize(content=json.dumps(self.prov), format="json")

    def names(self) -> list[str]:
        """The files of the archive, as paths within it."""
        return self._files.names()

    def read(self, name: str) -> bytes:
        """One of them, by its path within the run. Raises FileNotFoundError where there is none, YprovError for a path
        that leads out of the run: an absolute one, one over `..`, a link to something else."""
        return self._files.read(name)

    @property
    def root(self) -> Any:
        """series.zarr as a `zarr.Group`: values as they are stored."""
        if self._root is None:
            import zarr

            self._store = self._files.store()
            if self._store is None:
                raise YprovError(f"`{self.directory}` has no {SERIES_DIR}", hint=f"yprov validate {self.directory}")
            try:
                self._root = zarr.open_group(self._store, mode="r")
            except (OSError, ValueError, KeyError) as e:
                raise YprovError(f"cannot read {SERIES_DIR} of `{self.directory}`: {e}",
                                 hint=f"yprov validate {self.directory}") from None
        return self._root

    @property
    def groups(self) -> list[str]:
        """What `series` takes: `host`, `gpu`, `metrics/training`, `spans`..."""
        from zarr import Array

        return sorted({path.rpartition("/")[0] for path, member in self.root.members(max_depth=None)
                       if isinstance(member, Array)})

    def series(self, group: str) -> xr.Dataset:
        """A group as a Dataset, read when it is used: times decoded, missing values NaN, `units` in the attributes.
        Only large columns of short decimals (attribute `decimals`) are read at once, for their last bit. Of a zipped
        run a Dataset goes to another process (pickle) when it was loaded: `.load().copy()`.

        Groups of devices have the dimensions (device, time), `host` (node, time), tables (row). The column of a metric
        has its name in the store, percent-encoded where a path needs it, and its own as `long_name`. Raises YprovError.
        """
        import numpy as np
        import xarray as xr

        self._ensure(group)
        found: xr.Dataset = xr.open_zarr(self._store, group=group, consolidated=False, chunks=None)
        for name, variable in found.data_vars.items():
            if "decimals" in variable.attrs:  # scale_factor is off by one unit in the last place
                found[name] = variable.copy(data=np.round(variable.values, int(variable.attrs["decimals"])))
        ordered: xr.Dataset = found[sorted(found.data_vars, key=str)]
        return ordered

    def _ensure(self, group: str) -> None:
        if group not in self.groups:
            raise no_group(self.name, group, self.groups)

    def _table(self, group: str) -> pd.DataFrame | None:
        from yprov.reading_columns import columns_of, frame

        if group not in self.groups:
            return None
        return frame(columns_of(self.root[group], group))

    @property
    def parameters(self) -> dict[str, Any]:
        """What the run was given, with its types; of a parameter logged several times the last value."""
        return self._values("input")

    @property
    def results(self) -> dict[str, Any]:
        """What the run came to: `log_param(..., role="output")`."""
        return self._values("output")

    def _values(self, role: str) -> dict[str, Any]:
        table = self._table("params")
        if table is None:
            return {}
        return {str(name): json.loads(value)
                for name, value, of in zip(table["name"], table["value"], table["role"], strict=True) if of == role}

    def metrics(self, context: str | None = None) -> pd.DataFrame:
        """What the script logged, one row for each rank, step and epoch: `context` (None: outside of contexts), `step`,
        `epoch` (Int64, may be missing), `rank`, `time`, and a column for each metric, NaN where the row has none.
        `context`: only of this one, `run` (unless a context is called so): only those outside of contexts. Raises
        YprovError for one that has no metrics. A run without any has an empty table."""
        import pandas as pd

        from yprov.reading_columns import columns_of, frame

        found = {path: self.root[path] for path in self.groups if path.startswith("metrics/")}
        names = [group.attrs.get("context") for group in found.values()]
        if context is not None and context not in names and not (context == "run" and None in names):
            raise no_group(self.name, context, (name or "run" for name in names), "metrics of")
        wanted = None if context == "run" and context not in names else context
        tables = []
        for path, group in found.items():
            of = group.attrs.get("context")
            if context is None or of == wanted:
                table = frame(columns_of(group, path))
                table.insert(0, "context", pd.Series([of] * len(table), dtype=object))
                tables.append(table.astype({"step": "Int64", "epoch": "Int64"}))
        if not tables:
            empty = {"context": object, "step": "Int64", "epoch": "Int64", "rank": "int32", "time": "datetime64[ns]"}
            return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in empty.items()})
        return pd.concat(tables, ignore_index=True)

    def energy(self, kind: str | None = None) -> pd.DataFrame:
        """What the run and each of its parts cost, one row each, the run first, parents before children. `kind`: only
        "run", "context", "epoch" or "span". Raises YprovError for another.

        Columns: kind, context, epoch, name, begin, end, duration_s (open on any rank), energy_j (with that of its
        parts), energy_outside_j (of none of them), gpu_energy_j and gpu_energy_outside_j (a part of these), gpu_hours,
        cpu_s, peak_memory_bytes, gpu_peak_memory_bytes, first_step, last_step, count (times opened).
        """
        import pandas as pd

        if kind not in (None, *_KINDS):
            raise YprovError(f"energy is told of no `{kind}`", hint=f"of each {', '.join(_KINDS)}")
        table = self._table("accounts")
        if table is None:
            row = {"kind": "run", "context": "", "name": self.name, "count": 1,
                   **{ours: self._run.get(theirs) for ours, theirs in _OF_RUN.items()}}
            table = pd.DataFrame([row])
        else:
            table = table.rename(columns={theirs: ours for ours, theirs in _ENERGY.items()})
        table = table.reindex(columns=list(_ENERGY))
        for name in _TIMES:
            table[name] = pd.to_datetime(table[name], utc=True).dt.tz_localize(None).astype("datetime64[ns]")
        table = table.astype(dict.fromkeys(_INTEGERS, "Int64") | {
            name: "float64" for name in _ENERGY if name not in (*_TIMES, *_INTEGERS, *_TEXTS)})
        table["context"] = table["context"].astype(object).where(table["context"] != "", None)
        return table if kind is None else table[table["kind"] == kind].reset_index(drop=True)

    @property
    def files(self) -> pd.DataFrame:
        """The files that the run used and made, as they were declared: time, role (input, output, dataset, model,
        code), name, path, context, epoch, size (bytes), sha256 or the reason of its absence, `stored`: its copy in the
        archive, for `read`; `missing`: it was declared, and not there; `changed_after`: how many s later it was."""
        import pandas as pd

        columns = ["time", "role", "name", "path", "context", "epoch", "size", "sha256", "stored", "reason", "missing"]
        if (table := self._table("files")) is None:
            return pd.DataFrame(columns=[*columns, "changed_after"])
        later, gone = table.get("changed_after", float("nan")) / 1e6, table.get("missing", 0) == 1
        return table.assign(missing=gone, changed_after=later)[[*columns, "changed_after"]]

    @property
    def artifacts(self) -> pd.DataFrame:
        """Those of `files` that the run made."""
        table = self.files
        return table[table["role"].isin(["output", "model"]) & ~table["missing"].astype(bool)].reset_index(drop=True)


def no_group(run: str, group: str, groups: Iterable[str], what: str = "series") -> YprovError:
    known = sorted(groups)
    near = difflib.get_close_matches(group, known, n=1)
    return YprovError(f"the run `{run}` has no {what} `{group}`; it has {', '.join(known) or 'none'}",
                      hint=f"did you mean `{near[0]}`?" if near else "")


def open_run(
    path: str | os.PathLike[str] = "last", directory: str | os.PathLike[str] = "yprov-runs",
    note: Callable[[str], None] = lambda sentence: None,
) -> RecordedRun:
    """Open a run: its directory, a zip file of it, or, within `directory`, its name or a part of it, its identifier or
    `last`, by the rule of `yprov.choosing`, whose `note` it is.

    Raises YprovError when there is none, and when it was not stitched yet.
    """
    try:
        given = os.fsdecode(path)
    except TypeError:
        raise YprovError(f"a run is a path or a part of a name, not {path!r}",
                         hint='yprov.open_run("last")   opens the newest in ./yprov-runs') from None
    if os.path.isfile(given):
        from yprov.reading_zip import ZippedRun

        zipped = ZippedRun(Path(given))
        try:
            return RecordedRun(zipped)
        except YprovError:
            zipped.close()
            raise
    run_dir = find(given, os.fspath(directory), note)
    ensure_archive(run_dir)
    return RecordedRun(Folder(run_dir))
