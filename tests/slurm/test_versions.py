"""The same tests run on more than one Slurm: this machine's, and with YPROV_SLURM_ROOTFS the one in it (make slurm-24).

What is held here is where the versions differ and we decide by the version.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.configuration import CTL


@pytest.fixture(scope="module")
def version(slurm: Cluster) -> tuple[int, int]:
    said = slurm.exec(CTL, ["scontrol", "--version"], check=True).stdout
    found = re.search(r"(\d+)\.(\d+)\.", said)
    assert found, said
    return int(found[1]), int(found[2])


def test_every_part_is_of_the_version_that_was_asked_for(slurm: Cluster, version: tuple[int, int]) -> None:
    of_nodes = set(re.findall(r"Version=(\d+)\.(\d+)", slurm.exec(CTL, ["scontrol", "show", "node"]).stdout))
    assert of_nodes == {(str(version[0]), f"{version[1]:02}")}
    if slurm.rootfs is not None:
        installed = (slurm.rootfs / "var/lib/dpkg/status").read_text().split("Package: slurmd\n")[1]
        assert re.search(r"^Version: (\d+)\.(\d+)", installed, re.MULTILINE).groups() in of_nodes  # type: ignore[union-attr]


def test_scontrol_speaks_json_since_23_02(slurm: Cluster, version: tuple[int, int], tmp_path: Path) -> None:
    job = slurm.sbatch("true", cwd=tmp_path)
    done = slurm.exec(CTL, ["scontrol", "show", "job", str(job), "--json"])
    if version >= (23, 2):
        assert json.loads(done.stdout)["jobs"][0]["job_id"] == job
    else:
        assert done.returncode
        assert "unrecognized option" in done.stderr


def test_srun_can_be_an_external_launcher_since_23_11(slurm: Cluster, version: tuple[int, int], tmp_path: Path) -> None:
    job = slurm.sbatch("srun --external-launcher -N2 -n2 hostname", "-N2", "--gres=gpu:1", cwd=tmp_path)
    state = slurm.wait(job)
    output = (tmp_path / f"slurm-{job}.out").read_text()
    if version >= (23, 11):
        assert (state, len(set(output.split()))) == ("COMPLETED", 2)
    else:
        assert (state, "unrecognized option" in output) == ("FAILED", True)
