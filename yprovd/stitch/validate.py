"""Is the archive what it claims to be? Every claim of prov.json and of the crate against what lies there.

`check_document` holds PROV-JSON to what yprov promises: syntax, declared identifiers, one kind for each, single
values, times in order (PROV-CONSTRAINTS 39 and 41-46, on the times given), ends of relations of the right kind
(constraint 50), one generation for each entity and activity (24). It is stricter than `prov`, which does not look at
references and times.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.model import STATES
from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.crate import PROFILE, archive_files, file_hash, folder_hash, path_of_id
from yprovd.stitch.identity import check_identity

#: relation: {role: kind} of the ends that must be there, and of those that may.
RELATIONS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "used": ({"activity": "activity", "entity": "entity"}, {}),
    "wasGeneratedBy": ({"entity": "entity", "activity": "activity"}, {}),
    "wasInvalidatedBy": ({"entity": "entity", "activity": "activity"}, {}),
    "wasStartedBy": ({"activity": "activity", "trigger": "entity"}, {"starter": "activity"}),
    "wasEndedBy": ({"activity": "activity", "trigger": "entity"}, {"ender": "activity"}),
    "wasInformedBy": ({"informed": "activity", "informant": "activity"}, {}),
    "wasDerivedFrom": ({"generatedEntity": "entity", "usedEntity": "entity"}, {"activity": "activity"}),
    "wasAttributedTo": ({"entity": "entity", "agent": "agent"}, {}),
    "wasAssociatedWith": ({"activity": "activity", "agent": "agent"}, {"plan": "entity"}),
    "actedOnBehalfOf": ({"delegate": "agent", "responsible": "agent"}, {"activity": "activity"}),
    "wasInfluencedBy": ({"influencee": "", "influencer": ""}, {}),
    "specializationOf": ({"specificEntity": "entity", "generalEntity": "entity"}, {}),
    "alternateOf": ({"alternate1": "entity", "alternate2": "entity"}, {}),
    "hadMember": ({"collection": "entity", "entity": "entity"}, {}),
}
KINDS = ("entity", "activity", "agent")
_TOLERANCE = 1e-9


def validate_run(run_dir: Path) -> list[str]:
    """What is wrong with the archive in `run_dir`, a sentence for each; empty when all is well. Reads every file and
    every series. Never raises."""
    problems: list[str] = []
    document = _guarded(problems, PROV_FILE, lambda: _prov(run_dir, problems))
    _guarded(problems, CRATE_FILE, lambda: _crate(run_dir, problems, ended=_has_ended(document)))
    if not any(p.startswith(CRATE_FILE) for p in problems):
        _guarded(problems, CRATE_FILE, lambda: problems.extend(check_identity(run_dir, ended=_has_ended(document))))
    _guarded(problems, SERIES_DIR, lambda: _series(run_dir, document or {}, problems))
    return problems


def _guarded(problems: list[str], name: str, check: Callable[[], Any]) -> Any:
    """What `check` returns; None, and a problem, when it fails in a way that nobody thought of."""
    try:
        return check()
    except OSError as e:
        problems.append(f"{name}: cannot read {e.filename or 'it'}: {e.strerror or e}")
    except Exception as e:  # noqa: BLE001  damaged files raise anything, and a checker must say so
        problems.append(f"{name}: cannot be checked: {type(e).__name__}: {e}")
    return None


def strict_json(data: bytes) -> Any:
    """JSON as RFC 8259 has it. Raises ValueError for NaN, Infinity and keys that stand twice in one object."""
    def constant(name: str) -> Any:
        raise ValueError(f"`{name}` is no JSON")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) < len(items):
            seen: set[str] = set()
            twice = next(k for k, _ in items if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise ValueError(f"the key `{twice}` stands twice in one object")
        return out

    return json.loads(data.decode("utf-8"), parse_constant=constant, object_pairs_hook=pairs)


def _read_json(run_dir: Path, name: str, problems: list[str]) -> Any:
    try:
        return strict_json((run_dir / name).read_bytes())
    except FileNotFoundError:
        problems.append(f"{name}: is missing")
    except ValueError as e:
        problems.append(f"{name}: is not JSON: {e}")
    return None


# prov.json


def _prov(run_dir: Path, problems: list[str]) -> dict[str, Any] | None:
    doc = _read_json(run_dir, PROV_FILE, problems)
    if doc is None:
        return None
    found = check_document(doc)
    problems += [f"{PROV_FILE}: {p}" for p in found]
    if not isinstance(doc, dict):
        return None
    problems += [f"{PROV_FILE}: {p}" for p in _loads(run_dir / PROV_FILE)]
    return doc


def _loads(path: Path) -> list[str]:
    """Whether `prov` reads the document without a complaint and its records agree with each other."""
    from prov.serializers.provjson import ProvJSONSerializer

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            ProvJSONSerializer().deserialize(io.StringIO(path.read_text(encoding="utf-8"))).unified()
        except Exception as e:  # noqa: BLE001  whatever it raises, the document does not load
            return [f"prov cannot load it: {type(e).__name__}: {e}"]
    return [f"prov complains: {w.message}" for w in said]


def check_document(doc: Any) -> list[str]:
    """The problems of a parsed PROV-JSON document. Pure; never raises."""
    if not isinstance(doc, dict):
        return ["the document is no JSON object"]
    check = _Document(doc)
    check.run()
    return check.problems


class _Document:
    def __init__(self, doc: dict[str, Any]) -> None:
        self.doc = doc
        self.problems: list[str] = []
        prefixes = doc.get("prefix")
        self.prefixes = {"prov", "xsd", *(prefixes if isinstance(prefixes, dict) else ())}
        self.kinds: dict[str, str] = {}
        self.times: dict[str, tuple[datetime | None, datetime | None]] = {}

    def run(self) -> None:
        for key, value in self.doc.items():
            if key != "prefix" and key not in KINDS and key not in RELATIONS:
                self.problems.append(f"`{key}` is no part of a flat PROV document")
            elif not isinstance(value, dict):
                self.problems.append(f"`{key}` is no object")
        for kind in KINDS:
            for name, record in self._records(kind):
                if name in self.kinds:
                    self.problems.append(f"`{name}` is both {self.kinds[name]} and {kind}")
                self.kinds[name] = kind
                self._name(name)
                self._attributes(f"{kind} `{name}`", record)
                if kind == "activity":
                    where = f"activity `{name}`"
                    begin, end = (self._time(where, record.get(f"prov:{x}Time")) for x in ("start", "end"))
                    self.times[name] = (begin, end)
                    if begin and end and begin > end:
                        self.problems.append(f"{where} ends before it starts")
        for relation in RELATIONS:
            for name, record in self._records(relation):
                if not name.startswith("_:"):
                    self.problems.append(f"{relation} `{name}` has a name")
                self._relation(relation, name, record)
        self._events()
        self._run_activity()

    def _records(self, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
        records = self.doc.get(section, {})
        for name, record in records.items() if isinstance(records, dict) else ():
            if isinstance(record, dict):
                yield name, record
            elif section in KINDS or section in RELATIONS:
                self.problems.append(f"{section} `{name}` is no object")

    def _name(self, name: str) -> None:
        prefix, colon, _ = name.partition(":")
        if (colon and prefix not in self.prefixes) or (not colon and "default" not in self.prefixes):
            self.problems.append(f"the namespace of `{name}` is not declared")

    def _attributes(self, where: str, record: dict[str, Any]) -> None:
        for key, value in record.items():
            self._name(key)
            if isinstance(value, list):
                self.problems.append(f"{where} has several values of {key}")
            elif isinstance(value, dict) and not (isinstance(value.get("$"), str) and isinstance(
                    value.get("type", value.get("lang")), str)):
                self.problems.append(f"{where} has a {key} that is no typed value")
            elif key == "prov:label" and not isinstance(value, str):
                self.problems.append(f"{where} has a label that is no text")

    def _time(self, where: str, value: Any) -> datetime | None:
        if value is None:
            return None
        try:
            time = datetime.fromisoformat(value)
        except (ValueError, TypeError):
            self.problems.append(f"{where} has a time that is no ISO 8601: `{value}`")
            return None
        if time.tzinfo is None:
            self.problems.append(f"{where} has a time without a zone: `{value}`")
            return None
        return time

    def _relation(self, relation: str, name: str, record: dict[str, Any]) -> None:
        must, may = RELATIONS[relation]
        for role, kind in (must | may).items():
            reference = record.get(f"prov:{role}")
            if reference is None:
                if role in must:
                    self.problems.append(f"{relation} `{name}` has no prov:{role}")
            elif not isinstance(reference, str) or reference not in self.kinds:
                self.problems.append(f"{relation} `{name}` refers to `{reference}`, which is not declared")
            elif kind and self.kinds[reference] != kind:
                self.problems.append(
                    f"{relation} `{name}` needs {kind} as prov:{role}; `{reference}` is {self.kinds[reference]}")
        self._attributes(f"{relation} `{name}`", record)

    def _ends(self, relation: str, *roles: str) -> Iterator[tuple[Any, ...]]:
        """(a text that names it, time, ends) of the relations whose ends are all declared."""
        for name, record in self._records(relation):
            ends = [record.get(f"prov:{role}") for role in roles]
            if all(isinstance(end, str) and end in self.kinds for end in ends):
                where = f"{relation} `{name}` ({', '.join(str(e) for e in ends)})"
                yield where, self._time(where, record.get("prov:time")), *ends

    def _events(self) -> None:
        """Events lie within their activity, one generation for each pair, generations before usages."""
        generated: dict[str, datetime] = {}
        pairs: set[tuple[str, str]] = set()
        for where, time, entity, activity in self._ends("wasGeneratedBy", "entity", "activity"):
            self._within(where, time, activity)
            if (entity, activity) in pairs:
                self.problems.append(f"`{entity}` is generated twice by `{activity}`")
            pairs.add((entity, activity))
            if time and generated.setdefault(entity, time) != time:
                self.problems.append(f"`{entity}` is generated at two times")
        for where, time, activity, entity in self._ends("used", "activity", "entity"):
            self._within(where, time, activity)
            if time and entity in generated and time < generated[entity]:
                self.problems.append(f"{where} happens before the entity is generated")
        for where, time, activity, trigger in self._ends("wasStartedBy", "activity", "trigger"):
            begin = self.times.get(activity, (None, None))[0]
            if time and begin and time != begin:
                self.problems.append(f"{where} has another time than the activity's start")
            if time and trigger in generated and time < generated[trigger]:
                self.problems.append(f"{where} happens before its trigger is generated")
        for where, _time, informed, informant in self._ends("wasInformedBy", "informed", "informant"):
            end, begin = self.times.get(informed, (None, None))[1], self.times.get(informant, (None, None))[0]
            if end and begin and end < begin:
                self.problems.append(f"{where} says that one is informed by what starts after its end")

    def _within(self, where: str, time: datetime | None, activity: str) -> None:
        begin, end = self.times.get(activity, (None, None))
        if time and ((begin and time < begin) or (end and time > end)):
            self.problems.append(f"{where} happens outside of its activity")

    def _run_activity(self) -> None:
        runs = [(n, r) for n, r in self._records("activity") if "yp:state" in r]
        if len(runs) != 1:
            self.problems.append(f"{len(runs)} activities have a yp:state; the run has one")
        for name, record in runs:
            if record["yp:state"] not in STATES:
                self.problems.append(f"activity `{name}` has an unknown state `{record['yp:state']}`")


# ro-crate-metadata.json


def _has_ended(document: dict[str, Any] | None) -> bool:
    """Whether the command had ended when the archive was made: else its logs may have grown since."""
    run = ((document or {}).get("activity") or {}).get("run:run")
    return not isinstance(run, dict) or "yp:exitCode" in run


def _crate(run_dir: Path, problems: list[str], *, ended: bool) -> None:
    doc = _read_json(run_dir, CRATE_FILE, problems)
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
    for entity in graph:
        for key, value in entity.items():
            for reference in _references(value):
                if reference.startswith("#") and reference not in entities:
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
    if (run_dir / SERIES_DIR).is_dir():
        if store is None:
            wrong(f"`{SERIES_DIR}/` is not listed")
        elif store.get("sha256") != folder_hash(run_dir / SERIES_DIR)[2]:
            wrong(f"`{SERIES_DIR}/` is not as it was: its sha256 differs")
    elif store is not None:
        wrong(f"`{SERIES_DIR}/` is listed and missing")


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


# series.zarr

#: Base unit and unit of the store: how much of the first one of the second is.
_SCALES = {
    ("J", "mJ"): 1e-3, ("J", "uJ"): 1e-6, ("W", "mW"): 1e-3, ("W", "uW"): 1e-6, ("By", "KiB"): 2.0**10,
    ("By", "MiB"): 2.0**20, ("By", "byte"): 1.0, ("By", "B"): 1.0, ("1", "percent"): 1e-2, ("1", "%"): 1e-2,
    ("Hz", "kHz"): 1e3, ("Hz", "MHz"): 1e6, ("Cel", "degC"): 1.0, ("s", "ms"): 1e-3, ("s", "us"): 1e-6,
    ("s", "ns"): 1e-9,
}


def _series(run_dir: Path, doc: dict[str, Any], problems: list[str]) -> None:
    """Each series that prov.json names, computed again from its array."""
    import zarr

    claims = [r for r in (doc.get("entity") or {}).values() if isinstance(r, dict) and "yp:count" in r]
    if not (run_dir / SERIES_DIR).is_dir():
        problems.append(f"{SERIES_DIR}: is missing")
        return
    store = zarr.open_group(run_dir / SERIES_DIR, mode="r")
    for claim in claims:
        path = str(claim.get("prov:location", "")).removeprefix(f"{SERIES_DIR}/")
        try:
            array = store[path]
        except KeyError:
            problems.append(f"{SERIES_DIR}: `{path}` is missing; {PROV_FILE} names it")
            continue
        if not hasattr(array, "shape"):
            problems.append(f"{SERIES_DIR}: `{path}` is no array")
            continue
        _guarded(problems, f"{SERIES_DIR}: `{path}`", partial(_one_series, array, path, claim, problems))
    _guarded(problems, f"{SERIES_DIR}: `meters`", partial(_energy, store, doc, problems))


def _energy(store: Any, doc: dict[str, Any], problems: list[str]) -> None:
    """The energy of the run and of its GPUs, summed again from what each meter counted."""
    claims = [r for r in (doc.get("entity") or {}).values() if isinstance(r, dict) and "yp:energyMethod" in r]
    for claim in claims:
        if claim.get("prov:location") != f"{SERIES_DIR}/meters":
            continue
        try:
            energy = store["meters/energy"][:]
            columns = {"energyJ": store["meters/counts"][:], "gpuEnergyJ": store["meters/counts_gpu"][:]}
        except KeyError as e:
            problems.append(f"{SERIES_DIR}: {e} is missing; {PROV_FILE} names it")
            continue
        for key, counts in columns.items():
            said, found = _number(claim.get(f"yp:{key}")), float(energy[counts == 1].sum())
            if not math.isclose(said or 0.0, found, rel_tol=1e-6, abs_tol=1e-6):
                problems.append(f"{SERIES_DIR}: the meters counted {found} J; {PROV_FILE} says {key} {said}")


def _one_series(array: Any, path: str, claim: dict[str, Any], problems: list[str]) -> None:
    stored, claimed = str(array.attrs.get("units", "")), str(claim.get("yp:unit", ""))
    scale = 1.0 if stored == claimed else _SCALES.get((claimed, stored), 1.0)
    found = _statistics(array, scale)
    said = {key: _number(claim.get(f"yp:{key}")) for key in ("count", "min", "max", "last", "nonFinite")}
    if said["count"] not in (found["count"], found["count"] + (said["nonFinite"] or 0)):
        problems.append(
            f"{SERIES_DIR}: `{path}` holds {found['count']} values; {PROV_FILE} says {claim.get('yp:count')}")
    for key in ("min", "max", "last"):
        have, want = found[key], said[key]
        if key == "last" and array.ndim > 1:
            continue  # of several devices any may be the last one
        if (have is None) != (want is None) or (
                have is not None and want is not None and not math.isclose(have, want, rel_tol=_TOLERANCE)):
            problems.append(f"{SERIES_DIR}: `{path}` has {key} {have}; {PROV_FILE} says {want}")


def _statistics(array: Any, scale: float) -> dict[str, Any]:
    """Number, least, greatest and last of the finite values, read in blocks of whole chunks."""
    import numpy as np

    count, least, greatest, last = 0, math.inf, -math.inf, None
    decimals = 10.0 ** int(array.attrs.get("decimals", 0))  # packed: the integer over this is the value, exactly
    missing = array.attrs.get("_FillValue")  # without one, integers are all values: Zarr's own fill value is then 0
    shape, step = array.shape, array.shards or array.chunks
    starts = [range(0, n, max(1, s)) for n, s in zip(shape, step, strict=True)]
    for corner in itertools.product(*starts):
        block = np.asarray(array[tuple(slice(c, c + s) for c, s in zip(corner, step, strict=True))])
        if np.issubdtype(block.dtype, np.integer):
            values = (block if missing is None else block[block != missing]) / decimals
        else:
            values = block[np.isfinite(block)].astype(np.float64)
        if values.size:
            count += values.size
            least, greatest = min(least, float(values.min())), max(greatest, float(values.max()))
            last = float(values.flat[-1]) * scale
    known = count > 0
    return {"count": count, "min": least * scale if known else None, "max": greatest * scale if known else None,
            "last": last}


def _number(value: Any) -> float | None:
    """A PROV-JSON value as a number."""
    if isinstance(value, dict):
        value = value.get("$")
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
