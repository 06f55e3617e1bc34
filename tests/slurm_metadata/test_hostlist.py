"""Host lists, also against Slurm's own reading of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yprovd.errors import YprovError
from yprovd.slurm import expand


@pytest.mark.parametrize(("text", "names"), [
    ("n1", ["n1"]),
    ("n1,n[2-3]", ["n1", "n2", "n3"]),
    ("n[1-3,07-09]b", ["n1b", "n2b", "n3b", "n07b", "n08b", "n09b"]),
    ("n[9-11]", ["n9", "n10", "n11"]),
    ("n[09-11]", ["n09", "n10", "n11"]),
    ("n[8-011]", ["n8", "n9", "n10", "n11"]),
    ("rack[1-2]node[01-02]", ["rack1node01", "rack1node02", "rack2node01", "rack2node02"]),
    ("n[1-2]-ib0.site,login", ["n1-ib0.site", "n2-ib0.site", "login"]),
    ("n1,n1", ["n1", "n1"]),
    ("n1,,n2", ["n1", "n2"]),
    (" n1 , n2\n", ["n1", "n2"]),
    ("", []),
])
def test_a_host_list_is_expanded_in_its_order(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["n[1", "n1]", "n[]", "n[1,,2]", "n[3-1]", "n[a-c]", "n[1-[2-3]]", "n 1", "n[-1]",
                                  "n[1-2", "n[1-2-3]", "n[\u0661]"])
def test_what_is_no_host_list_is_refused(text: str) -> None:
    with pytest.raises(YprovError, match="not a host list"):
        expand(text)


@pytest.mark.parametrize("text", ["n[1-99999999999999999999]", "a[1-2000]b[1-2000]", ",".join(["n[1-900000]"] * 2)])
def test_a_list_of_millions_is_refused_before_it_is_made(text: str) -> None:
    with pytest.raises(YprovError, match="more than"):
        expand(text)


def test_the_largest_machines_are_no_trouble() -> None:
    assert len(expand("frontier[00001-09402]")) == 9402


@pytest.fixture(scope="module")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("etc") / "slurm.conf"
    path.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=localhost\nPartitionName=p Nodes=ALL\n")
    return path


_names = st.text("abcxyz-.", min_size=1, max_size=5).filter(lambda s: s[0].isalpha() and not s.endswith("-"))


@st.composite
def _brackets(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        low, width = draw(st.integers(0, 120)), draw(st.integers(1, 4))
        parts.append(f"{low:0{width}}" + (f"-{low + draw(st.integers(0, 12)):0{width}}" if draw(st.booleans()) else ""))
    return f"[{','.join(parts)}]"


_items = st.one_of(
    _names,
    st.builds("{}{}".format, _names, st.integers(0, 200)),
    st.builds("{}{}".format, _names, _brackets()),  # Slurm takes no text after the last bracket
    st.builds("{}{}{}{}".format, _names, _brackets(), _names, _brackets()),
)


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="Slurm's commands are not installed")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(items=st.lists(_items, min_size=1, max_size=12))
def test_slurm_reads_it_in_the_same_way(slurm_conf: Path, items: list[str]) -> None:
    text = ",".join(items)
    done = subprocess.run(["scontrol", "show", "hostnames", text], capture_output=True, text=True, timeout=30,
                          check=True, env={**os.environ, "SLURM_CONF": str(slurm_conf)})
    assert expand(text) == done.stdout.split()
