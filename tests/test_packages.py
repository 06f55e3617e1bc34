"""The packages of an interpreter, by their metadata alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from yprov.interpreter import Found
from yprov.packages import describe, normalised
from yprovd.secrets import Masker

H1, H2, H3 = ("sha256:" + c * 64 for c in "abc")


class Environment:
    """A virtual environment without anything in it but what a test puts there. Its Python is never run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.site = root / "venv" / "lib" / "python3.12" / "site-packages"
        self.site.mkdir(parents=True)
        (root / "venv" / "bin").mkdir()
        (root / "venv" / "bin" / "python").symlink_to("/bin/false")
        (root / "venv" / "pyvenv.cfg").write_text(
            "home = /usr/bin\nversion = 3.12.7\ninclude-system-site-packages = false\n")

    def add(self, name: str, version: str, folder: Path | None = None, **files: str) -> None:
        info = (folder or self.site) / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n")
        for file, text in files.items():
            (info / file.replace("__", ".")).write_text(text)

    def described(self, locks: list[Path] | None = None, **environ: str) -> tuple[dict[str, Any], dict[str, Any], str]:
        """What the record says, environment.json and requirements.txt."""
        source = self.root / "source"
        facts = describe(Found(self.root / "venv" / "bin" / "python", "a test"), environ, locks or [], source, Masker())
        for key in ("path", "requirements"):
            about = facts if key == "path" else facts[key]
            assert about["sha256"] == hashlib.sha256((self.root / about["path"]).read_bytes()).hexdigest()
        return facts, json.loads((source / "environment.json").read_text()), (source / "requirements.txt").read_text()


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_packages_of_a_virtual_environment(env: Environment) -> None:
    env.add("numpy", "1.26.4", INSTALLER="uv\n", RECORD="b,sha256=x,1\na,sha256=y,2\n")
    env.add("Ruamel.Yaml", "0.18")
    (env.site / "broken-1.dist-info").mkdir()
    (env.site / "old-2.0.egg-info").write_text("Metadata-Version: 1.0\nName: old\nVersion: 2.0\n")
    facts, document, requirements = env.described()
    told = facts["count"], facts["version"], facts["hashes"], facts["conda"], facts["how"]
    assert told == (3, "3.12.7", 0, 0, "a test")
    assert [(p["name"], p["version"]) for p in document["packages"]] == [
        ("numpy", "1.26.4"), ("old", "2.0"), ("Ruamel.Yaml", "0.18")]
    numpy = document["packages"][0]
    assert numpy["installer"] == "uv"
    assert numpy["record_sha256"] == hashlib.sha256(b"a,sha256=y,2\nb,sha256=x,1").hexdigest()
    assert document["folders"] == [str(env.site)]
    assert requirements.splitlines()[1:] == ["numpy==1.26.4", "old==2.0", "Ruamel.Yaml==0.18"]


def test_where_a_package_came_from(env: Environment) -> None:
    def direct(**about: Any) -> str:
        return json.dumps(about)

    env.add("fromgit", "1", direct_url__json=direct(
        url="https://ada:pl4nted99@example.org/x.git", vcs_info={"vcs": "git", "commit_id": "a" * 40}))
    env.add("editable", "1", direct_url__json=direct(url="file:///home/ada/pkg", dir_info={"editable": True}))
    env.add("folder", "1", direct_url__json=direct(url="file:///home/ada/other", dir_info={}))
    env.add("archive", "1", direct_url__json=direct(url="https://example.org/a.whl", archive_info={}))
    env.add("plain", "1")
    (env.site / "linked.egg-link").write_text(f"{env.root}/linked\n.")
    (env.root / "linked" / "linked.egg-info").mkdir(parents=True)
    (env.root / "linked" / "linked.egg-info" / "PKG-INFO").write_text("Name: linked\nVersion: 3\n\n")
    _facts, document, requirements = env.described()
    by_name = {p["name"]: p for p in document["packages"]}
    assert by_name["editable"]["editable"] == "/home/ada/pkg"
    assert by_name["linked"]["editable"] == f"{env.root}/linked"
    assert requirements.splitlines()[1:] == [
        "archive @ https://example.org/a.whl",
        "# editable 1 is installed from a folder: -e /home/ada/pkg",
        "# folder 1 was installed from file:///home/ada/other",
        f"fromgit @ git+https://example.org/x.git@{'a' * 40}",
        f"# linked 3 is installed from a folder: -e {env.root}/linked",
        "plain==1",
    ]
    assert "pl4nted99" not in json.dumps(document) + requirements


LOCKS = {
    "uv.lock": f'[[package]]\nname = "num-py"\nversion = "1"\nsdist = {{ hash = "{H1}" }}\n'
               f'wheels = [{{ hash = "{H2}" }}]\n',
    "poetry.lock": f'[[package]]\nname = "num_py"\nversion = "1"\nfiles = [{{hash = "{H1}"}}, {{hash = "{H2}"}}]\n',
    "pylock.toml": f'[[packages]]\nname = "num.py"\nversion = "1"\nwheels = [{{hashes = {{sha256 = "{"a" * 64}"}}}}, '
                   f'{{hashes = {{sha256 = "{"b" * 64}"}}}}]\n',
    "Pipfile.lock": json.dumps({"default": {"Num-Py": {"version": "==1", "hashes": [H1, H2]}}}),
    "requirements.txt": f"num-py==1 \\\n  --hash={H1} \\\n  --hash={H2}\n# other==2 --hash={H3}\n",
}


@pytest.mark.parametrize("name", LOCKS)
def test_hashes_come_from_the_lock_file(env: Environment, name: str) -> None:
    env.add("num-py", "1")
    (env.root / name).write_text(LOCKS[name])
    facts, document, requirements = env.described([env.root / name])
    assert document["packages"][0]["hashes"] == [H1, H2]
    assert facts["hashes"] == 1
    assert requirements.splitlines()[1:] == ["num-py==1 \\", f"    --hash={H1} \\", f"    --hash={H2}"]


def test_hashes_of_another_version_are_not_taken_and_pip_gets_all_or_none(env: Environment) -> None:
    env.add("num-py", "1")
    env.add("other", "3")
    (env.root / "uv.lock").write_text(LOCKS["uv.lock"] + f'[[package]]\nname = "other"\nversion = "2"\nsdist = '
                                                          f'{{ hash = "{H3}" }}\n')
    facts, _document, requirements = env.described([env.root / "uv.lock"])
    assert facts["hashes"] == 1
    assert requirements.splitlines()[1:] == ["num-py==1", "other==3"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_damaged_lock_file_is_said(env: Environment, name: str) -> None:
    (env.root / name).write_bytes(b"\xff[[package\n{")
    _facts, document, _requirements = env.described([env.root / name])
    assert document["notes"] == [f"{name} could not be read: UnicodeDecodeError"]


def test_conda_records_are_told_with_their_digests(env: Environment) -> None:
    meta = env.root / "venv" / "conda-meta"
    meta.mkdir()
    (meta / "numpy-1.json").write_text(json.dumps({
        "name": "numpy", "version": "1", "build": "py_0", "channel": "https://t:pl4nted88@conda.example.org/c/linux-64",
        "url": "https://conda.example.org/numpy-1.conda", "md5": "d" * 32, "sha256": "e" * 64, "files": ["x"] * 99}))
    (meta / "bad.json").write_text("{")
    facts, document, _requirements = env.described()
    assert facts["conda"] == 1
    assert document["conda"][0]["sha256"] == "e" * 64
    assert "pl4nted88" not in json.dumps(document)
    assert (env.root / "source" / "conda.txt").read_text() == (
        f"@EXPLICIT\nhttps://conda.example.org/numpy-1.conda#{'d' * 32}\n")


def test_the_first_folder_on_the_path_wins(env: Environment, tmp_path: Path) -> None:
    env.add("numpy", "1")
    env.add("numpy", "2", tmp_path / "mine")
    _facts, document, _requirements = env.described(PYTHONPATH=str(tmp_path / "mine"))
    assert [p["version"] for p in document["packages"]] == ["2"]


def test_nothing_of_the_environment_is_run(env: Environment) -> None:
    """Neither its Python, which has a version by its file, nor what is in its packages."""
    (env.site / "evil.pth").write_text(f"import os; os.system('touch {env.root}/sprung')\n")
    (env.site / "sitecustomize.py").write_text(f"open('{env.root}/sprung', 'w')\n")
    (env.root / "venv" / "bin" / "python").unlink()
    (env.root / "venv" / "bin" / "python").write_text(f"#!/bin/sh\ntouch {env.root}/sprung\n")
    (env.root / "venv" / "bin" / "python").chmod(0o755)
    env.described()
    (env.root / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    env.described()
    assert not (env.root / "sprung").exists()


def test_a_program_that_does_not_tell_a_version_has_none(env: Environment) -> None:
    (env.root / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    facts, _document, requirements = env.described()
    assert facts["version"] == ""
    assert "Python of an unknown version" in requirements


def test_a_real_environment_is_told_as_python_tells_it(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    Environment.add(type("E", (), {"site": site})(), "thing", "1.0")  # type: ignore[arg-type]
    facts = describe(Found(python, ""), {}, [], tmp_path / "source", Masker())
    ask = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    listed = subprocess.run([python, "-E", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    assert listed == ["thing"]
    assert (facts["count"], facts["version"]) == (1, sys.version.split()[0])


def test_our_own_environment_is_told_completely(tmp_path: Path) -> None:
    environ = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PYTHONNOUSERSITE": "1"}
    describe(Found(Path(sys.executable), ""), environ, [], tmp_path / "source", Masker())
    document = json.loads((tmp_path / "source" / "environment.json").read_text())
    site = [p for p in sys.path if p.endswith("site-packages")]
    expected = {(normalised(d.name), d.version) for d in distributions(path=site)}
    assert expected <= {(normalised(p["name"]), p["version"]) for p in document["packages"]}
