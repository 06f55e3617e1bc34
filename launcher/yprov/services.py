"""The services of yProv that take documents, and which of them answers at an address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from yprov.parcels import Attempt, Parcel, Published, Request
from yprov.service_store import StoreService
from yprov.service_v0 import V0Service
from yprov.web import Web
from yprovd.errors import YprovError

V0, STORE = V0Service.name, StoreService.name
BACKENDS = ("auto", V0, STORE)


class Service(Protocol):
    name: str

    def login(self, user: str, password: str) -> str: ...
    def request(self, parcel: Parcel, parent: str | None) -> Request: ...

    def standing(
        self, parcel: Parcel, known: Mapping[str, Any] | None, parent: str | None
    ) -> tuple[Published | None, str | None]:
        """The document where the service has it as it is, else None and the parent that it is to have. `known`: {pid,
        version, parent, sha256} as the last push to this service left it. Raises YprovError."""
        ...

    def arrived(self, parcel: Parcel, attempt: Attempt) -> Published | None:
        """What came of an attempt of which no answer was heard. Raises YprovError."""
        ...

    def send(self, parcel: Parcel, attempt: Attempt) -> Published:
        """Raises YprovError."""
        ...


def service_at(web: Web, backend: str = "auto") -> Service:
    """The service of this kind, or of the kind that answers there. Nothing secret is sent. Raises YprovError."""
    if backend == "auto":
        backend = _kind_of(web)
    return V0Service(web) if backend == V0 else StoreService(web)


def _kind_of(web: Web) -> str:
    every = range(300, 500)
    root = web.call("GET", "/", accept=every, signed=False)
    if b"i'm active" in root.body.lower():
        return V0
    listed = {
        STORE: web.call("GET", "/documents", query={"page": "0", "page_size": "1"}, accept=every, signed=False),
        V0: web.call("GET", "/api/v0/documents", accept=every, signed=False),
    }
    there = [kind for kind, answer in listed.items()
             if answer.status in (401, 403) or (answer.status == 200 and answer.json() is not None)]
    if len(there) != 1:
        raise YprovError(f"{web.address} does not look like a service of yProv",
                         hint="--backend v0 or --backend store says which one it is")
    return there[0]
