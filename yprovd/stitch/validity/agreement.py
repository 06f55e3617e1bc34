"""Whether the crate and prov.json speak of the same run and say the same of it."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.contents import is_of_archive
from yprovd.stitch.entities import id_of_path
from yprovd.stitch.validity.files import number, plain, read_json, records
from yprovd.swhid import stated_id

_YP = "https://w3id.org/yprov/ns#"
#: The figures of the run that its crate has as well (`yprovd.stitch.usage`).
_FIGURES = ("durationSeconds", "energyJ", "gpuEnergyJ", "co2eGrams", "gpuHours", "cpuSeconds", "peakMemoryBytes",
            "gpuPeakMemoryBytes")
_TOLERANCE = 1e-9
#: Where the archive keeps files of others.
_KEPT = ("artifacts/", "source/")


def check_agreement(entities: Mapping[str, Mapping[str, Any]], document: Any, wrong: Callable[[str], None]) -> None:
    """`entities`: of the crate, by @id. `wrong` takes what is wrong with the crate."""
    root = entities.get("./", {})
    said = root.get("identifier")
    prefixes = document.get("prefix") if isinstance(document, dict) else None
    base = str(prefixes.get("run") if isinstance(prefixes, dict) else None).rstrip("#")
    if base not in (said if isinstance(said, list) else [said]):
        wrong(f"does not state the run's identifier, `{base}`")
    if stated_id({"@graph": [*entities.values()]}) is None:
        wrong("states no identifier of its content (swh:1:dir:...)")
    runs = [r for r in records(document, "activity").values() if "yp:state" in r]
    actions = [e for e in entities.values() if e.get("@type") == "CreateAction"]
    energy = next((r for r in records(document, "entity").values() if "yp:energyMethod" in r), {})
    if len(runs) == 1 and len(actions) == 1:
        _action(actions[0], runs[0], energy, entities, wrong)


def _action(
    action: Mapping[str, Any], run: Mapping[str, Any], energy: Mapping[str, Any],
    entities: Mapping[str, Mapping[str, Any]], wrong: Callable[[str], None],
) -> None:
    """The energy is that of the report (`costs` compares it with the run's, which is rounded in another way)."""
    state = plain(run.get("yp:state"))
    status = f"http://schema.org/{'Completed' if state == 'completed' else 'Failed'}ActionStatus"
    if action.get("actionStatus") != status:
        wrong(f"says actionStatus {action.get('actionStatus')}; {PROV_FILE} says `{state}`")
    value = action.get("resourceUsage")
    used = [entities.get(str(v.get("@id")), {}) for v in (value if isinstance(value, list) else [value])
            if isinstance(v, dict)]
    told = {str(e.get("propertyID")).removeprefix(_YP): e.get("value") for e in used}
    for key in _FIGURES:
        said = plain((energy if key in ("energyJ", "gpuEnergyJ") else run).get(f"yp:{key}"))
        found, figure = told.get(key), number(said)
        if figure is not None and not math.isfinite(figure):
            figure = None  # JSON has no such number
        if found is None and ((key == "durationSeconds" and "prov:endTime" not in run) or (
                key == "peakMemoryBytes" and plain(run.get("yp:peakMemoryMethod")) == "rusage")):
            continue  # the crate has neither what nobody saw the end of, nor a process's peak as the job's
        ours = number(found)
        if (ours is None) != (figure is None) or (ours is not None and figure is not None and not math.isclose(
                ours, figure, rel_tol=_TOLERANCE)):
            wrong(f"says {key} {found}; {PROV_FILE} says {said}")


def check_others(run_dir: Path, document: Any, problems: list[str]) -> None:
    """What a job, or anybody later, may have made of the run's directory, and is no fault of who made the archive:
    links and pipes in it, and copies of files, which lie open while the job runs, that are not what prov.json says."""
    for name in _no_files(run_dir):
        problems.append(f"{CRATE_FILE}: `{name}` is neither a file nor a folder, and no part of the archive")
    crate = read_json(run_dir, CRATE_FILE, [])
    graph = crate.get("@graph") if isinstance(crate, dict) else None
    listed = {e.get("@id"): e for e in graph if isinstance(e, dict)} if isinstance(graph, list) else {}
    for name, record in records(document, "entity").items():
        place, digest = plain(record.get("prov:location")), plain(record.get("yp:sha256"))
        if not isinstance(place, str) or not place.startswith(_KEPT) or place == plain(record.get("yp:path")):
            continue  # without a copy, the location is the path
        if id_of_path(place) not in listed:
            problems.append(f"{PROV_FILE}: `{name}` is at `{place}`, which is not there")
        elif digest is not None and listed[id_of_path(place)].get("sha256") != digest:
            problems.append(f"{PROV_FILE}: `{name}` has another sha256 than `{place}`")


def _no_files(run_dir: Path) -> list[str]:
    out = []
    for folder, folders, names in os.walk(run_dir):
        for name in sorted((*folders, *names)):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, run_dir)
            belongs = f"{relative}/".startswith(f"{SERIES_DIR}/") or is_of_archive(relative)
            if belongs and not stat.S_ISREG(mode := os.lstat(path).st_mode) and not stat.S_ISDIR(mode):
                out.append(os.fsencode(relative).decode("utf-8", "backslashreplace"))
    return out
