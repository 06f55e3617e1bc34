"""The daemons of a run: started, waited for, and brought to this machine alone when the scheduler cannot place them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from yprov.daemons import Daemons
from yprov.placement import Placement
from yprov.runs import on_this_machine
from yprovd.config import RunConfig
from yprovd.errors import YprovError

if TYPE_CHECKING:
    from yprov.placed import PlacedDaemons

#: How long the daemons may take to be ready; the command starts then in any case.
READY_S = 10.0
READY_PER_NODE_S = 0.01


class Started(NamedTuple):
    """`config`: as it was, or that of a run on this machine only. `refused`: why the scheduler could not be used, ""
    where it was."""

    daemons: Daemons | PlacedDaemons
    config: RunConfig
    refused: str


class Roll(NamedTuple):
    """`about`: the daemons, for the run's record. `troubles`: (text, hint) of what is to be said."""

    daemons: Daemons | PlacedDaemons
    config: RunConfig
    about: dict[str, Any]
    troubles: list[tuple[str, str]]


def start_daemons(run_dir: Path, config: RunConfig, placement: Placement | None) -> Started:
    """First of all: they take the longest. Raises YprovError when there is no room for a process more."""
    refused = ""
    if placement is not None:
        placed: PlacedDaemons | None = None
        try:
            from yprov.placed import PlacedDaemons

            placed = PlacedDaemons(run_dir, placement)
            placed.start()
            return Started(placed, config, "")
        except (YprovError, OSError, ImportError) as e:  # no ZeroMQ, say
            refused = str(e)
            if placed is not None:
                refused = "; ".join([*placed.fallbacks, refused])
                placed.close()  # its keys, too
            config = on_this_machine(run_dir, config)
    daemons = Daemons(run_dir, Path(config.runtime_dir))
    try:
        daemons.start()
    except OSError as e:
        daemons.close()
        raise YprovError(f"cannot set up a run in `{run_dir}`: {e.strerror}",
                         hint="are more processes allowed (ulimit -a)?") from None
    return Started(daemons, config, refused)


def call_the_roll(
    run_dir: Path, started: Started, interrupted: Callable[[], bool], progress: Callable[[str], None],
) -> Roll:
    """Until the daemons are ready, under a deadline; what is not there is told, and the command starts anyway."""
    daemons, config, refused = started
    nodes = len(config.nodes)
    troubles: list[tuple[str, str]] = []
    try:
        ready = daemons.roll_call(READY_S + READY_PER_NODE_S * nodes, interrupted, progress)
    except YprovError as e:  # no way of the scheduler's was left
        refused, ready = "; ".join([*daemons.fallbacks, str(e)]), False
    if refused:
        if not isinstance(daemons, Daemons):
            daemons.close()
            config = on_this_machine(run_dir, config)
            daemons = Daemons(run_dir, Path(config.runtime_dir))
            daemons.start()
            ready = daemons.roll_call(READY_S, interrupted, progress)
        troubles.append((f"only this node is recorded: the daemons could not be placed ({refused})",
                         f"see {run_dir / 'logs'}"))
    troubles += [(f"the daemons were placed in another way: {sentence}", "") for sentence in daemons.fallbacks]
    if not ready and not interrupted():
        if dark := daemons.dark:
            troubles.append((f"{len(dark)} of {nodes} nodes are not ready ({', '.join(dark[:8])}"
                             f"{'...' if len(dark) > 8 else ''}): the command runs, and may not be measured there",
                             f"see {run_dir / 'logs' / 'daemons.log'}"))
        else:
            troubles.append(("the node daemon is not ready: the command runs, and may not be measured",
                             f"see {run_dir / 'logs' / 'node.log'}"))
    return Roll(daemons, config, {**daemons.about(), "refused": refused}, troubles)
