"""Runs on disk: making a new one, and what each one says of itself (prov.json, without `prov`). To find one:
`yprov.choosing`."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from yprov.choosing import all_runs, find
from yprov.naming import name_of
from yprov.placement import Placement
from yprovd import __version__
from yprovd.config import PROV_FILE, RUN_FILE, SPOOL_DIR, RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.processes import boot_id, process_id, short_name
from yprovd.secrets import Masker, masked
from yprovd.spool import is_being_written, spool_files

__all__ = ["RunView", "all_runs", "clear_runtime", "create", "ensure_archive", "find", "on_this_machine", "plain",
           "slug_of", "still_going", "value_of", "view", "write_config", "write_whole"]
#: What only a stitch makes, beside prov.json.
_OF_ARCHIVE = ("series.zarr", "series.zarr.zip", "ro-crate-metadata.json")
#: Seconds after its begin in which a run seen from another host may have no spool yet.
_YOUNG_S = 60


def create(
    settings: Settings, command: Sequence[str], *, root: str = "/", placement: Placement | None = None,
    masker: Masker | None = None,
) -> tuple[Path, RunConfig]:
    """Make the run's directory, its `run.json` and, without a placement, the directory of its sockets. What the
    configuration holds of secrets is masked in it. Raises YprovError."""
    masker = masker or Masker()
    run_id = str(uuid.uuid4())
    name = masker.text(settings.name or name_of(command))
    now = time.time_ns()
    stamp = datetime.fromtimestamp(now / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")
    slug = slug_of(name)
    parent = Path(settings.dir).expanduser().absolute()
    run_dir = parent / f"{stamp}-{slug}-{run_id[:8]}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        run_dir.mkdir(mode=0o700)
        (run_dir / SPOOL_DIR).mkdir()
        (run_dir / "logs").mkdir()
        shown = settings.without_secrets(masker)
        words = tuple(masked(command, masker))
        return run_dir, _describe(run_dir, run_id, name, now, shown, words, masker.text(os.getcwd()), root, placement)
    except OSError as e:
        raise YprovError(f"cannot make a run in `{parent}`: {e.strerror}",
                         hint="yprov run --dir DIRECTORY -- COMMAND   with a directory that you may write to") from None


def slug_of(name: str) -> str:
    """Of a long name the number at its end stays: jobs and tasks of arrays are found by it."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if len(slug) > 40:
        number = re.search(r"-\d[\d_]*$", slug)
        tail = number[0] if number and len(number[0]) <= 20 else ""
        slug = slug[:40 - len(tail)].rstrip("-.") + tail
    return slug or "run"


def _describe(
    run_dir: Path, run_id: str, name: str, now: int, settings: Settings, command: Sequence[str], cwd: str, root: str,
    placement: Placement | None,
) -> RunConfig:
    """The run's configuration, also as `run.json`. The sockets' directory is made last, so that nothing is left."""
    me = process_id(os.getpid())
    placed: dict[str, Any] = {}
    if placement is not None:
        placed = {"nodes": placement.nodes, "job": placement.job, "grace_s": placement.grace_s}
    config = RunConfig(
        run_id=run_id, name=name, created_ns=now, command=tuple(command), cwd=cwd,
        runtime_dir=_node_local(run_id) if placement else _runtime_dir(run_id), settings=settings, root=root,
        software=__version__, **placed,
        launcher={"host": os.uname().nodename, "boot_id": boot_id(), "pid": os.getpid(),
                  "start": me.start if me else 0},
    )
    try:
        write_config(run_dir, config)
    except OSError:
        shutil.rmtree(config.runtime_dir, ignore_errors=True)
        raise
    return config


def write_config(run_dir: Path, config: RunConfig) -> None:
    text = json.dumps(config.to_json(), indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    write_whole(run_dir / RUN_FILE, text)


def on_this_machine(run_dir: Path, config: RunConfig) -> RunConfig:
    """The same run with its daemons on this machine only: no daemon could be placed by the scheduler."""
    config = config._replace(nodes=(), runtime_dir=_runtime_dir(config.run_id))
    write_config(run_dir, config)
    return config


def _node_local(run_id: str) -> str:
    """The path of the sockets' directory on every node, made there: where no two nodes share a file system. A container
    sees its host's /dev/shm by default."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else "/tmp"
    return f"{base}/yprov-{run_id[:8]}-{os.getuid()}"


def _runtime_dir(run_id: str) -> str:
    """A directory of mode 0700 for the sockets, with a short path: a socket's path has at most 107 bytes."""
    # A container sees its host's /tmp by default, and not its /run.
    for base in (tempfile.gettempdir(), "/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if base and os.path.isabs(base) and len(base) < 70:
            try:
                return tempfile.mkdtemp(prefix=f"yprov-{run_id[:8]}-", dir=base)
            except OSError:
                continue
    raise YprovError("there is no directory for the run's sockets", hint="set TMPDIR to a writable directory")


def write_whole(path: Path, data: bytes) -> None:
    """Beside its name, then renamed: nobody ever reads half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(data)
    os.replace(partial, path)


def ensure_archive(run_dir: Path) -> None:
    """Raises YprovError for a run that has none yet, and says what to type."""
    if not (run_dir / PROV_FILE).is_file():
        going = (run_dir / RUN_FILE).is_file() and still_going(run_dir, RunConfig.read(run_dir))
        if not going:
            _ensure_something(run_dir)
        raise YprovError(f"`{run_dir}` is still going" if going else f"`{run_dir}` was not stitched yet",
                         hint=f"yprov stitch {'--force ' if going else ''}{run_dir}")


def _ensure_something(run_dir: Path) -> None:
    """Raises YprovError for a run of which neither the document is there nor a spool that it could be made of."""
    if spool_files(run_dir / SPOOL_DIR):
        return
    made = [name for name in _OF_ARCHIVE if (run_dir / name).exists()]
    left = ", ".join(made)
    why = f"the archive is damaged; left of it: {left}" if made else "there is no spool to make it of"
    raise YprovError(f"`{run_dir}` has no {PROV_FILE}: {why}", hint="a copy of the run, or of its zip file, has it")


def still_going(run_dir: Path, config: RunConfig) -> bool:
    """Whether the run has not ended: its launcher or a daemon lives, or, seen from another host, its spool grew just
    now. (A collector whose launcher was killed still has to drain.)"""
    if any(is_being_written(path) for path in spool_files(run_dir / SPOOL_DIR)):
        return True
    launcher = config.launcher
    if launcher.get("host") == os.uname().nodename and launcher.get("boot_id") == boot_id():
        pid = int(launcher["pid"])
        found = process_id(pid)
        if psutil.pid_exists(pid) and found is not None and found.start == launcher["start"]:
            return True
        if all(short_name(node) == short_name(str(launcher["host"])) for node in config.nodes):
            return False  # no daemon is elsewhere
    newest = max((p.stat().st_mtime for p in (run_dir / SPOOL_DIR).glob("*.spool")), default=0.0)
    return time.time() - newest < 30.0


def clear_runtime(run_dir: Path) -> None:
    """Take away the sockets' directory of a run whose processes were all killed. Only our own, on its own host."""
    try:
        config = RunConfig.read(run_dir)
    except YprovError:
        return
    folder = Path(config.runtime_dir)
    if config.launcher.get("host") == os.uname().nodename and folder.name.startswith(f"yprov-{config.run_id[:8]}-"):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class RunView:
    """One run as `show` and `ls` tell it. `records`: activities and entities of prov.json by their local id; `run`: the
    attributes of the run's activity, without prefixes; `running_s`: for how long a run goes on that has not ended."""

    directory: Path
    config: RunConfig
    state: str
    records: dict[str, dict[str, Any]]
    run: dict[str, Any]
    running_s: float | None = None


def view(run_dir: Path) -> RunView:
    """What the archive says, or a zip file of it; `running` or `not stitched` where there is none yet. Raises
    YprovError when damaged."""
    from yprov.zipped import read_file  # no `yprov run` needs it

    zipped = run_dir.is_file()
    config = _config_of_zip(run_dir) if zipped else RunConfig.read(run_dir)
    age = _age(config)
    path = run_dir / PROV_FILE
    try:
        document = json.loads(read_file(run_dir, PROV_FILE) if zipped else path.read_bytes())
        records = {kind: {i.removeprefix("run:"): r for i, r in document.get(kind, {}).items()}
                   for kind in ("activity", "entity")}
        run = plain(records["activity"]["run"])
    except FileNotFoundError:
        going = still_going(run_dir, config)
        if not going and age > _YOUNG_S:
            _ensure_something(run_dir)
        state = "running" if going else "not stitched"
        return RunView(run_dir, config, state, {"activity": {}, "entity": {}}, {}, age if going else None)
    except OSError as e:
        raise YprovError(f"cannot read `{path}`: {e.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise YprovError(f"`{path}` is damaged", hint=f"yprov validate {run_dir}") from None
    state = str(run.get("state", "incomplete"))
    ours = config.launcher.get("pid") not in (None, os.getpid())  # not imported, and not told of by its own launcher
    if state == "incomplete" and ours and not zipped and still_going(run_dir, config):  # `yprov stitch --force`
        return RunView(run_dir, config, "running", records, run, age)
    return RunView(run_dir, config, state, records, run)


def _age(config: RunConfig) -> float:
    """Seconds since the run was made; 0 where run.json says nonsense, of which `facts` complains."""
    return max(0.0, time.time() - config.created_ns / 1e9) if isinstance(config.created_ns, (int, float)) else 0.0


def _config_of_zip(path: Path) -> RunConfig:
    from yprov.zipped import read_file

    try:
        return RunConfig.from_json(json.loads(read_file(path, RUN_FILE)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise YprovError(f"`{path}` holds no {RUN_FILE} of yprov", hint=f"yprov validate {path}") from None


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a record by their local names, as plain values."""
    return {k.rpartition(":")[2]: value_of(v) for k, v in record.items()}


def value_of(value: Any) -> Any:
    """A PROV-JSON value as a plain one: {"$": "1.5", "type": "xsd:double"} -> 1.5."""
    if isinstance(value, dict) and "$" in value:
        text, kind = value["$"], str(value.get("type", "")).rpartition(":")[2]
        if kind in ("int", "long", "integer"):
            return int(text)
        if kind in ("double", "float", "decimal"):
            return float(text)
        return text == "true" if kind == "boolean" else text
    return value
