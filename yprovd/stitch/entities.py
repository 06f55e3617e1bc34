"""The graph of a crate in the making: entities by `@id`, values as RO-Crate wants them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from yprovd.stitch.document import time_of


class Entities:
    """Entities in the order in which they were added, each once."""

    def __init__(self) -> None:
        self.graph: dict[str, dict[str, Any]] = {}

    def add(self, identifier: str, kind: str | list[str], /, **properties: Any) -> dict[str, str]:
        """A reference to the entity, which is added when it is new. Absent properties are left out."""
        if identifier not in self.graph:
            self.graph[identifier] = {"@id": identifier, "@type": kind, **present(properties)}
        return {"@id": identifier}


def present(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is absent; a list of one is its one value ("compacted", as RO-Crate 1.1 says)."""
    kept = {k: v for k, v in properties.items() if v is not None and v != "" and v != []}
    return {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in kept.items()}


def id_of_path(path: str) -> str:
    """A relative path as an `@id`: percent-encoded."""
    return quote(os.fsencode(path), safe="/")


def path_of_id(identifier: str) -> str:
    return os.fsdecode(unquote_to_bytes(identifier))


def iso(ns: int) -> str:
    """In UTC, to the millisecond: what the profile takes for ISO 8601 has three digits behind the point, or none."""
    return time_of(ns).isoformat(timespec="milliseconds")


def is_web(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>\"{}|\\^`]+", text) is not None


def address(thing: Mapping[str, Any]) -> str | None:
    """The `id` of a person or an organisation as a web address: one it is, or an ORCID or a ROR without the site."""
    text = str(thing.get("id") or "").strip()
    plain = re.sub(r"^(?:https?://)?(?:www\.)?(?:orcid|ror)\.org/", "", text)
    if re.fullmatch(r"(?:\d{4}-){3}\d{3}[\dX]", plain):
        return f"https://orcid.org/{plain}"
    if re.fullmatch(r"0[a-hj-km-np-tv-z0-9]{6}\d{2}", plain):
        return f"https://ror.org/{plain}"
    return text if is_web(text) else None


def web_address(remote: str) -> str | None:
    """A git remote as a web address: `git@host:path.git` and `ssh://git@host/path` are `https://host/path`.
    A name and password in it are left out, and so is a query, which may hold a token. None for what is none (a path,
    nothing). The port is that of the web only where the remote is."""
    web = re.fullmatch(r"https?://(?:[^@/]*@)?([\w.-]+(?::\d+)?)/([^?#]+).*", remote)
    m = (web or re.fullmatch(r"(?:ssh|git)://(?:[^@/]*@)?([\w.-]+)(?::\d+)?/([^?#]+).*", remote)
         or re.fullmatch(r"(?:[\w.-]+@)([\w.-]+):([^?#]+).*", remote))
    if m is None:
        return None
    path = m[2].strip("/").removesuffix(".git")
    scheme = "http" if remote.startswith("http:") and ":" in m[1] else "https"
    return f"{scheme}://{m[1]}/{quote(path, safe='/~')}"
