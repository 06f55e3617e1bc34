"""What the programs of yProv ask of a PROV-JSON document, written anew from what is known of them, as test doubles.

- `complaints`: the HPCI validator with `--strict`: errors, and its warnings too.
- `through_the_service`: what the v0 service gives back of a document that it was given: a graph database of nodes and
  edges lies between. What only that service does wrong is here as well: where a value is no text, it cannot answer.
- `drawn`: the nodes and links of yProv Explorer.
- `metrics_found`, `run_found`: what the readers of yProv4ML look for.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

Doc = dict[str, Any]

ELEMENTS = ("entity", "activity", "agent")
#: relation: its two ends as they are named in PROV-JSON (`prov:` left out), then what else may stand there: name: kind.
_ENDS: dict[str, tuple[tuple[str, str], tuple[str, str], dict[str, str]]] = {
    "used": (("activity", "activity"), ("entity", "entity"), {"time": "time"}),
    "wasGeneratedBy": (("entity", "entity"), ("activity", "activity"), {"time": "time"}),
    "wasInvalidatedBy": (("entity", "entity"), ("activity", "activity"), {"time": "time"}),
    "wasStartedBy": (("activity", "activity"), ("trigger", "entity"), {"starter": "activity", "time": "time"}),
    "wasEndedBy": (("activity", "activity"), ("trigger", "entity"), {"ender": "activity", "time": "time"}),
    "wasInformedBy": (("informed", "activity"), ("informant", "activity"), {}),
    "wasDerivedFrom": (("generatedEntity", "entity"), ("usedEntity", "entity"),
                       {"activity": "activity", "generation": "", "usage": ""}),
    "wasAttributedTo": (("entity", "entity"), ("agent", "agent"), {}),
    "wasAssociatedWith": (("activity", "activity"), ("agent", "agent"), {"plan": "entity"}),
    "actedOnBehalfOf": (("delegate", "agent"), ("responsible", "agent"), {"activity": "activity"}),
    "wasInfluencedBy": (("influencee", ""), ("influencer", ""), {}),
    "specializationOf": (("specificEntity", "entity"), ("generalEntity", "entity"), {}),
    "alternateOf": (("alternate1", "entity"), ("alternate2", "entity"), {}),
    "hadMember": (("collection", "entity"), ("entity", "entity"), {}),
}


# The HPCI validator


_ALLOWED = {
    "entity": {"label", "type", "location", "value", "role", "generatedAtTime", "invalidatedAtTime"},
    "activity": {"label", "type", "location", "startTime", "endTime", "startedAtTime", "endedAtTime"},
    "agent": {"label", "type", "location", "role"},
}
_OF_RELATIONS = {"type", "label", "role"}
_QNAME = re.compile(r"[A-Za-z_][\w.-]*:[A-Za-z_][\w.-]*", re.ASCII)


def complaints(doc: Doc) -> list[str]:
    """Errors and warnings, a line each; empty for a document that passes."""
    return list(_Validator(doc).run())


class _Validator:
    def __init__(self, doc: Doc) -> None:
        self.doc = doc
        self.prefixes = {"prov", "xsd", *doc.get("prefix", {})}
        self.kinds: dict[str, str] = {}

    def run(self) -> Iterator[str]:
        for key in self.doc:
            if key not in ("prefix", "bundle", "collection", *ELEMENTS, *_ENDS):
                yield f"unknown key {key}"
        for prefix, iri in self.doc.get("prefix", {}).items():
            if not re.fullmatch(r"[A-Za-z_][\w.-]*", prefix, re.ASCII) or not isinstance(iri, str) or not iri:
                yield f"prefix {prefix}"
        for kind in ELEMENTS:
            for name, record in self.doc.get(kind, {}).items():
                yield from self._name(name)
                if name in self.kinds:
                    yield f"{name} is {kind} and {self.kinds[name]}"
                self.kinds[name] = kind
                if isinstance(record, dict):
                    yield from self._attributes(name, record, _ALLOWED[kind])
                else:
                    yield f"{name} is no object"
        for relation, (first, second, more) in _ENDS.items():
            for name, record in self.doc.get(relation, {}).items():
                if not isinstance(record, dict):
                    yield f"{relation} {name} is no object"
                    continue
                ends = dict([first, second])
                yield from self._attributes(f"{relation} {name}", record, _OF_RELATIONS | set(ends) | set(more))
                for role, kind in (ends | more).items():
                    value = record.get(f"prov:{role}")
                    if value is None:
                        if role in ends:
                            yield f"{relation} {name} has no prov:{role}"
                    elif kind != "time":
                        yield from self._reference(f"{relation} {name}", value, kind)

    def _reference(self, where: str, value: Any, kind: str) -> Iterator[str]:
        if not isinstance(value, str) or value not in self.kinds:
            yield f"{where} refers to {value}, which is not there"
        elif kind and self.kinds[value] != kind:
            yield f"{where} refers to {value}, which is no {kind}"
        else:
            yield from self._name(value)

    def _attributes(self, where: str, record: Doc, allowed: set[str]) -> Iterator[str]:
        for key, value in record.items():
            yield from self._name(key)
            prefix, _, local = key.partition(":")
            if prefix != "prov":
                continue
            if local not in allowed:
                yield f"{where}: unknown attribute {key}"
            elif local.lower().endswith("time"):
                if not _is_time(value):
                    yield f"{where}: {key} is no time: {value}"
            elif local == "label" and not isinstance(value, str):
                yield f"{where}: {key} is no text"
            elif local == "type":
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, str):
                        yield from self._name(one)
                    elif not isinstance(one, dict) or "$" not in one:
                        yield f"{where}: {key} is no type: {one}"
            elif local == "role" and isinstance(value, str):
                yield from self._name(value)

    def _name(self, name: str) -> Iterator[str]:
        if not name.startswith("_:") and _QNAME.fullmatch(name) and name.partition(":")[0] not in self.prefixes:
            yield f"the prefix of {name} is not declared"


def _is_time(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True


# The service v0


Edge = tuple[str, str, str]


class CannotAnswer(Exception):
    """The service takes such a document and fails when it is asked for it."""


class Graph:
    """A document as nodes and edges. Only records of the top level are looked at. A node has one value for each
    attribute, and between two nodes there is one edge of each kind. Given another document, it is added to."""

    def __init__(self) -> None:
        self.prefix: dict[str, str] = {}
        self.nodes: dict[str, tuple[str, dict[str, Any]]] = {}
        self.edges: dict[Edge, dict[str, Any]] = {}

    def add(self, doc: Doc) -> None:
        self.prefix |= doc.get("prefix", {})
        for kind in ELEMENTS:
            for name, record in doc.get(kind, {}).items():
                self.nodes.setdefault(name, (kind, {}))[1].update(_properties(record))
        for relation, ((first, _), (second, _), _more) in _ENDS.items():
            for record in doc.get(relation, {}).values():
                ends = record.get(f"prov:{first}"), record.get(f"prov:{second}")
                if None in ends:
                    continue
                rest = {k: v for k, v in record.items() if k not in (f"prov:{first}", f"prov:{second}")}
                self.edges.setdefault((relation, *ends), {}).update(_properties(rest))

    def document(self) -> Doc:
        """As PROV-JSON. Relations have new names, values no types."""
        out: Doc = {"prefix": dict(self.prefix)}
        for name, (kind, properties) in self.nodes.items():
            out.setdefault(kind, {})[name] = _given_back(properties)
        for (relation, one, other), properties in self.edges.items():
            (first, _), (second, _), _more = _ENDS[relation]
            out.setdefault(relation, {})[f"_:{uuid.uuid4()}"] = {
                f"prov:{first}": one, f"prov:{second}": other, **_given_back(properties)}
        return out


def _properties(record: Doc) -> dict[str, Any]:
    return {key: _primitive(value[-1] if isinstance(value, list) else value) for key, value in record.items()}


def _primitive(value: Any) -> Any:
    """What a graph database stores: text, numbers, truth, times."""
    if not isinstance(value, dict):
        return value
    text, kind = value["$"], value.get("type", "")
    if kind in ("xsd:int", "xsd:long"):
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{number} has more than 64 bits")
        return number
    if kind == "xsd:double":
        return float(text)
    if kind == "xsd:boolean":
        return text == "true"
    if kind == "xsd:dateTime":
        return datetime.fromisoformat(text)
    return text


def _given_back(properties: dict[str, Any]) -> Doc:
    out = {}
    for key, value in properties.items():
        if key in ("prov:startTime", "prov:endTime", "prov:time"):
            time = datetime.fromisoformat(value)
            value = f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond:06d}000{time.isoformat()[-6:]}"
        elif not isinstance(value, str):
            raise CannotAnswer(f"{key} is {value!r}")
        out[key] = value
    return out


def through_the_service(doc: Doc) -> Doc:
    graph = Graph()
    graph.add(doc)
    return graph.document()


def facts(doc: Doc) -> set[tuple[Any, ...]]:
    """All that a document says, whatever the names of its relations: what it is, and every attribute as text."""
    out: set[tuple[Any, ...]] = set()
    for name, iri in doc.get("prefix", {}).items():
        out.add(("prefix", name, iri))
    for section, records in doc.items():
        if section == "prefix":
            continue
        for name, record in records.items():
            said = frozenset((key, one) for key, value in record.items() for one in _texts(key, value))
            out.add((section, name, said) if section in ELEMENTS else (section, said))
    return out


def _texts(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for one in value for text in _texts(key, one)]
    if isinstance(value, dict) and "$" in value:
        value = value["$"]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if key.lower().endswith("time") and _is_time(value):
        return [datetime.fromisoformat(value).isoformat()]
    return [str(value)]


# yProv Explorer

_LINKS = {
    "used": ("entity", "activity"), "wasGeneratedBy": ("activity", "entity"),
    "wasDerivedFrom": ("usedEntity", "generatedEntity"), "wasInformedBy": ("informant", "informed"),
    "hadMember": ("collection", "entity"), "wasStartedBy": ("trigger", "activity"),
    "wasAssociatedWith": ("activity", "agent"), "wasAttributedTo": ("entity", "agent"),
}


def drawn(doc: Doc) -> tuple[set[str], set[tuple[str, str, str]]]:
    """(nodes, links). Raises what a browser would show as an empty page or an error."""
    for section in ("entity", "activity"):
        if not isinstance(doc.get(section), dict):
            raise TypeError(f"{section} is not there")
    nodes = {name for section in ELEMENTS for name in doc.get(section, {})}
    for name, record in doc["activity"].items():
        if not isinstance(record.get("prov:type", ""), str):
            raise TypeError(f"the type of {name} cannot be searched")
    links = set()
    for relation, (source, target) in _LINKS.items():
        for record in doc.get(relation, {}).values():
            if not isinstance(record, dict):
                raise TypeError(f"{relation} has a value that is no object")
            ends = record.get(f"prov:{source}"), record.get(f"prov:{target}")
            if nodes.issuperset(ends):
                links.add((relation, *ends))
    return nodes, links


def connected(nodes: set[str], links: set[tuple[str, str, str]], start: str) -> set[str]:
    """The nodes that a reader comes to from `start`, by links in any direction."""
    beside: dict[str, set[str]] = {node: set() for node in nodes}
    for _relation, one, other in links:
        beside[one].add(other)
        beside[other].add(one)
    found, ahead = {start}, [start]
    while ahead:
        new = beside[ahead.pop()] - found
        found |= new
        ahead += new
    return found


# The readers of yProv4ML


def metrics_found(doc: Doc) -> dict[str, tuple[str, str, str, str]]:
    """id: (label, context, source, file) of what counts as a metric. Raises KeyError for a metric without one."""
    out = {}
    for name, record in doc["entity"].items():
        if record.get("prov:type") == "provml:Metric":
            found = tuple(record[key] for key in ("prov:label", "yprov:context", "yprov:source", "dcterms:identifier"))
            if not all(isinstance(text, str) for text in found) or not found[3].endswith((".csv", ".nc", ".zarr")):
                raise KeyError(f"{name}: {found}")
            out[name] = found
    return out


def run_found(doc: Doc) -> str:
    """The id of the activity that counts as the run. Raises ValueError unless there is one."""
    (found,) = [name for name, record in doc["activity"].items()
                if "yprov:experiment_name" in record and "/" not in name]
    return found
