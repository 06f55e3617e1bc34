"""CSV files of metrics are read a block at a time: with the same values, and in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from yprov import importing_series
from yprov.imported import Columns, Notes
from yprov.importing_series import read_file

FIELDS = st.one_of(
    st.integers(-2**70, 2**70).map(str), st.floats().map(str), st.integers().map(lambda n: f"np.int64({n})"),
    st.sampled_from(["", " ", "None", "nan", "-inf", "1e400", "True", "tensor(0.75)", "[1, 2]", "[1", "1_000", " 7 ",
                     "3.0", "-0.0", "007", "٣", "0x10", "1e5", "\0", "9" * 30, "9" * 400, "1760000000123", "x",
                     "9007199254740993", "4611686018427387904", "9223372036854775807", "\ufffd", "\x85", "\f"]))
LINES = st.lists(st.one_of(
    st.tuples(FIELDS, FIELDS, FIELDS).map(",".join), st.lists(FIELDS, max_size=4).map(",".join), st.just("\r")))


def read(path: Path, block: int) -> tuple[Columns, list[str]]:
    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing_series, "_BLOCK", block)
        columns = read_file(path, "`x`", notes)
    return columns, sorted(notes.lines())


@given(lines=LINES, last=st.sampled_from(["", "\n", "5"]))
@example(lines=["1,0.5,1760000000000", "9007199254740993,x,1760000000001", "x,1,y"], last="")
def test_the_size_of_a_block_changes_no_value(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], last: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "blocks.csv"
    path.write_text("\n".join(["epoch,value,timestep", *lines]) + last, encoding="utf-8", newline="")
    (whole, told), (parts, told_in_parts) = read(path, 1 << 20), read(path, 1)
    for a, b in zip(whole, parts, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    assert [a for a, _b in zip(np.signbit(whole.value), parts.value, strict=True)] == list(np.signbit(parts.value))
    assert told == told_in_parts


def test_the_text_of_a_file_is_not_in_memory_as_a_whole(tmp_path: Path) -> None:
    rows, path = 60_000, tmp_path / "x.csv"
    with open(path, "w") as f:
        f.write("epoch,value,timestep\n")
        f.writelines(f"{i},{0.123456789 + i * 1e-7},{1760000000000 + i}\n" for i in range(rows))
    read(path, 1 << 16)  # what is loaded once
    tracemalloc.start()
    try:
        columns, notes = read(path, 1 << 16)
        _now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(columns.value), notes) == (rows, [])
    assert columns.value[-1] == 0.123456789 + (rows - 1) * 1e-7
    assert most < 80 * rows  # its numbers take 24 bytes a row, and twice that while they are put together
