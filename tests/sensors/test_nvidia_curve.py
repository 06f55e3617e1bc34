"""The clocks of stamps: two of them that are compared, and one that is set while a device records its power."""

import ctypes
from types import SimpleNamespace

import pytest

from yprovd.sensors.nvml_calls import Clocks, Curve

STEP_US, KEPT = 20_000, 119


class Machine(Clocks):
    """A device that records the second of the monotonic clock as its watts, stamped by a wall clock that can be set."""

    def __init__(self):
        super().__init__()
        self.begun_ns = self.now_ns
        self.recorded, self.wall_ns = [], 10**18

    def forward(self, seconds):
        for _ in range(round(seconds * 1e6) // STEP_US):
            self.now_ns += STEP_US * 1000
            self.wall_ns += STEP_US * 1000
            self.recorded.append((self.wall_ns // 1000, round((self.now_ns - self.begun_ns) / 1e6)))
        self._behind = (self.wall_ns - self.now_ns,)

    def samples(self, _handle, _kind, last_us, value_type, count, buffer):
        ctypes.cast(value_type, ctypes.POINTER(ctypes.c_uint))[0] = 1
        count = ctypes.cast(count, ctypes.POINTER(ctypes.c_uint))
        if buffer is None:
            count[0] = KEPT
            return 0
        new = [r for r in self.recorded[-KEPT:] if r[0] > last_us.value]
        for i, (stamp, milliwatts) in enumerate(new):
            buffer[2 * i], buffer[2 * i + 1] = stamp, milliwatts
        count[0] = len(new)
        return 0 if new else 6  # NotFound


@pytest.mark.parametrize("set_s", [-3600, -30, -5, 5, 30, 3600])
def test_a_clock_that_is_set_ends_no_curve_and_moves_none_of_it(set_s):
    machine = Machine()
    curve = Curve(SimpleNamespace(function=lambda name: machine.samples), ctypes.c_void_p(), 0)
    times, values = [], []
    for tick in range(8):
        if tick == 4:
            machine.wall_ns += set_s * 10**9
        machine.forward(1.0)
        mono_ns, watts = curve.read(machine)
        times += mono_ns
        values += watts
    assert times == sorted(set(times))
    assert values == pytest.approx([(t - machine.begun_ns) * 1e-9 for t in times], abs=2e-3)
    after = [t for t in times if t > machine.begun_ns + 4 * 10**9]
    assert len(after) == 4 * 50
    assert len(times) == 8 * 50


def test_clocks_between_which_something_else_ran_are_looked_at_again(monkeypatch):
    """The wall clock is 7 s ahead; the first look at it comes 5 ms late."""
    clocks = Clocks()
    mono = iter([0, 5_000_000, 10_000_000, 10_001_000])
    wall = iter([7_005_000_000, 7_010_000_000])
    monkeypatch.setattr("time.monotonic_ns", lambda: next(mono))
    monkeypatch.setattr("time.time_ns", lambda: next(wall))
    monkeypatch.setattr("time.clock_gettime_ns", lambda clock: 10**15)
    clocks.look()
    assert clocks.now_ns == 10_000_000
    assert clocks.behind_ns(7_009_000) == 7 * 10**9
