"""A training whose Python has nothing but pyzmq (and this package without its dependencies) is recorded too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.running import attribute, document, environment, only_run, yprov

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
try:
    import numpy
except ImportError:
    print("no numpy here", flush=True)
import yprov
with yprov.context("training"), yprov.epoch(0):
    yprov.log_metric("loss", 0.25, step=1)
print(sorted({m.partition(".")[0] for m in sys.modules} & {"zmq", "numpy", "zarr", "prov", "typer", "yaml", "psutil"}))
"""


@pytest.fixture
def lean(tmp_path: Path) -> Path:
    """A folder of packages with pyzmq only."""
    folder = tmp_path / "lean"
    folder.mkdir()
    spec = importlib.util.find_spec("zmq")
    assert spec is not None
    assert spec.origin is not None
    site = Path(spec.origin).parent.parent
    for name in ("zmq", "pyzmq.libs"):
        if (site / name).exists():
            (folder / name).symlink_to(site / name)
    (folder / "yprov").symlink_to(ROOT / "launcher" / "yprov")
    (folder / "yprovd").symlink_to(ROOT / "yprovd")
    return folder


def test_a_python_with_only_pyzmq_is_recorded(tmp_path: Path, lean: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    command = ["env", f"PYTHONPATH={lean}", sys.executable, "-S", str(script)]
    done = yprov("run", "-q", "--", *command, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "no numpy here"
    series = document(only_run(tmp_path))["entity"]["series/metrics/training/loss"]
    assert attribute(series, "last") == 0.25


def test_a_python_without_pyzmq_goes_on_and_says_so_once(tmp_path: Path, lean: Path) -> None:
    (lean / "zmq").unlink()
    script = tmp_path / "train.py"
    script.write_text(PROGRAM + "\nimport time; time.sleep(0.3)\nyprov.log_metric('a', 1)\n")
    done = yprov("run", "-q", "--", "env", f"PYTHONPATH={lean}", sys.executable, "-S", str(script), cwd=tmp_path,
                 env=environment())
    assert done.returncode == 0
    assert done.stderr.count("hint: pip install pyzmq") == 1
    assert "Traceback" not in done.stderr
