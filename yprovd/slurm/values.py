"""Slurm's values as Python's; None for Slurm's many words for nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from yprovd.errors import YprovError
from yprovd.slurm.hostlist import expand

Facts = dict[str, Any]

_NOTHING = {"", "(null)", "n/a", "unknown", "none", "none assigned", "null", "invalid"}
#: States in which a job has ended; its exit code is true only then (slurm.h, enum job_states).
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
         "PREEMPTED", "RECONFIG_FAIL", "REQUEUED", "REVOKED", "TIMEOUT"}
#: States of a job that has begun and goes on.
GOES_ON = {"CONFIGURING", "RUNNING", "SUSPENDED"}
#: Words that stand beside a state (slurm.h, JOB_STATE_FLAGS); 22.05 shows them in the place of the state.
FLAGS = {"COMPLETING", "CONFIGURING", "EXPEDITING", "POWER_UP_NODE", "RECONFIG_FAIL", "LAUNCH_FAILED", "REQUEUED",
         "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "REVOKED", "SIGNALING", "SPECIAL_EXIT",
         "STAGE_OUT", "STOPPED", "UPDATE_DB"}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


def word(value: Any) -> str | None:
    """A word of Slurm's: a name, a state."""
    text = "" if value is None else str(value).strip()
    return None if text.lower() in _NOTHING else text


def free(value: Any) -> str | None:
    """A user's text, in which `None` or `unknown` may be meant."""
    text = "" if value is None else str(value).strip()
    return None if text in ("", "(null)") else text


def number(value: Any) -> int | None:
    """A number as text, as a number, or as `{"set": true, "infinite": false, "number": 3}` (data_parser >= 0.0.39)."""
    if isinstance(value, Mapping):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) if abs(value) < 1e19 else None  # JSON may hold NaN and Infinity
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def words(value: Any) -> list[str]:
    """One word (22.05, 23.02) or a list of them (later)."""
    return [w for v in (value if isinstance(value, list) else [value]) if (w := word(v))]


def from_epoch(value: Any) -> str | None:
    """Seconds since 1970 as ISO 8601 with the offset of this place; 0 is never."""
    seconds = number(value)
    if not seconds or seconds >= 0xFFFFFFFE:  # INFINITE and NO_VAL of slurm.h
        return None
    try:
        at = time.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        return None
    minutes = abs(at.tm_gmtoff) // 60
    return (f"{at.tm_year:04}-{at.tm_mon:02}-{at.tm_mday:02}T{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
            f"{'-' if at.tm_gmtoff < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}")


def moment(value: Any) -> str | None:
    """`2026-11-21T06:24:51` (local time), or with the `+0100` that our commands ask for, as ISO 8601 with offset."""
    text = word(value)
    if text is None or len(text) not in (19, 24) or text[10] != "T":
        return None
    try:
        parts = [int(text[a:b]) for a, b in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))]
        seconds = time.mktime((parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], 0, 0, -1))
    except (ValueError, OverflowError):
        return None
    return from_epoch(seconds) if len(text) == 19 else f"{text[:22]}:{text[22:]}"


def seconds_of(value: Any) -> int | None:
    """`[days-]hours:minutes:seconds`; None for UNLIMITED and Partition_Limit."""
    days, dash, rest = str(value).rpartition("-")
    parts = rest.split(":")
    if len(parts) != 3 or not all(p.isdecimal() for p in parts) or (dash and not days.isdecimal()):
        return None
    hours, minutes, seconds = map(int, parts)
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def minutes_of(value: Any) -> int | None:
    """Minutes as seconds."""
    minutes = number(value)
    return None if minutes is None or minutes >= 0xFFFFFFFE else minutes * 60


def bytes_of(value: Any) -> int | None:
    """`12140K`, `1.5G`, `0`."""
    text = str(value)
    factor = _UNITS.get(text[-1:], 1)
    try:
        return round(float(text[:-1] if text[-1:] in _UNITS else text) * factor)
    except (ValueError, OverflowError):
        return None


def tres(value: Any) -> dict[str, str] | None:
    """`cpu=8,mem=800M,gres/gpu:h100=4`, or a list of {type, name, count}, whose memory is in MiB. Trackable resources,
    tres(7): what is unknown (energy in a job that runs, -2) is left out."""
    if isinstance(value, list):
        found = {}
        for one in value:
            count = number(one.get("count"))
            if count is not None and 0 <= count < 1 << 62:
                name = "/".join(n for n in (word(one.get("type")), word(one.get("name"))) if n)
                found[name] = f"{count}M" if name == "mem" else str(count)
        return found or None
    pairs = (one.partition("=") for one in (word(value) or "").split(","))
    return {name: amount for name, _equals, amount in pairs if name and amount} or None


def exit_status(value: Any, prefix: str = "") -> Facts:
    """`7:0` or `0:11` as {exit_code, exit_signal}; also wait(2)'s number (JSON of 22.05 and 23.02), and {return_code,
    signal: {signal_id | id}} (sacct, and JSON from 23.11 on). The signal only where there is one."""
    code = signal = None
    if isinstance(value, Mapping) and "return_code" in value:
        about = value.get("signal")
        code, signal = number(value["return_code"]), None
        if isinstance(about, Mapping):
            signal = number(about.get("signal_id")) or number(about.get("id"))
    elif isinstance(value, str) and ":" in value:
        code, signal = map(number, value.split(":", 1))
    elif (status := number(value)) is not None:
        code, signal = status >> 8, status & 0x7F
    if code is None and not signal:
        return {}
    return {f"{prefix}exit_code": code or 0, **({f"{prefix}exit_signal": signal} if signal else {})}


def state_of(value: Any) -> Facts:
    """{state, state_flags}: of a state, of a list of a state and flags, of `CANCELLED by 1000`."""
    found = [w.split()[0] for w in words(value)]
    states = [w for w in found if w not in FLAGS] or found
    if not states:
        return {}
    flags = [w for w in found if w != states[0]]
    return {"state": states[0], **({"state_flags": flags} if flags else {})}


def hosts(value: Any) -> list[str]:
    """The names of a host list; none where it is broken: other facts are still good."""
    try:
        return expand(word(value) or "")
    except YprovError:
        return []


def finish(facts: Facts, other: Iterable[tuple[str, Any]]) -> Facts:
    """Without what is absent; with the nodes' names and what was not understood."""
    rest = {k: v for k, v in other if v is not None}
    if facts.get("state") in GOES_ON and "COMPLETING" not in facts.get("state_flags", ()):
        facts["expected_end_time"] = facts.pop("end_time", None)  # when its time is up
    if "nodes" not in facts:
        facts["nodes"] = hosts(facts.get("node_list")) or None
    if facts.get("state") not in ENDED or "COMPLETING" in facts.get("state_flags", ()):
        for key in ("exit_code", "exit_signal", "derived_exit_code", "derived_exit_signal"):
            facts.pop(key, None)  # 0:0 before it is known
    if facts.get("state") == "FAILED" and not facts.get("exit_code") and not facts.get("exit_signal"):
        facts.pop("exit_code", None)  # 22.05's JSON of sacct says 0
    facts["other"] = rest or None
    return {"name": "slurm", **{k: v for k, v in facts.items() if v is not None and v != {}}}
