"""Which image a run is in, or starts, and its digest."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest

from yprov.container import container_of, digest_of

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("command", "engine", "image"),
    [
        ("apptainer exec image.sif python train.py", "apptainer", "image.sif"),
        ("srun apptainer exec --nv -B /data:/data --env A=B image.sif python", "apptainer", "image.sif"),
        ("/opt/bin/singularity run --bind=/a --cleanenv docker://a/b:1 x", "singularity", "docker://a/b:1"),
        ("apptainer --debug exec --pwd /x image.sif", "apptainer", "image.sif"),
        ("docker run --rm -it --gpus all -v /a:/b -e X=1 --name n nvcr.io/p:24 python", "docker", "nvcr.io/p:24"),
        ("podman run --network=host img", "podman", "img"),
        ("srun --container-image=nvcr.io#nvidia/pytorch:24.01 python x", "enroot", "nvcr.io#nvidia/pytorch:24.01"),
        ("srun --container-image img.sqsh python x", "enroot", "img.sqsh"),
        ("enroot start --rw -m /a:/b my+image python", "enroot", "my+image"),
        ("shifter --image=docker:a/b:c python", "shifter", "docker:a/b:c"),
        ("bash -c 'cd x; apptainer exec image.sif python'", "apptainer", "image.sif"),
    ],
)
def test_an_image_that_the_command_names(command: str, engine: str, image: str) -> None:
    assert container_of(shlex.split(command), {}, Path("/no")) == {"engine": engine, "image": image, "inside": False}


@pytest.mark.parametrize("command", ["python train.py", "docker ps", "apptainer exec", "apptainer", "docker", ""])
def test_commands_without_one(command: str) -> None:
    assert container_of(shlex.split(command), {}, Path("/no")) == {}


def test_the_container_that_we_are_in(tmp_path: Path) -> None:
    assert container_of(["x"], {"APPTAINER_CONTAINER": "/a.sif", "APPTAINER_NAME": "a.sif"}, tmp_path) == {
        "engine": "apptainer", "image": "/a.sif", "inside": True, "name": "a.sif"}
    assert container_of(["x"], {"SHIFTER_IMAGEREQUEST": "docker:a"}, tmp_path)["image"] == "docker:a"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").write_text(
        'engine="podman-4"\nname="n"\nid="i"\nimage="img:1"\nimageid="abc"\n')
    assert container_of(["x"], {}, tmp_path) == {"engine": "podman", "image": "img:1", "inside": True, "name": "n",
                                                 "digest": "abc", "id": "i"}
    (tmp_path / "run" / ".containerenv").unlink()
    (tmp_path / ".dockerenv").write_text("")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(f"1 2 /var/lib/docker/containers/{'b' * 64}/hosts /etc/hosts")
    assert container_of(["x"], {}, tmp_path)["id"] == "b" * 64


def test_the_digest_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "image.sif").write_bytes(b"image" * 1000)
    (tmp_path / "sandbox").mkdir()

    def of(image: str, limit: int = 1 << 20, go_on: bool = True) -> dict[str, object]:
        return digest_of({"engine": "apptainer", "image": image}, tmp_path, limit, lambda: go_on)

    assert of("image.sif") == {"bytes": 5000, "sha256": hashlib.sha256(b"image" * 1000).hexdigest()}
    assert of("image.sif", limit=4999) == {"bytes": 5000, "reason": "larger than 4999 bytes"}
    assert of("image.sif", go_on=False) == {"bytes": 5000, "reason": "the run ended before it was read"}
    assert of("./sandbox") == {"reason": "a folder: it has no digest"}
    assert of(f"docker://a/b@{DIGEST}") == {"digest": DIGEST}
    assert of("docker://a/b:1") == {"reason": "an image of a registry, named without a digest"}
    assert of("") == {}


def test_an_engine_is_asked_under_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho sha256:id a/b@{DIGEST}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    facts = {"engine": "docker", "image": "a/b", "inside": False}
    assert digest_of(facts, tmp_path, 1, lambda: True) == {"id": "sha256:id", "digest": DIGEST}
    monkeypatch.setattr("yprov.container._ASK_S", 0.1)
    docker.write_text("#!/bin/sh\nexec sleep 60\n")
    assert digest_of(facts, tmp_path, 1, lambda: True) == {"reason": "`docker` did not answer within 0.1 s"}
    docker.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert digest_of(facts, tmp_path, 1, lambda: True) == {"reason": "`docker` is not in PATH"}
