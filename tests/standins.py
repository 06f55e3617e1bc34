"""Stand-ins for schedulers' commands, in a directory that is the first of PATH; and for a cluster of several nodes on
one machine: the first is the machine itself, each other one a process in namespaces of its own, with a host name,
process ids and /dev/shm of its own (needs root)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.running import environment

HERE = os.uname().nodename
#: `on NODE COMMAND...`
_ON = f"""
node=$1; shift
if [ "$node" = {HERE} ]; then exec "$@"; fi
exec unshare --uts --mount --pid --fork --kill-child --mount-proc /bin/sh -c '
  hostname "$0" && mount -t tmpfs shm /dev/shm && exec "$@"' "$node" "$@"
"""
#: `onall COMMAND...` on each word of NODES at once, with the rank that Open MPI sets.
_ON_ALL = """
rank=0
for node in $NODES; do
  OMPI_COMM_WORLD_RANK=$rank on "$node" "$@" &
  rank=$((rank + 1))
done
wait
"""


def can_have_nodes() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None and os.access("/dev/shm", os.W_OK)


class StandIns:
    """`bin` and, in front of the rest of PATH, the environment that finds it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder
        folder.mkdir(exist_ok=True)
        self.add(on=_ON, onall=_ON_ALL)

    def add(self, **scripts: str) -> None:
        for name, text in scripts.items():
            path = self.bin / name
            path.write_text(f"#!/bin/sh\n{text.lstrip()}")
            path.chmod(0o755)

    def environment(self, **changes: str) -> dict[str, str]:
        return environment(**{"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", **changes})


def pbs(add: Callable[..., None], *, tmrsh: bool) -> None:
    """`pbs_tmrsh HOST COMMAND...`, `pbsdsh -n INDEX -- COMMAND...` (pbs_tmrsh.c, pbsdsh.c): neither gives the task the
    environment of its caller."""
    if tmrsh:
        add(pbs_tmrsh='grep -qx "$1" "$PBS_NODEFILE" || { echo "pbs_tmrsh: host \\"$1\\" is not a node in job" >&2; '
                      'exit 255; }\nexec /usr/bin/env -i PATH="$PATH" PBS_JOBID="$PBS_JOBID" on "$@"')
    add(pbsdsh='[ "$1" = -n ] && [ "$3" = -- ] || { echo "Usage: pbsdsh [-n node_index] -- program" >&2; exit 1; }\n'
               'node=$(sed -n "$(($2 + 1))p" "$PBS_NODEFILE"); shift 3\n'
               'exec /usr/bin/env -i PATH="$PATH" PBS_JOBID="$PBS_JOBID" on "$node" "$@"')


def flux(add: Callable[..., None], hosts: str) -> None:
    """`flux getattr hostlist`, `flux exec --noinput --rank=all COMMAND...` (flux-exec(1))."""
    add(flux=f'case "$1" in\n'
             f'getattr) [ "$2" = hostlist ] && echo "{hosts}" ;;\n'
             f'exec) [ "$2 $3" = "--noinput --rank=all" ] || exit 1; shift 3; exec onall "$@" ;;\n'
             f'*) exit 1 ;;\nesac')


def lsf(add: Callable[..., None]) -> None:
    """`blaunch -n -z "HOST HOST" COMMAND...` (IBM's reference)."""
    add(blaunch='[ "$1 $2" = "-n -z" ] || exit 255\nNODES=$3; export NODES; shift 3; exec onall "$@"')
