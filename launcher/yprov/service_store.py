"""yProvStore (HPCI-Lab/yProvStore, FastAPI), as its documents and sources have it in 2026.

`POST /auth/login` {email, password} -> {access_token}; `POST /documents?parent_document_pid=&document_metadata=`, the
file as the field `document_file` of a form -> {pid, version, ...}; `GET /documents/<pid>` gives the file (older
servers: its record, and the file at `.../download`); `GET /documents?page=&page_size=&created_after=` lists records. A
new version is a document with a parent. Artifacts: `POST /artifacts/upload/url?filename=` -> {pid, upload_url}, `PUT`
of a form with the file there -> {pid, hash}; `PATCH /documents/<pid>/related` {related_pids}. Errors are
{description: text}, FastAPI's own {detail: text}.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote

from yprov.addresses import json_of
from yprov.bodies import Json, Multipart
from yprov.parcels import Attempt, Parcel, Published, Request, text_of
from yprov.web import Answer, Web
from yprovd.errors import YprovError

_PAGE, _PAGES = 50, 40
#: What tells nothing of a list. 401 is no such answer: another token may do.
_NO_LIST = frozenset(range(400, 600)) - {401}


class StoreService:
    name = "store"

    def __init__(self, web: Web) -> None:
        self.web = web

    def login(self, user: str, password: str) -> str:
        answer = self.web.call("POST", "/auth/login", body=Json({"email": user, "password": password}), signed=False)
        return text_of(answer, "access_token", self.web)

    def request(self, parcel: Parcel, parent: str | None) -> Request:
        body = _form(parcel)
        return Request("POST", f"{self.web.address}/documents", body.kind, body.size, _query(parcel, parent))

    def standing(
        self, parcel: Parcel, known: Mapping[str, Any] | None, parent: str | None
    ) -> tuple[Published | None, str | None]:
        if known is None:
            return None, parent
        pid = str(known["pid"])
        there = self._file(pid)
        if there is None:
            self.web.say(f"the service no longer has {self.web.clean(pid)}: this begins anew")
            return None, parent
        if parent in (None, pid, known.get("parent")) and _same(there, parcel):
            return Published(pid, self._url(pid), sent=False, version=known.get("version"),
                             parent=known.get("parent")), None
        return None, parent or pid

    def arrived(self, parcel: Parcel, attempt: Attempt) -> Published | None:
        record = self._record_of(parcel, attempt)
        return self._published(record, attempt, sent=False) if record is not None else None

    def send(self, parcel: Parcel, attempt: Attempt) -> Published:
        """A second try would publish it twice: so it is looked for before."""
        def arrived() -> Answer | None:
            record = self._record_of(parcel, attempt)
            return Answer(200, Message(), json.dumps(record).encode()) if record is not None else None

        answer = self.web.call("POST", "/documents", query=_query(parcel, attempt.parent), body=_form(parcel),
                               unless=arrived)
        text_of(answer, "pid", self.web)
        return self._published(answer.json(), attempt, sent=True)

    def upload(self, path: Path, name: str, sha256: str) -> str:
        """The pid of a file that was sent as an artifact."""
        given = self.web.call("POST", "/artifacts/upload/url", query={"filename": name})
        pid, url = text_of(given, "pid", self.web), text_of(given, "upload_url", self.web)
        self.web.keep_address(url)
        done = self.web.call("PUT", url, body=Multipart("document_file", name, "application/octet-stream", path,
                                                        secrets.token_hex(16)))
        answer = done.json() if done.body.strip() else {}
        if not isinstance(answer, dict):
            raise YprovError(f"`{self.web.clean(name)}` was sent, and the answer is none of yProvStore's: it may not "
                             "have arrived", hint="push it again later; see --backend")
        received = answer.get("hash")
        if received and str(received).lower() != sha256:
            raise YprovError(f"`{self.web.clean(name)}` arrived with another SHA-256 than it has here",
                             hint="push it again")
        return pid

    def relate(self, pid: str, others: list[str]) -> None:
        """Say that a document and artifacts belong together."""
        self.web.call("PATCH", f"{self._url(pid)}/related", body=Json({"related_pids": others}))

    def _url(self, pid: str) -> str:
        return f"{self.web.address}/documents/{quote(pid, safe='/')}"

    def _published(self, record: Mapping[str, Any], attempt: Attempt, sent: bool) -> Published:
        pid, version = str(record["pid"]), record.get("version")
        return Published(pid, self._url(pid), sent=sent, version=version if isinstance(version, int) else None,
                         parent=attempt.parent)

    def _file(self, pid: str, *others: int) -> bytes | None:
        """The document as the service has it; None where it has none, or answers with one of `others`."""
        none = (404, *others)
        answer = self.web.call("GET", self._url(pid), accept=none)
        record = answer.json()
        if answer.status == 200 and isinstance(record, dict) and record.get("pid") == pid and "version" in record:
            answer = self.web.call("GET", f"{self._url(pid)}/download", accept=none)
        return None if answer.status in none else answer.body

    def _record_of(self, parcel: Parcel, attempt: Attempt) -> dict[str, Any] | None:
        """What the service has of an attempt. Where the document was another one then, its bytes tell it."""
        for record in self._listed(attempt.since):
            if (record.get("parent_document_pid") or None) == attempt.parent:
                there = self._file(record["pid"], 403)
                if there is not None and (hashlib.sha256(there).hexdigest() == attempt.sha256 or (
                        attempt.sha256 == parcel.sha256 and _same(there, parcel))):
                    return record
        return None

    def _listed(self, since: datetime) -> Iterator[dict[str, Any]]:
        """The records of what was published since then; none where the service does not tell."""
        seen: set[str] = set()
        for page in range(_PAGES):
            answer = self.web.call("GET", "/documents", accept=_NO_LIST, query={
                "page": str(page), "page_size": str(_PAGE), "created_after": since.isoformat()})
            records = answer.json() if answer.status == 200 else None
            new = [r for r in records if isinstance(r, dict) and isinstance(r.get("pid"), str)
                   and r["pid"] and r["pid"] not in seen] if isinstance(records, list) else []
            if not new:
                return
            seen.update(r["pid"] for r in new)
            yield from new


def _same(data: bytes, parcel: Parcel) -> bool:
    """The same bytes, or the same JSON: a service may write it anew."""
    return data == parcel.data or json_of(data) == parcel.document


def _form(parcel: Parcel) -> Multipart:
    return Multipart("document_file", "prov.json", "application/json", parcel.data, secrets.token_hex(16))


def _query(parcel: Parcel, parent: str | None) -> dict[str, str]:
    query = {"document_metadata": json.dumps(parcel.metadata, ensure_ascii=False)}
    return query | {"parent_document_pid": parent} if parent else query
