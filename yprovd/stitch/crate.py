"""ro-crate-metadata.json: the archive as an RO-Crate 1.1 that follows Process Run Crate 0.5.

Sources: https://w3id.org/ro/crate/1.1, https://w3id.org/ro/wfrun/process/0.5; `resourceUsage` and `sha256` are terms of
https://w3id.org/ro/terms/workflow-run/context. A 1.2 descriptor fails the profile. Who: `yprovd.stitch.agents`; what
ran: `instrument`; what it cost: `usage`.

The crate lists every file of the archive with its size, media type and SHA-256: all regular files of the run's
directory but the spool, this file, and temporaries (`.*.tmp`, `.partial-*`). Symbolic links are not followed.

`series.zarr/` is one Dataset, not thousands of files. Its `sha256` is that of the listing that coreutils make:

    cd series.zarr && find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum

that is, of `<hex SHA-256>  <relative path>\\n` for each file, in the order of the paths' bytes.

The root's `identifier`s are the run's, `urn:uuid:...`, and that of the archive's content, `swh:1:dir:...`
(`yprovd.stitch.identity`).

The bytes are a function of the record and of the files, not of the machine or the time.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.agents import add_licence, add_person, add_publisher
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.contents import NOT_LISTED as NOT_LISTED
from yprovd.stitch.contents import archive_files as archive_files
from yprovd.stitch.contents import contents_of, listing_of
from yprovd.stitch.contents import file_hash as file_hash
from yprovd.stitch.contents import files_below as files_below
from yprovd.stitch.contents import folder_hash as folder_hash
from yprovd.stitch.document import base_iri, clean, json_text, slug
from yprovd.stitch.entities import Entities, is_web, iso, present
from yprovd.stitch.entities import id_of_path as id_of_path
from yprovd.stitch.entities import path_of_id as path_of_id
from yprovd.stitch.facts import command_of, parameters_of, part, run_id_of
from yprovd.stitch.instrument import add_container, add_environment, add_instrument
from yprovd.stitch.record import Record
from yprovd.stitch.states import final_state
from yprovd.stitch.usage import add_usage
from yprovd.stitch.versions import Version, versions_of
from yprovd.swhid import plain_id

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
MOST_PARAMS = 1000

#: The module `mimetypes` reads files of the machine; these are the same everywhere.
_MEDIA_TYPES = {
    ".json": "application/json", ".log": "text/plain", ".out": "text/plain", ".err": "text/plain",
    ".txt": "text/plain", ".md": "text/markdown", ".py": "text/x-python", ".sh": "text/x-shellscript",
    ".diff": "text/x-diff", ".patch": "text/x-diff", ".yaml": "application/yaml", ".yml": "application/yaml",
    ".toml": "application/toml", ".csv": "text/csv", ".tsv": "text/tab-separated-values", ".html": "text/html",
    ".xml": "application/xml", ".ipynb": "application/x-ipynb+json", ".png": "image/png", ".jpg": "image/jpeg",
    ".svg": "image/svg+xml", ".pdf": "application/pdf", ".gz": "application/gzip", ".zip": "application/zip",
    ".tar": "application/x-tar", ".npy": "application/x-npy", ".npz": "application/zip", ".nc": "application/netcdf",
    ".h5": "application/x-hdf5", ".parquet": "application/vnd.apache.parquet", ".onnx": "application/onnx",
    ".pt": "application/octet-stream", ".safetensors": "application/octet-stream",
}
_ABOUT = {
    PROV_FILE: "Provenance of the run: W3C PROV-JSON",
    "run.json": "The resolved configuration and identity of the run",
    "source/batch-script.sh": "The batch script of the scheduler's job",
    "source/slurm-job.txt": "What the scheduler said of the job when the run began",
}


def build_crate(run_dir: Path, record: Record, attribution: Attribution) -> bytes:
    """The bytes of ro-crate-metadata.json for the files that `run_dir` holds now. Reads all of them."""
    return _Crate(run_dir, record, attribution).to_json()


class _Crate(Entities):
    """The graph in the making, about one run."""

    def __init__(self, run_dir: Path, record: Record, attribution: Attribution) -> None:
        super().__init__()
        self.run_dir, self.record, self.attribution = run_dir, record, attribution
        self.config = part(record.run, "config")
        self.settings = part(self.config, "settings")
        self.run_id = run_id_of(record)
        self.name = clean(str(self.config.get("name") or "run"))

    def to_json(self) -> bytes:
        state, reason = final_state(self.record)
        parts, content_id = self._files()
        author = add_person(self, self.settings, self.record.run.get("user"))
        publisher = add_publisher(self, self.settings)
        action = self._action(state, reason, author or publisher)
        root = {
            "conformsTo": self.add(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5"),
            "name": f"Run {self.name}",
            "description": f"What `{self._command()}` did, recorded by yprov: provenance, time series and files. "
                           f"State: {state}{f' ({clean(reason)})' if reason else ''}.",
            "datePublished": iso(self.attribution.accounts[0].end_ns),
            "license": add_licence(self, self.settings),
            "author": author or publisher,
            "publisher": publisher,
            "keywords": ", ".join(self._keywords()),
            "identifier": [base_iri(self.run_id).rstrip("#"), content_id],
            "hasPart": parts,
            "mentions": action,
        }
        head: dict[str, dict[str, Any]] = {
            CRATE_FILE: {"@id": CRATE_FILE, "@type": "CreativeWork", "about": {"@id": "./"},
                         "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"}},
            "./": {"@id": "./", "@type": "Dataset", **present(root)},
        }
        doc = {"@context": CONTEXT, "@graph": list((head | self.graph).values())}
        return (json.dumps(doc, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def _command(self) -> str:
        return clean(shlex.join(command_of(self.record))) or "a command that was not recorded"

    def _keywords(self) -> list[str]:
        tags = part(self.settings, "tags")
        return [clean(str(x)) for x in (self.settings.get("experiment"), *(f"{k}={v}" for k, v in tags.items())) if x]

    def _files(self) -> tuple[list[dict[str, str]], str]:
        """The parts of the root, and the identifier of all that is in them."""
        found = contents_of(self.run_dir)
        parts = [self.add(
            id_of_path(name), "File", name=clean(os.fsencode(name).decode("utf-8", "replace")),
            description=_ABOUT.get(name), contentSize=str(one.size), sha256=one.sha256,
            encodingFormat=_MEDIA_TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream"),
        ) for name, one in found.files.items()]
        if found.series is not None:
            count, size, digest = listing_of(found.series)
            parts.append(self.add(
                f"{SERIES_DIR}/", "Dataset", name=SERIES_DIR, encodingFormat="application/vnd.zarr; version=3",
                description=f"Every series of the run: a Zarr store of {count} files. sha256 is that of the sorted "
                            "output of sha256sum over its files",
                contentSize=str(size), sha256=digest,
            ))
        return parts, plain_id(found.digests())

    def _action(self, state: str, reason: str, agent: dict[str, str]) -> dict[str, str]:
        account = self.attribution.accounts[0]
        used, made = self._declared()
        failed = state != "completed"
        return self.add(
            f"#run-{slug(self.run_id)}", "CreateAction",
            name=f"Run of {self.name}", description=self._command(),
            instrument=add_instrument(self, self.record, self.run_id, self._command()), agent=agent,
            startTime=iso(account.begin_ns) if account.end_ns else None, endTime=iso(account.end_ns),
            actionStatus=f"http://schema.org/{'Failed' if failed else 'Completed'}ActionStatus",
            error=(f"{state}: {clean(reason)}" if reason else state) if failed else None,
            object=used, result=made, environment=add_environment(self, self.record),
            containerImage=add_container(self, self.record),
            resourceUsage=add_usage(self, self.record, account, self.attribution.energy),
        )

    def _declared(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """(object, result): parameters, inputs and source; results, outputs, models and what yprov made."""
        used, made = self._parameters("input", "param"), self._parameters("output", "result")
        number = 0
        for versions in versions_of(self.record.files)[0]:
            for version in versions:
                number += 1
                reference = self._file(version, number)
                target = made if version.first.role in ("output", "model") else used
                if reference not in target:
                    target.append(reference)
        used += [{"@id": i} for i in self.graph if i.startswith("source/") and {"@id": i} not in used]
        made += [{"@id": i} for i in (PROV_FILE, f"{SERIES_DIR}/") if i in self.graph]
        return used, made

    def _file(self, version: Version, number: int) -> dict[str, str]:
        """A declared file: its copy in the archive, or the thing outside that is only described."""
        f = version.first
        if f.stored and id_of_path(f.stored) in self.graph:
            return {"@id": id_of_path(f.stored)}
        if is_web(f.path):
            return self.add(f.path, "CreativeWork", name=clean(f.name or f.path), url=f.path, sha256=f.sha256,
                            description=f"{f.role} on the web")
        processes = self.record.processes
        host = processes[f.process].host if 0 <= f.process < len(processes) else ""
        return self.add(
            f"#file-{number}", "CreativeWork", name=clean(f.name or f.path),
            description=clean(f"{f.role} outside of the archive: {f'{host}:' if host else ''}{f.path}"),
            contentSize=None if f.size is None else str(f.size), sha256=f.sha256,
        )

    def _parameters(self, role: str, prefix: str) -> list[dict[str, str]]:
        out = []
        for name, values in list(parameters_of(self.record, role).items())[:MOST_PARAMS]:
            value = values[-1]
            if not isinstance(value, int) and not (isinstance(value, float) and math.isfinite(value)):
                value = clean(value if isinstance(value, str) else json_text(value)) or '""'
            out.append(self.add(f"#{prefix}/{slug(name)}", "PropertyValue", name=clean(name) or '""', value=value))
        return out
