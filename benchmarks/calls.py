"""What one `log_metric` costs its caller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.common import INSIDE, Peer, Row, Spread, call, folder, last_json, only_run, record_of, times, under_yprov
from benchmarks.environments import Missing, python, version

PEERS = {  # tool of log_calls.py -> environment, package, what it is called
    "yprov4ml": ("yprov4ml", "yprov4ml", "yProv4ML {} csv"),
    "wandb": ("wandb", "wandb", "W&B {} offline"),
    "mlflow-file": ("mlflow", "mlflow-skinny", "MLflow {} files"),
    "mlflow-sqlite": ("mlflow", "mlflow-skinny", "MLflow {} sqlite"),
}


def _one(tool: str, interpreter: str | Path, mode: str, seconds: float) -> dict[str, Any]:
    with folder() as cwd:
        command = [interpreter, INSIDE / "log_calls.py", tool, mode, str(seconds), cwd]
        if tool != "yprov":
            return dict(last_json(call(command, cwd, WANDB_ERROR_REPORTING="false", DO_NOT_TRACK="true")))
        result = dict(last_json(call(under_yprov(["--keep-spool"], command), cwd)))
        (process,) = record_of(only_run(cwd)).processes
        result["kept"] = process.received - 21  # the warm-up
        return result


def log_metric(quick: bool) -> list[Row]:
    """The time between two readings of `perf_counter_ns` around each call of `log_metric(name, float, step)`, less the
    median of the timer's own, in a process under `yprov run` with its daemon and collector alive. Twice: in a loop
    that does nothing else (`tight`), and at 1,000 calls/s with Python computing in between (`paced`). Repeats take
    turns with the peers', each in its own process. All calls must be in the spool: a dropped call would be cheap."""
    repeats, seconds = (3, 1.0) if quick else (7, 3.0)
    rows = []
    for mode in ("tight", "paced"):
        results: dict[str, list[dict[str, Any]]] = {}
        missing: dict[str, str] = {}
        for i in range(repeats):
            results.setdefault("yprov", []).append(_one("yprov", sys.executable, mode, seconds))
            for tool, (environment, _package, _title) in PEERS.items():
                if tool in missing or i >= 3:
                    continue
                try:
                    results.setdefault(tool, []).append(_one(tool, python(environment), mode, min(seconds, 2.0)))
                except (Missing, RuntimeError) as e:
                    missing[tool] = str(e)
        ours = results["yprov"]
        lost = sum(r["calls"] - r["kept"] for r in ours)
        for key, title, bar_us in (("median_ns", "median", 1.0), ("p99_ns", "p99", 10.0)):
            spread = Spread([r[key] / 1e3 for r in ours])
            peers = []
            for tool, (environment, package, name) in PEERS.items():
                if tool in missing:
                    peers.append(Peer(name.format(""), missing[tool]))
                    continue
                theirs = Spread([r[key] / 1e3 for r in results[tool]])
                peers.append(Peer(name.format(version(environment, package)), theirs.text("us"),
                                  times(theirs.median, spread.median)))
            rows.append(Row(
                f"log_metric in the caller, {mode} loop, {title}",
                spread.text("us") + (f", {lost} CALLS LOST" if lost else ""), f"<= {bar_us:g} us",
                spread.median <= bar_us and not lost, peers, {"results": results, "lost": lost}))
    return rows
