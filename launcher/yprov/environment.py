"""What a process of the job announces of its place in it: rank, step, CPUs and devices."""

from __future__ import annotations

import os

from yprovd.ranks import JobEnvironment, devices_of, job_environment, ranges, step_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["JobEnvironment", "job_environment", "place_of"]


def place_of(environ: Mapping[str, str]) -> dict[str, Any]:
    """This process's place, for its SOURCE frame. `cpus`: those that it may run on, as `0-3,8`."""
    job = job_environment(environ)
    return {
        "rank": job.rank, "world_size": job.world_size, "local_rank": job.local_rank, "launcher": job.launcher,
        "step": step_of(environ), "cpus": ranges(os.sched_getaffinity(0)), "devices": devices_of(environ),
    }
