"""An identifier of content is git's own: whoever has the files and git can check it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yprovd.swhid import EXECUTABLE, FILE, LINK, content_digest, directory_id, file_digest, tree_digest

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and ".git" not in name.lower() and len(name.encode()) < 200)


def git(folder: Path, *words: str) -> str:
    environ = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null"}
    return subprocess.run(["git", "-c", "core.protectNTFS=false", "-C", str(folder), *words], check=True,
                          capture_output=True, env=environ).stdout.decode().strip()


def tree_of(folder: Path) -> str:
    """What `directory_id` says of a folder of the disk."""
    out = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if ".git" in relative.parts or (path.is_dir() and not path.is_symlink()):
            continue
        mode = LINK if path.is_symlink() else EXECUTABLE if path.stat().st_mode & 0o100 else FILE
        out.append((os.fsencode(relative), mode, file_digest(path)))
    return directory_id(out)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.binary(max_size=40), max_size=8))
def test_a_folder_has_the_identifier_of_gits_tree(
    files: dict[tuple[str, ...], bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    git(folder, "init", "-q")
    for parts, data in files.items():
        path = folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue  # a name that is a file and a folder
    git(folder, "add", "--all", "--force")
    assert tree_of(folder) == f"swh:1:dir:{git(folder, 'write-tree')}"


def test_modes_and_links_count(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").mkdir()
    (tmp_path / "a.txt").write_text("text")  # sorts before the folder `a/`, as git has it
    (tmp_path / "a" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "a" / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("a/run")
    git(tmp_path, "add", "--all")
    assert tree_of(tmp_path) == f"swh:1:dir:{git(tmp_path, 'write-tree')}"


def test_a_file_of_many_blocks_is_read_as_one(tmp_path: Path) -> None:
    data = os.urandom(3 << 20) + b"x"
    (tmp_path / "large").write_bytes(data)
    assert file_digest(tmp_path / "large") == content_digest(data)


def test_nothing_is_the_empty_tree_of_git() -> None:
    assert tree_digest([]).hex() == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
