"""ro-crate-metadata.json: that it is a crate of the run, and that its files are those that it lists."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.contents import Contents, contents_of, hashes, listing_of
from yprovd.stitch.crate import CONTEXT, PROFILE, path_of_id
from yprovd.stitch.identity import listed_logs
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
) -> Contents | None:
    """Gives what it has read, all of the archive, for who needs it again; of logs that may have grown (the command had
    not `ended`) as much as is listed. `document`: prov.json, with which the crate has to agree."""
    doc = read_json(run_dir, CRATE_FILE, problems)
    if doc is None:
        return None

    def wrong(text: str) -> None:
        problems.append(f"{CRATE_FILE}: {text}")

    graph = doc.get("@graph") if isinstance(doc, dict) else None
    if not isinstance(graph, list) or not all(isinstance(e, dict) and isinstance(e.get("@id"), str) for e in graph):
        wrong("has no @graph of entities with an @id")
        return None
    entities = {e["@id"]: e for e in graph}
    if len(entities) < len(graph):
        wrong("has two entities with one @id")
    root = entities.get("./")
    if root is None or _references(entities.get(CRATE_FILE, {}).get("about")) != ["./"]:
        wrong("has no root data entity")
        return None
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
    found = contents_of(run_dir, {} if ended else listed_logs(doc))
    listed = set(_references(root.get("hasPart")))
    for identifier, entity in entities.items():
        if "File" in _types(entity):
            _crate_file(run_dir, identifier, entity, wrong, found)
            if identifier not in listed:
                wrong(f"`{path_of_id(identifier)}` is no part of the root")
    files = {path_of_id(i) for i, e in entities.items() if "File" in _types(e)}
    for name in found.files:
        if name not in files:
            wrong(f"the file `{name}` is not listed")
    store = entities.get(f"{SERIES_DIR}/")
    if store is not None and f"{SERIES_DIR}/" not in listed:
        wrong(f"`{SERIES_DIR}/` is no part of the root")
    if (run_dir / SERIES_DIR).is_dir():
        if store is None:
            wrong(f"`{SERIES_DIR}/` is not listed")
        elif found.series is None or store.get("sha256") != listing_of(found.series)[2]:
            wrong(f"`{SERIES_DIR}/` is not as it was: its sha256 differs")
    elif store is not None:
        wrong(f"`{SERIES_DIR}/` is listed and missing")
    if isinstance(document, dict):
        check_agreement(entities, document, wrong)
    return found


def _crate_file(
    run_dir: Path, identifier: str, entity: dict[str, Any], wrong: Callable[[str], None], found: Contents
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
        there = found.files.get(name) or hashes(path)
        if (entity.get("contentSize"), entity.get("sha256")) == (str(there.size), there.sha256):
            return  # also a log that a program which outlived the archive has written on
        size = path.stat().st_size
    except OSError as e:
        wrong(f"the file `{name}` cannot be read: {e.strerror}")
        return
    if entity.get("contentSize") != str(size):
        wrong(f"the file `{name}` has {size} bytes and not {entity.get('contentSize')}")
    else:
        wrong(f"the file `{name}` is not as it was: its sha256 differs")


def _types(entity: dict[str, Any]) -> list[Any]:
    kinds = entity.get("@type")
    return kinds if isinstance(kinds, list) else [kinds]


def _references(value: Any) -> list[str]:
    return [v["@id"] for v in (value if isinstance(value, list) else [value])
            if isinstance(v, dict) and isinstance(v.get("@id"), str)]


