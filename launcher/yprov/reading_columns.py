"""The arrays of series.zarr as columns: exact values, and which of them are missing.

What the attributes of an array mean is in `yprovd.stitch.storage` and `yprovd.stitch.series`: `_FillValue` stands for
what is missing, `units` of "... since 1970-01-01T00:00:00Z" makes a time, `decimals` = k a float that is exactly
stored / 10**k (where CF's `scale_factor` is off by one unit in the last place).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yprovd.stitch.storage import EPOCH, encoded

if TYPE_CHECKING:
    import pandas as pd

_NS = {"seconds": 10**9, "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1}
#: What every table of metrics has beside the metrics, which keep their encoded name when they are called so.
KEYS = ("context", "step", "epoch", "rank", "time", "row")
#: Those that are arrays of the store. Whatever else is called as a key is a metric: stores of before had `context` so.
_STORED = ("step", "epoch", "rank", "time")
_ENCODED = frozenset(encoded(key, KEYS) for key in KEYS)
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One array. `name`: as in the store, a metric by its own name. `dims`: of the array. `kind`: "time" (ns since
    1970, UTC), "text", "int" or "float"."""

    name: str
    array: Any
    dims: tuple[str, ...]
    kind: str

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.array.attrs)

    @property
    def may_miss(self) -> bool:
        return "_FillValue" in self.array.attrs

    def read(self, *where: slice) -> tuple[Values, npt.NDArray[np.bool_] | None]:
        """(values, which are missing or None for none) of a part. What stands for a missing one is NaN for a float,
        else no value at all. Only the chunks that hold the part are read."""
        raw = self.array[where] if where else self.array[...]
        about = self.array.attrs
        if self.kind == "text":
            return np.asarray(raw, dtype=object), None
        missing = raw == about["_FillValue"] if "_FillValue" in about else None
        if missing is not None and not missing.any():
            missing = None
        if self.kind == "time":
            return raw.astype(np.int64) * _NS[str(about["units"]).partition(" ")[0]], missing
        if self.kind == "float":
            values = raw / 10.0 ** about["decimals"] if "decimals" in about else raw
            if missing is not None:
                values = np.where(missing, np.nan, values)
            missing = np.isnan(values)
            return values, missing if missing.any() else None
        return raw, missing


def columns_of(group: Any, path: str) -> list[Column]:
    """The arrays of a group, keys first, then by name."""
    metrics = path.startswith("metrics/")
    found = []
    for name, array in group.arrays():
        about: Mapping[str, Any] = array.attrs
        units = str(about.get("units", ""))
        if units.endswith(EPOCH) and units.partition(" ")[0] in _NS:
            kind = "time"
        elif array.dtype.kind in "iub":
            kind = "float" if "decimals" in about or "scale_factor" in about else "int"
        else:
            kind = "float" if array.dtype.kind == "f" else "text"
        shown = name
        if metrics and name not in _STORED:
            shown = str(about.get("long_name") or name)
            if shown in KEYS or shown in _ENCODED:
                shown = encoded(shown, KEYS)
        found.append(Column(shown, array, tuple(array.metadata.dimension_names or ()), kind))
    order = {"step": 0, "epoch": 1, "rank": 2, "time": 3}
    return sorted(found, key=lambda c: (order.get(c.name, 9) if metrics else c.kind != "time", c.name))


def frame(columns: list[Column]) -> pd.DataFrame:
    """Columns of one dimension as a DataFrame. Times are datetime64[ns] (UTC, without a zone, as in xarray), integers
    that may be missing the nullable Int64, missing floats NaN."""
    import pandas as pd

    out: dict[str, Any] = {}
    for column in columns:
        values, missing = column.read()
        if column.kind == "time":
            times = values.astype("datetime64[ns]")
            if missing is not None:
                times[missing] = np.datetime64("NaT")
            out[column.name] = times
        elif column.kind == "int" and column.may_miss:
            mask = np.zeros(len(values), dtype=bool) if missing is None else missing
            out[column.name] = pd.arrays.IntegerArray(values.astype(np.int64), mask)
        else:
            out[column.name] = values
    return pd.DataFrame(out)
