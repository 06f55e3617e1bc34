"""The service v0 of yProv (HPCI-Lab/yProv, Flask on Neo4j), as its documents and sources have it in 2026.

`GET /` says that it is active; `POST /api/v0/auth/login` {user, password} -> {result: token};
`PUT /api/v0/documents/<id>`, whose `Content-Type` must be `application/json` to the letter; `GET` of the same ->
{result: PROV-JSON as text}. Errors are {error: text}; what stands before a
service answers 200 with a page. What is to be known of it:

- The id is the name of a database: 3 to 63 letters, digits, dots and dashes, a letter first. Ours is made from the
  run's id alone, so that a run has one document there, whoever pushes it.
- A graph of nodes and edges lies between, and its reader takes text only: a document with a number is stored and
  cannot be fetched again (500). So numbers, truth and times are sent as text, as yProv4ML writes them itself.
- PUT adds and replaces, it removes nothing. There are no versions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from yprov.addresses import json_of
from yprov.bodies import Json
from yprov.parcels import Attempt, Parcel, Published, Request, text_of
from yprov.web import Answer, Web
from yprovd.errors import YprovError

_ELEMENTS = ("entity", "activity", "agent")


class V0Service:
    name = "v0"

    def __init__(self, web: Web) -> None:
        self.web = web

    def login(self, user: str, password: str) -> str:
        answer = self.web.call("POST", "/api/v0/auth/login", body=Json({"user": user, "password": password}),
                               signed=False)
        return text_of(answer, "result", self.web)

    def request(self, parcel: Parcel, parent: str | None) -> Request:
        body = Json(text_only(parcel.document))
        return Request("PUT", self._url(parcel), body.kind, body.size)

    def standing(
        self, parcel: Parcel, known: Mapping[str, Any] | None, parent: str | None
    ) -> tuple[Published | None, str | None]:
        url = self._url(parcel)
        there = self.web.call("GET", url, accept=(403, 404, 500))
        theirs = _document_in(there) if there.status == 200 else None
        if theirs is not None:
            ours, held = _statements(parcel.document), _statements(theirs)
            if ours <= held:
                return Published(database_name(parcel.run_id), url, sent=False), None
            if gone := sum(1 for kind, *_ in held - ours if kind in _ELEMENTS):
                self.web.say(f"the service keeps what a document no longer says: {gone} statements of the one before")
        return None, None

    def arrived(self, parcel: Parcel, attempt: Attempt) -> Published | None:
        return None  # what is put twice is there once

    def send(self, parcel: Parcel, attempt: Attempt) -> Published:
        pid, url = database_name(parcel.run_id), self._url(parcel)
        answer = self.web.call("PUT", url, body=Json(text_only(parcel.document)))
        value = answer.json()
        if not isinstance(value, dict):
            raise YprovError(f"{self.web.clean(url)} did not answer as the service v0 does: nothing is known to be "
                             "published", hint="is it the kind of service that it is taken for? see --backend")
        if value.get("error"):
            raise self.web.refusal(answer, url)
        return Published(pid, url, sent=True)

    def _url(self, parcel: Parcel) -> str:
        return f"{self.web.address}/api/v0/documents/{database_name(parcel.run_id)}"


def database_name(run_id: str) -> str:
    """The run's id as the name of a Neo4j database: 3 to 63 of `a-z0-9.-`, a letter first, not `system...`."""
    if re.fullmatch(r"[0-9A-Fa-f-]{8,40}", run_id):
        return f"yprov-{run_id.lower().strip('-')}"
    return f"yprov-{hashlib.sha256(run_id.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def text_only(document: Mapping[str, Any]) -> bytes:
    """The document with every value as text; names (`xsd:QName`) stay names."""
    def plain(value: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, dict) and "$" in value and value.get("type") != "xsd:QName" and "lang" not in value:
            return plain(value["$"])
        return value

    out = {
        section: records if section == "prefix" else {
            name: {key: plain(value) for key, value in record.items()} for name, record in records.items()}
        for section, records in document.items()}
    return json.dumps(out, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")


def _document_in(answer: Answer) -> dict[str, Any] | None:
    """The PROV-JSON in {result: text}."""
    value = answer.json()
    text = value.get("result") if isinstance(value, dict) else None
    document = json_of(text) if isinstance(text, str) else None
    return document if isinstance(document, dict) else None


def _statements(document: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """What a document says, in a form that does not change on its way through a graph: an element, an attribute of an
    element, a relation with its attributes; values as text, relations without names."""
    out: set[tuple[str, ...]] = set()
    for section, records in document.items():
        for name, record in records.items() if section != "prefix" and isinstance(records, dict) else ():
            said = [(key, _value_text(key, value)) for key, value in record.items()] if isinstance(record, dict) else []
            if section in _ELEMENTS:
                out.add((section, name))
                out.update((section, name, key, text) for key, text in said)
            else:
                out.add((section, *(part for pair in sorted(said) for part in pair)))
    return out


def _value_text(key: str, value: Any) -> str:
    if isinstance(value, dict) and "$" in value:
        value = value["$"]
    if isinstance(value, bool):
        return "true" if value else "false"
    if key.endswith(("Time", ":time")):
        try:
            return datetime.fromisoformat(str(value)).isoformat()
        except ValueError:
            pass  # no time, then, and compared as it is
    return str(value)
