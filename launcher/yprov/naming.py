"""What a run is called when nobody says: the name of what it runs, found in the words of its command.

    python train.py                    train        srun -N2 python train.py         train
    python -m pkg.mod                  pkg.mod      torchrun --standalone train.py   train
    bash -c 'cd x && python t.py'      t            env A=1 python x.py              x
    bash job                           job          srun -n4 ./solver                solver
    python -c '...'                    python       bash -c 'exit 3'                 bash

The first script counts, whatever starts it; also in the text of a shell, which is read command by command. Where there
is no script it is the program: after what only starts others (`srun`, `env`, `nohup`), by the first word that is one.
Nothing is opened or run; only PATH is looked at.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from yprov.shells import commands_of

_SCRIPTS = (".py", ".sh", ".bash", ".R", ".jl", ".pl")
_PYTHON = re.compile(r"(?:python|pypy)(?:\d+(?:\.\d+)*)?t?")
_SHELLS = ("bash", "sh", "dash", "zsh", "ksh")
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_MODULE = re.compile(r"[A-Za-z_][\w-]*(?:\.\w+)*")
#: They start the program that follows in their words, behind options of which some have a value.
_STARTERS = frozenset((
    "srun", "mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prun", "aprun", "jsrun", "flux", "env", "nohup", "time",
    "nice", "ionice", "setsid", "stdbuf", "timeout", "taskset", "numactl", "chrt", "exec", "command", "sudo", "xargs",
    "uv", "conda", "mamba", "micromamba", "poetry", "pixi", "pipenv", "hatch", "pdm", "apptainer", "singularity",
    "shifter", "strace", "perf", "nsys", "ncu", "rocprof", "catchsegv", "unbuffer", "xvfb-run",
))
#: Their subcommands; in PATH some of them are programs, too.
_SUBCOMMANDS = frozenset(("run", "exec", "submit", "record", "stat", "profile"))
#: They take a module of Python's behind `-m`, as Python does.
_TRAINERS = ("torchrun", "accelerate", "deepspeed", "horovodrun")
#: Modules that run the script that follows them.
_RUN_SCRIPTS = ("torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch", "cProfile", "pdb",
                "trace", "coverage", "kernprof", "mpi4py", "debugpy", "viztracer", "scalene", "memory_profiler")
#: Of a shell's text: what begins a command, and commands that only prepare for others.
_LEADING = ("then", "do", "else", "exec", "time", "!", "{", "if", "while", "until")
_PREPARING = frozenset((
    "cd", "source", ".", "export", "set", "unset", "module", "ml", "ulimit", "umask", "conda", "mamba", "micromamba",
    "trap", "wait", "exit", "kill", "read", "test", "[", "[[", ":", "true", "false", "for", "done", "fi", "shift",
    "declare", "local", "alias", "eval", "return", "pushd", "popd", "echo", "printf", "mkdir", "sleep", "case", "esac",
))
_DEPTH = 4


def name_of(command: Sequence[str], which: Callable[[str], str | None] = shutil.which) -> str:
    words = list(command)
    return _script(words) or _program(words, which) or Path(command[0]).name or "run"


def _script(words: Sequence[str], depth: int = 0) -> str:
    """The name of the first script, or module of Python's; empty where there is none."""
    for i, word in enumerate(words):
        program, rest = os.path.basename(word), words[i + 1:]
        found = ""
        if program in _SHELLS:
            text = _text_of_shell(rest)
            found = _plain(rest) if text is None else _of_text(text, _script, depth)
        elif _PYTHON.fullmatch(program):
            found = _of_python(rest, depth)
        elif program in _TRAINERS:
            found = _module(rest)
        elif word.endswith(_SCRIPTS) and not _ASSIGNED.fullmatch(word):
            found = _of_text(word, _script, depth) if re.search(r"\s", word) else Path(word).stem
        if found:
            return found
    return ""


def _program(words: Sequence[str], which: Callable[[str], str | None], depth: int = 0) -> str:
    """The first program that does not only start another; of a shell's text, the first that does some work."""
    for i, word in enumerate(words):
        if word.startswith("-") or _ASSIGNED.fullmatch(word) or word in _SUBCOMMANDS:
            continue
        program = os.path.basename(word)
        if program in _SHELLS and (text := _text_of_shell(words[i + 1:])) is not None:
            return _of_text(text, lambda part, deeper: _program(part, which, deeper), depth) or program
        if program not in _STARTERS and (not i or os.sep in word or (not word[:1].isdigit() and which(word))):
            return program
    return os.path.basename(words[0]) if words else ""


def _of_python(words: Sequence[str], depth: int) -> str:
    """`-m module`, or a script of any suffix, behind options; a program given as text has no name."""
    i = 0
    while i < len(words):
        word = words[i]
        if not word.startswith("-"):
            return "" if _ASSIGNED.fullmatch(word) else Path(word).stem
        letters = re.match(r"-[bBdEhiIOPqsSuvVx]*([cmWX])(.*)", word, re.DOTALL)
        if letters:
            value = letters[2] or (words[i + 1] if i + 1 < len(words) else "")
            if letters[1] == "c":
                return ""
            if letters[1] == "m":
                after = words[i + 1 if letters[2] else i + 2:]
                return (_script(after, depth) if value in _RUN_SCRIPTS else "") or _named(value)
            i += not letters[2]
        elif word in ("-", "--check-hash-based-pycs"):
            return ""
        i += 1
    return ""


def _module(words: Sequence[str]) -> str:
    """Of `torchrun -m pkg.mod`; a script is found by its suffix."""
    for option, value in itertools.pairwise(words):
        if option.endswith(_SCRIPTS):
            return ""
        if option in ("-m", "--module") and _MODULE.fullmatch(value):
            return _named(value)
    return ""


def _named(module: str) -> str:
    return module.removesuffix(".__main__") if _MODULE.fullmatch(module) else ""


def _text_of_shell(words: Sequence[str]) -> str | None:
    """The text behind `-c`, `-lc`...; None where the shell runs a file."""
    for i, word in enumerate(words):
        if word.startswith("-") and not word.startswith("--") and "c" in word[1:]:
            return words[i + 1] if i + 1 < len(words) else ""
        if not word.startswith(("-", "+")):
            return None
    return None


def _plain(words: Sequence[str]) -> str:
    """The file that a shell runs: its first word that is no option."""
    return next((Path(word).stem for word in words if not word.startswith(("-", "+"))), "")


def _of_text(text: str, find: Callable[[Sequence[str], int], str], depth: int) -> str:
    """What `find` says of the first command in a shell's text of which it says something."""
    if depth > _DEPTH:
        return ""
    for part in commands_of(text):
        while part and (part[0] in _LEADING or _ASSIGNED.fullmatch(part[0])):
            part = part[1:]
        if part and (part[0] not in _PREPARING or "run" in part) and (found := find(part, depth + 1)):
            return found
    return ""
