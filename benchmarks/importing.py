"""What `import yprov` costs over bare Python."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import INSIDE, ROOT, Peer, Row, Spread, call, environ, folder, last_json, times
from benchmarks.environments import Missing, python, version

HEAVY = ("numpy", "zarr", "prov", "typer", "yaml", "zmq")
_REPORT = """
import sys
status = open("/proc/self/status").read()
rss, peak = (int(status.split(key)[1].split()[0]) for key in ("VmRSS:", "VmHWM:"))
print('{"rss": %d, "peak": %d, "modules": [%s]}' % (rss, peak, ", ".join('"%s"' % m for m in sys.modules)))
"""
PEERS = {
    "yprov4ml": ("yprov4ml", "yProv4ML {} (empty torch)", "import yprov4ml_alone"),
    "wandb": ("wandb", "W&B {}", "import wandb"),
    "mlflow": ("mlflow-skinny", "MLflow {}", "import mlflow"),
}


def _compare(interpreter: str | Path, statement: str, repeats: int, cwd: Path) -> dict[str, Any]:
    """Fresh interpreters, bare and with the import, in turns; the first pair is not counted."""
    env = environ(PYTHONPATH=str(INSIDE) if "alone" in statement else "")
    wall_ms: list[float] = []
    rss_kb: list[float] = []
    bare_ms: list[float] = []
    modules: list[str] = []
    for i in range(repeats + 1):
        took = []
        memory = []
        for code in ("pass", statement):
            began = time.perf_counter()
            subprocess.run([interpreter, "-c", code], cwd=cwd, env=env, check=True, capture_output=True)
            took.append((time.perf_counter() - began) * 1e3)
        for code in ("pass", statement):
            seen = last_json(call([interpreter, "-c", code + _REPORT], cwd, PYTHONPATH=env["PYTHONPATH"]))
            memory.append(seen["rss"])
            modules = seen["modules"]
        if i:
            wall_ms.append(took[1] - took[0])
            bare_ms.append(took[0])
            rss_kb.append(memory[1] - memory[0])
    return {"ms": wall_ms, "bare_ms": bare_ms, "rss_kb": rss_kb, "modules": modules}


def import_cost(quick: bool) -> list[Row]:
    """Wall time of a fresh interpreter that runs `import yprov`, less that of one that runs `pass` started just before
    it; and the same difference of VmRSS, read by the interpreter of itself. Bytecode is compiled. No heavy module may
    be in `sys.modules`. The peers alike, in their own environments, with fewer repeats."""
    repeats = 7 if quick else 21
    call([sys.executable, "-m", "compileall", "-q", ROOT / "yprovd", ROOT / "launcher"], ROOT)
    peers_ms, peers_mb = [], []
    with folder() as cwd:
        ours = _compare(sys.executable, "import yprov", repeats, cwd)
        ms, mb = Spread(ours["ms"]), Spread([kb / 1024 for kb in ours["rss_kb"]])
        for name, (package, title, statement) in PEERS.items():
            try:
                theirs = _compare(python(name), statement, 3 if quick else 7, cwd)
            except (Missing, RuntimeError, subprocess.CalledProcessError) as e:
                peers_ms.append(Peer(title.format(""), str(e)))
                continue
            title = title.format(version(name, package))
            their_ms, their_mb = Spread(theirs["ms"]), Spread([kb / 1024 for kb in theirs["rss_kb"]])
            peers_ms.append(Peer(title, their_ms.text("ms", digits=0), times(their_ms.median, ms.median)))
            peers_mb.append(Peer(title, their_mb.text("MB", digits=0), times(their_mb.median, mb.median)))
    heavy = [m for m in HEAVY if m in ours["modules"]]
    loaded = f"; LOADS {', '.join(heavy)}" if heavy else ""
    return [
        Row(f"import yprov over bare Python ({Spread(ours['bare_ms']).text('ms', digits=1)}), time",
            ms.text("ms") + loaded, "<= 10 ms", ms.median <= 10 and not heavy, peers_ms, ours),
        Row("import yprov over bare Python, memory", mb.text("MB"), "<= 3 MB", mb.median <= 3, peers_mb),
    ]
