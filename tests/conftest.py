"""For all tests: a slow moment of the machine is no failure of a property; what a machine may lack is said."""

import os
import shutil

import pytest
from hypothesis import settings

settings.register_profile("yprov", deadline=None)
settings.load_profile("yprov")


@pytest.fixture(scope="session")
def graphviz() -> str:
    """The program `dot`; the test is skipped without it, or fails where YPROV_REQUIRE_GRAPHVIZ=1."""
    found = shutil.which("dot")
    if found is None and os.environ.get("YPROV_REQUIRE_GRAPHVIZ") == "1":
        pytest.fail("YPROV_REQUIRE_GRAPHVIZ=1, but there is no `dot` in PATH", pytrace=False)
    if found is None:
        pytest.skip("no Graphviz: apt-get install graphviz")
    return found
