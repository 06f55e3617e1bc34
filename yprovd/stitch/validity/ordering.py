"""The events of an instance, and whether they can lie in one order (PROV-CONSTRAINTS, section 6.2).

Events are the generation and invalidation of an entity, the start and end of an activity, and each usage. A
constraint is an edge from one to another that is not earlier, or (42) is later. All generations of an entity are one
event (39), and so on for 31, 32 and 40. A cycle with a strict edge cannot be ordered; a cycle without one says that
its events happen at once. Both are found as strongly connected components, and times are carried along in topological
order: all of it in a time that grows as the document does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from yprovd.stitch.validity.claims import Violation
from yprovd.stitch.validity.literals import Instant
from yprovd.stitch.validity.merging import Fact, Normal, Term, describe, text_of

#: kind of the event, whose it is.
Event = tuple[str, Term]
_CORRECT = "correct one of the two times, or leave it out"
_SIMULTANEOUS = {"generation": "39", "invalidation": "40", "start": "31", "end": "32"}


class Edge(NamedTuple):
    to: int
    rule: str
    strict: bool


class Order:
    """The graph of one instance."""

    def __init__(self, normal: Normal, name: Callable[[str], str]) -> None:
        self.normal = normal
        self.name = name
        self.index: dict[Event, int] = {}
        self.events: list[Event] = []
        self.edges: list[list[Edge]] = []
        self.times: list[list[tuple[Instant, str]]] = []
        self.usages: dict[Term, Fact] = {}
        #: Entities that have a generation: stated ones (inference 7) and those of which one is stated or inferred.
        self.generated: set[Term] = {iri for iri, kinds in normal.things.items() if "entity" in kinds}
        self.generated |= {normal.find(f.args["entity"]) for f in normal.facts if f.kind == "wasGeneratedBy"}

    def violations(self) -> list[Violation]:
        for activity, times in self.normal.times.items():
            for event, role in (("start", "startTime"), ("end", "endTime")):
                self._time(self.event(event, activity), times[role], f"the {event} of `{self.name(activity)}`")
        for fact in self.normal.facts:
            self._add(fact)
        for event, to, rule in (("generation", "invalidation", "36"), ("start", "end", "30")):
            for kind, term in list(self.events):
                if kind == event and (to, term) in self.index:
                    self._edge((kind, term), (to, term), rule)
        components = strong_components(self.edges)
        return [*self._cycles(components), *self._contradictions(components)]

    def event(self, kind: str, term: Term) -> int:
        key = (kind, self.normal.find(term))
        number = self.index.setdefault(key, len(self.events))
        if number == len(self.events):
            self.events.append(key)
            self.edges.append([])
            self.times.append([])
        return number

    def _edge(self, first: Event, then: Event, rule: str, strict: bool = False) -> None:
        self.edges[self.event(*first)].append(Edge(self.event(*then), rule, strict))

    def _time(self, event: int, term: Term, source: str) -> None:
        time = self.normal.find(term)
        if isinstance(time, Instant):
            self.times[event].append((time, source))

    def _add(self, fact: Fact) -> None:
        """The edges of one statement, by the numbers of the Recommendation."""
        a = fact.args
        edge, find = self._edge, self.normal.find
        match fact.kind:
            case "used":
                use = ("usage", fact.id)
                self.usages[find(fact.id)] = fact
                edge(("start", a["activity"]), use, "33")
                edge(use, ("end", a["activity"]), "33")
                edge(("generation", a["entity"]), use, "37")
                edge(use, ("invalidation", a["entity"]), "38")
                self._time(self.event(*use), a["time"], self._source(fact))
            case "wasGeneratedBy":
                generation = ("generation", a["entity"])
                edge(("start", a["activity"]), generation, "34")
                edge(generation, ("end", a["activity"]), "34")
                self._time(self.event(*generation), a["time"], self._source(fact))
            case "wasInvalidatedBy":
                self._time(self.event("invalidation", a["entity"]), a["time"], self._source(fact))
            case "wasStartedBy" | "wasEndedBy":
                kind, rule = ("start", "43") if fact.kind == "wasStartedBy" else ("end", "44")
                event = (kind, a["activity"])
                edge(("generation", a["trigger"]), event, rule)
                edge(event, ("invalidation", a["trigger"]), rule)
                if self.normal.constant(a["activity"]) not in self.normal.times:  # else 28 or 29 has compared them
                    self._time(self.event(*event), a["time"], self._source(fact))
            case "wasInformedBy":
                edge(("start", a["informant"]), ("end", a["informed"]), "35")
            case "wasDerivedFrom":
                if {find(a["usedEntity"]), find(a["generatedEntity"])} <= self.generated:
                    edge(("generation", a["usedEntity"]), ("generation", a["generatedEntity"]), "42", strict=True)
                if isinstance(a["usage"], int) or a["usage"] in self.usages:
                    edge(("usage", a["usage"]), ("generation", a["generatedEntity"]), "41")
            case "specializationOf" | "mentionOf":
                specific, general = a["specificEntity"], a["generalEntity"]
                if {find(specific), find(general)} <= self.generated:
                    edge(("generation", general), ("generation", specific), "45")
                edge(("invalidation", specific), ("invalidation", general), "46")
            case "wasAssociatedWith":
                activity, agent = a["activity"], a["agent"]
                edge(("start", activity), ("invalidation", agent), "47")
                edge(("generation", agent), ("end", activity), "47")
                edge(("start", activity), ("end", agent), "47")
                edge(("start", agent), ("end", activity), "47")
            case "wasAttributedTo":
                if find(a["agent"]) in self.generated:
                    edge(("generation", a["agent"]), ("generation", a["entity"]), "48")
                edge(("start", a["agent"]), ("generation", a["entity"]), "48")
            case "actedOnBehalfOf":
                edge(("generation", a["responsible"]), ("invalidation", a["delegate"]), "49")
                edge(("start", a["responsible"]), ("end", a["delegate"]), "49")

    # what a reader is told

    def _source(self, fact: Fact) -> str:
        return describe(fact.statement, self.name)

    def _called(self, number: int) -> str:
        kind, term = self.events[number]
        if kind == "usage":
            a = self.usages[term].args if term in self.usages else {}
            of, by = (self._term(a.get(role, 0)) for role in ("entity", "activity"))
            return f"the usage of {of} by {by}"
        return f"the {kind} of {self._term(term)}"

    def _term(self, term: Term) -> str:
        iri = self.normal.constant(term)
        return f"`{self.name(iri)}`" if iri is not None else "something"

    # what is wrong

    def _cycles(self, components: list[list[int]]) -> Iterator[Violation]:
        """One violation for each component that holds a strict edge."""
        of = {event: i for i, members in enumerate(components) for event in members}
        for i, members in enumerate(components):
            strict = next(((e, edge) for e in members for edge in self.edges[e] if edge.strict and of[edge.to] == i),
                          None)
            if strict is not None:
                first, edge = strict
                way = self._way(edge.to, first, of, i)
                steps = "".join(f", which is {'before' if e.strict else 'not later than'} {self._called(e.to)} "
                                f"({e.rule})" for e in way[:6])
                steps += f" and so on, {len(way) - 6} more" if len(way) > 6 else ""
                yield Violation(edge.rule, f"{self._called(first)} is before {self._called(edge.to)}{steps}",
                                "take one statement of this circle out")

    def _way(self, start: int, goal: int, of: dict[int, int], component: int) -> list[Edge]:
        """A shortest way within a component."""
        came: dict[int, tuple[int, Edge]] = {}
        queue = deque([start])
        while queue and goal not in came and start != goal:
            at = queue.popleft()
            for edge in self.edges[at]:
                if of[edge.to] == component and edge.to not in came and edge.to != start:
                    came[edge.to] = (at, edge)
                    queue.append(edge.to)
        way: list[Edge] = []
        while goal != start:
            goal, edge = came[goal]
            way.append(edge)
        return way[::-1]

    def _contradictions(self, components: list[list[int]]) -> Iterator[Violation]:
        """Times that go against the order. Each component has the latest time that must not be after it, with where
        that came from; times with and without a zone are two worlds."""
        for zoned in (True, False):
            latest: dict[int, tuple[Instant, str, tuple[str, ...]]] = {}  # of an event: what its component must reach
            for members in reversed(components):
                before = max((latest[e] for e in members if e in latest), default=None, key=lambda b: b[0])
                own = sorted({(t, e, source) for e in members for t, source in self.times[e]
                              if t.zoned == zoned})
                if own and own[0][0] != own[-1][0]:
                    yield self._at_two_times(members, own[0], own[-1])
                elif own and before and own[0][0] < before[0]:
                    yield Violation("times", f"{own[0][2]} is at {text_of(own[0][0])}, and cannot be before "
                                             f"{before[1]} at {text_of(before[0])}", _CORRECT, before[2])
                if own:
                    before = (own[-1][0], own[-1][2], ())
                if before is not None:
                    for event in members:
                        for edge in self.edges[event]:
                            bound = (before[0], before[1], before[2] if edge.rule in before[2] else
                                     (*before[2], edge.rule)[-4:])
                            if edge.to not in latest or latest[edge.to][0] < bound[0]:
                                latest[edge.to] = bound

    def _at_two_times(
        self, members: list[int], one: tuple[Instant, int, str], two: tuple[Instant, int, str]
    ) -> Violation:
        inside = set(members)
        rules = {e.rule for m in members for e in self.edges[m] if e.to in inside and e.to != m}
        rules |= {_SIMULTANEOUS[kind] for m in {one[1], two[1]} if (kind := self.events[m][0]) in _SIMULTANEOUS
                  and len(self.times[m]) > 1}
        both = f"are {self._called(one[1])}" if one[1] == two[1] else "happen at once"
        return Violation("times", f"{one[2]} is at {text_of(one[0])} and {two[2]} at {text_of(two[0])}, and both "
                                  f"{both}", _CORRECT, tuple(sorted(rules)))


def strong_components(edges: list[list[Edge]]) -> list[list[int]]:
    """Tarjan's algorithm (SIAM J. Comput. 1, 1972) without recursion: the strongly connected components, each after
    those that can be reached from it."""
    number = [-1] * len(edges)
    low = [0] * len(edges)
    on_stack = bytearray(len(edges))
    stack: list[int] = []
    out: list[list[int]] = []
    count = 0
    for root in range(len(edges)):
        if number[root] >= 0:
            continue
        work = [(root, 0)]
        while work:
            at, position = work.pop()
            if position == 0:
                number[at] = low[at] = count
                count += 1
                stack.append(at)
                on_stack[at] = 1
            else:
                low[at] = min(low[at], low[edges[at][position - 1].to])
            for i in range(position, len(edges[at])):
                to = edges[at][i].to
                if number[to] < 0:
                    work += [(at, i + 1), (to, 0)]
                    break
                if on_stack[to]:
                    low[at] = min(low[at], number[to])
            else:
                if low[at] == number[at]:
                    component: list[int] = []
                    while not component or component[-1] != at:
                        component.append(stack.pop())
                        on_stack[component[-1]] = 0
                    out.append(component)
    return out
