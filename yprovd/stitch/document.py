"""The PROV document being written: identifiers, clean values, times that fit together, and its bytes as PROV-JSON.

What this file guarantees, whatever names and values a job used:

- Every identifier is a slug in the namespace of the run (`run:ctx/training`) and names one record only. Two names
  that would share one get a number behind it. It is a prefix and not the default namespace: with a default one,
  `prov` (3.2.3) reads the blank nodes of RDF as names in it, and the document is no longer equal to itself.
- Every attribute has one value (the yProv service keeps only one), absent ones are left out, and text holds only
  what XML 1.0 may hold (other characters are written as an escape, `\\u0000`).
- The times of an activity, and of what happens in it, lie in order (PROV-CONSTRAINTS, section 6.1).
- The bytes are the same for the same calls: keys sorted, nothing of the machine that writes them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prov.model import Identifier, Namespace, ProvDocument, QualifiedName
from prov.serializers.provjson import encode_json_document

#: prefix: IRI. `yp` is our vocabulary; `yprov` and `provml` are what yProv4ML's readers look for.
NAMESPACES = {
    "yp": "https://w3id.org/yprov/ns#",
    "yprov": "https://github.com/HPCI-Lab/yProv4ML#",
    "provml": "https://w3id.org/yprov/prov-ml#",
    "mls": "http://www.w3.org/ns/mls#",
    "schema": "http://schema.org/",
    "fair4ml": "https://w3id.org/fair4ml/",
    "dcterms": "http://purl.org/dc/terms/",
}
_PROV = Namespace("prov", "http://www.w3.org/ns/prov#")
_SPACES = {prefix: Namespace(prefix, iri) for prefix, iri in NAMESPACES.items()} | {"prov": _PROV}

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
_OUTSIDE_SLUG = re.compile(rb"[^A-Za-z0-9._/-]")
#: What XML 1.0 cannot carry, and the carriage return, which its parsers turn into a line feed.
_NOT_XML = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_ID = 160
_LONGEST_TEXT = 100_000


def slug(name: str) -> str:
    """`name` as a part of an identifier: what is outside `[A-Za-z0-9._/-]` percent-encoded, long names shortened
    (then with a part of their SHA-256), an empty one as `_`."""
    data = name.encode("utf-8", "surrogatepass")
    out = _OUTSIDE_SLUG.sub(lambda m: b"%%%02X" % m[0][0], data).decode("ascii")
    if len(out) > _LONGEST_ID:
        cut = re.sub(r"%.?$", "", out[:_LONGEST_ID - 20])
        out = f"{cut}-{hashlib.sha256(data).hexdigest()[:16]}"
    return out or "_"


def base_iri(run_id: str) -> str:
    """The namespace of one run's identifiers."""
    if _UUID.fullmatch(run_id):
        return f"urn:uuid:{run_id.lower()}#"
    return f"https://w3id.org/yprov/run/{slug(run_id).replace('/', '%2F')}#"


def clean(text: str) -> str:
    """`text` as every PROV syntax can carry it."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}... ({len(text)} characters)"
    return _NOT_XML.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def json_text(value: Any) -> str:
    """A value that is no scalar, as JSON text in a fixed order."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def time_of(ns: int) -> datetime:
    """Wall clock ns as UTC; microseconds, which is what the formats hold, cut and so in order."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def qname(name: str) -> QualifiedName:
    """`yp:Run` as a qualified name."""
    prefix, _, local = name.partition(":")
    return _SPACES[prefix][local]


class Document:
    """Flat PROV document of one run. Records are added once; relations take the ids that `new_id` gave."""

    def __init__(self, run_id: str) -> None:
        self._doc = ProvDocument()
        self._base = Namespace("run", base_iri(run_id))
        self._doc.add_namespace(self._base)
        for prefix in NAMESPACES:
            self._doc.add_namespace(_SPACES[prefix])
        self._ids: set[str] = set()
        self._times: dict[QualifiedName, tuple[int, int]] = {}

    def new_id(self, wanted: str) -> QualifiedName:
        """An identifier that no record has yet; `wanted` is a slug."""
        name, number = wanted, 1
        while name in self._ids:
            number += 1
            name = f"{wanted}-{number}"
        self._ids.add(name)
        return self._base[name]

    def entity(self, wanted: str, attributes: Mapping[str, Any]) -> QualifiedName:
        ref = self.new_id(wanted)
        self._doc.entity(ref, _attributes(attributes))
        return ref

    def agent(self, wanted: str, attributes: Mapping[str, Any]) -> QualifiedName:
        ref = self.new_id(wanted)
        self._doc.agent(ref, _attributes(attributes))
        return ref

    def activity(
        self, wanted: str, begin_ns: int, end_ns: int, attributes: Mapping[str, Any],
        within: QualifiedName | None = None,
    ) -> QualifiedName:
        """`within`: the activity that this one is a part of; clocks of nodes differ, parts do not stick out.
        Without times (0, 0) none are written."""
        if within is not None:
            begin_ns, end_ns = self.fit(within, begin_ns), self.fit(within, end_ns)
        end_ns = max(begin_ns, end_ns)
        ref = self.new_id(wanted)
        self._times[ref] = (begin_ns, end_ns)
        known = bool(end_ns)
        self._doc.activity(ref, time_of(begin_ns) if known else None, time_of(end_ns) if known else None,
                           _attributes(attributes))
        return ref

    def foreign_activity(
        self, prefix: str, run_id: str, local: str, attributes: Mapping[str, Any]
    ) -> QualifiedName:
        """An activity of another run's document, by the identifier that it has there. Without times."""
        space = Namespace(prefix, base_iri(run_id))
        self._doc.add_namespace(space)
        ref = space[local]
        self._times[ref] = (0, 0)
        self._doc.activity(ref, None, None, _attributes(attributes))
        return ref

    def times(self, activity: QualifiedName) -> tuple[int, int]:
        return self._times[activity]

    def fit(self, activity: QualifiedName, ns: int) -> int:
        """The moment of what happens in the activity: `ns`, or where that is outside of it, its begin or end."""
        begin, end = self._times[activity]
        return min(max(ns, begin), end)

    def _event(self, activity: QualifiedName, ns: int | None) -> datetime | None:
        if ns is None or not self._times[activity][1]:
            return None
        return time_of(self.fit(activity, ns))

    def used(self, activity: QualifiedName, entity: QualifiedName, ns: int | None = None, role: str = "") -> None:
        self._doc.usage(activity, entity, self._event(activity, ns), other_attributes=_role(role))

    def generated(
        self, entity: QualifiedName, activity: QualifiedName, ns: int | None = None, role: str = ""
    ) -> None:
        self._doc.generation(entity, activity, self._event(activity, ns), other_attributes=_role(role))

    def started(
        self, activity: QualifiedName, trigger: QualifiedName, starter: QualifiedName | None = None
    ) -> None:
        """At the activity's own begin."""
        self._doc.start(activity, trigger, starter, self._event(activity, self._times[activity][0]))

    def informed(self, informed: QualifiedName, informant: QualifiedName) -> None:
        self._doc.communication(informed, informant)

    def derived(self, entity: QualifiedName, of: QualifiedName) -> None:
        self._doc.derivation(entity, of)

    def specialises(self, entity: QualifiedName, of: QualifiedName) -> None:
        self._doc.specialization(entity, of)

    def member(self, collection: QualifiedName, entity: QualifiedName) -> None:
        self._doc.membership(collection, entity)

    def associated(
        self, activity: QualifiedName, agent: QualifiedName, plan: QualifiedName | None = None, role: str = ""
    ) -> None:
        self._doc.association(activity, agent, plan, other_attributes=_role(role))

    def acted_for(self, agent: QualifiedName, responsible: QualifiedName, activity: QualifiedName) -> None:
        self._doc.delegation(agent, responsible, activity)

    def influenced(self, thing: QualifiedName, by: QualifiedName) -> None:
        self._doc.influence(thing, by)

    def to_json(self) -> bytes:
        """PROV-JSON, UTF-8. `prov`'s own encoder, called without its registry, whose imports cost 0.1 s."""
        return in_lines(encode_json_document(self._doc)).encode()


def in_lines(doc: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with one attribute on a line, a relation on one: to be read, searched and compared, at 3/4 of the bytes
    that plain indentation takes."""
    kinds = []
    for kind, records in sorted(doc.items()):
        rows = []
        for key, record in sorted(records.items()):
            if kind in ("entity", "activity", "agent"):
                inside = ",\n".join(f"   {_json(name)}: {_json(value)}" for name, value in sorted(record.items()))
                rows.append(f"  {_json(key)}: {{\n{inside}\n  }}" if inside else f"  {_json(key)}: {{}}")
            else:
                rows.append(f"  {_json(key)}: {_json(record)}")
        kinds.append(f" {_json(kind)}: {{\n" + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _role(role: str) -> dict[QualifiedName, str] | None:
    return {_PROV["role"]: clean(role)} if role else None


def _attributes(values: Mapping[str, Any]) -> dict[QualifiedName, Any]:
    out = {}
    for name, value in values.items():
        plain = _plain(value)
        if plain is not None:
            out[qname(name)] = plain
    return out


def _plain(value: Any) -> Any:
    """A value that `prov` writes with the right type, or None for what is absent (also NaN and empty text)."""
    if value is None or value == "" or isinstance(value, (bool, datetime, Identifier)):
        return None if value == "" else value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if hasattr(value, "item"):  # a number of numpy
        return _plain(value.item())
    return clean(json_text(value))
