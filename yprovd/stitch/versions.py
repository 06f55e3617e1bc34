"""Declared files by what they are, and their versions. Pure; O(declarations), or nearly so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from yprovd.stitch.record import DeclaredFile

MOST_FILES = 300
#: Roles of files that are called something, wherever they lie.
NAMED = ("dataset", "model")


@dataclass
class Version:
    """One state of a declared file. `first` is the declaration that named it first; the same content named again, or
    by another process of the job, is the same version. `number` counts from 1 within `of` versions."""

    first: DeclaredFile
    declarations: int = 1
    number: int = 1
    of: int = 1


class _Group:
    """The versions of one thing, in time. A declaration joins the latest version that it may speak of: of the same
    path, with the same checksum, or, where one of the two has none, not yet named by this process. That one is found
    without looking through all: a job that writes a file anew at every step has thousands."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self._by_content: dict[tuple[str, str], int] = {}
        #: Of a path: its versions.
        self._paths: dict[str, _Path] = {}

    def take(self, f: DeclaredFile) -> None:
        of = self._paths.setdefault(f.path, _Path())
        if f.sha256 is None:
            at = of.latest(f.process, unknown=False)
        else:
            at = max(of.latest(f.process, unknown=True), self._by_content.get((f.path, f.sha256), -1))
        if at < 0:
            at = len(self.versions)
            self.versions.append(Version(f, 0))
            of.add(at, unknown=f.sha256 is None)
        version = self.versions[at]
        version.declarations += 1
        of.named(at, f.process)
        if f.sha256 is not None:
            if version.first.sha256 is None:
                # What the content is, of a thing that was there since the first declaration.
                first = version.first
                version.first = replace(f, wall_ns=first.wall_ns, context=first.context, epoch=first.epoch)
                of.known(at)
            self._by_content[f.path, f.sha256] = max(at, self._by_content.get((f.path, f.sha256), -1))


class _Path:
    """Versions of one path by number, and which of them a declaration may join. What may not be joined is left out for
    ever, so each list of such only grows, and a look skips along it (disjoint sets with path compression)."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._at: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._named: dict[int, dict[int, int]] = {}

    def add(self, number: int, *, unknown: bool) -> None:
        self._at[number] = len(self._numbers)
        self._numbers.append(number)
        if not unknown:
            self.known(number)

    def known(self, number: int) -> None:
        self._known[self._at[number]] = self._at[number] - 1

    def named(self, number: int, process: int) -> None:
        self._named.setdefault(process, {})[self._at[number]] = self._at[number] - 1

    def latest(self, process: int, *, unknown: bool) -> int:
        """The latest version that `process` has not named; with `unknown`, of those without a checksum. -1: none."""
        named, at, before = self._named.get(process, {}), len(self._numbers) - 1, -2
        while at != before:
            before = at
            at = _skip(named, _skip(self._known, at) if unknown else at)
        return self._numbers[at] if at >= 0 else -1


def _skip(left_out: dict[int, int], at: int) -> int:
    """The next number from `at` downwards that is not left out; -1 when all are."""
    passed = []
    while at in left_out:
        passed.append(at)
        at = left_out[at]
    for number in passed:
        left_out[number] = at
    return at


def versions_of(files: list[DeclaredFile]) -> tuple[list[list[Version]], int]:
    """Declared files by what they are: a list of versions, in time, for each; and how many versions are left out.

    A model or a dataset is what its name says; any other file is what its path says. What was not there is none.
    """
    groups: dict[tuple[str, str], _Group] = {}
    for f in sorted((f for f in files if not f.missing), key=lambda f: f.wall_ns):
        groups.setdefault((f.role, f.name if f.role in NAMED else f.path), _Group()).take(f)
    out: list[list[Version]] = []
    left = MOST_FILES
    for group in groups.values():
        kept = group.versions[:left]
        left -= len(kept)
        for i, version in enumerate(kept):
            version.number, version.of = i + 1, len(group.versions)
        if kept:
            out.append(kept)
    return out, sum(len(g.versions) for g in groups.values()) - (MOST_FILES - left)


def missing_files(files: list[DeclaredFile]) -> list[str]:
    """`output /data/x: No such file or directory`, for each file that was declared, and was there for nobody."""
    there = {(f.role, f.path) for f in files if not f.missing}
    return list(dict.fromkeys(f"{f.role} {f.path}: {f.reason}" for f in sorted(files, key=lambda f: f.wall_ns)
                              if f.missing and (f.role, f.path) not in there))
