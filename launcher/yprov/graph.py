"""prov.json as a graph that a person can read: few boxes, whatever the number of records. Pure.

Folded, which is the default: parameters are one box, epochs the first, the last and one for those between, spans of one
name one, versions of a model one, series one for each class of devices, files one for each kind where there are many.
A context is a cluster, in which its epochs, spans, metrics and files lie, and so is monitoring. An edge between two
boxes stands for all relations of one kind between the records in them. Left out is what the picture says anyway: that a
part belongs to what it lies in, that a context informs the run that started it, and, of a series, its second link to
monitoring.

Full: every record, of many alike a table with a cell for each, and every relation, those of one kind between two boxes
or tables as one edge. What the records of a table have among themselves (a model its versions) their order says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from yprov.graph_text import Thing, lines_of, title_of_group
from yprov.runs import value_of

#: (most contexts, how many alike are drawn one by one): tried in this order until there are at most `MOST_BOXES`.
_STRICTNESS = ((12, 4), (8, 3), (5, 2), (3, 1))
MOST_BOXES = 60
#: Without folding: records alike that have a box each.
MOST_ALONE = 4
#: relation: the ends of its edge, in the direction of PROV: from what came later to what was there before.
RELATIONS = {
    "used": ("activity", "entity"), "wasGeneratedBy": ("entity", "activity"),
    "wasDerivedFrom": ("generatedEntity", "usedEntity"), "wasInformedBy": ("informed", "informant"),
    "wasStartedBy": ("activity", "trigger"), "wasEndedBy": ("activity", "trigger"),
    "wasInvalidatedBy": ("entity", "activity"), "wasAssociatedWith": ("activity", "agent"),
    "wasAttributedTo": ("entity", "agent"), "actedOnBehalfOf": ("delegate", "responsible"),
    "wasInfluencedBy": ("influencee", "influencer"), "specializationOf": ("specificEntity", "generalEntity"),
    "alternateOf": ("alternate1", "alternate2"), "hadMember": ("collection", "entity"),
}
#: Always folded into one box when there are two.
_ALWAYS = ("Parameter", "Result", "Series", "Span", "Model")
_MONITORING = "monitoring"
_MORE = "\x00more"  # the cluster of contexts that are not drawn by themselves


@dataclass
class Box:
    """A node of the picture: one record, or many alike, each with the lines of a cell when nothing is folded.
    `lines[0]` is its title."""

    kind: str
    home: str
    lines: list[str]
    things: list[Thing] = field(repr=False)
    cells: list[list[str]] = field(default_factory=list)


@dataclass
class Cluster:
    """`parent`: the cluster that it lies in, "" for none."""

    title: str
    parent: str


@dataclass(frozen=True)
class Edge:
    """Between boxes (indices). `count`: of relations."""

    relation: str
    source: int
    target: int
    count: int = 1


@dataclass
class Graph:
    """`chains`: boxes in an order that the picture should keep (epochs)."""

    title: str
    boxes: list[Box]
    clusters: dict[str, Cluster]
    edges: list[Edge]
    chains: list[list[int]] = field(default_factory=list)


def graph_of(document: Mapping[str, Any], *, full: bool = False) -> Graph:
    """`document`: PROV-JSON of a run."""
    if full:
        things, clusters = _things(document, 10**6)
        return _drawn(_alike(things), things, clusters, document, full=True, between=False)
    for most_contexts, alone in _STRICTNESS:
        things, clusters = _things(document, most_contexts)
        graph = _drawn(_groups(things, alone), things, clusters, document, full=False, between=alone > 1)
        if len(graph.boxes) <= MOST_BOXES:
            break
    return graph


def _records(document: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for identifier, record in document.get(kind, {}).items():
        for one in record if isinstance(record, list) else [record]:
            yield identifier, one


def _things(document: Mapping[str, Any], most_contexts: int) -> tuple[dict[str, Thing], dict[str, Cluster]]:
    found: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for kind in ("activity", "entity", "agent"):
        for identifier, record in _records(document, kind):
            about = {k: value_of(v) for k, v in record.items() if not isinstance(v, list)}
            own = str(about.get("yp:type") or about.get("prov:type") or kind).rpartition(":")[2]
            if own == "Parameter" and identifier.startswith("run:result/"):
                own = "Result"
            found[identifier] = (kind, own, about)
    contexts = sorted((about for _kind, own, about in found.values() if own == "Context"),
                      key=lambda a: str(a.get("prov:startTime")))
    names = [str(a.get("yp:context") or a.get("prov:label")) for a in contexts]
    kept = names[:most_contexts]
    clusters = {name: Cluster(f"context {name}", _outer(name, kept)) for name in kept}
    if len(names) > len(kept):
        clusters[_MORE] = Cluster(f"{len(names) - len(kept)} more contexts", "")
    if any(own == "Monitoring" for _kind, own, _about in found.values()):
        clusters[_MONITORING + "\x00"] = Cluster(_MONITORING, "")
    things = {}
    for identifier, (kind, own, about) in found.items():
        things[identifier] = Thing(identifier, kind, own, _home(identifier, own, about, set(names), kept), about)
    homes = {(t.type, t.label): t.home for t in things.values() if t.home}
    for thing in list(things.values()):
        if thing.get("versions"):  # what versions are versions of lies where they do
            things[thing.id] = replace(thing, home=homes.get((thing.type, thing.label), ""))
    return things, clusters


def _outer(name: str, kept: Sequence[str]) -> str:
    while "/" in name:
        name = name.rpartition("/")[0]
        if name in kept:
            return name
    return ""


def _home(identifier: str, own: str, about: Mapping[str, Any], known: set[str], kept: Sequence[str]) -> str:
    if own in ("Monitoring", "Telemetry", "EnergyReport") or identifier == "run:software/yprov" or (
            own == "Series" and about.get("yprov:source") == "yprov"):
        return _MONITORING + "\x00"
    context = about.get("yprov:context") if own == "Series" else about.get("yp:context")
    name = str(context or "")
    if name not in known:
        return ""
    return name if name in kept else _MORE


def _key(thing: Thing) -> tuple[str, ...]:
    """Records with one key are alike: one box, where there are too many."""
    if thing.type == "Series":
        location = str(thing.about.get("prov:location") or "").partition("/")[2]
        return thing.type, thing.home, location.rpartition("/")[0]
    if thing.type in ("Model", "Dataset", "Span"):
        return thing.type, thing.home, thing.label
    return thing.type, thing.home


def _alike(things: Mapping[str, Thing]) -> list[list[Thing]]:
    """Nothing folded: who shares a table."""
    groups: dict[tuple[str, ...], list[Thing]] = {}
    for thing in things.values():
        groups.setdefault(_key(thing), []).append(thing)
    out: list[list[Thing]] = []
    for key, members in groups.items():
        members.sort(key=_order)
        out += [members] if len(members) > MOST_ALONE and key[0] != "Context" else [[m] for m in members]
    return out


def _groups(things: Mapping[str, Thing], alone: int) -> list[list[Thing]]:
    """Records by what becomes one box. Kinds of which there are too many names (models, spans) are one group."""
    groups: dict[tuple[str, ...], list[Thing]] = {}
    for thing in things.values():
        groups.setdefault(_key(thing), []).append(thing)
    of_kind = Counter(key[:2] for key in groups)
    merged: dict[tuple[str, ...], list[Thing]] = {}
    for key, members in groups.items():
        many = of_kind[key[:2]] > max(alone, 2) and key[0] != "Series"
        merged.setdefault(key[:2] if many else key, []).extend(members)
    out: list[list[Thing]] = []
    for key, members in merged.items():
        members.sort(key=_order)
        whole = key[0] in _ALWAYS or (key[0] == "Context" and key[1] == _MORE)
        if len(members) == 1 or (whole and len(members) > 1):
            out.append(members)
        elif len(members) <= alone:
            out += [[m] for m in members]
        elif key[0] in ("Epoch", "Step") and alone > 1:
            out += [members[:1], members[1:-1], members[-1:]]
        else:
            out.append(members)
    return out


def _order(thing: Thing) -> tuple[Any, ...]:
    epoch = thing.get("epoch")
    return (str(thing.about.get("prov:startTime") or ""), epoch if isinstance(epoch, int) else -1, thing.id)


def _drawn(
    groups: list[list[Thing]], things: Mapping[str, Thing], clusters: dict[str, Cluster], document: Mapping[str, Any],
    *, full: bool, between: bool,
) -> Graph:
    """`between`: of epochs and steps, a group of many stands between the first and the last."""
    boxes: list[Box] = []
    chains: dict[str, list[int]] = {}
    at: dict[str, int] = {}
    for members in groups:
        first, many = members[0], len(members) > 1
        row = between and first.type in ("Epoch", "Step")
        lines = title_of_group(members, between=row) if many else lines_of(first)
        if first.type in ("Epoch", "Span", "Step"):
            chains.setdefault(first.home, []).append(len(boxes))
        at |= {member.id: len(boxes) for member in members}
        cells = [lines_of(member) for member in members] if full and many else []
        boxes.append(Box(first.kind, first.home, lines[:1] if cells else lines, members, cells))
    counts: Counter[tuple[str, int, int]] = Counter()
    for relation, source, target in _relations(document, things):
        if at[source.id] != at[target.id] and (full or not _said(relation, source, target)):
            counts[relation, at[source.id], at[target.id]] += 1
    edges = [Edge(relation, a, b, n) for (relation, a, b), n in counts.items()]
    return Graph(_title(document), boxes, _inhabited(clusters, boxes), edges, [] if full else list(chains.values()))


def _inhabited(clusters: Mapping[str, Cluster], boxes: Sequence[Box]) -> dict[str, Cluster]:
    kept = set()
    for box in boxes:
        home = box.home
        while home:
            kept.add(home)
            home = clusters[home].parent
    return {name: cluster for name, cluster in clusters.items() if name in kept}


def _relations(
    document: Mapping[str, Any], things: Mapping[str, Thing]
) -> Iterator[tuple[str, Thing, Thing]]:
    for relation, (source, target) in RELATIONS.items():
        for _identifier, record in _records(document, relation):
            begin, end = str(record.get(f"prov:{source}")), record.get(f"prov:{target}")
            if end is None and relation in ("wasStartedBy", "wasEndedBy"):
                end = record.get("prov:starter" if relation == "wasStartedBy" else "prov:ender")
            if begin in things and str(end) in things:
                yield relation, things[begin], things[str(end)]


def _said(relation: str, source: Thing, target: Thing) -> bool:
    """Whether the folded picture says it anyway."""
    if relation == "wasInformedBy":
        inside = source.type in ("Epoch", "Span", "Context") and target.type in ("Context", "Epoch", "Run")
        return inside or source.type == "Step"
    if relation == "hadMember":
        return target.type == "Series" and target.home != source.home
    return relation == "wasGeneratedBy" and source.type == "Series" and target.type == "Monitoring"


def _title(document: Mapping[str, Any]) -> str:
    run = document.get("activity", {}).get("run:run", {})
    return str(value_of(run.get("prov:label", "")) if isinstance(run, dict) else "")
