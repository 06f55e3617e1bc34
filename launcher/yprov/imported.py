"""A run that another tool recorded, as its reader hands it over to be written as one of ours (`yprov.importing_spool`).

Plain data, nothing of any tool's format. Times are wall-clock ns, 0 where the original has none. A reader invents
nothing: what the original does not say is absent here, and what is odd about it is a note.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    I64 = npt.NDArray[np.int64]
    F64 = npt.NDArray[np.float64]


#: The namespace of the ids of imported runs: the same originals are the same run, wherever they are imported.
_IMPORTS = uuid.uuid5(uuid.NAMESPACE_URL, "https://w3id.org/yprov/import")
#: Names that a note lists; the others are counted.
_SHOWN = 3


class Notes:
    """What is odd about an original: sentences, and things that are counted by topic."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._counts: dict[str, dict[str, int]] = {}

    def say(self, text: str) -> None:
        if text not in self._lines:
            self._lines.append(text)

    def count(self, topic: str, name: str, n: int = 1) -> None:
        """`topic` reads as `12 values were logged as None`, without the number; `name` is of what."""
        if n:
            names = self._counts.setdefault(topic, {})
            names[name] = names.get(name, 0) + n

    def lines(self) -> list[str]:
        out = list(self._lines)
        for topic, names in self._counts.items():
            listed = ", ".join(list(names)[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            out.append(f"{sum(names.values())} {topic}: {listed}{more}")
        return out


class Columns(NamedTuple):
    """The values of one metric, in the order of the file: numpy arrays of one length. `step` is `wire.NO_STEP` where
    there is none, `time_ns` 0."""

    step: I64
    value: F64
    time_ns: I64


@dataclass(frozen=True)
class Series:
    """One metric of one rank. `since_ns`: when it was first logged, where that is told apart from the values."""

    name: str
    context: str | None
    source: str
    since_ns: int
    read: Callable[[Notes], Columns]


class Param(NamedTuple):
    name: str
    value: Any
    role: str = "input"


@dataclass(frozen=True)
class ForeignFile:
    """A file that the run declared. `path` is what the original calls it; `found` where it lies now, None when it is
    no part of what is imported; `copied_from` what it is a copy of."""

    role: str
    path: str
    name: str
    context: str | None
    time_ns: int
    size: int | None
    found: Path | None
    within: str = ""
    copied_from: str = ""


@dataclass(frozen=True)
class Original:
    """A document that is imported. `about`: what it says of the machine."""

    path: Path
    sha256: str
    size: int
    rank: int
    about: dict[str, Any]


@dataclass
class Rank:
    """One process. `key`: what it is known by. `ended`: whether it said so itself. `written_ns`: when the file that
    says all this was written. `contexts`: path -> begin. `texts`: files to be kept, by name."""

    rank: int
    key: str
    experiment: str = ""
    original_id: str = ""
    user: str = ""
    host: str = ""
    python: str = ""
    begin_ns: int = 0
    end_ns: int = 0
    ended: bool = True
    written_ns: int = 0
    code: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    contexts: dict[str, int] = field(default_factory=dict)
    params: list[Param] = field(default_factory=list)
    files: list[ForeignFile] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class ForeignRun:
    """One run. `tool`, `layout`: what wrote it; `places`: where it lies."""

    tool: str
    layout: str
    name: str
    places: list[str]
    originals: list[Original]
    ranks: list[Rank]
    notes: Notes

    @property
    def run_id(self) -> str:
        """From the originals' checksums; of a run that left none, from what its ranks are known by."""
        marks = sorted(o.sha256 for o in self.originals) or sorted(r.key for r in self.ranks)
        return str(uuid.uuid5(_IMPORTS, " ".join(marks)))

    @property
    def world_size(self) -> int:
        """How many ranks the run had at least: they count from 0."""
        return max(r.rank for r in self.ranks) + 1

    @property
    def missing(self) -> list[tuple[int, int]]:
        """(first, last) of the ranks in between of which there is nothing."""
        present = sorted(r.rank for r in self.ranks)
        return [(a + 1, b - 1) for a, b in pairwise([-1, *present]) if b - a > 1]

    @property
    def metrics(self) -> int:
        """How many metrics there are, those of each rank."""
        return sum(len(r.series) for r in self.ranks)


@dataclass
class Candidate:
    """A run that a reader found. `documents`: rank -> its file; `left`: ranks that left other files only. `begin_ns`,
    `end_ns`: as the documents tell them, 0 where they do not. `place`: the folder as a person knows it. `notes`: what
    is odd in its folder."""

    tool: str
    layout: str
    folder: Path
    experiment: str
    run_id: str
    documents: dict[int, Path] = field(default_factory=dict)
    left: dict[int, list[Path]] = field(default_factory=dict)
    begin_ns: int = 0
    end_ns: int = 0
    place: str = ""
    notes: Notes = field(default_factory=Notes)

    @property
    def ranks(self) -> list[int]:
        return sorted({*self.documents, *self.left})

    def __str__(self) -> str:
        ranks = self.ranks
        shown = f"rank {ranks[0]}" if len(ranks) == 1 else f"{len(ranks)} ranks"
        return f"`{self.place}` ({self.experiment}, {self.tool} {self.layout}, {shown})"


class Reader(Protocol):
    """What knows another tool's format."""

    TOOL: str

    def find(self, folder: Path, notes: Notes) -> list[Candidate]:
        """The runs in a folder and below, in the order of their names. What looks like a document and is none is noted
        by the runs in its folder, and in `notes` where there is none. Raises YprovError for what cannot be told
        apart."""

    def read(self, candidates: list[Candidate], zone: int | None, notes: Notes) -> ForeignRun:
        """One run from one candidate, or from several that are its ranks. `zone`: seconds east of Greenwich, for
        times whose zone the documents do not name. Raises YprovError."""
