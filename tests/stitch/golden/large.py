"""A large run, as values: 1,024 nodes of 8 GPUs, 8,192 ranks, 500 epochs, 50 checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.stitch.golden.small import T0, S, account, file, series_info, small_attribution, small_record
from yprovd.model import Absence, Device, Metric, Schema
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.record import MetricTable, Node, Param, Process, Record, Samples

NODES, GPUS, EPOCHS = 1024, 8, 500
_OF_A_GPU = ("hw.energy", "hw.energy.time", "hw.power", "hw.gpu.utilization", "hw.gpu.memory.activity",
             "hw.gpu.memory.usage", "hw.gpu.memory.limit", "hw.gpu.temperature", "hw.gpu.hotspot.temperature",
             "hw.gpu.memory.temperature", "hw.gpu.clock", "hw.gpu.memory.clock", "hw.errors")


def large_node(number: int) -> Node:
    host = f"node{number:05d}"
    metrics = [Metric(f"system.gauge.{k}", "1", "gauge", "a gauge of the host", 0.01) for k in range(25)]
    for g in range(GPUS):
        gpu = Device("gpu", f"GPU-{number:05d}-{g}", "NVIDIA H200", {
            "vendor": "nvidia", "index": g, "driver": "570.1", "meter": "gpu", "summed": True})
        metrics += [Metric(name, "1", "gauge", "a gauge of a GPU", 0.01, gpu) for name in _OF_A_GPU]
    for name in ("nvidia", "cpu", "memory", "rapl", "disk", "network"):
        sensor = Device("sensor", name)
        metrics += [Metric("yprov.sensor.failures", "{read}", "counter", "failed reads", 1, sensor),
                    Metric("yprov.sensor.late", "{read}", "counter", "late reads", 1, sensor)]
    ticks = T0 + S * np.arange(3, dtype=np.int64)
    schema = Schema(S, tuple(metrics), (Absence("amd", "no GPU of the amdgpu driver"),))
    facts = {"cpu_model": "Example 9000", "logical_cpus": 64, "memory_bytes": 256 << 30, "kernel": "Linux 6.1",
             "machine": "x86_64"}
    return Node(host, f"boot-{host}", facts, [Samples(schema, ticks, ticks, ticks - T0, np.zeros((3, len(metrics))))])


def large_record() -> Record:
    record = small_record()
    record.nodes = [large_node(n) for n in range(NODES)]
    record.processes = [
        Process(100 + r, f"node{r // GPUS:05d}", f"boot-node{r // GPUS:05d}", r, r // GPUS, rank=r,
                world_size=NODES * GPUS, local_rank=r % GPUS, logged=10, received=10) for r in range(NODES * GPUS)]
    record.params = [Param(f"optimizer.p{k}", k * 0.5, 0, T0) for k in range(60)]
    record.files += [file("model", "resnet", 9 * k + 5, path=f"/scratch/{k}.pt", context="training", epoch=k,
                          sha256=f"{k:064x}") for k in range(50)]
    keys: list[tuple[str, str | None, int | None]] = [
        (name, "training", k) for k in range(EPOCHS)
        for name in ("loss", "accuracy", "top5", "lr", "gradient_norm", "throughput", "loss_scale", "weight_norm")]
    rows = 10 * len(keys)
    values = np.random.default_rng(3).uniform(size=rows)
    record.metrics = MetricTable(keys, np.repeat(np.arange(len(keys)), 10), T0 + S * np.arange(rows), np.arange(rows),
                                 values, np.tile(np.arange(10), len(keys)))
    return record


def large_attribution() -> Attribution:
    figures: dict[str, Any] = {"gpu_energy_j": 123456789.125, "gpu_energy_outside_j": 1234.5625,
                               "gpu_hours": 12.345678, "gpu_memory_peak_bytes": 5.5e14}
    end = 10 * EPOCHS
    epochs = [account(("ctx/training", f"epoch/{k}"), 1 + 9 * k, 9 * k + 9, first_step=100 * k, last_step=100 * k + 99,
                      **figures) for k in range(EPOCHS)]
    return replace(small_attribution(), accounts=[
        account((), 0, end, **figures), account(("ctx/training",), 1, end - 1, **figures), *epochs,
        account(("ctx/validation",), 1, end - 1, **figures)])


def large_series() -> list[Any]:
    return [series_info(f"gpu/metric_{k}", metric=f"hw.gpu.metric_{k}") for k in range(60)] + [
        series_info(f"metrics/training/metric_{k}", context="training", source="script") for k in range(20)]
