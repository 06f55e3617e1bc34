"""For all tests: a slow moment of the machine is no failure of a property, a file is one worker's, and what a machine
lacks is said."""

import os
import shutil
import signal
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("yprov", deadline=None)
settings.load_profile("yprov")

# A shell has what it starts in the background ignore Ctrl-C, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: what is built for a file is built once, and one cluster serves all Slurm tests. (The marks of
    pytest-xdist 3.8 for this do nothing under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "tests/slurm" if path.startswith("tests/slurm/") else path

    return ByFile(config, log)


@pytest.fixture(scope="session")
def graphviz() -> str:
    """The program `dot`; the test is skipped without it, or fails where YPROV_REQUIRE_GRAPHVIZ=1."""
    found = shutil.which("dot")
    if found is None and os.environ.get("YPROV_REQUIRE_GRAPHVIZ") == "1":
        pytest.fail("YPROV_REQUIRE_GRAPHVIZ=1, but there is no `dot` in PATH", pytrace=False)
    if found is None:
        pytest.skip("no Graphviz: apt-get install graphviz")
    return found
