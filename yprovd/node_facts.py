"""What a node is, as its daemon announces it."""

from __future__ import annotations

import contextlib
import os
from typing import Any


def node_facts(root: str) -> dict[str, Any]:
    """What this node is, from /proc: processor, memory, kernel. What cannot be read is left out."""
    facts: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
        with open(os.path.join(root, "proc/cpuinfo"), encoding="utf-8", errors="replace") as f:
            lines = [line.split(":", 1) for line in f if ":" in line]
        facts["logical_cpus"] = sum(1 for line in lines if line[0].strip() == "processor")
        facts["cpu_model"] = next(line[1].strip() for line in lines if line[0].strip() == "model name")
    with contextlib.suppress(OSError, ValueError, IndexError), open(os.path.join(root, "proc/meminfo"), "rb") as f:
        facts["memory_bytes"] = int(f.readline().split()[1]) * 1024
    with contextlib.suppress(OSError):
        uname = os.uname()
        facts.update(kernel=f"{uname.sysname} {uname.release}", machine=uname.machine)
    return facts
