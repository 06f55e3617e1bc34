"""For all tests: a slow moment of the machine is no failure of a property, a file is one worker's, and what a machine
lacks is said."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("yprov", deadline=None)
settings.load_profile("yprov")

SLURM = Path(__file__).parent / "slurm"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: what is built for a file is built once, and one cluster serves all Slurm tests."""
    for item in items:
        group = "slurm" if SLURM in item.path.parents else item.path.relative_to(SLURM.parent)
        item.add_marker(pytest.mark.xdist_group(str(group)))


@pytest.fixture(scope="session")
def graphviz() -> str:
    """The program `dot`; the test is skipped without it, or fails where YPROV_REQUIRE_GRAPHVIZ=1."""
    found = shutil.which("dot")
    if found is None and os.environ.get("YPROV_REQUIRE_GRAPHVIZ") == "1":
        pytest.fail("YPROV_REQUIRE_GRAPHVIZ=1, but there is no `dot` in PATH", pytrace=False)
    if found is None:
        pytest.skip("no Graphviz: apt-get install graphviz")
    return found
