"""Which rules of PROV-CONSTRAINTS (W3C Recommendation, 30 April 2013) are checked, by number and name.

Whatever is marked as checked is: a document that breaks it is reported. What is not checked has its reason. The table
is also docs/validity.md, and the tests hold the one against the other and both against a corpus.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`number`: of the Recommendation, or a word for what it does not number. `how`: what is done, or why not."""

    number: str
    name: str
    checked: bool
    how: str


_APPLIED = "applied before anything is checked"
_NOTHING = "not applied: no constraint can fail by it"
_UNIFIED = "such statements are merged; reported when they differ"
_EDGE = "an edge between events; reported when there is a cycle with a strict edge in it, or times say the opposite"

RULES: dict[str, Rule] = {rule.number: rule for rule in [
    Rule("required", "required arguments", True, "PROV-DM, tables of section 5; asked after merging"),
    Rule("links", "unique-mention", True, "PROV-LINKS: one general entity and bundle for a mention; a mention "
                                          "is a specialization"),
    Rule("1-4", "optional identifiers, attributes, placeholders", True,
         "what is left out is an unknown term; the plan of an association, and the activity of a derivation (with it "
         "generation and usage) are `-` when they are left out, which equals only itself"),
    Rule("5", "communication-generation-use-inference", False, "not applied: constraint 35 says the same of events"),
    Rule("6", "generation-use-communication-inference", False, "not applied: its events are in order by 33, 34, 37"),
    Rule("7", "entity-generation-invalidation-inference", True,
         "a stated entity has a generation and an invalidation"),
    Rule("8", "activity-start-end-inference", True, "a stated activity has a start and an end"),
    Rule("9", "wasStartedBy-inference", True, _APPLIED),
    Rule("10", "wasEndedBy-inference", True, _APPLIED),
    Rule("11", "derivation-generation-use-inference", True, _APPLIED),
    Rule("12", "revision-is-alternate-inference", False, _NOTHING),
    Rule("13", "attribution-inference", True, "the entity has a generation; the association is with an unknown "
                                              "activity, by which nothing can fail"),
    Rule("14", "delegation-inference", True, "for a delegation that names its activity"),
    Rule("15", "influence-inference", False, _NOTHING),
    Rule("16-18", "alternate-reflexive, -transitive, -symmetric", False, _NOTHING),
    Rule("19", "specialization-transitive", True, "by looking for cycles; see 52"),
    Rule("20", "specialization-alternate-inference", False, _NOTHING),
    Rule("21", "specialization-attributes-inference", True, "for being stated (7) and for prov:EmptyCollection (56)"),
    Rule("22", "key-object", True, _UNIFIED),
    Rule("23", "key-properties", True, _UNIFIED),
    Rule("24", "unique-generation", True, _UNIFIED),
    Rule("25", "unique-invalidation", True, _UNIFIED),
    Rule("26", "unique-wasStartedBy", True, _UNIFIED),
    Rule("27", "unique-wasEndedBy", True, _UNIFIED),
    Rule("28", "unique-startTime", True, "the time of a start is the activity's startTime"),
    Rule("29", "unique-endTime", True, "the time of an end is the activity's endTime"),
    Rule("30", "start-precedes-end", True, _EDGE),
    Rule("31", "start-start-ordering", True, "all starts of an activity are one event"),
    Rule("32", "end-end-ordering", True, "all ends of an activity are one event"),
    Rule("33", "usage-within-activity", True, _EDGE),
    Rule("34", "generation-within-activity", True, _EDGE),
    Rule("35", "wasInformedBy-ordering", True, _EDGE),
    Rule("36", "generation-precedes-invalidation", True, _EDGE),
    Rule("37", "generation-precedes-usage", True, _EDGE),
    Rule("38", "usage-precedes-invalidation", True, _EDGE),
    Rule("39", "generation-generation-ordering", True, "all generations of an entity are one event"),
    Rule("40", "invalidation-invalidation-ordering", True, "all invalidations of an entity are one event"),
    Rule("41", "derivation-usage-generation-ordering", True, _EDGE),
    Rule("42", "derivation-generation-generation-ordering", True, f"{_EDGE}; this edge is strict"),
    Rule("43", "wasStartedBy-ordering", True, _EDGE),
    Rule("44", "wasEndedBy-ordering", True, _EDGE),
    Rule("45", "specialization-generation-ordering", True, _EDGE),
    Rule("46", "specialization-invalidation-ordering", True, _EDGE),
    Rule("47", "wasAssociatedWith-ordering", True, _EDGE),
    Rule("48", "wasAttributedTo-ordering", True, _EDGE),
    Rule("49", "actedOnBehalfOf-ordering", True, _EDGE),
    Rule("50", "typing", True, "what stands in a role has its type; reported by 55"),
    Rule("51", "impossible-unspecified-derivation-generation-use", True,
         "a derivation without an activity names neither generation nor usage"),
    Rule("52", "impossible-specialization-reflexive", True, "also round a cycle of specializations, by 19"),
    Rule("53", "impossible-property-overlap", True, "one identifier for relations of two kinds"),
    Rule("54", "impossible-object-property-overlap", True, "one identifier for a thing and a relation"),
    Rule("55", "entity-activity-disjoint", True, "stated, or by 50"),
    Rule("56", "membership-empty-collection", True, "a member of a prov:EmptyCollection"),
    Rule("times", "times given", True,
         "section 2.2 of the Recommendation leaves times to the application: here they have to agree with the order "
         "of the events. Equal times agree with a strict edge (clocks are coarse); a time with a zone and one without "
         "are not compared"),
    Rule("bundles", "bundles", True, "section 7.2: each is checked by itself; their names differ in every syntax"),
    Rule("equivalence", "equivalence of documents", False, "section 7: a relation of two documents, not of one"),
]}


@dataclass(frozen=True)
class Violation:
    """`rule`: a key of RULES; `by`: of `times`, the numbers that the times contradict."""

    rule: str
    text: str
    advice: str
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [f"{n} ({RULES[n].name})" for n in self.by or (self.rule,)]
        if self.rule == "times":
            head = f"the times given contradict constraint {', '.join(named)}"
        elif self.rule.isdigit():
            head = f"constraint {named[0]}"
        else:
            head = f"{'PROV-LINKS' if self.rule == 'links' else 'PROV-DM'} ({RULES[self.rule].name})"
        return f"{self.text}: {head}; {self.advice}"
