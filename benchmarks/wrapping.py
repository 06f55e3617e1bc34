"""What the wrapper costs: start, end and archive around a command that does nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from benchmarks.common import Peer, Row, Spread, environ, folder, only_run, times, under_yprov
from benchmarks.environments import Missing, python, version


def _took_s(argv: Sequence[str], *, archive: bool = False) -> float:
    with folder() as cwd:
        began = time.perf_counter()
        subprocess.run(argv, cwd=cwd, env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True)
        took = time.perf_counter() - began
        if archive:
            missing = [n for n in ("prov.json", "series.zarr", "ro-crate-metadata.json")
                       if not (only_run(cwd) / n).exists()]
            if missing:
                raise RuntimeError(f"`yprov run -- true` left no {', '.join(missing)}")
    return took


def wrapper(quick: bool) -> list[Row]:
    """Wall time of `yprov run -q -- true` less that of `true` just before it, with the archive complete when it
    returns. The first of each is not counted. con-duct alike, in turns with ours; it makes no archive."""
    repeats = 5 if quick else 11
    commands = {"true": ["true"], "ours": under_yprov([], ["true"])}
    peers = []
    try:
        duct = str(python("con-duct").with_name("con-duct"))
        commands["duct"] = [duct, "run", "-q", "true"]
    except Missing as e:
        peers.append(Peer("con-duct", str(e)))
    took: dict[str, list[float]] = {name: [] for name in commands}
    for i in range(repeats + 1):
        for name, argv in commands.items():
            seconds = _took_s(argv, archive=name == "ours")
            if i:
                took[name].append(seconds)
    over = {name: Spread([s - t for s, t in zip(took[name], took["true"], strict=True)]) for name in commands}
    if "duct" in commands:
        peers.append(Peer(f"con-duct {version('con-duct', 'con-duct')}, no archive", over["duct"].text("s"),
                          times(over["duct"].median, over["ours"].median)))
    return [Row("yprov run -- true over true, archive included", over["ours"].text("s"), "<= 1.0 s",
                over["ours"].median <= 1.0, peers, took)]
