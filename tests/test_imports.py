"""What stands beside the job is lean: fresh interpreters, and what they have loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import environment

ROOT = Path(__file__).parents[1]
#: Rooms that only the stitch and the command line need.
HEAVY = {"numpy", "zarr", "prov", "typer", "yaml", "psutil", "rich", "click"}


def loaded_by(code: str) -> set[str]:
    """Modules that the code adds to those of a bare interpreter (without `site`, which may load anything)."""
    path = [p for p in sys.path if p] + [str(ROOT), str(ROOT / "launcher")]
    program = (f"import sys; sys.path[:0] = {path!r}\n"
               f"before = set(sys.modules)\n{code}\n"
               "found = sorted(set(sys.modules) - before)\nimport json; print(json.dumps(found))")
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True,
                          env=environment(), cwd="/")
    return set(json.loads(done.stdout))


def test_the_client_needs_nothing_but_the_smallest_modules_of_the_standard_library() -> None:
    found = {name for name in loaded_by("import yprov") if not name.startswith("yprov")}
    assert found <= {"__future__", "_collections", "_collections_abc", "_contextvars", "_operator", "_stat", "atexit",
                     "collections", "collections.abc", "genericpath", "itertools", "keyword", "operator", "os",
                     "os.path", "posixpath", "reprlib", "stat", "time"}


def test_the_client_loads_of_ours_only_itself() -> None:
    assert {name for name in loaded_by("import yprov") if name.startswith("yprov")} == {
        "yprov", "yprov.beginning", "yprov.client", "yprov.outbox", "yprov.spans", "yprov.values"}


@pytest.mark.parametrize("module", ["yprov.shipping", "yprov.environment"])
def test_what_the_client_loads_with_its_first_event_is_lean(module: str) -> None:
    found = loaded_by(f"import {module}")
    assert not found & HEAVY
    assert not {name for name in found if name.startswith(("yprovd.stitch", "yprovd.sensors", "yprovd.config"))}


@pytest.mark.parametrize(
    "module",
    ["yprovd.node", "yprovd.collector", "yprovd.sampler", "yprovd.transport", "yprovd.files", "yprovd.__main__"],
)
def test_the_daemons_load_no_room_of_the_stitch(module: str) -> None:
    found = loaded_by(f"import {module}")
    assert not found & HEAVY
    assert not {name for name in found if name.startswith("yprovd.stitch")}
    assert not {name for name in found if name == "yprov" or name.startswith("yprov.")}


def test_reading_and_writing_spools_needs_no_socket_and_no_array() -> None:
    found = loaded_by("import yprovd.wire, yprovd.spool, yprovd.model, yprovd.clock, yprovd.errors, yprovd.config")
    assert not found & (HEAVY | {"zmq"})


def test_the_stitch_needs_no_socket_no_sensor_and_no_front_door() -> None:
    found = loaded_by("import yprovd.stitch, yprovd.stitch.record")
    assert not found & {"zmq", "typer", "yaml", "yprov", "yprovd.sampler", "yprovd.sensors", "yprovd.node"}


def test_wrapping_a_command_loads_neither_numpy_nor_the_stitch() -> None:
    found = loaded_by("import yprov.wrapper")
    assert not found & (HEAVY - {"psutil"})
    assert not {name for name in found if name.startswith("yprovd.stitch")}


def test_the_rooms_import_in_one_direction_only() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, env=environment(),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
