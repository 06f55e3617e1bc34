"""The sbatch templates: finding them, filling them in, submitting them.

A template is a script that `sbatch` takes as it is. What can be set in it is read from it:

    #SBATCH --nodes=2                              any long option of sbatch, also one that is not there yet
    IMAGE="${IMAGE:-image.sif}"  # the container   a variable: from the environment, or by `--set image=x.sif`

The first line of comment below `#!` says what it is for.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from yprovd.errors import YprovError

SUFFIX = ".sbatch"
SUBMIT_SECONDS = 60.0  # sbatch itself tries for some time to reach a controller that is just being restarted

# `man sbatch` of 22.05 to 25.11, without what makes it wait, run another script or only talk. An option that is not
# here (a plugin of the site, a newer Slurm) is looked for in `sbatch --help`.
_KNOWN = """
    account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment consolidate-segments
    constraint container container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task
    deadline delay-boot dependency distribution error exclude exclusive export export-file extra extra-node-info
    get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint hold
    ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu
    mem-per-gpu mincpus network nice no-kill no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu
    ntasks-per-node ntasks-per-socket oom-kill-step open-mode output overcommit oversubscribe partition power prefer
    priority profile propagate qos reboot requeue reservation resv-ports segment signal sockets-per-node spread-job
    spread-segments stepmgr switches thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid
    use-min-nodes wait-all-nodes wckey x11
"""
OPTIONS = frozenset(_KNOWN.split())
_NOT_OURS = {"help", "usage", "version", "wait", "wrap", "parsable", "quiet", "verbose", "test-only"}

_VARIABLE = re.compile(
    r'(?P<export>export )?(?P<name>[A-Z][A-Z0-9_]*)="\$\{(?P=name):-(?P<value>.*)\}"(?: +# *(?P<about>.*))?')
_PLAIN = re.compile(r"[\w.,:@%+=/~^!*&|()\[\]{}-]+", re.ASCII)  # needs no quotes in a line of #SBATCH


@dataclass(frozen=True)
class Setting:
    """One thing that a template lets you set: an option of sbatch, or a variable. `value`: what it has now."""

    name: str
    value: str
    about: str = ""


@dataclass(frozen=True)
class Template:
    name: str
    text: str

    @property
    def description(self) -> str:
        lines = [line[1:].strip() for line in self.text.splitlines()[1:] if re.match(r"#(?!SBATCH)", line)]
        return next((line for line in lines if line), "")

    @property
    def settings(self) -> list[Setting]:
        found = []
        for line in self.text.splitlines():
            option = _option_in(line)
            variable = _VARIABLE.fullmatch(line)
            if option:
                found.append(Setting(*option))
            elif variable:
                found.append(Setting(variable["name"], variable["value"], variable["about"] or ""))
        return found


def names() -> list[str]:
    """The templates that come with yprov."""
    return sorted(entry.name.removesuffix(SUFFIX) for entry in files("yprov").joinpath("templates").iterdir()
                  if entry.name.endswith(SUFFIX))


def load(given: str) -> Template:
    """A template by its name, or a file by its path. Raises YprovError."""
    name = given.removesuffix(SUFFIX)
    if "/" not in given and name in names():
        return Template(name, files("yprov").joinpath("templates", name + SUFFIX).read_text(encoding="utf-8"))
    path = Path(given).expanduser()
    try:
        if path.is_file():
            return Template(path.name.removesuffix(SUFFIX), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise YprovError(f"cannot read the template `{given}`: {getattr(e, 'strerror', None) or e}") from None
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    raise YprovError(f"there is no template `{given}`",
                     hint=f"yprov template show {near[0]}" if near else "yprov template list")


def parse(given: Sequence[str]) -> dict[str, str | None]:
    """`K=V` to a value, `K=` to an empty one, `K` alone to None (an option without a value). Raises YprovError."""
    settings: dict[str, str | None] = {}
    for word in given:
        name, equals, value = word.partition("=")
        name = name.strip().removeprefix("--")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise YprovError(f"`--set {word}` is not a name and a value", hint="--set nodes=4")
        settings[name] = os.path.expanduser(value) if equals else None
    return settings


def fill(template: Template, settings: Mapping[str, str | None]) -> tuple[Template, list[str]]:
    """The template with the settings in it, and the same options as words for sbatch's command line.

    An option takes the place of the template's own; `NAME=` takes it away. Raises YprovError.
    """
    lines = template.text.splitlines()
    variables = {s.name for s in template.settings if s.name.isupper()}
    words = []
    for given, value in settings.items():
        option = given.lower().replace("_", "-")
        variable = given.upper().replace("-", "_")
        if variable in variables:
            if value is None:
                raise YprovError(f"`{given}` needs a value", hint=f"--set {given}=VALUE")
            lines = [_assign(line, variable, value) for line in lines]
            continue
        if option not in OPTIONS and (option in _NOT_OURS or option not in _options_here()):
            raise _unknown(given, template, variables)
        if value is not None and re.search(r"[\x00-\x1f\x7f]", value):
            raise YprovError(f"the value of `{given}` has a line break or another control character")
        lines = _with_option(lines, option, value)
        if value != "":
            words.append(f"--{option}" + ("" if value is None else f"={value}"))
    return Template(template.name, "\n".join(lines) + "\n"), words


def changes(before: Template, after: Template) -> list[str]:
    """The lines that differ, with - and + in front."""
    diff = difflib.unified_diff(before.text.splitlines(), after.text.splitlines(), n=0, lineterm="")
    return [line for line in diff if not line.startswith(("---", "+++", "@@"))]


def sbatch_line(template: Template, words: Sequence[str], command: Sequence[str]) -> list[str]:
    """The words of the call. The options stand here too: in a script alone, the user's SBATCH_* variables would win."""
    return ["sbatch", "--parsable", *words, template.name + SUFFIX, *command]


def submit(template: Template, words: Sequence[str], command: Sequence[str]) -> tuple[str, str]:
    """Give the script to sbatch; the job's id, and what sbatch said beside it. Blocks SUBMIT_SECONDS at most.

    The command's words reach the script as they are. Slurm keeps a copy of the script, so ours goes. Raises YprovError.
    """
    with tempfile.TemporaryDirectory(prefix="yprov-submit-") as folder:
        line = sbatch_line(template, words, command)
        script = Path(folder, template.name + SUFFIX)
        script.write_text(template.text, encoding="utf-8")
        line[2 + len(words)] = str(script)
        try:
            done = subprocess.run(line, capture_output=True, text=True, errors="surrogateescape", check=False,
                                  stdin=subprocess.DEVNULL, timeout=SUBMIT_SECONDS)
        except FileNotFoundError:
            raise YprovError("sbatch was not found on this machine",
                             hint=f"log in to the cluster, or: yprov template write {template.name}") from None
        except subprocess.TimeoutExpired:
            raise YprovError(f"sbatch did not answer within {SUBMIT_SECONDS:.0f} s",
                             hint="squeue --me   shows whether the job was submitted nevertheless") from None
        except (OSError, ValueError) as e:  # too many words, or a NUL in one
            raise YprovError(f"cannot start sbatch: {getattr(e, 'strerror', None) or e}") from None
    said = done.stderr.strip()
    if done.returncode:
        reason = re.sub(r"^sbatch: (error: )?", "", said, flags=re.M).replace("\n", "; ")
        raise YprovError(f"sbatch refused the job: {reason or f'exit status {done.returncode}'}",
                         hint="--set partition=P, account=A, time=T... change what is asked for; "
                              "--dry-run shows the script")
    for answer in reversed(done.stdout.split()):
        if re.fullmatch(r"\d+(;\S+)?", answer):
            return answer.partition(";")[0], said
    raise YprovError(f"sbatch gave no job id: {done.stdout.strip()!r}", hint="squeue --me")


def write(template: Template, to: Path | None, *, force: bool) -> Path:
    """Put the script into a file or directory (default: here). Never over another file unless `force`."""
    path = (to or Path(".")).expanduser()
    if path.is_dir():
        path = path / (template.name + SUFFIX)
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as f:
            f.write(template.text)
    except FileExistsError:
        raise YprovError(f"`{path}` exists already", hint="--force writes over it, --to FILE beside it") from None
    except OSError as e:
        raise YprovError(f"cannot write `{path}`: {e.strerror}") from None
    return path


def _option_in(line: str) -> tuple[str, str] | None:
    """(name, value) of a line that holds one long option, else None."""
    if not line.startswith("#SBATCH "):
        return None
    try:
        words = shlex.split(line.removeprefix("#SBATCH "), comments=True)
    except ValueError:
        return None
    if len(words) == 2 and "=" not in words[0] and not words[1].startswith("-"):
        words = [f"{words[0]}={words[1]}"]
    if len(words) != 1 or not words[0].startswith("--"):
        return None
    name, _, value = words[0][2:].partition("=")
    return name, value


def _with_option(lines: list[str], name: str, value: str | None) -> list[str]:
    """In the place of the option's own line, else below the last #SBATCH: of two, the later one counts for sbatch."""
    header = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    old = [i for i in range(header) if (_option_in(lines[i]) or ("", ""))[0] == name]
    last = max((i for i in range(header) if lines[i].startswith("#SBATCH ")), default=0)
    at = old[0] if old else last + 1
    kept = [line for i, line in enumerate(lines) if i not in old]
    if value == "":
        return kept
    return [*kept[:at], f"#SBATCH --{name}" + ("" if value is None else f"={_quoted(value)}"), *kept[at:]]


def _quoted(value: str) -> str:
    """As sbatch reads it: double quotes, with a backslash before a backslash or a quote."""
    return value if _PLAIN.fullmatch(value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _assign(line: str, name: str, value: str) -> str:
    found = _VARIABLE.fullmatch(line)
    if not found or found["name"] != name:
        return line
    about = f"  # {found['about']}" if found["about"] else ""
    return f"{found['export'] or ''}{name}={shlex.quote(value)}{about}"


def _options_here() -> set[str]:
    """What this machine's sbatch says it takes; empty where there is none."""
    try:
        done = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, errors="replace", check=False,
                              stdin=subprocess.DEVNULL, timeout=10.0)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return set(re.findall(r"--([a-z0-9][a-z0-9-]*)", done.stdout))


def _unknown(given: str, template: Template, variables: set[str]) -> YprovError:
    option = given.lower().replace("_", "-")
    if option in _NOT_OURS:
        return YprovError(f"`{given}` cannot be set here", hint=f"yprov template write {template.name}   for a copy")
    near = difflib.get_close_matches(option, [*OPTIONS, *(v.lower() for v in variables)], n=3)
    hint = f"--set {', '.join(near)}?" if near else f"yprov template show {template.name}   shows what there is"
    return YprovError(f"neither sbatch nor the template `{template.name}` has an option `{given}`", hint=hint)
