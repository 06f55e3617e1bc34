"""What the metrics had come to at the end of each epoch. Pure."""

from __future__ import annotations

import math

import numpy as np

from yprovd.stitch.document import json_text
from yprovd.stitch.record import MetricTable, Process

#: An epoch of the document says so many; the series hold all.
MOST_METRICS = 10


def final_metrics(table: MetricTable, processes: list[Process]) -> dict[tuple[str | None, int], str]:
    """{(context, epoch): JSON `{"loss": 0.25}`}: for each metric the last value that the lowest of the ranks that
    logged it gave in the epoch, to seven digits (the series hold them all), the names in order, at most `MOST_METRICS`;
    NaN and infinity as text."""
    of_epochs = np.array([epoch is not None for _name, _context, epoch in table.keys], dtype=bool)
    rows = np.flatnonzero(of_epochs[table.key]) if len(of_epochs) else np.zeros(0, dtype=np.int64)
    if not len(rows):
        return {}
    ranks = np.array([np.iinfo(np.int64).max if p.rank is None else p.rank for p in processes], dtype=np.int64)
    key, rank = table.key[rows], ranks[table.process[rows]]
    lowest = np.full(len(table.keys), np.iinfo(np.int64).max)
    np.minimum.at(lowest, key, rank)
    chosen = rank == lowest[key]
    rows, key = rows[chosen], key[chosen]
    order = np.lexsort((table.wall_ns[rows], key))
    last = order[np.flatnonzero(np.append(key[order][1:] != key[order][:-1], True))]
    out: dict[tuple[str | None, int], dict[str, float | str]] = {}
    for row, k in zip(rows[last].tolist(), key[last].tolist(), strict=True):
        name, context, epoch = table.keys[k]
        if epoch is not None:
            value = float(table.value[row])
            out.setdefault((context, epoch), {})[name] = float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return {where: json_text(dict(sorted(values.items())[:MOST_METRICS])) for where, values in out.items()}
