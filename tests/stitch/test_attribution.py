"""Who is charged: runs whose power is known, so that every figure can be said beforehand."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stitch.builders import NodeSpool, ProcessSpool, RunSpool, counter, gauge, ns, offset_ns, package
from yprovd.model import Device, Schema
from yprovd.stitch.attribution import Account, Attribution, attribute
from yprovd.stitch.record import MetricTable, Node, Process, Record, Samples, Span

METERS = [counter("hw.energy", "J", 1e-6, package(0)), counter("hw.energy", "J", 1e-6, package(1)),
          counter("hw.energy", "J", 1e-6, package(0, summed=False)), counter("process.cpu.time", "s", 0.01),
          gauge("process.memory.rss", "By", 1)]


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin(name="demo")
    return spool


def metered(run: RunSpool, host: str, until: float = 10.0, *, watt: float = 100.0, cpus: float = 2.0) -> NodeSpool:
    """A node that burns `watt` on two packages, with `cpus` processors at work and 1 GB more every second."""
    node = run.node(host, METERS)
    for t in np.arange(0.0, until + 0.5).tolist():
        node.sample(t, [0.6 * watt * t, 7.0 + 0.4 * watt * t, 0.1 * watt * t, cpus * t, 1e9 * t])
    return node


def by_path(attribution: Attribution) -> dict[str, Account]:
    return {"/".join(a.path): a for a in attribution.accounts}


def whole(attribution: Attribution) -> None:
    """children + outside = parent, for energy, for processor time and for the energy of GPUs."""
    accounts = {a.path: a for a in attribution.accounts}
    sums = {path: [0.0, 0.0, 0.0] for path in accounts}
    for path, a in accounts.items():
        if path:
            above = path[:-1]
            if len(path) == 1 and path[0].startswith("ctx/"):
                name = path[0]
                while not above and "/" in name[4:]:
                    name = name.rpartition("/")[0]
                    above = (name,) if (name,) in accounts else ()
            for i, figure in enumerate((a.energy_j, a.cpu_s, a.gpu_energy_j)):
                sums[above][i] += figure or 0.0
            assert accounts[above].begin_ns <= a.begin_ns or not above
    for path, a in accounts.items():
        for total, outside, children in ((a.energy_j, a.energy_outside_j, sums[path][0]),
                                         (a.cpu_s, a.cpu_outside_s, sums[path][1]),
                                         (a.gpu_energy_j, a.gpu_energy_outside_j, sums[path][2])):
            assert (total is None) == (outside is None)
            assert (total or 0.0) == pytest.approx((outside or 0.0) + children, rel=1e-6, abs=1e-6)


def test_energy_goes_to_the_innermost_context_epoch_and_span(run: RunSpool) -> None:
    metered(run, "n1")
    rank = run.process("n1", rank=0)
    with rank.span(1.0, 9.0, "context", "training"):
        with rank.span(2.0, 4.0, "epoch", 0), rank.span(2.5, 3.0, "span", "forward"):
            rank.metric(2.7, "loss", 0.5, step=10)
        with rank.span(4.0, 8.0, "epoch", 1):
            rank.metric(5.0, "loss", 0.4, step=20)
            rank.metric(6.0, "loss", 0.4, step=30)
    run.finish(10.0)
    record = run.record()
    got = attribute(record)
    whole(got)
    a = by_path(got)
    assert list(a) == ["", "ctx/training", "ctx/training/epoch/0", "ctx/training/epoch/0/span/forward",
                       "ctx/training/epoch/1"]
    figures = {path: (x.energy_j, x.energy_outside_j, x.cpu_s) for path, x in a.items()}
    expected = {"": (1000, 200, 20), "ctx/training": (800, 200, 16), "ctx/training/epoch/0": (200, 150, 4),
                "ctx/training/epoch/0/span/forward": (50, 50, 1), "ctx/training/epoch/1": (400, 400, 8)}
    for path, numbers in expected.items():
        assert figures[path] == pytest.approx(numbers)
    assert (a[""].kind, a[""].name, a[""].begin_ns, a[""].end_ns) == ("run", "demo", ns(0), ns(10))
    epoch = a["ctx/training/epoch/1"]
    assert (epoch.kind, epoch.name, epoch.context, epoch.epoch, epoch.count) == ("epoch", "1", "training", 1, 1)
    assert (epoch.begin_ns, epoch.end_ns, epoch.first_step, epoch.last_step) == (ns(4), ns(8), 20, 30)
    assert (a["ctx/training"].first_step, a["ctx/training"].last_step) == (10, 30)
    assert (a["ctx/training/epoch/0/span/forward"].kind, a[""].last_step) == ("span", 30)
    assert got.span_energy_j == pytest.approx([800, 200, 50, 400])
    assert got.span_cpu_s == pytest.approx([16, 4, 1, 8])
    assert got.span_duration_s == pytest.approx([8, 2, 0.5, 4])
    assert got.energy.energy_j == pytest.approx(1000)
    assert (got.energy.method, got.energy.coverage, got.energy.reason) == ("measured", 1.0, "")
    assert got.energy.meters == ("n1: rapl/package-0", "n1: rapl/package-1")


def test_contexts_come_before_epochs_whatever_the_order_in_the_script(run: RunSpool) -> None:
    metered(run, "n1")
    rank = run.process("n1", rank=0)
    for k in (0, 1):
        with rank.span(5.0 * k, 5.0 * k + 4, "epoch", k):
            with rank.span(5.0 * k + 1, 5.0 * k + 2, "context", "training"):
                pass
            with rank.span(5.0 * k + 2, 5.0 * k + 3, "span", "io"), rank.span(5.0 * k + 2, 5.0 * k + 3, "context", "x"):
                pass
    run.finish(10.0)
    got = attribute(run.record())
    whole(got)
    a = by_path(got)
    assert set(a) == {"", "epoch/0", "epoch/1", "ctx/training", "ctx/training/epoch/0", "ctx/training/epoch/1",
                      "epoch/0/span/io", "epoch/1/span/io", "ctx/x", "ctx/x/epoch/0", "ctx/x/epoch/1",
                      "ctx/x/epoch/0/span/io", "ctx/x/epoch/1/span/io"}
    assert a["ctx/training"].energy_j == pytest.approx(200)
    assert a["ctx/training"].energy_outside_j == pytest.approx(0)
    assert (a["ctx/training"].count, a["ctx/training/epoch/1"].count, a["epoch/1"].count) == (2, 1, 1)
    assert a["ctx/training/epoch/1"].energy_j == pytest.approx(100)
    assert a["epoch/1"].energy_j == pytest.approx(200)  # without what contexts took within it
    assert a["ctx/x/epoch/0/span/io"].energy_j == pytest.approx(100)


def test_a_context_within_a_context_lies_below_it(run: RunSpool) -> None:
    metered(run, "n1")
    rank = run.process("n1", rank=0)
    with rank.span(1.0, 9.0, "context", "a"), rank.span(2.0, 5.0, "context", "b"):
        pass
    with rank.span(9.0, 10.0, "context", "c/d"):  # a name with a slash, and no context `c`
        pass
    run.finish(10.0)
    got = attribute(run.record())
    whole(got)
    a = by_path(got)
    assert list(a) == ["", "ctx/a", "ctx/a/b", "ctx/c/d"]
    assert a["ctx/a/b"].path == ("ctx/a/b",)
    assert (a["ctx/a/b"].name, a["ctx/a/b"].context) == ("a/b", "a/b")
    assert (a["ctx/a"].energy_j, a["ctx/a"].energy_outside_j) == pytest.approx((800, 500))


def test_of_spans_of_several_threads_the_one_begun_last_pays(run: RunSpool) -> None:
    metered(run, "n1")
    rank = run.process("n1", rank=0)
    for t, e, i, name in ((1.0, "begin", 1, "one"), (2.0, "begin", 2, "two"), (5.0, "end", 1, ""), (8.0, "end", 2, "")):
        rank.json(t, 5, [{"t": rank.mono(t), "e": e, "id": i, "parent": 0, "kind": "span", "name": name,
                          "context": None, "epoch": None}])
    run.finish(10.0)
    got = attribute(run.record())
    whole(got)
    a = by_path(got)
    assert a["span/one"].energy_j == pytest.approx(100)
    assert a["span/two"].energy_j == pytest.approx(600)


def test_the_meters_of_a_node_belong_to_its_lowest_rank(run: RunSpool) -> None:
    metered(run, "n1")
    metered(run, "n2", watt=50.0)
    ranks = [run.process(host, rank=r) for r, host in enumerate(["n1", "n1", "n2", "n2"])]
    for r, rank in enumerate(ranks):
        with rank.span(1.0 + r, 5.0 + r, "context", "training"):
            pass
        rank.exit(10.0)
    with ranks[1].span(8.0, 9.0, "context", "other"):
        pass
    run.finish(10.0)
    got = attribute(run.record())
    whole(got)
    a = by_path(got)
    assert a[""].energy_j == pytest.approx(1500)
    assert a["ctx/training"].energy_j == pytest.approx(4 * 100 + 4 * 50)  # of rank 0 and rank 2
    assert (a["ctx/training"].begin_ns, a["ctx/training"].end_ns) == (ns(1), ns(8))
    assert a["ctx/training"].count == 4
    assert a["ctx/other"].energy_j is None  # only rank 1 was in it
    assert [round(e, 3) if e == e else None for e in got.span_energy_j] == [400, None, 200, None, None]
    assert got.span_duration_s == pytest.approx([4, 4, 4, 4, 1])


def test_one_program_after_the_other_is_charged_for_its_own_time(run: RunSpool) -> None:
    """`yprov run -- bash pipeline.sh`: each program is rank 0, or has no rank, on the same node."""
    metered(run, "n1")
    prepare, train = run.process("n1", pid=900), run.process("n1", pid=500, at=5.0)
    with prepare.span(1.0, 4.0, "context", "prepare"):
        pass
    prepare.exit(4.5)
    with train.span(5.0, 9.0, "context", "training"):
        pass
    train.exit(9.5)
    run.finish(10.0)
    got = attribute(run.record())
    whole(got)
    a = by_path(got)
    assert a["ctx/prepare"].energy_j == pytest.approx(300)
    assert a["ctx/training"].energy_j == pytest.approx(400)


def test_a_span_that_was_never_ended_lasts_until_the_last_sign_of_life(run: RunSpool) -> None:
    metered(run, "n1")
    metered(run, "n2")
    exited, killed = run.process("n1", rank=0), run.process("n2", rank=1)
    exited.begin(1.0, "context", "a")
    exited.exit(3.0)
    killed.begin(1.0, "context", "b")
    killed.metric(4.0, "loss", 1.0)
    run.finish(10.0, state="killed")
    got = attribute(run.record())
    whole(got)
    a = by_path(got)
    assert (a["ctx/a"].energy_j, a["ctx/a"].end_ns) == (pytest.approx(200), ns(3))
    assert (a["ctx/b"].energy_j, a["ctx/b"].end_ns) == (pytest.approx(900), ns(10))
    assert all(math.isnan(d) for d in got.span_duration_s)


def test_without_a_meter_there_is_no_figure_and_a_reason(run: RunSpool) -> None:
    node = run.node("n1", [gauge("process.memory.rss", "By", 1)], absences=[("rapl", "no permission to read RAPL")])
    node.sample(0, [1.0])
    rank = run.process("n1", rank=0)
    with rank.span(1.0, 2.0, "context", "training"):
        pass
    run.finish(3.0)
    got = attribute(run.record())
    assert (got.energy.method, got.energy.energy_j, got.energy.meters) == ("absent", None, ())
    assert got.energy.reason == "no permission to read RAPL"
    for a in got.accounts:
        assert (a.energy_j, a.energy_outside_j, a.cpu_s) == (None, None, None)
    assert math.isnan(got.span_energy_j[0])


def test_a_counter_that_was_read_once_is_no_measurement(run: RunSpool) -> None:
    run.node("n1", METERS).sample(1.0, [5.0] * 5)
    run.finish(3.0)
    energy = attribute(run.record()).energy
    assert (energy.method, energy.energy_j) == ("absent", None)
    assert energy.reason == "its counter and its power were read less than twice"


def test_without_a_daemon_contexts_still_have_times(run: RunSpool) -> None:
    rank = run.process("n1", rank=0)
    with rank.span(1.0, 2.0, "context", "training"):
        pass
    run.finish(3.0)
    got = attribute(run.record())
    assert got.energy.reason == "no node daemon ran"
    assert by_path(got)["ctx/training"].end_ns == ns(2)
    assert by_path(got)[""].memory_peak_bytes is None


def test_a_node_without_a_meter_is_named_beside_the_sum_of_the_others(run: RunSpool) -> None:
    metered(run, "n1")
    other = run.node("n2", [gauge("process.memory.rss", "By", 1)], absences=[("rapl", "not an Intel processor")])
    other.sample(0.0, [0.0])
    run.finish(10.0)
    energy = attribute(run.record()).energy
    assert energy.energy_j == pytest.approx(1000)
    assert energy.coverage == pytest.approx(0.5)
    assert energy.reason == "1 of 2 nodes have no meter: not an Intel processor"


def test_a_restart_of_the_counter_and_a_gap_cost_nothing_twice(run: RunSpool) -> None:
    node = run.node("n1", METERS[:1])
    for t, value in enumerate([0.0, 100.0, math.nan, 300.0, 10.0, 60.0]):
        node.sample(t, [value])
    run.finish(5.0)
    assert attribute(run.record()).accounts[0].energy_j == pytest.approx(350)


def test_coverage_is_the_part_of_the_run_between_the_readings(run: RunSpool) -> None:
    node = run.node("n1", METERS[:1])
    for t in range(2, 8):
        node.sample(t, [100.0 * t])
    rank = run.process("n1", rank=0)
    with rank.span(0.5, 3.0, "context", "early"), rank.span(1.0, 1.5, "span", "before"):
        pass
    run.finish(10.0)
    got = attribute(run.record())
    assert got.energy.coverage == pytest.approx(0.5)
    assert by_path(got)["ctx/early"].energy_j == pytest.approx(100)
    assert by_path(got)["ctx/early/span/before"].energy_j == 0.0


def test_peak_memory_is_that_of_all_nodes_together_while_it_was_open(run: RunSpool) -> None:
    for host, peak in (("n1", 3), ("n2", 5)):
        node = run.node(host, [gauge("process.memory.rss", "By", 1)])
        for t in range(11):
            node.sample(t, [1e9 * (10 if t == peak else 1)])
    rank = run.process("n1", rank=0)
    for begin, end, name in ((2.0, 4.0, "first"), (4.5, 5.0, "second"), (7.0, 9.0, "quiet"), (3.5, 3.75, "between")):
        with rank.span(begin, end, "context", name):
            pass
    run.finish(10.0)
    got = attribute(run.record())
    a = by_path(got)
    assert a[""].memory_peak_bytes == 11e9
    assert a["ctx/first"].memory_peak_bytes == 11e9
    assert a["ctx/second"].memory_peak_bytes == 11e9
    assert a["ctx/quiet"].memory_peak_bytes == 2e9
    assert a["ctx/between"].memory_peak_bytes == pytest.approx(6.5e9)
    assert got.span_peak_bytes == pytest.approx([11e9, 6.5e9, 11e9, 2e9])


@pytest.mark.parametrize(("sampled", "kernels", "peak", "method"), [
    (True, 3 << 30, 3.0 * 2**30, "rusage"), (True, 1 << 20, 1e9, None), (True, None, 1e9, None),
    (True, "much", 1e9, None), (False, 1 << 20, 2.0**20, "rusage"), (False, None, None, None)])
def test_the_runs_peak_memory_is_never_below_the_kernels_figure_of_one_process(
    run: RunSpool, sampled: bool, kernels: Any, peak: float | None, method: str | None
) -> None:
    node = run.node("n1", [gauge("process.memory.rss" if sampled else "system.load", "By", 1)])
    for t in range(11):
        node.sample(t, [1e9])
    rank = run.process("n1", rank=0)
    with rank.span(2.0, 4.0, "context", "first"):
        pass
    run.finish(10.0, rusage={"user_s": 1.0, **({} if kernels is None else {"max_rss_bytes": kernels})})
    got = attribute(run.record())
    assert (got.accounts[0].memory_peak_bytes, got.accounts[0].memory_peak_method) == (peak, method)
    assert by_path(got)["ctx/first"].memory_peak_bytes == (1e9 if sampled else None)  # its share of it is not known
    assert {a.memory_peak_method for a in got.accounts[1:]} == {None}


# any run at all


@st.composite
def stretches(draw: st.DrawFn) -> list[tuple[int, int, int, int, str, str, str | None, int | None]]:
    """Spans of one process: (id, parent, begin, end, kind, name, context, epoch), in any relation to each other."""
    out: list[tuple[int, int, int, int, str, str, str | None, int | None]] = []
    for i in range(1, draw(st.integers(0, 8)) + 1):
        above = draw(st.sampled_from([None, *out]))
        begin = draw(st.integers(0, 100)) * 100_000_000
        end = begin + draw(st.integers(0, 60)) * 100_000_000
        kind = draw(st.sampled_from(["context", "epoch", "span"]))
        name = draw(st.sampled_from(["a", "b", "a/b"]) if kind == "context" else st.sampled_from(["0", "1"]))
        context, epoch = (above[6], above[7]) if above else (None, None)
        if kind == "context":
            context = f"{context}/{name}" if context else name
        elif kind == "epoch":
            epoch = int(name)
        out.append((i, above[0] if above else 0, begin, end, kind, name, context, epoch))
    return out


def in_memory(nodes: list[list[float]], processes: Iterable[tuple[int, int | None, Any]]) -> Record:
    """A record without files. `nodes`: joules of each tick; `processes`: (node, rank, spans)."""
    schema = Schema(1_000_000_000, (METERS[0], METERS[3]))
    made: list[Node] = []
    for n, joules in enumerate(nodes):
        offset = offset_ns(f"n{n}")
        wall = np.array([ns(t + 0.1 * n) for t in range(len(joules))])
        values = np.column_stack([np.cumsum(joules), np.cumsum(joules) / 50])
        made.append(Node(f"n{n}", "b", {}, [Samples(schema, wall, wall, wall - offset, values)]))
    people: list[Process] = []
    spans: list[Span] = []
    for p, (n, rank, found) in enumerate(processes):
        offset = offset_ns(f"n{n}")
        people.append(Process(p, f"n{n}", "b", p, n, rank, logged=p % 2 or None,
                              last_wall_ns=ns(8), last_mono_ns=ns(8) - offset))
        for i, parent, begin, end, kind, name, context, epoch in found:
            ended = (ns(0) + end - offset, ns(0) + end) if (i + p) % 5 else (None, None)
            spans.append(Span(p, i, parent, kind, name, context, epoch, ns(0) + begin - offset, ns(0) + begin, *ended))
    spans.sort(key=lambda s: (s.begin_wall_ns, s.process, s.id))
    none = np.zeros(0, dtype=np.int64)
    return Record({"started_ns": ns(1)}, {"ended_ns": ns(9)}, made, people, spans, [], [], [],
                  MetricTable([], none, none, none, np.zeros(0), none), [], ns(0), ns(10))


@given(
    st.lists(st.lists(st.floats(0, 1e4), min_size=2, max_size=12), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2]), stretches()), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_children_and_outside_are_the_parent_to_the_joule(
    nodes: list[list[float]], processes: list[tuple[int, int | None, Any]]
) -> None:
    processes = sorted(((n % len(nodes), rank, spans) for n, rank, spans in processes),
                       key=lambda p: (p[1] is None, p[1] or 0))
    record = in_memory(nodes, processes)
    got = attribute(record)
    whole(got)
    total, metered = 0.0, False
    for n, joules in enumerate(nodes):
        times = np.arange(len(joules)) + 0.1 * n
        metered = metered or times[-1] > 1  # else it has nothing of the run, and no figure, which is not 0
        total += float(np.diff(np.interp([1, 9], times, np.cumsum(joules)))[0])
    expected = pytest.approx(total, rel=1e-6, abs=1e-6) if metered else None
    root = got.accounts[0]
    assert root.energy_j == expected
    assert got.energy.energy_j == expected
    assert root.cpu_s == pytest.approx(total / 50, rel=1e-6, abs=1e-6)
    tolerance = 1e-6 * max(1.0, total)
    assert all((a.energy_j or 0) >= -tolerance and (a.energy_outside_j or 0) >= -tolerance for a in got.accounts)
    seen: set[tuple[str, ...]] = set()
    for a in got.accounts:
        assert not a.path or a.path[:-1] in seen
        seen.add(a.path)
    for spans in (got.span_energy_j, got.span_cpu_s, got.span_peak_bytes, got.span_duration_s):
        assert len(spans) == len(record.spans)


def test_what_a_span_is_charged_is_what_a_slow_reading_of_the_rules_says(run: RunSpool) -> None:
    """Millisecond by millisecond: the innermost span is the one begun last that is still open."""
    rng = np.random.default_rng(2)
    metered(run, "n1", watt=1000.0)
    rank: ProcessSpool = run.process("n1", rank=0)
    spans = []
    for i in range(1, 15):
        begin, end = sorted(rng.integers(0, 10_000, 2).tolist())
        spans.append((begin / 1000, end / 1000, f"s{i}"))
    for i, (begin, end, name) in enumerate(spans, 1):
        for t, e in ((begin, "begin"), (end, "end")):
            rank.json(t, 5, [{"t": rank.mono(t), "e": e, "id": i, "parent": 0, "kind": "span", "name": name,
                              "context": None, "epoch": None}])
    run.finish(10.0)
    expected = dict.fromkeys([name for _b, _e, name in spans], 0.0)
    for ms in range(10_000):
        t = (ms + 0.5) / 1000
        open_ = [(begin, name) for begin, end, name in spans if begin <= t < end]
        if open_:
            expected[max(open_)[1]] += 1.0  # 1000 W for 1 ms
    a = by_path(attribute(run.record()))
    for name, joules in expected.items():
        assert a[f"span/{name}"].energy_j == pytest.approx(joules, abs=1e-6)


def test_recursion_does_not_make_a_tree_without_end() -> None:
    spans = [(i, i - 1, i, 10**9 - i, "span", "f", None, None) for i in range(1, 3000)]
    got = attribute(in_memory([[1.0] * 10], [(0, 0, spans)]))
    whole(got)
    assert max(len(a.path) for a in got.accounts) < 40


@pytest.mark.slow
def test_a_hundred_thousand_spans_take_seconds_at_most() -> None:
    numbers = itertools.count(1)
    spans = []
    for i in range(50_000):
        outer, inner = next(numbers), next(numbers)
        spans.append((outer, 0, i * 100_000, i * 100_000 + 90_000, "epoch", str(i // 100), None, i // 100))
        spans.append((inner, outer, i * 100_000 + 10_000, i * 100_000 + 50_000, "span", "step", None, i // 100))
    record = in_memory([[100.0] * 3600], [(0, 0, spans)])
    begin = time.process_time()
    whole(attribute(record))
    assert time.process_time() - begin < 10  # about 0.7 s; the machine may be busy


def test_only_summed_zones_of_rapl_are_meters(run: RunSpool) -> None:
    gpu = Device("gpu", "GPU-1", "A100", {"summed": True})
    node = run.node("n1", [METERS[2], counter("hw.energy", "J", 1e-3, gpu), METERS[0]])
    for t in range(3):
        node.sample(t, [1e6 * t, 1e6 * t, 10.0 * t])
    run.finish(2.0)
    assert attribute(run.record()).accounts[0].energy_j == pytest.approx(20)
