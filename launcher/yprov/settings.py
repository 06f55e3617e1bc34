"""From a YAML file and the options of `yprov run` to one `Settings`. An option wins over the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yprovd.config import Settings
from yprovd.errors import YprovError
from yprovd.sensors import SENSORS


def resolve(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """`options`: as the keys of Settings, None where not given; tags as `K=V`, carbon as a country or g CO2e per kWh,
    and `pue`. Raises YprovError."""
    data = _read(file) if file is not None else {}
    given = {k: v for k, v in options.items() if v is not None and v != []}
    if file is not None:
        Settings.from_mapping(data, where=f"`{file}`", sensors=SENSORS)  # its own mistakes carry its own name
    if "tags" in given:
        given["tags"] = {**data.get("tags", {}), **_tags(given["tags"])}
    if "carbon" in given or "pue" in given:
        given["carbon"] = _carbon(data.get("carbon", {}), given.get("carbon"), given.pop("pue", None))
    settings = Settings.from_mapping({**data, **given}, where="options", sensors=SENSORS)
    if not settings.experiment:
        try:
            folder = Path.cwd().name or "root"
        except OSError:
            raise YprovError("the current directory does not exist any more", hint="cd to one that does") from None
        settings = settings._replace(experiment=folder)
    return settings


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise YprovError(f"cannot read the configuration `{file}`: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise YprovError(f"`{file}` is not YAML: {str(e).splitlines()[0]}",
                         hint="name: my-run   is how a setting is written") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise YprovError(f"`{file}` must hold settings, `name: value`", hint="interval: 0.5")
    return data


def _carbon(in_file: Mapping[str, Any], grid: str | None, pue: float | None) -> dict[str, Any]:
    """An option takes the place of all that the file says of the grid: that was of another one."""
    carbon = dict(in_file)
    if grid is not None:
        try:
            said: dict[str, Any] = {"intensity": float(grid)}
        except ValueError:
            said = {"country": grid}
        carbon = {**said, **{k: v for k, v in carbon.items() if k == "pue"}}
    return carbon if pue is None else {**carbon, "pue": pue}


def _tags(given: list[str]) -> dict[str, str]:
    tags = {}
    for tag in given:
        key, separator, value = tag.partition("=")
        if not separator or not key:
            raise YprovError(f"`--tag {tag}` is not a name and a value", hint="--tag dataset=digits")
        tags[key] = value
    return tags
