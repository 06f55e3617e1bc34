"""The documents say what the program does: every command, option, setting, sensor, state and call is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

import yprov
from tests.running import environment
from yprov.cli import app
from yprovd.config import Settings
from yprovd.model import STATES
from yprovd.sensors import SENSORS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(app)
assert hasattr(COMMANDS, "commands")


def test_every_command_and_option_is_in_the_readme_and_has_help() -> None:
    for name, command in COMMANDS.commands.items():
        assert f"`yprov {name}" in README, name
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) or getattr(parameter, "opts", [""])[0].startswith("-"):
                if getattr(parameter, "hidden", False):
                    continue
                for option in parameter.opts:
                    assert f"`{option}" in README, f"{name} {option}"


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))
def test_help_shows_an_example(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "yprov.cli", name, "--help"], capture_output=True, text=True,
                          env=environment(), check=True)
    assert re.search(rf"Examples?: +yprov {name}", done.stdout), done.stdout
    if name != "run":
        assert "--json" in done.stdout


def test_every_setting_is_in_the_readme() -> None:
    for setting in Settings._fields:
        assert f"{setting}:" in README, setting


def test_every_call_of_the_client_is_in_the_readme() -> None:
    for name in yprov.__all__:
        if name != "Run":
            assert (f"{name}(" if name != "YprovError" else "`yprov.YprovError`") in README, name


def test_every_state_is_in_the_readme() -> None:
    for state in STATES:
        assert f"`{state}`" in README, state


def test_every_sensor_is_in_the_picture() -> None:
    for sensor in SENSORS:
        assert sensor in README, sensor


def test_every_make_target_is_in_the_readme() -> None:
    for target in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M):
        assert f"`{target}`" in README or f"make {target}" in README, target


def test_python_in_the_readme_runs(tmp_path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment(YPROV_STRICT="1"), check=True)


def test_documents_link_to_files_that_exist() -> None:
    for document in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)]+)\)", (ROOT / document).read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{document}: {target}"


def test_the_map_is_short_and_names_rooms_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 60
    for room in re.findall(r"`(yprovd/\w+)", text):
        assert (ROOT / room).is_dir() or (ROOT / f"{room}.py").is_file(), room
