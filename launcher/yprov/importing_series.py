"""The values of one metric from what yProv4ML left: lists in the document (1.x), or a file of its own per metric,
context and rank.

    csv   `epoch,value,timestep` (3.x) or `<name>,<context>,<source>` (1.x, 2.x) in the first line, any separator
    nc    NetCDF-4: `epochs` i4, `values` f4, `timestamps` i8 along `time`
    zarr  a group with arrays of these names and types

`epoch` is what the script gave as `step`; a time is in milliseconds since 1970, and 0 where the release recorded none
(3.2.4). A value of f4 stays the double nearest to it that the file holds. Of a CSV file's text one block at a time is
in memory, of the numbers those of one rank (`yprov.importing_table`). A binary file that claims to hold more than its
bytes can is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yprov.imported import Columns, Notes
from yprov.importing_paths import weight
from yprov.importing_values import EARLIEST_NS, LATEST_NS, number
from yprovd.wire import NO_STEP

if TYPE_CHECKING:
    import numpy.typing as npt

#: Characters of a CSV file that are read at once.
_BLOCK = 1 << 20
#: Values that an array may hold: so many, and so many for each byte of the file. Compressed steps and times take a
#: tenth of a byte or more; what was never written, zeros, may take none at all.
_ALWAYS, _DENSEST = 1 << 20, 1000
_SEPARATORS = (",", "\t", ";", "|", " ")
_CALL = re.compile(r"[A-Za-z_][\w.]*\(")
#: What NetCDF holds where nothing was written (`NC_FILL_FLOAT`).
_NC_FILL = 9.969209968386869e36
_MS = 1_000_000


def read_file(path: Path, label: str, notes: Notes) -> Columns:
    """What is in a metric's file, by the ending of its name. What cannot be read is a note."""
    read = {".csv": _csv, ".nc": _netcdf, ".zarr": _zarr}.get(path.suffix)
    try:
        if read is None:
            raise ValueError(f"`{path.suffix}` is no kind of file that yProv4ML writes")
        return read(path, weight(path), label, notes)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, ImportError,
            ArithmeticError, MemoryError) as e:
        # h5py and zarr raise many kinds for a damaged file
        notes.say(f"the metric {label} could not be read: {path.name}: {_reason(e)}")
        return from_rows((), (), (), label, notes)


def _reason(e: Exception) -> str:
    text = (getattr(e, "strerror", None) or str(e) or type(e).__name__).strip()
    return text.splitlines()[0] if text else type(e).__name__


def read_lists(steps: Any, values: Any, times: Any, label: str, notes: Notes) -> Columns:
    """The three texts of a metric in a document of 1.x: `[0, 1]`, `[np.float64(0.9), nan]`, `[1760000000020, ...]`."""
    return from_rows(_items(steps), _items(values), _items(times), label, notes)


def _items(text: Any) -> list[str]:
    inner = str(text or "").strip().strip("[]")
    if "(" in inner:
        inner = _CALL.sub("", inner).replace(")", "")
    return [item.strip(" '\"") for item in inner.split(",")] if inner.strip() else []


def _csv(path: Path, _size: int, label: str, notes: Notes) -> Columns:
    import numpy as np

    parts = [from_rows((), (), (), label, notes)]
    broken = 0
    with open(path, encoding="utf-8", errors="replace") as f:
        header = f.readline()
        separator = next((s for s in _SEPARATORS if header.count(s) >= 2), ",")
        while lines := f.readlines(_BLOCK):
            rows, wrong = _rows(lines, separator)
            broken += wrong
            parts.append(from_rows(*rows, label, notes))
    notes.count("lines of metric files were no rows of three and are left out", label, broken)
    return Columns(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _rows(lines: list[str], separator: str) -> tuple[tuple[list[str], list[str], list[str]], int]:
    """Steps, values and times, and how many lines were none of them; empty ones do not count."""
    steps: list[str] = []
    values: list[str] = []
    times: list[str] = []
    broken = 0
    for line in lines:
        line = line.rstrip("\r\n")
        if not line:
            continue
        step, _, rest = line.partition(separator)
        value, found, at = rest.rpartition(separator)  # a value may hold the separator: `[1, 2]`
        if not found:
            broken += 1
            continue
        steps.append(step)
        values.append(value)
        times.append(at)
    return (steps, values, times), broken


def _netcdf(path: Path, size: int, label: str, notes: Notes) -> Columns:
    import h5netcdf
    import numpy as np

    with h5netcdf.File(path, "r") as file:
        steps, values, times = _arrays(file, size)
    values = values.astype(np.float64)
    values[values == _NC_FILL] = np.nan
    return _columns(steps, values, times, label, notes)


def _zarr(path: Path, size: int, label: str, notes: Notes) -> Columns:
    import zarr

    steps, values, times = _arrays(zarr.open_group(path, mode="r"), size)
    return _columns(steps, values, times, label, notes)


def _arrays(group: Any, size: int) -> list[npt.NDArray[Any]]:
    """The three arrays of a file of `size` bytes, once their heads are such as it may have."""
    import numpy as np

    found = [group[name] for name in ("epochs", "values", "timestamps")]
    for it in found:
        if len(it.shape) != 1 or it.dtype.kind not in "iuf":
            raise ValueError(f"`{it.name}` is no list of numbers")
        claimed = max(*it.shape, *(it.chunks or ()))  # a chunk is unpacked whole
        if claimed > _ALWAYS + _DENSEST * size:
            raise ValueError(f"it has {size} bytes and claims {claimed} values")
    return [np.asarray(it[...]) for it in found]


def attributes_of(path: Path) -> tuple[str, str, str] | None:
    """(name, context, source) that a metric's file says itself, for a rank that left no document; a CSV of 3.x does
    not."""
    try:
        weight(path)
        if path.suffix == ".csv":
            with open(path, encoding="utf-8", errors="replace") as f:
                parts = re.split(r"[,\t;|]", f.readline().rstrip("\r\n"))
            told = tuple(parts) if len(parts) == 3 and parts != ["epoch", "value", "timestep"] else None
        elif path.suffix == ".nc":
            import h5netcdf

            with h5netcdf.File(path, "r") as file:
                told = tuple(str(file.attrs[f"_{name}"]) for name in ("name", "context", "source"))
        else:
            import zarr

            group = zarr.open_group(path, mode="r")
            told = tuple(str(group.attrs[name]) for name in ("name", "context", "source"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, MemoryError):
        return None
    return told if told is None else (told[0], told[1], told[2])


def from_rows(
    steps: Iterable[str], values: Iterable[str], times: Iterable[str], label: str, notes: Notes
) -> Columns:
    """Texts as columns; what is no number is NaN, no step or no time, and counted."""
    import numpy as np

    listed = [list(steps), list(values), list(times)]
    try:
        numbers = np.array(listed[1], dtype=np.float64)  # the plain case at once
    except ValueError:
        found = [number(text) for text in listed[1]]
        absent = sum(text.strip() in ("", "None", "null") for text in listed[1])
        notes.count("values were logged as none and are stored as NaN", label, absent)
        notes.count("values are no numbers and are stored as NaN", label, sum(v is None for v in found))
        numbers = np.array([np.nan if v is None else v for v in found], dtype=np.float64)
    return _columns(_integers(listed[0], label, notes), numbers, _integers(listed[2], label, notes), label, notes)


def _integers(texts: list[str], label: str, notes: Notes) -> npt.NDArray[Any]:
    """Whole numbers, also `3.0`; what is none is `NO_STEP`."""
    import numpy as np

    try:
        return np.array(texts, dtype=np.int64)
    except (ValueError, OverflowError):
        found = [_whole(text) for text in texts]
    notes.count("steps or times are no whole numbers and are left out", label, found.count(None))
    return np.array([NO_STEP if n is None else n for n in found], dtype=np.int64)


def _whole(text: str) -> int | None:
    """What a text says of a whole number within 64 bits; None for anything else."""
    try:
        n = int(text)
    except ValueError:
        value = number(text)
        if value is None or not math.isfinite(value) or value != int(value):
            return None
        n = int(value)
    return n if -2**63 <= n < 2**63 else None


def _columns(
    steps: npt.NDArray[Any], values: npt.NDArray[Any], times: npt.NDArray[Any], label: str, notes: Notes
) -> Columns:
    import numpy as np

    n = min(len(steps), len(values), len(times))
    notes.count("rows of metrics lack their step, value or time and are left out", label,
                max(len(steps), len(values), len(times)) - n)
    ms = times[:n].astype(np.int64)
    known = (ms > EARLIEST_NS // _MS) & (ms < LATEST_NS // _MS)
    notes.count("values have no time of their own", label, int(n - known.sum()))
    return Columns(steps[:n].astype(np.int64), values[:n].astype(np.float64), np.where(known, ms, 0) * _MS)
