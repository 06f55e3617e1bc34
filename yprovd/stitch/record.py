"""What a spool says, as one record (`yprovd.stitch.reading` reads it), and what its frames hold.

The JSON objects of the frames (`t` is a monotonic time in ns of the frame's source, everything else is optional
unless it stands without `?`):

SOURCE  role ("node"|"process"|"launcher"|"collector"), host, boot_id, pid, start; a node: facts {...};
        a process: rank?, world_size?, local_rank?, launcher, step, cpus, devices {...}, argv, python, executable
RUN     config (`RunConfig.to_json`), started_ns, user, uid, environment {...}, code {...}, scheduler {...}, daemons
        {placed_by, fallbacks, expected, ready, dark}, previous {run_id, directory}...; several are merged
END     state, reason, exit_code?, signal?, ended_ns, rusage? {user_s, system_s, max_rss_bytes}; with by_scheduler:
        true it is what the scheduler said of the job's end, whoever asked
FILE    t, role ("input"|"output"|"dataset"|"model"|"code"), path, name, context?, epoch?, copy: a declaration;
        how: "opened" where nobody declared it; seen: true where the process itself has found it
FACTS   path, t (of the declaration), source (of the declaration, hex), size?, sha256?, modified_ns?, stored?, masked?,
        missing? (there was none), reason?
LOSS    events (calls that the source has lost so far), pushed_out (frames given up; the gap counts them), why,
        rejected? (calls that could not be recorded because of what they were), reason? (of the first of them);
        of a node's daemon: silent [source, hex...], silent_count: processes that began and were ended unheard
TASK    tasks [row, ...]: ranks of the job that began and ended on a node (see `yprovd.tasks`)
NOTE    text, t: something that happened to the run (a daemon started again)
EVENTS  {"e": "param", t, name, value, role? ("output")}; {"e": "begin", t, id, parent, kind ("context"|"epoch"|"span"),
        name, context, epoch}; {"e": "end", t, id}; {"e": "event", t, name, attributes, context, epoch};
        {"e": "exit", t, logged, dropped, rejected?}: the last one of a process that ended in order
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from yprovd.model import Schema
from yprovd.stitch.tasks import Task
from yprovd.stitch.traces import Traced

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """What one node delivered under one schema, by time. `values[tick, metric]` in base units, NaN where absent."""

    schema: Schema
    nominal_ns: I64
    wall_ns: I64
    mono_ns: I64
    values: F64


@dataclass
class Node:
    """One boot of one host. `facts`: what the daemon found at its start. `traces`: what its devices recorded by
    themselves. Sorted by host."""

    host: str
    boot_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[Samples] = field(default_factory=list)
    traces: list[Traced] = field(default_factory=list)


@dataclass
class Process:
    """One process of the job that used the client. `node` is an index into `Record.nodes`, -1 when no daemon ran.
    `dropped`: calls of it that were lost; `rejected`: that could not be recorded because of what they were, the first
    of them for `reject_reason`."""

    source: int
    host: str
    boot_id: str
    pid: int
    node: int = -1
    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    logged: int | None = None
    dropped: int = 0
    rejected: int = 0
    reject_reason: str = ""
    received: int = 0
    last_mono_ns: int = 0
    last_wall_ns: int = 0


@dataclass(frozen=True)
class Span:
    """`end_*` is None when the process never said so. `context` and `epoch` are those inside of the span."""

    process: int
    id: int
    parent: int
    kind: str
    name: str
    context: str | None
    epoch: int | None
    begin_mono_ns: int
    begin_wall_ns: int
    end_mono_ns: int | None
    end_wall_ns: int | None


@dataclass(frozen=True)
class Param:
    """`role`: "input", what was set, or "output", what came out."""

    name: str
    value: Any
    process: int
    wall_ns: int
    role: str = "input"


@dataclass(frozen=True)
class PointEvent:
    name: str
    attributes: dict[str, Any]
    context: str | None
    epoch: int | None
    process: int
    wall_ns: int


@dataclass(frozen=True)
class DeclaredFile:
    """A file that the run used or made. `process` is -1 for those named on the command line. Without a checksum,
    `reason` says why. `how`: "opened" where nobody declared it, and it was seen open. `masked`: its copy is.
    `missing`: it was declared, and was not there. `changed_after_ns`: so long after it was declared it was changed, and
    what is known of it is of then; 0 where it was not."""

    role: str
    path: str
    name: str
    context: str | None
    epoch: int | None
    process: int
    wall_ns: int
    size: int | None = None
    sha256: str | None = None
    modified_ns: int | None = None
    stored: str | None = None
    reason: str = ""
    how: str = ""
    masked: bool = False
    missing: bool = False
    changed_after_ns: int = 0


@dataclass(frozen=True)
class MetricTable:
    """All calls of `log_metric`, in columns of one length; `keys[key[i]]` is (name, context, epoch) of row i.
    `step` is `wire.NO_STEP` where none was given. `process` indexes `Record.processes`."""

    keys: list[tuple[str, str | None, int | None]]
    key: npt.NDArray[np.int64]
    wall_ns: I64
    step: I64
    value: F64
    process: npt.NDArray[np.int64]


@dataclass
class Record:
    """Everything that a spool says, in a fixed order. `lost_frames`: gaps in the sequence numbers;
    `damaged_bytes`: passed over in the files, `torn_bytes` of them at a file's end (normal after a kill). `end`: our
    own word about how the command ended; `scheduler_end`: the scheduler's about its job (see `stitch.said`). `unheard`:
    processes that used the client, and of which nothing arrived."""

    run: dict[str, Any]
    end: dict[str, Any] | None
    nodes: list[Node]
    processes: list[Process]
    spans: list[Span]
    params: list[Param]
    events: list[PointEvent]
    files: list[DeclaredFile]
    metrics: MetricTable
    notes: list[dict[str, Any]]
    first_ns: int = 0
    last_ns: int = 0
    lost_frames: int = 0
    damaged_bytes: int = 0
    torn_bytes: int = 0
    scheduler_end: dict[str, Any] | None = None
    unheard: int = 0
    tasks: list[Task] = field(default_factory=list)
