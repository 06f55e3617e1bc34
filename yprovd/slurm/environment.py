"""What a job's own variables tell (sbatch(1) and srun(1), OUTPUT ENVIRONMENT VARIABLES): also where Slurm's commands
are not, as in a container."""

from __future__ import annotations

from collections.abc import Mapping

from yprovd.slurm.values import Facts, free, from_epoch, hosts, number, word

_TEXT = {
    "job_id": ("SLURM_JOB_ID", "SLURM_JOBID"), "job_name": ("SLURM_JOB_NAME",), "cluster": ("SLURM_CLUSTER_NAME",),
    "partition": ("SLURM_JOB_PARTITION",), "account": ("SLURM_JOB_ACCOUNT",), "user": ("SLURM_JOB_USER",),
    "qos": ("SLURM_JOB_QOS",), "reservation": ("SLURM_JOB_RESERVATION",),
    "node_list": ("SLURM_JOB_NODELIST", "SLURM_NODELIST"), "array_job_id": ("SLURM_ARRAY_JOB_ID",),
    "array_task_id": ("SLURM_ARRAY_TASK_ID",), "work_dir": ("SLURM_SUBMIT_DIR",), "submit_dir": ("SLURM_SUBMIT_DIR",),
    "submit_host": ("SLURM_SUBMIT_HOST",), "step_id": ("SLURM_STEP_ID", "SLURM_STEPID"),
    "step_node_list": ("SLURM_STEP_NODELIST",), "topology": ("SLURM_TOPOLOGY_ADDR",),
    "topology_pattern": ("SLURM_TOPOLOGY_ADDR_PATTERN",),
    "dependency": ("SLURM_JOB_DEPENDENCY",),
}
_NUMBERS = {
    "uid": ("SLURM_JOB_UID",), "node_count": ("SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
    "tasks": ("SLURM_NTASKS", "SLURM_NPROCS"), "cpus_per_task": ("SLURM_CPUS_PER_TASK",),
    "gpus_on_node": ("SLURM_GPUS_ON_NODE",), "array_task_count": ("SLURM_ARRAY_TASK_COUNT",),
    "het_size": ("SLURM_HET_SIZE",), "restart_count": ("SLURM_RESTART_COUNT",),
}
_FREE = {"job_name", "submit_dir", "work_dir"}


def from_environment(environ: Mapping[str, str]) -> Facts:
    """The facts that the variables hold, and: tasks, submit_dir, submit_host, gpus_on_node, step_id, het_size,
    het_groups ({index: {job_id, node_list, nodes}}). `restart_count` is 0 where it is not set, as Slurm leaves it at
    a job's first start. Empty outside of a job."""
    facts: Facts = {}
    for names, read in ((_TEXT, word), (_NUMBERS, number)):
        for fact, variables in names.items():
            value = next((environ[v] for v in variables if environ.get(v)), None)
            facts[fact] = free(value) if fact in _FREE else read(value)
    if facts["job_id"] is None:
        return {}
    facts["name"] = "slurm"
    facts["restart_count"] = facts["restart_count"] or 0
    facts["task_count"] = facts["tasks"]
    facts["nodes"] = hosts(facts["node_list"]) or None
    # From 23.02 on.
    facts["start_time"] = from_epoch(environ.get("SLURM_JOB_START_TIME"))
    facts["expected_end_time"] = from_epoch(environ.get("SLURM_JOB_END_TIME"))
    size = facts["het_size"]
    if size and size <= 128:  # MAX_HET_JOB_COMPS of slurm.h
        facts["het_groups"] = {i: _group(environ, i) for i in range(size)}
        facts["het_job_id"] = facts["het_groups"][0].get("job_id", facts["job_id"])
    return {k: v for k, v in facts.items() if v is not None}


def _group(environ: Mapping[str, str], index: int) -> Facts:
    node_list = word(environ.get(f"SLURM_JOB_NODELIST_HET_GROUP_{index}"))
    group = {"job_id": word(environ.get(f"SLURM_JOB_ID_HET_GROUP_{index}")), "node_list": node_list}
    return {k: v for k, v in group.items() if v is not None} | {"nodes": hosts(node_list)}
