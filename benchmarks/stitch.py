"""How fast a spool becomes series, how small the series are, and how soon a tiny run is done.

    .venv/bin/python benchmarks/stitch.py

prints one JSON object: values per second from spool files to Zarr (128 nodes of 8 GPUs, 600 ticks, one tick per frame;
median of 3; and the parts of the best), bytes and seconds for Table 1 of the yProv4ML paper (10 metrics x 135,200
steps), the seconds of a small run's store, and of the attribution of 100,000 spans.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.stitch.builders import T0, RunSpool, S, counter, gauge, package
from yprovd.model import Device, Metric, Sample
from yprovd.spool import spool_files
from yprovd.stitch.attribution import attribute
from yprovd.stitch.reading import read_record
from yprovd.stitch.record import Record
from yprovd.stitch.series import write_series
from yprovd.wire import Kind, pack_metrics, pack_samples

NODES, TICKS, GPUS, HOST = 128, 600, 8, 56
STEPS = 135_200


def node_metrics(host: str) -> list[Metric]:
    """80 metrics of GPUs, 4 of RAPL and 56 of the host."""
    out: list[Metric] = [gauge("system.cpu.utilization", "1", 0.01), gauge("process.memory.rss", "By", 1 << 20),
                         counter("process.cpu.time", "s", 0.01)]
    out += [gauge(f"system.gauge.{i}", "By", 1024) for i in range(23)]
    out += [counter(f"system.counter.{i}", "By", 1) for i in range(HOST - len(out))]
    out += [counter("hw.energy", "J", 1e-6, package(i)) for i in range(4)]
    for g in range(GPUS):
        gpu = Device("gpu", f"{host}-{g}", f"GPU {g}")
        out += [
            gauge("hw.power", "W", 1, gpu), counter("hw.energy", "J", 1e-3, gpu),
            gauge("hw.gpu.utilization", "1", 0.01, gpu), gauge("hw.gpu.memory.utilization", "1", 0.01, gpu),
            gauge("hw.gpu.memory.usage", "By", 1 << 20, gpu), gauge("hw.temperature", "Cel", 1, gpu),
            gauge("hw.temperature.hbm", "Cel", 1, gpu), gauge("hw.clock.sm", "Hz", 1e6, gpu),
            gauge("hw.clock.memory", "Hz", 1e6, gpu), counter("hw.throttle", "{event}", 1, gpu),
        ]
    return out


def telemetry(rng: np.random.Generator, metrics: list[Metric]) -> np.ndarray:
    """values[tick, metric] of one node that trains. A third of what a host has is constant, a third moves slowly or in
    bursts, a third is noise; what GPUs say has the noise of real ones (see reference/formats.md)."""
    out = np.zeros((TICKS, len(metrics)))
    level = {"hw.power": 450.0, "hw.gpu.utilization": 0.93, "hw.gpu.memory.utilization": 0.6, "hw.temperature": 55.0,
             "hw.temperature.hbm": 61.0, "hw.clock.sm": 1.98e9, "hw.clock.memory": 2.6e9, "hw.gpu.memory.usage": 6e10}
    noise = {"hw.power": 9.0, "hw.gpu.utilization": 0.04, "hw.gpu.memory.utilization": 0.04, "hw.temperature": 0.3,
             "hw.temperature.hbm": 0.3, "hw.clock.sm": 2e6}
    for j, m in enumerate(metrics):
        white = rng.standard_normal(TICKS)
        if m.name == "hw.energy":
            column = np.cumsum(450 + 9 * white) if m.device and m.device.cls == "gpu" else np.cumsum(90 + 2 * white)
        elif m.device is not None:
            column = level.get(m.name, 0.0) + noise.get(m.name, 0.0) * white
        elif m.kind == "gauge":
            column = 0.3 + 0.05 * white if m.unit == "1" else 1e9 + (0.0, 1e4, 1e6)[j % 3] * (
                white if j % 3 == 2 else np.cumsum(white))
        else:
            rate = np.abs(white) * (0.0, 1e6, 1e8)[j % 3] * (white > 1.3 if j % 3 == 1 else 1.0)
            column = np.cumsum(16 + white) if m.unit == "s" else np.cumsum(np.round(rate))
        out[:, j] = column
    return out


def cluster(folder: Path) -> int:
    """A spool of NODES daemons made frame by frame, a file for each node. Returns the values in it."""
    rng = np.random.default_rng(7)
    run = RunSpool(folder)
    run.begin()
    values = 0
    for n in range(NODES):
        host = f"n{n:04d}"
        metrics = node_metrics(host)
        node, rows = run.node(host, metrics), telemetry(rng, metrics)
        values += rows.size
        for t, row in enumerate(rows.tolist()):
            at = T0 + t * S
            sample = Sample(at, at + 300_000, at + 300_000 - node.clock.offset, row)
            node.frame(t + 0.0004, Kind.SAMPLES, pack_samples(node.schema_id, [sample]))
    run.finish(TICKS)
    run.close()
    return values


def stitched(spool: Path, out: Path) -> dict[str, float]:
    """Seconds of each part of a stitch up to the series."""
    clock = [time.perf_counter()]
    record = read_record(spool_files(spool))
    clock.append(time.perf_counter())
    attribution = attribute(record)
    clock.append(time.perf_counter())
    write_series(record, attribution, out)
    clock.append(time.perf_counter())
    return dict(zip(("read_s", "attribute_s", "write_s"), np.diff(clock).tolist(), strict=True))


def size_of(folder: Path) -> tuple[int, int]:
    """(bytes, files)"""
    files = [f.stat().st_size for f in folder.rglob("*") if f.is_file()]
    return sum(files), len(files)


def table_1(folder: Path) -> None:
    """10 metrics x 135,200 steps as a training logs them: short decimals, time stamps in ms, steps of 1.37 s."""
    rng = np.random.default_rng(1)
    x = np.arange(STEPS)
    noise = rng.standard_normal((10, STEPS))
    slow = np.cumsum(rng.standard_normal(STEPS)) / 50
    memory = 48_000 + np.repeat(rng.integers(0, 400, STEPS // 500 + 1), 500)[:STEPS]
    columns = {
        "loss": np.round(2.5 * np.exp(-x / 40_000) + 0.3 + 0.05 * noise[0], 4),
        "accuracy": np.round(np.clip(1 - np.exp(-x / 30_000) + 0.02 * noise[1], 0, 1), 4),
        "lr": np.round(1e-3 * 0.5 * (1 + np.cos(np.pi * x / STEPS)), 6),
        "gpu_utilization": np.round(np.clip(93 + 4 * noise[3], 0, 100)),
        "gpu_power": np.round(450 + slow + 9 * noise[4]),
        "gpu_memory": memory.astype(float),
        "gpu_temperature": np.round(60 + slow / 4 + 0.4 * noise[6]),
        "cpu_utilization": np.round(np.clip(22 + 5 * noise[7], 0, 100), 1),
        "ram_usage": np.round(31 + slow / 40 + 0.02 * noise[8], 1),
        "samples_per_second": np.round(186 + 4 * noise[9], 1),
    }
    ms = T0 // 1_000_000 + np.cumsum(np.round(1370 + 30 * noise[2])).astype(np.int64)
    run = RunSpool(folder)
    run.begin()
    rank = run.process("n1", rank=0)
    mono = ms * 1_000_000 - rank.clock.offset
    for start in range(0, STEPS, 100):
        rank.frame(0.0, Kind.METRICS, pack_metrics([
            (int(mono[i]), name, float(column[i]), i, "training", None)
            for i in range(start, min(start + 100, STEPS)) for name, column in columns.items()
        ]))
    run.finish(STEPS * 1.37)
    run.close()


def small(folder: Path) -> None:
    """What `yprov run -- true` leaves: two samples of some 60 metrics."""
    run = RunSpool(folder)
    run.begin()
    metrics = [gauge(f"system.gauge.{i}", "By", 1024) for i in range(20)]
    metrics += [counter(f"system.counter.{i}", "By", 1) for i in range(20)]
    metrics += [gauge(f"hw.{i}", "W", 1, Device(f"class{i % 4}", "a")) for i in range(20)]
    node = run.node("n1", metrics)
    for t in (0.0, 0.4):
        node.sample(t, [1.0] * len(metrics), nominal=round(t + 0.2))
    run.finish(0.5)
    run.close()


def spans_record() -> Record:
    """100,000 nested spans of one process over an hour of one node."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunSpool(Path(folder))
        run.begin()
        node = run.node("n1", [counter("hw.energy", "J", 1e-6, package()), gauge("process.memory.rss", "By", 1 << 20)])
        for t in range(3600):
            node.sample(t, [100.0 * t, 1e9])
        rank = run.process("n1", rank=0)
        events = []
        for i in range(50_000):
            at, outer, inner = i * 0.07, 2 * i + 1, 2 * i + 2
            epoch = i // 1000
            for t, e, number, parent, name in ((0, "begin", outer, 0, "step"), (0.01, "begin", inner, outer, "forward"),
                                               (0.03, "end", inner, 0, ""), (0.06, "end", outer, 0, "")):
                events.append({"t": rank.mono(at + t), "e": e, "id": number, "parent": parent, "kind": "span",
                               "name": name, "context": "training", "epoch": epoch})
        rank.json(3600.0, Kind.EVENTS, events)
        run.finish(3600.0)
        return run.record()


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="yprov-bench-"))
    figures: dict[str, object] = {}
    try:
        for name in ("cluster", "table", "small"):
            (work / name).mkdir()
        small(work / "small")
        stitched(work / "small", work / "warm")
        figures["small_store"] = {"write_s": round(statistics.median(
            stitched(work / "small", work / f"small{i}.zarr")["write_s"] for i in range(5)), 3),
            "files": size_of(work / "small0.zarr")[1]}
        values = cluster(work / "cluster")
        runs = [stitched(work / "cluster", work / f"cluster{i}.zarr") for i in range(3)]
        size, files = size_of(work / "cluster0.zarr")
        best = min(runs, key=lambda r: sum(r.values()))
        figures["stitch"] = {
            "values": values,
            "values_per_s": round(values / statistics.median(r["read_s"] + r["write_s"] for r in runs)),
            "bytes_per_value": round(size / values, 3), "files": files,
            "best": {k: round(v, 3) for k, v in best.items()},
        }
        table_1(work / "table")
        parts = stitched(work / "table", work / "table.zarr")
        size, files = size_of(work / "table.zarr")
        figures["table_1"] = {"values": 10 * STEPS, "bytes": size, "files": files,
                              **{k: round(v, 3) for k, v in parts.items()}}
        record = spans_record()
        begin = time.perf_counter()
        attribute(record)
        figures["attribute_100k_spans_s"] = round(time.perf_counter() - begin, 3)
    finally:
        shutil.rmtree(work)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
