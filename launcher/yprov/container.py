"""The container that a run is in, or that its command starts: engine, image, and the image's digest.

Facts: {engine, image, inside (we are in it), name?, digest? ("sha256:..."), sha256? of an image file, bytes?, id?,
reason?}. An image file is read in the background; what an engine is asked has a deadline.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_ASK_S = 3.0
_BLOCK = 1 << 20
#: Words of a command among which the engine and its image stand.
_MOST_WORDS = 256
_FORMAT = "{{.Id}} {{range .RepoDigests}}{{.}} {{end}}"
#: Options of `docker run` and `podman run` without a value; every other one has one.
_SWITCHES = {"-d", "-i", "-t", "-P", "--detach", "--init", "--interactive", "--no-healthcheck", "--oom-kill-disable",
             "--privileged", "--publish-all", "--read-only", "--rm", "--sig-proxy", "--tty", "--replace",
             "--tls-verify", "--no-hosts", "--quiet", "-q", "--rmi"}
#: Options of `apptainer exec` with one; every other one has none.
_VALUED = {"-B", "--bind", "--env", "--env-file", "-H", "--home", "-o", "--overlay", "-W", "--workdir", "--pwd",
           "--cwd", "-S", "--scratch", "--app", "--apply-cgroups", "--dns", "--hostname", "--network",
           "--network-args", "--mount", "--security", "--add-caps", "--drop-caps", "--fusemount", "--pem-path",
           "--docker-host", "--shell", "--cpus", "--memory", "--cpuset-cpus", "--pids-limit", "--nvccli-path",
           "--config"}
_ENROOT_VALUED = {"-c", "--conf", "-e", "--env", "-m", "--mount", "--rc"}


def container_of(command: Sequence[str], environ: Mapping[str, str], root: Path = Path("/")) -> dict[str, Any]:
    """What the command line and the environment tell, without a digest; empty where there is no container."""
    started = _of_command(list(command[:_MOST_WORDS]))
    return started or _around(environ, root)


def _of_command(words: list[str]) -> dict[str, Any]:
    for i, word in enumerate(words):
        name, rest = os.path.basename(word), words[i + 1:]
        image = ""
        if name in ("apptainer", "singularity"):
            image = _after(rest, ("exec", "run", "shell", "test"), lambda o: o in _VALUED)
        elif name in ("docker", "podman", "nerdctl", "podman-hpc"):
            image = _after(rest, ("run", "create"), lambda o: o not in _SWITCHES and not re.fullmatch("-[ditPq]+", o))
        elif name in ("enroot", "ch-run"):
            image = _after(rest, ("start",) if name == "enroot" else (), lambda o: o in _ENROOT_VALUED)
        elif name == "shifter":
            given = next((w.partition("=")[2] for w in rest if w.startswith("--image=")), "")
            image = given or _option(rest, "--image", "-i")
        elif word.startswith("--container-image="):  # pyxis, for srun
            name, image = "enroot", word.partition("=")[2]
        elif word == "--container-image" and rest:
            name, image = "enroot", rest[0]
        if image:
            return {"engine": name, "image": image, "inside": False}
        if " " in word and re.search(r"\b(apptainer|singularity|docker|podman|enroot|shifter)\b", word):
            found = _of_command(word.split())  # the text of a `bash -c`
            if found:
                return found
    return {}


def _option(words: list[str], *names: str) -> str:
    return next((words[i + 1] for i, w in enumerate(words[:-1]) if w in names), "")


def _after(words: list[str], subcommands: tuple[str, ...], has_value: Callable[[str], bool]) -> str:
    """The first word behind the subcommand that is no option and no option's value."""
    at = next((i + 1 for i, w in enumerate(words) if w in subcommands), None) if subcommands else 0
    while at is not None and at < len(words):
        word = words[at]
        if not word.startswith("-"):
            return word
        at += 2 if "=" not in word and has_value(word) else 1
    return ""


def _around(environ: Mapping[str, str], root: Path) -> dict[str, Any]:
    for engine, variable in (("apptainer", "APPTAINER_CONTAINER"), ("singularity", "SINGULARITY_CONTAINER"),
                             ("shifter", "SHIFTER_IMAGEREQUEST"), ("shifter", "SHIFTER_IMAGE"),
                             ("enroot", "ENROOT_ROOTFS"), ("charliecloud", "CH_RUNNING")):
        if environ.get(variable):
            name = environ.get("APPTAINER_NAME") or environ.get("SINGULARITY_NAME")
            return {"engine": engine, "image": environ[variable], "inside": True, **({"name": name} if name else {})}
    podman = root / "run" / ".containerenv"
    if podman.is_file():
        values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(podman), re.MULTILINE))
        facts = {"engine": "podman", "image": values.get("image", ""), "inside": True, "name": values.get("name"),
                 "digest": values.get("imageid"), "id": values.get("id")}
        return {k: v for k, v in facts.items() if v is not None}
    if (root / ".dockerenv").exists():
        m = re.search(r"/containers/([0-9a-f]{64})/", _text(root / "proc/self/mountinfo"))
        return {"engine": "docker", "inside": True, **({"id": m[1]} if m else {}),
                "reason": "a container of Docker's does not know its image"}
    return {}


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read(1 << 20)
    except OSError:
        return ""


def digest_of(
    facts: Mapping[str, Any], cwd: Path, limit: int, go_on: Callable[[], bool]
) -> dict[str, Any]:
    """The digest of the image, or the reason why there is none. `limit`: bytes of a file that are read."""
    image = str(facts.get("image") or "")
    if m := re.search(r"@(sha256:[0-9a-f]{64})", image):
        return {"digest": m[1]}
    if not image or facts.get("digest"):
        return {}
    path = cwd / image.removeprefix("oci-archive:").removeprefix("docker-archive:")
    if "://" not in image and path.is_file():
        return _file_digest(path, limit, go_on)
    if "://" not in image and path.is_dir() and os.sep in image:
        return {"reason": "a folder: it has no digest"}
    if facts.get("engine") in ("docker", "podman") and not facts.get("inside"):
        return _asked(str(facts["engine"]), image)
    return {"reason": "an image of a registry, named without a digest"}


def _file_digest(path: Path, limit: int, go_on: Callable[[], bool]) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > limit:
            return {"bytes": size, "reason": f"larger than {limit} bytes"}
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as f:
            while block := f.read(_BLOCK):
                if not go_on():
                    return {"bytes": size, "reason": "the run ended before it was read"}
                digest.update(block)
    except OSError as e:
        return {"reason": e.strerror or str(e)}
    return {"bytes": size, "sha256": digest.hexdigest()}


def _asked(engine: str, image: str) -> dict[str, Any]:
    if shutil.which(engine) is None:
        return {"reason": f"`{engine}` is not in PATH"}
    try:
        done = subprocess.run([engine, "image", "inspect", "--format", _FORMAT, image], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {"reason": f"`{engine}` did not answer within {_ASK_S:g} s"}
    words = done.stdout.decode("utf-8", "replace").split()
    if done.returncode or not words:
        return {"reason": f"`{engine}` does not know the image"}
    repository = next((w.rpartition("@")[2] for w in words[1:] if "@" in w), "")
    return {"id": words[0], **({"digest": repository} if repository else {"reason": "an image that no registry has"})}
