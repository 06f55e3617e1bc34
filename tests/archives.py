"""A stitched run with something of everything, for the tests that read and export runs: real frames, a real stitch."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from tests.stitch.builders import RunSpool, counter, gauge, package
from tests.stitch.golden.small import config
from yprovd.model import Device
from yprovd.stitch import stitch

NAN = math.nan
#: A name with everything that a path, a quote or a language could trip over.
ODD = 'tr/ain "ä%20é<b>&amp;\\n'
#: Enough rows of short decimals to be stored as integers.
ROWS, RARE = 5000, 100


@dataclass
class Kept:
    """The run's directory and what was logged: {context: [(step, epoch, rank, {metric: value})]}."""

    path: Path
    metrics: dict[str, list[tuple[int | None, int | None, int, dict[str, float]]]]


def gpu(number: int) -> Device:
    return Device("gpu", f"GPU-{number}", "NVIDIA H200", {"vendor": "nvidia", "index": number})


def make_run(parent: Path, *, keep_spool: bool = False) -> Kept:
    """Two nodes, two GPUs each, two ranks, 12 ticks with gaps, and metrics, parameters and files with odd names."""
    path = parent / "20260101T000000Z-resnet-0b7c1a52"
    for folder in ("spool", "logs", "source", "artifacts"):
        (path / folder).mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(config().to_json()))
    (path / "logs/stdout.log").write_text("hello\n" * 100)
    (path / "source/train.py").write_text("print()\n")
    spool = RunSpool(path / "spool")
    spool.begin(config=config().to_json(), user="ada")
    for n, host in enumerate(("n1", "n2")):
        metrics = [gauge("system.cpu.utilization", "1", 0.01), counter("hw.energy", "J", 1e-6, package()),
                   *(gauge("hw.power", "W", 1.0, gpu(2 * n + g)) for g in (0, 1))]
        node = spool.node(host, metrics, facts={"logical_cpus": 4, "cpu_model": 'An "odd", model'})
        for t in range(12):
            if t != 5:
                node.sample(t + 0.003, [NAN if t == 3 else 0.25, 10.0 * t, 100.0 + t, NAN if n else 7.0])
    rows: dict[str, list[tuple[int | None, int | None, int, dict[str, float]]]] = {"training": [], ODD: []}
    for rank in (0, 1):
        process = spool.process(f"n{rank + 1}", rank=rank)
        if rank == 0:
            for name, value in (("lr", 0.1), ("lr", 0.01), ("layers", [64, 64]), ("big", 1 << 70), ("on", True),
                                (ODD, ODD), ("nul\0", None), ("bad", NAN), ("text", "a,b\n\"c\"\0d")):
                process.param(0.5, name, value)
            process.file(0.6, "input", "/data/täst,1.csv")
        with process.span(1.0, 9.0, "context", "training"):
            for k in (0, 1):
                with process.span(1.0 + 4 * k, 4.9 + 4 * k, "epoch", k):
                    process.metric(2.0 + 4 * k, "loss", NAN if k else 0.5, step=k)
                    process.metric(2.0 + 4 * k, ODD, 1e300, step=k)
                    process.metric(2.0 + 4 * k, "step", -0.0, step=k)
                    rows["training"].append((k, k, rank, {"loss": NAN if k else 0.5, ODD: 1e300, "step": -0.0}))
            process.file(8.0, "model", "/out/m.pt", "best")
        with process.span(9.1, 9.9, "context", ODD):
            process.metric(9.5, "score", math.inf)
            rows[ODD].append((None, None, rank, {"score": math.inf}))
        process.event(9.95, "said", text='a "quoted", line\nand another')
        process.exit(10.0)
    decimals = [round(0.001 * i, 3) for i in range(ROWS)]
    process = spool.process("n1", rank=2)
    process.metrics(3.0, [(3.0 + i / ROWS, "short", v, i, "many", None) for i, v in enumerate(decimals)])
    process.metrics(3.0, [(3.0 + i / ROWS, "rare", 0.5 * i, i, "many", None) for i in range(RARE)])
    rows["many"] = [(i, None, 2, {"short": v, "rare": 0.5 * i if i < RARE else NAN}) for i, v in enumerate(decimals)]
    spool.finish(10.0, exit_code=0)
    spool.close()
    stitch(path, keep_spool=keep_spool)
    return Kept(path, rows)


def leave_spool(path: Path) -> None:
    """As if the run in `path` had still to be stitched: a spool, which nobody has written to for long."""
    (path / "spool").mkdir(exist_ok=True)
    (path / "spool/a.spool").write_bytes(b"")
    os.utime(path / "spool/a.spool", (0, 0))
