"""Whose word counts: on how the run ended, on what its scheduler's job was, and whether a file is still what a script
meant, and who was not heard. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yprovd.stitch.frames import Frames
from yprovd.wire import Kind

#: What a scheduler does to a job that has not ended by itself.
ENDED_EARLY = ("timeout", "node_fail", "cancelled")

#: A file's time of change may be later than it was by so much: clocks of file servers, and a clock that was set.
TOLERANCE_NS = 10_000_000

#: Whose word counts most about how the run ended.
_END_RANK = {"launcher": 0, "collector": 1, "node": 2}


def merged_facts(known: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What the scheduler said of its job, and what it said later: an answer that lacks something takes nothing away."""
    missing = {what: reason for facts in (known, new) if isinstance(facts.get("missing"), dict)
               for what, reason in facts["missing"].items()}
    facts = known | {k: v for k, v in new.items() if v is not None and v != "" and v != {} and v != []}
    if "missing" in facts:
        facts["missing"] = {what: reason for what, reason in missing.items() if facts.get(what) in (None, "", {}, [])}
    return facts


def end_of(frames: Frames) -> dict[str, Any] | None:
    """Our own word: the launcher's where there is one. The same one's later words complete the earlier."""
    said = [(_END_RANK.get(frames.sources.get(source, {}).get("role", ""), 3), value)
            for source, _frame, value in frames.of_kind(Kind.END) if not value.get("by_scheduler")]
    end: dict[str, Any] = {}
    for rank, value in said:
        if rank == min(r for r, _value in said):
            end.update(value)
    return end or None


def scheduler_end_of(frames: Frames) -> dict[str, Any] | None:
    """What the scheduler said: the first word, of those heard while the run went on, that ends the job early (what
    comes behind it, a daemon's scancel of a job whose node is dead, is a consequence); else the last word of all.
    `asked_later`: nobody asked while the run went on. While a job is being ended, Slurm's text calls it the same
    whether it was cancelled or its script had ended: accounting knows, and is believed."""
    said = [{**value, "asked_later": source in frames.later}
            for source, _frame, value in frames.of_kind(Kind.END) if value.get("by_scheduler")]
    during = [v for v in said if v.get("state") in ENDED_EARLY and not v["asked_later"]]
    if during and not takes_back(during[0], said[-1]):
        return during[0]
    return said[-1] if said else None


def takes_back(word: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether what is told after the job's end shows that it was not cancelled."""
    return word.get("state") == "cancelled" and bool(later.get("asked_later")) and later.get("state") in (
        "completed", "failed")


def changed_after(declared_ns: int, facts: Mapping[str, Any]) -> int:
    """How long after its declaration a file was changed, in ns, before somebody looked at it (`looked_ns`); 0 where it
    was not, or nobody can tell: a time of change that is later than the look is none of our clock."""
    modified, looked = facts.get("modified_ns"), facts.get("looked_ns")
    if not isinstance(modified, int) or not isinstance(looked, int) or modified > looked:
        return 0
    if not facts.get("sha256") and str(facts.get("reason", "")).startswith("a folder"):
        return 0  # of which nothing is known that a later file could make wrong
    return modified - declared_ns if modified - declared_ns > TOLERANCE_NS else 0


def unheard(frames: Frames) -> int:
    """How many processes began to use the client, as the daemons of their nodes found at the end, and were ended before
    anything of them arrived."""
    named: set[str] = set()
    more = 0
    for _source, _frame, value in frames.of_kind(Kind.LOSS):
        if isinstance(names := value.get("silent"), list):
            named.update(str(name) for name in names)
            count = value.get("silent_count")
            more += max(0, count - len(names)) if isinstance(count, int) else 0
    return len(named - {f"{source:016x}" for source in frames.seen}) + more
