"""However a job ends, its run leaves a valid archive with the true state, its last seconds, and nothing else."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.endings import Trial, run_all
from tests.slurm.ways import CASES


@pytest.fixture(scope="module")
def ended(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    """All of them, side by side on one cluster: the slowest waits for a time limit of a minute."""
    if slurm.no_cgroup:
        pytest.skip(f"needs process tracking by cgroup: {slurm.no_cgroup}")
    return run_all(slurm, CASES, tmp_path_factory.mktemp("endings"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_the_end_is_recorded(ended: dict[str, Trial], name: str) -> None:
    trial = ended[name]
    assert not trial.problems, trial.report()
