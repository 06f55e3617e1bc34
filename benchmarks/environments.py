"""The peers, each in a virtual environment of its own below .bench/, made once and kept until `make clean`.

What cannot be installed here (no network, no package for this Python, no time left) is a reason, not an error.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import ROOT, environ

#: All installing of one invocation together.
INSTALL_S = 300.0
#: What each environment holds. yProv4ML pulls gigabytes with CUDA's torch: it is installed alone, with what its
#: logging needs, and `inside/yprov4ml_alone.py` gives it empty modules for torch, lightning and fvcore.
PEERS = {
    "wandb": ["wandb"],
    "mlflow": ["mlflow-skinny", "sqlalchemy", "alembic"],
    "con-duct": ["con-duct"],
    "yprov4ml": ["numpy", "pandas", "psutil", "prov[graph]", "pydot", "typing_extensions", "xarray", "netCDF4",
                 "zarr>=3", "rocrate", "numcodecs"],
}
ALONE = {"yprov4ml": "yprov4ml==3.2.8"}

_left_s = INSTALL_S
_reasons: dict[str, str] = {}


class Missing(Exception):
    """A peer that is not there; the text says why."""


def python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if need be. Raises Missing."""
    folder = ROOT / ".bench" / name
    wanted = "\n".join([*PEERS[name], ALONE.get(name, "")])
    ready = folder / ".ready"
    if ready.is_file() and ready.read_text() == wanted:
        return folder / "bin" / "python"
    if name not in _reasons:
        _reasons[name] = _make(folder, name)
    if _reasons[name]:
        raise Missing(f"not installed: {_reasons[name]}")
    ready.write_text(wanted)
    return folder / "bin" / "python"


def _make(folder: Path, name: str) -> str:
    """Returns why it could not be made, '' when it is there."""
    global _left_s
    began = time.monotonic()
    print(f"installing {name} into {folder.relative_to(ROOT)}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", folder], [*pip, *PEERS[name]]]
    if name in ALONE:
        steps.append([*pip, "--no-deps", ALONE[name]])
    try:
        for step in steps:
            if _left_s - (time.monotonic() - began) <= 0:
                return f"{INSTALL_S:.0f} s of installing are used up"
            done = subprocess.run([str(s) for s in step], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  env=environ(), timeout=_left_s - (time.monotonic() - began), check=False)
            if done.returncode:
                return f"`pip install {' '.join(step[6:])}` failed" if len(step) > 4 else "no virtual environment"
    except subprocess.TimeoutExpired:
        return f"{INSTALL_S:.0f} s of installing are used up"
    finally:
        _left_s -= time.monotonic() - began
    return ""


def version(name: str, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python(name)), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()
