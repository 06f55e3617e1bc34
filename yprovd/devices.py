"""Which of a node's GPUs are the job's, by what the scheduler and the runtimes' own variables say.

Sources: Slurm's gres.html and `gres_common.c`, and measurements with 22.05 and 24.11; the CUDA programming guide on
CUDA_VISIBLE_DEVICES and NVIDIA's MIG guide on names of instances; ROCm's pages on GPU isolation.

- `SLURM_STEP_GPUS`, `SLURM_JOB_GPUS`: what Slurm gave, `4,5` or `0-3,6`, counted on the node and not renumbered. A
  number is a position in Slurm's list of GPUs, which is the order of the PCI bus since 20.11, and so the vendor's
  `index`. It is not N of /dev/nvidiaN, which differs on some nodes; that is tried only where a number is no index.
- `SLURM_GPUS_ON_NODE`: how many of them the step has, also for a task that is bound to a share of them
  (`--gpus-per-task`, `--gpu-bind`) and has a shorter list. That list is right where every device can be opened. Where
  the device cgroup hides the others', each task has the numbers of the step's first ones, whichever it was given.
- `CUDA_VISIBLE_DEVICES` and AMD's like: positions among what the process can open, hence renumbered from 0 where the
  cgroup hides some, or UUIDs. The job may use fewer than it was given: what it was given counts, and these do where
  there is no word from Slurm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Found(NamedTuple):
    """A GPU of the node, as its vendor's library or the kernel lists it.

    `index`: position in the vendor's own order of all GPUs that this process can see. `uuid`, `pci`: "" when unknown;
    a PCI address is written `0000:c1:00.0`. `minor`: N of /dev/nvidiaN, or of the render node; -1 when unknown.
    `parts`: UUIDs of its MIG instances.
    """

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
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


class Pick(NamedTuple):
    """A device that a list names: its position among the found ones, and the MIG instance ("": the device itself)."""

    at: int
    part: str = ""


class Visible(NamedTuple):
    """What a process of one vendor's runtime sees, in its order. `by`: `VARIABLE=value`, of several the last one
    narrows what the others left. `asked`: how many devices that one names by number, 0 when by anything else."""

    picks: tuple[Pick, ...]
    by: str
    asked: int


#: vendor: variables of its runtimes, from the lowest layer up; in each layer the first that is set counts. The second
#: layer numbers what the first one left. HIP knows CUDA's name too, and OpenCL has one of its own.
RUNTIMES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "nvidia": (("CUDA_VISIBLE_DEVICES",),),
    "amd": (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")),
}
#: A job of a scheduler has one of these.
_SCHEDULED = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "FLUX_ENCLOSING_ID", "COBALT_JOBID")
#: Slurm gives parts of a GPU to several jobs: gres/shard, gres/mps.
_SHARING = ("SLURM_SHARDS_ON_NODE", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
#: Slurm's step ids from here on are none that a user started (as in `ranks`).
_NO_STEP = 0xFFFFFFF0
_MOST = 4096
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_NUMBERS = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*")
#: The name of a MIG instance before driver 470.
_OLD_PART = re.compile(r"MIG-(GPU-[^/]+)/\d+/\d+")


def of_job(environ: Mapping[str, str], vendor: str, found: Sequence[Found]) -> Choice:
    """Choose among the GPUs of one vendor (`nvidia`, `amd`). Pure."""
    everything = tuple(Pick(i) for i in range(len(found)))
    scheduled = any(environ.get(name) for name in _SCHEDULED)
    shared = scheduled and any(environ.get(name) for name in _SHARING)
    seen = visible(environ, vendor, found)
    if seen is not None and any(pick.part for pick in seen.picks):  # Slurm counts instances, not GPUs
        return _choice(found, seen.picks, (scheduled, shared), seen.by)
    given = _given(environ)
    if given is not None and _is_share(environ, vendor, given[1]):
        given = _job_list(environ)
        seen = None
    if given is not None:
        name, listed = given
        chosen = _numbered(listed, found)
        if chosen is not None and not _denied(seen, chosen):
            short = "" if len(listed) <= len(found) else f", of which {len(found)} can be seen"
            return _choice(found, chosen, (scheduled, shared), f"{name}={environ[name]}{short}")
    if seen is not None:
        # Counted on the whole node, by somebody who did not know of the cgroup: these are the ones.
        all_of_them = not seen.picks and seen.asked == len(found)
        return _choice(found, everything if all_of_them else seen.picks, (scheduled, shared), seen.by)
    count = environ.get("SLURM_GPUS_ON_NODE", "")
    if count == str(len(found)):
        reason = f"SLURM_GPUS_ON_NODE={count}, which is all that can be seen"
    elif scheduled:
        shared, reason = True, "no variable says which are the job's: others may use them"
    else:
        reason = "no scheduler, and no variable that limits"
    return _choice(found, everything, (scheduled, shared), reason)


def visible(
    environ: Mapping[str, str], vendor: str, found: Sequence[Found], numbered: Mapping[int, int] | None = None
) -> Visible | None:
    """What the vendor's runtime makes of its variables where it can open `found`; None when none is set. `numbered`:
    its numbers of the devices, as positions in `found`; by default it counts them in the order of `index`. Pure."""
    if numbered is None:
        numbered = dict(enumerate(sorted(range(len(found)), key=lambda i: found[i].index)))
    left = {number: Pick(at) for number, at in numbered.items()}
    last: str | None = None
    by, asked = "", 0
    for name in _set(environ, vendor):
        if environ[name] == last:  # Slurm may set all of them, to the same
            continue
        last = environ[name]
        left = dict(enumerate(_picked(last, found, left)))
        asked = len(last.split(",")) if _NUMBERS.fullmatch(last) else 0
        by = f"{name}={last}" + (f" within {by}" if by else "")
    return None if last is None else Visible(tuple(left.values()), by, asked)


def lowest_list(environ: Mapping[str, str], vendor: str) -> str | None:
    """The list that the vendor's runtime reads first; None when there is none."""
    return next((environ[name] for name in _set(environ, vendor)), None)


def _set(environ: Mapping[str, str], vendor: str) -> list[str]:
    """Of each layer the variable that counts."""
    layers = (next((name for name in layer if name in environ), "") for layer in RUNTIMES.get(vendor, ()))
    return [name for name in layers if name]


def about(environ: Mapping[str, str]) -> dict[str, str]:
    """What a node's daemon was told, for the record: with it, Slurm's numbers in the environments of the node's tasks
    can be found among its devices (`yprovd.stitch.devices`). What it was given is called SLURM_STEP_GPUS."""
    told = {name: environ[name] for vendor in RUNTIMES for name in _set(environ, vendor)}
    given = _given(environ)
    return told if given is None else {**told, "SLURM_STEP_GPUS": environ[given[0]]}


def numbers(text: str) -> tuple[int, ...] | None:
    """Slurm's list of numbers, sorted: `0-3,6`. () for `NoDevFiles`; None for what is no list."""
    if text.strip() == "NoDevFiles":
        return ()
    out: set[int] = set()
    for word in re.split(r"[,\s]+", text.strip()):
        match = _RANGE.fullmatch(word)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= _MOST:
            return None
        out.update(range(first, last + 1))
    return tuple(sorted(out))


def _picked(text: str, found: Sequence[Found], left: Mapping[int, Pick]) -> tuple[Pick, ...]:
    """The devices of a runtime's list; `left`: which it may name, by number. As CUDA and ROCr do: an entry that names
    none ends the list, and one that is named twice empties it."""
    out: list[Pick] = []
    for word in text.split(","):
        pick = _named(word.strip(), found, left)
        if pick is None:
            break
        if pick in out:
            return ()
        out.append(pick)
    return tuple(out)


def _named(word: str, found: Sequence[Found], left: Mapping[int, Pick]) -> Pick | None:
    if match := re.match(r"\d{1,6}", word):  # CUDA reads `1x` as 1
        return left.get(int(match[0]))
    if word.startswith("MIG-"):
        return _part(word, found, left)
    if word.startswith("GPU-"):
        return _one([pick for pick in left.values() if _plain(found[pick.at].uuid).startswith(_plain(word))])
    return None


def _part(word: str, found: Sequence[Found], left: Mapping[int, Pick]) -> Pick | None:
    parts = [Pick(pick.at, part) for pick in left.values() for part in found[pick.at].parts]
    if old := _OLD_PART.fullmatch(word):
        exact = _one([pick for pick in parts if pick.part == word])
        parent = _named(old[1], found, left)
        return exact or (None if parent is None else Pick(parent.at, word))
    return _one([pick for pick in parts if pick.part.lower().startswith(word.lower())])


def _one(picks: list[Pick]) -> Pick | None:
    """An abbreviation counts when it fits one device only."""
    return picks[0] if len(picks) == 1 else None


def _plain(uuid: str) -> str:
    """AMD writes the same number with and without dashes, and in capitals."""
    return uuid.removeprefix("GPU-").replace("-", "").lower()


def _given(environ: Mapping[str, str]) -> tuple[str, tuple[int, ...]] | None:
    """What Slurm gave on this node: the variable, and its numbers. The nearest to the process first."""
    listed = numbers(environ.get("SLURM_STEP_GPUS", ""))
    return _job_list(environ) if listed is None else ("SLURM_STEP_GPUS", listed)


def _job_list(environ: Mapping[str, str]) -> tuple[str, tuple[int, ...]] | None:
    listed = numbers(environ.get("SLURM_JOB_GPUS", ""))
    return None if listed is None or not _of_this_node(environ, len(listed)) else ("SLURM_JOB_GPUS", listed)


def _is_share(environ: Mapping[str, str], vendor: str, given: tuple[int, ...]) -> bool:
    """Whether this process is a task that is bound to a share of its step, and it cannot be said which: the numbers
    are right only if nothing was renumbered. (Of NVIDIA's, as many as it may open are found, and of the numbers none
    is needed; or all, and nothing was renumbered. The kernel shows AMD's also to those who may not open them.)"""
    count, listed = environ.get("SLURM_GPUS_ON_NODE", ""), lowest_list(environ, vendor)
    bound = vendor != "nvidia" and count.isdecimal() and int(count) > len(given) > 0
    return bound and listed is not None and numbers(listed) == tuple(range(len(given)))


def _of_this_node(environ: Mapping[str, str], count: int) -> bool:
    """Whether SLURM_JOB_GPUS is about this node. Slurm sets it for the batch script, and a step that was given no GPU
    inherits that from wherever it was started; some versions set it for a step that has the whole job's (`srun
    --external-launcher`), with the number of the GPUs beside it, which they take from a step without."""
    step = environ.get("SLURM_STEP_ID", "")
    in_step = step.isdecimal() and int(step) < _NO_STEP
    one_node = environ.get("SLURM_JOB_NUM_NODES", environ.get("SLURM_NNODES")) == "1"
    return one_node or not in_step or environ.get("SLURM_GPUS_ON_NODE") == str(count)


def _numbered(given: tuple[int, ...], found: Sequence[Found]) -> tuple[Pick, ...] | None:
    """The devices that have Slurm's numbers. As many as were given: the cgroup hides all others, and has renumbered
    these; or the job has them all."""
    if len(given) >= len(found):
        return tuple(Pick(i) for i in range(len(found)))
    for known in ({f.index: i for i, f in enumerate(found)}, {f.minor: i for i, f in enumerate(found)}):
        if all(number in known for number in given):
            return tuple(Pick(known[number]) for number in given)
    return None


def _denied(seen: Visible | None, chosen: tuple[Pick, ...]) -> bool:
    """Whether UUIDs say otherwise: then Slurm's numbers are in an order that is not the vendor's."""
    return seen is not None and not seen.asked and not {pick.at for pick in seen.picks} <= {pick.at for pick in chosen}


def _choice(found: Sequence[Found], picks: Sequence[Pick], others: tuple[bool, bool], reason: str) -> Choice:
    """`others`: whether there is a scheduler, and whether it gives GPUs to several jobs at once. Of a device in parts
    it may give the rest to another job, whose parts the cgroup hides."""
    scheduled, shared = others
    parts: dict[int, list[str]] = {}
    for pick in picks:
        parts.setdefault(pick.at, []).extend([pick.part] if pick.part else [])
    mine = tuple(sorted(parts))

    def is_shared(at: int) -> bool:
        own, all_parts = set(parts[at]), set(found[at].parts)
        return shared or (scheduled and bool(own or all_parts)) or (bool(own) and not all_parts <= own)

    return Choice(mine, tuple(tuple(parts[at]) for at in mine), tuple(is_shared(at) for at in mine), reason)
