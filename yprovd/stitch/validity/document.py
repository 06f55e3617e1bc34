"""prov.json: the standard, and what yprov promises beyond it.

Flat, every identifier declared and of one kind, relations without names and with all of their ends, one value for each
attribute, times with a zone, one run with a state that is known: what other programs of the yProv family need, or read
best.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.model import STATES
from yprovd.stitch.validity.constraints import violations
from yprovd.stitch.validity.files import read_json
from yprovd.stitch.validity.literals import XSD, instant, is_of_type
from yprovd.stitch.validity.statements import KINDS, PROV, RELATIONS, from_json

_NEVER = "mentionOf"  # it speaks of a bundle, and there are none
#: Ends that may be absent; of a derivation and a delegation also the activity.
_OPTIONAL = {"starter", "ender", "plan", "generation", "usage"}
#: The attributes of section 5 of PROV-DM: of every record, and of each kind.
_ALWAYS = ("type", "label", "location")
_KNOWN = {kind: frozenset(f"prov:{name}" for name in (*_ALWAYS, *names)) for kind, names in {
    "entity": ("value",), "activity": ("startTime", "endTime"), "agent": (),
    **{kind: ("role", *r.roles, *(("time",) if r.timed else ())) for kind, r in RELATIONS.items()}}.items()}
#: RFC 3987, without what no IRI may have.
_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|\\^`]+")
_ZONE = re.compile(r"(?:Z|[+-]\d\d:\d\d)$")
_RESERVED = {"prov": PROV, "xsd": XSD}


def check_prov(run_dir: Path, problems: list[str]) -> dict[str, Any] | None:
    """The document of a run, or None when it is none."""
    doc = read_json(run_dir, PROV_FILE, problems)
    if doc is None:
        return None
    problems += [f"{PROV_FILE}: {p}" for p in check_document(doc)]
    if not isinstance(doc, dict):
        return None
    problems += [f"{PROV_FILE}: {p}" for p in _loads(run_dir / PROV_FILE)]
    return doc


def _loads(path: Path) -> list[str]:
    """Whether `prov` reads the document without a complaint."""
    from prov.serializers.provjson import ProvJSONSerializer

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            ProvJSONSerializer().deserialize(io.StringIO(path.read_text(encoding="utf-8")))
        except Exception as e:  # noqa: BLE001  whatever it raises, the document does not load
            return [f"prov cannot load it: {type(e).__name__}: {e}"]
    return [f"prov complains: {w.message}" for w in said]


def check_document(doc: Any) -> list[str]:
    """The problems of a parsed prov.json. Pure; never raises."""
    if not isinstance(doc, dict):
        return ["the document is no JSON object"]
    check = _Document(doc)
    check.run()
    return check.problems + [str(v) for v in violations(from_json(doc))]


class _Document:
    def __init__(self, doc: dict[str, Any]) -> None:
        self.doc = doc
        self.problems: list[str] = []
        prefixes = doc.get("prefix")
        self.prefixes = {"prov", "xsd", *(prefixes if isinstance(prefixes, dict) else ())}
        for prefix, iri in prefixes.items() if isinstance(prefixes, dict) else ():
            if not isinstance(iri, str) or _IRI.fullmatch(iri) is None:
                self.problems.append(f"the namespace `{prefix}` is no IRI: `{iri}`")
            elif prefix in _RESERVED and iri != _RESERVED[prefix]:
                self.problems.append(f"the namespace `{prefix}` is bound to `{iri}`; it is `{_RESERVED[prefix]}`")
        self.kinds: dict[str, str] = {}
        self.declared: set[str] = set()  # attributes that are not the standard's, and in order

    def run(self) -> None:
        for key, value in self.doc.items():
            if key != "prefix" and key not in KINDS and (key not in RELATIONS or key == _NEVER):
                self.problems.append(f"`{key}` is no part of a flat PROV document")
            elif not isinstance(value, dict):
                self.problems.append(f"`{key}` is no object")
        for kind in KINDS:
            for name, record in self._records(kind):
                known = self.kinds.setdefault(name, kind)
                if known != kind and {known, kind} != {"entity", "activity"}:  # those are constraint 55
                    self.problems.append(f"`{name}` is both {known} and {kind}")
                self._name(name)
                self._attributes(f"{kind} `{name}`", record, _KNOWN[kind])
                for role in ("startTime", "endTime"):
                    self._time(f"{kind} `{name}`", record.get(f"prov:{role}"))
        for relation in RELATIONS:
            for name, record in self._records(relation):
                if not name.startswith("_:"):
                    self.problems.append(f"{relation} `{name}` has a name")
                self._relation(relation, name, record)
        self._generations()
        self._run_activity()

    def _records(self, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
        records = self.doc.get(section, {})
        for name, record in records.items() if isinstance(records, dict) else ():
            if isinstance(record, dict):
                yield name, record
            else:
                self.problems.append(f"{section} `{name}` is no object")

    def _name(self, name: str) -> bool:
        prefix, colon, _ = name.partition(":")
        known = (prefix if colon else "default") in self.prefixes
        if not known:
            self.problems.append(f"the namespace of `{name}` is not declared")
        return known

    def _attributes(self, where: str, record: dict[str, Any], known: frozenset[str]) -> None:
        """`known`: the attributes of the standard's that a record of this kind may have."""
        for key, value in record.items():
            if key not in known and key not in self.declared:
                if self._name(key) and not key.startswith("prov:"):
                    self.declared.add(key)
                elif key.startswith("prov:"):
                    self.problems.append(f"{where} has a {key}, which PROV does not know there")
            if isinstance(value, dict):
                text, datatype = value.get("$"), value.get("type", value.get("lang"))
                if not isinstance(text, str) or not isinstance(datatype, str):
                    self.problems.append(f"{where} has a {key} that is no typed value")
                elif datatype.startswith("xsd:") and not is_of_type(text, datatype[4:]):
                    self.problems.append(f"{where} has a {key} that is no {datatype}: `{text}`")
                elif key == "prov:label":
                    self.problems.append(f"{where} has a label that is no text")
            elif isinstance(value, list):
                self.problems.append(f"{where} has several values of {key}")
            elif key == "prov:label" and not isinstance(value, str):
                self.problems.append(f"{where} has a label that is no text")

    def _time(self, where: str, value: Any) -> None:
        if value is None:
            return
        try:
            instant(value)
        except (ValueError, TypeError):
            self.problems.append(f"{where} has a time that is no ISO 8601 of XML Schema: `{value}`")
        else:
            if _ZONE.search(value) is None:
                self.problems.append(f"{where} has a time without a zone: `{value}`")

    def _relation(self, relation: str, name: str, record: dict[str, Any]) -> None:
        where = f"{relation} `{name}`"
        for role, kind in RELATIONS[relation].roles.items():
            reference = record.get(f"prov:{role}")
            if reference is None:
                optional = role in _OPTIONAL or (relation in ("wasDerivedFrom", "actedOnBehalfOf")
                                                 and role == "activity")
                if not optional and role not in RELATIONS[relation].required:  # those are the standard's
                    self.problems.append(f"{where} has no prov:{role}")
            elif not isinstance(reference, str) or reference not in self.kinds:
                self.problems.append(f"{where} refers to `{reference}`, which is not declared")
            elif kind and {self.kinds[reference], kind} not in ({kind}, {"entity", "activity"}):
                self.problems.append(f"{where} needs {kind} as prov:{role}; `{reference}` is {self.kinds[reference]}")
        self._attributes(where, record, _KNOWN[relation])
        self._time(where, record.get("prov:time"))

    def _generations(self) -> None:
        """By the standard two without a name are one (24); many a reader counts two."""
        pairs: set[tuple[str, str]] = set()
        for _name, record in self._records("wasGeneratedBy"):
            pair = (str(record.get("prov:entity")), str(record.get("prov:activity")))
            if pair in pairs:
                self.problems.append(f"`{pair[0]}` is generated twice by `{pair[1]}`")
            pairs.add(pair)

    def _run_activity(self) -> None:
        runs = [(n, r) for n, r in self._records("activity") if "yp:state" in r]
        if len(runs) != 1:
            self.problems.append(f"{len(runs)} activities have a yp:state; the run has one")
        for name, record in runs:
            if record["yp:state"] not in STATES:
                self.problems.append(f"activity `{name}` has an unknown state `{record['yp:state']}`")
