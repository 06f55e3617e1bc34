"""The groups of series.zarr as tables, in CSV or Parquet: one row for each device (or node) and tick.

    host.csv gpu.csv ...       time, device and what else names the row, then a column for each metric
    metrics/training.csv       step, epoch, rank, time, a column for each metric by its own name
    spans.csv nodes.csv ...    as in the store
    devices.csv                what a device is (attributes as JSON), which no row of the others repeats
    columns.csv                unit and meaning of each column (in Parquet, the metadata of its field)

Values are exactly those of the store: a missing one (also NaN) is an empty field or null, a time is UTC to the
nanosecond, in CSV as `2026-01-01 00:00:00.000000000Z`. Rows are sorted by device and then by time, tables as they are.
A large group is read in parts of `PART` bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from yprov.reading import RecordedRun
from yprov.reading_columns import Column, columns_of

#: Bytes of values that are in memory at once: a day of ten devices with eight metrics.
PART = 64 << 20
#: What tells of a device is in the table of devices.
_OF_DEVICES = "device_attributes"
#: What columns.csv is called, and its own columns.
_COLUMNS, _ABOUT = "columns.csv", ("table", "column", "units", "long_name")
_DEVICES = pa.schema([("group", pa.string()), ("node", pa.int32()), ("device", pa.string()),
                      ("device_name", pa.string()), (_OF_DEVICES, pa.string())])
_NAMES = ("device", "hostname", "device_name", "node")
_TYPES = {"time": pa.timestamp("ns", "UTC"), "text": pa.string()}


def write_tables(
    run: RecordedRun, groups: Sequence[str], suffix: str, folder: Path, progress: Callable[[str], None]
) -> None:
    """A table for each group into the new folder."""
    folder.mkdir()
    about: list[dict[str, str]] = []
    for group in groups:
        path = folder / f"{group}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        for column in write_table(run, group, suffix, path, progress):
            more = column.attributes
            about.append({"table": group, "column": column.name, "units": str(more.get("units") or ""),
                          "long_name": str(more.get("long_name") or "")})
    devices = _devices(run, groups)
    if devices is not None:
        _write(folder / f"devices.{suffix}", suffix, devices.schema, [devices])
    if suffix == "csv":
        for row in about:
            if "since 1970" in row["units"]:
                row["units"] = "UTC"
        table = pa.Table.from_pylist(about, pa.schema([(k, pa.string()) for k in _ABOUT]))
        _write(folder / _COLUMNS, suffix, table.schema, [table])


def not_ours(folder: Path, suffix: str) -> Path | None:
    """A file of `folder` that `write_tables` has not written, or None: a table of ours is named in columns.csv, and in
    Parquet says itself of which run and group it is."""
    ours = {folder / f"{table}.csv" for table in _listed(folder / _COLUMNS)} if suffix == "csv" else set()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path in ours or (suffix == "parquet" and _is_our_parquet(path))):
            return path
    return None


def _listed(path: Path) -> set[str]:
    """The tables in a columns.csv of ours, with those that it does not list."""
    try:
        with open(path, encoding="utf-8", newline="") as f:
            rows = csv.DictReader(f)
            if rows.fieldnames != list(_ABOUT):
                return set()
            return {row["table"] for row in rows} | {"columns", "devices"}
    except (OSError, ValueError, csv.Error):
        return set()


def _is_our_parquet(path: Path) -> bool:
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pa.ArrowException):
        return False
    about = schema.metadata or {}
    return path.suffix == ".parquet" and ((b"group" in about and b"run" in about) or schema.names == _DEVICES.names)


def write_table(
    run: RecordedRun, group: str, suffix: str, path: Path, progress: Callable[[str], None]
) -> list[Column]:
    """One group into one file; the columns that it has."""
    columns = [c for c in columns_of(run.root[group], group) if c.name != _OF_DEVICES]
    wide = [c for c in columns if len(c.dims) == 2]
    if wide:
        columns.sort(key=lambda c: (c.name != "time", _NAMES.index(c.name) if c.name in _NAMES else 9, c.name))
    schema = pa.schema([_field(c) for c in columns], {"group": group, "run": run.id, "name": run.name})
    progress(f"writing {group}")
    _write(path, suffix, schema, _parts(columns, wide, schema, group, progress))
    return columns


def _field(column: Column) -> pa.Field:
    kind = _TYPES.get(column.kind) or (pa.float64() if "decimals" in column.attributes
                                       else pa.from_numpy_dtype(column.array.dtype))
    about = column.attributes
    told = {k: str(about[k]) for k in ("units", "long_name", "metric") if k in about and column.kind != "time"}
    return pa.field(column.name, kind, metadata=told or None)


def _write(path: Path, suffix: str, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    if suffix == "csv":
        with pyarrow.csv.CSVWriter(path, schema) as out:
            for part in parts:
                out.write_table(part)
    else:
        with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as out:
            for part in parts:
                out.write_table(part)


def _parts(
    columns: list[Column], wide: list[Column], schema: pa.Schema, group: str, progress: Callable[[str], None]
) -> Iterator[pa.Table]:
    if not wide:
        rows = max((c.array.shape[0] for c in columns if c.dims), default=0)
        step = max(1, PART // (8 * max(1, len(columns))))
        for begin in range(0, rows, step):
            part = slice(begin, min(begin + step, rows))
            yield pa.Table.from_arrays([_arrow(c, *c.read(part)) for c in columns], schema=schema)
        return
    (dim, time), (devices, slots) = wide[0].dims, wide[0].array.shape
    ticks = max(1, PART // (8 * len(columns)))
    height = max(1, ticks // max(1, slots))
    for first in range(0, devices, height):
        progress(f"writing {group}, {first} of {devices} rows of devices")
        for begin in range(0, slots, ticks):
            where = {dim: slice(first, min(first + height, devices)), time: slice(begin, min(begin + ticks, slots))}
            yield pa.Table.from_arrays([_spread(c, where, dim, time) for c in columns], schema=schema)


def _spread(column: Column, where: dict[str, slice], dim: str, time: str) -> pa.Array:
    """A column for each cell of a part of the grid: what depends on one dimension only is repeated."""
    part = _arrow(column, *column.read(*(where[d] for d in column.dims)))
    height, width = (where[d].stop - where[d].start for d in (dim, time))
    if column.dims == (dim,):
        return part.take(pa.array(np.repeat(np.arange(height), width)))
    if column.dims == (time,):
        return part.take(pa.array(np.tile(np.arange(width), height)))
    return part


def _arrow(column: Column, values: Any, missing: Any) -> pa.Array:
    flat = values.reshape(-1)
    mask = None if missing is None else missing.reshape(-1)
    return pa.array(flat, _TYPES.get(column.kind), mask=mask)


def _devices(run: RecordedRun, groups: Sequence[str]) -> pa.Table | None:
    found: list[dict[str, Any]] = []
    for group in groups:
        columns = {c.name: c for c in columns_of(run.root[group], group)}
        if "device_name" in columns:
            parts = [columns[name].read()[0].tolist() if name in columns else None
                     for name in ("node", "device", "device_name", _OF_DEVICES)]
            count = len(parts[1] or [])
            found += [{"group": group, "node": row[0], "device": row[1], "device_name": row[2], _OF_DEVICES: row[3]}
                      for row in zip(*(p if p is not None else [None] * count for p in parts), strict=True)]
    if not found:
        return None
    return pa.Table.from_pylist(found, _DEVICES)
