"""`yprov push`: a run's document to a service of yProv, once for each state of the document.

Who we are comes from the environment only: a token in `YPROV_TOKEN` (or `AUTHORIZATION_TOKEN`, as yProvStore's own
command has it), or `YPROV_USER` and `YPROV_PASSWORD`, with which we log in.

A push asks first (is it there, did an attempt arrive of which we heard nothing?), notes what it will do, and sends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from yprov.addresses import address_of
from yprov.parcels import Attempt, Parcel, Published
from yprov.pushed import Memory, alone
from yprov.runs import RunView, value_of, view
from yprov.service_store import StoreService
from yprov.services import BACKENDS, STORE, Service, service_at
from yprov.web import Refused, Web
from yprovd.config import PROV_FILE
from yprovd.errors import YprovError

_T = TypeVar("_T")
_TOKENS = ("YPROV_TOKEN", "AUTHORIZATION_TOKEN")
_LONGEST = 1000
_LONGEST_WAIT_S = 86400.0
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
    if not 0 < options.timeout_s <= _LONGEST_WAIT_S:
        raise YprovError(f"`{options.timeout_s:g}` is no time to wait for an answer", hint="--timeout 60, in seconds")
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
    told = {"directory": str(run_dir), "backend": service.name, "sha256": parcel.sha256}
    if options.dry_run:
        memory = Memory(run_dir, address, service.name, say)
        return told | _plan(service, parcel, options, credentials, memory, files)
    account = _Account(web, service, credentials)
    with alone(run_dir, say):
        memory = Memory(run_dir, address, service.name, say)
        published = account(lambda: _publish(web, service, parcel, memory, options.parent))
        sent = {}
        if isinstance(service, StoreService) and files:
            sent = _send_artifacts(account, web, service, memory, published, files)
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


class _Account:
    """Does things with our token, or with one that a login gives: also when ours has expired, now or meanwhile."""

    def __init__(self, web: Web, service: Service, credentials: Credentials) -> None:
        self._web, self._service, self._credentials = web, service, credentials
        self._known = False

    def __call__(self, act: Callable[[], _T]) -> _T:
        held = self._credentials
        try:
            fresh = not self._known and not held.token
            if fresh:
                self._log_in()
            elif not self._known:
                self._web.use(held.token)
            self._known = True
            try:
                return act()
            except Refused as e:
                if e.code != 401 or fresh or not held.can_log_in:
                    raise
            self._web.say("the service does not accept our token: logging in")
            self._log_in()
            return act()
        except Refused as e:
            if e.code == 401:
                hint = (f"a fresh one: export {held.name}=...   or YPROV_USER=... and YPROV_PASSWORD=..."
                        if held.token else "see YPROV_USER and YPROV_PASSWORD")
                raise Refused(401, f"{e} (with what is in {held.name})", hint=hint) from None
            if e.code == 403:
                raise Refused(403, f"{e} (with what is in {held.name})", hint=(
                    "this account may not write there: another one in YPROV_TOKEN, or in YPROV_USER and "
                    "YPROV_PASSWORD")) from None
            raise

    def _log_in(self) -> None:
        self._web.use(self._service.login(self._credentials.user, self._credentials.password))


def _publish(web: Web, service: Service, parcel: Parcel, memory: Memory, parent: str | None) -> Published:
    """Once, whatever became of the attempts before; and the memory knows it."""
    lost = memory.pending
    if lost is not None and (found := service.arrived(parcel, lost)) is not None:
        memory.remember(found, lost.sha256)
        lost = None
    published, parent = service.standing(parcel, memory.push, parent)
    if published is None:
        if lost is None or (lost.sha256, lost.parent) != (parcel.sha256, parent):  # else it may still arrive
            lost = Attempt(parcel.sha256, parent, web.moment() - timedelta(seconds=1))  # it tells whole seconds
        memory.expect(lost)
        try:
            published = service.send(parcel, lost)
        except Refused as e:
            if e.for_good:
                memory.expect(None)
            raise
    memory.remember(published, parcel.sha256)
    return published


def _plan(
    service: Service, parcel: Parcel, options: Options, credentials: Credentials, memory: Memory,
    files: Mapping[str, Path],
) -> dict[str, Any]:
    """What a push would do, found out without a token. `there`: the document that need not be sent."""
    from yprovd.stitch.crate import file_hash

    before, parent, there = memory.push, options.parent, None
    if before is not None:
        try:
            found, parent = service.standing(parcel, before, parent)
            there = found.pid if found is not None else None
        except Refused as e:
            if e.code not in (401, 403):
                raise
            same = before.get("sha256") == parcel.sha256
            there = before["pid"] if same and parent in (None, before["pid"], before.get("parent")) else None
            parent = parent or before["pid"]
    request = service.request(parcel, parent if service.name == STORE else None)
    return {"method": request.method, "url": request.url, "content_type": request.kind.partition(";")[0],
            "bytes": request.size, "query": dict(request.query), "credentials": credentials.name or None,
            "pushed_before": before["pid"] if before is not None else None, "there": there,
            "artifacts": sorted(n for n, path in files.items() if not memory.has(n, file_hash(path)[1]))}


def _artifacts(run_dir: Path) -> dict[str, Path]:
    """By names that can be sent: what is not UTF-8 in one is told as `\\udcff`, as it is in the archive."""
    from yprovd.stitch.crate import archive_files

    return {name.encode("utf-8", "backslashreplace").decode(): run_dir / name
            for name in archive_files(run_dir) if name.startswith(f"{_ARTIFACTS}/")}


def _send_artifacts(
    account: _Account, web: Web, service: StoreService, memory: Memory, published: Published,
    files: Mapping[str, Path],
) -> dict[str, str]:
    """{path: pid}. What was sent before, as it is now, is not sent again."""
    from yprovd.stitch.crate import file_hash

    for number, (name, path) in enumerate(files.items(), 1):
        size, digest = file_hash(path)
        if memory.has(name, digest):
            continue
        web.say(f"sending {web.clean(name)}, {size} bytes ({number} of {len(files)})")
        memory.remember_artifact(name, account(partial(service.upload, path, name, digest)), digest)
    pids = {name: str(memory.artifacts[name]["pid"]) for name in files}
    if memory.related != sorted(pids.values()):
        account(lambda: service.relate(published.pid, list(pids.values())))
        memory.remember_related(sorted(pids.values()))
    return pids
