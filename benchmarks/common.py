"""What the measurements share: a row of the table, spreads, clean environments, a run of `yprov run`, CPU time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INSIDE = Path(__file__).resolve().parent / "inside"
YPROV = [str(Path(sys.executable).with_name("yprov"))]
#: What the environment of the caller must not change in what is measured.
_NOT_MEASURED = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH", "PYTHONWARNINGS", "PYTHONDEVMODE")


@dataclass
class Peer:
    """One line beside ours: what it is, what it gave, and how many times ours that is, in this run."""

    name: str
    text: str
    ratio: str = ""


@dataclass
class Row:
    """One figure. `met` is None where there is no bar. `raw`: the numbers behind the text, for --json."""

    figure: str
    ours: str
    bar: str = ""
    met: bool | None = None
    peers: list[Peer] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass
class Spread:
    """Repeats of one measurement."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else math.nan

    def text(self, unit: str, scale: float = 1.0, digits: int = 2) -> str:
        """`median [min..max] unit`, just the value when there is one."""
        if not self.values:
            return "nothing measured"
        scaled = [v * scale for v in self.values]
        spread = f" [{min(scaled):,.{digits}f}..{max(scaled):,.{digits}f}]" if len(scaled) > 1 else ""
        return f"{statistics.median(scaled):,.{digits}f}{spread} {unit}".rstrip()


def interval(ratios: list[float]) -> tuple[float, float]:
    """Where the median of such ratios lies with 90 % confidence (bootstrap)."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[100], medians[1899]


def times(theirs: float, ours: float) -> str:
    """The peer's figure over ours, to two digits."""
    if not (math.isfinite(theirs) and math.isfinite(ours)) or ours <= 0:
        return ""
    return f"{theirs / ours:,.0f}x" if theirs >= 10 * ours else f"{theirs / ours:.2g}x"


def environ(**extra: str) -> dict[str, str]:
    """Ours, without the settings that change what is measured, and without any run that we are in ourselves."""
    kept = {k: v for k, v in os.environ.items() if k not in _NOT_MEASURED and not k.startswith("YPROV_")}
    return {**kept, **extra}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="yprov-bench-") as name:
        yield Path(name)


def call(
    argv: Sequence[str | Path], cwd: Path, timeout_s: float = 600.0, *, core: int | None = None, **extra: str
) -> str:
    """Run a program to its end, it and all it starts on one `core` if given; what it printed. Raises RuntimeError with
    its last words when it fails."""
    pin = None if core is None else lambda: os.sched_setaffinity(0, {core})
    done = subprocess.run([str(a) for a in argv], cwd=cwd, env=environ(**extra), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout_s, check=False, preexec_fn=pin)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{Path(str(argv[0])).name} ended with {done.returncode}: {words[-1] if words else ''}")
    return done.stdout


def under_yprov(options: Sequence[str], command: Sequence[str | Path]) -> list[str]:
    return [*YPROV, "run", "-q", *options, "--", *map(str, command)]


def only_run(cwd: Path) -> Path:
    """The directory of the one run that was made below `cwd`."""
    (run_dir,) = (cwd / "yprov-runs").iterdir()
    return run_dir


def record_of(run_dir: Path) -> Any:
    """What the kept spool of a run says (`yprovd.stitch.record.Record`)."""
    from yprovd.stitch.reading import read_record

    return read_record(sorted((run_dir / "spool").glob("*.spool")))


@contextlib.contextmanager
def started(argv: Sequence[str], cwd: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is asked to end, and waited for, when the block ends."""
    with open(cwd / "output", "ab") as output:
        process = subprocess.Popen(argv, cwd=cwd, env=environ(**extra), stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(90)


def children(pid: int) -> dict[int, str]:
    """The processes whose parent is `pid`, with their command lines."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path("/proc", entry, "stat").read_bytes()
                if int(stat[stat.rfind(b")") + 2:].split()[1]) == pid:
                    words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
                    found[int(entry)] = b" ".join(words).decode(errors="replace").strip()
    return found


def cpu_ns(pid: int) -> int:
    """CPU time of all threads, in ns: the scheduler's own account, else the coarse one of /proc/<pid>/stat."""
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat[stat.rfind(b")") + 2:].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> tuple[int, int]:
    """(resident, proportional) bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return resident, int(rollup.split("Pss:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resident, 0


def wait_for(path: Path, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path.name} did not appear in {timeout_s:.0f} s")
        time.sleep(0.01)


def last_json(text: str) -> Any:
    """The last line of a program's output that is JSON: some peers print, too."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError("the program printed no result")
