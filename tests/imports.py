"""Imported runs in tests: importing one, and looking into what it became without the readers of the importer."""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from yprov.importing import Imported, import_runs
from yprov.runs import value_of
from yprovd.spool import SpoolReader, spool_files
from yprovd.wire import Kind, unpack_metrics

FIXTURES = Path(__file__).parent / "fixtures" / "yprov4ml"
sys.path.insert(0, str(FIXTURES))
import known  # noqa: E402  what the recorded programs logged; `generate.py` finds it beside itself

sys.path.remove(str(FIXTURES))
__all__ = ["FIXTURES", "attributes", "copy_of", "document", "entities", "import_one", "known", "logged", "records"]


def copy_of(name: str, tmp_path: Path) -> Path:
    """The folder of one recorded run, to be changed."""
    return Path(shutil.copytree(FIXTURES / name / "prov", tmp_path / "original")) / "démo_0"


def import_one(path: Path, tmp_path: Path, **options: Any) -> Imported:
    (done,) = import_runs([path], tmp_path / "runs", **options)
    return done


def document(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "prov.json").read_text(encoding="utf-8"))


def records(run_dir: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The records of a kind by their ids, with plain values."""
    return {name.removeprefix("run:"): {k: value_of(v) for k, v in record.items()}
            for name, record in document(run_dir)[kind].items()}


def entities(run_dir: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """Entities by their labels."""
    return {e["prov:label"]: e for name, e in records(run_dir, "entity").items() if name.startswith(prefix)}


def attributes(run_dir: Path) -> dict[str, Any]:
    return records(run_dir, "activity")["run"]


def logged(run_dir: Path) -> dict[tuple[int, str | None, str], list[tuple[int | None, float, int]]]:
    """(rank, context, metric) -> (step, value, ms) in the order of the spool, which must have been kept."""
    ranks: dict[int, int] = {}
    out: dict[tuple[int, str | None, str], list[tuple[int | None, float, int]]] = defaultdict(list)
    for path in spool_files(run_dir / "spool"):
        for frame in SpoolReader(path):
            if frame.kind == Kind.SOURCE:
                about = json.loads(bytes(frame.payload))
                ranks[frame.source] = about.get("rank", -1)
            elif frame.kind == Kind.METRICS:
                for row in unpack_metrics(frame.payload):
                    wall_ns = row.mono_ns + frame.wall_ns - frame.mono_ns
                    assert wall_ns % 10**6 == 0
                    out[ranks[frame.source], row.context, row.name].append((row.step, row.value, wall_ns // 10**6))
    return dict(out)
