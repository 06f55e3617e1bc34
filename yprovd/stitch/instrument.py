"""What ran, for the crate: the software, what it needs, its container, the variables that it saw.

Process Run Crate recommends of the software a name, an address, a version and an absolute URI as its `@id`. Of a git
repository these are its web address at the commit. Of other commands the `@id` is the command's own in prov.json, in
our namespace of runs; the address is that of the script's copy in the archive, else of prov.json, which describes the
command; the version is the script's SHA-256, else the words "not recorded".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from yprovd.config import PROV_FILE
from yprovd.stitch.document import clean, json_text, slug
from yprovd.stitch.entities import Entities, id_of_path, web_address
from yprovd.stitch.facts import command_of, part
from yprovd.stitch.record import Record

_WFRUN = "https://w3id.org/ro/terms/workflow-run#"
#: Of `environment` at most so many.
MOST_VARIABLES = 500
#: Engines for which an image without a registry is one of Docker Hub's; Podman asks what it was configured to.
_HUB = ("docker", "apptainer", "singularity", "enroot", "shifter", "nerdctl", "ch-run")


def add_instrument(entities: Entities, record: Record, run_id: str, command: str) -> dict[str, str]:
    """The code at its commit where that is known, else the program by its name. `command`: the line as text."""
    code = part(record.run, "code")
    script = part(code, "script")
    remote, commit = str(code.get("remote") or ""), str(code.get("commit") or "")
    argv = command_of(record)
    name = clean(os.path.basename(str(script.get("path") or (argv[0] if argv else ""))) or "command")
    needs = _requirements(entities, record.run)
    tree = str(code.get("tree") or "") or None
    if commit:
        version = commit + (" with uncommitted changes" if code.get("dirty") else "")
        if isinstance(code.get("unpushed"), int) and code["unpushed"]:
            version += ", not on the remote"
    else:
        version = f"sha256:{script['sha256']}" if script.get("sha256") else "not recorded"
    url = web_address(remote)
    if url is not None:
        where = f"{url}/tree/{slug(commit)}" if commit else url
        return entities.add(where, "SoftwareApplication", name=name, url=url, softwareVersion=clean(version),
                            identifier=tree, softwareRequirements=needs)
    near = next((i for i in (id_of_path(str(script.get("stored") or "")), PROV_FILE) if i in entities.graph), "./")
    return entities.add(f"https://w3id.org/yprov/run/{slug(run_id)}#command", "SoftwareApplication", name=name,
                        description=command, url={"@id": near},
                        softwareVersion=clean(version), identifier=tree, softwareRequirements=needs)


def _requirements(entities: Entities, about: Mapping[str, Any]) -> list[dict[str, str]]:
    """The files of the archive that list the packages of the environment: any `path` or `stored` of what was said."""
    said = (about.get("packages"), about.get("locks"))
    listed = dict.fromkeys(id_of_path(path) for thing in said for path in _paths(thing))
    return [{"@id": identifier} for identifier in listed if identifier in entities.graph]


def _paths(thing: Any) -> Iterator[str]:
    if isinstance(thing, Mapping):
        for key in ("stored", "path"):
            if isinstance(thing.get(key), str):
                yield thing[key]
        thing = list(thing.values())
    if isinstance(thing, list | tuple):
        for one in thing:
            yield from _paths(one)


def add_environment(entities: Entities, record: Record) -> list[dict[str, str]]:
    """The variables that the run was started with, and what else is told of its surroundings, as PropertyValues."""
    values = dict(sorted((str(k), v) for k, v in part(record.run, "environment").items()))
    if isinstance(names := part(record.run, "modules").get("names"), list | tuple) and names:
        values["modules"] = ", ".join(map(str, names))
    container = part(record.run, "container")
    if container.get("image") and image_of(container) is None:
        digest = container.get("sha256")
        values["container image"] = f"{container['image']}{f' (sha256:{digest})' if digest else ''}"
    return [entities.add(f"#environment/{slug(name)}", "PropertyValue", name=clean(name),
                         value=clean(value if isinstance(value, str) else json_text(value)))
            for name, value in list(values.items())[:MOST_VARIABLES]]


def add_container(entities: Entities, record: Record) -> dict[str, str] | None:
    """The image, where it is of one of the two kinds that the vocabulary has; else `add_environment` tells of it."""
    image = image_of(part(record.run, "container"))
    return None if image is None else entities.add("#container", "ContainerImage", **image)


def image_of(container: Mapping[str, Any]) -> dict[str, Any] | None:
    """The properties of a ContainerImage; None for a squash file, a folder, or when nothing is known.

    `registry/name:tag@sha256:digest` is what Docker has, and `docker://...` what others take; a `.sif` file is an image
    of Apptainer's."""
    text, engine = str(container.get("image") or ""), str(container.get("engine") or "")
    digest = str(container.get("sha256") or container.get("digest") or "").removeprefix("sha256:")
    sha256 = digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None
    if text.endswith(".sif"):
        return {"additionalType": {"@id": f"{_WFRUN}SIFImage"}, "name": clean(text), "sha256": sha256,
                "registry": "none (a local file)"}
    scheme, separator, plain = text.rpartition("://")
    if text.startswith(("/", ".", "~")) or text.endswith((".sqsh", ".squashfs", ".tar")) or (
            separator and scheme not in ("docker", "oras", "podman", "dockerd")):
        return None
    m = re.fullmatch(r"(?:([\w.-]+\.[\w.-]+(?::\d+)?|localhost(?::\d+)?|[\w-]+:\d+)[/#])?"
                     r"([\w./-]+?)(?::([\w.-]+))?(?:@sha256:([0-9a-f]{64}))?", plain)
    if m is None:
        return None
    registry = m[1] or ("docker.io" if engine in _HUB or scheme == "docker" else "not recorded")
    return {"additionalType": {"@id": f"{_WFRUN}DockerImage"}, "registry": registry, "name": m[2], "tag": m[3],
            "sha256": m[4] or sha256}
