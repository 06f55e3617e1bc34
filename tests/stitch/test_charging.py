"""To whom the energy of GPUs goes, and that all parts of a node add up to its figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stitch.builders import RunSpool, counter, gauge
from tests.stitch.loads import LOAD_S, levels, meter, sampled, ticks
from tests.stitch.test_attribution import in_memory, stretches, whole
from yprovd.model import Device, Schema
from yprovd.stitch.attribution import Attribution, attribute
from yprovd.stitch.record import Samples


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="load")
    return spool


def train(run: RunSpool, owned: dict[int, str], *, host: str = "n1") -> Attribution:
    """A rank for each GPU, in `training` from 10 to 50 s; rank 1 alone validates from 50 to 55 s."""
    ranks = [run.process(host, rank=r, devices={"CUDA_VISIBLE_DEVICES": gpu}) for r, gpu in owned.items()]
    for rank in ranks:
        with rank.span(10.0, 50.0, "context", "training"), rank.span(20.0, 30.0, "epoch", 0):
            pass
    with ranks[1].span(50.0, 55.0, "context", "validation"):
        pass
    for rank in ranks:
        rank.exit(60.0)
    run.finish(LOAD_S)
    return attribute(run.record())


def gpu(n: int) -> Device:
    uuid = f"GPU-{n:08d}-0000-0000-0000-000000000000"
    return Device("gpu", uuid, "H100", {"meter": "gpu", "summed": True, "vendor": "nvidia", "index": n, "uuid": uuid})


H100 = {"cpu": (meter("rapl", "package-0", "cpu"), 100.0), "one": (gpu(0), 300.0), "two": (gpu(1), 500.0)}


@pytest.mark.parametrize("node", [False, True])
def test_a_gpus_energy_goes_to_the_rank_that_owns_it_and_the_rest_to_the_lowest(run: RunSpool, node: bool) -> None:
    devices = H100 | ({"node": (meter("cray", "node", "node"), 1400.0)} if node else {})
    levels(run, devices)
    got = train(run, {0: gpu(0).id, 1: gpu(1).id})
    a = {"/".join(x.path): x for x in got.accounts}
    total = 1400.0 if node else 900.0
    rest = total - 800.0
    assert a[""].energy_j == pytest.approx(60 * total)
    assert a["ctx/training"].energy_j == pytest.approx(40 * total)
    assert a["ctx/training"].gpu_energy_j == pytest.approx(40 * 800.0)
    assert a["ctx/training/epoch/0"].gpu_energy_j == pytest.approx(10 * 800.0)
    assert a["ctx/training/epoch/0"].energy_j == pytest.approx(10 * total)
    # Rank 1 has its GPU in it; rank 0, whose the rest is, is outside of any span.
    assert a["ctx/validation"].energy_j == pytest.approx(5 * 500.0)
    assert a["ctx/validation"].gpu_energy_j == pytest.approx(5 * 500.0)
    assert a[""].energy_outside_j == pytest.approx(60 * total - 40 * total - 5 * 500.0)
    assert a[""].gpu_energy_outside_j == pytest.approx(15 * 800.0 + 5 * 300.0)
    assert got.span_energy_j[0] == pytest.approx(40 * (300.0 + rest))  # of rank 0
    assert got.span_energy_j[1] == pytest.approx(40 * 500.0)


def test_gpu_hours_are_those_of_the_owned_devices(run: RunSpool) -> None:
    levels(run, H100)
    a = {"/".join(x.path): x for x in train(run, {0: gpu(0).id, 1: gpu(1).id}).accounts}
    hours = {path: (x.gpu_hours or 0.0) * 3600 for path, x in a.items()}
    assert hours == pytest.approx(
        {"": 120.0, "ctx/training": 80.0, "ctx/training/epoch/0": 20.0, "ctx/validation": 5.0})


def test_a_gpu_that_nobody_is_known_to_own_goes_to_the_lowest_rank(run: RunSpool) -> None:
    levels(run, H100)
    ranks = [run.process("n1", rank=r) for r in (0, 1)]
    for i, rank in enumerate(ranks):
        with rank.span(10.0, 20.0 + 10 * i, "context", f"c{i}"):
            pass
        rank.exit(60.0)
    run.finish(LOAD_S)
    a = {"/".join(x.path): x for x in attribute(run.record()).accounts}
    assert a["ctx/c0"].energy_j == pytest.approx(10 * 900.0)
    assert a["ctx/c1"].energy_j is None


def test_the_energy_of_an_oam_goes_to_the_lowest_of_the_ranks_on_its_dies(run: RunSpool) -> None:
    oam = meter("socket", "oam-0000:c1:00.0", "gpu", members="0000:c1:00.0,0000:c6:00.0", vendor="amd")
    dies = [Device("gpu", pci, "MI250X", {"vendor": "amd", "index": i, "pci": pci, "socket": oam.id})
            for i, pci in enumerate(["0000:c1:00.0", "0000:c6:00.0"])]
    metrics = [counter("hw.energy", "J", 1e-6, oam), *(gauge("hw.gpu.utilization", "1", 0.01, d) for d in dies)]
    node = run.node("n1", metrics, facts={"devices": {"SLURM_JOB_GPUS": "0,1"}})
    sampled(node, ticks(), lambda t: [500.0 * t, 0.9, 0.8], late=0.0)
    ranks = [run.process("n1", rank=r, devices={"ROCR_VISIBLE_DEVICES": str(r)}) for r in (0, 1)]
    for rank, name in zip(ranks, ("zero", "one"), strict=True):
        with rank.span(10.0, 20.0, "context", name):
            pass
        rank.exit(60.0)
    run.finish(LOAD_S)
    a = {"/".join(x.path): x for x in attribute(run.record()).accounts}
    assert a["ctx/zero"].gpu_energy_j == pytest.approx(5000.0)
    assert a["ctx/one"].gpu_energy_j in (None, pytest.approx(0.0))
    assert a[""].gpu_hours == pytest.approx(120 / 3600)


def test_peak_gpu_memory_is_that_of_all_devices_together(run: RunSpool) -> None:
    for host in ("n1", "n2"):
        node = run.node(host, [gauge("hw.gpu.memory.usage", "By", 1 << 20, gpu(i)) for i in (0, 1)])
        for t in range(61):
            node.sample(t, [2.0**30 * (8 if t == 15 else 1), math.nan if t == 16 else 2.0**30])
    rank = run.process("n1", rank=0)
    with rank.span(10.0, 20.0, "context", "training"):
        pass
    with rank.span(30.0, 40.0, "context", "other"):
        pass
    run.finish(LOAD_S)
    a = {"/".join(x.path): x for x in attribute(run.record()).accounts}
    assert a[""].gpu_memory_peak_bytes == 18 * 2.0**30
    assert a["ctx/training"].gpu_memory_peak_bytes == 18 * 2.0**30
    assert a["ctx/other"].gpu_memory_peak_bytes == 4 * 2.0**30


def test_a_run_without_gpus_says_nothing_of_them(run: RunSpool) -> None:
    levels(run, {"cpu": (meter("rapl", "package-0", "cpu"), 100.0)})
    rank = run.process("n1", rank=0)
    with rank.span(10.0, 20.0, "context", "training"):
        pass
    run.finish(LOAD_S)
    for a in attribute(run.record()).accounts:
        assert (a.gpu_energy_j, a.gpu_energy_outside_j, a.gpu_hours, a.gpu_memory_peak_bytes) == (None,) * 4


# any run at all


@given(
    st.lists(st.tuples(st.lists(st.floats(0, 1e4), min_size=2, max_size=12), st.booleans()), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2]), st.sampled_from([None, 0, 1]), stretches()),
             max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_parts_of_a_node_and_its_gpus_add_up_to_the_joule(
    nodes: list[tuple[list[float], bool]], processes: list[tuple[int, int | None, int | None, Any]]
) -> None:
    """`nodes`: joules of each tick, and whether a meter of the node holds that of its two GPUs; `processes`: node,
    rank, GPU, spans."""
    processes = sorted(((n % len(nodes), rank, own, spans) for n, rank, own, spans in processes),
                       key=lambda p: (p[1] is None, p[1] or 0))
    record = in_memory([joules for joules, _held in nodes], [(n, rank, spans) for n, rank, _own, spans in processes])
    for (_n, _rank, own, _spans), process in zip(processes, record.processes, strict=True):
        process.attributes["devices"] = {} if own is None else {"CUDA_VISIBLE_DEVICES": gpu(own).id}
    expected, gpus, metered = 0.0, 0.0, False
    for n, (joules, held) in enumerate(nodes):
        host = meter("cray", "node", "node") if held else meter("rapl", "package-0", "cpu")
        schema = Schema(10**9, tuple(counter("hw.energy", "J", 1e-6, d) for d in (host, gpu(0), gpu(1))))
        (old,) = record.nodes[n].samples
        total = np.cumsum(joules)
        values = np.column_stack([total, 0.5 * total, np.sqrt(total)])
        record.nodes[n].samples = [Samples(schema, old.nominal_ns, old.wall_ns, old.mono_ns, values)]
        times = np.arange(len(joules)) + 0.1 * n
        metered = metered or times[-1] > 1  # else it has nothing of the run, and no figure, which is not 0
        node, one, two = (float(np.diff(np.interp([1, 9], times, column))[0]) for column in values.T)
        expected += node if held else node + one + two
        gpus += one + two
    got = attribute(record)
    whole(got)
    assert got.accounts[0].energy_j == (pytest.approx(expected, rel=1e-9, abs=1e-9) if metered else None)
    assert got.accounts[0].gpu_energy_j == (pytest.approx(gpus, rel=1e-9, abs=1e-9) if metered else None)
    parts = sum(r.energy_j or 0.0 for r in got.energy.rows if r.counts)
    assert got.energy.energy_j == (pytest.approx(parts, abs=1e-6) if metered else None)
