"""What is recorded of a run's surroundings, and that it holds nobody up."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.running import attribute, document, environment, eventually, only_run, processes_about, yprov
from tests.test_repository import git, tree_of
from yprov import capture
from yprov.capture import Capture, about_run, environment_of, modules_of
from yprov.capturing import Capturing, seen_python
from yprovd.secrets import Masker

#: A shell's wait for a file of `source/`: the machine may be slow.
WAIT = 'until [ -e "$YPROV_RUN_DIR/source/{}" ]; do sleep 0.05; done'


def test_variables_of_the_allow_list_only_and_without_secrets() -> None:
    environ = {"NCCL_DEBUG": "INFO", "FI_PROVIDER": "cxi", "SLURM_JOB_ID": "7", "PYTHONHASHSEED": "0",
               "HOME": "/home/ada", "MY_DATA": "x", "SLURM_JWT": "eyJx", "APPTAINERENV_HF_TOKEN": "abc",
               "TORCH_HOME": "/t", "OMP_NUM_THREADS": "8", "NCCL_SOCKET": "https://u:pw0123@h/",
               "PYTHONPATH": "x" * 9000}
    kept = environment_of(environ, Masker())
    assert len(kept.pop("PYTHONPATH")) == 8192
    assert kept == {"NCCL_DEBUG": "INFO", "FI_PROVIDER": "cxi", "SLURM_JOB_ID": "7", "PYTHONHASHSEED": "0",
                    "TORCH_HOME": "/t", "OMP_NUM_THREADS": "8", "SLURM_JWT": "***", "APPTAINERENV_HF_TOKEN": "***",
                    "NCCL_SOCKET": "https://u:***@h/"}


@pytest.mark.parametrize(("environ", "modules"), [
    ({}, {}),
    ({"LOADEDMODULES": ""}, {}),
    ({"LOADEDMODULES": "gcc/12:cuda/12.4", "_LMFILES_": "/m/gcc:/m/cuda"},
     {"names": ["gcc/12", "cuda/12.4"], "files": ["/m/gcc", "/m/cuda"]}),
    ({"LOADEDMODULES": "a:b", "_LMFILES_001": "/m/a:/m", "_LMFILES_002": "/b"},
     {"names": ["a", "b"], "files": ["/m/a", "/m/b"]}),
])
def test_modules(environ: dict[str, str], modules: dict[str, Any]) -> None:
    assert modules_of(environ) == modules
    assert about_run(environ, Masker()).get("modules", {}) == modules


def captured(argv: list[str], cwd: Path, run_dir: Path) -> dict[str, Any]:
    """All parts of one look around, whose command has ended already."""
    parts: dict[str, Any] = {}
    (run_dir / "logs").mkdir(parents=True)
    job = {"run_dir": str(run_dir), "argv": argv, "cwd": str(cwd), "run_id": "id-1", "hash_limit": 1 << 30,
           "begun_ns": 1 << 62}
    looking = Capturing(job, lambda part, _done: parts.update(part), lambda _wait: False)
    looking._ended = lambda wait: wait > 0.0  # type: ignore[method-assign]
    looking.run()
    assert sorted(os.listdir(run_dir)) == ["logs", "source"] or sorted(os.listdir(run_dir)) == ["logs"]
    return parts


def test_a_log_is_said_to_be_done_only_after_the_last_look_at_it(tmp_path: Path) -> None:
    """Killed before that, a secret at its very end may still stand there, and the stitch looks at what is not done."""
    log = tmp_path / "logs" / "stdout.log"
    log.parent.mkdir()
    log.write_text("ghp_" + "a1" * 18)
    said: list[tuple[int, str]] = []
    job = {"run_dir": str(tmp_path), "argv": ["x"], "cwd": "/", "run_id": "id-1", "hash_limit": 1, "begun_ns": 0}
    looks = iter([False, True])
    looking = Capturing(job, lambda part, _done: said.append((part["masked_logs"]["stdout.log"], log.read_text())),
                        lambda _wait: next(looks))
    assert looking._logs() == {"masked_logs": {"stdout.log": 40}}
    assert said == [(39, "ghp_" + "a1" * 18)]
    assert log.read_text() == "*" * 40


def test_script_lock_files_and_packages_of_a_project(tmp_path: Path) -> None:
    root = tmp_path / "code"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "train.py").write_text("print()\n")
    (root / "uv.lock").write_text("version = 1\n")
    (root / "requirements-gpu.txt").write_text("--index-url https://u:pl4nted77@h/simple\n")
    (root / "sub" / "pyproject.toml").write_text("[project]\n")
    git(root, "init", "-q")
    parts = captured([sys.executable, "sub/train.py"], root, tmp_path / "run")
    assert parts["code"]["script"]["stored"] == "source/train.py"
    locks = {row["stored"]: row.get("masked", False) for row in parts["locks"]}
    assert locks == {"source/project/uv.lock": False, "source/project/requirements-gpu.txt": True,
                     "source/project/pyproject.toml": False}
    assert parts["packages"]["interpreter"] == sys.executable
    assert parts["packages"]["count"] > 20
    assert parts["code"]["tree"].startswith("swh:1:dir:")


def test_a_script_in_site_packages_is_not_taken_for_the_repository(tmp_path: Path) -> None:
    """The current folder's is, where the script's has none."""
    root, elsewhere = tmp_path / "code", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    git(root, "init", "-q")
    (elsewhere / "launch.py").write_text("")
    parts = captured(["true", str(elsewhere / "launch.py")], root, tmp_path / "run")
    assert parts["code"]["root"] == str(root)


def test_a_container_is_told_and_its_packages_are_not_those_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "image.sif").write_bytes(b"image")
    parts = captured(["apptainer", "exec", "image.sif", "python", "train.py"], tmp_path, tmp_path / "run")
    assert parts["container"]["sha256"] == "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert "container" in parts["packages"]["reason"]


def test_a_repository_that_cannot_be_looked_at_leaves_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the user has no home, say: a number that passwd does not know, in a container."""
    def no_home(self: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", no_home)
    git(tmp_path, "init", "-q")
    (tmp_path / "image.sif").write_bytes(b"image")
    parts = captured(["apptainer", "exec", "image.sif", "true"], tmp_path, tmp_path / "run")
    assert parts["code"]["reasons"] == {"repository": "no home"}
    assert parts["container"]["engine"] == "apptainer"


def test_a_step_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Capturing, "_changes", lambda self: 1 / 0)
    git(tmp_path, "init", "-q")
    parts = captured([sys.executable, "x"], tmp_path, tmp_path / "run")
    assert parts["changes_reason"] == "ZeroDivisionError: division by zero"
    assert "packages" in parts


def test_a_python_among_the_runs_processes_is_found_by_what_it_was_called(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "python").symlink_to(sys.executable)
    child = subprocess.Popen([str(tmp_path / "python"), "-c", "print(flush=True); input()"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, env={"YPROV_RUN_ID": "run-x"})
    assert child.stdout is not None
    child.stdout.readline()
    found = seen_python("run-x")
    child.communicate(b"\n")
    assert found is not None
    assert found.path == tmp_path / "python"
    assert seen_python("run-x") is None


@pytest.fixture
def slow_git(tmp_path: Path) -> str:
    """A PATH on which git takes forever."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexec sleep 300\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    return f"{tmp_path}/bin:{os.environ['PATH']}"


def test_a_git_that_hangs_delays_neither_begin_nor_end(tmp_path: Path, slow_git: str) -> None:
    root = tmp_path / "code"
    root.mkdir()
    git(root, "init", "-q")
    began = time.monotonic()
    done = yprov("run", "-q", "--", "date", "+%s.%N", cwd=root, env=environment(PATH=slow_git))
    took = time.monotonic() - began
    assert done.returncode == 0
    shutil.rmtree(root / ".git")
    began = time.monotonic()
    assert yprov("run", "-q", "--", "true", cwd=root).returncode == 0
    assert took < time.monotonic() - began + capture.BEFORE_S + capture.AFTER_S + 8.0  # git alone would take 20
    first = min((p for p in (root / "yprov-runs").iterdir()), key=lambda p: p.name)
    run_doc = document(first)
    told = attribute(run_doc["entity"]["environment"], "captureUnfinished")
    assert "packages: the run ended before it was looked at" in told
    eventually(lambda: not processes_about(f"PATH={tmp_path}/bin:"), what="git is ended")
    assert not list(first.glob(".capture*"))


def test_a_command_line_of_megabytes_is_handed_over_at_once(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    began = time.monotonic()
    looking = Capture(tmp_path, ["true", *["x" * 1000] * 1900], tmp_path, "id", 1 << 30, lambda part: None)
    took = time.monotonic() - began
    looking.finish(0.0)
    assert took < 10.0  # byte by byte it would be minutes


def test_one_that_cannot_be_ended_does_not_hold_the_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a file system that does not answer: no signal ends it."""
    looking = Capture(tmp_path, ["x"], tmp_path, "id", 1 << 30, lambda part: None)
    with monkeypatch.context() as patched:
        patched.setattr("os.killpg", lambda pid, signum: None)
        assert looking._child is not None
        assert looking._child.stdin is not None
        os.kill(looking._child.pid, 19)  # SIGSTOP
        looking.stop()
    assert looking._child.poll() is None
    looking.stop()
    assert looking._child.poll() is not None
    looking.finish(0.0)


def test_what_is_known_reaches_the_record_and_what_is_not_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    parts: list[dict[str, Any]] = []
    looking = Capture(tmp_path, [sys.executable, "x.py"], tmp_path, "id", 1 << 30, parts.append)
    looking.wait_for_code(20.0)
    looking.finish(20.0)
    assert "unfinished" not in parts[-1]["capture"]
    assert any("packages" in part for part in parts)
    parts.clear()
    looking = Capture(tmp_path, ["x"], tmp_path, "id", 1 << 30, parts.append)
    looking.finish(0.0)
    assert parts[-1]["capture"]["unfinished"]["unpushed"] == "the run ended before it was looked at"


@pytest.fixture
def leisurely_git(tmp_path: Path) -> str:
    """A PATH on which git takes its time for the commits that no remote has, as in a large repository."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text(
        f"#!/bin/sh\ncase \"$*\" in *rev-list*--count*) sleep {capture.AFTER_S + 1};; esac\n"
        f'exec {shutil.which("git")} "$@"\n')
    (tmp_path / "bin" / "git").chmod(0o755)
    return f"{tmp_path}/bin:{os.environ['PATH']}"


def test_after_a_command_of_no_time_a_large_repository_is_looked_at_all_the_same(
    tmp_path: Path, leisurely_git: str
) -> None:
    root = tmp_path / "code"
    root.mkdir()
    (root / "train.py").write_text("before\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    assert yprov("run", "-q", "--", "true", cwd=root, env=environment(PATH=leisurely_git)).returncode == 0
    assert (only_run(root) / "source" / "code.bundle").is_file()


def test_the_user_need_not_wait_for_it(tmp_path: Path, leisurely_git: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", leisurely_git)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    (tmp_path / "logs").mkdir()
    parts: list[dict[str, Any]] = []
    asked: list[float] = []
    looking = Capture(tmp_path, [sys.executable], tmp_path, "id", 1 << 30, parts.append)
    looking.wait_for_code(20.0)
    looking.finish(0.1, lambda: bool(asked.append(0.0)))
    assert len(asked) == 1
    assert "unpushed" in parts[-1]["capture"]["unfinished"]


def test_the_code_is_that_before_the_command(tmp_path: Path) -> None:
    """What the command changes, and makes, is none of it."""
    root = tmp_path / "code"
    root.mkdir()
    (root / "train.py").write_text("before\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    (root / "new.py").write_text("new\n")
    before = tree_of(root, tmp_path)
    line = f"{WAIT.format('repository.json')}; echo after > train.py; echo x > result.csv; rm new.py"
    done = yprov("run", "-q", "--", "bash", "-c", line, cwd=root)
    assert done.returncode == 0, done.stderr
    run_dir = only_run(root)
    code = document(run_dir)["entity"]["code"]
    assert (attribute(code, "tree"), attribute(code, "untrackedFiles")) == (before, 1)
    assert b"+new" in (run_dir / "source" / "code.diff").read_bytes()


def test_the_archive_names_what_it_holds(tmp_path: Path) -> None:
    root = tmp_path / "code"
    root.mkdir()
    (root / "train.py").write_text("print()\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    (root / "new.py").write_text("x = 1\n")
    environ = environment(LOADEDMODULES="gcc/12", _LMFILES_="/m/gcc/12")
    line = f"{sys.executable} train.py; {WAIT.format('code.bundle')}"
    assert yprov("run", "-q", "--", "bash", "-c", line, "train.py", cwd=root, env=environ).returncode == 0
    run_dir = only_run(root)
    entities = document(run_dir)["entity"]
    assert attribute(entities["environment"], "modules") == "gcc/12"
    assert attribute(entities["packages"], "packageCount") > 20
    crate = json.loads((run_dir / "ro-crate-metadata.json").read_text())
    listed = {node["@id"] for node in crate["@graph"]}
    for name in ("code", "code.diff", "code.bundle", "packages", "script"):
        assert attribute(entities[name], "location") in listed
        assert (run_dir / attribute(entities[name], "location")).is_file()
    assert yprov("validate", str(run_dir), cwd=root).returncode == 0
