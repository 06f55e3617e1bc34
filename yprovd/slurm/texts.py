"""The text of `scontrol show job -dd`, `sacct --parsable2` and `scontrol show config`: the same in all versions."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from yprovd.slurm.values import (
    Facts,
    bytes_of,
    exit_status,
    finish,
    free,
    hosts,
    minutes_of,
    moment,
    number,
    seconds_of,
    state_of,
    tres,
    word,
)

#: scontrol's key: (fact, how it is read). src/api/job_info.c, slurm_sprint_job_info().
_SHOWN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "JobId": ("job_id", word), "JobName": ("job_name", free), "ArrayJobId": ("array_job_id", word),
    "HetJobId": ("het_job_id", word), "HetJobOffset": ("het_offset", number), "Account": ("account", word),
    "QOS": ("qos", word), "Reason": ("state_reason", word), "Dependency": ("dependency", word),
    "Requeue": ("requeue", lambda v: None if number(v) is None else bool(number(v))),
    "Restarts": ("restart_count", number), "TimeLimit": ("time_limit_s", seconds_of),
    "SubmitTime": ("submit_time", moment), "EligibleTime": ("eligible_time", moment),
    "StartTime": ("start_time", moment), "EndTime": ("end_time", moment), "SuspendTime": ("suspend_time", moment),
    "PreemptTime": ("preempt_time", moment), "Partition": ("partition", word), "Reservation": ("reservation", word),
    "NodeList": ("node_list", word), "BatchHost": ("batch_host", word), "NumNodes": ("node_count", number),
    "NumCPUs": ("cpu_count", number), "NumTasks": ("task_count", number), "CPUs/Task": ("cpus_per_task", number),
    "ReqTRES": ("requested_tres", tres), "AllocTRES": ("allocated_tres", tres), "TresPerNode": ("tres_per_node", word),
    "Features": ("features", word), "Command": ("command", free), "WorkDir": ("work_dir", free),
    "Comment": ("comment", free), "StdErr": ("stderr_path", free), "StdOut": ("stdout_path", free),
    "FailedNode": ("failed_node", word),
}
#: Their value is the rest of the line, and of the lines after it that do not begin as lines of scontrol do.
_FREE = {"JobName", "Command", "WorkDir", "Comment", "AdminComment", "SystemComment", "Extra", "StdErr", "StdIn",
         "StdOut", "SubmitLine", "Container", "ContainerID"}
#: Pieces of other facts, or a moment's figure.
_READ = {"UserId", "GroupId", "JobState", "ExitCode", "DerivedExitCode", "TRES", "RunTime", "LastSchedEval",
         "HetJobIdSet", "ArrayTaskId", "JOB_GRES"}
_RECORD = re.compile(r"^JobId=(?=\d)", re.MULTILINE)
#: The name may hold anything, line ends too; UserId follows it (after HetJobIdSet in a het job).
_HEAD = re.compile(r"JobId=.*? JobName=(.*?)\n   (?=(?:HetJobIdSet=\S*\n   )?UserId=)", re.DOTALL)
_LINE = re.compile(r"\n(?=   (?:  )?[A-Za-z][\w:/]*=)")
_NODES = re.compile(r"Nodes=(\S+) .*?\bGRES=(\S*)")
_USER = re.compile(r"(.*)\((\d+)\)")


def parse_show_job(text: str) -> list[Facts]:
    """The jobs in the text of `scontrol show job -dd`, in its order; times without a zone are this place's."""
    starts = [m.start() for m in _RECORD.finditer(text)]
    return [_shown(text[a:b]) for a, b in pairwise([*starts, len(text)])]


def _shown(record: str) -> Facts:
    raw: dict[str, str] = {}
    gres: dict[str, str] = {}
    head = _HEAD.match(record)
    if head is not None:
        raw["JobName"] = head[1]
        record = record[:head.start(1) - len("JobName=")] + "\n   " + record[head.end():]
    for line in _LINE.split(record):
        on_nodes = _NODES.match(line.strip())
        if on_nodes is not None:  # of -d: what each node gives
            gres |= dict.fromkeys(hosts(on_nodes[1]), on_nodes[2]) if on_nodes[2] else {}
            continue
        key, _equals, value = line.strip().partition("=")
        if key in _FREE:
            raw.setdefault(key, value)
            continue
        for token in line.split():
            name, equals, value = token.partition("=")
            if equals:
                # The first counts: Slurm's own lines stand before those with users' words.
                key = name
                raw.setdefault(key, value)
            elif key in raw:
                raw[key] += f" {token}"  # a value with a space in it
    facts: Facts = {fact: read(raw[key]) for key, (fact, read) in _SHOWN.items() if key in raw}
    user = _USER.fullmatch(raw.get("UserId", ""))
    if user is not None:
        facts["user"], facts["uid"] = user[1], int(user[2])
    facts |= state_of(raw.get("JobState"))
    facts |= exit_status(raw.get("ExitCode", "")) | exit_status(raw.get("DerivedExitCode", ""), "derived_")
    if "TRES" in raw:  # until 22.05 one line: what it has, and what it asks for while it has nothing
        facts["allocated_tres" if facts.get("node_list") else "requested_tres"] = tres(raw["TRES"])
    task = raw.get("ArrayTaskId", "")
    facts["array_task_id"] = task if task.isdecimal() else None  # `5,7%2` are those still to come
    facts["gres_by_node"] = gres or None
    other = [(k, word(v)) for k, v in raw.items() if k not in _SHOWN and k not in _READ]
    return finish(facts, [*other, ("ArrayTaskId", word(task) if not task.isdecimal() else None)])


#: sacct's field: (fact, how it is read). sacct(1), Job Accounting Fields.
_ACCOUNTED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "JobIDRaw": ("job_id", word), "JobName": ("job_name", free), "User": ("user", word), "UID": ("uid", number),
    "Account": ("account", word), "Cluster": ("cluster", word), "Partition": ("partition", word), "QOS": ("qos", word),
    "Reservation": ("reservation", word), "Reason": ("state_reason", word), "Restarts": ("restart_count", number),
    "NodeList": ("node_list", word), "NNodes": ("node_count", number), "NCPUS": ("cpu_count", number),
    "ReqTRES": ("requested_tres", tres), "AllocTRES": ("allocated_tres", tres), "Submit": ("submit_time", moment),
    "Eligible": ("eligible_time", moment), "Start": ("start_time", moment), "End": ("end_time", moment),
    "ElapsedRaw": ("elapsed_s", number), "TimelimitRaw": ("time_limit_s", minutes_of),
    "Constraints": ("features", word), "Comment": ("comment", free), "WorkDir": ("work_dir", free),
    "FailedNode": ("failed_node", word),
}
#: What we ask for; which of them a version has, `sacct --helpformat` says. The last holds no line end.
ACCOUNTING_FIELDS = ("JobID", *_ACCOUNTED, "State", "ExitCode", "DerivedExitCode", "NTasks", "MaxRSS",
                     "ConsumedEnergyRaw")


def parse_sacct_text(text: str) -> list[Facts]:
    """The jobs in the output of `sacct --parsable2 --format=JobID,...`, with its heading, by any delimiter; in the
    order of sacct, each with its steps. A line end within a value, but the last one's, is put together again."""
    heading, _newline, body = text.partition("\n")
    delimiter = re.search(r"[^A-Za-z]", heading)
    names = heading.split(delimiter[0]) if delimiter else [heading]
    jobs: list[Facts] = []
    parts: list[str] = []
    for line in body.split("\n"):
        cells = line.split(delimiter[0]) if delimiter else [line]
        parts = [*parts[:-1], f"{parts[-1]}\n{cells[0]}", *cells[1:]] if parts else cells
        if len(parts) < len(names):
            continue
        row, parts = dict(zip(names, parts, strict=False)), []
        if "." in row.get("JobID", ""):
            if jobs:
                jobs[-1].setdefault("steps", []).append(_step(row))
        elif row.get("JobID"):
            jobs.append(_accounted(row))
    return jobs


def _accounted(row: dict[str, str]) -> Facts:
    facts: Facts = {fact: read(row[key]) for key, (fact, read) in _ACCOUNTED.items() if key in row}
    array, underscore, task = row["JobID"].partition("_")
    if underscore:
        facts["array_job_id"], facts["array_task_id"] = array, task if task.isdecimal() else None
    leader, plus, offset = row["JobID"].partition("+")
    if plus:
        facts["het_job_id"], facts["het_offset"] = leader, number(offset)
    facts.setdefault("job_id", row["JobID"])
    facts |= state_of(row.get("State"))
    facts |= exit_status(row.get("ExitCode", "")) | exit_status(row.get("DerivedExitCode", ""), "derived_")
    facts["consumed_energy_j"] = number(row.get("ConsumedEnergyRaw")) or None  # 0 where no plugin measures
    for key in ("node_count", "cpu_count"):
        facts[key] = facts.get(key) or None  # 0 before it is known
    cancelled_by = (row.get("State") or "").partition(" by ")[2]
    return finish(facts, [*((k, word(v)) for k, v in row.items() if k not in ACCOUNTING_FIELDS),
                          ("CancelledBy", cancelled_by or None)])


def _step(row: dict[str, str]) -> Facts:
    facts = {
        "step_id": row.get("JobIDRaw") or row["JobID"], "name": free(row.get("JobName")),
        **state_of(row.get("State")), "start_time": moment(row.get("Start")), "end_time": moment(row.get("End")),
        "node_list": word(row.get("NodeList")), "task_count": number(row.get("NTasks")),
        "max_rss_bytes": bytes_of(row.get("MaxRSS")), "consumed_energy_j": number(row.get("ConsumedEnergyRaw")) or None,
    }
    if facts.get("state") in ("RUNNING", "PENDING", "SUSPENDED"):
        return {k: v for k, v in facts.items() if v is not None}
    return {k: v for k, v in (facts | exit_status(row.get("ExitCode", ""))).items() if v is not None}


def parse_config(text: str) -> Facts:
    """`scontrol show config`: {version, cluster, kill_wait_s, minjobage_s, accounting, energy_plugin}."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values.setdefault(key.strip(), value.strip())
    storage = word(values.get("AccountingStorageType"))
    energy = word((values.get("AcctGatherEnergyType") or "").rpartition("/")[2])
    found = {
        "version": word(values.get("SLURM_VERSION")), "cluster": word(values.get("ClusterName")),
        "kill_wait_s": number(values.get("KillWait", "").split(" ")[0]),
        "minjobage_s": number(values.get("MinJobAge", "").split(" ")[0]),
        "energy_plugin": energy, "topology_plugin": word((values.get("TopologyPlugin") or "").rpartition("/")[2]),
    }
    return {k: v for k, v in found.items() if v is not None} | {
        "accounting": storage is not None and not storage.endswith("/none")}
