"""ro-crate-metadata.json: the archive as an RO-Crate 1.1 that follows Process Run Crate 0.5.

Sources: https://w3id.org/ro/crate/1.1, https://w3id.org/ro/wfrun/process/0.5; `resourceUsage` and `sha256` are terms of
https://w3id.org/ro/terms/workflow-run/context. A 1.2 descriptor fails the profile.

The crate lists every file of the archive with its size, media type and SHA-256: all regular files of the run's
directory but the spool, this file, and temporaries (`.*.tmp`, `.partial-*`). Symbolic links are not followed.

`series.zarr/` is one Dataset, not thousands of files. Its `sha256` is that of the listing that coreutils make:

    cd series.zarr && find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum

that is, of `<hex SHA-256>  <relative path>\\n` for each file, in the order of the paths' bytes.

The bytes are a function of the record and of the files, not of the machine or the time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from yprovd.config import COLLECTOR_FILE, KEY_FILE, PROV_FILE, PUSH_FILE, SPOOL_DIR
from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.document import base_iri, clean, json_text, slug, time_of
from yprovd.stitch.facts import Version, command_of, parameters_of, part, run_id_of, versions_of, whole
from yprovd.stitch.record import Record
from yprovd.stitch.states import final_state

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_YP = "https://w3id.org/yprov/ns#"
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


#: What the scheduler's command says of the daemons' step: it goes on when the archive is made.
_PLACING_LOG = "logs/daemons.log"


def _temporary(name: str) -> bool:
    return name.startswith(".partial-") or (name.startswith(".") and name.endswith(".tmp"))


def archive_files(run_dir: Path) -> list[str]:
    """The files of the archive as paths relative to `run_dir`, sorted, without those within `series.zarr`."""
    skipped = {SPOOL_DIR, SERIES_DIR, CRATE_FILE, KEY_FILE, COLLECTOR_FILE, PUSH_FILE, _PLACING_LOG}
    return [f for f in files_below(run_dir, skipped) if not _temporary(os.path.basename(f))]


def files_below(folder: Path, skipped: Iterable[str] = ()) -> list[str]:
    """The regular files below `folder` by the bytes of their relative paths; `skipped` names entries of `folder`."""
    out: list[str] = []
    skip = set(skipped)

    def walk(path: str, prefix: str) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                if name in skip or (not prefix and _temporary(entry.name)):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    walk(entry.path, name + "/")
                elif entry.is_file(follow_symlinks=False):
                    out.append(name)

    walk(os.fspath(folder), "")
    return sorted(out, key=os.fsencode)


def file_hash(path: str | Path) -> tuple[int, str]:
    """(size, SHA-256). Reads the file in blocks."""
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
        return f.tell(), digest


def hashes_of(folder: Path, names: list[str]) -> dict[str, tuple[int, str]]:
    """`file_hash` of many files, several at a time (hashlib and reads let other threads run)."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: file_hash(os.path.join(folder, name)), names)
        return dict(zip(names, found, strict=True))


def folder_hash(folder: Path) -> tuple[int, int, str]:
    """(files, bytes, SHA-256 of the listing) of a folder, as this module's docstring says."""
    names = files_below(folder)
    hashes = hashes_of(folder, names)
    listing = hashlib.sha256()
    for name in names:
        listing.update(hashes[name][1].encode() + b"  " + os.fsencode(name) + b"\n")
    return len(names), sum(size for size, _ in hashes.values()), listing.hexdigest()


def id_of_path(path: str) -> str:
    """A relative path as an `@id`: percent-encoded."""
    return quote(os.fsencode(path), safe="/")


def path_of_id(identifier: str) -> str:
    return os.fsdecode(unquote_to_bytes(identifier))


def build_crate(run_dir: Path, record: Record, attribution: Attribution) -> bytes:
    """The bytes of ro-crate-metadata.json for the files that `run_dir` holds now. Reads all of them."""
    return _Crate(run_dir, record, attribution).to_json()


class _Crate:
    """The graph in the making: entities by `@id`, in the order in which they were added."""

    def __init__(self, run_dir: Path, record: Record, attribution: Attribution) -> None:
        self.run_dir, self.record, self.attribution = run_dir, record, attribution
        self.config = part(record.run, "config")
        self.settings = part(self.config, "settings")
        self.run_id = run_id_of(record)
        self.name = clean(str(self.config.get("name") or "run"))
        self.graph: dict[str, dict[str, Any]] = {}

    def add(self, identifier: str, kind: str | list[str], **properties: Any) -> dict[str, str]:
        """A reference to the entity, which is added when it is new. Absent properties are left out."""
        if identifier not in self.graph:
            kept = {k: v for k, v in properties.items() if v is not None and v != "" and v != []}
            self.graph[identifier] = {"@id": identifier, "@type": kind, **kept}
        return {"@id": identifier}

    def to_json(self) -> bytes:
        account = self.attribution.accounts[0]
        begin, end = (_iso(account.begin_ns), _iso(account.end_ns)) if account.end_ns else (None, None)
        state, reason = final_state(self.record)
        parts = self._files()
        author, publisher = self._person(), self._publisher()
        action = self._action(begin, end, state, reason, author or publisher)
        root = {
            "conformsTo": self.add(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5"),
            "name": f"Run {self.name}",
            "description": f"What `{self._command()}` did, recorded by yprov: provenance, time series and files. "
                           f"State: {state}{f' ({clean(reason)})' if reason else ''}.",
            "datePublished": end or "1970-01-01T00:00:00+00:00",
            "license": self._licence(),
            "author": author or publisher,
            "publisher": publisher,
            "keywords": ", ".join(self._keywords()),
            "identifier": base_iri(self.run_id).rstrip("#"),
            "hasPart": parts,
            "mentions": action,
        }
        head: dict[str, dict[str, Any]] = {
            CRATE_FILE: {"@id": CRATE_FILE, "@type": "CreativeWork", "about": {"@id": "./"},
                         "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"}},
            "./": {"@id": "./", "@type": "Dataset", **{k: v for k, v in root.items() if v not in ("", [])}},
        }
        doc = {"@context": CONTEXT, "@graph": list((head | self.graph).values())}
        return (json.dumps(doc, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def _command(self) -> str:
        return clean(shlex.join(command_of(self.record))) or "a command that was not recorded"

    def _keywords(self) -> list[str]:
        tags = part(self.settings, "tags")
        return [clean(str(x)) for x in (self.settings.get("experiment"), *(f"{k}={v}" for k, v in tags.items())) if x]

    def _files(self) -> list[dict[str, str]]:
        names = archive_files(self.run_dir)
        hashes = hashes_of(self.run_dir, names)
        parts = []
        for name in names:
            size, digest = hashes[name]
            parts.append(self.add(
                id_of_path(name), "File", name=clean(os.fsencode(name).decode("utf-8", "replace")),
                description=_ABOUT.get(name), contentSize=str(size), sha256=digest,
                encodingFormat=_MEDIA_TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream"),
            ))
        store = self.run_dir / SERIES_DIR
        if store.is_dir() and not store.is_symlink():
            count, size, digest = folder_hash(store)
            parts.append(self.add(
                f"{SERIES_DIR}/", "Dataset", name=SERIES_DIR, encodingFormat="application/vnd.zarr; version=3",
                description=f"Every series of the run: a Zarr store of {count} files. sha256 is that of the sorted "
                            "output of sha256sum over its files",
                contentSize=str(size), sha256=digest,
            ))
        return parts

    def _action(
        self, begin: str | None, end: str | None, state: str, reason: str, agent: dict[str, str]
    ) -> dict[str, str]:
        used, made = self._declared()
        failed = state != "completed"
        return self.add(
            f"#run-{slug(self.run_id)}", "CreateAction",
            name=f"Run of {self.name}", description=self._command(),
            instrument=self._instrument(), agent=agent, startTime=begin, endTime=end,
            actionStatus=f"http://schema.org/{'Failed' if failed else 'Completed'}ActionStatus",
            error=(f"{state}: {clean(reason)}" if reason else state) if failed else None,
            object=used, result=made, resourceUsage=self._usage(),
        )

    def _instrument(self) -> dict[str, str]:
        """What ran: the code at its commit where that is known, else the program by its name."""
        code = part(self.record.run, "code")
        remote, commit = str(code.get("remote") or ""), str(code.get("commit") or "")
        argv = command_of(self.record)
        name = os.path.basename(str(part(code, "script").get("path") or (argv[0] if argv else ""))) or "command"
        url = web_address(remote)
        if url is None:
            return self.add(f"https://w3id.org/yprov/run/{slug(self.run_id)}#command", "SoftwareApplication",
                            name=clean(name), description=self._command(), softwareVersion=commit)
        dirty = " with uncommitted changes" if code.get("dirty") else ""
        return self.add(f"{url}/tree/{slug(commit)}" if commit else url, "SoftwareApplication", name=clean(name),
                        url=url, softwareVersion=commit + dirty if commit else None)

    def _declared(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """(object, result): parameters, inputs and source; outputs, models and what yprov made."""
        used: list[dict[str, str]] = []
        made: list[dict[str, str]] = []
        for name, values in list(parameters_of(self.record).items())[:MOST_PARAMS]:
            value = values[-1]
            if not isinstance(value, int) and not (isinstance(value, float) and math.isfinite(value)):
                value = clean(value if isinstance(value, str) else json_text(value))
            used.append(self.add(f"#param/{slug(name)}", "PropertyValue", name=clean(name) or '""', value=value))
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
        processes = self.record.processes
        host = processes[f.process].host if 0 <= f.process < len(processes) else ""
        return self.add(
            f"#file-{number}", "CreativeWork", name=clean(f.name or f.path),
            description=clean(f"{f.role} outside of the archive: {f'{host}:' if host else ''}{f.path}"),
            contentSize=None if f.size is None else str(f.size), sha256=f.sha256,
        )

    def _usage(self) -> list[dict[str, str]]:
        account, energy = self.attribution.accounts[0], self.attribution.energy
        rows = [
            ("energy", energy.energy_j, "J", "J", f"energy of the run, {energy.method}"),
            ("cpuSeconds", account.cpu_s, "SEC", "s", "processor time of the job"),
            ("peakMemoryBytes", whole(account.memory_peak_bytes), "BYTE", "By", "greatest sum of RSS of the job"),
        ]
        return [
            self.add(f"#usage-{name}", "PropertyValue", name=text, propertyID=_YP + name, value=value,
                     unitCode=f"http://qudt.org/vocab/unit/{unit}", unitText=symbol)
            for name, value, unit, symbol, text in rows if value is not None
        ]

    def _person(self) -> dict[str, str] | None:
        person = part(self.settings, "user")
        name = str(person.get("name") or self.record.run.get("user") or "")
        organisation = part(self.settings, "organisation")
        stated = organisation.get("name") or organisation.get("id")
        return self.add(_address(person) or f"#user-{slug(name)}", "Person", name=clean(name),
                        affiliation=self._publisher() if stated else None) if name else None

    def _publisher(self) -> dict[str, str]:
        organisation = part(self.settings, "organisation")
        name = str(organisation.get("name") or organisation.get("id") or "")
        if not name:
            return self.add("#publisher", "Organization", name="not stated",
                            description="No organisation was named; set `organisation:` in the configuration of yprov")
        address = _address(organisation)
        return self.add(address or "#organisation", "Organization", name=clean(name), url=address)

    def _licence(self) -> dict[str, str]:
        text = str(self.settings.get("licence") or "")
        if not text:
            return self.add("#licence", "CreativeWork", name="No licence was stated", description=(
                "Whoever ran this has all rights; set `licence:` in the configuration of yprov to give some away"))
        if _is_web(text):
            return self.add(text, "CreativeWork", name=clean(text), description="The licence of this archive")
        if re.fullmatch(r"[A-Za-z0-9.+-]+", text):
            return self.add(f"https://spdx.org/licenses/{text}", "CreativeWork", name=text,
                            description="The licence of this archive, by its SPDX identifier")
        return self.add("#licence", "CreativeWork", name=clean(text), description="The licence of this archive")


def web_address(remote: str) -> str | None:
    """A git remote as a web address: `git@host:path.git` and `ssh://git@host/path` are `https://host/path`.
    A name and password in it are left out. None for what is none (a path, nothing)."""
    m = (re.fullmatch(r"(?:https?|ssh|git)://(?:[^@/]*@)?([\w.-]+)(?::\d+)?/(.+)", remote)
         or re.fullmatch(r"(?:[\w.-]+@)([\w.-]+):(.+)", remote))
    if m is None:
        return None
    path = m[2].strip("/").removesuffix(".git")
    return f"https://{m[1]}/{quote(path, safe='/~')}"


def _is_web(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>\"{}|\\^`]+", text) is not None


def _address(thing: Mapping[str, Any]) -> str | None:
    identifier = str(thing.get("id") or "")
    return identifier if _is_web(identifier) else None


def _iso(ns: int) -> str:
    return time_of(ns).isoformat()
