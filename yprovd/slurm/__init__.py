"""What is asked of Slurm, and how its answers are read. From 22.05 on; standard library only.

Every way of asking (`scontrol` and `sacct` text, their JSON, the environment) gives the same flat dictionary, the
*facts* of a job. What is not known is not in it: never an empty string, `(null)`, `N/A` or `Unknown`.

    name "slurm", version, cluster, job_id, job_name, user, uid, account, partition, qos, reservation,
    state (Slurm's word), state_flags (further words, such as COMPLETING), state_reason,
    exit_code, exit_signal, derived_exit_code, derived_exit_signal (of a job that has ended), restart_count, requeue,
    node_list, nodes (names), node_count, batch_host, failed_node, cpu_count, task_count, cpus_per_task,
    requested_tres, allocated_tres ({name: amount}), tres_per_node, gres_by_node ({node: text}), features, topology,
    submit_time, eligible_time, start_time, end_time, expected_end_time (of a job that goes on), suspend_time,
    preempt_time (ISO 8601 with offset), time_limit_s,
    dependency, comment, command, work_dir, stdout_path, stderr_path,
    array_job_id, array_task_id, het_job_id, het_offset,
    other ({Slurm's own name: text}, what has no name here)
    of `sacct`: elapsed_s, consumed_energy_j, steps ([{step_id, name, state, exit_code, exit_signal, start_time,
    end_time, node_list, task_count, max_rss_bytes, consumed_energy_j}])

Ids are text. Commands block until their deadline at most, with no input, and are killed when they are late; what could
not be had raises `SlurmUnavailable` with the reason.
"""

from yprovd.slurm.commands import (
    SlurmUnavailable,
    accounting,
    active_steps,
    batch_script,
    cancel,
    controller,
    describe,
    show_job,
    version,
)
from yprovd.slurm.documents import parse_job_json, parse_sacct_json
from yprovd.slurm.environment import from_environment
from yprovd.slurm.hostlist import expand
from yprovd.slurm.states import ending, final
from yprovd.slurm.texts import parse_config, parse_sacct_text, parse_show_job

__all__ = [
    "SlurmUnavailable", "accounting", "active_steps", "batch_script", "cancel", "controller", "describe", "ending",
    "expand", "final", "from_environment", "parse_config", "parse_job_json", "parse_sacct_json", "parse_sacct_text",
    "parse_show_job", "show_job", "version",
]
