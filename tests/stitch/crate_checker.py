"""Runs in `.venv-crate` (make crate-env), not in the environment of the tests: what others make of our crates.

    python crate_checker.py seed CACHE          the validator's HTTP cache, so that it needs no network
    python crate_checker.py validate CACHE CRATE...
    python crate_checker.py load CRATE...

`validate` prints {crate: [issue, ...]} as JSON, of severity REQUIRED and RECOMMENDED, by the profile Process Run Crate
0.5; `load` what the `rocrate` package reads: {crate: {files, name, actions}}.

The context of RO-Crate is that which the `rocrate` package carries. It is of 1.3 and has the terms of 1.1 and more, so
a term that 1.1 lacks would go unnoticed: the test that lists our terms is for that. The context of Workflow Run is its
16 terms, each `https://w3id.org/ro/terms/workflow-run#TERM`.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

WFRUN = "https://w3id.org/ro/terms/workflow-run"
WFRUN_TERMS = (
    "ContainerImage", "DockerImage", "SIFImage", "ParameterConnection", "connection", "sourceParameter",
    "targetParameter", "md5", "sha1", "sha256", "sha512", "environment", "registry", "tag", "containerImage",
    "resourceUsage",
)


def contexts() -> dict[str, bytes]:
    """URL: the JSON-LD that is there."""
    carried = json.loads(resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_text(encoding="utf-8"))
    crate = json.dumps({"@context": carried["@context"]}).encode()
    terms = json.dumps({"@context": {term: f"{WFRUN}#{term}" for term in WFRUN_TERMS}}).encode()
    return {f"https://w3id.org/ro/crate/{version}/context": crate for version in ("1.1", "1.2", "1.3")} | {
        f"{WFRUN}/context": terms}


def seed(cache: str) -> None:
    """As if each context had been fetched once."""
    from io import BytesIO

    from requests import PreparedRequest, Response
    from requests.adapters import BaseAdapter
    from requests_cache import CachedSession
    from urllib3 import HTTPResponse

    known = contexts()

    class Shelf(BaseAdapter):
        def send(self, request: PreparedRequest, **_options: Any) -> Response:
            data = known[str(request.url)]
            answer = Response()
            answer.status_code, answer.url, answer.request = 200, str(request.url), request
            answer.headers["Content-Type"] = "application/ld+json"
            answer.raw = HTTPResponse(BytesIO(data), headers=dict(answer.headers), status=200, preload_content=False)
            return answer

        def close(self) -> None:
            pass

    session = CachedSession(cache, backend="sqlite", expire_after=-1)
    session.mount("https://", Shelf())
    for url in known:
        session.get(url).raise_for_status()


def validate(cache: str, crate: str) -> list[str]:
    from rocrate_validator import services

    result = services.validate({
        "rocrate_uri": crate, "profile_identifier": "process-run-crate", "requirement_severity": "RECOMMENDED",
        "offline": True, "cache_path": Path(cache),
    })
    return sorted(f"{issue.severity.name} {issue.check.identifier}: {issue.message} [{issue.violatingEntity}]"
                  for issue in result.get_issues())


def load(crate: str) -> dict[str, Any]:
    from rocrate.rocrate import ROCrate

    read = ROCrate(crate)
    return {
        "name": read.name, "license": read.root_dataset["license"].id,
        "files": sorted(e.id for e in read.data_entities),
        "actions": [e.id for e in read.contextual_entities if e.type == "CreateAction"],
        "usage": {u["propertyID"]: u["value"] for e in read.contextual_entities if e.type == "CreateAction"
                  for u in (e.get("resourceUsage") or [])},
    }


def main(words: list[str]) -> None:
    if words[0] == "seed":
        seed(words[1])
    elif words[0] == "validate":
        print(json.dumps({crate: validate(words[1], crate) for crate in words[2:]}))
    else:
        print(json.dumps({crate: load(crate) for crate in words[1:]}))


if __name__ == "__main__":
    main(sys.argv[1:])
