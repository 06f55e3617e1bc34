"""The packages of an interpreter, read from their metadata, with hashes where they can be had. Runs nothing but
`python -I -S -c` under a deadline, and that only where no file tells the version.

source/environment.json: {"interpreter", "how", "version", "prefix", "base_prefix", "folders" [..], "packages": [{
"name", "version", "folder" (an index), "installer"?, "direct_url"? (PEP 610), "editable"?, "record_sha256"?: SHA-256 of
the sorted lines of its RECORD, which has the hash of each installed file, "hashes"? [.. of the lock file]}], "conda":
[{"name", "version", "build", "channel", "url", "sha256"?, "md5"?}], "notes" [..]}.
source/requirements.txt is the same for `pip install -r`, with hashes where every package has some (pip takes all or
none); source/conda.txt for `conda create --file`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yprov.interpreter import Found
from yprov.repository import store, without_password
from yprovd.secrets import Masker

_ASK_S = 5.0
_MOST_PACKAGES = 5_000
_METADATA_LIMIT = 64 << 10
_VERSION = re.compile(r"(\d+\.\d+)(?:\.\d+\w*)?")


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def describe(
    found: Found, environ: Mapping[str, str], locks: list[Path], source: Path, masker: Masker
) -> dict[str, Any]:
    """Write the files; what the record says of them: {path, sha256, bytes, count, hashes, conda, interpreter, how,
    version, requirements {..}, conda_list {..}?}. Raises OSError."""
    place = _place(found.path)
    notes: list[str] = []
    folders = _folders(place, environ)
    packages = _distributions(folders)
    known = _hashes(locks, notes)
    for package in packages:
        if hashes := known.get((normalised(package["name"]), package["version"])):
            package["hashes"] = sorted(hashes)
    conda = _conda(place["prefix"])
    document = masker.document({
        "interpreter": str(found.path), "how": found.how, "version": place["version"], "prefix": str(place["prefix"]),
        "base_prefix": str(place["base"]), "folders": [str(f) for f in folders], "packages": packages, "conda": conda,
        "notes": notes})
    text = json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    facts = {**store(source, "environment.json", text), "count": len(packages), "interpreter": str(found.path),
             "how": found.how, "version": place["version"],
             "hashes": sum("hashes" in p for p in packages), "conda": len(conda)}
    facts["requirements"] = store(source, "requirements.txt", _requirements(document).encode())
    if conda:
        lines = [f"{c['url']}#{c['md5']}" if c.get("md5") else c["url"] for c in document["conda"] if c.get("url")]
        facts["conda_list"] = store(source, "conda.txt", ("@EXPLICIT\n" + "\n".join(lines) + "\n").encode())
    return facts


def _place(python: Path) -> dict[str, Any]:
    """{prefix, base, version, short}: of a virtual environment by its pyvenv.cfg (PEP 405)."""
    prefix = Path(os.path.abspath(python)).parent.parent
    config = prefix / "pyvenv.cfg"
    real = Path(os.path.realpath(python))
    if config.is_file():
        pairs = (line.partition("=") for line in config.read_text(encoding="utf-8", errors="replace").splitlines())
        values = {key.strip().lower(): value.strip() for key, _, value in pairs}
        version = values.get("version_info") or values.get("version", "")
        version = version if len(version.split(".")) > 2 else ""
        base = Path(values.get("home", str(real.parent))).parent
        system = values.get("include-system-site-packages", "").lower() == "true"
    else:
        prefix = base = real.parent.parent
        version, system = "", True
        for meta in (prefix / "conda-meta").glob("python-[0-9]*.json"):
            version = meta.name.split("-")[1]
    if not version:
        version = _asked(real)
    m = _VERSION.match(version) or re.search(r"(\d+\.\d+)$", real.name)
    return {"prefix": prefix, "base": base, "version": version, "short": m[1] if m else "", "system": system,
            "venv": config.is_file()}


def _asked(python: Path) -> str:
    """The version by asking: isolated and without `site`, so that nothing of the user's is imported. Only a compiled
    program is asked; a wrapper script may do anything."""
    try:
        with open(python, "rb", buffering=0) as f:
            if f.read(4) != b"\x7fELF":
                return ""
        done = subprocess.run([python, "-I", "-S", "-c", "import sys; print(sys.version.split()[0])"], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = done.stdout.decode("ascii", "replace").strip()
    return said if done.returncode == 0 and _VERSION.match(said) else ""


def _folders(place: Mapping[str, Any], environ: Mapping[str, str]) -> list[Path]:
    """Where its packages lie, in the order in which Python looks."""
    short = str(place["short"])
    out = [Path(p) for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    prefixes = [place["prefix"]]
    if place["system"]:
        if not environ.get("PYTHONNOUSERSITE"):
            base = Path(environ.get("PYTHONUSERBASE") or "~/.local").expanduser()
            out += [base / "lib" / f"python{short}" / "site-packages"]
        prefixes += [place["base"], *([Path("/usr/local")] if place["base"] == Path("/usr") else [])]
    for prefix in dict.fromkeys(prefixes):
        for lib in ("lib", "lib64"):
            out += [prefix / lib / f"python{short}{t}" / folder for t in ("", "t")
                    for folder in ("site-packages", "dist-packages")]
        if not place["venv"] or prefix != place["prefix"]:
            out.append(prefix / "lib" / "python3" / "dist-packages")  # Debian
    seen: dict[str, Path] = {}
    for folder in out:
        if folder.is_dir():
            seen.setdefault(os.path.realpath(folder), folder)
    return list(seen.values())


def _distributions(folders: list[Path]) -> list[dict[str, Any]]:
    """Of each name the one that Python would find."""
    out: dict[str, dict[str, Any]] = {}
    for i, folder in enumerate(folders):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if not name.endswith((".dist-info", ".egg-info", ".egg-link")) or len(out) >= _MOST_PACKAGES:
                continue
            try:
                package = _distribution(folder / name)
            except (OSError, ValueError):
                continue  # half installed
            if package is not None and normalised(package["name"]) not in out:
                out[normalised(package["name"])] = {**package, "folder": i}
    return [out[key] for key in sorted(out)]


def _distribution(path: Path) -> dict[str, Any] | None:
    if path.name.endswith(".egg-link"):
        target = Path(path.read_text(encoding="utf-8").splitlines()[0].strip())
        info = next(iter(sorted(target.glob("*.egg-info"))), None)
        linked = _distribution(info) if info is not None else None
        return None if linked is None else {**linked, "editable": str(target)}
    metadata = path if path.is_file() else path / ("METADATA" if path.name.endswith(".dist-info") else "PKG-INFO")
    with open(metadata, "rb") as f:
        head = f.read(_METADATA_LIMIT).decode("utf-8", "replace").replace("\r\n", "\n").partition("\n\n")[0]
    fields = dict(re.findall(r"^(Name|Version): *(.+?) *$", head, re.MULTILINE))
    if "Name" not in fields or "Version" not in fields:
        return None
    package: dict[str, Any] = {"name": fields["Name"], "version": fields["Version"]}
    if not path.is_dir():
        return package
    if (path / "INSTALLER").is_file():
        package["installer"] = (path / "INSTALLER").read_text(encoding="utf-8", errors="replace").strip()[:40]
    if (path / "direct_url.json").is_file():
        direct = json.loads((path / "direct_url.json").read_text(encoding="utf-8"))
        if isinstance(direct, dict):
            if isinstance(direct.get("url"), str):
                direct["url"] = without_password(direct["url"])
            package["direct_url"] = direct
            if isinstance(direct.get("dir_info"), dict) and direct["dir_info"].get("editable"):
                package["editable"] = str(direct.get("url", "")).removeprefix("file://")
    if (path / "RECORD").is_file():
        lines = sorted((path / "RECORD").read_bytes().splitlines())
        package["record_sha256"] = hashlib.sha256(b"\n".join(lines)).hexdigest()
    return package


def _conda(prefix: Path) -> list[dict[str, Any]]:
    """What conda has installed, by its own records."""
    out = []
    for path in sorted((prefix / "conda-meta").glob("*.json")) if (prefix / "conda-meta").is_dir() else []:
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            out.append({k: without_password(str(about[k])) for k in (
                "name", "version", "build", "channel", "url", "sha256", "md5") if about.get(k)})
        except (OSError, ValueError, AttributeError):
            continue
    return out


def _hashes(locks: list[Path], notes: list[str]) -> dict[tuple[str, str], set[str]]:
    """{(name, version): {"sha256:..."}} of the project's lock files: those of every file of that version."""
    out: dict[tuple[str, str], set[str]] = {}

    def add(name: Any, version: Any, *hashes: Any) -> None:
        good = {h if ":" in h else f"sha256:{h}" for h in hashes if isinstance(h, str) and h}
        if good:
            out.setdefault((normalised(str(name)), str(version).removeprefix("==")), set()).update(good)

    for path in locks:
        try:
            text = path.read_text(encoding="utf-8")
            if path.name == "Pipfile.lock":
                for section in ("default", "develop"):
                    for name, one in json.loads(text).get(section, {}).items():
                        add(name, one.get("version", ""), *one.get("hashes", ()))
            elif path.name in ("uv.lock", "poetry.lock", "pdm.lock", "pylock.toml"):
                document = tomllib.loads(text)
                for one in document.get("package", document.get("packages", ())):
                    files = [*one.get("wheels", ()), *one.get("files", ()), one.get("sdist") or {}]
                    add(one["name"], one.get("version", ""), *(f.get("hash") for f in files),
                        *(f.get("hashes", {}).get("sha256") for f in files))
            elif path.suffix == ".txt":
                for line in re.sub(r"\\\n", " ", text).splitlines():
                    if m := re.match(r"\s*([\w.-]+)(?:\[[^\]]*\])?==([\w.+!-]+)", line):
                        add(m[1], m[2], *re.findall(r"--hash=(\w+:\w+)", line))
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as e:
            notes.append(f"{path.name} could not be read: {type(e).__name__}")
    return out


def _requirements(document: Mapping[str, Any]) -> str:
    lines: list[str] = []
    plain: list[tuple[str, list[str]]] = []
    for package in document["packages"]:
        name, version, direct = package["name"], package["version"], package.get("direct_url") or {}
        vcs, archive = direct.get("vcs_info"), direct.get("archive_info")
        url = str(direct.get("url", ""))
        if isinstance(vcs, Mapping) and vcs.get("commit_id"):
            lines.append(f"{name} @ {vcs.get('vcs', 'git')}+{url}@{vcs['commit_id']}")
        elif package.get("editable"):
            lines.append(f"# {name} {version} is installed from a folder: -e {package['editable']}")
        elif isinstance(archive, Mapping) and url.startswith("http"):
            lines.append(f"{name} @ {url}")
        elif direct:
            lines.append(f"# {name} {version} was installed from {url}")
        else:
            plain.append((f"{name}=={version}", package.get("hashes", [])))
    hashed = bool(plain) and not lines and all(hashes for _line, hashes in plain)
    for line, hashes in plain:
        lines.append(line + "".join(f" \\\n    --hash={h}" for h in hashes) if hashed else line)
    head = f"# Python {document['version'] or 'of an unknown version'}: {document['interpreter']}\n"
    return head + "\n".join(lines) + "\n"
