"""yProvStore (HPCI-Lab/yProvStore, FastAPI), as its documents and sources have it in 2026.

`POST /auth/login` {email, password} -> {access_token}; `POST /documents?parent_document_pid=&document_metadata=`, the
file as the field `document_file` of a form -> {pid, version, ...}; `GET /documents/<pid>` gives the file (older
servers: its record, and the file at `.../download`); `GET /documents?page=&page_size=&created_after=` lists records. A
new version is a document with a parent. Artifacts: `POST /artifacts/upload/url?filename=` -> {pid, upload_url}, `PUT`
of a form with the file there -> {pid, hash}; `PATCH /documents/<pid>/related` {related_pids}. Errors are
{description: text}, FastAPI's own {detail: text}.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from yprov.bodies import Json, Multipart
from yprov.parcels import Parcel, Published, Request, text_of
from yprov.web import Answer, Web
from yprovd.errors import YprovError

_PAGE = 50


class StoreService:
    name = "store"

    def __init__(self, web: Web) -> None:
        self.web = web

    def login(self, user: str, password: str) -> str:
        answer = self.web.call("POST", "/auth/login", body=Json({"email": user, "password": password}))
        return text_of(answer, "access_token", self.web)

    def request(self, parcel: Parcel, parent: str | None) -> Request:
        body = _form(parcel)
        return Request("POST", f"{self.web.address}/documents", body.kind, body.size, _query(parcel, parent))

    def publish(self, parcel: Parcel, known: Mapping[str, Any] | None, parent: str | None) -> Published:
        if known is not None:
            pid = str(known["pid"])
            there = self._file(pid)
            if there is None:
                self.web.say(f"the service no longer has {self.web.clean(pid)}: this begins anew")
            elif parent in (None, pid, known.get("parent")) and _same(there, parcel):
                return Published(pid, self._url(pid), sent=False, version=known.get("version"),
                                 parent=known.get("parent"))
            else:
                parent = parent or pid
        since = self.web.seen_at - timedelta(seconds=1)  # it tells whole seconds
        answer = self.web.call("POST", "/documents", query=_query(parcel, parent), body=_form(parcel),
                               unless=lambda: self._arrived(parcel, parent, since))
        pid = text_of(answer, "pid", self.web)
        version = answer.json().get("version")
        return Published(pid, self._url(pid), sent=True, version=version if isinstance(version, int) else None,
                         parent=parent)

    def upload(self, path: Path, name: str, sha256: str) -> str:
        """The pid of a file that was sent as an artifact."""
        given = self.web.call("POST", "/artifacts/upload/url", query={"filename": name})
        pid, url = text_of(given, "pid", self.web), text_of(given, "upload_url", self.web)
        for secret in (url, url.partition("?")[0]):  # who has it may write there
            self.web.keep_secret(secret)
        done = self.web.call("PUT", url, body=Multipart("document_file", name, "application/octet-stream", path,
                                                        secrets.token_hex(16)))
        received = (done.json() or {}).get("hash")
        if received and str(received).lower() != sha256:
            raise YprovError(f"`{name}` arrived with another SHA-256 than it has here", hint="push it again")
        return pid

    def relate(self, pid: str, others: list[str]) -> None:
        """Say that a document and artifacts belong together."""
        self.web.call("PATCH", f"{self._url(pid)}/related", body=Json({"related_pids": others}))

    def _url(self, pid: str) -> str:
        return f"{self.web.address}/documents/{quote(pid, safe='/')}"

    def _file(self, pid: str) -> bytes | None:
        """The document as the service has it; None where it has none."""
        answer = self.web.call("GET", self._url(pid), accept=(404,))
        record = answer.json()
        if answer.status == 200 and isinstance(record, dict) and record.get("pid") == pid and "version" in record:
            answer = self.web.call("GET", f"{self._url(pid)}/download", accept=(404,))
        return None if answer.status == 404 else answer.body

    def _arrived(self, parcel: Parcel, parent: str | None, since: datetime) -> Answer | None:
        """The record of a document whose acknowledgement was lost: or a second try would publish it twice."""
        listed = self.web.call("GET", "/documents", accept=range(400, 600), query={
            "page": "0", "page_size": str(_PAGE), "created_after": since.isoformat()})
        records = listed.json()
        for record in records if listed.status == 200 and isinstance(records, list) else ():
            if isinstance(record, dict) and isinstance(record.get("pid"), str) and (
                    record.get("parent_document_pid") or None) == parent:
                there = self._file(record["pid"])
                if there is not None and _same(there, parcel):
                    return Answer(200, listed.headers, json.dumps(record).encode())
        return None


def _same(data: bytes, parcel: Parcel) -> bool:
    """The same bytes, or the same JSON: a service may write it anew."""
    if data == parcel.data:
        return True
    try:
        return bool(json.loads(data) == parcel.document)
    except ValueError:
        return False


def _form(parcel: Parcel) -> Multipart:
    return Multipart("document_file", "prov.json", "application/json", parcel.data, secrets.token_hex(16))


def _query(parcel: Parcel, parent: str | None) -> dict[str, str]:
    query = {"document_metadata": json.dumps(parcel.metadata, ensure_ascii=False)}
    return query | {"parent_document_pid": parent} if parent else query
