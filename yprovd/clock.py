"""Time as a schedule. Two clocks, always read as a pair: the wall clock (when, across nodes) and the monotonic
clock (how long, within a node; one clock for every process of a boot). Linux `CLOCK_REALTIME` and `CLOCK_MONOTONIC`.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def wall_ns(self) -> int: ...
    def mono_ns(self) -> int: ...


class SystemClock:
    """The machine's clocks, in nanoseconds."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.monotonic_ns()


class Ticker:
    """Deadlines at whole multiples of the interval on the wall clock, so that all nodes tick together.

    A tick is computed from the clock, never from the previous tick plus a sleep: nothing accumulates (0.00 % drift).
    After a stall, or a clock that was set, the schedule goes on at the next multiple; what was skipped is counted.
    """

    def __init__(self, interval_ns: int, clock: Clock) -> None:
        if interval_ns <= 0:
            raise ValueError("interval_ns must be positive")
        self.interval_ns = interval_ns
        self.missed = 0
        self._clock = clock
        self._next = self._after(clock.wall_ns())

    def _after(self, wall_ns: int) -> int:
        return (wall_ns // self.interval_ns + 1) * self.interval_ns

    @property
    def previous_ns(self) -> int:
        """The tick before the next one."""
        return self._next - self.interval_ns

    def wait_ns(self) -> int:
        """Nanoseconds until the next tick; 0 when it is due. At most one interval, also when the clock was set back."""
        now = self._clock.wall_ns()
        if self._next - now > self.interval_ns:  # the wall clock was set back
            self._next = self._after(now)
        return max(0, self._next - now)

    def take(self) -> int:
        """The due tick (wall ns, a multiple of the interval). Moves on to the next one that is still ahead."""
        now = self._clock.wall_ns()
        late = (now - self._next) // self.interval_ns
        if late > 0:
            self.missed += late
            self._next += late * self.interval_ns
        tick = self._next
        self._next = tick + self.interval_ns
        return tick
