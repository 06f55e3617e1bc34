"""The files of a small Slurm: slurm.conf, cgroup.conf, gres.conf, slurmdbd.conf (man 5 of each) and hosts, as text.

Made for tests: jobs start at once, a dead node is noticed within seconds, what is killed is dead soon. A node may claim
more cores and memory than the machine has (`config_overrides`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CTL = "ctl"
CTL_ADDRESS = "10.77.255.254"

SLURM_CONF = """\
ClusterName=yp
SlurmctldHost={ctl}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: a requeued job waits this long, and one second more (120 s otherwise)
AuthInfo=socket={dir}/munge/sock,cred_expire=10
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/run/slurmctld.pid
SlurmdPidFile={dir}/run/slurmd-%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
LogTimeFormat=iso8601_ms
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
DefMemPerCPU={memory_per_cpu}
EnforcePartLimits=ALL
# --- speed
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_min_interval=0,sched_interval=2
SlurmdTimeout=10
MessageTimeout={message_timeout}
TCPTimeout={tcp_timeout}
KillWait={kill_wait}
UnkillableStepTimeout=30
ReturnToService=2
# --- ways to end
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
PropagateResourceLimits=NONE
"""

CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
ConstrainCores={cores}
ConstrainDevices={devices}
"""

DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={dir}/munge/sock
DbdHost={ctl}
DbdAddr={address}
DbdPort=6819
SlurmUser=root
LogFile={dir}/log/slurmdbd.log
PidFile={dir}/run/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=slurm
StoragePass=x
StorageLoc=slurm_acct_db
"""


@dataclass(frozen=True)
class Settings:
    """What a test may choose. `memory`: MB of a node. `gpu_env`: nvidia_gpu_env or amd_gpu_env. `kill_wait`: seconds.

    `bind_cores`: tasks are bound to cores of the machine, of which it must have as many as `cpus`; needs `cgroup`.
    """

    nodes: int = 4
    cpus: int = 16
    memory: int = 16000
    gpus: int = 0
    gpu_env: str = "nvidia_gpu_env"
    kill_wait: int = 5
    cgroup: bool = True
    bind_cores: bool = False
    dbd: bool = False
    extra_conf: str = ""


def address(number: int) -> str:
    """Of node 1, 2...: 10.77.0.2, 10.77.0.3..."""
    return f"10.77.{number // 250}.{number % 250 + 1}"


def hosts(names: Sequence[str]) -> str:
    lines = ["127.0.0.1 localhost", f"{CTL_ADDRESS} {CTL}"]
    return "\n".join([*lines, *(f"{address(i)} {name}" for i, name in enumerate(names, 1))]) + "\n"


def slurm_conf(directory: Path, names: Sequence[str], settings: Settings) -> str:
    many = len(names) > 64  # on few cores, answers take longer
    lines = [SLURM_CONF.format(dir=directory, ctl=CTL, address=CTL_ADDRESS, kill_wait=settings.kill_wait,
                               memory_per_cpu=settings.memory // settings.cpus,
                               message_timeout=30 if many else 5, tcp_timeout=10 if many else 1)]
    if settings.cgroup:
        plugins = "task/affinity,task/cgroup" if settings.bind_cores else "task/cgroup"
        lines.append(f"ProctrackType=proctrack/cgroup\nTaskPlugin={plugins}\nPrologFlags=Contain\n")
    else:
        lines.append("ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n")
    if settings.dbd:
        # AccountingStoragePass, not AuthInfo, names the socket for slurmdbd.
        lines.append("AccountingStorageType=accounting_storage/slurmdbd\n"
                     f"AccountingStorageHost={CTL}\nAccountingStoragePort=6819\n"
                     f"AccountingStoragePass={directory}/munge/sock\n")
    gres = ""
    if settings.gpus:
        lines.append("GresTypes=gpu\n")
        gres = f" Gres=gpu:h100:{settings.gpus}"
    for number, name in enumerate(names, 1):
        lines.append(f"NodeName={name} NodeAddr={address(number)} NodeHostname={name} CPUs={settings.cpus} "
                     f"RealMemory={settings.memory}{gres} State=UNKNOWN\n")
    lines.append("PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
                 "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF\n")
    return "".join([*lines, settings.extra_conf])


def files(directory: Path, names: Sequence[str], settings: Settings) -> dict[str, str]:
    """Every file below `directory`/etc by its name."""
    made = {"slurm.conf": slurm_conf(directory, names, settings)}
    # Without tracking too: left alone, slurmd loads the plugin for cgroup v2, which wants systemd.
    made["cgroup.conf"] = "CgroupPlugin=cgroup/v1\n"
    if settings.cgroup:
        made["cgroup.conf"] = CGROUP_CONF.format(devices="yes" if settings.gpus else "no",
                                                 cores="yes" if settings.bind_cores else "no")
    if settings.gpus:
        made["gres.conf"] = f"Name=gpu Type=h100 File={directory}/dev/gpu[0-{settings.gpus - 1}] " \
                            f"Flags={settings.gpu_env}\n"
    if settings.dbd:
        made["slurmdbd.conf"] = DBD_CONF.format(dir=directory, ctl=CTL, address=CTL_ADDRESS)
    return made
