"""How fast the stitch is and how small what it makes, from benchmarks/stitch.py; yProv4ML's writer beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Peer, Row, Spread, call, folder, last_json, times
from benchmarks.environments import Missing, python, version

#: Table 1 of the yProv4ML paper: what each of its formats took.
PAPER_MB = {"JSON": 39.82, "Zarr": 2.74, "NetCDF": 2.35}


def _table(cwd: Path) -> Path:
    """The same table that benchmarks/stitch.py stitches, for the peer."""
    import numpy as np

    from benchmarks.common import record_of
    from benchmarks.stitch import table_1

    (cwd / "spool").mkdir()
    table_1(cwd / "spool")
    metrics = record_of(cwd).metrics
    columns: dict[str, Any] = {name: metrics.value[metrics.key == i] for i, (name, _, _) in enumerate(metrics.keys)}
    first = metrics.key == 0
    np.savez(cwd / "table.npz", steps=metrics.step[first], times=metrics.wall_ns[first] // 1_000_000, **columns)
    return cwd / "table.npz"


def _peers(kinds: list[str]) -> dict[str, dict[str, Any] | str]:
    """What the peer made of it in each of its formats, or why it could not."""
    out: dict[str, dict[str, Any] | str] = {}
    with folder() as cwd:
        interpreter = python("yprov4ml")
        table = _table(cwd)
        for kind in kinds:
            (cwd / kind).mkdir()
            script = ROOT / "benchmarks" / "inside" / "table_yprov4ml.py"
            try:
                out[kind] = dict(last_json(call([interpreter, script, table, kind, cwd / kind], cwd, GIT_DIR=str(cwd))))
            except RuntimeError as e:
                out[kind] = str(e)
    return out


def archive(quick: bool) -> list[Row]:
    """`benchmarks/stitch.py`, three times (quick: once): values per second from spool files to a complete Zarr store,
    128 nodes of 8 GPUs and 600 ticks; and the bytes of the store for a table of the size in Table 1 of the yProv4ML
    paper. yProv4ML 3.2.8 writes the same table, value for value, from `log_metric` to the end of `end_run`; its
    Zarr is told to save every 1,000 values instead of every 100, which is faster and smaller."""
    found = []
    for _ in range(1 if quick else 3):
        text = call([sys.executable, ROOT / "benchmarks" / "stitch.py"], ROOT)
        found.append(json.loads(text[text.index("{"):]))
    rate = Spread([f["stitch"]["values_per_s"] / 1e6 for f in found])
    size = Spread([f["table_1"]["bytes"] / 1e6 for f in found])
    files = found[-1]["table_1"]["files"]
    speed_peers, size_peers = [], []
    try:
        name = f"yProv4ML {version('yprov4ml', 'yprov4ml')}"
        for kind, theirs in _peers(["csv", "nc"] if quick else ["csv", "nc", "zarr"]).items():
            if isinstance(theirs, str):
                size_peers.append(Peer(f"{name} {kind}", theirs))
                continue
            their_rate, their_size = theirs["values"] / theirs["seconds"] / 1e6, theirs["bytes"] / 1e6
            speed_peers.append(Peer(f"{name} {kind}, logging included", f"{their_rate:.2f} million/s",
                                    times(their_rate, rate.median)))
            size_peers.append(Peer(f"{name} {kind}", f"{their_size:.2f} MB in {theirs['files']:,} files",
                                   times(their_size, size.median)))
    except (Missing, RuntimeError) as e:
        speed_peers.append(Peer("yProv4ML", str(e)))
        size_peers.append(Peer("yProv4ML", str(e)))
    for kind, quoted in PAPER_MB.items():
        size_peers.append(Peer(f"the paper's {kind}", f"{quoted} MB, quoted"))
    best = found[-1]["stitch"]["best"]
    return [
        Row("stitch, spool to Zarr", rate.text("million values/s", digits=1), ">= 15 million/s", rate.median >= 15,
            speed_peers, {"found": found, "best": best}),
        Row("Table 1 of the yProv4ML paper, the series", f"{size.median:.2f} MB in {files:,} files", "<= 1.6 MB",
            size.median <= 1.6, size_peers),
    ]
