"""The persistent identifiers of a run, in its directory or zipped: which run it is, and what its archive holds."""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprov.choosing import find
from yprov.runs import ensure_archive
from yprov.zipped import DAMAGED
from yprovd.config import RUN_FILE, RunConfig
from yprovd.errors import YprovError
from yprovd.swhid import stated_id

_CRATE = "ro-crate-metadata.json"


def urn_of(run_id: str) -> str | None:
    """`urn:uuid:...`; None for an id that is no UUID, which a run of ours never has."""
    try:
        return uuid.UUID(run_id).urn
    except ValueError:
        return None


def stated_in(where: Path) -> str | None:
    """What the crate of a run, in its directory or zipped, states of the content; None where it does not, or there is
    none."""
    from yprov.zipped import read_file

    try:
        data = read_file(where, _CRATE) if where.is_file() else (where / _CRATE).read_bytes()
        return stated_id(json.loads(data))
    except (OSError, ValueError, YprovError):
        return None


def identify(given: str, directory: str, note: Callable[[str], None] = lambda sentence: None) -> dict[str, Any]:
    """urn, content_id (of what lies there now), stated (by the crate, None: nothing), same. `given` as for every
    command, or a zip file; `note`: as for `find`. Reads every file. Raises YprovError."""
    path = Path(given)
    if path.is_file():
        return _of_zip(path)
    from yprovd.stitch.identity import content_id

    run_dir = find(given, directory, note)
    ensure_archive(run_dir)
    if not (run_dir / _CRATE).is_file():
        raise YprovError(f"`{run_dir}` has no archive yet", hint=f"yprov stitch {run_dir}")
    try:
        return _facts(RunConfig.read(run_dir).run_id, content_id(run_dir), stated_in(run_dir))
    except (OSError, *DAMAGED) as e:
        raise YprovError(f"cannot read the archive in `{run_dir}`: {e}",
                         hint=f"yprov validate {run_dir}") from None


def _of_zip(path: Path) -> dict[str, Any]:
    from yprovd.stitch.identity import content_id_of_zip

    try:
        found = content_id_of_zip(path)
        with zipfile.ZipFile(path) as archive:
            crate = _member(archive, _CRATE)
            run_id = json.loads(_member(archive, RUN_FILE) or b"{}").get("run_id")
            return _facts(str(run_id), found, stated_id(json.loads(crate)) if crate else None)
    except (OSError, AttributeError, *DAMAGED) as e:
        raise YprovError(f"cannot read `{path}` as a zipped run: {e}", hint="was it copied as a whole?") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """The file of this name that lies least deep."""
    names = [n for n in archive.namelist() if n.rpartition("/")[2] == name]
    return archive.read(min(names, key=len)) if names else None


def _facts(run_id: str, found: str, stated: str | None) -> dict[str, Any]:
    return {"urn": urn_of(run_id), "content_id": found, "stated": stated, "same": stated in (None, found)}
