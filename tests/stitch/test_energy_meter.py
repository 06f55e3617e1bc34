"""What one meter counted, by the rule of `yprovd.stitch.energy`: how it is called, and how far it is from the exact
integral of a power that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stitch.builders import NodeSpool, RunSpool, counter, gauge
from tests.stitch.loads import LOAD_S, meter, metrics_of, report, row, sampled, ticks
from yprovd.stitch.attribution import attribute

Function = Callable[[float], float]


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="load")
    return spool


def square(t: float) -> float:
    """Watts: 1 s of 500, 1 s of 100, over and over; edges off every grid."""
    return 500.0 if (t - 0.237) % 2.0 < 1.0 else 100.0


def square_j(t: float) -> float:
    """Its exact integral from 0."""
    def up_to(x: float) -> float:
        periods, rest = divmod(x, 2.0)
        return 600.0 * periods + (500.0 * rest if rest < 1.0 else 500.0 + 100.0 * (rest - 1.0))

    return up_to(t - 0.237) - up_to(-0.237)


def ramp(t: float) -> float:
    return 100.0 + 8.0 * t


def ramp_j(t: float) -> float:
    return 100.0 * t + 4.0 * t * t


LOADS = [pytest.param(square, square_j, id="square wave"), pytest.param(ramp, ramp_j, id="ramp")]


def counted(node: NodeSpool, t: float, power: Function, energy: Function, lag: float, resolution: float) -> list[float]:
    """[energy, its time, power, its time]: a counter that is updated every 100 ms, in whole steps, read `lag` later."""
    at = math.floor((t - lag) * 10) / 10 + 0.013
    offset = node.mono(0.0) / 1e9
    return [math.floor((1e6 + energy(at)) / resolution) * resolution, at + offset, power(t), t + offset]


@pytest.mark.parametrize(("power", "energy"), LOADS)
@pytest.mark.parametrize("resolution", [1e-3, 1.0])
def test_a_counter_is_exact_to_a_thousandth_whatever_the_load(
    run: RunSpool, power: Function, energy: Function, resolution: float
) -> None:
    gpu = meter("gpu", "GPU-1", "gpu")
    node = run.node("n1", metrics_of(gpu, energy=resolution))
    sampled(node, ticks(), lambda t: counted(node, t, power, energy, 0.02, resolution))
    found = report(run)
    exact = energy(LOAD_S) - energy(0.0)
    assert found.gpu_energy_j == pytest.approx(exact, rel=1e-3)
    assert (found.gpu_method, found.method, found.gpu_coverage) == ("measured", "measured", 1.0)
    assert row(found, "GPU-1").ratio == pytest.approx(1.0, abs=0.4)  # of the wave, 1 Hz sees no more in the power


@pytest.mark.parametrize(("power", "energy"), LOADS)
def test_power_at_ten_hertz_is_integrated_to_a_hundredth_and_called_so(
    run: RunSpool, power: Function, energy: Function
) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), energy=0.0, stamped=False), interval_s=0.1)
    sampled(node, ticks(10.0), lambda t: [power(t)])
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(energy(LOAD_S) - energy(0.0), rel=0.01)
    assert (found.gpu_method, found.method) == ("integrated", "integrated")
    assert found.coverage == pytest.approx(1.0)
    assert row(found, "GPU-1").reason == "it has no counter that was read"


def test_a_curve_that_the_device_recorded_itself_is_integrated_instead_of_the_samples(run: RunSpool) -> None:
    gpu = meter("gpu", "GPU-1", "gpu")
    node = run.node("n1", metrics_of(gpu, energy=0.0, stamped=False), traced=[gauge("hw.power", "W", 1.0, gpu)])
    for t in ticks():
        node.sample(t, [300.0])  # at 1 Hz the wave looks as if it stood
        times = [t - 1 + 0.02 * i for i in range(50)]
        node.trace(t, (0, times, [square(x) for x in times]))
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(square_j(LOAD_S) - square_j(0.0), rel=1e-3)
    assert found.gpu_method == "integrated"


def test_a_curve_with_holes_gives_way_to_the_samples(run: RunSpool) -> None:
    gpu = meter("gpu", "GPU-1", "gpu")
    node = run.node("n1", metrics_of(gpu, energy=0.0, stamped=False), traced=[gauge("hw.power", "W", 1.0, gpu)])
    for t in ticks():
        node.sample(t, [300.0])
        times = [t - 0.5 + 0.02 * i for i in range(25)]
        node.trace(t, (0, times, [900.0] * 25))
    assert report(run).gpu_energy_j == pytest.approx(300.0 * LOAD_S)


@pytest.mark.parametrize(("power", "energy"), LOADS)
def test_a_reset_in_the_middle_is_filled_by_the_power_and_told(
    run: RunSpool, power: Function, energy: Function
) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu")), interval_s=0.1)

    def values(t: float) -> list[float]:
        out = counted(node, t, power, energy, 0.02, 1e-3)
        return out if t < 30.55 else [max(0.0, out[0] - 1e6 - energy(30.47)), *out[1:]]

    sampled(node, ticks(10.0), values)
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(energy(LOAD_S) - energy(0.0), rel=1e-3)
    only = row(found, "GPU-1")
    assert (found.gpu_method, only.method, only.resets, only.coverage) == ("estimated", "estimated", 1, 1.0)
    assert found.notes == ("n1: gpu/GPU-1 is estimated: its counter began anew",)


def test_a_reset_without_power_counts_what_the_new_counter_says_and_is_not_covered(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), power=False, stamped=False))
    for t in range(61):
        node.sample(t, [5000.0 + 100.0 * t if t <= 30 else 100.0 * t - 3060.0])  # begun anew 0.6 s after that sample
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(6000.0 - 60.0)
    assert found.gpu_method == "estimated"
    assert found.gpu_coverage == pytest.approx(59 / 60)


def test_a_counter_that_slips_back_a_little_does_not_count_all_of_itself(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), power=False, stamped=False))
    for t in range(61):
        node.sample(t, [1e9 + 100.0 * t - (150.0 if t == 30 else 0.0)])
    assert report(run).gpu_energy_j == pytest.approx(6000.0, rel=0.05)


def test_a_cray_counter_that_rises_across_a_restart_of_its_controller_is_no_growth(run: RunSpool) -> None:
    cray = meter("cray", "node", "node")
    node = run.node("n1", [*metrics_of(cray, energy=1.0), counter("yprov.cray.resets", "{reset}", 1, cray)])
    for t in ticks():
        at = t + node.mono(0.0) / 1e9
        node.sample(t, [500.0 * t + (0.0 if t < 30.5 else 1e6), at, 500.0, at, 0.0 if t < 30.5 else 1.0])
    found = report(run)
    assert found.energy_j == pytest.approx(500.0 * LOAD_S, rel=1e-6)
    assert (found.method, row(found, "node").resets) == ("estimated", 1)


def test_a_stuck_counter_is_not_used_and_its_power_is(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), stamped=False))
    sampled(node, ticks(), lambda t: [12345.0, 100.0])
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(100.0 * LOAD_S)
    only = row(found, "GPU-1")
    assert (only.method, only.ratio) == ("integrated", 0.0)
    assert found.notes == ("n1: gpu/GPU-1 is integrated: its counter grew by 0 J while its power integrates to 6100 J",)


@pytest.mark.parametrize(("factor", "method"), [(0.05, "integrated"), (0.2, "measured"), (1.0, "measured"),
                                                (5.0, "measured"), (20.0, "integrated")])
def test_a_counter_is_believed_within_a_tenth_and_ten_times_its_power(
    run: RunSpool, factor: float, method: str
) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), stamped=False))
    sampled(node, ticks(), lambda t: [factor * 100.0 * t, 100.0])
    found = report(run)
    assert (found.gpu_method, row(found, "GPU-1").method) == (method, method)
    assert row(found, "GPU-1").ratio == pytest.approx(factor)
    assert found.gpu_energy_j == pytest.approx((factor if method == "measured" else 1.0) * 6000.0, rel=0.01)


@pytest.mark.parametrize(("watts", "resolution"), [(0.1, 1e-3), (0.9, 10.0)])
def test_an_integral_that_is_too_small_says_nothing_of_a_counter(
    run: RunSpool, watts: float, resolution: float
) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), energy=resolution, stamped=False))
    sampled(node, ticks(), lambda t: [7.0, watts])
    assert report(run).gpu_method == "measured"


def test_readings_with_one_time_are_one_reading(run: RunSpool) -> None:
    """A counter that is updated every two seconds, sampled every half: what it shows in between is old."""
    node = run.node("n1", metrics_of(meter("cray", "node", "node"), power=False, energy=1.0), interval_s=0.5)
    offset = node.mono(0.0) / 1e9
    sampled(node, ticks(2.0), lambda t: [100.0 * (t // 2 * 2), t // 2 * 2 + offset])
    rank = run.process("n1", rank=0)
    with rank.span(10.5, 11.5, "context", "training"):
        pass
    run.finish(LOAD_S)
    got = attribute(run.record())
    assert got.energy.energy_j == pytest.approx(100.0 * LOAD_S)
    assert got.accounts[1].energy_j == pytest.approx(100.0)


def test_a_counter_is_continued_for_a_second_and_no_longer(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("cray", "node", "node"), power=False, energy=1.0))
    offset = node.mono(0.0) / 1e9
    for t in range(10, 51):
        node.sample(t, [100.0 * t, t + offset])
    found = report(run)
    assert found.energy_j == pytest.approx(4200.0)
    assert found.coverage == pytest.approx(42 / 60)
    assert found.method == "measured"


def test_a_counter_that_is_read_every_ten_seconds_is_continued_to_the_end_by_its_power(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), stamped=False))
    sampled(node, ticks(), lambda t: [ramp_j(t) if round(t) % 11 == 0 else math.nan, ramp(t)])
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(ramp_j(LOAD_S), rel=1e-3)
    assert (found.gpu_method, found.gpu_coverage) == ("estimated", 1.0)
    assert "before the end" in row(found, "GPU-1").reason


def test_the_edges_of_the_run_are_continued_by_the_power_where_there_is_one(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), stamped=False))
    for t in range(61):
        node.sample(t, [100.0 * min(t, 59), 100.0 if t < 59 else 700.0])
    assert report(run).gpu_energy_j == pytest.approx(5900.0)  # it was read at the very end: nothing to continue


def test_a_gap_in_the_power_is_not_bridged_and_not_covered(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("hwmon", "node", "node"), energy=0.0, stamped=False))
    sampled(node, [t for t in ticks() if not 20 < t < 30], lambda t: [100.0], late=0.0)
    found = report(run)
    assert found.energy_j == pytest.approx(5000.0)
    assert found.coverage == pytest.approx(50 / 60)


def test_a_gap_in_a_counter_is_measured_all_the_same(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("hwmon", "node", "node"), power=False, stamped=False))
    sampled(node, [t for t in ticks() if not 20 < t < 30], lambda t: [100.0 * t], late=0.0)
    found = report(run)
    assert (found.energy_j, found.coverage, found.method) == (pytest.approx(6000.0), 1.0, "measured")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_meter_without_a_finite_value_is_absent_with_a_reason(run: RunSpool, bad: float) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu")) + metrics_of(
        meter("gpu", "GPU-2", "gpu"), power=False, stamped=False))
    sampled(node, ticks(), lambda t: [bad, bad, bad, bad, 100.0 * t], late=0.0)
    found = report(run)
    dead = row(found, "GPU-1")
    assert (dead.method, dead.energy_j, dead.counts, dead.counts_gpu) == ("absent", None, False, False)
    assert dead.reason == "its counter and its power were never read"
    assert found.gpu_energy_j == pytest.approx(6000.0)
    assert found.gpu_coverage == pytest.approx(0.5)  # one of two
    assert found.notes == ("n1: gpu/GPU-1 is not in the sum: its counter and its power were never read",)


def test_a_counter_that_fell_silent_gives_way_to_the_power(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), stamped=False))
    sampled(node, ticks(), lambda t: [100.0 * t if t < 20 else math.nan, 100.0], late=0.0)
    found = report(run)
    assert (found.gpu_energy_j, found.gpu_method) == (pytest.approx(6000.0), "integrated")
    assert row(found, "GPU-1").reason == "its counter was read for 19 s only"


def test_a_stamp_that_is_newer_than_its_sample_is_none(run: RunSpool) -> None:
    node = run.node("n1", metrics_of(meter("cray", "node", "node"), power=False))
    offset = node.mono(0.0) / 1e9
    sampled(node, ticks(), lambda t: [100.0 * t, t + offset + (1e6 if 10 < t < 11 else 0.0)], late=0.0)
    sampled(node, [70.0], lambda t: [0.0, math.nan])
    assert report(run).energy_j == pytest.approx(6000.0)


def test_the_average_power_stands_in_where_there_is_no_other(run: RunSpool) -> None:
    gpu = meter("gpu", "GPU-1", "gpu")
    node = run.node("n1", [gauge("hw.power", "W", 1.0, gpu), gauge("hw.power.average", "W", 1.0, gpu)])
    sampled(node, ticks(), lambda t: [math.nan, 100.0])
    assert report(run).gpu_energy_j == pytest.approx(6000.0)


@pytest.mark.parametrize("wrong", [0.0, 1.8e16])
def test_one_reading_that_is_out_of_the_order_of_its_neighbours_is_none(run: RunSpool, wrong: float) -> None:
    node = run.node("n1", metrics_of(meter("gpu", "GPU-1", "gpu"), power=False, stamped=False))
    sampled(node, ticks(), lambda t: [wrong if t == 30 else 1e6 + 100.0 * t], late=0.0)
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(6000.0)
    assert (found.gpu_method, row(found, "GPU-1").resets) == ("measured", 0)


def test_a_fall_that_the_controller_tells_of_is_a_restart_even_if_the_counter_is_soon_where_it_was(
    run: RunSpool,
) -> None:
    cray = meter("cray", "node", "node")
    node = run.node("n1", [*metrics_of(cray, energy=1.0, power=False, stamped=False),
                           counter("yprov.cray.resets", "{reset}", 1, cray)])
    values = [0.0, 500.0, 1000.0, 400.0, 1400.0, *(1400.0 + 500.0 * i for i in range(1, 57))]
    for t, joules in enumerate(values):
        node.sample(t, [joules, float(t >= 3)])
    found = report(run)
    assert (found.method, row(found, "node").resets) == ("estimated", 1)


def test_what_rapl_counted_between_two_daemons_is_not_known_and_not_covered(run: RunSpool) -> None:
    metrics = metrics_of(meter("rapl", "package-0", "cpu"), power=False, stamped=False)
    first = run.node("n1", metrics)
    for t in range(31):
        first.sample(t, [5000.0 + 100.0 * t])
    second = run.node("n1", metrics, at=40.0)
    for t in range(40, 62):
        second.sample(t, [100.0 * (t - 39)])  # the hardware's counter has gone round
    found = report(run)
    assert (found.energy_j, found.method) == (pytest.approx(5000.0), "measured")
    assert found.coverage == pytest.approx(50 / 60)


def test_a_meter_that_has_nothing_of_the_run_is_absent_and_not_0(run: RunSpool) -> None:
    """A controller whose clock is five minutes behind; a GPU that was lost before the command began."""
    cray, gpu = meter("cray", "node", "node"), meter("gpu", "GPU-1", "gpu")
    node = run.node("n1", metrics_of(cray, energy=1.0) + metrics_of(gpu, stamped=False))
    behind = node.mono(0.0) / 1e9 - 300
    lost = [math.nan, math.nan]
    for t in (-4, -3, -2):
        node.sample(t, [500.0 * t + 4000.0, t + behind, 500.0, t + behind, 100.0 * t + 1000.0, 100.0])
    sampled(node, ticks(), lambda t: [500.0 * t + 4000.0, t + behind, 500.0, t + behind, *lost])
    found = report(run)
    assert (found.energy_j, found.method, found.gpu_energy_j, found.gpu_method) == (None, "absent", None, "absent")
    assert found.reason == "it has no value of the time of the run"
    assert [(r.method, r.energy_j, r.counts) for r in found.rows] == [("absent", None, False)] * 2
