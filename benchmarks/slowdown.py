"""What recording costs the training."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.common import INSIDE, Row, Spread, call, folder, interval, last_json, under_yprov

BAR = 0.005
#: How well the median should be known.
WANTED = 0.005
#: No pair begins after this.
LONGEST_S = 130.0


def _train(recorded: bool, epochs: int, core: int | None) -> dict[str, float]:
    with folder() as cwd:
        command: list[str | Path] = [sys.executable, INSIDE / "digits_timed.py", "--epochs", str(epochs),
                                     "--model", cwd / "model.pkl"]
        argv = under_yprov([], command) if recorded else command
        return dict(last_json(call(argv, cwd, core=core, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")))


def slowdown(quick: bool) -> list[Row]:
    """Elapsed time of examples/digits.py from its first to its last line, by its own clock, under `yprov run` and
    without it, in pairs whose order alternates; the start and the end of `yprov run` are not in it, nor is the first
    event. The training has one thread (more threads than free cores make its time a lottery) and everything runs
    where the kernel puts it. The figure is the median of the pairs' ratios, less one. Pairs are added, up to a
    bound and for two minutes, until the median is known to +-0.5 % (90 % bootstrap interval, shown). Where the bar
    lies within that interval, the machine was too noisy to say (`?`). The CPU time that the training process used
    is compared beside it: what the client costs, whatever the neighbours do.

    The second row, without a bar, is the worst case: training, launcher and daemons share one core, so that all that
    they use is taken from the training."""
    return [_row(quick, "slowdown of the example training", None, "<= 0.5 %"),
            _row(quick, "the same, everything on one core", max(os.sched_getaffinity(0)), "")]


def _row(quick: bool, name: str, core: int | None, bar: str) -> Row:
    least, most, epochs = (3, 3, 15) if quick else (11, 31, 30)
    _train(False, epochs, core)  # caches warm
    results: list[dict[bool, dict[str, float]]] = []
    low, high = -1.0, 1.0
    until = time.monotonic() + LONGEST_S
    while len(results) < least or (len(results) < most and high - low > 2 * WANTED and time.monotonic() < until):
        order = ((False, True), (True, False))[len(results) % 2]
        results.append({recorded: _train(recorded, epochs, core) for recorded in order})
        wall = [r[True]["wall_s"] / r[False]["wall_s"] - 1 for r in results]
        low, high = interval(wall)
    cpu = Spread([r[True]["cpu_s"] / r[False]["cpu_s"] - 1 for r in results])
    plain = Spread([r[False]["wall_s"] for r in results])
    met = None if not bar or low <= BAR < high else high <= BAR  # the interval, and not its middle, decides
    return Row(
        f"{name} ({plain.text('s', digits=1)}), {len(results)} pairs",
        f"{Spread(wall).text('%', 100)}; median within {low * 100:+.2f}..{high * 100:+.2f} (90 %); "
        f"its CPU time {cpu.median * 100:+.2f} %",
        bar, met, raw={"plain": [r[False] for r in results], "recorded": [r[True] for r in results]})
