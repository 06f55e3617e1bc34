"""On a real Slurm of several nodes on this machine (tests/slurm): what `yprov run --` in front of `srun` costs.

The nodes share this machine's cores: what one node's daemon costs, 64 nodes' daemons cost 64 times here.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, YPROV, Row, Spread, interval
from tests.slurm.cluster import Cluster, why_not

#: Prints when each of its tasks begins.
_FIRST = "sh -c 'date +%s.%N'"
_START = """#!/bin/bash
for i in $(seq {repeats}); do
  a=$(date +%s.%N); b=$(srun -N{nodes} {first} | sort | head -n 1)
  c=$(date +%s.%N); d=$({yprov} run -q -- srun -N{nodes} {first} | sort | head -n 1)
  echo "$a $b $c $d"
done
"""
_LONG = """#!/bin/bash
exec {yprov} run -q -- srun -N{nodes} sleep {seconds}
"""


_DDP = """#!/bin/bash
export OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0 STEPS={steps}
for i in $(seq {repeats}); do
  echo "alone $(srun {python} {script})"
  echo "ours $({yprov} run -q -- srun {python} {script})"
done
"""


def cluster(quick: bool) -> list[Row]:
    """Start: from the call to the first instruction of the first task of `srun`, with and without `yprov run --`,
    alternating in one job. Long run: `sleep` on 64 nodes; the samples of every node are counted."""
    if reason := why_not():
        return [Row("Slurm", f"not measured: {reason}")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="yprov-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        for nodes in (4, 16, 64):
            with Cluster(folder / f"c{nodes}", nodes=nodes, shared=[ROOT, folder]) as machines:
                rows.append(_start(machines, nodes, 3 if quick else 9, folder))
                if nodes == 64:
                    rows.append(_long(machines, nodes, 20 if quick else 60, folder))
        with Cluster(folder / "ddp", nodes=4, shared=[ROOT, folder]) as machines:
            rows.append(_ddp(machines, 3 if quick else 10, folder))
    return rows


def _submit(machines: Cluster, script: str, nodes: int, work: Path, timeout: float) -> str:
    work.mkdir(exist_ok=True)
    out = work / "out"
    job = machines.sbatch(script, f"-N{nodes}", f"--output={out}", cwd=work)
    state = machines.wait(job, timeout=timeout)
    text = out.read_text()
    if state != "COMPLETED":
        raise RuntimeError(f"job {job}: {state}: {text}")
    return text


def _start(machines: Cluster, nodes: int, repeats: int, folder: Path) -> Row:
    script = _START.format(repeats=repeats, nodes=nodes, first=_FIRST, yprov=YPROV[0])
    lines = [[float(w) for w in line.split()] for line in _submit(
        machines, script, nodes, folder / f"start{nodes}", 60 + repeats * nodes).splitlines() if line[:1].isdigit()]
    alone = [b - a for a, b, _c, _d in lines]
    more = Spread([(d - c) - (b - a) for a, b, c, d in lines])
    bar_s = 0.5 + 0.002 * max(0, nodes - 4)
    return Row(f"start on {nodes} nodes, over `srun` alone", more.text("s", digits=3), f"<= {bar_s:.2f} s",
               more.median <= bar_s, raw={"srun_s": alone, "more_s": more.values,
                                          "srun_median_s": statistics.median(alone)})


def _long(machines: Cluster, nodes: int, seconds: int, folder: Path) -> Row:
    """Every node's samples between the first and the last tick that all nodes have in common."""
    import xarray

    work = folder / "long"
    _submit(machines, _LONG.format(nodes=nodes, seconds=seconds, yprov=YPROV[0]), nodes, work, 120 + seconds)
    (run_dir,) = (work / "yprov-runs").iterdir()
    host = xarray.open_zarr(run_dir / "series.zarr", group="host")
    values = host["memory_usage"].values if "memory_usage" in host else next(iter(host.data_vars.values())).values
    run: dict[str, Any] = json.loads((run_dir / "prov.json").read_text())["activity"]["run:run"]
    there = values == values  # not NaN
    ticks = there.all(axis=0).nonzero()[0]
    inner = there[:, ticks[0]:ticks[-1] + 1] if len(ticks) else there
    whole = there.shape[0] == nodes and bool(inner.all()) and inner.shape[1] >= seconds
    return Row(f"{nodes} nodes for {seconds} s: samples", f"{int(inner.sum())} of {inner.size}; {there.shape[0]} nodes",
               "every one", whole, raw={"nodes": there.shape[0], "ticks": inner.shape[1], "run": run})


def _ddp(machines: Cluster, repeats: int, folder: Path) -> Row:
    """The time of one step of a DDP training of 4 ranks on 4 nodes, with and without us, alternating in one job. The
    ranks share this machine's cores with each other and with the daemons."""
    python = ROOT / ".venv-torch/bin/python"
    if not python.exists():
        return Row("DDP step time", "not measured: no PyTorch (make torch-env)")
    script = _DDP.format(steps=300, repeats=repeats, python=python, yprov=YPROV[0],
                         script=ROOT / "benchmarks/inside/ddp_steps.py")
    text = _submit(machines, script, 4, folder / "ddp-work", 120 * repeats)
    found: dict[str, list[float]] = {"alone": [], "ours": []}
    for line in text.splitlines():
        who, _, rest = line.partition(" step ")
        if who in found:
            found[who].append(float(rest))
    more = [100 * (b / a - 1) for a, b in zip(found["alone"], found["ours"], strict=True)]
    low, high = interval(more)
    met = True if high <= 0.5 else (False if low > 0.5 else None)
    return Row("DDP step time on 4 nodes, over without us",
               f"{statistics.median(more):+.2f} % (90 %: {low:+.2f}..{high:+.2f}; step "
               f"{1000 * statistics.median(found['alone']):.1f} ms)", "<= 0.5 %", met, raw=found)


if __name__ == "__main__":
    for row in cluster("--quick" in sys.argv):
        print(row.figure, "|", row.ours, "|", row.bar, "|", row.met)
