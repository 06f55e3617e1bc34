"""GPUs of a node that are not in its record: none is the job's, or they are there and could not be read. Pure.

A sensor's reason that begins with `no ` says that there is no such thing on the node (`yprovd.sensors`).
"""

from __future__ import annotations

from yprovd.model import Absence
from yprovd.stitch.record import Node

_VENDORS = ("nvidia", "amd")
#: What the sensors say of GPUs that are others', or nobody's.
_NOT_OURS = ("is the job's", "Slurm gave it none")


def absences_of(node: Node) -> list[Absence]:
    """What the node lacked. A sensor that was late to open is none of it: it is in a schema that came later."""
    there = {m.device.id for s in node.samples for m in s.schema.metrics
             if m.device is not None and m.device.cls == "sensor"}
    return [a for s in node.samples for a in s.schema.absences if a.sensor not in there]


def _reasons(node: Node) -> list[str]:
    return sorted({f"{a.sensor}: {a.reason}" for a in absences_of(node)
                   if a.sensor in _VENDORS and not a.reason.startswith("no ")})


def no_gpu_is_ours(node: Node) -> bool:
    """Whether the node has GPUs, and none of them is the job's."""
    return any(phrase in reason for reason in _reasons(node) for phrase in _NOT_OURS)


def unread_gpus(node: Node) -> list[str]:
    """Why GPUs that may be the job's could not be read: `sensor: reason`."""
    return [reason for reason in _reasons(node) if not any(phrase in reason for phrase in _NOT_OURS)]
