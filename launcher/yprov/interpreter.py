"""Which Python a command runs: of the training, not ours. Only files are looked at; nothing of the user's runs.

The words of the command are followed as a shell would: `env A=B`, `srun`, `mpirun` and the like are passed over;
`bash -c '...'` and shell scripts are read (`cd`, `source venv/bin/activate`, `conda activate`); `uv run`, `conda run`,
`poetry run`, `pixi run` have an environment of their own; a program is looked up in PATH, and its first line says whose
Python it is (torchrun, accelerate, a script of the user's).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from yprov.shells import commands_of

_PYTHON = re.compile(r"(?:python|pypy)(?:\d+(?:\.\d+)*)?t?")
_RUNNERS = ("uv", "conda", "mamba", "micromamba", "poetry", "pixi", "pipenv", "hatch", "pdm")
_SHELLS = ("bash", "sh", "dash", "zsh", "ksh")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
#: A script longer than this is not read.
_SCRIPT_LIMIT = 256 << 10
_DEPTH = 6
#: Words of a command that are looked up in PATH: a list of thousands of files would ask the file system for each.
_MOST_WORDS = 256


class Found(NamedTuple):
    """`path`: as the command names it, so that a virtual environment stays one. `how`: a sentence."""

    path: Path
    how: str


@dataclass(frozen=True)
class _Shell:
    """What a shell knows at this point of a command."""

    cwd: Path
    path: str
    environ: Mapping[str, str]
    depth: int = 0

    def which(self, program: str) -> Path | None:
        if os.sep in program:
            found = self.cwd / program
            return found if found.is_file() and os.access(found, os.X_OK) else None
        where = shutil.which(program, path=self.path)
        return Path(os.path.abspath(self.cwd / where)) if where else None


def interpreter_of(command: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> Found | None:
    """None where the command tells of no Python."""
    shell = _Shell(cwd, environ.get("PATH", os.defpath), environ)
    try:
        return _of_words(list(command[:_MOST_WORDS]), shell)
    except (OSError, ValueError):
        return None


def _of_words(words: list[str], shell: _Shell) -> Found | None:
    """The first word that is a program of Python's. Options and their values are not told apart: a value that is such
    a program by its name is rare."""
    i = 0
    while i < len(words):
        word = words[i]
        name = os.path.basename(word)
        rest = words[i + 1:]
        if (m := _ASSIGNED.fullmatch(word)) is not None:
            if m[1] == "PATH":
                shell = replace(shell, path=_expanded(m[2], shell))
        elif name in _RUNNERS and "run" in rest[:6]:
            at = rest.index("run")
            if (found := _runner(name, rest[:at] + rest[at + 1:], shell)) is not None:
                return found
        elif _PYTHON.fullmatch(name):
            if (where := shell.which(word)) is not None and _is_compiled(where):
                return Found(where, f"`{word}` of the command")
        elif name in _SHELLS:
            return _of_shell(rest, shell)
        elif (not word.startswith("-") and "=" not in word and (where := shell.which(word)) is not None
              and (found := _of_program(where, shell)) is not None):
            return found
        i += 1
    return None


def _is_compiled(program: Path) -> bool:
    """Not a wrapper, such as pyenv's, which chooses a Python by rules of its own."""
    with open(program, "rb", buffering=0) as f:
        return f.read(4) == b"\x7fELF"


def _of_program(program: Path, shell: _Shell) -> Found | None:
    """By the first line of a script: `#!/path/python`, `#!/usr/bin/env python`, and pip's form for long paths."""
    with open(program, "rb", buffering=0) as f:
        head = f.read(1024).decode("utf-8", "replace")
    if not head.startswith("#!"):
        return None
    first, _, rest = head.partition("\n")
    words = first[2:].split()
    if words and os.path.basename(words[0]) == "env":
        words = [w for w in words[1:] if not w.startswith("-") and "=" not in w]
    if not words:
        return None
    name = os.path.basename(words[0])
    if _PYTHON.fullmatch(name) and (where := shell.which(words[0])) is not None and _is_compiled(where):
        return Found(where, f"the first line of `{program}`")
    if name in _SHELLS:
        if m := re.search(r"exec'? [\"']?(/[^\"'\n]*?/(?:python|pypy)[\d.]*)[\"' ]", rest):
            return Found(Path(m[1]), f"the first lines of `{program}`")
        return _of_script(program, shell)
    return None


def _of_shell(words: list[str], shell: _Shell) -> Found | None:
    """`bash -lc 'text'`, `bash script.sh`."""
    for i, word in enumerate(words):
        if word.startswith("-") and not word.startswith("--") and "c" in word[1:]:
            return _of_text(words[i + 1], shell) if i + 1 < len(words) else None
        if not word.startswith(("-", "+")):
            return _of_script(shell.cwd / word, shell)
    return None


def _of_script(path: Path, shell: _Shell) -> Found | None:
    if not path.is_file() or path.stat().st_size > _SCRIPT_LIMIT:
        return None
    return _of_text(path.read_text(encoding="utf-8", errors="replace"), shell)


def _of_text(text: str, shell: _Shell) -> Found | None:
    """A shell's text, command by command, with what changes the place, PATH or environment of the later ones."""
    if shell.depth > _DEPTH:
        return None
    shell = replace(shell, depth=shell.depth + 1)
    for part in commands_of(text):
        words = part[1:] if part[0] in ("then", "do", "else", "exec", "time", "!", "{", "if", "while") else part
        changed = _effect(words, shell)
        if changed is not None:
            shell = changed
        elif words and (found := _of_words([_expanded(w, shell) for w in words], shell)) is not None:
            return found
    return None


def _effect(words: list[str], shell: _Shell) -> _Shell | None:
    """The shell after a command that changes it; None for any other command."""
    if not words:
        return None
    if words[0] == "cd" and len(words) > 1:
        return replace(shell, cwd=shell.cwd / _expanded(words[1], shell))
    if words[0] in ("source", ".") and len(words) > 1:
        script = shell.cwd / _expanded(words[1], shell)
        if script.name.startswith("activate") and script.is_file():
            if len(words) > 2:
                return _with_conda(words[2], shell)
            return replace(shell, path=f"{script.parent}{os.pathsep}{shell.path}")
        return shell
    if words[0] in ("conda", "mamba", "micromamba") and words[1:2] == ["activate"]:
        return _with_conda(words[2] if len(words) > 2 else "base", shell)
    if words[0] == "export" or _ASSIGNED.fullmatch(words[0]):
        for word in words:
            if (m := _ASSIGNED.fullmatch(word)) and m[1] == "PATH":
                shell = replace(shell, path=_expanded(m[2], shell))
        return shell if words[0] == "export" or all(_ASSIGNED.fullmatch(w) for w in words) else None
    return None


def _with_conda(name: str, shell: _Shell) -> _Shell:
    prefix = _conda_prefix(_expanded(name, shell), shell)
    return shell if prefix is None else replace(shell, path=f"{prefix / 'bin'}{os.pathsep}{shell.path}")


def _conda_prefix(name: str, shell: _Shell) -> Path | None:
    """An environment of conda's by its path or its name, in the places that conda has for them."""
    if os.sep in name:
        return shell.cwd / name if (shell.cwd / name / "bin").is_dir() else None
    roots = [shell.environ.get("MAMBA_ROOT_PREFIX", ""), shell.environ.get("CONDA_ROOT", "")]
    if executable := shell.environ.get("CONDA_EXE") or shutil.which("conda", path=shell.path):
        roots.append(str(Path(executable).parent.parent))
    places = [Path(root) / "envs" / name for root in roots if root]
    places += [Path(p) / name for p in shell.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if p]
    places.append(Path("~/.conda/envs").expanduser() / name)
    places += [Path(root) for root in roots if root and name == "base"]
    return next((p for p in places if (p / "bin").is_dir()), None)


def _runner(name: str, words: list[str], shell: _Shell) -> Found | None:
    """The environment that `uv run` and its like would take."""
    def option(*names: str) -> str:
        for i, word in enumerate(words):
            head, equals, value = word.partition("=")
            if head in names:
                return value if equals else (words[i + 1] if i + 1 < len(words) else "")
        return ""

    how = f"`{name} run`"
    prefix: Path | None = None
    if name in ("conda", "mamba", "micromamba"):
        wanted = option("-n", "--name", "-p", "--prefix")
        prefix = _conda_prefix(wanted, shell) if wanted else None
    else:
        start = shell.cwd / (option("--project", "--directory", "--manifest-path", "-p") or ".")
        project = next((p for p in (start, *start.parents) if (p / "pyproject.toml").is_file()
                        or (p / "pixi.toml").is_file()), start)
        if name == "pixi":
            prefix = project / ".pixi" / "envs" / (option("-e", "--environment") or "default")
        elif name == "uv" and "--active" in words and shell.environ.get("VIRTUAL_ENV"):
            prefix = Path(shell.environ["VIRTUAL_ENV"])
        elif name == "uv":
            prefix = project / shell.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
        else:
            prefix = project / ".venv"
            if not prefix.is_dir() and shell.environ.get("VIRTUAL_ENV"):
                prefix = Path(shell.environ["VIRTUAL_ENV"])
    if prefix is None or not (prefix / "bin").is_dir():
        return None
    python = prefix / "bin" / "python"
    return Found(python, how) if python.exists() else None


def _expanded(text: str, shell: _Shell) -> str:
    """`$NAME`, `${NAME}` and `~` by what is known; `$PATH` is that of this point."""
    known = {**shell.environ, "PATH": shell.path, "PWD": str(shell.cwd)}
    text = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: known.get(m[1] or m[2], ""), text)
    return os.path.expanduser(text) if text.startswith("~") else text


def surroundings(environ: Mapping[str, str]) -> Found | None:
    """The active environment, for a command that names no Python."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = environ.get(variable)
        if prefix and (python := Path(prefix) / "bin" / "python").exists():
            return Found(python, f"assumed from {variable}: the command names no Python")
    return None
