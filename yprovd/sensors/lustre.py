"""Lustre file systems, as this node's client sees them: what programs read and wrote, from the cache or not.

Source: llite/<file system>-<instance>/stats below /proc/fs/lustre (before 2.12) or /sys/kernel/debug/lustre (since;
the kernel lets only root into it). Lines are `read_bytes 25673 samples [bytes] <least> <most> <sum>` and
`open 9 samples [regs]`; what never happened has no line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising

_PLACES = ("proc/fs/lustre/llite", "sys/kernel/debug/lustre/llite")

#: Line, its column (0: the name), metric, unit, text.
_COLUMNS = (
    (b"read_bytes", 6, "system.filesystem.io.read", "By", "Bytes that programs read"),
    (b"write_bytes", 6, "system.filesystem.io.write", "By", "Bytes that programs wrote"),
    (b"open", 1, "system.filesystem.opens", "{file}", "Files opened"),
)

_HINT = ("the reads and writes of the job's own processes are recorded all the same: "
         "process.io.read and process.io.write")


class LustreSensor:
    """One device (`lustre`, name of the file system) per mount. One that is unmounted is NaN. Whoever used the
    node is counted, other jobs' programs too."""

    name = "lustre"

    def __init__(self, where: Surroundings) -> None:
        self._mounts: list[tuple[KeptFile, dict[bytes, tuple[int, int]], list[Rising]]] = []
        metrics: list[Metric] = []
        refused: OSError | None = None
        for place in _PLACES:
            base = os.path.join(where.root, place)
            try:
                names = sorted(os.listdir(base))
            except OSError as e:
                refused = e if isinstance(e, PermissionError) else refused
                continue
            systems = [_system(name) for name in names]
            for name, system in zip(names, systems, strict=True):
                file = KeptFile(os.path.join(base, name, "stats"), 16384)
                try:
                    file.read()
                except OSError as e:
                    file.close()
                    refused = e if isinstance(e, PermissionError) else refused
                    continue
                id = system if systems.count(system) == 1 else name
                lines = {line: (i, column) for i, (line, column, *_) in enumerate(_COLUMNS)}
                self._mounts.append((file, lines, [Rising() for _ in _COLUMNS]))
                metrics += (Metric(metric, unit, "counter", text, 1.0, Device("lustre", id))
                            for _, _, metric, unit, text in _COLUMNS)
            if metrics:
                break
        if not metrics:
            raise _absence(where.root, refused)
        self.metrics = tuple(metrics)

    def read(self) -> Sequence[float]:
        values: list[float] = []
        for file, lines, counters in self._mounts:
            values += _values(file, lines, counters)
        return values

    def close(self) -> None:
        for file, *_ in self._mounts:
            file.close()


def _values(file: KeptFile, lines: dict[bytes, tuple[int, int]], counters: list[Rising]) -> list[float]:
    raw = [0] * len(counters)  # no line: it never happened, or an administrator cleared the counters
    try:
        for line in file.read_all().splitlines():
            words = line.split(None, 7)
            if words and (at := lines.get(words[0])):
                raw[at[0]] = int(words[at[1]])
    except (OSError, ValueError, IndexError):
        return [math.nan] * len(counters)
    return [float(counter(value)) for counter, value in zip(counters, raw, strict=True)]


def _system(name: str) -> str:
    """`scratch-ffff9d3a4c2f8000` is the mount of `scratch`: the number is of this mount only."""
    return name.rpartition("-")[0] or name


def _absence(root: str, refused: OSError | None) -> SensorUnavailable:
    if not _mounted(root):
        return SensorUnavailable("no Lustre file system is mounted")
    if refused is not None:
        return SensorUnavailable(f"{refused.filename} may be read by root only, as everywhere since Lustre 2.12",
                                 hint=_HINT)
    return SensorUnavailable("Lustre is mounted, but its counters are neither in /proc nor in debugfs", hint=_HINT)


def _mounted(root: str) -> bool:
    try:
        with open(os.path.join(root, "proc/self/mounts"), "rb") as f:
            return any(line.split()[2:3] == [b"lustre"] for line in f)
    except OSError:
        return os.path.isdir(os.path.join(root, "sys/fs/lustre/llite"))
