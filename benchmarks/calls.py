"""What one `log_metric` costs its caller."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.common import (
    INSIDE,
    Peer,
    Row,
    Spread,
    call,
    folder,
    last_json,
    only_run,
    record_of,
    times,
    under_yprov,
)
from benchmarks.environments import Missing, python, version

PEERS = {  # tool of log_calls.py -> environment, package, what it is called
    "yprov4ml": ("yprov4ml", "yprov4ml", "yProv4ML {} csv"),
    "wandb": ("wandb", "wandb", "W&B {} offline"),
    "mlflow-file": ("mlflow", "mlflow-skinny", "MLflow {} files"),
    "mlflow-sqlite": ("mlflow", "mlflow-skinny", "MLflow {} sqlite"),
}


#: Calls a second (0: as fast as they go), and how that is called.
RATES = {0: "tight loop", 10_000: "10,000/s", 1_000: "1,000/s"}


def _one(tool: str, interpreter: str | Path, rate: int, seconds: float) -> dict[str, Any]:
    with folder() as cwd:
        command = [interpreter, INSIDE / "log_calls.py", tool, str(rate), str(seconds), cwd]
        if tool != "yprov":
            return dict(last_json(call(command, cwd, WANDB_ERROR_REPORTING="false", DO_NOT_TRACK="true")))
        result = dict(last_json(call(under_yprov(["--keep-spool"], command), cwd)))
        (process,) = record_of(only_run(cwd)).processes
        result["kept"] = process.received - 21  # the warm-up
        return result


def _peers(rate: int, quick: bool) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    results: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, str] = {}
    for tool, (environment, _package, _title) in PEERS.items():
        try:
            interpreter = python(environment)
            results[tool] = [_one(tool, interpreter, rate, 0.5 if quick else 1.5) for _ in range(1 if quick else 3)]
        except (Missing, RuntimeError) as e:
            missing[tool] = str(e)
    return results, missing


def log_metric(quick: bool) -> list[Row]:
    """The time between two readings of `perf_counter_ns` around each call of `log_metric(name, float, step)`, less the
    median of the timer's own, in a process under `yprov run` with its daemon and collector alive: in a loop that does
    nothing else, and at 10,000 and at 1,000 calls a second with Python computing in between. All calls must be in the
    spool: a dropped call would be cheap. Between rare calls the processor forgets (caches, predictions), whoever is
    called: the same loop with a time stamp and an append in place of the tool is shown beside it. Each repeat is a
    process of its own; the peers', in their own environments, stand between ours."""
    repeats, seconds = (2, 1.0) if quick else (6, 2.0)
    rows = []
    for rate, loop in RATES.items():
        ours = [_one("yprov", sys.executable, rate, seconds) for _ in range(repeats // 2)]
        results, missing = _peers(rate, quick)
        ours += [_one("yprov", sys.executable, rate, seconds) for _ in range(repeats // 2)]
        lost = sum(r["calls"] - r["kept"] for r in ours)
        for key, title, bar_us in (("median_ns", "median", 1.0), ("p99_ns", "p99", 10.0)):
            spread = Spread([r[key] / 1e3 for r in ours])
            floor = Spread([r["floor"][key] / 1e3 for r in ours])
            peers = [Peer("a time stamp and an append", floor.text("us"), times(floor.median, spread.median))]
            for tool, (environment, package, name) in PEERS.items():
                if tool in missing:
                    peers.append(Peer(name.format(""), missing[tool]))
                    continue
                theirs = Spread([r[key] / 1e3 for r in results[tool]])
                peers.append(Peer(name.format(version(environment, package)), theirs.text("us"),
                                  times(theirs.median, spread.median)))
            rows.append(Row(
                f"log_metric in the caller, {loop}, {title}",
                spread.text("us") + (f", {lost} CALLS LOST" if lost else ""), f"<= {bar_us:g} us",
                spread.median <= bar_us and not lost, peers, {"ours": ours, "peers": results, "lost": lost}))
    return rows
