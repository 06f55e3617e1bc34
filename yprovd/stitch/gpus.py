"""Which of a node's recorded GPUs a process could use, by its environment. Pure.

A list by UUID is clear. A number is a position among what that one process could open, and nothing says how many that
were, so it counts only where all readings agree or the others are ruled out (what Slurm does: see `yprovd.devices`):

- Slurm's numbers are those of the node. The daemon's list, or all of the tasks' together, are the recorded devices in
  the same order.
- A runtime's numbers are Slurm's, or count them from 0 where a device cgroup hides the others': one or the other on a
  whole cluster, and every list that cannot be both shows which (4 of 4 is not renumbered, 0 of 4 is).
- A task that is bound to a share of its step, in a cgroup, is numbered from 0 like its neighbours: it is not known
  which devices it had. Nor is it for IBM's jsrun.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from yprovd.devices import Found, lowest_list, numbers, visible
from yprovd.model import Device
from yprovd.stitch.record import Node

_NUMBERED = re.compile(r"\s*\d")
_HIDES = re.compile(r"\s*(-\d+|NoDevFiles)?\s*(,.*)?")


@dataclass
class Gpus:
    """The GPUs of one vendor on a node, by index: ids and what `yprovd.devices` has to know of each. `numbered`:
    Slurm's numbers of them, as positions; None when not known. `told`: the daemon was told by Slurm."""

    vendor: str
    ids: list[str]
    names: set[str]
    found: list[Found]
    numbered: Mapping[int, int] | None = None
    told: bool = False


@dataclass(frozen=True)
class Seen:
    """Positions of the devices that a process can use, as its runtime numbers them; None: not known, with a reason."""

    at: tuple[int, ...] | None
    reason: str = ""


def devices_on(node: Node) -> list[Device]:
    """All of its devices, as last announced."""
    out: dict[tuple[str, str], Device] = {}
    for samples in node.samples:
        for metric in (*samples.schema.metrics, *samples.schema.traced):
            if metric.device is not None:
                out[metric.device.cls, metric.device.id] = metric.device
    return list(out.values())


def told(node: Node) -> dict[str, str]:
    """What the daemon was told (`yprovd.devices.about`)."""
    value = node.facts.get("devices")
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def renumbers(environs: Iterable[Mapping[str, str]]) -> bool | None:
    """Whether runtimes count from 0 what Slurm gave; None when no list shows it, or they contradict each other."""
    shown = set()
    for environ in environs:
        given = _given(environ)
        if not given or given == _first(len(given)):
            continue
        for vendor in ("nvidia", "amd"):
            seen = numbers(lowest_list(environ, vendor) or "")
            if seen == given:
                shown.add(False)
            elif seen == _first(len(given)):
                shown.add(True)
    return shown.pop() if len(shown) == 1 else None


def gpus_on(node: Node, environs: Iterable[Mapping[str, str]], renumbered: bool | None) -> list[Gpus]:
    """The job's GPUs on a node, by vendor. `environs`: of the processes there."""
    by_vendor: dict[str, list[tuple[Found, Device]]] = {}
    for at, device in enumerate(d for d in devices_on(node) if d.cls == "gpu"):
        about = device.attributes
        index, minor, parts = about.get("index"), about.get("minor"), str(about.get("mig") or "").split(",")
        found = Found(index if isinstance(index, int) else at, str(about.get("uuid") or device.id),
                      minor=minor if isinstance(minor, int) else -1,
                      parts=tuple(part.strip() for part in parts if part.strip()))
        by_vendor.setdefault(str(about.get("vendor") or ""), []).append((found, device))
    out = []
    for vendor, rows in sorted(by_vendor.items()):
        rows.sort(key=lambda row: (row[0].index, row[1].id))
        out.append(Gpus(vendor, [d.id for _f, d in rows], {d.name for _f, d in rows}, [f for f, _d in rows]))
    if len(out) == 1:  # those of all vendors are numbered together
        gpus, listed = out[0], _given(told(node))
        gpus.told = listed is not None
        given = sorted({n for environ in environs for n in _given(environ) or ()}) if listed is None else listed
        if len(given) == len(gpus.found):
            gpus.numbered = {number: at for at, number in enumerate(given)}
        elif renumbered is False:
            gpus.numbered = {f.index: at for at, f in enumerate(gpus.found)}
    return out


def seen_by(gpus: Gpus, environ: Mapping[str, str], step: str, launcher: str, renumbered: bool | None) -> Seen:
    """The devices of one vendor that a process with this environment can use. `step`, `launcher`: as in
    `yprovd.ranks`; `renumbered`: what `renumbers` says."""
    listed, given = lowest_list(environ, gpus.vendor), _given(environ)
    if listed is not None and not _NUMBERED.match(listed):
        picks = _picks(gpus, environ, dict(enumerate(range(len(gpus.found)))))
        known = picks or _HIDES.fullmatch(listed)
        return Seen(picks) if known else Seen(None, f"no recorded device is called `{listed}`")
    if given is None and step and gpus.told:
        return Seen((), "its step was given none")
    if given is None:
        of_node: Mapping[int, int] = gpus.numbered or {f.index: at for at, f in enumerate(gpus.found)}
    elif gpus.numbered is not None and set(given) <= set(gpus.numbered):
        of_node = {number: gpus.numbered[number] for number in given}
    else:
        return Seen(None, f"which devices Slurm calls `{environ['SLURM_STEP_GPUS']}` is not known")
    beyond = [f.index for f in gpus.found] != list(range(len(gpus.found)))
    if renumbered is None and beyond and (gpus.vendor == "nvidia" or not step):
        renumbered = False  # the daemon has seen others' devices: nothing hides them
    if renumbered is not False and _may_be_a_share(gpus, environ, launcher, given, listed):
        return Seen(None, "bound to a share of its step's devices, which are numbered from 0 in each task")
    from_0 = dict(enumerate(of_node[number] for number in sorted(of_node)))
    if listed is None:
        return Seen(tuple(from_0.values()))
    readings = {None: (of_node, from_0), False: (of_node,), True: (from_0,)}[renumbered]
    fits = {_picks(gpus, environ, numbering) for numbering in readings if _all_in(listed, numbering)}
    if len(fits) == 1:
        return Seen(fits.pop())
    return Seen(None, f"`{listed}` may be numbers of the node, or of what the process could open" if fits else
                f"`{listed}` names a device that was not recorded")


def order_is_unsure(gpus: Gpus, environ: Mapping[str, str], seen: Seen) -> bool:
    """Whether CUDA's numbers may be others than NVML's: it counts the fastest first, unless it is told otherwise. Alike
    ones come in the order of the bus."""
    listed = lowest_list(environ, gpus.vendor)
    return (gpus.vendor == "nvidia" and len(gpus.names) > 1 and listed is not None and bool(_NUMBERED.match(listed))
            and 0 < len(seen.at or ()) < len(gpus.found) and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID")


def _given(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    return numbers(environ.get("SLURM_STEP_GPUS", ""))


def _first(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def _picks(gpus: Gpus, environ: Mapping[str, str], numbering: Mapping[int, int]) -> tuple[int, ...]:
    """Two instances of one device are one."""
    seen = visible(environ, gpus.vendor, gpus.found, numbering)
    return tuple(dict.fromkeys(pick.at for pick in seen.picks)) if seen is not None else ()


def _all_in(listed: str, numbering: Mapping[int, int]) -> bool:
    """Whether a list names devices only, up to the word that ends it on purpose."""
    for word in listed.split(","):
        match = re.match(r"\s*(\d{1,6})", word)
        if match is None:
            return True
        if int(match[1]) not in numbering:
            return False
    return True


def _may_be_a_share(
    gpus: Gpus, environ: Mapping[str, str], launcher: str, given: tuple[int, ...] | None, listed: str | None
) -> bool:
    """Whether a task may have other devices than a neighbour with the same list."""
    seen, count = numbers(listed or ""), environ.get("SLURM_GPUS_ON_NODE", "")
    if given is None:
        return launcher == "jsrun" and (seen is None or seen == _first(len(seen)) != _first(len(gpus.found)))
    of_step = int(count) if count.isdecimal() else len(gpus.found)
    return len(given) < of_step and (seen is None or seen == _first(len(given)))
