"""`python -m tests.slurm.cluster VERB DIR ...`: the cluster by hand."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tests.slurm.cluster import Cluster, why_not


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description="A real Slurm on one machine.")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check", help="can there be a cluster here?")

    def verb(name: str, text: str, *arguments: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text)
        made.add_argument("dir", type=Path)
        for argument in arguments:
            made.add_argument(argument)
        return made

    up = verb("up", "start a cluster that stays; its state and logs lie in DIR")
    up.add_argument("--nodes", type=int, default=4)
    up.add_argument("--cpus", type=int, default=16)
    up.add_argument("--memory", type=int, default=16000, help="MB per node")
    up.add_argument("--gpus", type=int, default=0)
    up.add_argument("--gpu-env", default="nvidia_gpu_env")
    up.add_argument("--kill-wait", type=int, default=5)
    up.add_argument("--prefix", help="node names; by default one that no other cluster has")
    up.add_argument("--no-cgroup", dest="cgroup", action="store_const", const=False)
    up.add_argument("--dbd", action="store_true", help="with slurmdbd and MariaDB")
    up.add_argument("--rootfs", type=Path, default=os.environ.get("YPROV_SLURM_ROOTFS"))
    up.add_argument("--shared", type=Path, action="append", default=[], help="a path below /tmp that nodes share")
    up.add_argument("--extra-conf", type=Path, metavar="FILE")
    run = verb("exec", "run a command on `ctl` or a node", "host")
    run.add_argument("command", nargs=argparse.REMAINDER)
    verb("crash", "power loss of a node", "node")
    verb("boot", "power on", "node")
    verb("link", "cut or heal a node's network", "node").add_argument("state", choices=["up", "down"])
    verb("slurmd", "the daemon of a node", "node").add_argument("action", choices=["stop", "kill", "start"])
    verb("slurmctld", "the controller's daemon").add_argument("action", choices=["stop", "kill", "start"])
    verb("processes", "what runs there with TEXT in its command line or environment", "text")
    verb("down", "end everything")
    return top


def run(arguments: Sequence[str] | None = None) -> int:
    given = vars(parser().parse_args(arguments))
    verb = given.pop("verb")
    if verb == "check":
        rootfs = os.environ.get("YPROV_SLURM_ROOTFS")
        reason = why_not(Path(rootfs) if rootfs else None)
        print(f"no Slurm cluster here: {reason}" if reason else "a Slurm cluster can be made here")
        return 1 if reason else 0
    directory = Path(os.path.abspath(given.pop("dir")))
    if verb == "up":
        extra = given.pop("extra_conf")
        with_options = Cluster(directory, extra_conf=extra.read_text() if extra else "", **given)
        with_options.up(persistent=True)
        tracking = with_options.no_cgroup
        print(" ".join(with_options.nodes), f"(no process tracking by cgroup: {tracking})" if tracking else "")
        return 0
    cluster = Cluster.open(directory)
    if verb == "exec":
        command = given["command"][given["command"][:1] == ["--"]:]
        return cluster.popen(given["host"], command, stdin=None).wait()
    if verb == "processes":
        print(*cluster.processes(given["text"]), sep="\n")
    else:
        getattr(cluster, verb)(*given.values())
    return 0
