"""`python -m yprovd.stitch [--when-stdin-ends] RUN_DIR`: how the collector and the launcher start a stitch.

With `--when-stdin-ends` everything heavy is loaded first and the work begins when standard input ends.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from yprovd.errors import YprovError
from yprovd.stitch import stitch


def main(argv: list[str]) -> int:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # the launcher blocks its signals, and we inherit that
    if argv and argv[0] == "--when-stdin-ends":
        from yprovd.stitch import attribution, crate, provenance, series, validate  # noqa: F401

        sys.stdin.buffer.read()
        argv = argv[1:]
    try:
        stitch(Path(argv[0]))
    except YprovError as e:
        print(f"error: {e}" + (f"\nhint: {e.hint}" if e.hint else ""), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
