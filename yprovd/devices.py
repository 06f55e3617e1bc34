"""Which of a node's devices are the job's, by what the scheduler's variables say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Found(NamedTuple):
    """A GPU of the node, as its vendor's library or the kernel lists it.

    `index`: position in the vendor's own order of all GPUs that this process can see. `uuid`, `pci`: "" when unknown;
    a PCI address is written `0000:c1:00.0`. `minor`: N of /dev/nvidiaN, or of the render node; -1 when unknown.
    `parts`: UUIDs of its MIG instances.
    """

    index: int
    uuid: str = ""
    pci: str = ""
    minor: int = -1
    parts: tuple[str, ...] = ()


class Choice(NamedTuple):
    """`mine`: positions in the list of found devices, in its order. `parts`: of each, the job's MIG instances (empty:
    the whole device). `shared`: of each, whether other jobs may use the same device. `reason`: which variable says
    so, or why all are taken."""

    mine: tuple[int, ...]
    parts: tuple[tuple[str, ...], ...]
    shared: tuple[bool, ...]
    reason: str


def of_job(environ: Mapping[str, str], vendor: str, found: Sequence[Found]) -> Choice:
    """Choose among the GPUs of one vendor (`nvidia`, `amd`). Pure."""
    return Choice(tuple(range(len(found))), ((),) * len(found), (False,) * len(found), "nothing limits the job")
