"""The ways in which a Slurm job ends (tests/slurm/ways.py), several times each.

    python -m benchmarks.endings --times 5

One line per way: how often the archive was valid with the true state and nothing was missing, processes of ours that
were left, and the oldest data that were lost (what is younger than two seconds before the end may be). `--only WORD`
takes the ways whose names contain it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from tests.slurm.cluster import Cluster, why_not
from tests.slurm.endings import Case, Trial, run_all, run_apart
from tests.slurm.ways import APART, CASES


def rounds(cases: list[Case], apart: list[Case], times: int, at_once: int) -> dict[str, list[Trial]]:
    """Every case so many times. Blocks for a minute and a half or two per round."""
    trials: dict[str, list[Trial]] = {case.name: [] for case in (*cases, *apart)}
    with tempfile.TemporaryDirectory(prefix="yprov-end-", dir="/var/tmp") as name:
        folder, numbers = Path(name), itertools.count()

        def new(**options: Any) -> Cluster:
            return Cluster(folder / f"c{next(numbers)}", shared=[ROOT, folder], **options)

        for number in range(times):
            done: dict[str, Trial] = {}
            if cases:
                with new(gpus=8) as machines:
                    done |= run_all(machines, cases, folder / f"r{number}", at_once=at_once)
            done |= run_apart(new, apart, folder / f"a{number}", at_once=at_once)
            for case, trial in done.items():
                trials[case].append(trial)
                if trial.problems:
                    print(f"# {number + 1}: {case}: {'; '.join(trial.problems)[:500]}", file=sys.stderr, flush=True)
            print(f"# round {number + 1} of {times}", file=sys.stderr, flush=True)
    return trials


def line(name: str, trials: list[Trial]) -> str:
    good = sum(not t.problems for t in trials)
    states = ", ".join(sorted({said[0] for t in trials for said in t.said[:1]}))
    return (f"{name:42} {good}/{len(trials)} ok   {states:20} left {sum(len(t.left) for t in trials)}   "
            f"lost {max((t.lost_s for t in trials), default=0.0):.2f} s   "
            f"by itself {sum(t.by_itself for t in trials)}, refreshed {sum(t.refreshed for t in trials)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], metavar="WORD")
    parser.add_argument("--at-once", type=int, default=8, help="trials side by side")
    given = parser.parse_args()
    if reason := why_not():
        print(f"not measured: {reason}")
        return 1

    def wanted(cases: list[Case]) -> list[Case]:
        return [c for c in cases if not given.only or any(word in c.name for word in given.only)]
    trials = rounds(wanted(CASES), wanted(APART), given.times, given.at_once)
    for name, some in trials.items():
        print(line(name, some))
    bad = [t for some in trials.values() for t in some if t.problems]
    print(f"{sum(map(len, trials.values())) - len(bad)} of {sum(map(len, trials.values()))} ok, "
          f"{sum(len(t.left) for some in trials.values() for t in some)} processes left, "
          f"oldest lost {max((t.lost_s for some in trials.values() for t in some), default=0.0):.2f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
