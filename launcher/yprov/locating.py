"""Which git repository a folder lies in: without git, which would look whether its owner is trusted, and refuse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def find(folder: Path) -> tuple[Path, Path] | None:
    """(work tree, git directory) of the repository that a folder lies in."""
    for root in (folder, *folder.parents):
        dot_git = root / ".git"
        try:
            if (dot_git / "HEAD").is_file() or (dot_git / "HEAD").is_symlink():
                return root, dot_git
            if dot_git.is_file():
                kind, _, path = dot_git.read_text(encoding="utf-8", errors="surrogateescape").strip().partition(": ")
                if kind == "gitdir" and (root / path / "HEAD").is_file():
                    return root, Path(os.path.normpath(root / path))
        except OSError:
            return None
    return None


def why_none(folder: Path) -> str:
    """Why `find` finds none."""
    for one in (folder, *folder.parents):
        if os.path.lexists(one / ".git"):
            return f"{one / '.git'} is no git repository: no HEAD can be read"
        if (one / "HEAD").is_file() and (one / "objects").is_dir() and (one / "refs").is_dir():
            return f"{one} is a bare git repository: it has no work tree"
    return "no git repository"


def named(environ: Mapping[str, str], cwd: Path) -> tuple[Path, Path] | None:
    """The same of the repository that GIT_DIR names, as git in `cwd` would take it (git(1))."""
    if not environ.get("GIT_DIR"):
        return None
    root = cwd / environ.get("GIT_WORK_TREE", "")
    return Path(os.path.realpath(root)), Path(os.path.realpath(cwd / environ["GIT_DIR"]))
