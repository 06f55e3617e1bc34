"""`yprov push`: a run's document to a service of yProv, once for each state of the document.

Who we are comes from the environment only: a token in `YPROV_TOKEN` (or `AUTHORIZATION_TOKEN`, as yProvStore's own
command has it), or `YPROV_USER` and `YPROV_PASSWORD`, with which we log in.

Where a run was published stands in its directory, in `.push.json`, which is about the archive and no part of it:

    {"format": "yprov-push", "version": 1, "pushes": [{"url", "backend", "pid", "version", "parent", "sha256", "time",
     "artifacts": {path: {"pid", "sha256"}}}]}     the last push to each service; there is no secret in it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yprov.addresses import address_of
from yprov.parcels import Parcel, Published
from yprov.runs import RunView, value_of, view, write_whole
from yprov.service_store import StoreService
from yprov.services import BACKENDS, STORE, Service, service_at
from yprov.web import Refused, Web
from yprovd.config import PROV_FILE, PUSH_FILE
from yprovd.errors import YprovError

_FORMAT, _VERSION = "yprov-push", 1
_TOKENS = ("YPROV_TOKEN", "AUTHORIZATION_TOKEN")
_LONGEST = 1000
_ARTIFACTS = "artifacts"


@dataclass(frozen=True, repr=False)
class Credentials:
    """What the environment holds; `name`: the variables that it stands in."""

    token: str = ""
    user: str = ""
    password: str = ""
    name: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Credentials:
        user, password = environ.get("YPROV_USER", ""), environ.get("YPROV_PASSWORD", "")
        for name in _TOKENS:
            if token := environ.get(name, "").strip():
                return cls(token.removeprefix("Bearer ").strip(), user, password, name)
        return cls("", user, password, "YPROV_USER and YPROV_PASSWORD" if user and password else "")

    @property
    def can_log_in(self) -> bool:
        return bool(self.user and self.password)


@dataclass(frozen=True)
class Options:
    to: str
    backend: str = "auto"
    parent: str | None = None
    artifacts: bool = False
    dry_run: bool = False
    timeout_s: float = 60.0


def push(
    run_dir: Path, options: Options, environ: Mapping[str, str], *, say: Callable[[str], None], **of_web: Any
) -> dict[str, Any]:
    """Publish, and say what became of it: directory, backend, url, pid, version, parent, sha256, sent, artifacts; with
    `dry_run` the request instead. `of_web`: for tests, what `Web` takes. Raises YprovError."""
    if options.backend not in BACKENDS:
        raise YprovError(f"there is no backend `{options.backend}`", hint=f"--backend {', '.join(BACKENDS)}")
    address, credentials = address_of(options.to), Credentials.of(environ)
    parcel = parcel_of(run_dir)
    if not credentials.name and not options.dry_run:
        raise YprovError("there is no token for the service", hint=(
            "export YPROV_TOKEN=...   or YPROV_USER=... and YPROV_PASSWORD=...; never on the command line"))
    web = Web(address, say=say, timeout_s=options.timeout_s, **of_web)
    for secret in (credentials.token, credentials.password):
        if secret:
            web.keep_secret(secret)
    service = service_at(web, options.backend)
    if service.name != STORE and (options.parent or options.artifacts):
        raise YprovError("the service v0 has neither versions nor artifacts", hint="without --parent and --artifacts")
    files = _artifacts(run_dir) if options.artifacts else {}
    known = _Known.read(run_dir, address, service.name)
    told = {"directory": str(run_dir), "backend": service.name, "sha256": parcel.sha256}
    if options.dry_run:
        return told | _plan(service, parcel, options, credentials, known, files)
    published = _signed(web, service, credentials, lambda: service.publish(parcel, known.push, options.parent))
    known.remember(published, parcel.sha256, say)
    sent = {}
    if isinstance(service, StoreService) and files:
        sent = _send_artifacts(web, service, known, published, files, say)
    return told | {"url": published.url, "pid": published.pid, "version": published.version,
                   "parent": published.parent, "sent": published.sent, "artifacts": sent}


def parcel_of(run_dir: Path) -> Parcel:
    """The document of a stitched run. Raises YprovError."""
    seen = view(run_dir)
    if not seen.run:
        going = seen.state == "running"
        raise YprovError(f"`{run_dir}` is still going" if going else f"`{run_dir}` has no archive yet",
                         hint="push it when it has ended" if going else f"yprov stitch {run_dir}")
    data = (run_dir / PROV_FILE).read_bytes()
    document = json.loads(data)
    run_id = str(seen.run.get("run_id") or seen.config.run_id)
    return Parcel(run_id, data, document, _metadata(seen, document))


def _metadata(seen: RunView, document: Mapping[str, Any]) -> dict[str, Any]:
    """What yProvFind searches."""
    run, experiment = seen.run, seen.run.get("experiment_name")
    name = str(run.get("label") or "run")
    tags = run.get("tags")
    agents = [record for record in (document.get("agent") or {}).values() if isinstance(record, dict)]
    people = [str(record["prov:label"]) for record in agents
              if value_of(record.get("prov:type")) == "prov:Person" and record.get("prov:label")]
    figures = [f"{run[key]:.1f} {unit}" for key, unit in (("durationSeconds", "s"), ("energyJ", "J"))
               if isinstance(run.get(key), (int, float))]
    nodes = run.get("nodeCount")
    text = f"{run.get('command') or name}: {seen.state}"
    text += f" on {nodes} node{'s' if nodes != 1 else ''}" if nodes else ""
    text += f", {', '.join(figures)}" if figures else ""
    words = [experiment, *(f"{k}={v}" for k, v in _object(tags).items()), "yprov", seen.state]
    return {
        "title": _short(f"{experiment}: {name}" if experiment and experiment != name else name),
        "description": _short(text),
        "keywords": [_short(str(word)) for word in dict.fromkeys(words) if word][:30],
        "author": _short(", ".join(people)),
    }


def _object(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _signed(
    web: Web, service: Service, credentials: Credentials, act: Callable[[], Published]
) -> Published:
    """Do it with our token, or with one that a login gives: also when ours has expired."""
    try:
        if credentials.token:
            web.use(credentials.token)
            try:
                return act()
            except Refused as e:
                if e.code != 401 or not credentials.can_log_in:
                    raise
                web.say(f"the service does not accept the token in {credentials.name}: logging in")
        web.use(service.login(credentials.user, credentials.password))
        return act()
    except Refused as e:
        if e.code == 401:
            hint = (f"a fresh one: export {credentials.name}=...   or YPROV_USER=... and YPROV_PASSWORD=..."
                    if credentials.token else "see YPROV_USER and YPROV_PASSWORD")
            raise Refused(401, f"{e} (with what is in {credentials.name})", hint=hint) from None
        if e.code == 403:
            raise Refused(403, f"{e} (with what is in {credentials.name})", hint=(
                "this account may not write there: another one in YPROV_TOKEN, or in YPROV_USER and YPROV_PASSWORD")
            ) from None
        raise


def _plan(
    service: Service, parcel: Parcel, options: Options, credentials: Credentials, known: _Known,
    files: Mapping[str, Path],
) -> dict[str, Any]:
    before = known.push or {}
    parent = options.parent
    if parent is None and before and before.get("sha256") != parcel.sha256:
        parent = before.get("pid")
    request = service.request(parcel, parent if service.name == STORE else None)
    return {"method": request.method, "url": request.url, "content_type": request.kind.partition(";")[0],
            "bytes": request.size, "query": dict(request.query), "credentials": credentials.name or None,
            "pushed_before": before.get("pid"), "artifacts": sorted(files)}


def _artifacts(run_dir: Path) -> dict[str, Path]:
    from yprovd.stitch.crate import archive_files

    return {name: run_dir / name for name in archive_files(run_dir) if name.startswith(f"{_ARTIFACTS}/")}


def _send_artifacts(
    web: Web, service: StoreService, known: _Known, published: Published, files: Mapping[str, Path],
    say: Callable[[str], None],
) -> dict[str, str]:
    """{path: pid}. What was sent before, as it is now, is not sent again."""
    from yprovd.stitch.crate import file_hash

    sent, new = dict(known.artifacts), False
    for number, (name, path) in enumerate(files.items(), 1):
        size, digest = file_hash(path)
        if sent.get(name, {}).get("sha256") == digest:
            continue
        say(f"sending {web.clean(name)}, {size} bytes ({number} of {len(files)})")
        sent[name] = {"pid": service.upload(path, name, digest), "sha256": digest}
        new = True
        known.remember_artifacts(sent, say)
    pids = {name: str(sent[name]["pid"]) for name in files}
    if new or published.sent:
        service.relate(published.pid, list(pids.values()))
    return pids


class _Known:
    """What `.push.json` says of one service."""

    def __init__(self, path: Path, pushes: list[dict[str, Any]], key: dict[str, str]) -> None:
        self._path, self._pushes, self._key = path, pushes, key
        found = [p for p in pushes if key.items() <= p.items() and isinstance(p.get("pid"), str) and p["pid"]]
        self.push = found[-1] if found else None

    @classmethod
    def read(cls, run_dir: Path, url: str, backend: str) -> _Known:
        """Whatever cannot be read was not written by us, and nothing is known."""
        path = run_dir / PUSH_FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            value = None
        pushes = value.get("pushes") if isinstance(value, dict) and value.get("format") == _FORMAT else None
        listed = [p for p in pushes if isinstance(p, dict)] if isinstance(pushes, list) else []
        return cls(path, listed, {"url": url, "backend": backend})

    @property
    def artifacts(self) -> dict[str, dict[str, str]]:
        value = (self.push or {}).get("artifacts")
        return {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}

    def remember(self, published: Published, sha256: str, say: Callable[[str], None]) -> None:
        if self.push is not None and not published.sent and self.push.get("sha256") == sha256:
            return
        self._write({**self._key, "pid": published.pid, "version": published.version, "parent": published.parent,
                     "sha256": sha256, "time": datetime.now(UTC).isoformat(timespec="seconds"),
                     "artifacts": self.artifacts}, say)

    def remember_artifacts(self, artifacts: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._write({**(self.push or self._key), "artifacts": dict(artifacts)}, say)

    def _write(self, push: dict[str, Any], say: Callable[[str], None]) -> None:
        self._pushes = [p for p in self._pushes if not self._key.items() <= p.items()] + [push]
        self.push = push
        text = json.dumps({"format": _FORMAT, "version": _VERSION, "pushes": self._pushes}, indent=1) + "\n"
        try:
            write_whole(self._path, text.encode())
        except OSError as e:
            say(f"warning: cannot note in `{self._path}` that this is published: {e.strerror}; "
                f"the next version needs --parent {push['pid']}")
