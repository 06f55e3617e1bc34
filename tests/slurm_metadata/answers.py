"""Slurm's answers in `tests/fixtures/slurm`, read; its README says which are recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprovd import slurm

Commands = Callable[..., Path]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "slurm"
RECORDED = ["22.05", "24.11"]
DOCUMENTED = ["23.02", "23.11", "24.05", "25.05", "25.11", "26.05"]
Facts = dict[str, Any]


def read(version: str, name: str) -> list[Facts]:
    """By the parser that the file's name asks for."""
    text = (FIXTURES / version / name).read_text()
    if name.endswith(".sacct.json"):
        return slurm.parse_sacct_json(json.loads(text))
    if name.endswith(".sacct.txt"):
        return slurm.parse_sacct_text(text)
    return slurm.parse_job_json(json.loads(text)) if name.endswith(".json") else slurm.parse_show_job(text)


def one(version: str, name: str, job_id: str) -> Facts:
    (facts,) = [f for f in read(version, name) if f["job_id"] == job_id]
    return facts


def variables(version: str, name: str) -> dict[str, str]:
    lines = (FIXTURES / version / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
