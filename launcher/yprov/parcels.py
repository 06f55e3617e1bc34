"""What `yprov push` sends, and what comes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from yprov.web import Answer, Web
from yprovd.errors import YprovError


@dataclass(frozen=True)
class Parcel:
    """A document to publish: its bytes, parsed, and what a catalogue is told of it (`title`, `description`,
    `keywords`, `author`)."""

    run_id: str
    data: bytes
    document: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Attempt:
    """One to publish a document: what, as a version of what, and not before when by the service's clock."""

    sha256: str
    parent: str | None
    since: datetime


@dataclass(frozen=True)
class Published:
    """`sent`: whether anything had to be. `version`, `parent`: of yProvStore only."""

    pid: str
    url: str
    sent: bool
    version: int | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Request:
    """The request that would publish: for `--dry-run`."""

    method: str
    url: str
    kind: str
    size: int
    query: Mapping[str, str] = field(default_factory=dict)


def text_of(answer: Answer, key: str, web: Web) -> str:
    value = answer.json()
    text = value.get(key) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text:
        raise YprovError(f"{web.address} answered without `{key}`", hint="is it the kind of service that it is taken "
                                                                         "for? see --backend")
    return text
