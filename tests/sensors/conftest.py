"""A host is a directory: the committed tree of a plain one, of which each test edits its own copy between
reads."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yprovd.sensors import Surroundings

PLAIN = Path(__file__).parents[1] / "fixtures/hosts/plain"


class Host:
    """A copy of the plain host. Files are written in place, so that descriptors that are open see what is
    new."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def where(self, **environ: str) -> Surroundings:
        return Surroundings(str(self.root), "fixture", environ)

    def write(self, path: str, text: str | bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def remove(self, path: str) -> None:
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink()


class Clock:
    """Seconds, moved by the test; `step` is what every look at it takes."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Its files go away as the kernel's do: a descriptor of a removed one says ENODEV (sysfs), and not the
    old text."""
    pread = os.pread

    def kernel_pread(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_nlink == 0:
            raise OSError(errno.ENODEV, "No such device")
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", kernel_pread)
    shutil.copytree(PLAIN, tmp_path / "host")
    return Host(tmp_path / "host")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Files whose path ends so may not be opened. A mode would not stop root, who runs these tests in CI."""
    forbidden: list[str] = []
    os_open = os.open

    def guarded(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(tuple(forbidden)):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return os_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded)
    return forbidden.append


@pytest.fixture
def value() -> Callable[..., float]:
    """`value(sensor, values, name, device_id)`: one number of a reading."""

    def pick(sensor: Any, values: Any, name: str, device: str | None = None) -> float:
        found = [v for m, v in zip(sensor.metrics, values, strict=True)
                 if m.name == name and (m.device.id if m.device else None) == device]
        assert len(found) == 1, (name, device, found)
        return float(found[0])

    return pick


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Closes what a test opened."""
    sensors: list[Any] = []

    def keep(sensor: Any) -> Any:
        sensors.append(sensor)
        return sensor

    yield keep
    for sensor in sensors:
        sensor.close()
