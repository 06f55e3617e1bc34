"""`python -m yprovd node|collect|step RUN_DIR`: the two daemons, and the task that holds them in a scheduler's step.
Started by `yprov run`."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path

from yprovd.errors import YprovError

ROLES = {"node": "yprovd.node", "collect": "yprovd.collector", "step": "yprovd.step"}


def main(argv: list[str]) -> int:
    if len(argv) not in (2, 3 if argv[:1] == ["step"] else 2) or argv[0] not in ROLES:
        print("usage: python -m yprovd {node|collect} RUN_DIR, or step RUN_DIR [FIRST_NODE]", file=sys.stderr)
        return 2
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # the launcher blocks its signals, and we inherit that
    try:
        status: int = importlib.import_module(ROLES[argv[0]]).main(Path(argv[1]), *argv[2:])
    except YprovError as e:
        print(f"error: {e}" + (f"\nhint: {e.hint}" if e.hint else ""), file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
