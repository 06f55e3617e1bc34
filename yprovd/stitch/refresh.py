"""What the scheduler says of a job after its end, put into an archive that is there already. Pure, but for the last
function.

Where the spool is kept, the scheduler's words are appended to it and the run is stitched again; this is for the rest.
The document is changed as the stitch would have written it: `patched` gives the same for the same facts, however often
it is called, and a document that was valid stays so.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.errors import YprovError
from yprovd.stitch import CRATE_FILE, alone, write_together
from yprovd.stitch.document import Document, in_lines, qname, slug
from yprovd.stitch.identity import restate
from yprovd.stitch.said import takes_back
from yprovd.stitch.scheduling import job_attributes, more_attributes
from yprovd.stitch.states import attributes_of, decide
from yprovd.stitch.validate import check_document

RUN, JOB = "run:run", "run:job"


def patched(document: Mapping[str, Any], facts: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Any]:
    """prov.json with the job's facts completed and the run's state decided anew. `facts`: as `record.run["scheduler"]`;
    `end`: as an END record by the scheduler. Raises YprovError when the document has no run."""
    doc: dict[str, Any] = copy.deepcopy(dict(document))
    try:
        run = doc["activity"][RUN]
    except (KeyError, TypeError):
        raise YprovError("the document has no activity `run`", hint="yprov validate RUN") from None
    _decide(run, {**end, "asked_later": True})
    small = Document("refresh")
    attributes = job_attributes(facts)
    small.entity("job", {"yp:type": qname("yp:Job"), **attributes})
    name = attributes["yp:scheduler"]
    small.agent("scheduler", {"prov:type": qname("prov:SoftwareAgent"), "prov:label": name,
                              "schema:softwareVersion": facts.get("version")})
    encoded = json.loads(small.to_json())
    new = encoded["entity"][JOB]
    entities = doc.setdefault("entity", {})
    if JOB in entities:
        entities[JOB] = more_attributes(entities[JOB], new)
    else:
        entities[JOB] = new
        times = {"prov:time": run["prov:startTime"]} if "prov:startTime" in run else {}
        _relate(doc, "wasStartedBy", {"prov:activity": RUN, "prov:trigger": JOB, **times})
    agents, agent = doc.setdefault("agent", {}), f"run:software/{slug(name)}"
    if agent not in agents:
        _relate(doc, "wasAssociatedWith", {"prov:activity": RUN, "prov:agent": agent, "prov:role": "scheduler"})
    agents[agent] = {**agents.get(agent, {}), **encoded["agent"]["run:scheduler"]}
    return doc


def _decide(run: dict[str, Any], end: Mapping[str, Any]) -> None:
    """As the stitch does it. Both words are in the document: our own, and the scheduler's where it decided."""
    state, reason = str(_plain(run.get("yp:state"))), str(_plain(run.get("yp:stateReason"), ""))
    heard = "yp:stateFrom" in run
    if heard and not takes_back({"state": state}, end):
        return
    own = state, reason
    if heard:
        own = str(_plain(run.get("yp:commandState"))), str(_plain(run.get("yp:commandStateReason"), ""))
    said = {"state": own[0], "reason": own[1], "ended_ns": _ns(run.get("prov:endTime"))}
    decided = decide(None if own[0] == "incomplete" else said, end)
    told = attributes_of(own if decided[0] == "incomplete" else decided, own)
    for name in ("yp:stateReason", "yp:stateFrom", "yp:commandState", "yp:commandStateReason"):
        run.pop(name, None)
    run |= {name: value for name, value in told.items() if value}


def _ns(time: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(time).timestamp() * 1e6) * 1000
    except (TypeError, ValueError):
        return None


def _plain(value: Any, missing: Any = None) -> Any:
    return missing if value is None else value.get("$") if isinstance(value, Mapping) else value


def _relate(doc: dict[str, Any], relation: str, record: dict[str, Any]) -> None:
    """Blank names are counted through all of a document."""
    taken = {name for key, records in doc.items() if key != "prefix" and isinstance(records, dict) for name in records}
    number = 1 + len(taken)
    while f"_:id{number}" in taken:
        number += 1
    doc.setdefault(relation, {})[f"_:id{number}"] = record


def patched_crate(crate: Mapping[str, Any], run: Mapping[str, Any], prov: bytes) -> dict[str, Any]:
    """The crate of a document that was patched: its checksum, and what the action says of the run's end."""
    doc: dict[str, Any] = copy.deepcopy(dict(crate))
    state, reason = str(_plain(run.get("yp:state"))), str(_plain(run.get("yp:stateReason"), ""))
    for entity in doc["@graph"]:
        if entity.get("@id") == PROV_FILE:
            entity |= {"contentSize": str(len(prov)), "sha256": hashlib.sha256(prov).hexdigest()}
        elif entity.get("@id") == "./":
            front, mark, _old = str(entity.get("description", "")).rpartition(" State: ")
            if mark:
                entity["description"] = f"{front}{mark}{state}{f' ({reason})' if reason else ''}."
        elif entity.get("@type") == "CreateAction":
            completed = state == "completed"
            entity["actionStatus"] = f"http://schema.org/{'Completed' if completed else 'Failed'}ActionStatus"
            entity.pop("error", None)
            if not completed:
                entity["error"] = f"{state}: {reason}" if reason else state
    return doc


def patch_archive(run_dir: Path, facts: Mapping[str, Any], end: Mapping[str, Any]) -> tuple[str, str]:
    """Patch prov.json and the crate in place; (state, reason) then. Blocks while a stitch of the run is at work. Raises
    YprovError when they cannot be read or written, or would not be valid."""
    prov, crate = run_dir / PROV_FILE, run_dir / CRATE_FILE
    with alone(run_dir):
        try:
            document = patched(json.loads(prov.read_bytes()), facts, end)
            if problems := check_document(document):
                raise YprovError(f"`{prov}` would not be valid: {problems[0]}; it is left as it is",
                                 hint=f"yprov validate {run_dir}")
            data = in_lines(document).encode()
            run = document["activity"][RUN]
            about = patched_crate(json.loads(crate.read_bytes()), run, data)
            restate(run_dir, about, {PROV_FILE: data}, ended="yp:exitCode" in run)
            write_together({prov: data, crate: as_bytes(about)})
        except OSError as e:
            raise YprovError(f"cannot refresh `{run_dir}`: {e.strerror or e}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise YprovError(f"the archive in `{run_dir}` is damaged; it is left as it is",
                             hint=f"yprov validate {run_dir}") from None
    return str(_plain(run.get("yp:state"))), str(_plain(run.get("yp:stateReason"), ""))


def as_bytes(crate: Any) -> bytes:
    """The crate as the stitch writes it."""
    return (json.dumps(crate, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
