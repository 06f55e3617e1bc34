"""The scheduler's job as the document tells it: which facts are attributes of their own, and how they are typed. Pure.

`facts` is what `yprovd.slurm` makes of `scontrol` and `sacct`, and a launcher of another scheduler in its place: flat,
all of it optional. What has no attribute of its own stands in `yp:facts` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from yprovd.stitch.document import json_text
from yprovd.stitch.facts import host_list, lines_of, part
from yprovd.stitch.record import Record
from yprovd.stitch.said import merged_facts

#: fact: (attribute, type). Times are ISO 8601 with an offset, and are told in UTC.
_ATTRIBUTES: dict[str, tuple[str, str]] = {
    "cluster": ("yp:cluster", "text"), "job_id": ("yp:jobId", "text"), "job_name": ("yp:jobName", "text"),
    "user": ("yp:jobUser", "text"), "account": ("yp:account", "text"), "partition": ("yp:partition", "text"),
    "qos": ("yp:qos", "text"), "reservation": ("yp:reservation", "text"), "state": ("yp:jobState", "text"),
    "state_reason": ("yp:jobStateReason", "text"), "exit_code": ("yp:jobExitCode", "whole"),
    "exit_signal": ("yp:jobSignal", "whole"),
    "node_list": ("yp:nodeList", "text"), "node_count": ("yp:nodeCount", "whole"),
    "batch_host": ("yp:batchHost", "text"), "requested_tres": ("yp:requestedTres", "tres"),
    "allocated_tres": ("yp:allocatedTres", "tres"), "gres_by_node": ("yp:gresByNode", "hosts"),
    "submit_time": ("yp:submitTime", "time"), "eligible_time": ("yp:eligibleTime", "time"),
    "start_time": ("yp:jobStartTime", "time"), "end_time": ("yp:jobEndTime", "time"),
    "time_limit_s": ("yp:timeLimitSeconds", "whole"), "time_limit": ("yp:timeLimit", "text"),
    "dependency": ("yp:dependency", "text"), "comment": ("yp:comment", "text"),
    "array_job_id": ("yp:arrayJobId", "text"), "array_task_id": ("yp:arrayTaskId", "text"),
    "het_job_id": ("yp:hetJobId", "text"), "restart_count": ("yp:attempt", "whole"),
    "task_count": ("yp:taskCount", "whole"), "cpus_per_task": ("yp:cpusPerTask", "whole"),
    "work_dir": ("yp:workDir", "text"), "command": ("yp:command", "text"), "missing": ("yp:absences", "lines"),
    "topology": ("yp:topology", "text"), "features": ("yp:features", "text"),
    "elapsed_s": ("yp:elapsedSeconds", "whole"), "consumed_energy_j": ("yp:slurmEnergyJ", "number"),
    "steps": ("yp:slurmSteps", "steps"),
}
#: The steps of accounting are listed up to this number; `yp:slurmStepCount` says how many there were.
MOST_STEPS = 200
#: Told by others: the scheduler's own name and version by its agent, the files by entities, the nodes by their list.
_ELSEWHERE = ("name", "version", "stored", "nodes", "raw")
#: Names under which a batch job finds itself in Slurm: sbatch(1), OUTPUT ENVIRONMENT VARIABLES.
_SLURM = {
    "job_id": "SLURM_JOB_ID", "job_name": "SLURM_JOB_NAME", "account": "SLURM_JOB_ACCOUNT",
    "partition": "SLURM_JOB_PARTITION", "qos": "SLURM_JOB_QOS", "cluster": "SLURM_CLUSTER_NAME",
    "node_list": "SLURM_JOB_NODELIST", "node_count": "SLURM_JOB_NUM_NODES", "restart_count": "SLURM_RESTART_COUNT",
    "array_job_id": "SLURM_ARRAY_JOB_ID", "array_task_id": "SLURM_ARRAY_TASK_ID",
}


def job_of(record: Record) -> dict[str, Any]:
    """What the scheduler's allocation is: as the launcher described it, else what the run's key or Slurm's variables
    say. Empty without a scheduler."""
    facts = dict(part(record.run, "scheduler"))
    environment, key = part(record.run, "environment"), part(part(record.run, "config"), "job")
    if not facts and environment.get("SLURM_JOB_ID"):
        facts = {"name": "slurm", **{k: environment[v] for k, v in _SLURM.items() if environment.get(v)}}
    known = {"name": key.get("scheduler"), "restart_count": key.get("attempt"),
             **{k: v for k, v in key.items() if k not in ("scheduler", "attempt")}}
    return merged_facts(known, facts) if key else facts


def attempt_of(facts: Mapping[str, Any]) -> int | None:
    """How often the job had been requeued when this run began; None without a scheduler that says so."""
    value = _typed(facts.get("restart_count"), "whole")
    return value if isinstance(value, int) else None


def job_attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the entity `job`, absent ones as None."""
    name = str(facts.get("name") or "scheduler")
    rest = {k: _without_nodes(v) for k, v in facts.items()
            if k not in _ATTRIBUTES and k not in _ELSEWHERE and v is not None and v != ""}
    out: dict[str, Any] = {attribute: _typed(facts.get(fact), kind) for fact, (attribute, kind) in _ATTRIBUTES.items()}
    steps, nodes = facts.get("steps"), facts.get("nodes")
    out["yp:slurmStepCount"] = len(steps) if isinstance(steps, (list, tuple)) and steps else None
    if out["yp:nodeList"] is None and isinstance(nodes, (list, tuple)):
        out["yp:nodeList"] = host_list(str(n) for n in nodes)
    return {"prov:label": f"{name} job {facts.get('job_id') or ''}".rstrip(), "yp:scheduler": name, **out,
            "yp:facts": json_text(rest) if rest else None}


def more_attributes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A job's attributes completed by what is known now; both as in PROV-JSON. Nothing that was known goes away, but
    for the reasons why something was not."""
    out = {**old, **new}
    tails = [json.loads(d["yp:facts"]) for d in (old, new) if isinstance(d.get("yp:facts"), str)]
    if len(tails) == 2:
        out["yp:facts"] = json_text({**tails[0], **tails[1]})
    lines = dict.fromkeys(line for d in (old, new) for line in str(d.get("yp:absences", "")).split("\n") if line)
    left = [line for line in lines if _ATTRIBUTES.get(line.partition(":")[0], ("", ""))[0] not in out]
    out.pop("yp:absences", None)
    return out | ({"yp:absences": "\n".join(left)} if left else {})


def _typed(value: Any, kind: str) -> Any:
    """None for what is not there. A value of another type than expected is told as text: no fact is lost for it."""
    if value is None or value == "" or value == {} or value == []:
        return None
    if kind == "whole" and not isinstance(value, bool):
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            pass
    elif kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif kind == "time" and isinstance(value, str):
        return _time(value)
    elif isinstance(value, Mapping):
        if kind == "tres":
            return ",".join(f"{k}={v}" for k, v in sorted(value.items()))
        if kind == "lines":
            return lines_of(f"{k}: {v}" for k, v in sorted(value.items()))
        if kind == "hosts":
            return _by_hosts(value)
    elif kind == "steps" and isinstance(value, (list, tuple)):
        return json_text(value[:MOST_STEPS])
    return value if isinstance(value, str) else json_text(value)


def _without_nodes(value: Any) -> Any:
    """Lists of names would grow with the job; the host list that they were made from stands beside them."""
    if isinstance(value, Mapping):
        return {k: _without_nodes(v) for k, v in value.items() if k != "nodes"}
    return value


def _time(text: str) -> datetime | str:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return time.astimezone(UTC) if time.tzinfo is not None else text


def _by_hosts(values: Mapping[str, Any]) -> str:
    """`gpu[001-128]: gpu:h100:4`: hosts with the same value in one line."""
    hosts: dict[str, list[str]] = {}
    for host, value in values.items():
        hosts.setdefault(value if isinstance(value, str) else json_text(value), []).append(str(host))
    return lines_of(f"{host_list(names)}: {value}" for value, names in sorted(hosts.items()))
