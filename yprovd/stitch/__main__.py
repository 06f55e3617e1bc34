"""`python -m yprovd.stitch [--when-told] RUN_DIR`: how the collector and the launcher start a stitch.

With `--when-told` everything heavy is loaded first, and the work begins with a line on standard input (`keep`: the
spool stays in any case); without one (who started us was killed) it ends. The environment is the run's own.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from yprovd.errors import YprovError
from yprovd.secrets import known_values
from yprovd.stitch import stitch


def main(argv: list[str]) -> int:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # the launcher blocks its signals, and we inherit that
    keep = None
    if argv and argv[0] == "--when-told":
        from yprovd.stitch import attribution, crate, provenance, series, validate  # noqa: F401

        word = sys.stdin.buffer.readline()
        if not word:
            return 1
        keep = True if word == b"keep\n" else None
        argv = argv[1:]
    try:
        stitch(Path(argv[0]), keep_spool=keep, known=known_values(os.environ))
    except YprovError as e:
        print(f"error: {e}" + (f"\nhint: {e.hint}" if e.hint else ""), file=sys.stderr)
        return 1
    except Exception as e:  # noqa: BLE001  a defect of ours: for us to read, not for the user's terminal
        import traceback

        log = Path(argv[0]) / "logs" / "stitch.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        print(f"error: the stitch failed: {type(e).__name__}: {e}", file=sys.stderr)
        print(f"hint: please report this with `{log}`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
