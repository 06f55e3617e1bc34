"""For all tests: a slow moment of the machine is no failure of a property, and a file is one worker's."""

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
