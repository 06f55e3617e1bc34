"""Which meters make up the energy of a node and of a run, by the rule of `yprovd.stitch.energy`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.stitch.builders import RunSpool, counter, gauge, package
from tests.stitch.loads import levels, meter, metrics_of, report, sampled, ticks
from yprovd.model import Device
from yprovd.stitch.facts import energy_attributes


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="load")
    return spool


FRONTIER = {
    "node": (meter("cray", "node", "node"), 2000.0), "cpu": (meter("cray", "cpu", "cpu"), 200.0),
    "memory": (meter("cray", "memory", "memory"), 80.0),
    **{f"accel{i}": (meter("cray", f"accel{i}", "gpu"), 420.0) for i in range(4)},
    **{f"oam{i}": (meter("socket", f"oam-{i}", "gpu", members=f"gcd-{2 * i},gcd-{2 * i + 1}"), 400.0 + i)
       for i in range(4)},
    "gcd": (Device("gpu", "gcd-0", "MI250X", {"vendor": "amd"}), 9e9),  # not a meter: the socket's figure again
    "package-0": (meter("rapl", "package-0", "cpu"), 190.0),
}


def test_the_energy_of_a_cray_node_is_its_node_meter_and_that_of_its_gpus_the_four_oams(run: RunSpool) -> None:
    levels(run, FRONTIER)
    found = report(run)
    assert found.energy_j == pytest.approx(2000.0 * 60)
    assert (found.scope, found.not_covered, found.meters) == ("node", (), ("n1: cray/node",))
    assert found.gpu_energy_j == 60 * (400.0 + 401.0 + 402.0 + 403.0)
    assert [r.device for r in found.rows if r.counts_gpu] == [f"oam-{i}" for i in range(4)]
    assert "gcd-0" not in {r.device for r in found.rows}


@pytest.mark.parametrize(("without", "expected", "scope", "gpu"), [
    (("oam0", "oam1", "oam2", "oam3"), 2000.0, "node", 4 * 420.0),
    (("node",), 200.0 + 80.0 + 1606.0, "partial", 1606.0),
    (("node", "cpu"), 190.0 + 80.0 + 1606.0, "partial", 1606.0),
    (("node", "cpu", "memory", "package-0"), 1606.0, "partial", 1606.0),
])
def test_what_is_missing_is_replaced_by_the_next_best(
    run: RunSpool, without: tuple[str, ...], expected: float, scope: str, gpu: float
) -> None:
    levels(run, {k: v for k, v in FRONTIER.items() if k not in without})
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(60 * expected), scope)
    assert found.gpu_energy_j == pytest.approx(60 * gpu)


NO_SOCKETS = {k: v for k, v in FRONTIER.items() if not k.startswith("oam")}


@pytest.mark.parametrize("reason", ["none of 4 AMD GPUs is the job's: ROCR_VISIBLE_DEVICES=5",
                                    "the driver shows this step no GPU: Slurm gave it none"])
def test_a_job_without_gpus_has_no_energy_of_gpus(run: RunSpool, reason: str) -> None:
    levels(run, NO_SOCKETS, absences=[("amd", reason)])
    found = report(run)
    assert found.energy_j == pytest.approx(2000.0 * 60)
    assert found.gpu_energy_j is None
    assert found.notes == ()


def test_gpus_that_could_not_be_read_are_named_among_what_is_missing(run: RunSpool) -> None:
    levels(run, {"package-0": FRONTIER["package-0"]}, absences=[
        ("nvidia", "none of 8 GPUs answers: unknown error"), ("amd", "no GPU of the amdgpu driver in /sys/class/drm")])
    found = report(run)
    assert found.not_covered[:2] == ("memory", "GPUs")
    assert found.notes == ("n1: nvidia: none of 8 GPUs answers: unknown error",)


def test_gpus_that_could_not_be_read_are_why_there_is_no_figure(run: RunSpool) -> None:
    node = run.node("n1", [gauge("system.cpu.utilization")], absences=[
        ("nvidia", "the driver and its library are of different versions"), ("rapl", "no RAPL zone")])
    node.sample(1.0, [0.5])
    assert report(run).reason == "nvidia: the driver and its library are of different versions"


def test_meters_of_gpus_that_others_stand_in_for_are_told(run: RunSpool) -> None:
    devices = [d for d, _w in FRONTIER.values()]
    node = run.node("n1", [counter("hw.energy", "J", 1e-3, d) for d in devices])
    sampled(node, ticks(), lambda t: [math.nan if d.cls == "socket" and t > 20.0 else w * t
                                      for d, w in FRONTIER.values()], late=0.0)
    found = report(run)
    assert found.gpu_energy_j == pytest.approx(4 * 420.0 * 60)
    assert [n for n in found.notes if "oam-0" in n] == ["n1: socket/oam-0 does not count: it covers 33 % of the run"]


def test_a_partial_sum_says_what_is_not_in_it(run: RunSpool) -> None:
    levels(run, {"cpu": (meter("rapl", "package-0", "cpu"), 100.0), "gpu": (Device("gpu", "GPU-1"), 0.0)})
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(6000.0), "partial")
    assert found.not_covered == ("memory", "GPUs", "network, disks, cooling and power supplies")
    assert (found.gpu_energy_j, found.gpu_method, found.gpu_scope) == (None, "absent", "")


def test_an_acpi_meter_of_the_node_comes_before_rapl_and_after_a_cray(run: RunSpool) -> None:
    acpi, cray = (meter("hwmon", "node", "node"), 900.0), (meter("cray", "node", "node"), 1000.0)
    levels(run, {"acpi": acpi, "cpu": (meter("rapl", "package-0", "cpu"), 100.0)})
    levels(run, {"acpi": acpi, "cray": cray}, "n2")
    found = report(run)
    assert found.meters == ("n1: hwmon/node", "n2: cray/node")
    assert found.energy_j == pytest.approx(60 * 1900.0)


def test_psys_and_the_gpus_are_a_platform_and_its_packages_are_not_added(run: RunSpool) -> None:
    devices = {"psys": (meter("rapl", "psys", "platform"), 300.0), "gpu": (meter("gpu", "GPU-1", "gpu"), 400.0),
               "cpu": (meter("rapl", "package-0", "cpu", summed=False), 100.0)}
    levels(run, devices)
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(60 * 700.0), "platform")
    assert found.not_covered == ("network, disks, cooling and power supplies",)


def test_packages_count_where_psys_does_not(run: RunSpool) -> None:
    psys, cpu = meter("rapl", "psys", "platform"), meter("rapl", "package-0", "cpu", summed=False)
    node = run.node("n1", [counter("hw.energy", "J", 1e-6, d) for d in (psys, cpu)])
    sampled(node, ticks(), lambda t: [math.nan, 100.0 * t], late=0.0)
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(6000.0), "partial")


def test_modules_of_processor_and_gpu_are_the_node_and_nothing_is_added(run: RunSpool) -> None:
    levels(run, {"module": (meter("hwmon", "module-0", "module"), 700.0), "gpu": (meter("gpu", "GPU-1", "gpu"), 450.0),
                 "grace": (meter("hwmon", "grace-0", "cpu"), 200.0)})
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(60 * 700.0), "module")
    assert (found.gpu_energy_j, found.gpu_scope) == (pytest.approx(60 * 450.0), "gpu")


def test_a_gpu_that_only_knows_its_module_is_labelled_and_the_processor_not_added(run: RunSpool) -> None:
    levels(run, {"gpu": (meter("gpu", "GPU-1", "module"), 700.0), "grace": (meter("hwmon", "grace-0", "cpu"), 200.0)})
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(60 * 700.0), "module")
    assert (found.gpu_energy_j, found.gpu_scope) == (pytest.approx(60 * 700.0), "module")


def test_a_node_meter_that_says_nothing_is_passed_over_and_told(run: RunSpool) -> None:
    cray, cpu = meter("cray", "node", "node"), meter("rapl", "package-0", "cpu")
    node = run.node("n1", [*metrics_of(cray), counter("hw.energy", "J", 1e-6, cpu)])
    offset = node.mono(0.0) / 1e9
    # the controller hangs from the third second on: one time, for ever
    sampled(node, ticks(), lambda t: [500.0 * min(t, 3), min(t, 3) + offset, math.nan, math.nan, 100.0 * t], late=0.0)
    found = report(run)
    assert (found.energy_j, found.scope) == (pytest.approx(6000.0), "partial")
    assert found.notes == ("n1: cray/node does not count: it covers 7 % of the run",)


def test_a_stuck_node_counter_with_power_is_integrated_and_still_the_node(run: RunSpool) -> None:
    cray, cpu = meter("cray", "node", "node"), meter("rapl", "package-0", "cpu")
    node = run.node("n1", [*metrics_of(cray, stamped=False), counter("hw.energy", "J", 1e-6, cpu)])
    sampled(node, ticks(), lambda t: [77.0, 500.0, 100.0 * t], late=0.0)
    found = report(run)
    assert (found.energy_j, found.scope, found.method) == (pytest.approx(30000.0), "node", "integrated")


def test_of_a_sum_the_weakest_part_gives_the_name(run: RunSpool) -> None:
    one, two = meter("gpu", "GPU-1", "gpu"), meter("gpu", "GPU-2", "gpu")
    node = run.node("n1", [counter("hw.energy", "J", 1e-3, one), gauge("hw.power", "W", 1.0, two)])
    sampled(node, ticks(), lambda t: [100.0 * t, 50.0], late=0.0)
    found = report(run)
    assert (found.gpu_energy_j, found.gpu_method) == (pytest.approx(9000.0), "integrated")
    assert [r.method for r in found.rows] == ["measured", "integrated"]


def test_rapl_of_before_the_attribute_is_what_it_was(run: RunSpool) -> None:
    node = run.node("n1", [counter("hw.energy", "J", 1e-6, package(0)), counter("hw.energy", "J", 1e-6, package(1)),
                           counter("hw.energy", "J", 1e-6, package(0, summed=False))])
    for t in range(61):
        node.sample(t, [10.0 * t, 5.0 * t, 1.0 * t])
    found = report(run)
    assert (found.energy_j, found.method, found.coverage, found.scope) == (900.0, "measured", 1.0, "partial")


# the run


def test_a_run_is_the_sum_of_its_nodes_and_as_good_as_the_least_of_them(run: RunSpool) -> None:
    levels(run, FRONTIER)
    levels(run, {"cpu": (meter("rapl", "package-0", "cpu"), 100.0)}, "n2")
    run.node("n3", [gauge("system.cpu.utilization")], absences=[("rapl", "no RAPL here")]).sample(1.0, [0.5])
    found = report(run)
    assert found.energy_j == pytest.approx(60 * 2100.0)
    assert (found.scope, found.coverage) == ("partial", pytest.approx(2 / 3))
    assert found.reason == "1 of 3 nodes have no meter: no RAPL here"
    assert found.not_covered == ("n2: memory", "n2: network, disks, cooling and power supplies", "n3: all of it")
    assert (found.gpu_energy_j, found.gpu_coverage) == (pytest.approx(60 * 1606.0), 1.0)


def test_the_energy_of_a_node_of_which_nothing_was_heard_is_not_in_the_figure_and_that_is_said(run: RunSpool) -> None:
    run.begin(daemons={"expected": ["n1", "n2", "n3", "n4"], "ready": ["n1", "n2", "n3"], "dark": ["n4"]})
    for host in ("n1", "n2", "n3"):
        levels(run, {"node": (meter("cray", "node", "node"), 100.0), "gpu": (meter("gpu", "G", "gpu"), 50.0)}, host)
    found = report(run)
    assert found.energy_j == pytest.approx(3 * 60 * 100.0)
    assert (found.scope, found.coverage, found.gpu_coverage) == ("partial", pytest.approx(0.75), pytest.approx(0.75))
    assert found.reason == "nothing was heard of 1 of 4 nodes"
    assert found.not_covered == ("n4: all of it",)
    assert found.gpus_not_covered == ("n4",)
    text = energy_attributes(found)["yp:energyText"]
    assert "of a part of the nodes" in text
    assert "without n4: all of it" in text
    assert "75 %" in text


def test_gpus_of_one_node_that_could_not_be_read_are_not_in_the_figure_of_the_gpus(run: RunSpool) -> None:
    levels(run, {"node": (meter("cray", "node", "node"), 200.0), "gpu": (meter("gpu", "G", "gpu"), 50.0)})
    levels(run, {"node": (meter("cray", "node", "node"), 200.0)}, "n2",
           absences=[("nvidia", "the driver and its library are of different versions")])
    found = report(run)
    assert (found.energy_j, found.scope, found.coverage) == (pytest.approx(60 * 400.0), "node", pytest.approx(1.0))
    assert (found.gpu_energy_j, found.gpu_coverage) == (pytest.approx(60 * 50.0), pytest.approx(0.5))
    assert "are the GPUs (without those of n2)" in energy_attributes(found)["yp:energyText"]


@pytest.mark.parametrize(("facts", "shared"), [
    ({}, False), ({"cpu_count": 4, "node_count": 1}, False),
    ({"cpu_count": 4, "node_count": 1, "other": {"OverSubscribe": "NO"}}, False),
    ({"cpu_count": 8, "node_count": 1, "other": {"OverSubscribe": "OK"}}, False),
    ({"cpu_count": 4, "node_count": 1, "other": {"OverSubscribe": "OK"}}, True),
])
def test_a_job_with_a_part_of_its_node_shares_the_figure(run: RunSpool, facts: dict[str, Any], shared: bool) -> None:
    node = run.node("n1", [counter("hw.energy", "J", 1e-6, meter("rapl", "package-0", "cpu"))],
                    facts={"logical_cpus": 8})
    sampled(node, ticks(), lambda t: [100.0 * t])
    run.begin(scheduler={"name": "slurm", "job_id": "7", **facts})
    assert report(run).shared is shared


def test_a_device_that_others_may_use_makes_the_figure_shared(run: RunSpool) -> None:
    levels(run, {"gpu": (meter("gpu", "GPU-1", "gpu", shared=True), 400.0)})
    assert report(run).shared


def test_rows_of_all_meters_add_up_to_the_figures(run: RunSpool) -> None:
    levels(run, FRONTIER)
    levels(run, FRONTIER, "n2")
    found = report(run)
    assert sum(r.energy_j or 0.0 for r in found.rows if r.counts) == pytest.approx(found.energy_j, rel=1e-12)
    assert sum(r.energy_j or 0.0 for r in found.rows if r.counts_gpu) == pytest.approx(found.gpu_energy_j, rel=1e-12)
    assert len(found.rows) == 2 * 12
