"""A PROV document as plain statements, whichever syntax it came in: what the checker works on.

Identifiers are IRIs, so that two prefixes of one namespace are one thing; `Document.names` has the name that a reader
of the document knows. PROV-JSON (W3C Member Submission, 24 April 2013) is read here, without `prov`: a hundredth of a
second for 2,000 records, and faults get the names that stand in the file. Everything else comes through `prov`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from yprovd.stitch.validity.literals import XSD, Instant, instant, moment_of

if TYPE_CHECKING:
    from prov.model import ProvBundle, ProvDocument

PROV = "http://www.w3.org/ns/prov#"
KINDS = ("entity", "activity", "agent")


@dataclass(frozen=True)
class Relation:
    """`roles`: name and kind of the arguments, in the order of PROV-N ("": any kind; "event": a generation or usage).
    `required`: those that PROV-DM does not let out. `named`: it may have an identifier."""

    roles: dict[str, str]
    required: tuple[str, ...]
    named: bool = True
    timed: bool = False


def _relation(required: str, roles: dict[str, str], *, named: bool = True, timed: bool = False) -> Relation:
    return Relation(roles, tuple(required.split()), named, timed)


RELATIONS: dict[str, Relation] = {
    "used": _relation("activity", {"activity": "activity", "entity": "entity"}, timed=True),
    "wasGeneratedBy": _relation("entity", {"entity": "entity", "activity": "activity"}, timed=True),
    "wasInvalidatedBy": _relation("entity", {"entity": "entity", "activity": "activity"}, timed=True),
    "wasStartedBy": _relation("activity", {"activity": "activity", "trigger": "entity", "starter": "activity"},
                              timed=True),
    "wasEndedBy": _relation("activity", {"activity": "activity", "trigger": "entity", "ender": "activity"},
                            timed=True),
    "wasInformedBy": _relation("informed informant", {"informed": "activity", "informant": "activity"}),
    "wasDerivedFrom": _relation("generatedEntity usedEntity", {
        "generatedEntity": "entity", "usedEntity": "entity", "activity": "activity", "generation": "event",
        "usage": "event"}),
    "wasAttributedTo": _relation("entity agent", {"entity": "entity", "agent": "agent"}),
    "wasAssociatedWith": _relation("activity", {"activity": "activity", "agent": "agent", "plan": "entity"}),
    "actedOnBehalfOf": _relation("delegate responsible", {"delegate": "agent", "responsible": "agent",
                                                          "activity": "activity"}),
    "wasInfluencedBy": _relation("influencee influencer", {"influencee": "", "influencer": ""}),
    "specializationOf": _relation("specificEntity generalEntity", {"specificEntity": "entity",
                                                                   "generalEntity": "entity"}, named=False),
    "alternateOf": _relation("alternate1 alternate2", {"alternate1": "entity", "alternate2": "entity"}, named=False),
    "hadMember": _relation("collection entity", {"collection": "entity", "entity": "entity"}, named=False),
    "mentionOf": _relation("specificEntity generalEntity bundle", {
        "specificEntity": "entity", "generalEntity": "entity", "bundle": "entity"}, named=False),
}
_TIMES = {"activity": ("startTime", "endTime")} | {kind: ("time",) for kind, r in RELATIONS.items() if r.timed}


#: Types of values. Many a document leaves out the `#` of XML Schema's namespace.
_DATE_TIMES = (f"{XSD}dateTime", f"{XSD[:-1]}dateTime")
_NAMES = (f"{XSD}QName", f"{XSD[:-1]}QName", f"{PROV}QUALIFIED_NAME")


@dataclass(slots=True)
class Statement:
    """`args`: IRI of each role that is there, and times under `time`, `startTime`, `endTime`.
    `key`: what it is called in the file, for a reader. `empty`: its prov:type says prov:EmptyCollection."""

    kind: str
    id: str | None
    args: dict[str, str | Instant]
    key: str = ""
    empty: bool = False


@dataclass
class Document:
    """`instances`: the statements of the document ("") and of each bundle. `faults`: what could not be read."""

    instances: dict[str, list[Statement]] = field(default_factory=lambda: {"": []})
    names: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def name(self, iri: str) -> str:
        return self.names.get(iri, iri)


# PROV-JSON


def from_json(doc: Any) -> Document:
    """The statements of parsed PROV-JSON. What is no PROV-JSON is a fault, and left out. Never raises."""
    out = Document()
    if isinstance(doc, dict):
        _Reader(out, doc, {"prov": PROV, "xsd": XSD}, "").read()
    else:
        out.faults.append("the document is no JSON object")
    return out


class _Reader:
    """Reads a document or a bundle of it."""

    def __init__(self, out: Document, doc: dict[str, Any], outer: dict[str, str], bundle: str) -> None:
        self.out, self.doc, self.bundle = out, doc, bundle
        prefixes = doc.get("prefix")
        own = prefixes.items() if isinstance(prefixes, dict) else ()
        self.prefixes = outer | {p: iri for p, iri in own if isinstance(iri, str)} | {"prov": PROV}
        if dict(own).get("prov", PROV) != PROV:
            out.faults.append("the prefix `prov` is bound to another namespace than its own")
        self.unknown: set[str] = set()

    def read(self) -> None:
        statements = self.out.instances.setdefault(self.bundle, [])
        for kind, records in self.doc.items():
            if kind == "prefix" or (kind == "bundle" and not self.bundle):
                continue
            if kind not in KINDS and kind not in RELATIONS:
                self.out.faults.append(f"`{kind}` is no part of a PROV document")
            elif not isinstance(records, dict):
                self.out.faults.append(f"`{kind}` is no object")
            else:
                for key, record in records.items():
                    for one in record if isinstance(record, list) else [record]:
                        statements += self._statements(kind, key, one)
        bundles = self.doc.get("bundle", {}) if not self.bundle else {}
        for key, bundle in bundles.items() if isinstance(bundles, dict) else ():
            if isinstance(bundle, dict):
                _Reader(self.out, bundle, self.prefixes, self._iri(key)).read()
            else:
                self.out.faults.append(f"bundle `{key}` is no object")

    def _iri(self, name: str) -> str:
        prefix, colon, local = name.partition(":")
        iri = name
        if colon and prefix in self.prefixes:
            iri = self.prefixes[prefix] + local
        elif not colon and "default" in self.prefixes:
            iri = self.prefixes["default"] + name
        elif prefix != "_" and prefix not in self.unknown:
            self.unknown.add(prefix)
            self.out.faults.append(f"the namespace of `{name}` is not declared")
        self.out.names.setdefault(iri, name)
        return iri

    def _statements(self, kind: str, key: str, record: Any) -> Iterator[Statement]:
        where = f"{kind} `{key}`"
        if not isinstance(record, dict):
            self.out.faults.append(f"{where} is no object")
            return
        args: dict[str, str | Instant] = {}
        several: list[str] = []
        for role in RELATIONS[kind].roles if kind in RELATIONS else ():
            value = record.get(f"prov:{role}")
            if isinstance(value, dict):
                value = value.get("$")
            if kind == "hadMember" and role == "entity" and isinstance(value, list):
                several = [self._iri(v) for v in value if isinstance(v, str)]  # a short form of many tools
            elif isinstance(value, str):
                args[role] = self._iri(value)
            elif value is not None:
                self.out.faults.append(f"{where} has a prov:{role} that is no identifier")
        for role in _TIMES.get(kind, ()):
            if (time := self._time(where, record.get(f"prov:{role}"))) is not None:
                args[role] = time
        named = kind in KINDS or not key.startswith("_:")
        statement = Statement(kind, self._iri(key) if named else None, args, key,
                              kind == "entity" and self._is_empty(record.get("prov:type")))
        yield from (Statement(kind, None, args | {"entity": iri}, key) for iri in several) if several else [statement]

    def _time(self, where: str, value: Any) -> Instant | None:
        datatype = value.get("type") if isinstance(value, dict) else None
        if isinstance(value, dict):
            value = value.get("$")
        if value is None:
            return None
        try:
            if datatype is not None and self._resolved(datatype) not in _DATE_TIMES:
                raise ValueError(datatype)
            return instant(value)
        except (ValueError, TypeError):
            self.out.faults.append(f"{where} has a time that is no xsd:dateTime: `{value}`"
                                   + (f" of type {datatype}" if datatype is not None else ""))
            return None

    def _resolved(self, name: Any) -> str | None:
        """The IRI of a name in a value; None for what is none."""
        prefix, colon, local = name.partition(":") if isinstance(name, str) else ("", "", "")
        space = self.prefixes.get(prefix if colon else "default")
        return None if space is None else space + (local if colon else name)

    def _is_empty(self, types: Any) -> bool:
        """A string that only looks like a name is none."""
        return any(isinstance(t, dict) and self._resolved(t.get("type")) in _NAMES
                   and self._resolved(t.get("$")) == f"{PROV}EmptyCollection"
                   for t in (types if isinstance(types, list) else [types]))


# any syntax, through prov


def from_prov(document: ProvDocument) -> Document:
    """The statements of a document that `prov` has read."""
    out = Document()
    _take(out, document, "")
    for bundle in document.bundles:
        _take(out, bundle, bundle.identifier.uri)
    return out


def _take(out: Document, bundle: ProvBundle, name: str) -> None:
    from prov.constants import PROV_N_MAP
    from prov.model import Identifier, QualifiedName

    statements = out.instances.setdefault(name, [])
    for record in bundle.get_records():
        kind = PROV_N_MAP[record.get_type()]
        args: dict[str, str | Instant] = {}
        for attribute, value in record.formal_attributes:
            if isinstance(value, Identifier):
                args[attribute.localpart] = value.uri
                out.names.setdefault(value.uri, str(value))
            elif isinstance(value, datetime):
                args[attribute.localpart] = moment_of(value)
        known = record.identifier is not None and not str(record.identifier).startswith("_:")
        iri = record.identifier.uri if known else None
        if iri is not None:
            out.names.setdefault(iri, str(record.identifier))
        statements.append(Statement(kind, iri, args, str(record.identifier) if known else "", any(
            isinstance(t, QualifiedName) and t.uri == f"{PROV}EmptyCollection" for t in record.get_asserted_types())))
