"""What RDF says in PROV-O's terms and `prov` does not read as statements: a second type of a thing, types of things
that have no other, and the properties below prov:wasDerivedFrom and the inverses of prov:wasGeneratedBy and
prov:wasInvalidatedBy (PROV-O, W3C Recommendation, 30 April 2013, sections 3.1 to 3.3 and appendix B)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from yprovd.stitch.validity.statements import PROV, Document, Statement

_TYPES = {
    **dict.fromkeys(("Entity", "Plan", "Collection", "EmptyCollection", "Bundle"), "entity"), "Activity": "activity",
    **dict.fromkeys(("Agent", "Person", "Organization", "SoftwareAgent"), "agent"),
}
#: Property: the relation, and the roles of its subject and object.
_PROPERTIES = {
    **dict.fromkeys(("wasRevisionOf", "wasQuotedFrom", "hadPrimarySource"),
                    ("wasDerivedFrom", "generatedEntity", "usedEntity")),
    "generated": ("wasGeneratedBy", "activity", "entity"),
    "invalidated": ("wasInvalidatedBy", "activity", "entity"),
}


def add_rdf(out: Document, path: Path, rdf_format: str) -> None:
    """Adds to the statements that `prov` has read from a file; what it has read as well is stated twice, and is one.
    Raises what rdflib does."""
    from rdflib import RDF, Dataset, URIRef
    from rdflib.graph import DATASET_DEFAULT_GRAPH_ID

    graph = Dataset()
    with open(path, "rb") as f:  # as `prov` reads it: a relative IRI is then the same
        graph.parse(f, format=rdf_format)
    spaces = [(prefix, str(iri)) for prefix, iri in graph.namespaces()]
    for subject, predicate, thing, context in graph.quads():
        if not isinstance(subject, URIRef) or not isinstance(thing, URIRef):
            continue  # blank nodes are the qualified relations, which `prov` reads
        bundle = "" if context in (None, DATASET_DEFAULT_GRAPH_ID) else str(context)
        for iri in (str(subject), str(thing), bundle):
            out.names.setdefault(iri, _called(iri, spaces))
        for statement in _statements(str(subject), str(predicate), str(thing), str(RDF.type)):
            out.instances.setdefault(bundle, []).append(statement)


def _statements(subject: str, predicate: str, thing: str, is_a: str) -> Iterator[Statement]:
    if predicate == is_a and thing.removeprefix(PROV) in _TYPES and thing.startswith(PROV):
        yield Statement(_TYPES[thing.removeprefix(PROV)], subject, {}, "", thing == f"{PROV}EmptyCollection")
    elif predicate.startswith(PROV) and (found := _PROPERTIES.get(predicate.removeprefix(PROV))) is not None:
        relation, first, second = found
        yield Statement(relation, None, {first: subject, second: thing})


def _called(iri: str, spaces: list[tuple[str, str]]) -> str:
    prefix, space = max(((p, s) for p, s in spaces if s and iri.startswith(s)), key=lambda ps: len(ps[1]),
                        default=("", ""))
    return f"{prefix}:{iri[len(space):]}" if space else iri
