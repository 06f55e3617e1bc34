"""What the run is made of besides numbers: the script, the state of its git repository, who ran it and where.

The user's repository is only read (`GIT_OPTIONAL_LOCKS=0`: not even its index is refreshed), under deadlines.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Variables that say how a job is laid out. An allow-list: values of others may be secrets.
ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV", "LOADEDMODULES", "HOSTNAME", "LANG",
    "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_NUM_NODES", "SLURM_JOB_PARTITION",
    "SLURM_NTASKS",
)
_SCRIPTS = (".py", ".sh", ".bash", ".R", ".jl", ".pl")
_ASSIGNMENT = re.compile(r"([\w.-]+)=('[^']*'|\"[^\"]*\"|[^\s;&|'\"]+)")
#: Tokens that are no secret: those of language models (`--pad-token`).
_PLAIN_TOKENS = ("pad", "eos", "bos", "unk", "mask", "sep", "cls", "image")
_DIFF_LIMIT = 16 << 20
_GIT_S = 10.0


def script_of(command: Sequence[str], cwd: Path) -> Path | None:
    """The script that a command runs: the first argument that is one, as in `srun -n8 python train.py --lr 1`."""
    for word in command:
        if word.endswith(_SCRIPTS):
            try:
                if (cwd / word).is_file():
                    return cwd / word
            except (OSError, ValueError):
                continue  # too long for a path: the text of a `bash -c`
    return None


def name_of(command: Sequence[str]) -> str:
    """What a run is called when nobody says: its script, else its program."""
    for word in command:
        if word.endswith(_SCRIPTS):
            return Path(word).stem
    return Path(command[0]).name


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container whose passwd does not know us


def is_secret(name: str) -> bool:
    """Whether the value of an option or a variable of this name is to be kept out of the record."""
    *before, last = re.split(r"[-_.]+", name.lower().lstrip("-"))
    front = before[-1] if before else ""
    if last == "token":
        return front not in _PLAIN_TOKENS
    if last == "key":
        return front in ("api", "access", "private", "secret")
    return last.endswith(("password", "passwd", "secret", "apikey")) or last in ("credential", "credentials")


def masked(command: Sequence[str]) -> list[str]:
    """The command line without what looks like a secret: `--api-key X`, `TOKEN=X`, also within a `bash -c`."""
    out: list[str] = []
    for i, word in enumerate(command):
        if i and command[i - 1].startswith("-") and is_secret(command[i - 1]) and not word.startswith("-"):
            out.append("***")
        else:
            out.append(_ASSIGNMENT.sub(lambda m: f"{m[1]}=***" if is_secret(m[1]) else m[0], word))
    return out


def about_run(environ: Mapping[str, str]) -> dict[str, Any]:
    """The cheap part of the RUN record, written before the command starts."""
    return {
        "started_ns": time.time_ns(), "user": user(), "uid": os.getuid(), "host": os.uname().nodename,
        "python": sys.version.split()[0],
        "environment": {name: environ[name] for name in ENVIRONMENT if name in environ},
    }


def code_of(command: Sequence[str], cwd: Path, source: Path) -> dict[str, Any]:
    """The part that takes a while: the script and the git state of its folder; copies go to `source`. For a thread."""
    code: dict[str, Any] = {}
    script = script_of(command, cwd)
    if script is not None:
        code["script"] = _store(script, source)
    folder = script.parent if script is not None else cwd
    git = shutil.which("git")
    if git is None:
        return code
    commit = _git(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return code
    code["commit"] = commit.decode().strip()
    for key, words in (("branch", ("rev-parse", "--abbrev-ref", "HEAD")),
                       ("remote", ("config", "--get", "remote.origin.url")),
                       ("root", ("rev-parse", "--show-toplevel"))):
        answer = _git(git, folder, *words)
        if answer:
            code[key] = _without_password(answer.decode("utf-8", "replace").strip())
    status = _git(git, folder, "status", "--porcelain", "--untracked-files=no")
    code["dirty"] = bool(status)
    if status:
        diff = _git(git, folder, "diff", "--binary", "--no-color", "--no-ext-diff", "HEAD")
        if diff is not None and len(diff) <= _DIFF_LIMIT:
            source.mkdir(exist_ok=True)
            (source / "code.diff").write_bytes(diff)
            code["diff"] = {"path": "source/code.diff", "sha256": hashlib.sha256(diff).hexdigest(), "bytes": len(diff)}
    return code


def _store(script: Path, source: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"path": str(script)}
    try:
        data = script.read_bytes()
    except OSError as e:
        return {**about, "reason": e.strerror}
    about["sha256"] = hashlib.sha256(data).hexdigest()
    if len(data) <= _DIFF_LIMIT:
        source.mkdir(exist_ok=True)
        (source / script.name).write_bytes(data)
        about["stored"] = f"source/{script.name}"
    return about


def _git(git: str, folder: Path, *words: str) -> bytes | None:
    """What git says, None when it fails or takes too long."""
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, timeout=_GIT_S, env=environ,
                              stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _without_password(remote: str) -> str:
    """https://user:token@host/x -> https://host/x"""
    scheme, separator, rest = remote.partition("://")
    if not separator:
        return remote
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
