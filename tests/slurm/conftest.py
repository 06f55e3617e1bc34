"""A real Slurm for the tests in this directory: `slurm`, which all share and none may damage, and `make_cluster`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster, tail, why_not

HERE = Path(__file__).parent
ROOTFS = Path(os.environ["YPROV_SLURM_ROOTFS"]) if os.environ.get("YPROV_SLURM_ROOTFS") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def possible() -> None:
    """A cluster can be made here; otherwise the test is skipped, or fails where YPROV_REQUIRE_SLURM=1."""
    reason = why_not(ROOTFS)
    if reason and os.environ.get("YPROV_REQUIRE_SLURM") == "1":
        pytest.fail(f"YPROV_REQUIRE_SLURM=1, but there is no Slurm cluster: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"no Slurm cluster: {reason}")


@pytest.fixture(scope="session")
def new_cluster(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Cluster]:
    """A cluster with these options, not up yet. Its nodes share pytest's temporary directories."""
    numbers = itertools.count()

    def new(**options: Any) -> Cluster:
        base = tmp_path_factory.getbasetemp()
        options.setdefault("rootfs", ROOTFS)
        return Cluster(base / f"slurm{next(numbers)}", shared=[base], **options)
    return new


@pytest.fixture(scope="session")
def slurm(new_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """4 nodes of 16 cores, 16 GB and 8 GPUs. Not to be damaged; jobs that a test leaves are cancelled after it."""
    with new_cluster(gpus=8) as cluster:
        yield cluster


@pytest.fixture
def make_cluster(new_cluster: Callable[..., Cluster]) -> Iterator[Callable[..., Cluster]]:
    """`make_cluster(nodes=2, ...)`: a cluster of the test's own, up, and taken down after it."""
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        cluster = new_cluster(**options)
        made.append(cluster)
        cluster.up()
        return cluster
    # The report of a failure finds them here.
    make.made = made  # type: ignore[attr-defined]
    yield make
    for cluster in made:
        cluster.down()


@pytest.fixture(autouse=True)
def _no_job_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "slurm" in request.fixturenames:
        request.getfixturevalue("slurm").clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """After a failure: the ends of the clusters' logs, and of what the jobs and the runs wrote below tmp_path."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if not report.failed:
        return
    arguments: dict[str, Any] = getattr(item, "funcargs", {})
    clusters = [*getattr(arguments.get("make_cluster"), "made", [])]
    if isinstance(arguments.get("slurm"), Cluster):
        clusters.append(arguments["slurm"])
    for cluster in clusters:
        report.sections.append((f"Slurm in {cluster.directory}", cluster.tails()))
    if isinstance(arguments.get("tmp_path"), Path):
        below = arguments["tmp_path"]
        written = [*below.rglob("*.out"), *below.rglob("*.err"), *below.rglob("logs/*")]
        text = "\n".join(tail(path, 40) for path in sorted(set(written)) if path.is_file() and path.stat().st_size)
        if text:
            report.sections.append((f"written below {below}", text))
