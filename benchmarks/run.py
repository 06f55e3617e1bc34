"""Every performance figure in one table, with the peers beside it, measured in the same run.

    python benchmarks/run.py [--quick] [--only NAME,...] [--json FILE]

`make bench` runs it in full; `--quick` takes shorter samples (and its figures are rougher). What is measured stands in
the docstring of each measurement. Figures are medians with [min..max] of the repeats; a ratio is the peer's figure over
ours, from this run. Figures marked `quoted` are not measured here. Exit status: 0 when all could be measured, whether
the bars are met or not; 1 when a measurement failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # as a script: this folder must not hide modules, the repository's root must be found
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import (
    archive,
    calls,
    cluster,
    daemon,
    document,
    drift,
    importing,
    sensors,
    slowdown,
    survival,
    wrapping,
)
from benchmarks.common import Row


def kills(quick: bool) -> list[Row]:
    """`benchmarks/kills.py`: kill -9 of the launcher, the collector, the node daemon or the command at random moments;
    the trials whose archive was whole, true and valid, at once or after `yprov stitch`."""
    from benchmarks.kills import main

    trials = 8 if quick else 50
    found = main(trials)
    return [Row("kill -9 of any process at any moment: archive whole",
                f"{found['ok']} of {trials}; {found['by_itself']} without help", f"{trials} of {trials}",
                found["ok"] == trials, raw=found)]


MEASUREMENTS: dict[str, Callable[[bool], list[Row]]] = {
    "calls": calls.log_metric,
    "events": survival.flood,
    "import": importing.import_cost,
    "daemon": daemon.daemon_cost,
    "slowdown": slowdown.slowdown,
    "sensors": sensors.sensors,
    "wrapper": wrapping.wrapper,
    "archive": archive.archive,
    "document": document.document,
    "kills": kills,
    "drift": drift.drift,
    "cluster": cluster.cluster,
}

_HEAD = ("figure", "ours: median [min..max]", "bar", "met?", "peers, same run", "peer / ours")
_WIDTHS = (40, 44, 16, 5, 58, 11)


def lines(rows: list[Row]) -> list[str]:
    """The table, as text."""
    out = [_line(_HEAD), "-+-".join("-" * w for w in _WIDTHS)]
    for row in rows:
        met = "" if not row.bar else {True: "yes", False: "NO", None: "?"}[row.met]
        cells = [textwrap.wrap(text, w) for text, w in zip((row.figure, row.ours, row.bar, met), _WIDTHS, strict=False)]
        peers, ratios = [], []
        for peer in row.peers:
            wrapped = textwrap.wrap(f"{peer.name}: {peer.text}", _WIDTHS[4], subsequent_indent="  ")
            peers += wrapped
            ratios += [peer.ratio] + [""] * (len(wrapped) - 1)
        cells += [peers, ratios]
        for i in range(max(map(len, cells))):
            out.append(_line([cell[i] if i < len(cell) else "" for cell in cells]))
        out.append("-+-".join("-" * w for w in _WIDTHS))
    return out


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return " | ".join(cell.ljust(w) for cell, w in zip(cells, _WIDTHS, strict=True)).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter samples, rougher figures")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="the figures and all repeats, for programs")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(MEASUREMENTS)
    for name in names:
        if name not in MEASUREMENTS:
            parser.error(f"there is no measurement `{name}`; there are {', '.join(MEASUREMENTS)}")
    rows: list[Row] = []
    failed = False
    began = time.monotonic()
    for name in names:
        print(f"measuring {name} ({time.monotonic() - began:.0f} s so far)", file=sys.stderr, flush=True)
        try:
            rows += MEASUREMENTS[name](args.quick)
        except KeyboardInterrupt:
            failed = True
            rows.append(Row(name, "interrupted", "-", False))
            break
        except Exception as e:  # noqa: BLE001  one that fails is a row, and the others go on
            failed = True
            rows.append(Row(name, f"FAILED: {type(e).__name__}: {e}", "-", False))
    took = time.monotonic() - began
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"yprov on {platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
          f"{platform.python_version()}; {'quick, ' if args.quick else ''}{took:.0f} s; load at the end {load}\n")
    print("\n".join(lines(rows)))
    missed = [row.figure for row in rows if row.met is False]
    if missed:
        print(f"\nnot met: {'; '.join(missed)}")
    if args.json:
        args.json.write_text(json.dumps([vars(r) | {"peers": [vars(p) for p in r.peers]} for r in rows], indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
