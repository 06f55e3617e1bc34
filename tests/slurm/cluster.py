"""A real Slurm cluster on one machine, for tests and by hand (README.md beside this file).

Every node is a machine of its own by namespaces (machines.py) and runs Debian's slurmd. Node names begin with letters
that no other cluster has, as Slurm's cgroups are named after nodes: several clusters live side by side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.slurm import configuration
from tests.slurm.machines import Machines, until

CTL = configuration.CTL
CGROUPS = Path("/sys/fs/cgroup")
COMMANDS = ["slurmctld", "slurmd", "srun", "sbatch", "munged", "ip", "unshare", "nsenter", "pgrep", "setsid"]
FINAL = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT"}
DIRECTORY_MAX = 70  # characters: slurmstepd's sockets lie below it, and a socket's path has at most 107
NAMESPACES = ["unshare", "-n", "-u", "-i", "-m", "-p", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "t", "/tmp"]


def why_not(rootfs: Path | None = None) -> str | None:
    """The reason why there can be no cluster here, or None."""
    if sys.platform != "linux":
        return "no Linux"
    if os.geteuid() != 0:
        return "a Slurm cluster of our own needs root"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    wanted = [c for c in COMMANDS if not shutil.which(c, path=path)]
    if rootfs is not None:
        wanted = [c for c in wanted if c not in COMMANDS[:5]]
        if not (rootfs / "usr/sbin/slurmctld").exists():
            return f"{rootfs} holds no Slurm (make slurm-24)"
    if wanted:
        return f"not installed: {', '.join(wanted)} (as root: make slurm-setup)"
    tried = subprocess.run(NAMESPACES, capture_output=True, text=True)
    if tried.returncode:
        return f"no namespaces: {tried.stderr.strip()}"
    return None


def why_no_cgroup() -> str | None:
    """The reason why Slurm cannot track processes by cgroups here, or None."""
    for controller in ("freezer", "memory", "devices"):
        folder = CGROUPS / controller
        if not (folder / "cgroup.procs").exists():
            return f"no cgroup v1 controller `{controller}` in {CGROUPS}"
        if not os.access(folder, os.W_OK):
            return f"{folder} cannot be written"
    return None


def letters(number: int) -> str:
    """A number as lower-case letters: hostlists end in digits, so a prefix must not."""
    text = ""
    while True:
        number, digit = divmod(number, 26)
        text = chr(ord("a") + digit) + text
        if not number:
            return text


class Cluster(Machines):
    """`with Cluster(directory) as c:` is up; `directory` must be empty or absent, and holds logs afterwards.

    Further arguments: `configuration.Settings`; `cgroup=None` means where it is possible. `shared`: what of /tmp and
    the like all nodes see. `rootfs`: a Debian tree whose Slurm runs instead of this machine's. `prefix`: node names are
    `prefix`1, `prefix`2...; by default one that no other cluster has.
    """

    def __init__(self, directory: Path, *, shared: Sequence[Path] = (), rootfs: Path | None = None,
                 prefix: str | None = None, cgroup: bool | None = None, **settings: Any) -> None:
        directory = Path(os.path.abspath(directory))
        if len(str(directory)) > DIRECTORY_MAX:
            raise ValueError(f"too long for the sockets in it (at most {DIRECTORY_MAX} characters): {directory}")
        self.no_cgroup = "not wanted" if cgroup is False else why_no_cgroup()
        if cgroup and self.no_cgroup:
            raise ValueError(self.no_cgroup)
        self.settings = configuration.Settings(cgroup=self.no_cgroup is None, **settings)
        if self.settings.dbd and not shutil.which("mariadbd") and rootfs is None:
            raise ValueError("accounting needs slurmdbd and mariadb-server")
        self.rootfs, self.prefix = rootfs, prefix
        super().__init__(directory, [*shared, *common_paths(rootfs)])

    # --- life

    def __enter__(self) -> Cluster:
        self.up()
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    def up(self, *, persistent: bool = False) -> None:
        """Return when all nodes are idle. `persistent`: the cluster outlives this process."""
        for name in ("etc", "local", "log", "munge", "run", "spool", "state"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        many = self.settings.nodes
        try:
            quote = "ROOTFS='{}' DBD='{}' GPUS='{}'\n".format
            (self.directory / "machine.sh").write_text(
                quote(self.rootfs or "", "yes" if self.settings.dbd else "", self.settings.gpus))
            (self.directory / "shared").write_text("".join(f"{path}\n" for path in dict.fromkeys(self.shared)))
            pid = self.start_ctl(persistent=persistent)
            self.prefix = self.prefix or f"{letters(pid)}n"  # no other machine's controller has that pid now
            self.nodes = [f"{self.prefix}{i}" for i in range(1, many + 1)]
            self._configure()
            self.go(timeout=90 if self.settings.dbd else 20)
            self.power_on(self.nodes)
            self.wait_idle(timeout=30 + many / 2)
        except BaseException as error:
            if isinstance(error, Exception):
                error.add_note(self.tails())
            self.down()
            raise

    def down(self) -> None:
        """Kill everything. Returns when no process, mount, interface, socket or cgroup is left; logs stay."""
        self.kill()
        self._remove_cgroups(self.nodes)

    def _configure(self) -> None:
        for name, text in configuration.files(self.directory, self.nodes, self.settings).items():
            path = self.directory / "etc" / name
            path.touch(mode=0o600)
            path.write_text(text)
        (self.directory / "hosts").write_text(configuration.hosts(self.nodes))
        key = self.directory / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        (self.directory / "cluster.json").write_text(json.dumps({
            "nodes": self.nodes, "prefix": self.prefix, "rootfs": str(self.rootfs or ""),
            "settings": dataclasses.asdict(self.settings)}))

    @classmethod
    def open(cls, directory: Path) -> Cluster:
        """The cluster that another process has brought up."""
        known = json.loads((directory / "cluster.json").read_text())
        settings = {k: v for k, v in known["settings"].items() if k != "cgroup"}
        cluster = cls(directory, prefix=known["prefix"], rootfs=Path(known["rootfs"]) if known["rootfs"] else None,
                      cgroup=known["settings"]["cgroup"], **settings)
        cluster.nodes = known["nodes"]
        return cluster

    def variables(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.directory / "etc" / "slurm.conf")}

    def wait_idle(self, timeout: float = 30, nodes: Sequence[str] = ()) -> None:
        """Until these nodes (all, by default) are idle."""
        wanted = set(nodes or self.nodes)

        def states() -> dict[str, str]:
            out = self.exec(CTL, ["sinfo", "-h", "-N", "-o", "%N %T", "-p", "p"], timeout=40).stdout
            return dict(line.split() for line in out.splitlines())
        until(lambda: {n for n, state in states().items() if state == "idle"} >= wanted, timeout,
              lambda: f"nodes are idle: {states()}", pause=0.05)

    # --- jobs

    def sbatch(self, script: str | Sequence[str], *options: str, cwd: Path, **kwargs: Any) -> int:
        """Submit a script's text (`#!` is added where it is missing) or a command's words; the job's id.

        `kwargs` as for `exec`. Output is in cwd/slurm-ID.out unless the options say otherwise.
        """
        text = script if isinstance(script, str) else "exec " + shlex.join(script)
        if not text.startswith("#!"):
            text = "#!/bin/bash\n" + text + "\n"
        kwargs.setdefault("check", True)
        out = self.exec(CTL, ["sbatch", "--parsable", *options], input=text, cwd=cwd, **kwargs).stdout
        return int(out.strip().split(";")[0])

    def jobs(self, job: int | str) -> list[dict[str, str]]:
        """`scontrol show job`, one dictionary per task of an array or component of a heterogeneous job."""
        done = self.exec(CTL, ["scontrol", "-o", "-d", "show", "job", str(job)])
        return [fields(line) for line in done.stdout.splitlines() if line.startswith("JobId=")]

    def state(self, job: int | str) -> str:
        """RUNNING, COMPLETED...; of several tasks that differ, all their states, sorted, with commas between them."""
        return ",".join(sorted({record["JobState"] for record in self.jobs(job)}))

    def wait(self, job: int | str, timeout: float = 60, states: Sequence[str] = ()) -> str:
        """Poll until the job is in one of `states` (by default: until it has ended and nothing is completing)."""
        wanted = set(states or FINAL)

        def there() -> str:
            state = self.state(job)
            return state if state and set(state.split(",")) <= wanted else ""
        return until(there, timeout, lambda: f"job {job} is {' or '.join(sorted(wanted))}: it is {self.state(job)}\n"
                     + self.exec(CTL, ["squeue"]).stdout, pause=0.1)

    def scancel(self, *arguments: str | int) -> None:
        self.exec(CTL, ["scancel", *map(str, arguments)], check=True)

    def start_now(self, job: int | str) -> None:
        """End the pause that a requeued job must make, but for the rest of this second: a node takes a credential that
        was made in the second in which it revoked the last one for revoked, too, and the job fails (slurm_cred.c)."""
        revoked = int(time.time())
        until(lambda: int(time.time()) > revoked, 5, "another second")
        self.exec(CTL, ["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)

    def clear(self, timeout: float = 40) -> None:
        """Cancel whatever jobs there are, and wait until all nodes that are on are idle."""
        if self.exec(CTL, ["squeue", "-h", "-o", "%i"]).stdout.strip():
            self.exec(CTL, ["scancel", "--user=root"])
            until(lambda: not self.exec(CTL, ["squeue", "-h", "-o", "%i"]).stdout.strip(), timeout, "no job is left")
        self.wait_idle(timeout, [node for node in self.nodes if self.is_on(node)])

    # --- damage

    def crash(self, node: str) -> None:
        """Power loss of a node, as seen by the others: silence."""
        self.power_off(node)
        self._remove_cgroups([node])

    def boot(self, node: str, *, wait: bool = True) -> None:
        """Power a crashed node on again; `wait`: until Slurm has it back."""
        self.power_on([node], fresh_clock=True)
        if wait:
            self.wait_idle(nodes=[node])

    def slurmctld(self, action: str) -> None:
        """"stop" (SIGTERM), "kill" or "start" the controller's daemon. Jobs run on meanwhile."""
        self._daemon(CTL, "slurmctld", ["slurmctld"], action)
        if action == "start":
            until(lambda: "UP" in self.exec(CTL, ["scontrol", "ping"], timeout=20).stdout, 30, "slurmctld answers")

    def slurmd(self, node: str, action: str) -> None:
        """"stop", "kill" or "start" the daemon of a node. Its steps run on meanwhile."""
        self._daemon(node, "slurmd", ["slurmd", "-N", node], action)

    def _daemon(self, host: str, name: str, command: list[str], action: str) -> None:
        def pids() -> list[int]:
            return [p.pid for p in self.processes("") if p.host == host
                    and os.path.basename(p.command.split(" ")[0]) == name]
        if action == "start":
            self.exec(host, command, env={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}, check=True)
            return
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, {"stop": signal.SIGTERM, "kill": signal.SIGKILL}[action])
        until(lambda: not pids(), 20, f"{name} on {host} ends")

    # --- what is left, and what was said

    def cgroups(self, nodes: Sequence[str] = ()) -> list[Path]:
        """Directories that Slurm made in the cgroup hierarchies for these nodes (all, by default); deepest first."""
        tops = [CGROUPS / c / f"slurm_{node}" for c in os.listdir(CGROUPS) for node in nodes or self.nodes]
        return [Path(place) for top in tops for place, _, _ in os.walk(top, topdown=False)]

    def _remove_cgroups(self, nodes: Sequence[str]) -> None:
        if not self.settings.cgroup or not nodes:
            return

        def gone() -> bool:
            for folder in self.cgroups(nodes):
                with contextlib.suppress(OSError):  # its last process is not quite gone
                    folder.rmdir()
            return not self.cgroups(nodes)
        until(gone, 20, lambda: f"cgroups go: {self.cgroups(nodes)}")

    def tails(self, lines: int = 15) -> str:
        """The end of every log."""
        logs = sorted((self.directory / "log").glob("*.log"), key=lambda path: path.name != "slurmctld.log")
        return "\n".join(tail(path, lines) for path in logs if path.stat().st_size)


def tail(path: Path, lines: int) -> str:
    """The last lines, without two complaints of Slurm that mean nothing."""
    text = [line for line in path.read_text(errors="replace").splitlines()
            if "mpi/pmix" not in line and "_memcg_initialize" not in line]
    return "\n".join([f"--- {path}", *text[-lines:]])


def fields(line: str) -> dict[str, str]:
    """KEY=VALUE words of `scontrol -o`; a word without `=` belongs to the value before it."""
    found: dict[str, str] = {}
    key = ""
    for word in line.split(" "):
        name, equals, value = word.partition("=")
        if equals and name.replace(":", "").replace("/", "").replace("_", "").isalnum() and name[0].isupper():
            key = name
            found.setdefault(key, value)
        elif key:
            found[key] += " " + word
    return {name: value.strip() for name, value in found.items()}


def common_paths(rootfs: Path | None) -> list[Path]:
    """What jobs of the tests need, wherever it lies: the source tree, and this interpreter with its libraries."""
    tree = Path(__file__).resolve().parents[2]
    paths = [tree, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
    if rootfs is not None and paths[-1] == Path("/usr"):
        paths[-1:] = [Path(os.path.realpath(sys.executable)), Path(os.__file__).resolve().parent]
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    from tests.slurm.by_hand import run
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
