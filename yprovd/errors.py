"""The few exceptions of this project.

One type reaches the command line: `YprovError`. It says what failed, and in `hint` what to type next; the
command line prints the two as `error: ...` and `hint: ...` and never a traceback.
"""

from __future__ import annotations


class YprovError(Exception):
    """A failure that a person can act on: a sentence without a final period, and a hint."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SensorUnavailable(Exception):
    """This source cannot be read on this node. An absence, not a failure: found once, with its reason, which begins
    with `no ` where there is no such thing (and only there: `yprovd.stitch.absences`)."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class WireError(ValueError):
    """Bytes that are not a frame, or not a payload of the kind that the frame claims."""


class SpoolFull(OSError):
    """The spool could not take the frames (disk full, quota). None of them is half written."""
