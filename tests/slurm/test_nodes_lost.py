"""Nodes that die or are cut off, a controller that is away, an urgent job: the others' data and the true state stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.slurm.cluster import Cluster, why_no_cgroup
from tests.slurm.endings import Trial, run_apart
from tests.slurm.ways import APART


@pytest.fixture(scope="module")
def ended(new_cluster: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    """All of them, at the same time, each on a cluster of its own: they mostly wait."""
    if reason := why_no_cgroup():
        pytest.skip(f"needs process tracking by cgroup: {reason}")
    return run_apart(new_cluster, APART, tmp_path_factory.mktemp("lost"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in APART])
def test_the_others_are_recorded(ended: dict[str, Trial], name: str) -> None:
    trial = ended[name]
    assert not trial.problems, trial.report()
