"""Whole nodes, each a directory, recorded by the real daemons end to end: the right devices and the right joules."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from tests import nodes
from tests.running import attribute, document, environment, only_run, yprov
from tests.stubs.amd_smi import AmdSmiNode
from yprovd.stitch.validate import validate_run

#: Of the energy by counters with time stamps of their own, and of power that is integrated.
COUNTED, INTEGRATED = 1e-3, 1e-2
#: Variables that would say which devices are the job's.
CHOOSING = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


class Recorded:
    """A run on a node: its document and its series."""

    def __init__(self, node: nodes.Node, **environ: str) -> None:
        cwd = node.root.parent
        with nodes.Driver(*node.parts):
            done = yprov("run", "--scheduler", "none", "--root", node.root.name, "--", "sleep", "3", cwd=cwd,
                         env={k: v for k, v in environment(**environ).items() if k not in CHOOSING or k in environ})
        assert done.returncode == 0, done.stderr
        self.said = done.stderr
        self.run_dir = only_run(cwd)
        self.document = document(self.run_dir)
        self.run = self.document["activity"]["run"]
        assert validate_run(self.run_dir) == []

    def figure(self, name: str) -> float:
        return float(attribute(self.run, name))

    @property
    def window(self) -> tuple[float, float]:
        begin, end = (datetime.fromisoformat(self.run[f"prov:{edge}Time"]).timestamp() for edge in ("start", "end"))
        return begin, end

    def group(self, name: str) -> xr.Dataset:
        return xr.open_zarr(self.run_dir / "series.zarr", group=name).load()

    def groups(self) -> set[str]:
        return {p.name for p in (self.run_dir / "series.zarr").iterdir() if p.is_dir()}

    def attributes(self, group: str) -> dict[str, dict[str, Any]]:
        data = self.group(group)
        return {name: json.loads(text) for name, text in zip(
            data.device.values.tolist(), data.device_attributes.values.tolist(), strict=True)}

    def meters(self) -> dict[str, dict[str, Any]]:
        """Rows of the group `meters`, by device."""
        rows = self.group("meters").to_dataframe()
        return {f"{row['class']}/{row['device']}": dict(row) for row in rows.to_dict("records")}


#: The job's MIG instances, of two GPUs.
INSTANCES = nodes.nvidia_uuid(3, 1), nodes.nvidia_uuid(5, 2)
#: What is recorded: the node, and what its job was told.
RUNS: dict[str, tuple[Callable[[Path], nodes.Node], dict[str, str]]] = {
    "eight H100": (nodes.h100_mig, {}),
    "two instances": (nodes.h100_mig, {"CUDA_VISIBLE_DEVICES": ",".join(INSTANCES)}),
    "Grace Hopper": (nodes.grace_hopper, {}), "Frontier": (nodes.frontier, {}),
    "two dies": (nodes.frontier, {"ROCR_VISIBLE_DEVICES": "2,5"}), "MI300A": (nodes.mi300a, {}),
}
Record = Callable[[str], tuple[nodes.Node, Recorded]]
#: How doctor is called, and when the library of the node hangs: once it has been open for 0.3 s.
LOOKS = {"probe": ("--probe", "6"), "hanging": ("--json",)}
HANG = "nvmlDeviceGetUtilizationRates:0.3:120"


class Look:
    """What `yprov doctor` said of a node, and for how long it took."""

    def __init__(self, node: nodes.Node, arguments: Sequence[str], hang: str) -> None:
        self.cwd = node.root.parent
        with nodes.Driver(*node.parts):
            began = time.monotonic()
            self.done = yprov("doctor", *arguments, "--root", str(node.root), cwd=self.cwd,
                              env=environment(STUB_NVML_HANG=hang))
            self.took_s = time.monotonic() - began
        assert self.done.returncode == 0, self.done.stderr


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Any]]]:
    """What the tests look at, by name. Four are made beside each other: they wait, most of the time."""
    def folder() -> Path:
        return tmp_path_factory.mktemp("node") / "root"

    built = {name: build(folder()) for name, (build, _) in RUNS.items()}
    turns, hopper = nodes.frontier_in_turns(folder()), nodes.grace_hopper(folder())
    AmdSmiNode(turns.root)
    with ThreadPoolExecutor(4) as pool:
        out: dict[str, Future[Any]] = {"probe": pool.submit(Look, turns, LOOKS["probe"], "")}
        for name, (_, environ) in RUNS.items():
            out[name] = pool.submit(lambda node, environ: (node, Recorded(node, **environ)), built[name], environ)
        out["hanging"] = pool.submit(Look, hopper, LOOKS["hanging"], HANG)
        yield out


@pytest.fixture
def record(ahead: dict[str, Future[Any]]) -> Record:
    """A node, and a run of `RUNS` on it."""
    return lambda name: ahead[name].result()  # type: ignore[no-any-return]


@pytest.fixture
def look(ahead: dict[str, Future[Any]]) -> Callable[[str], Look]:
    return lambda name: ahead[name].result()  # type: ignore[no-any-return]


def counting(recorded: Recorded) -> list[str]:
    return [name for name, row in recorded.meters().items() if row["counts"]]


def test_eight_h100_with_mig(record: Record) -> None:
    node, recorded = record("eight H100")
    gpus = recorded.attributes("gpu")
    assert list(gpus) == [nodes.nvidia_uuid(d) for d in range(8)]
    assert {a["meter"] for a in gpus.values()} == {"gpu"}
    begin, end = recorded.window
    assert recorded.figure("gpuEnergyJ") == pytest.approx(nodes.joules(node.gpus, begin, end), rel=COUNTED)
    assert recorded.figure("energyJ") == pytest.approx(nodes.joules(node.counted, begin, end), rel=COUNTED)
    assert attribute(recorded.run, "energyMethod") == "measured"
    assert sorted(counting(recorded)) == sorted([f"gpu/{u}" for u in node.gpus] + ["rapl/package-0", "rapl/package-1"])


def test_a_job_with_two_instances_of_two_h100_has_two_rows(record: Record) -> None:
    node, recorded = record("two instances")
    gpus = recorded.attributes("gpu")
    assert {uuid: a["mig"] for uuid, a in gpus.items()} == {
        nodes.nvidia_uuid(3): INSTANCES[0], nodes.nvidia_uuid(5): INSTANCES[1]}
    expected = {u: node.gpus[u] for u in gpus}
    assert recorded.figure("gpuEnergyJ") == pytest.approx(nodes.joules(expected, *recorded.window), rel=COUNTED)


def test_grace_hopper_counts_modules_once(record: Record) -> None:
    node, recorded = record("Grace Hopper")
    gpus = recorded.attributes("gpu")
    assert {(a["meter"], a["summed"]) for a in gpus.values()} == {("module", True)}
    hwmon = recorded.attributes("hwmon")
    assert sum(a.get("meter") == "module" for a in hwmon.values()) == 4
    assert counting(recorded) == [f"gpu/{uuid}" for uuid in node.counted]
    begin, end = recorded.window
    assert recorded.figure("energyJ") == pytest.approx(nodes.joules(node.counted, begin, end), rel=COUNTED)
    for name, row in recorded.meters().items():
        if name.startswith("hwmon/module-"):
            watts = node.counted[nodes.nvidia_uuid(int(name.rpartition("-")[2]))].watts
            assert row["energy"] == pytest.approx(watts * (end - begin), rel=INTEGRATED)


def test_a_frontier_node(record: Record) -> None:
    node, recorded = record("Frontier")
    gcds = recorded.attributes("gpu")
    assert list(gcds) == list(nodes.GCDS)
    assert not any("meter" in a for a in gcds.values())
    oams = recorded.attributes("socket")
    assert {name: a["members"].split(",") for name, a in oams.items()} == {
        f"oam-{a}": [a, b] for a, b in zip(nodes.GCDS[::2], nodes.GCDS[1::2], strict=True)}
    assert {(a["meter"], a["summed"]) for a in oams.values()} == {("gpu", True)}
    assert counting(recorded) == ["cray/node"]
    begin, end = recorded.window
    assert recorded.figure("energyJ") == pytest.approx(nodes.joules(node.counted, begin, end), rel=COUNTED)
    assert recorded.figure("gpuEnergyJ") == pytest.approx(nodes.joules(node.gpus, begin, end), rel=COUNTED)
    rows = recorded.meters()
    for oam, load in node.gpus.items():
        assert rows[f"socket/{oam}"]["energy"] == pytest.approx(load.joules(begin, end), rel=COUNTED)
        assert rows[f"socket/{oam}"]["counts_gpu"]
    assert recorded.figure("gpuEnergyJ") == pytest.approx(
        sum(rows[f"socket/{oam}"]["energy"] for oam in node.gpus), rel=1e-9)
    series = recorded.group("gpu")
    assert series.gpu_memory_usage.isel(time=1).values.tolist() == [10] * 8  # MiB
    assert series.gpu_utilization.isel(time=1).values.tolist() == [10 * i for i in range(8)]  # percent
    assert list(recorded.attributes("cxi")) == ["cxi0", "cxi1", "cxi2", "cxi3"]


def test_a_job_with_one_die_of_two_modules_shares_their_meters(record: Record) -> None:
    _, recorded = record("two dies")
    assert list(recorded.attributes("gpu")) == [nodes.GCDS[2], nodes.GCDS[5]]
    oams = recorded.attributes("socket")
    assert list(oams) == [f"oam-{nodes.GCDS[2]}", f"oam-{nodes.GCDS[4]}"]
    assert all(a["shared"] is True for a in oams.values())


def test_four_mi300a(record: Record) -> None:
    node, recorded = record("MI300A")
    assert list(recorded.attributes("gpu")) == list(node.gpus)
    assert "socket" not in recorded.groups()
    begin, end = recorded.window
    expected = nodes.joules(node.gpus, begin, end)
    assert sum(row["energy"] for row in recorded.meters().values()) == pytest.approx(expected, rel=COUNTED)
    assert recorded.figure("energyJ") == pytest.approx(expected, rel=COUNTED)


def test_a_report_of_a_frontier_node_answers_what_documents_leave_open(look: Callable[[str], Look]) -> None:
    """Each module is loaded after the other, as a user would do it to find out which is which."""
    done, cwd = look("probe").done, look("probe").cwd
    report = json.loads((cwd / done.stdout.splitlines()[-1]).read_text())
    seen = {point["point"]: point for point in report["open_points"]}
    assert seen["dies without a meter of their own"]["seen"] == (
        "4 x an energy counter, 4 x no energy counter: 0, "
        "4 x an energy counter (library), 4 x an energy of 0 (library)")
    assert set(seen["reading gpu_metrics"]["data"]) == {
        f"/sys/class/drm/card{i}/device/gpu_metrics" for i in range(8)}
    matches = report["pairs"]["matches"]
    assert {a: m["with"] for a, m in matches.items()} == {
        f"cray/{a}": f"socket/oam-{nodes.GCDS[2 * i]}" for a, i in nodes.ACCELERATORS.items()}
    assert all(m["clear"] for m in matches.values()), report["pairs"]
    assert "accel0 = socket/oam-0000:d1:00.0" in done.stdout
    assert {m["device"]: tuple(m["members"]) for m in report["modules"]} == {
        f"socket/oam-{a}": (a, b) for a, b in zip(nodes.GCDS[::2], nodes.GCDS[1::2], strict=True)}
    assert [m["members_with_energy"] for m in report["modules"]] == [[]] * 4
    ratios = {m["device"]: m["ratio"] for m in report["meters"] if m["device"].startswith("socket/")}
    assert ratios == dict.fromkeys(ratios, pytest.approx(1, abs=0.1))
    assert len(ratios) == 4


def test_a_vendor_s_call_that_hangs_does_not_hang_doctor(look: Callable[[str], Look]) -> None:
    done = look("hanging").done
    assert look("hanging").took_s < 40
    found = {source["sensor"]: source for source in json.loads(done.stdout)["sources"]}
    assert (found["nvidia"]["outcome"], found["nvidia"]["present"]) == ("hangs", True)
    assert "has not come back for" in found["nvidia"]["reason"]
    assert {name: found[name]["outcome"] for name in ("cpu", "hwmon", "network")} == dict.fromkeys(
        ("cpu", "hwmon", "network"), "ok")


def test_doctor_names_the_devices_and_the_rates_of_a_node(tmp_path: Path) -> None:
    node = nodes.grace_hopper(tmp_path / "root")
    with nodes.Driver(*node.parts):
        done = yprov("doctor", "--json", "--root", str(node.root), cwd=tmp_path)
    found = {source["sensor"]: source for source in json.loads(done.stdout)["sources"]}
    assert found["nvidia"]["devices"] == [f"gpu/{nodes.nvidia_uuid(d)}" for d in range(4)]
    assert found["nvidia"]["rate_of"] == "hw.energy"
    assert "hwmon/module-0" in found["hwmon"]["devices"]
    assert (found["rapl"]["outcome"], found["cray"]["outcome"]) == ("absent", "absent")
