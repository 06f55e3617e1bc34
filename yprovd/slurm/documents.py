"""Slurm's JSON: `squeue --json`, `scontrol --json` and `sacct --json`.

One reader for all shapes: openapi v0.0.38 (22.05: words, plain numbers, null) and data_parser v0.0.39 (23.02) to
v0.0.46 (26.x), where a number may be `{set, infinite, number}` and, from v0.0.40 on, a state is a list of words.
22.05's squeue shows all jobs of the cluster, whichever was asked for: pick yours. sacct's text is to be preferred: its
JSON tells no failed job's exit code in 22.05, and another state than the text of an attempt that was requeued in 24.11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from yprovd.slurm.values import (
    Facts,
    exit_status,
    finish,
    free,
    from_epoch,
    hosts,
    minutes_of,
    number,
    state_of,
    tres,
    word,
)


def _id(value: Any) -> str | None:
    """0 is no id."""
    found = number(value)
    return str(found) if found else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


#: The document's key: (fact, how it is read).
_JOB: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "job_id": ("job_id", _id), "name": ("job_name", free), "user_name": ("user", word), "user_id": ("uid", number),
    "cluster": ("cluster", word), "account": ("account", word), "partition": ("partition", word), "qos": ("qos", word),
    "resv_name": ("reservation", word), "state_reason": ("state_reason", word),
    "restart_cnt": ("restart_count", number), "requeue": ("requeue", _flag),
    "nodes": ("node_list", word), "node_count": ("node_count", number),
    "batch_host": ("batch_host", word), "cpus": ("cpu_count", number), "tasks": ("task_count", number),
    "cpus_per_task": ("cpus_per_task", number), "tres_req_str": ("requested_tres", tres),
    "tres_alloc_str": ("allocated_tres", tres), "tres_per_node": ("tres_per_node", word),
    "features": ("features", word), "submit_time": ("submit_time", from_epoch),
    "eligible_time": ("eligible_time", from_epoch), "start_time": ("start_time", from_epoch),
    "end_time": ("end_time", from_epoch), "suspend_time": ("suspend_time", from_epoch),
    "preempt_time": ("preempt_time", from_epoch), "time_limit": ("time_limit_s", minutes_of),
    "dependency": ("dependency", word), "comment": ("comment", free), "command": ("command", free),
    "current_working_directory": ("work_dir", free), "standard_output": ("stdout_path", free),
    "standard_error": ("stderr_path", free), "array_job_id": ("array_job_id", _id),
    "failed_node": ("failed_node", word),
}
#: Users' texts that have no fact of their own.
_OTHER = {"admin_comment": "AdminComment", "system_comment": "SystemComment", "extra": "Extra",
          "container": "Container", "wckey": "WCKey", "licenses": "Licenses",
          "state_description": "StateDescription", "network": "Network"}


def parse_job_json(document: Mapping[str, Any]) -> list[Facts]:
    """The jobs of `squeue --json` or `scontrol show job --json`."""
    common = _of_all(document)
    return [_job(job, common) for job in _maps(document.get("jobs"))]


def _job(job: Mapping[str, Any], common: Facts) -> Facts:
    facts: Facts = common | {fact: read(job[key]) for key, (fact, read) in _JOB.items() if job.get(key) is not None}
    step = _map(job.get("step_id"))
    facts["job_id"] = facts.get("job_id") or _id(step.get("job_id"))
    for path in ("stdout", "stderr"):  # %j and the like filled in, from 24.11 on
        facts[f"{path}_path"] = free(job.get(f"{path}_expanded")) or facts.get(f"{path}_path")
    if facts.get("array_job_id"):
        task = number(job.get("array_task_id"))
        facts["array_task_id"] = None if task is None else str(task)
    if _id(job.get("het_job_id")):
        facts["het_job_id"], facts["het_offset"] = _id(job["het_job_id"]), number(job.get("het_job_offset"))
    facts |= state_of(job.get("job_state"))
    facts |= exit_status(job.get("exit_code")) | exit_status(job.get("derived_exit_code"), "derived_")
    names, details = hosts(facts.get("node_list")), _list(job.get("gres_detail"))
    if len(names) == len(details):
        facts["gres_by_node"] = {n: d for n, d in zip(names, details, strict=True) if word(d)} or None
    return finish(facts, [(name, free(job.get(key))) for key, name in _OTHER.items()])


def parse_sacct_json(document: Mapping[str, Any]) -> list[Facts]:
    """The jobs of `sacct --json`, each with its steps."""
    common = _of_all(document)
    return [_accounted(job, common) for job in _maps(document.get("jobs"))]


def _accounted(job: Mapping[str, Any], common: Facts) -> Facts:
    time, array, het = _map(job.get("time")), _map(job.get("array")), _map(job.get("het"))
    state, given = _map(job.get("state")), _map(job.get("tres"))
    facts: Facts = {
        **common, "job_id": _id(job.get("job_id")), "job_name": free(job.get("name")), "user": word(job.get("user")),
        "cluster": word(job.get("cluster")), "account": word(job.get("account")),
        "partition": word(job.get("partition")), "qos": word(job.get("qos")),
        "reservation": word(_map(job.get("reservation")).get("name")) if _id(_map(job.get("reservation")).get("id"))
        else None,
        **state_of(state.get("current")), "state_reason": word(state.get("reason")),
        **exit_status(job.get("exit_code")), **exit_status(job.get("derived_exit_code"), "derived_"),
        "restart_count": number(job.get("restart_cnt")), "node_list": word(job.get("nodes")),
        "node_count": number(job.get("allocation_nodes")) or None,
        "requested_tres": tres(_maps(given.get("requested"))), "allocated_tres": tres(_maps(given.get("allocated"))),
        "submit_time": from_epoch(time.get("submission")), "eligible_time": from_epoch(time.get("eligible")),
        "start_time": from_epoch(time.get("start")), "end_time": from_epoch(time.get("end")),
        "elapsed_s": number(time.get("elapsed")), "time_limit_s": minutes_of(time.get("limit")),
        "features": word(job.get("constraints")), "comment": free(_map(job.get("comment")).get("job")),
        "work_dir": free(job.get("working_directory")),
        "stdout_path": free(job.get("stdout_expanded")), "stderr_path": free(job.get("stderr_expanded")),
        "array_job_id": _id(array.get("job_id")), "het_job_id": _id(het.get("job_id")),
        "failed_node": word(job.get("failed_node")),
    }
    if facts.get("state") == "PENDING" and facts["end_time"]:
        facts["state"] = "REQUEUED"  # 24.11 calls an attempt by the state of the next
    if facts["array_job_id"]:
        task = number(array.get("task_id"))
        facts["array_task_id"] = None if task is None else str(task)
    if facts["het_job_id"]:
        facts["het_offset"] = number(het.get("job_offset"))
    if facts["allocated_tres"]:
        facts["cpu_count"] = number(facts["allocated_tres"].get("cpu"))
        facts["consumed_energy_j"] = number(facts["allocated_tres"].pop("energy", None)) or None
    facts["steps"] = [_step(step, facts["job_id"] or "") for step in _maps(job.get("steps"))] or None
    return finish(facts, [("CancelledBy", word(job.get("kill_request_user")))])


def _step(step: Mapping[str, Any], job_id: str) -> Facts:
    about, time, nodes = _map(step.get("step")), _map(step.get("time")), _map(step.get("nodes"))
    name = about.get("id")
    if isinstance(name, Mapping):  # 23.02, 23.11
        name = name.get("step_id")
    name = str(name)
    used = _maps(_map(_map(step.get("tres")).get("requested")).get("max"))
    facts = {
        "step_id": name if "." in name else f"{job_id}.{name}", "name": free(about.get("name")),
        **state_of(step.get("state")),
        "start_time": from_epoch(time.get("start")), "end_time": from_epoch(time.get("end")),
        "node_list": word(nodes.get("range")), "task_count": number(_map(step.get("tasks")).get("count")),
        "max_rss_bytes": next((number(one.get("count")) for one in used if one.get("type") == "mem"), None),
        "consumed_energy_j": number(_map(_map(step.get("statistics")).get("energy")).get("consumed")) or None,
    }
    if facts.get("state") not in ("RUNNING", "PENDING", "SUSPENDED"):
        status = exit_status(step.get("exit_code"))
        facts |= {} if facts.get("state") == "FAILED" and not any(status.values()) else status  # 22.05 says 0
    return {k: v for k, v in facts.items() if v is not None}


def _of_all(document: Mapping[str, Any]) -> Facts:
    """Who answered: `meta.Slurm` until 23.02, `meta.slurm` later."""
    meta = _map(document.get("meta"))
    slurm = _map(meta.get("slurm") or meta.get("Slurm"))
    found = {"version": word(slurm.get("release")), "cluster": word(slurm.get("cluster"))}
    return {k: v for k, v in found.items() if v is not None}


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in _list(value) if isinstance(one, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
