"""Whose Python a command runs: found in words and files, never by running anything of the user's."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from yprov.interpreter import interpreter_of, surroundings


class Home:
    """A folder with some Pythons. They are copies of a compiled program, which nobody runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("system", "venv", "work/.venv", "conda", "conda/envs/torch", "other"):
            self.python(name)
        (root / "system" / "bin" / "bash").symlink_to("/bin/sh")
        for name in ("srun", "mpirun", "numactl", "uv", "conda", "time"):
            shutil.copy("/bin/true", root / "system" / "bin" / name)
        (root / "venv" / "bin" / "activate").write_text("# sets PATH\n")
        self.script("venv/bin/torchrun", f"#!{root}/venv/bin/python3\n")
        self.script("other/bin/accelerate", f"#!/bin/sh\n'''exec' \"{root}/other/bin/python3\" \"$0\" \"$@\"\n' '''\n")
        self.script("work/tool", "#!/usr/bin/env python3\nprint()\n")
        (root / "work" / "train.py").write_text("print()\n")
        (root / "work" / "pyproject.toml").write_text("")
        (root / "work" / "deep").mkdir()

    def python(self, prefix: str) -> None:
        (self.root / prefix / "bin").mkdir(parents=True)
        shutil.copy("/bin/true", self.root / prefix / "bin" / "python3")
        (self.root / prefix / "bin" / "python").symlink_to("python3")

    def script(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)
        (self.root / name).chmod(0o755)

    def found(self, *command: str, cwd: str = "work", **environ: str) -> str | None:
        """The prefix of the Python, below the home."""
        path = f"{self.root}/system/bin"
        found = interpreter_of(list(command), self.root / cwd,
                               {"PATH": path, "CONDA_EXE": f"{self.root}/conda/bin/conda", **environ})
        return None if found is None else os.path.relpath(found.path.parent.parent, self.root)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize(
    ("command", "prefix"),
    [
        ("python train.py", "system"),
        ("../venv/bin/python train.py", "venv"),
        ("srun -n8 --gpus-per-task=1 python3 -u train.py --lr 1", "system"),
        ("mpirun -np 4 numactl -N 0 ../other/bin/python train.py", "other"),
        ("env -u X A=B PATH={root}/venv/bin:/bin python train.py", "venv"),
        ("../venv/bin/torchrun --nproc-per-node 8 train.py", "venv"),
        ("srun ../other/bin/accelerate launch train.py", "other"),
        ("./tool --x", "system"),
        ("time -p ./tool", "system"),
        ("uv run train.py", "work/.venv"),
        ("uv run --project . python train.py", "work/.venv"),
        ("uv --directory ../work run python train.py", "work/.venv"),
        ("conda run -n torch python train.py", "conda/envs/torch"),
        ("conda run --prefix {root}/conda/envs/torch python train.py", "conda/envs/torch"),
        ("true train.py", None),
        ("./a.out --python", None),
        ("../no/such/python train.py", None),
    ],
)
def test_words_of_a_command(home: Home, command: str, prefix: str | None) -> None:
    assert home.found(*command.format(root=home.root).split()) == prefix


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("python train.py", "system"),
        ("source ../venv/bin/activate && python train.py", "venv"),
        (". {root}/venv/bin/activate; cd deep; srun python train.py | tee log", "venv"),
        ("export PATH={root}/other/bin:$PATH\nif true; then\n  python train.py\nfi", "other"),
        ("PATH=$HOME_OF_IT/venv/bin:$PATH exec python train.py", "venv"),
        ("conda activate torch\npython train.py", "conda/envs/torch"),
        ("source {root}/venv/bin/activate torch; python x", "conda/envs/torch"),
        ("cd ..; ./venv/bin/python work/train.py", "venv"),
        ("echo 'a\nb'\nsrun \\\n  python \\\n  train.py", "system"),
        ("# python\ntrue; ls", None),
        ("cat <<EOF\nit's\nEOF\npython x", "system"),
    ],
)
def test_the_text_of_a_shell(home: Home, text: str, prefix: str | None) -> None:
    text = text.format(root=home.root)
    environ = {"HOME_OF_IT": str(home.root)}
    assert home.found("bash", "-lc", text, **environ) == prefix
    (home.root / "work" / "job.sh").write_text(f"#!/bin/bash\n{text}\n")
    (home.root / "work" / "job.sh").chmod(0o755)
    assert home.found("bash", "job.sh", "x", **environ) == prefix
    assert home.found("srun", "./job.sh", **environ) == prefix


def test_a_wrapper_that_is_called_python_is_not_believed(home: Home) -> None:
    home.script("work/python", "#!/bin/sh\nexec something \"$@\"\n")
    assert home.found("./python", "train.py") is None


def test_a_script_that_calls_itself_ends(home: Home) -> None:
    home.script("work/loop.sh", "#!/bin/bash\n./loop.sh\n")
    assert home.found("./loop.sh") is None


@pytest.mark.parametrize("command", [
    ["bash", "-c"], ["bash"], [""], ["env"], ["bash", "-c", "'"], ["uv", "run"], ["\0"], ["x" * 5000],
    ["conda", "run", "-n"], ["cd"],
])
def test_odd_commands_are_no_error(home: Home, command: list[str]) -> None:
    assert home.found(*command, cwd="other") is None


def test_a_list_of_thousands_of_files_is_not_looked_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word would cost the file system a request for every folder of PATH."""
    asked: list[str] = []
    monkeypatch.setattr(shutil, "which", lambda program, path: asked.append(program))
    assert interpreter_of(["cat", *(f"w{i}" for i in range(50_000))], home.root, {"PATH": "/bin"}) is None
    assert len(asked) < 1000


def test_the_active_environment_is_assumed_where_nothing_tells(home: Home) -> None:
    found = surroundings({"VIRTUAL_ENV": str(home.root / "venv")})
    assert found is not None
    assert found.path == home.root / "venv" / "bin" / "python"
    assert "assumed" in found.how
    assert surroundings({"VIRTUAL_ENV": "/no/such"}) is None


def test_this_very_python_is_found(tmp_path: Path) -> None:
    found = interpreter_of([sys.executable, "x.py"], tmp_path, {})
    assert found is not None
    assert found.path == Path(sys.executable)
