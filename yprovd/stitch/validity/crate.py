"""ro-crate-metadata.json: that it is a crate of the run, and that its files are those that it lists."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.crate import CONTEXT, PROFILE, archive_files, file_hash, folder_hash, path_of_id
from yprovd.stitch.validity.agreement import check_agreement
from yprovd.stitch.validity.files import read_json

#: An IRI with a scheme: what it stands for is not in the crate.
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def has_ended(document: dict[str, Any] | None) -> bool:
    """Whether the command had ended when the archive was made: else its logs may have grown since."""
    run = ((document or {}).get("activity") or {}).get("run:run")
    return not isinstance(run, dict) or "yp:exitCode" in run


def check_crate(
    run_dir: Path, problems: list[str], *, ended: bool, document: dict[str, Any] | None = None
) -> None:
    """`document`: prov.json, with which the crate has to agree."""
    doc = read_json(run_dir, CRATE_FILE, problems)
    if doc is None:
        return

    def wrong(text: str) -> None:
        problems.append(f"{CRATE_FILE}: {text}")

    graph = doc.get("@graph") if isinstance(doc, dict) else None
    if not isinstance(graph, list) or not all(isinstance(e, dict) and isinstance(e.get("@id"), str) for e in graph):
        wrong("has no @graph of entities with an @id")
        return
    entities = {e["@id"]: e for e in graph}
    if len(entities) < len(graph):
        wrong("has two entities with one @id")
    root = entities.get("./")
    if root is None or _references(entities.get(CRATE_FILE, {}).get("about")) != ["./"]:
        wrong("has no root data entity")
        return
    if PROFILE not in _references(root.get("conformsTo")):
        wrong("does not say that it conforms to Process Run Crate")
    if CONTEXT[0] not in (told if isinstance(told := doc.get("@context"), list) else [told]):
        wrong("has no @context of RO-Crate 1.1")
    for entity in graph:
        for key, value in entity.items():
            for reference in _references(value):
                if not _ABSOLUTE.match(reference) and reference not in entities:
                    wrong(f"`{entity['@id']}` refers with {key} to `{reference}`, which is not there")
    if not any("CreateAction" in _types(e) and _references(e.get("instrument")) for e in graph):
        wrong("has no action with an instrument")
    listed = set(_references(root.get("hasPart")))
    for identifier, entity in entities.items():
        if "File" in _types(entity):
            _crate_file(run_dir, identifier, entity, wrong, ended=ended)
            if identifier not in listed:
                wrong(f"`{path_of_id(identifier)}` is no part of the root")
    files = {path_of_id(i) for i, e in entities.items() if "File" in _types(e)}
    for name in archive_files(run_dir):
        if name not in files:
            wrong(f"the file `{name}` is not listed")
    store = entities.get(f"{SERIES_DIR}/")
    if store is not None and f"{SERIES_DIR}/" not in listed:
        wrong(f"`{SERIES_DIR}/` is no part of the root")
    if (run_dir / SERIES_DIR).is_dir():
        if store is None:
            wrong(f"`{SERIES_DIR}/` is not listed")
        elif store.get("sha256") != folder_hash(run_dir / SERIES_DIR)[2]:
            wrong(f"`{SERIES_DIR}/` is not as it was: its sha256 differs")
    elif store is not None:
        wrong(f"`{SERIES_DIR}/` is listed and missing")
    if isinstance(document, dict):
        check_agreement(entities, document, wrong)


def _crate_file(
    run_dir: Path, identifier: str, entity: dict[str, Any], wrong: Callable[[str], None], *, ended: bool
) -> None:
    name = path_of_id(identifier)
    if os.path.isabs(name) or ".." in Path(name).parts:
        wrong(f"the file `{name}` lies outside of the crate")
        return
    path = run_dir / name
    if path.is_symlink() or not path.is_file():
        wrong(f"the file `{name}` is listed and missing")
        return
    try:
        size, digest = file_hash(path)
    except OSError as e:
        wrong(f"the file `{name}` cannot be read: {e.strerror}")
        return
    if not ended and name.startswith("logs/") and _began_as(path, entity, size):
        return  # a program that outlived the archive (daemons make it when a job's time is up) has written on
    if entity.get("contentSize") != str(size):
        wrong(f"the file `{name}` has {size} bytes and not {entity.get('contentSize')}")
    elif entity.get("sha256") != digest:
        wrong(f"the file `{name}` is not as it was: its sha256 differs")


def _began_as(path: Path, entity: dict[str, Any], size: int) -> bool:
    """Whether a file that has grown holds, at its beginning, what is listed."""
    listed = str(entity.get("contentSize"))
    if not listed.isdecimal() or int(listed) >= size:
        return False
    with open(path, "rb") as f:
        return hashlib.sha256(f.read(int(listed))).hexdigest() == entity.get("sha256")


def _types(entity: dict[str, Any]) -> list[Any]:
    kinds = entity.get("@type")
    return kinds if isinstance(kinds, list) else [kinds]


def _references(value: Any) -> list[str]:
    return [v["@id"] for v in (value if isinstance(value, list) else [value])
            if isinstance(v, dict) and isinstance(v.get("@id"), str)]


