"""The resolved configuration of a run, as it stands in `run.json` and in the spool's RUN record.

The launcher reads options and a YAML file, resolves them once, and writes this; daemons get the file's path and
nothing else. There is no secret in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from yprovd.errors import YprovError
from yprovd.grids import Carbon
from yprovd.grids import checked as checked_carbon
from yprovd.ids import check_organisation, check_person, licence
from yprovd.secrets import Masker

RUN_FILE = "run.json"
PROV_FILE = "prov.json"
SPOOL_DIR = "spool"
#: Of a run that goes on (`yprovd.rendezvous`); no part of the archive.
KEY_FILE, COLLECTOR_FILE = ".keys", "collector.json"
#: Where the archive was published (`yprov push`): about it, and so no part of it; and what a push locks.
PUSH_FILE, PUSH_LOCK = ".push.json", ".push.lock"
FORMAT = "yprov-run"
VERSION = 1
_EMPTY: Mapping[str, Any] = {}


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` for a mistyped name, or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


class Person(NamedTuple):
    """Who is responsible for the run. `id` is an ORCID or ROR address where there is one."""

    name: str = ""
    id: str = ""


class Settings(NamedTuple):
    """What a user may set: the keys of a configuration file, each also an option of `yprov run`.

    interval: seconds between samples. disable: sensors that are not opened. tags: any `key: value`.
    licence: of the archive, an SPDX identifier or an address. scheduler: where the daemons are placed: `auto`, `none`
    (this machine only) or the name of a scheduler. launch_with: a command that starts one process on each node
    (`mpirun -npernode 1`). interface: the network interface on which the collector listens. opened_files: look now and
    then at the files that the job's processes have open. hash_limit: bytes; larger files get no checksum. carbon: of
    the electricity, see `yprovd.grids`; without it a run has no CO2e.
    """

    name: str = ""
    experiment: str = ""
    dir: str = "yprov-runs"
    interval: float = 1.0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tags: Mapping[str, str] = _EMPTY
    keep_spool: bool = False
    disable: tuple[str, ...] = ()
    user: Person = Person()
    organisation: Person = Person()
    licence: str = ""
    scheduler: str = "auto"
    launch_with: str = ""
    interface: str = ""
    opened_files: bool = False
    hash_limit: int = 4 << 30
    carbon: Carbon = Carbon()

    def without_secrets(self, masker: Masker) -> Settings:
        """As it is recorded: texts and tags masked."""
        user, organisation = (Person(*map(masker.text, person)) for person in (self.user, self.organisation))
        carbon = Carbon(**masker.document(self.carbon._asdict()))
        shown: dict[str, Any] = {k: masker.document(v) for k, v in self._asdict().items()
                                 if not isinstance(v, Person | Carbon)}
        shown |= {"inputs": tuple(shown["inputs"]), "outputs": tuple(shown["outputs"]), "disable": self.disable,
                  "user": user, "organisation": organisation, "carbon": carbon}
        return Settings(**shown)

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], *, where: str, sensors: Iterable[str] = ()) -> Settings:
        """Checks names, types and ranges. Raises YprovError that names the key and the nearest known one."""
        known = list(cls._fields)
        out: dict[str, Any] = {}
        for key, value in data.items():
            if key not in known:
                raise YprovError(f"{where}: unknown key `{key}`",
                                 hint=nearest(str(key), known) or f"known keys: {', '.join(known)}")
            out[key] = _checked(where, key, value)
        known_sensors = list(sensors)
        for name in out.get("disable", ()):
            if known_sensors and name not in known_sensors:
                raise YprovError(f"{where}: `disable` names an unknown sensor `{name}`",
                                 hint=nearest(name, known_sensors) or f"sensors: {', '.join(known_sensors)}")
        return cls(**out)


_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4,
          "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def _bytes(value: Any) -> int | None:
    """`4GiB`, `500MB`, `1048576`; None for what is no number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    if not isinstance(value, str):
        return None
    m = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) *([kKmMgGtT]?i?)[bB]?", value.strip())
    if m is None or m[2].lower() not in _UNITS:
        return None
    return round(float(m[1]) * _UNITS[m[2].lower()])


def _checked(where: str, key: str, value: Any) -> Any:
    def wrong(expected: str) -> YprovError:
        return YprovError(f"{where}: `{key}` must be {expected}, not `{value}`")

    if key == "interval":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.01 <= value <= 3600:
            raise wrong("a number of seconds from 0.01 to 3600")
        return float(value)
    if key in ("inputs", "outputs", "disable"):
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise wrong("a list")
        return tuple(str(v) for v in value)
    if key == "tags":
        if not isinstance(value, Mapping):
            raise wrong("a mapping of names to values")
        return {str(k): str(v) for k, v in value.items()}
    if key == "hash_limit":
        size = _bytes(value)
        if size is None:
            raise wrong("a number of bytes, or one with a unit such as `4GiB`")
        return size
    if key in ("keep_spool", "opened_files"):
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if key in ("user", "organisation"):
        if isinstance(value, str):
            return Person(value)
        if not isinstance(value, Mapping) or set(value) - {"name", "id"}:
            raise wrong("a name, or a mapping with `name` and `id`")
        who = Person(**{k: str(v).strip() for k, v in value.items()})
        if who.id:
            (check_person if key == "user" else check_organisation)(f"{where}: `{key}.id`", who.id)
        return who
    if key == "carbon":
        return checked_carbon(where, value)
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise wrong("text")
    return licence(f"{where}: `licence`", str(value).strip()) if key == "licence" and value != "" else str(value)


class RunConfig(NamedTuple):
    """One run: its identity, what was asked, and where its daemons meet.

    `created_ns`: wall clock. `root`: directory that holds `proc` and `sys`. `runtime_dir`: mode 0700, holds the
    sockets, goes away with the run, and has the same path on every node. `launcher`: host, boot id, pid and start time
    of `yprov run`.

    `nodes`: the hosts on which a scheduler's step starts the daemons, the collector's first; empty where they are
    children of the launcher. `job`: the key of the scheduler's job (scheduler, cluster, job_id, attempt). `grace_s`:
    how long the scheduler lets processes live between SIGTERM and SIGKILL.
    """

    run_id: str
    name: str
    created_ns: int
    command: tuple[str, ...]
    cwd: str
    runtime_dir: str
    settings: Settings
    root: str = "/"
    launcher: Mapping[str, Any] = _EMPTY
    software: str = ""
    nodes: tuple[str, ...] = ()
    job: Mapping[str, Any] = _EMPTY
    grace_s: float = 30.0

    @property
    def interval_ns(self) -> int:
        return round(self.settings.interval * 1e9)

    def to_json(self) -> dict[str, Any]:
        settings = self.settings._asdict()
        for key in ("user", "organisation", "carbon"):
            settings[key] = settings[key]._asdict()
        return {"format": FORMAT, "version": VERSION, **self._asdict(), "settings": settings}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> RunConfig:
        data = dict(doc)
        settings = dict(data.pop("settings"))
        for key in ("user", "organisation"):
            settings[key] = Person(**settings[key])
        settings["carbon"] = Carbon(**settings.get("carbon", {}))
        for key in ("inputs", "outputs", "disable"):
            settings[key] = tuple(settings[key])
        known = set(cls._fields)
        rest = {k: v for k, v in data.items() if k in known}
        for key in ("command", "nodes"):
            rest[key] = tuple(rest.get(key, ()))
        return cls(settings=Settings(**settings), **rest)

    @classmethod
    def read(cls, run_dir: Path) -> RunConfig:
        """Raises YprovError when the folder is not a run, or a newer program's."""
        path = run_dir / RUN_FILE
        try:
            doc = json.loads(path.read_text(encoding="utf-8"))
            if doc["format"] != FORMAT:
                raise KeyError("format")
            if doc["version"] > VERSION:
                raise YprovError(f"`{path}` was written by a newer yprov (format {doc['version']})",
                                 hint="pip install --upgrade yprovd")
            return cls.from_json(doc)
        except FileNotFoundError:
            raise YprovError(f"`{run_dir}` is not a run: it has no {RUN_FILE}",
                             hint="yprov ls   shows the runs of ./yprov-runs") from None
        except OSError as e:
            raise YprovError(f"cannot read `{path}`: {e.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise YprovError(f"`{path}` is damaged or not written by yprov") from None
