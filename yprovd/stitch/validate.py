"""Is the archive what it claims to be, or a document valid? The door to `yprovd.stitch.validity`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.errors import YprovError
from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.identity import check_identity
from yprovd.stitch.validity.agreement import check_others
from yprovd.stitch.validity.constraints import violations
from yprovd.stitch.validity.crate import check_crate, has_ended
from yprovd.stitch.validity.document import check_document, check_prov
from yprovd.stitch.validity.files import guarded, strict_json
from yprovd.stitch.validity.rdf import add_rdf
from yprovd.stitch.validity.statements import Document, from_json, from_prov

__all__ = ["FORMATS", "check_document", "validate_file", "validate_run"]

#: Suffix of a file: how `prov` is told to read it.
FORMATS: dict[str, dict[str, str]] = {
    ".json": {"format": "json"}, ".provn": {"format": "provn"}, ".xml": {"format": "xml"},
    ".provx": {"format": "xml"}, ".jsonld": {"format": "jsonld"}, ".ttl": {"format": "rdf", "rdf_format": "turtle"},
    ".trig": {"format": "rdf", "rdf_format": "trig"}, ".rdf": {"format": "rdf", "rdf_format": "xml"},
}


def validate_run(run_dir: Path, *, others: bool = True) -> list[str]:
    """What is wrong with the archive in `run_dir`, a sentence for each; empty when all is well. Reads every file and
    every series. `others`: also what is no fault of who made it (`check_others`). Never raises."""
    from yprovd.stitch.validity.series import check_series  # zarr takes 0.3 s to load, and a file needs none

    problems: list[str] = []
    document = guarded(problems, PROV_FILE, lambda: check_prov(run_dir, problems))
    found = guarded(problems, CRATE_FILE, lambda: check_crate(
        run_dir, problems, ended=has_ended(document), document=document))
    if not any(p.startswith(CRATE_FILE) for p in problems):
        guarded(problems, CRATE_FILE, lambda: problems.extend(check_identity(
            run_dir, ended=has_ended(document), found=found)))
    guarded(problems, SERIES_DIR, lambda: check_series(run_dir, document or {}, problems))
    if others:
        guarded(problems, CRATE_FILE, lambda: check_others(run_dir, document, problems))
    return problems


def validate_file(path: Path) -> list[str]:
    """What is wrong with a PROV document of any program, by PROV-CONSTRAINTS alone. Raises YprovError when its suffix
    says no syntax or it cannot be read."""
    how = FORMATS.get(path.suffix.lower())
    if how is None:
        raise YprovError(f"`{path}` has a suffix of no PROV syntax",
                         hint=f"one of {' '.join(FORMATS)}, or a run's directory")
    try:
        document = from_json(strict_json(path.read_bytes())) if how["format"] == "json" else _through_prov(path, how)
    except OSError as e:
        raise YprovError(f"cannot read `{path}`: {e.strerror or e}") from None
    except Exception as e:  # noqa: BLE001  each reader raises its own
        said = str(e).strip().partition("\n")[0]
        raise YprovError(f"`{path}` cannot be read as {how.get('rdf_format', how['format'])}: {said}",
                         hint="the suffix says the syntax") from None
    return [*document.faults, *(str(v) for v in violations(document))]


def _through_prov(path: Path, how: dict[str, Any]) -> Document:
    from prov.model import ProvDocument

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what prov will not read in a later version is none of validity
        document = from_prov(ProvDocument.deserialize(str(path), **how))
        if how["format"] == "rdf":
            add_rdf(document, path, how["rdf_format"])
    return document
