"""Slurm prints local time: these tests are in UTC unless they say otherwise."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm_metadata.answers import Commands


@pytest.fixture
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def change(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def _utc(time_zone: Callable[[str], None]) -> None:
    time_zone("UTC")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Stand-ins for Slurm's commands: `commands(scontrol="echo 1")`. No other one is found; nor is the real one."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))

    def add(**scripts: str) -> Path:
        for name, script in scripts.items():
            path = directory / name
            path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return directory

    return add
