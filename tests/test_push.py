"""`yprov push` against servers that keep strictly to what the services document, and against all that goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.running import YPROV, environment, yprov
from tests.services import PASSWORD, TOKEN, USER, Fault, Seen, Stored, StoreServer, V0Server
from tests.stitch.golden.small import (
    RUN_ID,
    config,
    make_run_dir,
    small_attribution,
    small_record,
    small_series,
)
from tests.yprov_rules import facts
from yprov.addresses import address_of, clean, is_local
from yprov.bodies import Multipart
from yprov.pushing import Credentials, Options, parcel_of, push
from yprov.service_v0 import database_name
from yprov.web import ATTEMPTS, Refused, Web
from yprovd.config import PUSH_FILE, PUSH_LOCK
from yprovd.errors import YprovError
from yprovd.stitch.crate import build_crate
from yprovd.stitch.provenance import build_document
from yprovd.stitch.validate import validate_run

SIGNED = {"YPROV_TOKEN": TOKEN}
LOGIN = {"YPROV_USER": USER, "YPROV_PASSWORD": PASSWORD}
#: As it may be written: plain, in JSON, in an address.
SECRETS = (TOKEN, PASSWORD, json.dumps(PASSWORD)[1:-1], "battery")
DOC = "/documents"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    made = make_run_dir(tmp_path / "20260101T000000Z-resnet-0b7c1a52")
    (made / "run.json").write_text(json.dumps(config().to_json()))
    (made / "ro-crate-metadata.json").write_bytes(build_crate(made, small_record(), small_attribution()))
    return made


@pytest.fixture
def v0() -> Iterator[V0Server]:
    with V0Server() as server:
        yield server


@pytest.fixture
def store() -> Iterator[StoreServer]:
    with StoreServer() as server:
        yield server


def content(path: Path) -> bytes:
    """Nothing where it is no file, or none any more: another push may just be renaming it."""
    try:
        return path.read_bytes()
    except (IsADirectoryError, FileNotFoundError):
        return b""


class Pusher:
    """Pushes one run, and remembers all that was said and how long was slept. `told`: what anybody may have seen."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.lines: list[str] = []
        self.slept: list[float] = []
        self.hear: Callable[[str], object] = len

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.hear(line)

    def __call__(self, to: str, environ: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        told: dict[str, Any] = {}
        error = ""
        try:
            told = push(self.run_dir, Options(to, **options), SIGNED if environ is None else environ,
                        say=self.say, sleep=self.slept.append)
        except YprovError as e:
            error = f"{e} {e.hint} {''.join(traceback.format_exception(e))}"
            raise
        finally:
            kept = b"".join(content(p) for p in self.run_dir.rglob("*"))
            for secret in SECRETS:
                assert secret not in error
                assert secret not in "\n".join(self.lines)
                assert secret not in json.dumps(told)
                assert secret.encode() not in kept
        return told

    def fails(self, to: str, match: str, environ: dict[str, str] | None = None, **options: Any) -> YprovError:
        with pytest.raises(YprovError, match=match) as raised:
            self(to, environ, **options)
        return raised.value


@pytest.fixture
def pusher(run_dir: Path) -> Pusher:
    return Pusher(run_dir)


def change(run_dir: Path) -> None:
    """Another state of the document, as a stitch of a changed spool makes it."""
    record = small_record()
    record.run["config"]["settings"]["tags"] = {"team": "sound"}
    (run_dir / "prov.json").write_bytes(build_document(record, small_attribution(), small_series()))


def document(run_dir: Path) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads((run_dir / "prov.json").read_text(encoding="utf-8"))
    return doc


# The service v0


def test_v0_has_the_whole_document_under_a_name_made_from_the_runs_id(pusher: Pusher, v0: V0Server) -> None:
    told = pusher(v0.address, backend="v0")
    assert v0.broken == []
    assert told["pid"] == f"yprov-{RUN_ID}"
    assert told["url"] == f"{v0.address}/api/v0/documents/yprov-{RUN_ID}"
    assert (told["sent"], told["version"], told["backend"]) == (True, None, "v0")
    assert facts(v0.graphs[told["pid"]].document()) == facts(document(pusher.run_dir))


def test_v0_is_not_sent_the_same_document_twice(pusher: Pusher, v0: V0Server) -> None:
    pusher(v0.address)
    (pusher.run_dir / PUSH_FILE).unlink()  # it is the service that knows
    assert pusher(v0.address)["sent"] is False
    assert v0.count("PUT") == 1


def test_v0_is_sent_a_changed_document_and_what_it_keeps_of_the_one_before_is_told(
    pusher: Pusher, v0: V0Server
) -> None:
    pusher(v0.address)
    pid = database_name(RUN_ID)
    v0.graphs[pid].add({"entity": {"run:param/old": {"prov:value": "1"}}})
    assert pusher(v0.address)["sent"] is False
    change(pusher.run_dir)
    assert pusher(v0.address)["sent"] is True
    assert [line for line in pusher.lines if "3 statements" in line]  # the old parameter, its value, the old tags
    assert v0.graphs[pid].nodes["run:run"][1]["yp:tags"] == '{"team": "sound"}'
    assert "run:param/old" in v0.graphs[pid].nodes
    assert pusher(v0.address)["sent"] is False


def test_v0_with_private_documents(pusher: Pusher) -> None:
    with V0Server(private=True) as server:
        pusher(server.address)
        assert pusher(server.address)["sent"] is False
        assert server.count("PUT") == 1


def test_v0_that_cannot_give_its_document_back_is_sent_it_again(pusher: Pusher, v0: V0Server) -> None:
    pusher(v0.address)
    v0.faults.append(Fault("GET", DOC + "/", status=500))
    assert pusher(v0.address, backend="v0")["sent"] is True
    assert pusher.slept == []


@pytest.mark.parametrize(("body", "kind", "said"), [
    (b"<html>Please sign in</html>", "text/html", "did not answer as"),
    (b'"Document uploaded"', "application/json", "did not answer as"),
    (b"", "application/json", "did not answer as"),
    (b'{"error": "the database is read only"}', "application/json", "200: the database is read only")])
def test_v0_that_answers_otherwise_has_published_nothing(
    pusher: Pusher, v0: V0Server, body: bytes, kind: str, said: str
) -> None:
    v0.faults.append(Fault("PUT", DOC, status=200, body=body, headers={"Content-Type": kind}))
    pusher.fails(v0.address, said, backend="v0")
    assert pusher(v0.address)["sent"] is True


def test_v0_has_no_versions_and_no_artifacts(pusher: Pusher, v0: V0Server) -> None:
    pusher.fails(v0.address, "neither versions nor artifacts", parent="21.T11961/x")
    pusher.fails(v0.address, "neither versions nor artifacts", artifacts=True)
    assert v0.count("PUT") == 0


@given(st.text(max_size=60))
def test_any_run_id_is_a_name_of_a_database(run_id: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9.-]{2,62}", database_name(run_id))


def test_different_runs_have_different_names() -> None:
    assert len({database_name(x) for x in ("a", "b", RUN_ID, RUN_ID[:-1] + "0", "", "my run")}) == 6
    assert database_name(RUN_ID.upper()) == database_name(RUN_ID)


# yProvStore


def test_store_has_the_very_bytes_with_a_title_a_description_keywords_and_an_author(
    pusher: Pusher, store: StoreServer
) -> None:
    told = pusher(store.address)
    assert store.broken == []
    (stored,) = store.documents.values()
    assert stored.data == (pusher.run_dir / "prov.json").read_bytes()
    assert (told["pid"], told["version"], told["sent"], told["parent"]) == (stored.pid, 1, True, None)
    assert told["sha256"] == hashlib.sha256(stored.data).hexdigest()
    assert stored.metadata == {
        "title": "imagenet: resnet", "author": "Ada Lovelace",
        "description": "python train.py --note 'two words': completed on 2 nodes, 10.0 s, 100.0 J",
        "keywords": ["imagenet", "team=vision", "yprov", "completed"],
    }


@pytest.mark.parametrize("older", [False, True])
def test_store_is_not_sent_the_same_document_twice(pusher: Pusher, older: bool) -> None:
    with StoreServer(older=older) as server:
        first = pusher(server.address)
        again = pusher(server.address)
        assert (again["sent"], again["pid"], again["version"]) == (False, first["pid"], 1)
        assert server.count("POST", DOC) == 1
        assert server.broken == []


def test_store_is_sent_a_changed_document_as_a_new_version(pusher: Pusher, store: StoreServer) -> None:
    first = pusher(store.address)
    change(pusher.run_dir)
    second = pusher(store.address)
    assert (second["parent"], second["version"], second["sent"]) == (first["pid"], 2, True)
    assert pusher(store.address)["sent"] is False
    assert len(store.documents) == 2


def test_store_that_lost_the_document_gets_it_anew(pusher: Pusher, store: StoreServer) -> None:
    pusher(store.address)
    store.documents.clear()
    told = pusher(store.address)
    assert (told["sent"], told["parent"]) == (True, None)
    assert any("no longer has" in line for line in pusher.lines)


def test_parent_is_named_by_hand(pusher: Pusher, store: StoreServer) -> None:
    other = pusher(store.address)["pid"]
    (pusher.run_dir / PUSH_FILE).unlink()
    told = pusher(store.address, parent=other)
    assert (told["parent"], told["version"]) == (other, 2)
    assert pusher(store.address, parent=other)["sent"] is False
    error = pusher.fails(store.address, "404.*'21.T11961/none' not found", parent="21.T11961/none")
    assert error.hint


def test_each_service_has_its_own_memory(pusher: Pusher, store: StoreServer) -> None:
    with StoreServer("/yprov") as other:
        pusher(store.address)
        assert pusher(other.address + "/")["sent"] is True
        assert pusher(store.address)["sent"] is pusher(other.address)["sent"] is False
        assert len(json.loads((pusher.run_dir / PUSH_FILE).read_text())["pushes"]) == 2


def test_what_was_published_is_no_part_of_the_archive(pusher: Pusher, store: StoreServer) -> None:
    assert validate_run(pusher.run_dir) == []
    pusher(store.address)
    assert (pusher.run_dir / PUSH_FILE).is_file()
    assert (pusher.run_dir / PUSH_LOCK).is_file()
    assert validate_run(pusher.run_dir) == []


@pytest.mark.parametrize("left", ["", "{", "[]", '{"format": "yprov-push"}', '{"format": "yprov-push", "pushes": [3]}',
                                  '{"format": "other", "pushes": [{"pid": "x"}]}'])
def test_a_note_that_is_none_is_as_if_it_were_not_there(pusher: Pusher, store: StoreServer, left: str) -> None:
    (pusher.run_dir / PUSH_FILE).write_text(left)
    assert pusher(store.address)["sent"] is True
    assert pusher(store.address)["sent"] is False


def test_a_directory_that_may_not_be_written_costs_the_note_only(
    pusher: Pusher, store: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("yprov.pushed.write_whole", refused)
    told = pusher(store.address)
    assert told["sent"] is True
    assert any(f"--parent {told['pid']}" in line and "Permission denied" in line for line in pusher.lines)


# Once, whatever happens


def interrupted(line: str) -> None:
    if "again in" in line:
        raise KeyboardInterrupt


def interrupt(pusher: Pusher, *args: Any, **options: Any) -> None:
    pusher.hear = interrupted
    with pytest.raises(KeyboardInterrupt):
        pusher(*args, **options)
    pusher.hear = len


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
def test_a_push_looks_for_the_one_that_was_interrupted(pusher: Pusher, arrives: bool, older: bool) -> None:
    with StoreServer(older=older) as server:
        server.faults.append(Fault("POST", DOC, reset=True, then=arrives))
        interrupt(pusher, server.address)
        told = pusher(server.address)
        assert (told["sent"], told["version"], len(server.documents)) == (not arrives, 1, 1)
        listed = server.count("GET", DOC)
        assert pusher(server.address, backend="store")["sent"] is False
        assert server.count("GET", DOC) <= listed + 2  # the document: what is known is not looked for any more


def test_what_was_interrupted_is_found_when_the_document_is_another_one_by_now(
    pusher: Pusher, store: StoreServer
) -> None:
    store.faults.append(Fault("POST", DOC, reset=True, then=True))
    interrupt(pusher, store.address)
    change(pusher.run_dir)
    told = pusher(store.address)
    assert (told["sent"], told["parent"], told["version"], len(store.documents)) == (True, "21.T11961/doc-1", 2, 2)


def test_what_was_interrupted_is_found_among_many_of_others(pusher: Pusher, store: StoreServer) -> None:
    """Versions of other documents, and documents that we may not read."""
    create = store._create

    def among_others(request: Seen) -> Any:
        for number in range(60):
            pid = f"21.T11961/other-{number}"
            store.documents[pid] = Stored(pid, b"{}", 2, "21.T11961/x" if number else None, {}, store.now())
        return create(request)

    store._create = among_others  # type: ignore[method-assign]
    store.faults.append(Fault("POST", DOC, reset=True, then=True))
    interrupt(pusher, store.address)
    store.faults.append(Fault("GET", "/other-0", status=403))
    assert pusher(store.address)["sent"] is False
    assert len(store.documents) == 61
    assert store.faults == []


def test_what_was_interrupted_is_found_with_another_token(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, reset=True, then=True))
    interrupt(pusher, store.address, backend="store")
    store.faults.append(Fault("GET", DOC, status=401))
    assert pusher(store.address, SIGNED | LOGIN, backend="store")["sent"] is False
    assert len(store.documents) == 1


def test_the_last_attempt_is_looked_for_as_well(pusher: Pusher, store: StoreServer) -> None:
    store.faults += [Fault("POST", DOC, status=503) for _ in range(ATTEMPTS - 1)]
    store.faults.append(Fault("POST", DOC, reset=True, then=True))
    assert pusher(store.address)["version"] == 1
    assert len(store.documents) == 1


def test_what_was_given_up_and_arrived_is_not_published_again(pusher: Pusher, store: StoreServer) -> None:
    store.faults += [Fault("POST", DOC, status=503, headers={"Retry-After": "86400"}, then=True),
                     Fault("GET", DOC, status=500)]
    error = pusher.fails(store.address, "come back", backend="store")
    assert "the next push looks first" in error.hint
    assert pusher(store.address, backend="store")["sent"] is False
    assert len(store.documents) == 1


def test_what_was_refused_is_not_looked_for(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=413))
    pusher.fails(store.address, "too large", backend="store")
    listed = store.count("GET", DOC)
    assert pusher(store.address, backend="store")["sent"] is True
    assert store.count("GET", DOC) == listed


@pytest.mark.parametrize("pending", [3, {}, {"sha256": "x", "parent": None, "since": "yesterday"}, {
    "sha256": "x", "parent": None, "since": "2026-01-01T00:00:00"}, {"sha256": 1, "parent": 2, "since": 3}])
def test_an_attempt_that_cannot_be_read_is_none(pusher: Pusher, store: StoreServer, pending: Any) -> None:
    pusher(store.address)
    note = json.loads((pusher.run_dir / PUSH_FILE).read_text())
    note["pushes"][0]["pending"] = pending
    (pusher.run_dir / PUSH_FILE).write_text(json.dumps(note))
    assert pusher(store.address)["sent"] is False


def test_the_services_clock_is_asked_for_before_anything_is_sent(pusher: Pusher) -> None:
    """With a token and a kind of service given, the document would be the first that is asked of it."""
    with StoreServer(now=lambda: datetime.now(UTC).timestamp() - 60) as server:
        server.faults.append(Fault("POST", DOC, reset=True, then=True))
        pusher(server.address, backend="store")
        assert len(server.documents) == 1
        assert not [r for r in server.seen[:1] if "Authorization" in r.headers]


def when_published(server: StoreServer, do: Callable[[], object]) -> None:
    """Do this before the answer to the first document."""
    create, first = server._create, [True]

    def created(request: Seen) -> Any:
        answer = create(request)
        if first:
            first.clear()
            do()
        return answer

    server._create = created  # type: ignore[method-assign]


@pytest.mark.parametrize("same", [True, False])
def test_two_pushes_at_once_go_one_after_the_other(run_dir: Path, store: StoreServer, same: bool) -> None:
    with StoreServer() as other:
        at = (store.address, store.address if same else other.address)
        pushers, waits, told = (Pusher(run_dir), Pusher(run_dir)), threading.Event(), []

        def second() -> None:
            told.append(pushers[1](at[1]))
            waits.set()

        def meanwhile() -> None:
            thread.start()
            assert waits.wait(30)

        thread = threading.Thread(target=second)
        pushers[1].hear = lambda line: waits.set() if "waiting" in line else None
        when_published(store, meanwhile)
        assert pushers[0](at[0])["sent"] is True
        thread.join()
        assert pushers[1].lines == ["waiting for another push of this run"]
        assert told[0]["sent"] is not same
        assert len(store.documents) == 1
        assert [Pusher(run_dir)(to)["sent"] for to in at] == [False, False]


def test_where_nothing_can_be_locked_a_push_forgets_no_other(
    run_dir: Path, store: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("yprov.pushed.fcntl.flock", no_locks)
    with StoreServer() as other:
        when_published(store, lambda: Pusher(run_dir)(other.address))
        for to in (store.address, other.address):
            Pusher(run_dir)(to)
        assert [Pusher(run_dir)(to)["sent"] for to in (store.address, other.address)] == [False, False]
        assert (len(store.documents), len(other.documents)) == (1, 1)


def test_a_directory_that_gives_no_lock_can_be_pushed(pusher: Pusher, store: StoreServer) -> None:
    (pusher.run_dir / PUSH_LOCK).mkdir()
    assert pusher(store.address)["sent"] is True


# Artifacts


def test_artifacts_are_sent_once_and_belong_to_the_document(pusher: Pusher, store: StoreServer) -> None:
    told = pusher(store.address, artifacts=True)
    assert store.broken == []
    assert {name: store.artifacts[pid] for name, pid in told["artifacts"].items()} == {
        "artifacts/1.pt": ("artifacts/1.pt", b"weights"),
        "artifacts/odd näme #1?.txt": ("artifacts/odd näme #1?.txt", b"x")}
    assert sorted(store.related[told["pid"]]) == sorted(told["artifacts"].values())
    puts = store.count("PUT")
    assert pusher(store.address, artifacts=True)["artifacts"] == told["artifacts"]
    (pusher.run_dir / "artifacts/1.pt").write_text("other weights")
    changed = pusher(store.address, artifacts=True)
    assert store.count("PUT") == puts + 1
    assert changed["artifacts"]["artifacts/1.pt"] != told["artifacts"]["artifacts/1.pt"]


def test_an_upload_goes_on_where_it_stopped(pusher: Pusher, store: StoreServer) -> None:
    store.faults += [Fault("PUT", "presigned2", status=403)]
    pusher.fails(store.address, "403", artifacts=True)
    pusher(store.address, artifacts=True)
    assert [r.path[-10:] for r in store.seen if r.method == "PUT"] == ["presigned1", "presigned2", "presigned3"]
    assert len(store.documents) == 1


def test_an_upload_address_elsewhere_does_not_get_the_token_and_is_not_told(
    pusher: Pusher, store: StoreServer
) -> None:
    with StoreServer() as elsewhere:
        elsewhere._waiting = store._waiting
        store.upload_address = elsewhere.address
        elsewhere.artifacts = store.artifacts
        pusher(store.address, artifacts=True)
        assert elsewhere.count("PUT") == 2
        assert not [r for r in elsewhere.seen if "Authorization" in r.headers]
        elsewhere.faults += [Fault("PUT", "", status=500)]
        (pusher.run_dir / "artifacts/1.pt").write_text("more")
        pusher(store.address, artifacts=True)
        assert [line for line in pusher.lines if "again in" in line]
        assert not [line for line in pusher.lines if "hush" in line or "presigned" in line]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "http://[bad", "http://a b/", "/other", "http:"])
def test_an_upload_address_that_is_none_is_an_error(pusher: Pusher, store: StoreServer, url: str) -> None:
    answer = json.dumps({"pid": "p", "upload_url": url}).encode()
    store.faults.append(Fault("POST", "/artifacts", status=200, body=answer))
    pusher.fails(store.address, "names an address that is none|404", artifacts=True)
    assert store.count("PUT") <= (url == "/other")


def test_an_artifact_that_arrives_otherwise_is_an_error(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("PUT", "", status=200, body=b'{"pid": "p", "hash": "0000"}'))
    pusher.fails(store.address, "another SHA-256", artifacts=True)


@pytest.mark.parametrize("said", [b'"ok"', b"[1]", b"<html>sign in</html>"])
def test_an_upload_that_is_answered_otherwise_is_an_error(pusher: Pusher, store: StoreServer, said: bytes) -> None:
    store.faults.append(Fault("PUT", "presigned", status=200, body=said))
    pusher.fails(store.address, "may not have arrived", artifacts=True)
    assert len(pusher(store.address, artifacts=True)["artifacts"]) == 2


def test_artifacts_that_were_not_said_to_belong_to_the_document_are_the_next_time(
    pusher: Pusher, store: StoreServer
) -> None:
    store.faults.append(Fault("PATCH", "/related", status=403))
    pusher.fails(store.address, "403", artifacts=True)
    told = pusher(store.address, artifacts=True)
    assert sorted(store.related[told["pid"]]) == sorted(told["artifacts"].values())
    pusher(store.address, artifacts=True)
    assert store.count("PATCH") == 2


def test_an_upload_is_acknowledged_with_nothing(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("PUT", "presigned", status=200, body=b"", then=True))
    assert len(pusher(store.address, artifacts=True)["artifacts"]) == 2


def test_an_artifact_whose_name_is_not_utf8_is_sent(pusher: Pusher, store: StoreServer) -> None:
    (pusher.run_dir / "artifacts" / os.fsdecode(b"bad\xff.bin")).write_bytes(b"odd")
    told = pusher(store.address, artifacts=True)
    assert store.artifacts[told["artifacts"]["artifacts/bad\\udcff.bin"]][1] == b"odd"
    assert pusher(store.address, artifacts=True) == told | {"sent": False}


def test_an_upload_is_redirected_within_its_own_host_only(pusher: Pusher, store: StoreServer) -> None:
    with StoreServer() as elsewhere, StoreServer() as third:
        elsewhere._waiting, elsewhere.artifacts = store._waiting, store.artifacts
        store.upload_address = elsewhere.address
        moved = "/artifacts/proxy/upload/presigned1?signature=hush-presigned1"
        elsewhere.faults.append(Fault("PUT", "presigned1", status=307, headers={"Location": moved}))
        pusher(store.address, artifacts=True)
        assert elsewhere.count("PUT", "presigned1") == 2
        assert not [r for r in elsewhere.seen if "Authorization" in r.headers]
        (pusher.run_dir / "artifacts/1.pt").write_text("more")
        elsewhere.faults.append(Fault("PUT", "", status=307, headers={"Location": third.address + moved}))
        error = pusher.fails(store.address, "another place", artifacts=True)
        assert third.seen == []
        assert "presigned" not in f"{error} {error.hint}"


# Who we are


@pytest.mark.parametrize("environ", [
    SIGNED, {"AUTHORIZATION_TOKEN": TOKEN}, {"YPROV_TOKEN": f"Bearer {TOKEN}\n"}, LOGIN])
@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_token_or_login_come_from_the_environment(pusher: Pusher, environ: dict[str, str], server: Any) -> None:
    with server() as there:
        if environ is LOGIN:
            there.tokens.clear()
        assert pusher(there.address, environ)["sent"] is True
        assert there.broken == []
        assert not [line for line in there.log if any(s in line for s in SECRETS)]
        assert not [r for r in there.seen if TOKEN in r.path or TOKEN in str(r.query) or TOKEN.encode() in r.body]


def test_without_either_nothing_is_asked_of_anybody(pusher: Pusher, store: StoreServer) -> None:
    for environ in ({}, {"YPROV_USER": USER}, {"YPROV_PASSWORD": PASSWORD}, {"YPROV_TOKEN": "  "}):
        error = pusher.fails(store.address, "no token", environ)
        assert "YPROV_TOKEN" in error.hint
        assert "YPROV_PASSWORD" in error.hint
    assert store.seen == []


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_an_expired_token_names_the_variable(pusher: Pusher, server: Any) -> None:
    with server() as there:
        there.tokens = {"another"}
        error = pusher.fails(there.address, "401: Signature expired.*YPROV_TOKEN")
        assert "export YPROV_TOKEN" in error.hint
        error = pusher.fails(there.address, "AUTHORIZATION_TOKEN", {"AUTHORIZATION_TOKEN": TOKEN})
        assert "export AUTHORIZATION_TOKEN" in error.hint
        assert pusher.slept == []


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_an_expired_token_is_replaced_where_a_login_is_at_hand(pusher: Pusher, server: Any) -> None:
    with server() as there:
        there.tokens = {"another"}
        assert pusher(there.address, {"YPROV_TOKEN": "of-yesterday", **LOGIN})["sent"] is True
        assert any("logging in" in line for line in pusher.lines)


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_a_login_does_not_bear_the_token_that_expired(pusher: Pusher, server: Any) -> None:
    with server() as there:
        there.tokens = {"another"}
        pusher(there.address, {"YPROV_TOKEN": "of-yesterday", **LOGIN})
        (login,) = [r for r in there.seen if r.path.endswith("/login")]
        assert "Authorization" not in login.headers


def test_a_token_that_expired_is_replaced_for_artifacts_as_well(pusher: Pusher, store: StoreServer) -> None:
    pusher(store.address)
    store.tokens.clear()  # the document need not be sent, and may be read by anybody
    assert len(pusher(store.address, SIGNED | LOGIN, artifacts=True)["artifacts"]) == 2


def test_a_login_that_expires_while_artifacts_are_sent_is_done_again(pusher: Pusher, store: StoreServer) -> None:
    pusher.hear = lambda line: store.tokens.clear() if "(2 of 2)" in line else None
    assert len(pusher(store.address, LOGIN, artifacts=True)["artifacts"]) == 2
    assert store.count("POST", "/login") == 2
    assert store.count("POST", DOC) == 1


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_a_wrong_password_names_the_variables(pusher: Pusher, server: Any) -> None:
    with server() as there:
        error = pusher.fails(there.address, "401", LOGIN | {"YPROV_PASSWORD": "battery no"})
        assert "YPROV_PASSWORD" in error.hint


def test_a_document_of_somebody_elses_is_not_written(pusher: Pusher, v0: V0Server) -> None:
    v0.forbidden.add(database_name(RUN_ID))
    error = pusher.fails(v0.address, "403: User does not have permission.*YPROV_TOKEN")
    assert "another" in error.hint


@pytest.mark.parametrize("token", ["two words", "a\nX-Injected: yes", "ü" * 20, "a\x00b"])
def test_what_cannot_be_a_token_is_refused_and_not_repeated(pusher: Pusher, store: StoreServer, token: str) -> None:
    error = pusher.fails(store.address, "characters that no token has", {"YPROV_TOKEN": token})
    assert token not in f"{error} {error.hint}"
    assert not [r for r in store.seen if "X-Injected" in r.headers]


def test_a_service_that_repeats_our_secrets_is_not_repeated(pusher: Pusher, store: StoreServer) -> None:
    for said in (f'{{"detail": "bad token {TOKEN}"}}', f"<{TOKEN}> \x1b[31m\r\nX", json.dumps({"error": PASSWORD})):
        store.faults.append(Fault("POST", DOC, status=400, body=said.encode()))
        error = pusher.fails(store.address, r"400: .*\*\*\*", SIGNED | LOGIN)
        assert not re.search(r"[\x00-\x1f]", str(error))


@pytest.mark.parametrize("before", [1000 - 30, (1 << 16) - 30, 300 - 30])
@pytest.mark.parametrize("filler", [" ", "x"])
def test_no_cut_leaves_a_part_of_a_secret(pusher: Pusher, store: StoreServer, before: int, filler: str) -> None:
    store.faults.append(Fault("POST", DOC, status=400, body=(filler * before + TOKEN + " and more").encode(),
                              headers={"Content-Type": "text/plain"}))
    error = pusher.fails(store.address, "400")
    assert not [n for n in range(len(TOKEN) - 5) if TOKEN[n:n + 6] in f"{error} {error.hint}"]


def test_secrets_are_in_no_representation() -> None:
    credentials = Credentials.of(SIGNED | LOGIN)
    web = Web("http://127.0.0.1:9", say=print)
    web.use(TOKEN)
    for thing in (credentials, web):
        assert not [s for s in SECRETS if s in f"{thing!r} {thing}"]


# Which service it is


def test_the_kind_of_service_is_found_without_a_token(pusher: Pusher, v0: V0Server, store: StoreServer) -> None:
    for server, kind in ((v0, "v0"), (store, "store")):
        assert pusher(server.address, dry_run=True)["backend"] == kind
        assert not [r for r in server.seen if "Authorization" in r.headers]
        assert not [r for r in server.seen if r.method != "GET"]


def test_a_service_that_hides_its_list_is_found_as_well(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("GET", DOC, status=401))
    assert pusher(store.address, dry_run=True)["backend"] == "store"


def test_what_is_no_service_is_an_error(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("GET", DOC, status=404))
    assert "--backend" in pusher.fails(store.address, "does not look like").hint
    assert "--backend" in pusher.fails(store.address, "405|404", backend="v0").hint
    assert "--backend" in pusher.fails(store.address, "no backend `v1`", backend="v1").hint
    store.faults.append(Fault("POST", DOC, status=200, body=b"<html>welcome</html>"))
    assert "--backend" in pusher.fails(store.address, "without `pid`", backend="store").hint


@pytest.mark.parametrize("to", ["", "yprov.example.org", "ftp://host", "file:///etc/passwd", "http://", "https://a b",
                                "http://[::1", "http://host:port", "https://host\r\nX: y", "https://a..b.org",
                                f"https://{'a' * 70}.org", "https://host/\udcff"])
def test_what_is_no_address_is_refused(pusher: Pusher, to: str) -> None:
    assert "https://" in pusher.fails(to, "no address").hint


@pytest.mark.parametrize("to", ["https://ada:battery@host", f"https://host/?token={TOKEN}",
                                f"https://{TOKEN}@host", "https://host/#x"])
def test_an_address_with_a_secret_is_refused_and_not_repeated(pusher: Pusher, to: str) -> None:
    assert "YPROV_TOKEN" in pusher.fails(to, "neither names, passwords nor questions").hint


def test_addresses_are_the_same_with_a_slash_at_the_end() -> None:
    assert address_of(" https://Host/a/ ") == "https://Host/a"


@pytest.mark.parametrize(("address", "local"), [
    ("http://localhost:3000", True),
    ("http://127.1.2.3", True), ("http://[::1]:80", True), ("http://a.localhost", True),
    ("http://10.0.0.1", False), ("http://localhost.example.org", False), ("http://127.0.0.1.example.org", False)])
def test_which_hosts_are_this_one(address: str, local: bool) -> None:
    assert is_local(address) is local


# What goes wrong on the way


@pytest.mark.parametrize("fault", [
    {"status": 500}, {"status": 502, "body": b"<html>Bad Gateway</html>"}, {"status": 503}, {"status": 504},
    {"status": 429}, {"reset": True}, {"status": 200, "torn": True}], ids=str)
@pytest.mark.parametrize(("server", "method"), [(V0Server, "PUT"), (StoreServer, "POST")])
def test_what_passes_is_tried_again(pusher: Pusher, server: Any, method: str, fault: dict[str, Any]) -> None:
    with server() as there:
        there.faults += [Fault(method, DOC, **fault), Fault(method, DOC, **fault)]
        assert pusher(there.address)["sent"] is True
        assert pusher.slept == [1.0, 2.0]
        assert [line for line in pusher.lines if f"3 of {ATTEMPTS}" in line]
        assert there.broken == []


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"reset": True}], ids=str)
def test_what_does_not_pass_ends_after_some_times(pusher: Pusher, store: StoreServer, fault: dict[str, Any]) -> None:
    store.faults += [Fault("POST", DOC, **fault) for _ in range(20)]
    error = pusher.fails(store.address, f"tried {ATTEMPTS} times")
    assert pusher.slept == [1.0, 2.0, 4.0, 8.0]
    assert "later" in error.hint
    assert store.count("POST", DOC) == ATTEMPTS


def test_a_service_that_is_not_there(pusher: Pusher) -> None:
    with StoreServer() as gone:
        pass
    pusher.fails(gone.address, "no connection to .*: Connection refused; tried 5 times", backend="store")
    pusher.fails("http://yprov.invalid", "no host|no connection", backend="store")


@pytest.mark.parametrize("fault", [{"reset": True}, {"status": 500}, {"status": 200, "torn": True}], ids=str)
@pytest.mark.parametrize("older", [False, True])
def test_a_document_whose_acknowledgement_was_lost_is_not_published_twice(
    pusher: Pusher, fault: dict[str, Any], older: bool
) -> None:
    with StoreServer(older=older) as server:
        first = pusher(server.address)
        change(pusher.run_dir)
        server.faults.append(Fault("POST", DOC, then=True, **fault))
        told = pusher(server.address)
        assert (told["sent"], told["parent"], told["version"]) == (True, first["pid"], 2)
        assert len(server.documents) == 2
        assert pusher(server.address)["sent"] is False


def test_a_document_of_before_is_not_taken_for_the_lost_one(pusher: Pusher, store: StoreServer) -> None:
    """The same document, published an hour ago; and one of just now, with another parent."""
    clock, store.now = store.now, lambda: datetime.now(UTC).timestamp() - 3600
    pusher(store.address)
    (pusher.run_dir / PUSH_FILE).unlink()
    store.now = clock
    store.faults.append(Fault("POST", DOC, status=500))
    assert pusher(store.address)["pid"].endswith("doc-2")
    store.faults.append(Fault("POST", DOC, status=500))
    assert pusher(store.address, parent="21.T11961/doc-1")["pid"].endswith("doc-3")


def test_a_lost_document_is_found_by_the_services_own_clock(pusher: Pusher) -> None:
    with StoreServer(now=lambda: datetime.now(UTC).timestamp() - 7200) as server:
        server.faults.append(Fault("POST", DOC, reset=True, then=True))
        assert pusher(server.address)["pid"].endswith("doc-1")
        assert len(server.documents) == 1


@pytest.mark.parametrize(("said", "slept"), [
    ("7", [7.0]), ("0", [0.0]), ("soon", [1.0]), ("-5", [1.0]),
    (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True), [30.0]),
    ("Mon, 01 Jan 2001 00:00:00 GMT", [0.0])])
def test_retry_after_is_heeded(pusher: Pusher, store: StoreServer, said: Any, slept: list[float]) -> None:
    text = said if isinstance(said, str) else said()
    store.faults.append(Fault("POST", DOC, status=429, headers={"Retry-After": text}))
    pusher(store.address)
    assert pusher.slept == pytest.approx(slept, abs=3)


def test_a_long_retry_after_is_told_and_not_waited_for(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=503, headers={"Retry-After": "86400"}))
    pusher.fails(store.address, "come back in 86400 s")
    assert pusher.slept == []


def test_a_silent_service_is_a_timeout(pusher: Pusher, store: StoreServer) -> None:
    store.faults += [Fault("POST", DOC, silent=True) for _ in range(ATTEMPTS)]
    error = pusher.fails(store.address, r"no answer within 0\.05 s; tried 5 times", timeout_s=0.05)
    assert "--timeout" in error.hint
    assert "more than once" in error.hint  # it may be at work on each of them


def test_a_service_that_may_have_it_twice_is_warned_of(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, silent=True))
    pusher(store.address, timeout_s=0.3)
    assert [line for line in pusher.lines if line.startswith("warning: it may be there more than once")]
    change(pusher.run_dir)
    store.faults.append(Fault("POST", DOC, silent=True, then=True))
    pusher.lines.clear()
    assert pusher(store.address, timeout_s=0.3)["version"] == 2
    assert not [line for line in pusher.lines if "warning" in line]  # it was found, and sent once


def test_a_gateway_that_gave_up_is_no_promise_either(pusher: Pusher, store: StoreServer) -> None:
    store.faults += [Fault("POST", DOC, status=504) for _ in range(ATTEMPTS)]
    assert "more than once" in pusher.fails(store.address, "tried 5 times").hint


def test_a_slow_service_that_answers_the_second_time(pusher: Pusher, v0: V0Server) -> None:
    v0.faults.append(Fault("PUT", DOC, silent=True))
    assert pusher(v0.address, timeout_s=0.2)["sent"] is True


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_to_another_place_is_not_followed(
    pusher: Pusher, store: StoreServer, status: int, method: str
) -> None:
    with StoreServer() as thief:
        pusher(store.address)
        change(pusher.run_dir)
        store.faults.append(Fault(method, "/documents/" if method == "GET" else DOC, status=status,
                                  headers={"Location": f"{thief.address}/documents?token={TOKEN}"}))
        error = pusher.fails(store.address, "another place", backend="store")
        assert thief.seen == []
        assert thief.address in error.hint


@pytest.mark.parametrize("location", ["//evil.example/x", "https://127.0.0.1:1/x", "file:///etc/passwd", "ftp://h/x",
                                      "http://127.0.0.1@evil.example/", "http://[bad"])
def test_a_redirect_to_odd_places_is_not_followed(pusher: Pusher, store: StoreServer, location: str) -> None:
    store.faults.append(Fault("POST", DOC, status=307, headers={"Location": location}))
    pusher.fails(store.address, "another place")


def test_a_redirect_at_the_same_place_is_followed_with_the_token_and_the_body(
    pusher: Pusher, store: StoreServer
) -> None:
    store.faults += [Fault("POST", DOC, status=307, headers={"Location": "/documents"})]
    assert pusher(store.address)["sent"] is True
    assert store.broken == []


def test_redirects_that_lose_the_body_or_go_round_are_errors(pusher: Pusher, store: StoreServer) -> None:
    store.faults += [Fault("POST", DOC, status=301, headers={"Location": "/elsewhere"})]
    assert "--to" in pusher.fails(store.address, "has moved").hint
    store.faults += [Fault("POST", DOC, status=308, headers={"Location": "/documents"}) for _ in range(9)]
    pusher.fails(store.address, "round in circles")


@pytest.mark.parametrize(("status", "said"), [
    (400, "Document not valid"), (413, "at most 1 MB"), (404, "404"), (405, "405"), (409, "a conflict"),
    (418, "short and stout"), (422, "a field is missing")])
def test_a_no_is_told_in_the_services_words_and_not_tried_again(
    pusher: Pusher, store: StoreServer, status: int, said: str
) -> None:
    store.faults.append(Fault("POST", DOC, status=status, body=json.dumps({"detail": [{"msg": said}]}).encode()))
    pusher.fails(store.address, said)
    assert (pusher.slept, store.count("POST", DOC)) == ([], 1)


def test_a_document_that_is_too_large_is_told_as_such(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=413))
    assert "--dry-run" in pusher.fails(store.address, "too large for the service").hint


def test_a_long_answer_is_cut_and_a_page_is_left_out(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=400, body=b"no " * 10_000, headers={"Content-Type": "text/plain"}))
    assert len(str(pusher.fails(store.address, "400"))) < 500
    store.faults.append(Fault("POST", DOC, status=400, body=b"<html>no", headers={"Content-Type": "text/html"}))
    assert "html" not in str(pusher.fails(store.address, "400"))


def test_https_where_only_http_is_spoken_is_told_and_not_tried_again(pusher: Pusher, store: StoreServer) -> None:
    error = pusher.fails(store.address.replace("http:", "https:"), "no secure connection", backend="store")
    assert pusher.slept == []
    assert error.hint


def test_plain_http_to_another_host_is_warned_of_once(pusher: Pusher, store: StoreServer) -> None:
    pusher(store.address)
    assert not [line for line in pusher.lines if "warning" in line]
    pusher(store.address.replace("127.0.0.1", "0.0.0.0"))  # ourselves, and no name of a host says so
    assert len([line for line in pusher.lines if "http, not https" in line]) == 1


def test_what_is_sent_to_v0_is_declared_to_the_letter(pusher: Pusher, v0: V0Server) -> None:
    pusher(v0.address, LOGIN)
    assert {r.headers["Content-Type"] for r in v0.seen if r.method in ("PUT", "POST")} == {"application/json"}


def test_a_refusal_is_heard_although_the_document_was_not_read(pusher: Pusher, store: StoreServer) -> None:
    doc = document(pusher.run_dir)
    doc["entity"]["run:large"] = {"prov:label": "x" * 24_000_000}
    (pusher.run_dir / "prov.json").write_text(json.dumps(doc))
    store.faults.append(Fault("POST", DOC, status=413, early=True))
    pusher.fails(store.address, "too large for the service", backend="store")
    assert pusher.slept == []
    store.faults.append(Fault("POST", DOC, status=200, body=b'{"pid": "x"}', early=True))
    assert pusher(store.address, backend="store")["pid"].endswith("doc-1")  # of what it did not see
    assert len(pusher.slept) == 1


def test_an_answer_that_drips_for_ever_is_none(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, drip=True))
    assert pusher(store.address, timeout_s=0.1)["sent"] is True
    assert [line for line in pusher.lines if "the answer does not end" in line]


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e300, 0.0, -1.0])
def test_what_is_no_time_is_refused(pusher: Pusher, store: StoreServer, timeout: float) -> None:
    assert "--timeout" in pusher.fails(store.address, "no time to wait", timeout_s=timeout).hint


def test_addresses_with_letters_of_all_languages(pusher: Pusher) -> None:
    with StoreServer("/döc/日本") as server:
        told = pusher(server.address)
        assert told["sent"] is True
        assert told["url"].isascii()
        assert pusher(server.address)["sent"] is False
    assert address_of("https://döc.example/ö") == "https://xn--dc-fka.example/%C3%B6"
    assert address_of("https://host/a%20b~c") == "https://host/a%20b~c"


def test_a_redirect_to_a_name_that_is_not_ascii(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=307, headers={"Location": "/döc"}))
    pusher.fails(store.address, "404")
    assert store.count("POST", "/d\ufffdc") == 1  # its byte, which was no UTF-8


@pytest.mark.parametrize(("server", "kind"), [(V0Server, "v0"), (StoreServer, "store")])
def test_an_answer_that_is_nested_without_end_is_no_traceback(pusher: Pusher, server: Any, kind: str) -> None:
    deep = b"[" * 200_000
    with server() as there:
        pusher(there.address)
        change(pusher.run_dir)
        there.faults += [Fault(m, DOC, status=200, body=deep) for m in ("GET", "GET", "GET", "POST", "PUT")]
        pusher.fails(there.address, "without `pid`|did not answer as", backend=kind)
        there.faults.clear()
        assert pusher(there.address)["sent"] is True


def test_v0_that_gives_back_what_is_nested_without_end_is_sent_the_document(pusher: Pusher, v0: V0Server) -> None:
    pusher(v0.address)
    v0.faults.append(Fault("GET", DOC + "/", status=200, body=json.dumps({"result": "[" * 200_000}).encode()))
    assert pusher(v0.address)["sent"] is True


def test_a_proxy_is_not_asked_for_this_machine(
    pusher: Pusher, store: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StoreServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        assert pusher(store.address)["sent"] is True
        assert proxy.seen == []
        pusher("http://yprov.example.org")
        assert "Host: yprov.example.org" in str(proxy.seen[-1].headers)
        assert [line for line in pusher.lines if "yprov.example.org can be read on its way" in line]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("number", "said"), [
    (socket.EAI_NONAME, r"no host `proxy\.invalid:3128`, which the environment names as the proxy"),
    (socket.EAI_AGAIN, r"not now \(through the proxy proxy\.invalid:3128\); tried 5 times")])
def test_a_proxy_that_is_not_found_is_told_as_such(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch, scheme: str, number: int, said: str
) -> None:
    def nobody(*_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(number, "not now")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setenv(f"{scheme}_proxy", "http://ada:battery@proxy.invalid:3128")
    pusher.fails(f"{scheme}://yprov.example.org", said)


# What is pushed


def test_what_is_no_run_or_has_no_archive_or_a_damaged_one(pusher: Pusher, store: StoreServer) -> None:
    with pytest.raises(YprovError, match="is not a run"):
        parcel_of(pusher.run_dir / "logs")
    (pusher.run_dir / "prov.json").write_text('{"activity": ')
    assert "yprov validate" in pusher.fails(store.address, "damaged").hint
    (pusher.run_dir / "prov.json").unlink()
    os.utime(pusher.run_dir / "spool" / "a.spool", (0, 0))  # nobody writes to it any more
    assert "yprov stitch" in pusher.fails(store.address, "no archive yet").hint
    assert store.seen == []


def test_a_run_that_says_little_has_metadata_all_the_same(pusher: Pusher, store: StoreServer) -> None:
    doc = {"activity": {"run:run": {"yp:state": "incomplete", "yp:tags": "no json", "prov:label": "x" * 5000}},
           "entity": {}, "agent": {"run:a": 3}}
    (pusher.run_dir / "prov.json").write_text(json.dumps(doc))
    pusher(store.address)
    metadata = next(iter(store.documents.values())).metadata
    assert metadata["author"] == ""
    assert metadata["keywords"] == ["yprov", "incomplete"]
    assert len(metadata["title"]) < 1100


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_a_dry_run_tells_all_and_sends_nothing(pusher: Pusher, server: Any) -> None:
    with server() as there:
        told = pusher(there.address, dry_run=True)
        assert {r.method for r in there.seen} == {"GET"}
        assert told["credentials"] == "YPROV_TOKEN"
        assert pusher(there.address, {}, dry_run=True)["credentials"] is None
        sent = pusher(there.address)
        request = next(r for r in there.seen if r.method in ("PUT", "POST"))
        assert (told["method"], len(request.body), told["query"]) == (request.method, told["bytes"], request.query)
        assert told["url"] in (sent["url"], f"{there.address}/documents")
        assert pusher(there.address, dry_run=True)["pushed_before"] == sent["pid"]


def test_a_dry_run_names_the_parent_of_a_changed_document_and_the_artifacts(
    pusher: Pusher, store: StoreServer
) -> None:
    first = pusher(store.address)
    change(pusher.run_dir)
    told = pusher(store.address, dry_run=True, artifacts=True)
    assert told["query"]["parent_document_pid"] == first["pid"]
    assert told["artifacts"] == ["artifacts/1.pt", "artifacts/odd näme #1?.txt"]


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_a_dry_run_of_what_is_there_says_so(pusher: Pusher, server: Any) -> None:
    with server() as there:
        first = pusher(there.address)
        assert pusher(there.address, dry_run=True)["there"] == first["pid"]
        kept = there.documents if server is StoreServer else there.graphs
        kept.clear()
        assert pusher(there.address, dry_run=True)["there"] is None
        pusher(there.address)
        change(pusher.run_dir)
        assert pusher(there.address, dry_run=True)["there"] is None


@pytest.mark.parametrize("server", [V0Server, StoreServer])
def test_a_dry_run_at_a_service_that_hides_its_documents_goes_by_what_is_known(pusher: Pusher, server: Any) -> None:
    with server() as there:
        first = pusher(there.address)
        there.faults += [Fault("GET", DOC + "/", status=401), Fault("GET", DOC + "/", status=401)]
        assert pusher(there.address, dry_run=True)["there"] == first["pid"]
        change(pusher.run_dir)
        assert pusher(there.address, dry_run=True)["there"] is None


def test_a_dry_run_names_the_artifacts_that_are_not_there_yet(pusher: Pusher, store: StoreServer) -> None:
    pusher(store.address, artifacts=True)
    assert pusher(store.address, artifacts=True, dry_run=True)["artifacts"] == []
    (pusher.run_dir / "artifacts/1.pt").write_text("more")
    assert pusher(store.address, artifacts=True, dry_run=True)["artifacts"] == ["artifacts/1.pt"]


@pytest.mark.parametrize("name", ['a"b', "a\r\nX: y", "日本", "\udcff"])
def test_no_name_of_a_file_breaks_a_form(tmp_path: Path, name: str) -> None:
    form = Multipart("document_file", name, "text/plain", b"content", "boundary")
    data = b"".join(form)
    assert len(data) == form.size
    assert b"".join(form) == data  # it can be sent again
    assert data.count(b"\r\n") == 6
    head, _, rest = data.partition(b"\r\n\r\n")
    assert rest == b"content\r\n--boundary--\r\n"
    assert head.count(b'"') == 4


def test_a_file_that_grows_or_shrinks_while_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"12345")
    form = Multipart("document_file", "log", "text/plain", path, "boundary")
    path.write_bytes(b"1234567")
    assert len(b"".join(form)) == form.size
    path.write_bytes(b"12")
    with pytest.raises(YprovError, match="shorter"):
        list(form)
    path.unlink()
    with pytest.raises(YprovError, match="cannot read"):
        list(form)


@given(st.text(max_size=400))
def test_what_others_said_is_one_short_line(text: str) -> None:
    line = clean(text, [TOKEN])
    assert len(line) <= 303
    assert line.splitlines() in ([], [line])


def test_a_refusal_knows_its_code(pusher: Pusher, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=409))
    error = pusher.fails(store.address, "409")
    assert isinstance(error, Refused)
    assert error.code == 409


# The command


def command(run_dir: Path, *args: str, **environ: str) -> Any:
    return yprov("push", str(run_dir), *args, cwd=run_dir.parent, env=environment(**environ))


def test_the_command_prints_the_address_then_nothing_to_do(run_dir: Path, store: StoreServer) -> None:
    done = command(run_dir, "--to", store.address, **SIGNED)
    assert (done.returncode, done.stderr) == (0, "")
    pid = next(iter(store.documents))
    assert done.stdout == f"{store.address}/documents/{pid} (published, version 1)\n"
    again = command(run_dir, "--to", store.address, "--json", **SIGNED)
    assert json.loads(again.stdout) == {
        "directory": str(run_dir), "backend": "store", "url": f"{store.address}/documents/{pid}", "pid": pid,
        "version": 1, "parent": None, "sent": False, "artifacts": {},
        "sha256": hashlib.sha256((run_dir / "prov.json").read_bytes()).hexdigest()}


def test_the_command_tells_of_retries_and_failures_on_stderr(run_dir: Path, store: StoreServer) -> None:
    store.faults.append(Fault("POST", DOC, status=503, headers={"Retry-After": "0"}))
    store.faults.append(Fault("POST", DOC, status=400, body=f'{{"description": "not {TOKEN}"}}'.encode()))
    done = command(run_dir, "--to", store.address, "--backend", "store", **SIGNED)
    assert (done.returncode, done.stdout) == (1, "")
    assert "yprov: POST" in done.stderr
    assert "again in 0 s (2 of 5)" in done.stderr
    assert "error: the service refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stderr


def test_the_command_shows_a_dry_run(run_dir: Path, v0: V0Server) -> None:
    done = command(run_dir, "--dry-run", YPROV_API_URL=v0.address)
    assert done.returncode == 0
    assert f"PUT {v0.address}/api/v0/documents/yprov-{RUN_ID}" in done.stdout
    assert "set YPROV_TOKEN" in done.stdout
    assert v0.count("PUT") == 0


def test_the_command_shows_a_dry_run_of_what_is_there(run_dir: Path, store: StoreServer) -> None:
    command(run_dir, "--to", store.address, **SIGNED)
    pid = next(iter(store.documents))
    done = command(run_dir, "--to", store.address, "--dry-run")
    assert (done.returncode, done.stdout) == (0, f"nothing would be sent: it is {pid}\n")
    done = command(run_dir, "--to", store.address, "--dry-run", "--artifacts")
    assert done.stdout.startswith(f"but for artifacts, nothing would be sent: it is {pid}\n  artifacts/1.pt\n")


def test_no_option_takes_a_secret() -> None:
    import typer.main

    from yprov.cli import app

    commands = typer.main.get_command(app)
    assert hasattr(commands, "commands")
    assert {o for p in commands.commands["push"].params for o in p.opts} == {
        "run", "--to", "--backend", "--parent", "--artifacts", "--timeout", "--dry-run", "--dir", "--json"}


def test_another_program_of_the_name_yprov_is_not_called(run_dir: Path, store: StoreServer, tmp_path: Path) -> None:
    """The client of yProvStore is a command of this name as well."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "yprov"
    fake.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    fake.chmod(0o755)
    done = command(run_dir, "--to", store.address, PATH=f"{tmp_path}/bin:{os.environ['PATH']}", **SIGNED)
    assert done.returncode == 0
    assert not (tmp_path / "called").exists()
    assert YPROV[1:] == ["-m", "yprov.cli"]


def test_a_push_loads_none_of_the_heavy_rooms(run_dir: Path, store: StoreServer) -> None:
    import subprocess
    import sys

    code = ("import sys, os; from pathlib import Path; from yprov.pushing import Options, push\n"
            f"push(Path({str(run_dir)!r}), Options({store.address!r}), os.environ, say=print)\n"
            "print(sorted({m.partition('.')[0] for m in sys.modules} & {'numpy', 'zarr', 'prov', 'typer', 'yaml'}))")
    done = subprocess.run([sys.executable, "-c", code], env=environment(**SIGNED), capture_output=True, text=True,
                          check=True)
    assert done.stdout == "[]\n"


def test_the_record_never_has_the_variables_of_a_push() -> None:
    from yprov.capture import ENVIRONMENT

    assert not {"YPROV_TOKEN", "AUTHORIZATION_TOKEN", "YPROV_PASSWORD", "YPROV_USER"} & set(ENVIRONMENT)


def test_a_document_that_was_read_back_is_compared_by_what_it_says(pusher: Pusher, v0: V0Server) -> None:
    """Not by names of relations, types of values or digits of times: each of these is the service's own."""
    pid = pusher(v0.address)["pid"]
    doc = document(pusher.run_dir)
    assert v0.graphs[pid].document() != doc
    key = next(k for k in v0.graphs[pid].edges if k[0] == "used")
    del v0.graphs[pid].edges[key]
    assert pusher(v0.address)["sent"] is True
    name = next(n for n in v0.graphs[pid].nodes if n.startswith("run:param/"))
    v0.graphs[pid].nodes[name][1]["prov:value"] = "another"
    assert pusher(v0.address)["sent"] is True
    assert pusher(v0.address)["sent"] is False
