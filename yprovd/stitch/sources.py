"""What the run was made of, as records of prov.json: code, changes, unpushed commits, environment, packages, container.

Few records, whatever is behind them: lists are files in `source/`, told by count and SHA-256. `record.run` has, all of
it optional, as the launcher writes it (`yprov.capture`, `yprov.repository`, `yprov.packages`, `yprov.container`):

    code       {remote, commit, branch, dirty, untracked, tree ("swh:1:dir:..."), diff {path, sha256, bytes, files,
               masked}, unpushed, bundle {path, sha256, bytes, commits}, lists {path, sha256, bytes}, submodules, lfs,
               lfs_missing, left_out, masked, reasons {what: why not}, script {path, stored, sha256, masked, reason}}
    environment {name: value}, modules {names [..], files [..]}
    packages   {path, sha256, bytes, count, hashes, conda, interpreter, how, version, requirements {path, sha256,
               bytes}, conda_list {..}} or {reason}
    locks      [{path, stored, sha256, bytes, masked}]: copies of the project's lock files
    container  {engine, image, inside, name, digest, sha256, bytes, id, reason}
    capture    {seconds, unfinished {step: why}, reason}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prov.model import QualifiedName

from yprovd.stitch.document import Document, json_text, qname
from yprovd.stitch.facts import lines_of, part


def add_code(doc: Document, run: QualifiedName, about: Mapping[str, Any]) -> QualifiedName | None:
    """The records of the code; returns the plan that the run followed, its script."""
    code = part(about, "code")
    diff, script, bundle, lists = (part(code, key) for key in ("diff", "script", "bundle", "lists"))
    entity = None
    reasons = part(code, "reasons")
    if reasons or any(code.get(k) is not None for k in ("remote", "commit", "branch", "tree")):
        entity = doc.entity("code", {
            "prov:type": qname("schema:SoftwareSourceCode"), "yp:type": qname("yp:SourceCode"),
            "prov:label": "source code", "yp:remote": code.get("remote"), "yp:commit": code.get("commit"),
            "yp:branch": code.get("branch"), "yp:dirty": code.get("dirty"), "yp:tree": code.get("tree"),
            "yp:untrackedFiles": code.get("untracked"), "yp:unpushedCommits": code.get("unpushed"),
            "yp:submodules": code.get("submodules"), "yp:lfsFiles": code.get("lfs"),
            "yp:lfsFilesMissing": code.get("lfs_missing"), "yp:filesLeftOut": code.get("left_out"),
            "yp:filesMasked": code.get("masked"), "prov:location": lists.get("path"), "yp:sha256": lists.get("sha256"),
            "yp:absent": lines_of(f"{what}: {reason}" for what, reason in sorted(reasons.items())),
        })
        doc.used(run, entity, role="code")
    if diff:
        changed = doc.entity("code.diff", {
            "prov:label": "uncommitted changes", "yp:type": qname("yp:GitDiff"),
            **_file(diff), "yp:files": diff.get("files"), "yp:masked": diff.get("masked"),
        })
        doc.used(run, changed, role="code")
        if entity is not None:
            doc.derived(changed, entity)
    if bundle and entity is not None:
        commits = doc.entity("code.bundle", {
            "prov:label": "commits that no remote has", "yp:type": qname("yp:GitBundle"), **_file(bundle),
            "yp:commits": bundle.get("commits"),
        })
        doc.derived(entity, commits)
    if not script:
        return None
    plan = doc.entity("script", {
        "prov:type": qname("prov:Plan"), "yp:type": qname("yp:Script"),
        "prov:label": str(script.get("path") or "script").rpartition("/")[2],
        "prov:location": script.get("stored") or script.get("path"), "yp:path": script.get("path"),
        "yp:sha256": script.get("sha256"), "yp:masked": script.get("masked"),
        "yp:checksumAbsent": None if script.get("sha256") else script.get("reason"),
    })
    doc.used(run, plan, role="script")
    return plan


def add_surroundings(doc: Document, run: QualifiedName, about: Mapping[str, Any]) -> None:
    """The records of what stood around the code: variables and modules, packages, container."""
    variables, modules, capture = part(about, "environment"), part(about, "modules"), part(about, "capture")
    names = _texts(modules.get("names"))
    if variables or names:
        environment = doc.entity("environment", {
            "prov:label": "environment variables", "yp:type": qname("yp:Environment"),
            "yp:variables": json_text(variables) if variables else None, "yp:python": about.get("python"),
            "yp:modules": lines_of(names), "yp:moduleFiles": lines_of(_texts(modules.get("files"))),
            "yp:moduleCount": len(names) or None,
            "yp:captureSeconds": capture.get("seconds"), "yp:captureAbsent": capture.get("reason"),
            "yp:captureUnfinished": lines_of(f"{k}: {v}" for k, v in sorted(part(capture, "unfinished").items())),
        })
        doc.used(run, environment, role="environment")
    packages, locks = part(about, "packages"), _locks(about.get("locks"))
    if packages or locks:
        requirements = part(packages, "requirements")
        entity = doc.entity("packages", {
            "prov:type": qname("prov:Collection"), "prov:label": "packages", "yp:type": qname("yp:PackageSet"),
            **_file(packages), "yp:packageCount": packages.get("count"), "yp:hashed": packages.get("hashes"),
            "yp:condaCount": packages.get("conda") or None, "yp:interpreter": packages.get("interpreter"),
            "yp:python": packages.get("version"), "yp:foundBy": packages.get("how"),
            "yp:requirements": requirements.get("path"), "yp:requirementsSha256": requirements.get("sha256"),
            "yp:condaList": part(packages, "conda_list").get("path"), "yp:absent": packages.get("reason"),
            "yp:lockFiles": lines_of(locks), "yp:lockFileCount": len(locks) or None,
        })
        doc.used(run, entity, role="packages")
    if container := part(about, "container"):
        image = doc.entity("container", {
            "prov:label": str(container.get("image") or container.get("engine") or "container"),
            "yp:type": qname("yp:Container"), "yp:engine": container.get("engine"), "yp:image": container.get("image"),
            "yp:inside": container.get("inside"), "yp:name": container.get("name"), "yp:imageId": container.get("id"),
            "yp:digest": container.get("digest"), "yp:sha256": container.get("sha256"),
            "yp:sizeBytes": container.get("bytes"), "yp:digestAbsent": container.get("reason"),
        })
        doc.used(run, image, role="container")


def _file(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"prov:location": about.get("path"), "yp:sha256": about.get("sha256"), "yp:sizeBytes": about.get("bytes")}


def _texts(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list | tuple) else []


def _locks(value: Any) -> list[str]:
    """`source/project/uv.lock sha256:...` of each."""
    rows = [v for v in value if isinstance(v, Mapping)] if isinstance(value, list | tuple) else []
    return [f"{row.get('stored') or row.get('path')} "
            + (f"sha256:{row['sha256']}" if row.get("sha256") else str(row.get("reason") or ""))
            + (" (masked)" if row.get("masked") else "") for row in rows]
