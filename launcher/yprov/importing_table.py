"""The values of one rank, in the order in which they were logged, as the rows of METRICS frames (`yprovd.wire`).

All of them are in memory together: 24 bytes for each, and some 100 while they are put in order (measured: 2 million in
one CSV file of 70 MB take 200 MB)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from yprov.imported import Columns, Notes, Rank
from yprovd.wire import NO_STEP

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Rows of one frame, as the client has them.
ROWS = 8192


class Table:
    """All values of one rank, to be written in the order in which they were logged."""

    def __init__(self, rank: Rank, notes: Notes, progress: Callable[[str], None]) -> None:
        self._keys: list[tuple[str, str | None]] = []
        self._columns: list[Columns] = []
        self._since: list[int] = []
        self._rank = rank
        for i, series in enumerate(rank.series):
            if i % 100 == 0:
                progress(f"reading rank {rank.rank}: {i} of {len(rank.series)} metrics")
            columns = series.read(notes)
            if len(columns.value):
                self._keys.append((series.name, series.context))
                self._columns.append(columns)
                self._since.append(series.since_ns)

    def known_times(self) -> dict[str, tuple[int, int]]:
        """Context (`""` for the run) -> the first and the last time of what was logged in it, within the run."""
        out: dict[str, tuple[int, int]] = {}
        low, high = self._rank.begin_ns, self._rank.end_ns

        def seen(context: str | None, *times: int) -> None:
            for t in times:
                if t and (not low or t >= low - 10**9) and (not high or t <= high + 10**9):
                    a, b = out.get(context or "", (t, t))
                    out[context or ""] = min(a, t), max(b, t)

        for (_name, context), columns, since in zip(self._keys, self._columns, self._since, strict=True):
            known = columns.time_ns[columns.time_ns > 0]
            seen(context, since, *((int(known.min()), int(known.max())) if len(known) else ()))
        for file in self._rank.files:
            seen(file.context, file.time_ns)
        return out

    def rows(self) -> Iterator[list[tuple[int, str, float, int | None, str | None, int | None]]]:
        """Rows of METRICS frames. By time; of what has one time, or none, the first value of each metric at a step
        comes before the second ones, so that values of one moment share a row of the archive."""
        import numpy as np

        if not self._columns:
            return
        sizes = [len(c.value) for c in self._columns]
        metric = np.repeat(np.arange(len(sizes)), sizes)
        step, value, time = (np.concatenate(parts) for parts in zip(*self._columns, strict=True))
        self._columns.clear()  # they are written once
        order = np.lexsort((metric, _occurrence(metric, step), time))
        since = np.array(self._since, dtype=np.int64)[metric]
        time = np.where(time > 0, time, np.where(since > 0, since, self._rank.begin_ns))
        for start in range(0, len(order), ROWS):
            part = order[start:start + ROWS]
            names = [self._keys[m] for m in metric[part].tolist()]
            yield [
                (t, name, v, None if s == NO_STEP else s, context, None)
                for t, (name, context), v, s in zip(time[part].tolist(), names, value[part].tolist(),
                                                    step[part].tolist(), strict=True)
            ]


def _occurrence(metric: npt.NDArray[np.int64], step: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The how-manieth value of its metric at its step each one is."""
    import numpy as np

    order = np.lexsort((step, metric))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(metric[order]) != 0) | (np.diff(step[order]) != 0)
    starts = np.flatnonzero(new)
    within = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    out = np.empty(len(order), dtype=np.int64)
    out[order] = within
    return out
