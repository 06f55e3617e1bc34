"""How the tests run `yprov`, as a user would: a process, its output, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

YPROV = [sys.executable, "-m", "yprov.cli"]


def environment(**changes: str) -> dict[str, str]:
    """Ours, without any YPROV_ variable, so that a test suite under `yprov run` tests the same."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("YPROV_")}
    return {**environ, **changes}


def yprov(*args: str, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    kwargs.setdefault("env", environment())
    kwargs.setdefault("timeout", 60)
    if "stdout" not in kwargs:
        kwargs["capture_output"] = True
    return subprocess.run([*YPROV, *args], cwd=cwd, text=True, check=False, **kwargs)


def start(*args: str, cwd: Path, **kwargs: Any) -> subprocess.Popen[str]:
    """`yprov ...` in the background, its output in pipes."""
    kwargs.setdefault("env", environment())
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("stderr", subprocess.PIPE)
    return subprocess.Popen([*YPROV, *args], cwd=cwd, text=True, **kwargs)


def eventually(condition: Callable[[], Any], timeout: float = 20.0, what: str = "") -> Any:
    """Wait until the condition gives something true; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(0.01)


def only_run(cwd: Path) -> Path:
    """The one run below cwd/yprov-runs."""
    runs = [p for p in (cwd / "yprov-runs").iterdir() if (p / "run.json").exists()]
    assert len(runs) == 1, runs
    return runs[0]


def document(run_dir: Path) -> dict[str, Any]:
    """prov.json with local ids: `run`, `series/host/memory_usage`..."""
    doc: dict[str, Any] = json.loads((run_dir / "prov.json").read_text())
    return {kind: {i.removeprefix("run:"): r for i, r in records.items()} for kind, records in doc.items()}


def attribute(record: dict[str, Any], name: str) -> Any:
    """An attribute of a PROV-JSON record by its local name, as a plain value."""
    from yprov.runs import value_of

    for key, value in record.items():
        if key.rpartition(":")[2] == name:
            return value_of(value)
    return None


def state(run_dir: Path) -> str:
    return str(attribute(document(run_dir)["activity"]["run"], "state"))


def processes_about(text: str) -> list[int]:
    """Processes whose command line or environment holds `text` (not ourselves)."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_bytes()
            about = Path("/proc", entry, "cmdline").read_bytes() + Path("/proc", entry, "environ").read_bytes()
        except OSError:
            continue
        if stat[stat.rfind(b")") + 2:][:1] != b"Z" and text.encode() in about:
            found.append(int(entry))
    return found


def nothing_left(run_dir: Path, timeout: float = 20.0) -> None:
    """No daemon, no socket, no temporary directory of this run."""
    config = json.loads((run_dir / "run.json").read_text())
    eventually(lambda: not processes_about(str(run_dir)), timeout, f"processes of {run_dir} end")
    eventually(lambda: not os.path.exists(config["runtime_dir"]), timeout, "the runtime directory goes")


def run_lines(script: str) -> Sequence[str]:
    """A Python program as a command."""
    return [sys.executable, "-c", script]
