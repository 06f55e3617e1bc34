"""One whole run with secrets planted wherever a user may have them: none is in any file of the archive."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr

from tests.planted import PLANTED
from tests.running import environment, only_run, yprov
from tests.test_repository import IDENTITY, git
from yprovd.spool import SpoolReader

#: What only its variable's name tells: found nowhere else but as a value.
BY_NAME = {"HF_TOKEN": "valueOfHfToken-1", "WANDB_API_KEY": "value of wandb key 2",
           "AWS_SECRET_ACCESS_KEY": "valueOfAws/3", "OPENAI_API_KEY": "valueOfOpenai'4\"",
           "APPTAINERENV_MY_SECRET": "valueInContainer5", "SLURM_JWT": "valueOfJwt-6-and-more"}
LATE = "exportedLater-7"
SCRIPT = '''
import json, os, sys
import yprov
texts = json.load(open(os.environ["PLANTED"]))
for i, text in enumerate(texts):
    yprov.log_param(f"param{i}", text)
    yprov.log_param(text, i)
    yprov.log_metric(f"m/{text}", 0.5, step=1)
    yprov.event(text, text=text, **{text: 1})
    with yprov.context(f"ctx {text}"), yprov.span(text):
        print(text, flush=True)
        sys.stderr.write(text + "\\n")
yprov.log_param("service_password", "onlyByName-8")
yprov.log_params({"login": {"api_key": "onlyByName-9"}, "pad_token": "<pad>", "digest": "9f86d081" * 8})
yprov.log_param("known", os.environ["HF_TOKEN"] + " and " + os.environ["LATE_TOKEN"])
print("known:", *(os.environ[n] for n in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "LATE_TOKEN")))
yprov.log_artifact("config.yaml", copy=True)
yprov.log_artifact("weights.bin", copy=True)
yprov.log_input("ghp_Pl4ntedGithubToken0123456789abcdefgh.txt")
yprov.flush(10)
'''


def everything_in(run_dir: Path) -> Iterator[tuple[str, bytes]]:
    """(where, bytes) of each file, also as it is behind compression: arrays, objects of git, binary patches."""
    for path in sorted(run_dir.rglob("*")):
        where = str(path.relative_to(run_dir))
        yield f"name of {where}", os.fsencode(where)
        if path.is_file():
            yield where, path.read_bytes()
            if path.suffix == ".spool":
                for i, frame in enumerate(SpoolReader(path)):
                    yield f"{where} frame {i}", bytes(frame.payload)
    store = zarr.open_group(run_dir / "series.zarr", mode="r")
    for name, member in store.members(max_depth=None):
        yield f"zarr {name}", json.dumps(dict(member.attrs)).encode()
        if isinstance(member, zarr.Array):
            values: Any = member[...]
            text = "\n".join(map(str, values.ravel().tolist()))
            yield f"zarr {name} values", text.encode()
    for bundle in run_dir.rglob("*.bundle"):
        folder = run_dir.parent / "unbundled"
        git(run_dir, "clone", "-q", "--mirror", str(bundle), str(folder))
        yield f"{bundle.name} objects", subprocess.run(
            ["git", "-C", str(folder), "cat-file", "--batch-all-objects", "--batch"], capture_output=True, check=True,
            env={**os.environ, **IDENTITY}).stdout
    for patch in run_dir.rglob("*.diff"):
        for body in re.findall(rb"^literal \d+\n((?:[A-Za-z][^\n]+\n)+)", patch.read_bytes(), re.MULTILINE):
            yield f"{patch.name} binary", zlib.decompress(b"".join(
                base64.b85decode(line[1:]) for line in body.splitlines()))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "train.py").write_text(SCRIPT)
    (root / "notes.md").write_text("# notes\n")
    (root / "blob.bin").write_bytes(b"\0clean")
    (root / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


def plant(root: Path) -> list[str]:
    """In the remote, the script, the changes, new files, lock files, a file to be copied. Returns the texts."""
    texts = [form.text for form in PLANTED]
    everything = "\n".join(texts) + "\n"
    git(root, "remote", "add", "origin", "https://ada:pl4ntedUrlPassw0rd@example.org/x.git")
    (root / "train.py").write_text(SCRIPT + '"""' + everything.replace("\\", "") + '"""\n')
    (root / "notes.md").write_text("# notes\n" + everything)
    (root / "new.txt").write_text(everything)
    (root / ".env").write_text(everything)
    (root / "blob.bin").write_bytes(b"\0" + everything.encode())
    (root / "new.bin").write_bytes(b"\0" + everything.encode())
    (root / "config.yaml").write_text("lr: 0.1\n" + everything)
    (root / "weights.bin").write_bytes(b"\0" + b"hf_Pl4ntedHuggingFaceTokenAbCdEfGh12" + b"\0" * 100)
    (root / "requirements.txt").write_text(
        "--index-url https://__token__:pl4ntedUrlPassw0rd@pypi.example.org/simple\nnumpy==1.0\n")
    (root / "ghp_Pl4ntedGithubToken0123456789abcdefgh.txt").write_text("x")
    (root / ".gitmodules").write_text(
        '[submodule "a"]\n\tpath = a\n\turl = https://ada:pl4ntedUrlPassw0rd@example.org/y.git\n')
    return texts


def test_no_planted_secret_is_in_any_file_of_the_archive(tmp_path: Path, code: Path) -> None:
    texts = plant(code)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    secret_texts = [form.text for form in PLANTED if form.name != "pem"]
    environ = environment(**BY_NAME, PLANTED=str(tmp_path / "texts.json"),
                          NCCL_NET_PLUGIN="https://ada:pl4ntedUrlPassw0rd@example.org/",
                          http_proxy="http://ada:pl4ntedUrlPassw0rd@proxy/", LOADEDMODULES="gcc/12:cuda/12.4")
    line = (f"export LATE_TOKEN={LATE}; {sys.executable} train.py --hf-token {BY_NAME['HF_TOKEN']} "
            "--pad-token '<pad>'; until [ -e $YPROV_RUN_DIR/source/repository.json ]; do sleep 0.1; done")
    tags = [f"--tag=k{i}={text}" for i, text in enumerate(secret_texts)]
    done = yprov("run", "--keep-spool", "--dir", str(tmp_path / "yprov-runs"), "--tag", "api_key=onlyByName-9",
                 "--experiment", "e ghp_Pl4ntedGithubToken0123456789abcdefgh", "--input", "requirements.txt",
                 "--output", "ghp_Pl4ntedGithubToken0123456789abcdefgh.txt", *tags, "--",
                 "bash", "-c", line, "ignored", "--password", "onlyByName-8", *secret_texts, cwd=code, env=environ)
    assert done.returncode == 0, done.stderr
    assert "pl4ntedInPython04" in done.stdout  # what the user sees is what the program says
    run_dir = only_run(tmp_path)
    values = {value: form.name for form in PLANTED for value in form.values}
    values |= {value: name for name, value in BY_NAME.items()} | {LATE: "LATE_TOKEN"}
    values |= {"onlyByName-8": "by name", "onlyByName-9": "by name"}
    searched = list(everything_in(run_dir))
    found = sorted({(name, where) for where, data in searched for value, name in values.items()
                    for form in {value, json.dumps(value)[1:-1]} if form.encode() in data})
    assert found == []
    assert len(searched) > 200
    document = (run_dir / "prov.json").read_text()
    assert "<pad>" in document  # of language models
    assert "9f86d081" * 8 in document
    assert git(code, "rev-parse", "HEAD") in document
    patch = (run_dir / "source" / "code.diff").read_text()
    assert "+# notes" not in patch  # a context line: it was there before
    assert "--- a/notes.md" in patch
    assert "valueInContainer5" not in document
    assert '\\"cuda/12.4' not in document
    assert "cuda/12.4" in document
    assert (run_dir / "artifacts" / "config.yaml").read_text().startswith("lr: 0.1\n")
    assert not (run_dir / "artifacts" / "weights.bin").exists()
    assert yprov("validate", str(run_dir), cwd=tmp_path).returncode == 0


def test_a_killed_run_is_stitched_without_secrets_in_its_logs(tmp_path: Path) -> None:
    """Nobody was left to mask the logs but the stitch."""
    token = PLANTED[0].values[0]
    assert yprov("run", "-q", "--keep-spool", "--", "true", cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    (run_dir / "logs" / "stdout.log").write_text(f"said {token}\n")
    (run_dir / "prov.json").unlink()
    assert yprov("stitch", str(run_dir), cwd=tmp_path).returncode == 0
    assert (run_dir / "logs" / "stdout.log").read_text() == f"said {'*' * len(token)}\n"
    assert yprov("validate", str(run_dir), cwd=tmp_path).returncode == 0
