"""How a run ended: one word of `yprovd.model.STATES` and a sentence that says why."""

from __future__ import annotations

from yprovd.model import STATES
from yprovd.stitch.record import Record


def final_state(record: Record) -> tuple[str, str]:
    """(state, reason). The recorded end decides; a spool without one is `incomplete`, whatever else it says."""
    if record.end is None:
        return "incomplete", "no end was recorded: stitched from what was left"
    state = record.end.get("state")
    if state not in STATES:
        return "incomplete", f"the end was recorded with an unknown state `{state}`"
    return state, str(record.end.get("reason") or "")
