"""What a run is called when nobody says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.running import only_run, yprov
from yprov.naming import name_of

PROGRAMS = {"hostname", "make", "true", "sleep", "test", "run", "git"}


def name(command: str) -> str:
    return name_of(shlex.split(command), lambda word: f"/bin/{word}" if word in PROGRAMS else None)


@pytest.mark.parametrize(("command", "expected"), [
    ("python train.py", "train"),
    ("python3.11 -u -W error train.py --lr 1", "train"),
    ("python -X dev 'my script.py'", "my script"),
    ("python train --lr 0.1", "train"),
    ("./train.py", "train"),
    ("srun -N2 python train.py", "train"),
    ("srun -N 2 --ntasks-per-node 8 python -m pkg.mod --lr 1", "pkg.mod"),
    ("mpirun -np 4 -x PYTHONPATH python bench/run.py", "run"),
    ("env A=1 python x.py", "x"),
    ("env -u B A=setup.py python x.py", "x"),
    ("A=1 python x.py", "x"),
    ("nohup nice -n 5 python x.py", "x"),
    ("uv run train.py", "train"),
    ("uv run --active python -m pkg.train", "pkg.train"),
    ("conda run -n env python x.py", "x"),
    ("apptainer exec --nv img.sif python train.py", "train"),
    ("python -m pkg.mod", "pkg.mod"),
    ("python -mpkg.mod", "pkg.mod"),
    ("python -um pkg.__main__ x.py", "pkg"),
    ("python -m torch.distributed.run --nproc_per_node=2 train.py", "train"),
    ("python -m cProfile -o out.prof train.py", "train"),
    ("torchrun --nproc_per_node 2 train.py -m x", "train"),
    ("torchrun --standalone -m pkg.train --lr 1", "pkg.train"),
    ("accelerate launch train.py", "train"),
    ("deepspeed --module pkg.train", "pkg.train"),
    ("Rscript fit.R", "fit"),
    ("julia --project=. model.jl", "model"),
    ("/bin/bash script.sh a.py", "script"),
    ("bash job", "job"),
    ("bash -l -e ./job.slurm", "job"),
    ("bash -c 'python t.py'", "t"),
    ("bash -lc 'module load a && cd /x; A=1 exec python -u train.py --lr 1 | tee log'", "train"),
    ("bash -c 'source venv/bin/activate; conda activate e; srun python -m pkg.mod'", "pkg.mod"),
    ("bash -c 'if true; then python t.py; fi'", "t"),
    ("bash -c \"bash -c 'python t.py'\"", "t"),
    ("bash -c 'conda run -n e python t.py'", "t"),
    ("ssh host 'cd x; python t.py'", "t"),
    # without a script: the program
    ("python -c 'print(1)'", "python"),
    ("python", "python"),
    ("python -", "python"),
    ("srun -n4 ./solver --mesh x.msh", "solver"),
    ("srun -p gpu -N 2 hostname", "hostname"),
    ("env A=1 make test", "make"),
    ("conda run -n e make", "make"),
    ("ls /usr/bin/python", "ls"),
    ("git commit", "git"),
    ("srun", "srun"),
    ("srun --version", "srun"),
    ("bash", "bash"),
    ("bash -c", "bash"),
    ("bash -c 'exit 3'", "bash"),
    ("bash -c 'true && kill -9 $$'", "bash"),
    ("bash -c 'cd x && make -j4 | tee log'", "make"),
    ("bash -c 'echo \"a string of\ntwo lines\"'", "bash"),
    ("/opt/app/bin/solver in.nml", "solver"),
])
def test_a_run_is_called_by_what_it_runs(command: str, expected: str) -> None:
    assert name(command) == expected


@given(words=st.lists(st.text() | st.sampled_from(["python", "bash", "-c", "-m", "srun", "env", "torchrun", "x.py"]),
                      min_size=1, max_size=6))
def test_any_command_has_a_name(words: list[str]) -> None:
    assert name_of(words, lambda word: None)


def test_the_name_is_that_of_the_runs_directory(tmp_path: Path) -> None:
    (tmp_path / "t.sh").write_text("true\n")
    assert yprov("run", "-q", "--", "bash", "-c", "cd . && bash t.sh --lr 1", cwd=tmp_path).returncode == 0
    assert only_run(tmp_path).name[17:-9] == "t"
