"""The state of the user's repository: complete enough to restore it, and not a byte of it touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yprov import patches
from yprov.gitting import Git, GitFailed
from yprov.locating import named
from yprov.patches import new_file, quoted
from yprov.repository import Code, without_password
from yprov.trees import names_in
from yprovd.secrets import Masker

IDENTITY = {"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
LATER = 1 << 62
TOKEN = "ghp_0123456789abcdefghij0123456789abcdef"


def git(folder: Path, *words: str, **more: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], env={**os.environ, **IDENTITY, **more},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two commits, the first of them pushed."""
    root = tmp_path / "code"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for name, data in {"train.py": b"print(1)\n", "lib/model.py": b"x = 1\n" * 30, "data.bin": bytes(range(256)) * 9,
                       "gone.txt": b"gone\n", ".gitignore": b"*.log\nout/\n", "tool.sh": b"echo\n"}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    git(tmp_path, "clone", "-q", "--bare", str(root), "remote.git")
    git(root, "remote", "add", "origin", f"file://{tmp_path}/remote.git")
    git(root, "fetch", "-q", "origin")
    (root / "lib" / "model.py").write_bytes(b"x = 2\n" * 30)
    git(root, "commit", "-qam", "two")
    return root


def make_dirty(root: Path) -> None:
    (root / "train.py").write_text("print(3)  # not comitted")  # without a line feed at its end
    (root / "data.bin").write_bytes(bytes(range(255, -1, -1)) * 9)
    (root / "gone.txt").unlink()
    (root / "tool.sh").chmod(0o755)
    (root / "staged.py").write_text("staged = True\n")
    git(root, "add", "staged.py")
    (root / "staged.py").write_text("staged = False\n")
    for name, data in {"new.py": b"new\n", "sub dir/a file.py": b"spaces", "n\u00e4me\t\"q\".txt": b"odd\n\nodd",
                       "bin/new.bin": b"\0\1\2" * 100, "empty": b"", "crlf.txt": b"a\r\nb\r\n"}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("train.py")
    (root / "ignored.log").write_text("noise\n")
    (root / "out").mkdir()
    (root / "out" / "x").write_text("noise\n")


def code_of(root: Path, tmp_path: Path, *, begun_ns: int = LATER, runs: Path | None = None,
            masker: Masker | None = None) -> tuple[dict[str, Any], Path]:
    """What is found, and the folder of its files."""
    source = tmp_path / f"source{len(list(tmp_path.glob('source*')))}" / "source"
    scratch = source.parent / "scratch"
    code = Code(root, source, scratch, masker or Masker())
    code.take_changes(runs or tmp_path / "yprov-runs", begun_ns)
    code.take_unpushed()
    assert not set(os.listdir(source.parent)) - {"source", "scratch"}
    return code.facts, source


def tree_of(root: Path, tmp_path: Path) -> str:
    """The tree that git would write, from a copy of everything."""
    copy = tmp_path / f"copy{len(list(tmp_path.glob('copy*')))}"
    shutil.copytree(root, copy, symlinks=True)
    git(copy, "add", "--all")
    return f"swh:1:dir:{git(copy, 'write-tree')}"


def snapshot(folder: Path) -> dict[str, Any]:
    """Every byte, mode and time stamp below a folder."""
    out: dict[str, Any] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        content: Any = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        out[str(path)] = (about.st_mode, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, content)
    return out


@pytest.mark.parametrize("pushed", [True, False])
@pytest.mark.parametrize("dirty", [True, False])
def test_what_is_kept_restores_the_tree_in_a_fresh_clone(
    repo: Path, tmp_path: Path, pushed: bool, dirty: bool
) -> None:
    if pushed:
        git(repo, "push", "-q", "origin", "main")
    if dirty:
        make_dirty(repo)
    facts, source = code_of(repo, tmp_path)
    assert facts["reasons"] == {}
    assert facts["tree"] == tree_of(repo, tmp_path)
    assert (facts["dirty"], facts["unpushed"], "bundle" in facts, "diff" in facts) == (
        dirty, 0 if pushed else 1, not pushed, dirty)
    clone = tmp_path / "again"
    git(tmp_path, "clone", "-q", facts["remote"], str(clone))
    if not pushed:
        git(clone, "fetch", "-q", str(source / "code.bundle"), "main")
    git(clone, "checkout", "-q", facts["commit"])
    if dirty:
        git(clone, "apply", "--binary", "--index", str(source / "code.diff"))
    assert f"swh:1:dir:{git(clone, 'write-tree')}" == facts["tree"]
    assert code_of(clone, tmp_path)[0]["tree"] == facts["tree"]


def test_the_bytes_are_the_same_each_time(repo: Path, tmp_path: Path) -> None:
    make_dirty(repo)
    first, second = code_of(repo, tmp_path), code_of(repo, tmp_path)
    assert first[0] == second[0]
    assert (first[1] / "code.diff").read_bytes() == (second[1] / "code.diff").read_bytes()


def test_nothing_of_the_repository_is_touched(repo: Path, tmp_path: Path) -> None:
    make_dirty(repo)
    git(repo, "gc", "-q")  # with packs, whose time stamps git likes to freshen
    (repo / "empty2").write_bytes(b"")  # a blob that is known: writing it would freshen it
    os.utime(repo / "lib" / "model.py")  # the index is stale: git would refresh it
    before = snapshot(repo)
    facts, _source = code_of(repo, tmp_path)
    assert facts["reasons"] == {}
    assert snapshot(repo) == before


@pytest.mark.parametrize("prepare", [
    lambda repo: git(repo, "update-index", "--split-index"),
    lambda repo: (repo / ".git" / "index.lock").write_bytes(b""),  # somebody commits just now
    lambda repo: (repo / ".git" / "index").unlink(),
    lambda repo: git(repo, "update-index", "--index-version", "4"),
    lambda repo: git(repo, "config", "core.untrackedCache", "true"),
])
def test_whatever_the_index_is_like(repo: Path, tmp_path: Path, prepare: Callable[[Path], Any]) -> None:
    make_dirty(repo)
    expected = tree_of(repo, tmp_path)
    prepare(repo)
    before = snapshot(repo)
    facts, _source = code_of(repo, tmp_path)
    assert (facts["reasons"], facts["tree"]) == ({}, expected)
    assert snapshot(repo) == before


def test_a_tree_that_may_not_be_written_to(repo: Path, tmp_path: Path) -> None:
    make_dirty(repo)
    expected = tree_of(repo, tmp_path)
    for path in [repo, *repo.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert code_of(repo, tmp_path)[0]["tree"] == expected
    finally:
        for path in [repo, *repo.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200)


def test_nothing_that_a_repository_configures_is_run(repo: Path, tmp_path: Path) -> None:
    make_dirty(repo)
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\necho $0 $@ >> {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    (repo / ".gitattributes").write_text("*.py filter=evil diff=evil\n*.bin diff=evil\n")
    for key in ("core.fsmonitor", "core.pager", "diff.external", "filter.evil.clean", "filter.evil.smudge",
                "filter.evil.process", "diff.evil.textconv", "diff.evil.command", "core.sshCommand", "core.askPass",
                "credential.helper", "uploadpack.packObjectsHook", "alias.diff", "core.editor", "gpg.program"):
        git(repo, "config", key, str(trap))
    git(repo, "config", "filter.evil.required", "true")
    for hook in ("post-index-change", "pre-auto-gc", "reference-transaction", "fsmonitor-watchman"):
        shutil.copy(trap, repo / ".git" / "hooks" / hook)
    facts, source = code_of(repo, tmp_path)
    assert not (tmp_path / "sprung").exists()
    assert facts["reasons"] == {}
    assert b"+print(3)" in (source / "code.diff").read_bytes()


def test_a_file_system_monitor_that_hangs_hangs_nothing(repo: Path, tmp_path: Path) -> None:
    git(repo, "config", "core.fsmonitor", "sleep 60; true")
    began = time.monotonic()
    assert code_of(repo, tmp_path)[0]["dirty"] is False
    assert time.monotonic() - began < 10


def test_runs_and_what_the_command_writes_are_no_part_of_the_code(repo: Path, tmp_path: Path) -> None:
    clean = code_of(repo, tmp_path)[0]["tree"]
    begun = time.time_ns() + 10**9
    for name in ("yprov-runs/a/prov.json", "lib/yprov-runs/b/prov.json", "my [runs]/c/run.json"):
        (repo / name).parent.mkdir(parents=True)
        (repo / name).write_text("{}")
    (repo / "result.csv").write_text("1\n")
    os.utime(repo / "result.csv", ns=(begun + 1, begun + 1))
    facts, source = code_of(repo, tmp_path, begun_ns=begun, runs=repo / "my [runs]")
    assert (facts["tree"], facts["dirty"], facts["left_out"]) == (clean, False, 1)
    (left,) = json.loads((source / "repository.json").read_text())["left_out"]
    assert left == {"path": "result.csv", "bytes": 2, "reason": "written after the run began"}


def test_what_is_too_large_is_left_out_with_a_reason(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "FILE_LIMIT", 1000)
    monkeypatch.setattr(patches, "PATCH_LIMIT", 2500)
    (repo / "train.py").write_text("x\n" * 600)
    (repo / "tool.sh").write_text("small\n")
    for name in ("a", "b", "c", "large"):
        (repo / name).write_text("y\n" * (600 if name == "large" else 400))
    facts, source = code_of(repo, tmp_path)
    lists = json.loads((source / "repository.json").read_text())
    assert {one["path"]: one["reason"] for one in lists["left_out"]} == {
        "train.py": "larger than 1000 bytes", "large": "larger than 1000 bytes", "c": "beyond 2500 bytes in all"}
    assert facts["tree"] == tree_of(repo, tmp_path)
    patch = (source / "code.diff").read_text()
    assert [line for line in patch.splitlines() if line.startswith("diff --git")] == [
        "diff --git a/tool.sh b/tool.sh", "diff --git a/a b/a", "diff --git a/b b/b"]


def test_too_much_to_read_has_no_tree(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yprov.trees.READ_LIMIT", 100)
    (repo / "new").write_bytes(b"x" * 101)
    facts, _source = code_of(repo, tmp_path)
    assert "tree" not in facts
    assert facts["reasons"] == {"tree": "more than 100 bytes are changed or untracked"}


def test_a_file_of_lfs_is_not_read_before_it_is_known_to_be_too_large(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint may have any size, and its pointer the sum of all of it."""
    monkeypatch.setattr("yprov.trees.lfs_pointer", lambda path: pytest.fail(f"{path} was read"))
    (repo / ".gitattributes").write_text("*.pt filter=lfs\n")
    with open(repo / "a.pt", "wb") as f:
        f.truncate(2 << 30)
    facts, _source = code_of(repo, tmp_path)
    assert "changed or untracked" in facts["reasons"]["tree"]


def test_a_file_that_was_changed_within_the_second_of_the_commit_is_seen_as_git_sees_it(
    repo: Path, tmp_path: Path
) -> None:
    """Git compares such a file by content, and knows it by the age of its index."""
    shadow = Git(repo, tmp_path / "scratch").scratch / "git"
    assert (shadow / "index").stat().st_mtime_ns == (repo / ".git" / "index").stat().st_mtime_ns


def test_a_pipe_in_the_place_of_a_file_is_not_opened(repo: Path, tmp_path: Path) -> None:
    """It would wait for a writer, and take from the job what that writes."""
    (repo / "tool.sh").unlink()
    os.mkfifo(repo / "tool.sh")
    (repo / "train.py").write_text("print(3)\n")
    done = subprocess.run([sys.executable, "-c", (
        "import sys; from pathlib import Path; from tests.test_repository import code_of; "
        "print(code_of(Path(sys.argv[1]), Path(sys.argv[2]))[0]['left_out'])"), str(repo), str(tmp_path)],
        cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1\n", done.stderr
    patch = next(tmp_path.glob("source*/source/code.diff")).read_text()
    assert "+print(3)" in patch
    assert "tool.sh" not in patch


def test_too_many_untracked_files_leave_the_changes_of_the_others(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "MOST_FILES", 1)
    make_dirty(repo)
    facts, source = code_of(repo, tmp_path)
    assert "untracked files" in facts["reasons"]["tree"]
    assert "more than 1" in facts["reasons"]["untracked"]
    assert facts["dirty"] is True
    assert b"+print(3)" in (source / "code.diff").read_bytes()


def test_secrets_are_masked_in_text_and_files_made_for_them_left_out(repo: Path, tmp_path: Path) -> None:
    (repo / "train.py").write_text(f"token = '{TOKEN}'\n")
    (repo / "new.yaml").write_text(f"key: {TOKEN}\nlr: 0.1\n")
    (repo / ".env").write_text("A=short\n")
    (repo / "new.bin").write_bytes(b"\0" + TOKEN.encode())
    (repo / "data.bin").write_bytes(b"\0" + TOKEN.encode())
    facts, source = code_of(repo, tmp_path)
    lists = json.loads((source / "repository.json").read_text())
    assert lists["masked"] == ["train.py", "new.yaml"]
    assert {one["path"]: one["reason"] for one in lists["left_out"]} == {
        ".env": "a file of secrets, by its name", "new.bin": "a binary file with what looks like a secret",
        "data.bin": "a binary file with what looks like a secret"}
    assert (facts["masked"], facts["diff"]["masked"], facts["left_out"]) == (2, 2, 3)
    patch = (source / "code.diff").read_text()
    assert TOKEN not in patch
    assert "+lr: 0.1" in patch


def test_a_binary_file_that_held_a_secret_is_left_out(repo: Path, tmp_path: Path) -> None:
    (repo / "data.bin").write_bytes(b"\0" + TOKEN.encode())
    git(repo, "commit", "-qam", "three")
    git(repo, "push", "-q", "origin", "main")
    (repo / "data.bin").write_bytes(b"\0clean")
    facts, _source = code_of(repo, tmp_path)
    assert "diff" not in facts
    assert facts["left_out"] == 1


def test_the_digests_in_a_tree_are_not_taken_for_a_secret() -> None:
    looks = b"hf_" + b"A" * 17
    tree = b"100644 a.py\0" + looks + b"40000 \xc3\xa9 b\0" + b"\0" * 20 + b"120000 c\nd\0" + b"1" * 20
    assert names_in(tree, 20) == b"a.py\n\xc3\xa9 b\nc\nd"
    assert names_in(b"100644 x\0" + b" \0" * 16, 32) == b"x"


def test_commits_with_a_secret_as_the_name_of_a_file_are_left_out(repo: Path, tmp_path: Path) -> None:
    (repo / TOKEN).write_text("x")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "three")
    facts, source = code_of(repo, tmp_path)
    assert not (source / "code.bundle").exists()
    assert "a tree in them holds what looks like a secret" in facts["reasons"]["bundle"]


@pytest.mark.parametrize("where", ["content", "message", "deleted"])
def test_commits_with_a_secret_are_left_out(repo: Path, tmp_path: Path, where: str) -> None:
    (repo / "new.py").write_text(f"key = '{TOKEN}'\n" if where != "message" else "x\n")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", TOKEN if where == "message" else "three")
    if where == "deleted":
        git(repo, "rm", "-q", "new.py")
        git(repo, "commit", "-qm", "four")
    facts, source = code_of(repo, tmp_path)
    assert not (source / "code.bundle").exists()
    assert "holds what looks like a secret" in facts["reasons"]["bundle"]
    assert facts["unpushed"] == (3 if where == "deleted" else 2)


def test_a_secret_in_the_name_of_a_branch_is_not_in_the_bundle(repo: Path, tmp_path: Path) -> None:
    git(repo, "checkout", "-q", "-b", f"try-{TOKEN}")
    facts, source = code_of(repo, tmp_path)
    assert facts["branch"] == "try-***"
    assert TOKEN.encode() not in (source / "code.bundle").read_bytes()
    assert git(repo, "bundle", "list-heads", str(source / "code.bundle")) == f"{facts['commit']} HEAD"


def test_a_history_that_is_too_large_is_left_out(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yprov.repository.BUNDLE_LIMIT", 100)
    facts, _source = code_of(repo, tmp_path)
    assert facts["reasons"]["bundle"] == "1 commits are on no remote: more than 100 bytes"


def test_without_a_remote_the_bundle_is_the_whole_history(repo: Path, tmp_path: Path) -> None:
    git(repo, "remote", "remove", "origin")
    facts, source = code_of(repo, tmp_path)
    assert ("remote" in facts, facts["unpushed"]) == (False, 2)
    git(tmp_path, "clone", "-q", "-b", "main", str(source / "code.bundle"), "again")
    assert git(tmp_path / "again", "rev-parse", "HEAD") == facts["commit"]


def test_without_a_commit_all_files_are_the_patch(tmp_path: Path) -> None:
    root = tmp_path / "code"
    root.mkdir()
    git(root, "init", "-q")
    (root / "a").write_text("1\n")
    git(root, "add", "a")
    (root / "b").write_text("2\n")
    facts, source = code_of(root, tmp_path)
    assert "commit" not in facts
    assert facts["tree"] == tree_of(root, tmp_path)
    git(tmp_path, "init", "-q", "again")
    git(tmp_path / "again", "apply", str(source / "code.diff"))
    assert (tmp_path / "again" / "b").read_text() == "2\n"


def lose(root: Path, name: str) -> None:
    digest = git(root, "rev-parse", name)
    (root / ".git" / "objects" / digest[:2] / digest[2:]).unlink()


def write(root: Path, name: str, data: bytes) -> None:
    (root / ".git" / name).write_bytes(data)


@pytest.mark.parametrize(("damage", "what", "reason"), [
    (lambda r: lose(r, "HEAD"), "commit", "HEAD names {head}, which cannot be read: `git rev-parse` ended with 128"),
    (lambda r: write(r, "HEAD", b"nothing\n"), "commit", "HEAD cannot be read: `git rev-parse` ended with 128"),
    (lambda r: write(r, "HEAD", b""), "commit", "HEAD cannot be read: `git rev-parse` ended with 128"),
    (lambda r: write(r, "refs/heads/main", b""), "commit", "HEAD cannot be read: `git rev-parse` ended with 128"),
    (lambda r: write(r, "refs/heads/main", b"zz\n"), "commit", "HEAD cannot be read: `git rev-parse` ended with 128"),
    (lambda r: shutil.rmtree(r / ".git" / "objects"), "commit", "HEAD cannot be read: `git rev-parse` ended with 128"),
    (lambda r: lose(r, "HEAD^{tree}"), "changes", "`git diff` ended with 128: bad tree object {head}"),
    (lambda r: os.truncate(r / ".git" / "index", 40), "changes", "the index is damaged (40 bytes)"),
    (lambda r: write(r, "index", b"x" * 99), "changes", "the index is damaged (99 bytes)"),
    (lambda r: write(r, "index", b""), "changes", "the index is damaged (0 bytes)"),
], ids=["commit", "head", "no-head", "no-branch", "branch", "objects", "tree", "cut-index", "index", "empty-index"])
def test_what_a_damaged_repository_lacks_has_a_reason(
    repo: Path, tmp_path: Path, damage: Callable[[Path], Any], what: str, reason: str
) -> None:
    head = git(repo, "rev-parse", "HEAD")
    damage(repo)
    facts, _source = code_of(repo, tmp_path)
    assert facts["reasons"][what].startswith(reason.format(head=head))
    assert str(tmp_path / "source0") not in json.dumps(facts["reasons"])
    assert facts.get("commit") == (None if what == "commit" else head)
    assert "dirty" not in facts  # against nothing, everything is changed


def test_a_git_directory_without_a_head_is_told(repo: Path, tmp_path: Path) -> None:
    (repo / ".git" / "HEAD").unlink()
    with pytest.raises(GitFailed, match=r"code/\.git is no git repository: no HEAD can be read"):
        Git(repo / "lib", tmp_path / "scratch")


@pytest.mark.parametrize("packed", [False, True])
def test_before_the_first_commit_there_is_no_commit_and_after_it_there_is(
    repo: Path, tmp_path: Path, *, packed: bool
) -> None:
    if packed:
        git(repo, "pack-refs", "--all")
    assert "commit" not in code_of(repo, tmp_path)[0]["reasons"]
    git(repo, "checkout", "-q", "--orphan", "new")
    facts = code_of(repo, tmp_path)[0]
    assert facts["reasons"] == {"commit": "nothing was committed to the branch new yet"}
    assert facts["dirty"] is True


def test_submodules_are_told(repo: Path, tmp_path: Path) -> None:
    git(repo, "submodule", "-q", "add", f"file://{tmp_path}/remote.git", "dep", GIT_ALLOW_PROTOCOL="file")
    git(repo, "submodule", "-q", "add", f"file://{tmp_path}/remote.git", "two", GIT_ALLOW_PROTOCOL="file")
    git(repo, "config", "-f", ".gitmodules", "submodule.dep.url", f"https://user:{TOKEN}@example.org/x")
    git(repo, "commit", "-qam", "three")
    git(repo, "submodule", "-q", "deinit", "-f", "two")
    (repo / "dep" / "train.py").write_text("changed\n")
    git(repo / "dep", "commit", "-qam", "in it")
    (repo / "dep" / "dirty").write_text("x\n")
    facts, source = code_of(repo, tmp_path)
    dep, two = json.loads((source / "repository.json").read_text())["submodules"]
    assert dep == {"path": "dep", "url": "https://example.org/x", "dirty": True,
                   "commit": git(repo, "rev-parse", "HEAD:dep"), "checked_out": git(repo / "dep", "rev-parse", "HEAD")}
    assert two["reason"] == "not checked out"
    assert facts["tree"] == tree_of(repo, tmp_path)


def test_files_of_lfs_are_their_pointers(repo: Path, tmp_path: Path) -> None:
    """As git-lfs leaves a repository: pointers in the commit, contents in the work tree, and an index that knows it."""
    content = b"weights" * 1000
    pointer = ("version https://git-lfs.github.com/spec/v1\noid sha256:"
               "e4a7dbc5e0bb6e4bbbd4c5f3e4e9b0f5d0ff3fd6a55f7d9d1c2c7b1d8a6e6d11\nsize 7000\n")
    (repo / ".gitattributes").write_text("*.pt filter=lfs diff=lfs merge=lfs -text\n")
    for name in ("a.pt", "b.pt"):
        (repo / name).write_text(pointer)
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "weights")
    clean = code_of(repo, tmp_path)[0]
    assert (clean["lfs"], clean["lfs_missing"]) == (2, 2)
    (repo / "a.pt").write_bytes(content)
    (repo / "c.pt").write_bytes(content)
    facts, source = code_of(repo, tmp_path)
    lists = json.loads((source / "repository.json").read_text())
    assert (facts["lfs"], facts["lfs_missing"]) == (3, 1)
    assert {one["path"]: one["reason"] for one in lists["left_out"]} == {
        "a.pt": "kept by Git LFS", "c.pt": "kept by Git LFS"}
    digest = hashlib.sha256(content).hexdigest()
    expected = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 7000\n"
    for name in ("a.pt", "c.pt"):
        (repo / name).write_text(expected)  # as the clean filter would give it
    assert facts["tree"] == tree_of(repo, tmp_path)


def test_a_linked_work_tree_and_a_subfolder(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    (tmp_path / "side" / "train.py").write_text("side\n")
    facts, _source = code_of(tmp_path / "side" / "lib", tmp_path)
    assert (facts["branch"], facts["root"], facts["dirty"]) == ("side", str(tmp_path / "side"), True)
    assert facts["tree"] != code_of(repo, tmp_path)[0]["tree"]


@pytest.mark.parametrize("environ", [{"GIT_DIR": "../kept.git"}, {"GIT_DIR": "../kept.git", "GIT_WORK_TREE": "."},
                                     {"GIT_DIR": "{}/kept.git", "GIT_WORK_TREE": "{}/code"}])
def test_a_repository_that_only_the_environment_names(repo: Path, tmp_path: Path, environ: dict[str, str]) -> None:
    expected = code_of(repo, tmp_path)[0]
    (repo / ".git").rename(tmp_path / "kept.git")
    given = named({k: v.format(tmp_path) for k, v in environ.items()}, repo)
    code = Code(repo / "lib", tmp_path / "s" / "source", tmp_path / "s" / "scratch", Masker(), given=given)
    code.take_changes(tmp_path / "yprov-runs", LATER)
    assert {k: code.facts.get(k) for k in ("root", "commit", "tree", "dirty")} == {
        k: expected[k] for k in ("root", "commit", "tree", "dirty")}


def test_where_git_dir_is_set_another_folders_repository_is_its_own(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "-q")
    given = named({"GIT_DIR": str(tmp_path / "other" / ".git")}, tmp_path / "other")
    assert Code(repo, tmp_path / "source", tmp_path / "scratch", Masker(), given=given).facts["root"] == str(repo)
    assert named({}, repo) is None


def test_a_bare_repository_has_no_work_tree(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match=r"remote\.git is a bare git repository: it has no work tree"):
        Git(tmp_path / "remote.git", tmp_path / "scratch")


def test_line_endings_are_as_git_would_commit_them(repo: Path, tmp_path: Path) -> None:
    git(repo, "config", "core.autocrlf", "input")
    (repo / "train.py").write_bytes(b"a\r\nb\r\n")
    (repo / "new.txt").write_bytes(b"c\r\n")
    assert code_of(repo, tmp_path)[0]["tree"] == tree_of(repo, tmp_path)


def test_a_users_own_ignored_files_are_ignored(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "ignore").write_text("*.mine\n")
    git(repo, "config", "core.excludesFile", str(tmp_path / "ignore"))
    (repo / ".git" / "info" / "exclude").write_text("*.yours\n")
    (repo / "a.mine").write_text("x")
    (repo / "a.yours").write_text("x")
    assert code_of(repo, tmp_path)[0]["dirty"] is False


def test_where_there_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match="no git repository"):
        Git(tmp_path, tmp_path / "scratch")


def test_at_the_deadline_what_is_missing_has_a_reason(repo: Path, tmp_path: Path) -> None:
    left = [60.0]
    code = Code(repo, tmp_path / "s" / "source", tmp_path / "s" / "scratch", Masker(), lambda: left[0])
    left[0] = 0.0
    code.take_changes(tmp_path, LATER)
    code.take_unpushed()
    assert code.facts["reasons"] == {"changes": "no time was left for `git diff`",
                                     "bundle": "no time was left for `git rev-list`"}
    assert code.facts["commit"] == git(repo, "rev-parse", "HEAD")


@pytest.mark.parametrize(("given_", "told"), [
    ("https://u:p@h/x.git", "https://h/x.git"), ("ssh://git@h:22/x", "ssh://h:22/x"), ("git@h:x.git", "git@h:x.git"),
    ("/srv/x@y", "/srv/x@y"), ("https://h/a@b", "https://h/a@b"),
])
def test_a_remote_is_told_without_its_password(given_: str, told: str) -> None:
    assert without_password(given_) == told


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda n: n not in (".", "..") and n.lower().strip(". ") not in ("git", "git~1") and len(n.encode()) < 100)


@settings(max_examples=40, deadline=None)
@given(NAMES, st.binary(max_size=3000) | st.text(max_size=200).map(str.encode), st.booleans())
def test_any_file_is_made_again_by_its_patch(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes, executable: bool
) -> None:
    folder = tmp_path_factory.mktemp("patch")
    patch = new_file(name.encode(), b"100755" if executable else b"100644", data)
    done = subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=patch, cwd=folder, capture_output=True,
                          env={**os.environ, **IDENTITY, "GIT_CEILING_DIRECTORIES": str(folder.parent)}, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / name).read_bytes() == data
    assert bool((folder / name).stat().st_mode & 0o100) is executable


def test_paths_are_quoted_as_git_does() -> None:
    assert quoted(b"a b.py") == b"a b.py"
    assert quoted('ä"\n'.encode()) == b'"\\303\\244\\"\\n"'
