"""What the run is made of besides numbers. The cheap part here, before the command starts: who, where, the environment
and the modules. The rest (repository, packages, container) is found beside the command by a process of ours at the
lowest priority, `yprov.capturing`, which `Capture` starts and listens to.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from yprov.daemons import clean_environment
from yprovd.secrets import HIDDEN, Masker
from yprovd.shapes import is_secret

#: Variables that say how a job is laid out and what its libraries do. An allow-list: values of others may be secrets.
ENVIRONMENT = frozenset((
    "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "VIRTUAL_ENV", "CONDA_DEFAULT_ENV",
    "CONDA_PREFIX", "CONDA_EXE", "LOADEDMODULES", "_LMFILES_", "MODULEPATH", "HOSTNAME", "LANG", "LC_ALL", "TZ",
    "SHELL", "TMPDIR", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK",
    "MASTER_ADDR", "MASTER_PORT", "HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "WANDB_MODE", "WANDB_PROJECT",
    "WANDB_ENTITY", "ENROOT_ROOTFS", "CH_RUNNING", "CC", "CXX",
))
_PREFIXES = (
    "NCCL_", "RCCL_", "FI_", "MPICH_", "OMPI_", "UCX_", "UCC_", "I_MPI_", "PMI_", "PMIX_", "PALS_", "GLOO_", "OMP_",
    "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "HSA_", "HIP_", "ROCM_", "ROCR_", "MIOPEN_", "AMD_", "CUDA_",
    "CUDNN_", "CUBLAS_", "NVIDIA_", "NVTE_", "GPU_", "PYTHON", "TORCH", "PYTORCH_", "TRITON_", "TF_", "XLA_", "JAX_",
    "ACCELERATE_", "DS_", "DEEPSPEED_", "MEGATRON_", "SLURM_", "PBS_", "LSB_", "FLUX_", "SINGULARITY", "APPTAINER",
    "SHIFTER_", "CRAY_", "PE_", "LMOD_SYSTEM", "UV_", "PIXI_", "RAY_",
)
#: Longer values are cut.
_LONGEST_VALUE = 8192
_SCRIPTS = (".py", ".sh", ".bash", ".R", ".jl", ".pl")
#: How long the command waits for the state of its code, so that what it changes itself is none of it; the daemons
#: need that time anyway. And how long the end of the run waits for what is unfinished.
BEFORE_S, AFTER_S = 0.3, 1.5
#: Seconds from its begin that the look has in any case, once git has answered: after a command of no time, in a large
#: repository, `AFTER_S` would not do.
ALWAYS_S = 10.0


def script_of(command: Sequence[str], cwd: Path) -> Path | None:
    """The script that a command runs: the first argument that is one, as in `srun -n8 python train.py --lr 1`."""
    for word in command:
        if word.endswith(_SCRIPTS):
            try:
                if (cwd / word).is_file():
                    return cwd / word
            except (OSError, ValueError):
                continue  # too long for a path: the text of a `bash -c`
    return None


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # a container whose passwd does not know us


def environment_of(environ: Mapping[str, str], masker: Masker) -> dict[str, str]:
    """The variables of the allow-list, without secrets: none of these needs a name that ends in KEY."""
    kept = {name: value for name, value in environ.items() if name in ENVIRONMENT or name.startswith(_PREFIXES)}
    return {name: HIDDEN if value and (is_secret(name) or name.endswith("KEY")) else masker.text(value)[:_LONGEST_VALUE]
            for name, value in sorted(kept.items())}


def modules_of(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """{names, files} of the loaded modules (Lmod, Environment Modules; a long list of files comes in pieces)."""
    pieces = sorted(k for k in environ if k.startswith("_LMFILES_") and k[9:].isdecimal())
    files = environ.get("_LMFILES_") or "".join(environ[k] for k in pieces)
    names = [n for n in environ.get("LOADEDMODULES", "").split(":") if n]
    return {"names": names, "files": [f for f in files.split(":") if f]} if names else {}


def about_run(environ: Mapping[str, str], masker: Masker) -> dict[str, Any]:
    """The cheap part of the RUN record, written before the command starts."""
    modules = modules_of(environ)
    return {
        "started_ns": time.time_ns(), "user": user(), "uid": os.getuid(), "host": os.uname().nodename,
        "python": sys.version.split()[0], "environment": environment_of(environ, masker),
        **({"modules": modules} if modules else {}),
    }


class Capture:
    """The process that finds the rest, beside the command. `sink` gets parts of the RUN record, from a thread."""

    def __init__(
        self, run_dir: Path, argv: Sequence[str], cwd: Path, run_id: str, hash_limit: int,
        sink: Callable[[dict[str, Any]], object],
    ) -> None:
        """To be called by the main thread: the process ends with the thread that started it. Does not raise."""
        self._sink = sink
        self._code_known = threading.Event()
        self._done: set[str] = set()
        self._began = time.monotonic()
        self._child: subprocess.Popen[bytes] | None = None
        job = {"run_dir": str(run_dir), "argv": list(argv), "cwd": str(cwd), "run_id": run_id, "hash_limit": hash_limit,
               "begun_ns": time.time_ns(), "parent": os.getpid()}
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "yprov.capturing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=clean_environment(), cwd="/", start_new_session=True)
            assert self._child.stdin is not None
            self._child.stdin.write(json.dumps(job).encode() + b"\n")
            self._child.stdin.flush()
        except OSError as e:
            sink({"capture": {"reason": f"the process that looks at the code could not be started: {e.strerror}"}})
            self._code_known.set()
        self._thread = threading.Thread(target=self._listen, name="yprov-capture", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        if self._child is None or self._child.stdout is None:
            return
        for line in self._child.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                self._done.update(said["done"])
                if said["part"]:
                    self._sink(said["part"])
                if "changes" in self._done:
                    self._code_known.set()
        self._code_known.set()

    def wait_for_code(self, timeout_s: float = BEFORE_S) -> None:
        """Until the state of the code is known, `timeout_s` at most."""
        self._code_known.wait(timeout_s)

    def finish(self, timeout_s: float = AFTER_S, meanwhile: Callable[[], bool] = lambda: False) -> None:
        """The command has ended: what is not known within `timeout_s` is told as unfinished. As long as `meanwhile`
        says so, which is asked a few times each second, it has `ALWAYS_S` since it began."""
        if self._child is None:
            return
        with contextlib.suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        self._thread.join(timeout_s)
        while self._thread.is_alive() and self._is_looking() and meanwhile():
            if (more_s := self._began + ALWAYS_S - time.monotonic()) <= 0:
                break
            self._thread.join(min(more_s, 0.25))
        self.stop()
        self._thread.join(1.0)
        if self._child.stdout is not None and not self._thread.is_alive():
            self._child.stdout.close()
        left = [s for s in STEPS if s not in self._done]
        about: dict[str, Any] = {"seconds": round(time.monotonic() - self._began, 3)}
        if left:
            about["unfinished"] = dict.fromkeys(left, "the run ended before it was looked at")
        self._sink({"capture": about})

    def _is_looking(self) -> bool:
        """Whether git has answered, and more than the logs is left, which the stitch searches as well."""
        return "script" in self._done and not self._done.issuperset(set(STEPS) - {"logs"})

    def stop(self) -> None:
        """End it, and what it has started, now. One that hangs in a file system which does not answer is left: it ends
        when it can, and the run need not wait for that."""
        if self._child is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._child.pid, 9)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1.0)


#: What `yprov.capturing` does, in this order.
STEPS = ("script", "changes", "packages", "locks", "unpushed", "container", "logs")
