"""The normal form of an instance (PROV-CONSTRAINTS, sections 4 to 6.1): terms instead of identifiers, and each
statement once.

A term is a constant (an IRI, a time, NOTHING) or a number that stands for something unknown. Two terms are unified by
making them the same; two different constants cannot be. What has one key (its identifier; the entity and activity of
a generation...) is one statement: its arguments are unified, and a violation when they cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from yprovd.stitch.validity.claims import Violation
from yprovd.stitch.validity.literals import Instant
from yprovd.stitch.validity.statements import RELATIONS, Statement

Term = str | int | Instant
#: The placeholder `-` where it is no unknown (table 3 of the Recommendation).
NOTHING = "-"

#: Of statements with the same kind and these two arguments there is one.
UNIQUE = {
    "wasGeneratedBy": ("24", "entity", "activity"),
    "wasInvalidatedBy": ("25", "entity", "activity"),
    "wasStartedBy": ("26", "activity", "starter"),
    "wasEndedBy": ("27", "activity", "ender"),
}


@dataclass(slots=True)
class Fact:
    """A statement with terms in all of its roles. `inferred`: from what, when it stands nowhere."""

    kind: str
    id: Term
    args: dict[str, Term]
    statement: Statement
    inferred: str = ""


@dataclass
class Normal:
    """An instance in normal form. `things`: of each stated entity, activity and agent its statements by kind;
    `times`: startTime and endTime of the activities."""

    facts: list[Fact] = field(default_factory=list)
    things: dict[str, dict[str, Statement]] = field(default_factory=dict)
    times: dict[str, dict[str, Term]] = field(default_factory=dict)
    empty: dict[str, Statement] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    _same: dict[Term, Term] = field(default_factory=dict)
    _unknowns: int = 0

    def unknown(self) -> int:
        self._unknowns += 1
        return self._unknowns

    def find(self, term: Term) -> Term:
        """What the term is by now."""
        same = self._same
        root = term
        while (up := same.get(root, root)) != root:
            root = up
        while term != root:  # the next one finds it at once
            same[term], term = root, same[term]
        return root

    def unify(self, a: Term, b: Term) -> bool:
        a, b = self.find(a), self.find(b)
        if a == b:
            return True
        if isinstance(a, int):
            self._same[a] = b
        elif isinstance(b, int):
            self._same[b] = a
        else:
            return False
        return True

    def constant(self, term: Term) -> str | None:
        """The IRI that the term is; None of an unknown, a time and `-`."""
        found = self.find(term)
        return found if isinstance(found, str) and found != NOTHING else None


def normalised(statements: list[Statement], name: Callable[[str], str]) -> Normal:
    """`name`: how a reader calls an IRI."""
    out = Normal()
    for statement in statements:
        if statement.kind in RELATIONS:
            out.facts.append(_fact(out, statement))
        else:
            _thing(out, statement, name)
    out.facts += [f for fact in out.facts for f in _inferred(out, fact)]
    _merge(out, name)
    for fact in out.facts:
        _activity_times(out, fact, name)
    return out


def describe(statement: Statement, name: Callable[[str], str]) -> str:
    """A statement as a message names it: `used _:id5 (run:run, run:code)`."""
    if statement.kind not in RELATIONS:
        return f"{statement.kind} `{name(statement.id or '')}`"
    args = ", ".join(name(str(statement.args[r])) if r in statement.args else "-"
                     for r in RELATIONS[statement.kind].roles)
    return f"{statement.kind}{f' `{statement.key}`' if statement.key else ''} ({args})"


def text_of(term: Term) -> str:
    return term.isoformat() if isinstance(term, Instant) else str(term)


def _thing(out: Normal, statement: Statement, name: Callable[[str], str]) -> None:
    """Constraint 22. Attributes are joined; only an activity has arguments, its times."""
    iri = statement.id or ""
    stated = out.things.setdefault(iri, {})
    stated.setdefault(statement.kind, statement)
    if statement.empty:
        out.empty.setdefault(iri, statement)
    if statement.kind == "activity":
        times = out.times.setdefault(iri, {})
        for role in ("startTime", "endTime"):
            time = statement.args.get(role, out.unknown())
            if not out.unify(times.setdefault(role, out.unknown()), time):
                out.violations.append(Violation("22", f"activity `{name(iri)}` is stated with two values of {role}",
                                                "state it once"))


def _fact(out: Normal, statement: Statement) -> Fact:
    relation = RELATIONS[statement.kind]
    known = statement.args
    args: dict[str, Term] = {}
    for role in (*relation.roles, "time") if relation.timed else relation.roles:
        if role in known:
            args[role] = known[role]
        elif role == "plan" or (statement.kind == "wasDerivedFrom" and (
                role == "activity" or (role in ("generation", "usage") and "activity" not in known))):
            args[role] = NOTHING
        else:
            args[role] = out.unknown()
    return Fact(statement.kind, statement.id if statement.id is not None else out.unknown(), args, statement)


def _inferred(out: Normal, fact: Fact) -> Iterator[Fact]:
    """Inferences 9, 10, 11 and 13, 14."""
    def infer(number: str, kind: str, id: Term | None = None, **args: Term) -> Fact:
        roles = RELATIONS[kind].roles if not RELATIONS[kind].timed else (*RELATIONS[kind].roles, "time")
        full = {role: args[role] if role in args else NOTHING if role == "plan" else out.unknown() for role in roles}
        return Fact(kind, out.unknown() if id is None else id, full, fact.statement, number)

    args = fact.args
    if fact.kind == "wasStartedBy":
        yield infer("9", "wasGeneratedBy", entity=args["trigger"], activity=args["starter"])
    elif fact.kind == "wasEndedBy":
        yield infer("10", "wasGeneratedBy", entity=args["trigger"], activity=args["ender"])
    elif fact.kind == "wasDerivedFrom" and args["activity"] != NOTHING:
        yield infer("11", "used", args["usage"], activity=args["activity"], entity=args["usedEntity"])
        yield infer("11", "wasGeneratedBy", args["generation"], entity=args["generatedEntity"],
                    activity=args["activity"])
    elif fact.kind == "wasAttributedTo":
        yield infer("13", "wasGeneratedBy", entity=args["entity"])
    elif fact.kind == "actedOnBehalfOf" and isinstance(args["activity"], str):
        for role in ("delegate", "responsible"):
            yield infer("14", "wasAssociatedWith", activity=args["activity"], agent=args[role])


def _keys(out: Normal, fact: Fact) -> list[tuple[str, Term, Term]]:
    """(rule, ...) of what tells a statement from others of its kind."""
    found: list[tuple[str, Term, Term]] = []
    if RELATIONS[fact.kind].named:
        found.append((f"23 {fact.kind}", out.find(fact.id), 0))
    if fact.kind in UNIQUE:
        number, first, second = UNIQUE[fact.kind]
        found.append((number, out.find(fact.args[first]), out.find(fact.args[second])))
    if fact.kind == "mentionOf":
        found.append(("links", out.find(fact.args["specificEntity"]), 0))
    return found


def _merge(out: Normal, name: Callable[[str], str]) -> None:
    """Constraints 22 to 27, again and again until nothing is left to merge: a merged statement may show that two
    others are one. Mostly twice."""
    while True:
        seen: dict[tuple[str, Term, Term], Fact] = {}
        kept: list[Fact] = []
        for fact in out.facts:
            merged = False
            for key in _keys(out, fact):
                other = seen.setdefault(key, fact)
                if other is not fact:
                    _unify(out, key[0].split()[0], other, fact, name)
                    merged = True
                    break
            if not merged:
                kept.append(fact)
        if len(kept) == len(out.facts):
            return
        out.facts = kept


def _unify(out: Normal, rule: str, into: Fact, fact: Fact, name: Callable[[str], str]) -> None:
    """What cannot be unified is reported, once, and `fact` is out of everything that follows."""
    differ = [] if out.unify(into.id, fact.id) else ["identifier"]
    for role in into.args:
        if not out.unify(into.args[role], fact.args[role]):
            times = (out.find(into.args[role]), out.find(fact.args[role]))
            differ.append(role if role != "time" else "time ({} and {})".format(*map(text_of, times)))
    if not differ:
        if into.inferred and not fact.inferred:
            into.statement, into.inferred = fact.statement, ""
        return
    one, two = describe(into.statement, name), describe(fact.statement, name)
    why = "".join(f" (by inference {f.inferred})" for f in (into, fact) if f.inferred)
    advice = "give one of them another identifier, or make them the same" if rule == "23" else \
        "state it once" if rule != "links" else "mention it once"
    out.violations.append(Violation(rule, f"{one} and {two}{why} are one statement, and differ in "
                                          f"{' and '.join(differ)}", advice))


def _activity_times(out: Normal, fact: Fact, name: Callable[[str], str]) -> None:
    """Constraints 28 and 29."""
    for kind, role, rule in (("wasStartedBy", "startTime", "28"), ("wasEndedBy", "endTime", "29")):
        activity = out.constant(fact.args["activity"]) if fact.kind == kind else None
        if activity in out.times:
            assert activity is not None
            said, time = out.times[activity][role], fact.args["time"]
            if not out.unify(said, time):
                out.violations.append(Violation(
                    rule, f"{describe(fact.statement, name)} is at {text_of(out.find(time))} and the {role} of "
                          f"`{name(activity)}` is {text_of(out.find(said))}",
                    "give both the same time, or leave one out"))
