"""A small fixed run, as values: two nodes, two ranks, two contexts, two epochs, checkpoints. Used by several tests."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from yprovd.config import Person, RunConfig, Settings
from yprovd.model import Absence, Device, Metric, Schema
from yprovd.stitch.attribution import Account, Attribution
from yprovd.stitch.record import (
    DeclaredFile,
    MetricTable,
    Node,
    Param,
    PointEvent,
    Process,
    Record,
    Samples,
    Span,
)
from yprovd.stitch.report import EnergyReport, MeterRow
from yprovd.stitch.steps import Step

RUN_ID = "0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55"
T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 1_000_000_000
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"
WEIGHTS = hashlib.sha256(b"weights").hexdigest()


def config() -> RunConfig:
    return RunConfig(
        run_id=RUN_ID, name="resnet", created_ns=T0 - S, command=("python", "train.py", "--note", "two words"),
        cwd="/home/ada/code", runtime_dir="/tmp/yprov-xyz", software="0.1.0",
        settings=Settings(
            name="resnet", experiment="imagenet", tags={"team": "vision"}, licence="CC-BY-4.0",
            user=Person("Ada Lovelace", "https://orcid.org/0000-0002-1825-0097"),
            organisation=Person("Analytical Engines", "https://ror.org/02mhbdp94"),
        ),
    )


def node(host: str, zone: str = "package-0") -> Node:
    rapl = Device("rapl", f"{host}-{zone}", zone)
    schema = Schema(S, (
        Metric("system.cpu.utilization", "1", "gauge", "busy part of all processors", 0.001),
        Metric("hw.energy", "J", "counter", "energy of a processor package", 0.001, rapl),
        Metric("yprov.sampler.missed_ticks", "{tick}", "counter", "ticks without a sample", 1),
        Metric("yprov.sensor.failures", "{read}", "counter", "failed reads", 1, Device("sensor", "rapl")),
    ), (Absence("nvidia", "libnvidia-ml.so.1 is not installed", "load the CUDA module"),))
    ticks = T0 + S * np.arange(11, dtype=np.int64)
    values = np.column_stack([np.full(11, 0.5), 100.0 * np.arange(11), np.repeat([0.0, 1.0], [5, 6]), np.zeros(11)])
    facts = {"cpu_model": "Example 9000", "logical_cpus": 64, "memory_bytes": 256 << 30, "kernel": "Linux 6.1",
             "machine": "x86_64"}
    return Node(host, f"boot-{host}", facts, [Samples(schema, ticks, ticks, ticks - T0, values)])


def account(path: tuple[str, ...], begin: int, end: int, **more: Any) -> Account:
    kind, _, name = path[-1].partition("/") if path else ("run", "", "resnet")
    kind = {"ctx": "context"}.get(kind, kind)
    context = next((p.partition("/")[2] for p in path if p.startswith("ctx/")), None)
    epoch = next((int(p.partition("/")[2]) for p in path if p.startswith("epoch/")), None)
    figures: dict[str, Any] = {"count": 1, "energy_j": 10.0 * (end - begin), "energy_outside_j": 1.5, "cpu_s": 3.25,
                               "cpu_outside_s": 0.25, "memory_peak_bytes": 5e9} | more
    figures["duration_s"] = float(end - begin)
    return Account(path, kind, name, context, epoch, T0 + begin * S, T0 + end * S, **figures)


def file(role: str, name: str, at: float, **more: Any) -> DeclaredFile:
    facts: dict[str, Any] = {"path": f"/scratch/{name}", "context": None, "epoch": None, "process": 0, "size": 5,
                             "sha256": SHA, "modified_ns": T0} | more
    return DeclaredFile(role=role, name=name, wall_ns=T0 + round(at * S), **facts)


def small_record() -> Record:
    processes = [
        Process(7, "gpu001", "boot-gpu001", 100, 0, rank=0, world_size=2, local_rank=0, logged=40, received=40),
        Process(9, "gpu002", "boot-gpu002", 200, 1, rank=1, world_size=2, local_rank=0, dropped=3, received=37),
    ]
    spans = [Span(0, 1, 0, "context", "training", "training", None, 0, T0 + S, 8 * S, T0 + 8 * S)]
    return Record(
        run={
            "config": config().to_json(), "started_ns": T0, "user": "ada", "uid": 1000, "host": "login1",
            "python": "3.11.7", "environment": {"SLURM_JOB_ID": "4242", "SLURM_JOB_PARTITION": "gpu", "LANG": "C"},
            "code": {"remote": "git@example.org:ada/train.git", "commit": "a" * 40, "branch": "main", "dirty": True,
                     "diff": {"path": "source/changes.diff", "sha256": SHA, "bytes": 120},
                     "script": {"path": "/home/ada/code/train.py", "sha256": SHA, "stored": "source/train.py"}},
        },
        end={"state": "completed", "reason": "", "exit_code": 0, "ended_ns": T0 + 10 * S,
             "rusage": {"user_s": 12.5, "system_s": 1.25, "max_rss_bytes": 3 << 30}},
        nodes=[node("gpu001"), node("gpu002")],
        processes=processes,
        spans=spans,
        params=[Param("lr", 0.1, 0, T0 + S), Param("lr", 0.01, 0, T0 + 2 * S), Param("layers", [64, 64], 0, T0 + S),
                Param("big", 1 << 70, 0, T0 + S), Param("on", True, 1, T0 + S), Param("none", None, 0, T0 + S),
                Param("limit", float("inf"), 0, T0 + S), Param("bad", float("nan"), 0, T0 + S)],
        events=[PointEvent("warmup done", {}, "training", 0, 0, T0 + 2 * S)],
        files=[
            file("input", "train.csv", 0.5),
            file("input", "train.csv", 0.6, process=1),
            file("input", "huge.bin", 0.7, size=1 << 40, sha256=None, reason="larger than 4294967296 bytes"),
            file("model", "resnet", 3.9, path="/scratch/0.pt", context="training", epoch=0, sha256="0" * 64),
            file("model", "resnet", 7.9, path="/scratch/1.pt", context="training", epoch=1, sha256=WEIGHTS,
                 stored="artifacts/1.pt"),
            file("output", "report.txt", 9.5),
        ],
        metrics=MetricTable([], *(np.zeros(0, dtype=np.int64),) * 3, np.zeros(0), np.zeros(0, dtype=np.int64)),
        notes=[{"text": "the daemon of gpu002 was started again", "t": 5, "wall_ns": T0 + 5 * S},
               {"text": "", "goodbye": "gpu001", "wall_ns": T0 + 10 * S}],
        first_ns=T0, last_ns=T0 + 10 * S, lost_frames=2, damaged_bytes=64, torn_bytes=64,
    )


def small_attribution() -> Attribution:
    gpus = {"gpu_energy_j": 40.0, "gpu_energy_outside_j": 2.5, "gpu_hours": 0.005, "gpu_memory_peak_bytes": 40e9}
    accounts = [
        account((), 0, 10, **gpus),
        account(("ctx/training",), 1, 8, **gpus),
        account(("ctx/training", "epoch/0"), 1, 4, first_step=0, last_step=99),
        account(("ctx/training", "epoch/0", "span/forward"), 1, 3, count=100),
        account(("ctx/training", "epoch/1"), 4, 8, first_step=100, last_step=199),
        account(("ctx/training/augment",), 2, 3),
        account(("ctx/validation",), 8, 9, energy_j=None, energy_outside_j=None, memory_peak_bytes=None),
    ]
    meters = ("gpu001: rapl/package-0", "gpu002: rapl/package-0")
    step = Step("4242.0", "train.py", T0 + S, T0 + 9 * S, 2, 2, "slurm", ("gpu001", "gpu002"), ("python train.py",),
                ("gpu[001-002]: 1 rank each, 8 CPUs and 1 device",), 0, False, 80.0, 1.0, 3.0, 5e9)
    report = EnergyReport(
        100.0, "measured", meters, 0.99, scope="partial", gpu_energy_j=40.0, gpu_method="measured", gpu_scope="gpu",
        gpu_coverage=1.0, not_covered=("gpu[001-002]: memory", "gpu[001-002]: network, disks"), shared=True,
        notes=("gpu001: cray/node does not count: it covers 3 % of the run",),
        rows=(MeterRow(0, "rapl", "gpu001-package-0", "cpu", "measured", 60.0, None, 0, 0.99, True, False, ""),
              MeterRow(1, "rapl", "gpu002-package-0", "module", "measured", 40.0, None, 0, 0.99, True, True, "")))
    return Attribution(accounts, report, [0.0], [0.0], [0.0], [7.0], [step])


def series_info(name: str, **more: Any) -> Any:
    """Like `yprovd.stitch.series.SeriesInfo`."""
    known: dict[str, Any] = {
        "group": name.rpartition("/")[0], "name": name, "metric": name.rpartition("/")[2], "context": None,
        "unit": "1", "source": "yprov", "count": 22, "missing": 0, "non_finite": 0,
        "min": 0.5, "mean": 0.5, "max": 0.5, "last": 0.5, "total": None,
    }
    return SimpleNamespace(**known | more)


def small_series() -> list[Any]:
    return [
        series_info("host/cpu_utilization", metric="system.cpu.utilization"),
        series_info("rapl/energy", metric="hw.energy", unit="J", min=100.0, mean=100.0, max=100.0, last=100.0,
                    count=20, missing=2, total=2000.0),
        series_info("metrics/training/loss", context="training", source="script", unit="", count=200, non_finite=1,
                    min=0.25, mean=1.0, max=2.5, last=0.25),
        series_info("metrics/default/score", source="script", unit="", count=1, min=None, mean=None, max=None,
                    last=None, non_finite=1),
    ]


def write_store(path: Path) -> None:
    """The store that `small_series` speaks of: integers with a sentinel, and columns of floats; and the tables that
    `small_attribution` fills."""
    import zarr

    from yprovd.stitch.storage import Store
    from yprovd.stitch.tables import write_accounts, write_meters

    tables = path.with_name("tables")
    store = Store(tables, {})
    write_meters(store, small_attribution())
    write_accounts(store, small_attribution())
    store.close()
    root = zarr.create_group(path)
    for name in ("meters", "accounts"):
        shutil.move(tables / name, path / name)
    shutil.rmtree(tables)
    cpu = root.create_array("host/cpu_utilization", shape=(2, 11), chunks=(2, 4), dtype="f4", fill_value=np.nan,
                            attributes={"units": "1"})
    cpu[:] = 0.5
    energy = root.create_array("rapl/energy", shape=(2, 11), chunks=(1, 11), dtype="i4", fill_value=-(2**31),
                               attributes={"units": "J", "_FillValue": -(2**31)})
    energy[:, 1:] = 100
    loss = root.create_array("metrics/training/loss", shape=(200,), chunks=(64,), dtype="f8", fill_value=np.nan,
                             attributes={"units": ""})
    values = np.full(200, 1.0)
    values[[0, 50, 100, 199]] = 2.5, 0.25, np.nan, 0.25
    loss[:] = values
    score = root.create_array("metrics/default/score", shape=(1,), chunks=(1,), dtype="f8", fill_value=np.nan,
                              attributes={"units": ""})
    score[:] = np.nan


def make_run_dir(path: Path, record: Record | None = None) -> Path:
    """A run's directory with files of every kind, a store, prov.json and the crate, as a stitch leaves it."""
    from yprovd.stitch.crate import build_crate
    from yprovd.stitch.provenance import build_document

    record = record or small_record()
    for name, text in {
        "run.json": "{}", "logs/stdout.log": "hello\n", "source/train.py": "test", "source/changes.diff": "test",
        "artifacts/1.pt": "weights", "artifacts/odd näme #1?.txt": "x", "spool/a.spool": "raw",
        ".prov.json.77.tmp": "half", "artifacts/.partial-1-2": "half",
    }.items():
        file_path = path / name
        file_path.parent.mkdir(parents=True, exist_ok=True)
        file_path.write_text(text, encoding="utf-8")
    write_store(path / "series.zarr")
    (path / "prov.json").write_bytes(build_document(record, small_attribution(), small_series()))
    (path / "ro-crate-metadata.json").write_bytes(build_crate(path, record, small_attribution()))
    return path
