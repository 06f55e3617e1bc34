"""Times single calls of a tool's `log_metric`, in the calling thread: `log_calls.py TOOL RATE SECONDS FOLDER`.

TOOL: yprov, yprov4ml, wandb, mlflow-file, mlflow-sqlite. RATE: 0 for one call after the other, or so many calls a
second (at most) with Python computing in between, as a training loop does. Prints one line of JSON: the median and the
99th percentile in ns, less the median cost of the timer itself; and as `floor` the same for a function that takes a
time stamp and appends a tuple, in the same process and loop: what this machine makes of the least that could be done.
"""

import json
import logging
import os
import sys
from collections import deque
from time import monotonic_ns, perf_counter_ns

#: Calls at most; below what the yprov client would have to drop.
LIMIT = 200_000


def yprov(folder):
    import yprov

    return yprov.log_metric, lambda: yprov.flush(10)


def yprov4ml(folder):
    from yprov4ml_alone import yprov4ml

    yprov4ml.start_run("bench", provenance_save_dir=folder, metrics_file_type="csv", rank=0)
    return (lambda name, value, step: yprov4ml.log_metric(name, value, "training", step)), yprov4ml.end_run


def wandb(folder):
    import wandb

    run = wandb.init(mode="offline", dir=folder, project="bench", settings=wandb.Settings(silent=True))
    return (lambda name, value, step: run.log({name: value}, step=step)), run.finish


def mlflow(folder, store):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    logging.disable(logging.WARNING)
    import mlflow

    mlflow.set_tracking_uri(f"file:{folder}/mlruns" if store == "file" else f"sqlite:///{folder}/mlflow.db")
    mlflow.start_run()
    return (lambda name, value, step: mlflow.log_metric(name, value, step=step)), mlflow.end_run


TOOLS = {
    "yprov": yprov, "yprov4ml": yprov4ml, "wandb": wandb,
    "mlflow-file": lambda folder: mlflow(folder, "file"), "mlflow-sqlite": lambda folder: mlflow(folder, "sqlite"),
}


def timer_ns():
    """What two readings of the clock are apart when nothing is between them."""
    apart = []
    for _ in range(20_000):
        began = perf_counter_ns()
        apart.append(perf_counter_ns() - began)
    return sorted(apart)[len(apart) // 2]


def measure(log, rate, seconds):
    took = []
    start = perf_counter_ns()
    end = start + int(seconds * 1e9)
    gap = 1_000_000_000 // rate if rate else 0
    i = 0
    while i < LIMIT:
        value = 1.0 / (i + 1)
        began = perf_counter_ns()
        log("loss", value, i)
        now = perf_counter_ns()
        took.append(now - began)
        i += 1
        if now > end:
            break
        if gap:
            due = start + i * gap
            while perf_counter_ns() < due:
                value += 1.0
    return took


def summary(took, timer):
    took = sorted(max(0, t - timer) for t in took)
    return {"calls": len(took), "median_ns": took[len(took) // 2], "p99_ns": took[int(len(took) * 0.99)],
            "mean_ns": sum(took) / len(took), "max_ns": took[-1]}


def main(tool, rate, seconds, folder):
    log, finish = TOOLS[tool](folder)
    timer = timer_ns()
    began = perf_counter_ns()
    log("warm", 1.0, 0)
    first = perf_counter_ns() - began
    for i in range(20):
        log("warm", 1.0, i + 1)
    warm = perf_counter_ns() + 300_000_000  # the threads and processes of a tool come up at the first call
    while perf_counter_ns() < warm:
        pass
    took = measure(log, int(rate), float(seconds))
    finish()
    kept = deque()
    floor = measure(lambda name, value, step: kept.append((monotonic_ns(), name, value, step)), int(rate), 1.0)
    print(json.dumps({**summary(took, timer), "timer_ns": timer, "first_ns": first, "floor": summary(floor, timer)}),
          flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
