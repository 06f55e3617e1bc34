"""A declared file becomes facts: checksum, size, copy; or the reason why not."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import eventually
from yprovd.files import FileWorker
from yprovd.stitch.contents import is_of_archive

SOURCE = 0xABC


class Facts:
    """Remembers, and lets the worker go on only when `gate` is set."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, facts: dict[str, Any]) -> None:
        self.all.append(facts)
        self.gate.wait()


def looked_at(
    tmp_path: Path, *declared: dict[str, Any], timeout_s: float = 10.0, **kwargs: Any
) -> list[dict[str, Any]]:
    facts = Facts()
    worker = FileWorker(tmp_path / "artifacts", facts, **kwargs)
    for t, declaration in enumerate(declared):
        worker.declare(SOURCE, {"t": t, **declaration})
    worker.close(timeout_s)
    assert [f["t"] for f in facts.all] == list(range(len(declared)))
    assert not list(tmp_path.glob("artifacts/.partial*"))
    return facts.all


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights" * 300_000)  # more than one block
    return path


def test_an_address_is_looked_at_by_nobody(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    worker = FileWorker(tmp_path / "artifacts", found.append)
    worker.declare(7, {"path": "https://example.org/data.csv", "t": 1, "copy": True})
    worker.close(5)
    assert found == [{"path": "https://example.org/data.csv", "t": 1, "source": f"{7:016x}",
                      "reason": "an address: only files are looked at"}]


def test_a_file_has_size_time_and_checksum(tmp_path: Path, model: Path) -> None:
    (facts,) = looked_at(tmp_path, {"path": str(model)})
    assert facts == {
        "path": str(model), "t": 0, "source": "0000000000000abc", "size": 2_100_000,
        "modified_ns": model.stat().st_mtime_ns, "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    assert not (tmp_path / "artifacts").exists()  # made with the first copy only


@pytest.mark.parametrize(("name", "stored"), [
    (".x.tmp", "_.x.tmp"), (".tmp", "_.tmp"), (".partial-1", "_.partial-1"), ("x.tmp", "x.tmp"), (".x", ".x")])
def test_a_copy_that_is_called_like_half_a_file_is_a_part_of_the_archive(
    tmp_path: Path, name: str, stored: str
) -> None:
    (tmp_path / name).write_text("a")
    one, two = looked_at(tmp_path, *({"path": str(tmp_path / name), "copy": True} for _ in range(2)))
    assert one["stored"] == f"artifacts/{stored}"
    assert is_of_archive(one["stored"])
    assert is_of_archive(two["stored"])
    assert (tmp_path / one["stored"]).read_text() == (tmp_path / two["stored"]).read_text() == "a"


def test_copies_get_names_of_their_own(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other" / "model.pt"
    other.parent.mkdir()
    other.write_bytes(b"other")
    found = looked_at(tmp_path, *({"path": str(p), "copy": True} for p in (model, other, model)))
    assert [f["stored"] for f in found] == ["artifacts/model.pt", "artifacts/model-2.pt", "artifacts/model-3.pt"]
    for facts, original in zip(found, (model, other, model), strict=True):
        stored = (tmp_path / facts["stored"]).read_bytes()
        assert stored == original.read_bytes()
        assert (facts["size"], facts["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())


def test_a_folder_is_told_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a").write_bytes(b"12345")
    (tmp_path / "data" / "sub" / "b").write_bytes(b"123")
    os.symlink("nowhere", tmp_path / "data" / "dangling")
    data = str(tmp_path / "data")
    plain, copied = looked_at(tmp_path, {"path": data}, {"path": data, "copy": True})
    assert plain["size"] == 5 + 3 + len("nowhere")
    assert plain["reason"] == "a folder of 3 files"
    assert copied["reason"] == "a folder of 3 files; folders are not copied"
    assert "sha256" not in plain


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "No such file or directory"), ("model.pt/below", "Not a directory"), ("nul\0byte", "embedded null"),
     ("x" * 300, "File name too long"), ("\ud800", "surrogates not allowed"), ("\udcff", "No such file")],
)
def test_what_cannot_be_looked_at_is_a_fact_with_a_reason_and_the_next_one_is_looked_at(
    tmp_path: Path, model: Path, name: str, reason: str
) -> None:
    bad, good = looked_at(tmp_path, {"path": str(tmp_path / name), "copy": True}, {"path": str(model)})
    assert reason in bad["reason"]
    assert bad.get("missing", False) is (reason.startswith(("No such file", "Not a directory")))
    assert "sha256" not in bad
    assert "sha256" in good


def test_a_file_that_may_not_be_read_is_a_fact_with_its_size(tmp_path: Path, model: Path) -> None:
    model.chmod(0)
    if os.access(model, os.R_OK):
        pytest.skip("root reads everything")
    (facts,) = looked_at(tmp_path, {"path": str(model)})
    assert facts["reason"] == "Permission denied"


@pytest.mark.parametrize("copy", [False, True])
def test_a_read_that_fails_is_a_fact_and_leaves_no_half_copy(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    monkeypatch.setattr("hashlib.sha256", Interfering(lambda: raising(PermissionError(13, "Permission denied"))))
    (facts,) = looked_at(tmp_path, {"path": str(model), "copy": copy})
    assert facts["reason"] == "Permission denied"
    assert not list(tmp_path.glob("artifacts/*"))


def raising(error: Exception) -> None:
    raise error


class Interfering:
    """In the place of hashlib.sha256: something happens to the file after its first block was read."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens = happens
        self.digest = hashlib.sha256
        self.done = False

    def __call__(self) -> Any:
        inner = self.digest()
        outer = self

        class Digest:
            def update(self, block: bytes) -> None:
                inner.update(block)
                if not outer.done:
                    outer.done = True
                    outer.happens()

            def hexdigest(self) -> str:
                return inner.hexdigest()

        return Digest()


def grow(path: Path) -> None:
    with open(path, "ab") as f:
        f.write(b"more")


def test_a_file_that_changes_while_it_is_read_has_no_checksum(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashlib.sha256", Interfering(lambda: grow(model)))
    (facts,) = looked_at(tmp_path, {"path": str(model)})
    assert facts["reason"] == "it changed while it was read"
    assert facts["size"] == 2_100_004
    assert "sha256" not in facts


def test_size_and_checksum_of_a_copy_are_the_copys_whatever_becomes_of_the_file(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashlib.sha256", Interfering(model.unlink))
    (facts,) = looked_at(tmp_path, {"path": str(model), "copy": True})
    monkeypatch.undo()
    stored = (tmp_path / facts["stored"]).read_bytes()
    assert (facts["size"], facts["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert len(stored) == 2_100_000


def test_large_files_get_no_checksum_unless_they_are_copied(tmp_path: Path, model: Path) -> None:
    declared = [{"path": str(model)}, {"path": str(model), "copy": True}]
    large, copied = looked_at(tmp_path, *declared, hash_limit=1000)
    assert (large["size"], large["reason"]) == (2_100_000, "larger than 1000 bytes")
    assert "sha256" not in large
    assert copied["stored"] == "artifacts/model.pt"


def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe, device = looked_at(tmp_path, {"path": str(tmp_path / "pipe")}, {"path": "/dev/zero", "copy": True})
    assert pipe["reason"] == device["reason"] == "not a regular file"


def test_at_the_deadline_what_is_left_is_told_so(tmp_path: Path, model: Path) -> None:
    facts = Facts()
    facts.gate.clear()
    worker = FileWorker(tmp_path / "artifacts", facts)
    for t in range(3):
        worker.declare(SOURCE, {"t": t, "path": str(model), "copy": True})
    eventually(lambda: len(facts.all) == 1, what="the first one is looked at")
    worker.close(-0.9)  # the deadline is over before anything else was looked at; it waits 0.1 s
    assert len(facts.all) == 1
    facts.gate.set()
    eventually(lambda: len(facts.all) == 3, what="the others are told")
    assert [f.get("reason") for f in facts.all] == [None, *["the run ended before it was read"] * 2]


@pytest.mark.parametrize("declaration", [{}, {"path": "/x"}, {"t": 1}, [], 5])
def test_what_is_not_a_declaration_is_refused_at_once(tmp_path: Path, declaration: Any) -> None:
    worker = FileWorker(tmp_path, Facts())
    with pytest.raises((KeyError, TypeError)):
        worker.declare(SOURCE, declaration)
    worker.close(1.0)


def test_it_keeps_out_of_the_jobs_way(tmp_path: Path, model: Path) -> None:
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    worker = FileWorker(tmp_path, lambda _facts: asked.put(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
    worker.declare(SOURCE, {"t": 0, "path": str(model)})
    assert asked.get(timeout=10) == 19
    worker.close(1.0)


# -- secrets: a copy is a part of the archive --------------------------------------------------------------------------

TOKEN = "ghp_0123456789abcdefghij0123456789abcdef"


def test_a_copied_text_is_masked_and_its_checksum_is_the_copys(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"lr: 0.1\nhub: {TOKEN}\n")
    plain, copied = looked_at(tmp_path, {"path": str(config)}, {"path": str(config), "copy": True})
    stored = (tmp_path / copied["stored"]).read_bytes()
    assert stored == f"lr: 0.1\nhub: {'*' * 40}\n".encode()
    assert (copied["masked"], copied["size"]) == (True, len(stored))
    assert copied["sha256"] == hashlib.sha256(stored).hexdigest()
    assert plain["sha256"] == hashlib.sha256(config.read_bytes()).hexdigest()
    assert TOKEN in config.read_text()


def test_anything_else_with_a_secret_is_not_copied(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"\0" * 300_000 + TOKEN.encode())
    (facts,) = looked_at(tmp_path, {"path": str(weights), "copy": True})
    assert facts["reason"] == "not copied: it is no text, and holds what looks like a secret"
    assert not list(tmp_path.glob("artifacts/*"))


def test_a_path_is_told_without_its_secret_and_found_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / f"{TOKEN}.csv"
    path.write_text("x")
    (facts,) = looked_at(tmp_path, {"path": str(path), "copy": True})
    assert (facts["path"], facts["stored"], facts["size"]) == (f"{tmp_path}/***.csv", "artifacts/***.csv", 1)
