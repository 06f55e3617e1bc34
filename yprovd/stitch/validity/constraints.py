"""Whether a document is valid by PROV-CONSTRAINTS: `violations`. What is checked is in `claims`.

A pure function of the statements, in a time that grows as the document does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from yprovd.stitch.validity.claims import Violation
from yprovd.stitch.validity.merging import NOTHING, Fact, Normal, describe, normalised
from yprovd.stitch.validity.ordering import Edge, Order, strong_components
from yprovd.stitch.validity.statements import RELATIONS, Document, Statement

#: Constraint 53: the relations whose identifiers are disjoint. Derivation and influence are not among them.
_DISJOINT = {"used", "wasGeneratedBy", "wasInvalidatedBy", "wasStartedBy", "wasEndedBy", "wasInformedBy",
             "wasAttributedTo", "wasAssociatedWith", "actedOnBehalfOf"}


def violations(document: Document) -> list[Violation]:
    """What is wrong with the document and its bundles, each by itself (section 7.2)."""
    out: list[Violation] = []
    for bundle, statements in document.instances.items():
        where = f"in bundle `{document.name(bundle)}`: " if bundle else ""
        out += [Violation(v.rule, where + v.text, v.advice, v.by) for v in _instance(statements, document.name)]
    return out


def _instance(statements: list[Statement], name: Callable[[str], str]) -> Iterator[Violation]:
    normal = normalised(statements, name)
    yield from normal.violations
    yield from _required(normal, name)
    yield from _types(normal, name)
    yield from _identifiers(normal, name)
    yield from _derivations(normal, name)
    yield from _specialised(normal, name)  # states what inference 21 says, which the order needs
    yield from _members(normal, name)
    yield from Order(normal, name).violations()


def _required(normal: Normal, name: Callable[[str], str]) -> Iterator[Violation]:
    for fact in normal.facts:
        if not fact.inferred:
            for role in RELATIONS[fact.kind].required:
                if isinstance(normal.find(fact.args[role]), int):
                    yield Violation("required", f"{describe(fact.statement, name)} has no prov:{role}", "name it")


def _types(normal: Normal, name: Callable[[str], str]) -> Iterator[Violation]:
    """Constraints 50 and 55."""
    why: dict[str, dict[str, str]] = {
        iri: {kind: f"stated as one by {describe(s, name)}" for kind, s in kinds.items()}
        for iri, kinds in normal.things.items()}
    for fact in normal.facts:
        for role, kind in RELATIONS[fact.kind].roles.items():
            if kind in ("entity", "activity") and (iri := normal.constant(fact.args[role])) is not None:
                reasons = why.setdefault(iri, {})
                if kind not in reasons:
                    reasons[kind] = f"prov:{role} of {describe(fact.statement, name)}" if not fact.inferred else \
                        f"by inference {fact.inferred} from {describe(fact.statement, name)}"
    for iri, reasons in why.items():
        if "entity" in reasons and "activity" in reasons:
            yield Violation("55", f"`{name(iri)}` is an entity ({reasons['entity']}) and an activity "
                                  f"({reasons['activity']}; constraint 50, typing)",
                            "give the two things an identifier each")


def _identifiers(normal: Normal, name: Callable[[str], str]) -> Iterator[Violation]:
    """Constraints 53 and 54."""
    seen: dict[str, Fact] = {}
    for fact in normal.facts:
        iri = normal.constant(fact.id)
        if iri is None or not RELATIONS[fact.kind].named:
            continue
        for statement in normal.things.get(iri, {}).values():
            yield Violation("54", f"`{name(iri)}` is {describe(statement, name)} and {describe(fact.statement, name)}",
                            "give the relation another identifier, or none")
        if fact.kind in _DISJOINT and seen.setdefault(iri, fact).kind != fact.kind:
            yield Violation("53", f"`{name(iri)}` is {describe(seen[iri].statement, name)} and "
                                  f"{describe(fact.statement, name)}", "give one of them another identifier, or none")


def _derivations(normal: Normal, name: Callable[[str], str]) -> Iterator[Violation]:
    """Constraint 51."""
    for fact in normal.facts:
        if fact.kind == "wasDerivedFrom" and normal.find(fact.args["activity"]) == NOTHING:
            for role in ("generation", "usage"):
                if normal.find(fact.args[role]) != NOTHING:
                    yield Violation("51", f"{describe(fact.statement, name)} names its {role} and no activity",
                                    "name the activity")


def _specialised(normal: Normal, name: Callable[[str], str]) -> Iterator[Violation]:
    """Constraint 52 with inference 19, and inference 21: what specializes a stated entity is stated, and as empty a
    collection as that."""
    number: dict[str, int] = {}
    edges: list[list[Edge]] = []  # from the general to the specific
    for fact in normal.facts:
        if fact.kind in ("specializationOf", "mentionOf"):
            ends = [normal.constant(fact.args[role]) for role in ("generalEntity", "specificEntity")]
            for iri in ends:
                if iri is not None and number.setdefault(iri, len(edges)) == len(edges):
                    edges.append([])
            if ends[0] is not None and ends[1] is not None:
                edges[number[ends[0]]].append(Edge(number[ends[1]], "52", True))
    iris = list(number)
    for component in reversed(strong_components(edges)):
        first = component[0]
        if len(component) > 1 or any(e.to == first for e in edges[first]):
            names = ", ".join(f"`{name(iris[i])}`" for i in sorted(component)[:5])
            yield Violation("52", f"{names} {'is a specialization of itself' if len(component) == 1 else 'are '}"
                            f"{'' if len(component) == 1 else 'specializations of each other'}",
                            "take one specialization out, or state alternateOf")
        for general in component:
            for edge in edges[general]:
                if "entity" in (stated := normal.things.get(iris[general], {})):
                    normal.things.setdefault(iris[edge.to], {}).setdefault("entity", stated["entity"])
                if iris[general] in normal.empty:
                    normal.empty.setdefault(iris[edge.to], normal.empty[iris[general]])


def _members(normal: Normal, name: Callable[[str], str]) -> Iterator[Violation]:
    """Constraint 56."""
    for fact in normal.facts:
        if fact.kind == "hadMember":
            collection = normal.constant(fact.args["collection"])
            if collection in normal.empty:
                yield Violation("56", f"{describe(fact.statement, name)}: the collection is a prov:EmptyCollection",
                                "make it a prov:Collection")
