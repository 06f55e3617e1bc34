"""All runs in a table: which of them, in which order, and a line for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from yprov.runs import RunView
from yprov.summary import facts, or_damaged
from yprov.wording import duration, energy, on_one_line
from yprovd.errors import YprovError
from yprovd.model import STATES as ENDS

#: What runs are sorted by: a fact of theirs, and whether the largest is the first.
SORTED_BY = {"time": ("created", False), "name": ("name", False), "state": ("state", False),
             "duration": ("duration_s", True), "energy": ("energy_j", True)}
#: What `--state` takes.
STATES = (*ENDS, "running", "not stitched")


def ensure_known(states: Sequence[str], by: str) -> None:
    """Raises YprovError for a state or an order that there is not."""
    if unknown := next((s for s in states if s not in STATES), None):
        raise YprovError(f"no run is ever `{unknown}`", hint=f"--state takes {', '.join(STATES)}")
    if by not in SORTED_BY:
        raise YprovError(f"runs are not sorted by `{by}`", hint=f"--sort takes {', '.join(SORTED_BY)}")


class Listed(NamedTuple):
    """A run as `yprov ls` tells it: to a program, and in the cells of a line."""

    facts: dict[str, Any]
    cells: tuple[str, ...]


@or_damaged
def listed(view: RunView) -> Listed:
    """Raises YprovError for a damaged one."""
    f = facts(view)
    metrics = [f"{m} {v:.4g}" for ms in f["metrics"].values() for m, v in ms.items() if isinstance(v, (int, float))]
    nodes = str(f["nodes"] or "-") + (f" ({f['dark']['nodes']} dark)" if f["dark"]["nodes"] else "")
    took = f["duration_s"] if f["running_s"] is None else f["running_s"]
    return Listed(f, (view.directory.name, view.state, duration(took), nodes,
                      energy(f["energy_j"]) if f["energy_j"] is not None else "-",
                      on_one_line(", ".join(metrics[:3]))))


def fits(run: Listed, states: Sequence[str], experiment: str | None) -> bool:
    return (not states or run.facts["state"] in states) and experiment in (None, run.facts["experiment"])


def in_order(runs: Sequence[Listed], by: str) -> list[Listed]:
    """`runs`, oldest first, in another order; what has no such figure comes last."""
    name, largest = SORTED_BY[by]
    kind = (int, float) if largest else str
    known = [r for r in runs if isinstance(r.facts[name], kind)]
    rest = [r for r in runs if not isinstance(r.facts[name], kind)]
    return [*sorted(known, key=lambda r: r.facts[name], reverse=largest), *rest]


def table(runs: Sequence[tuple[str, ...]]) -> list[str]:
    """`yprov ls`: one line per run, of what `listed` gave."""
    rows = [("RUN", "STATE", "DURATION", "NODES", "ENERGY", "LAST METRICS"), *runs]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]).rstrip()
            for row in rows]
