"""The node's disks. Source: /proc/diskstats (kernel documentation, admin-guide/iostats): sectors of 512 bytes
whatever the disk's own sector size is, and milliseconds."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising, read_word

_SECTOR = 512.0

#: Not disks: files, memory, removable media.
_SKIP = ("loop", "ram", "zram", "sr", "fd")

#: Name, unit, description, resolution, column of /proc/diskstats, size of one count.
_COLUMNS = (
    ("system.disk.io.read", "By", "Bytes read", 512.0, 5, _SECTOR),
    ("system.disk.io.write", "By", "Bytes written", 512.0, 9, _SECTOR),
    ("system.disk.operations.read", "{operation}", "Reads completed", 1.0, 3, 1.0),
    ("system.disk.operations.write", "{operation}", "Writes completed", 1.0, 7, 1.0),
    ("system.disk.io_time", "s", "Time in which the disk had something to do", 0.001, 12, 0.001),
)


class DiskSensor:
    """One device (`disk`, kernel name) per whole disk that is there at the start. One that vanishes is
    NaN."""

    name = "disk"

    def __init__(self, where: Surroundings) -> None:
        self._file = KeptFile(os.path.join(where.root, "proc/diskstats"), 16384)
        try:
            names = [line.split(None, 3)[2] for line in self._file.read_all().splitlines()]
        except (OSError, IndexError) as e:
            self.close()
            raise SensorUnavailable(f"{self._file.path} cannot be read: {e}") from e
        block = os.path.join(where.root, "sys/block")
        names = [name for name in names if _is_whole_disk(block, name.decode())]
        if not names:
            self.close()
            raise SensorUnavailable(f"no disk in {self._file.path} (a diskless node?)")
        self._at = {name: i * len(_COLUMNS) for i, name in enumerate(names)}
        self._counters = [Rising() for _ in names for _ in _COLUMNS]
        self.metrics = tuple(
            Metric(metric, unit, "counter", text, resolution, Device("disk", name.decode()))
            for name in names for metric, unit, text, resolution, _, _ in _COLUMNS
        )

    def read(self) -> Sequence[float]:
        values = [math.nan] * len(self._counters)
        for line in self._file.read_all().splitlines():
            fields = line.split(None, 13)
            at = self._at.get(fields[2])
            if at is not None:
                for i, (_, _, _, _, column, unit) in enumerate(_COLUMNS, at):
                    values[i] = self._counters[i](int(fields[column])) * unit
        return values

    def close(self) -> None:
        self._file.close()


def _is_whole_disk(block: str, name: str) -> bool:
    """A partition has no directory in /sys/block. A volume made of other disks (LVM, RAID) and a hidden path
    of a multipath disk are passed over: their bytes are counted by the disks below or above them."""
    path = os.path.join(block, name.replace("/", "!"))
    if name.startswith(_SKIP) or not os.path.isdir(path) or read_word(os.path.join(path, "hidden")) == "1":
        return False
    try:
        return not os.listdir(os.path.join(path, "slaves"))
    except OSError:
        return True
