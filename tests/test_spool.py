"""Whatever happens to a spool file, what it costs is the frame that it happened to."""

from __future__ import annotations

import ctypes
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yprovd.errors import SpoolFull
from yprovd.spool import SpoolReader, SpoolWriter, spool_files
from yprovd.stitch.reading import read_record
from yprovd.testing import ManualClock
from yprovd.wire import MAGIC, Frame, Kind, Packer, pack

#: (source, seq) of every frame that a file gives, damaged bytes, torn bytes.
Found = tuple[list[tuple[int, int]], int, int]


def frames(n: int, source: int = 1) -> list[bytes]:
    packer = Packer(source, ManualClock(1_700_000_000 * 10**9, 5))
    return [packer.json(Kind.NOTE, {"text": "x" * i}) for i in range(n)]


def read(path: Path, data: bytes | None = None) -> Found:
    if data is not None:
        path.write_bytes(data)
    reader = SpoolReader(path)
    found = [(f.source, f.seq) for f in reader]
    return found, reader.damaged, reader.torn


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.spool"


def test_what_is_appended_is_read_in_its_order(path: Path) -> None:
    writer = SpoolWriter(path)
    writer.append(frames(3)[:2])
    assert read(path) == ([(1, 0), (1, 1)], 0, 0)  # visible before it is closed
    writer.append(frames(3)[2:])
    writer.append([])
    writer.close()
    assert read(path) == ([(1, 0), (1, 1), (1, 2)], 0, 0)
    assert path.read_bytes() == b"".join(frames(3))
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_no_damage(path: Path) -> None:
    assert read(path, b"") == ([], 0, 0)


def test_a_file_that_exists_is_never_written_to(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(FileExistsError):
        SpoolWriter(path)


def test_every_flipped_bit_costs_the_frame_that_it_is_in_and_no_other(path: Path) -> None:
    whole = frames(6)
    data = b"".join(whole)
    starts = [0]
    for frame in whole:
        starts.append(starts[-1] + len(frame))
    names = [(1, i) for i in range(6)]
    path.write_bytes(data)
    fd = os.open(path, os.O_WRONLY)
    for bit in range(len(data) * 8):
        os.pwrite(fd, bytes([data[bit // 8] ^ 1 << bit % 8]), bit // 8)
        hit = next(i for i in range(6) if starts[i] <= bit // 8 < starts[i + 1])
        found, bad, torn = read(path)
        assert found == names[:hit] + names[hit + 1:], bit
        assert bad == len(whole[hit]), bit
        assert torn == (bad if hit == 5 else 0), bit
        os.pwrite(fd, data[bit // 8:bit // 8 + 1], bit // 8)
    os.close(fd)


def test_every_truncation_costs_the_last_frame_and_is_normal(path: Path) -> None:
    whole = frames(6)
    data = b"".join(whole)
    path.write_bytes(data)
    for size in reversed(range(len(data) + 1)):
        os.truncate(path, size)
        complete, rest = 0, size
        while complete < 6 and rest >= len(whole[complete]):
            rest -= len(whole[complete])
            complete += 1
        assert read(path) == ([(1, i) for i in range(complete)], rest, rest), size


@given(garbage=st.lists(st.binary(max_size=80), min_size=5, max_size=5))
def test_garbage_between_frames_is_passed_over_and_counted(
    tmp_path_factory: pytest.TempPathFactory, garbage: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.spool"
    data = garbage[4] + b"".join(f + g for f, g in zip(frames(4), garbage[:4], strict=True))
    assert read(path, data) == ([(1, i) for i in range(4)], sum(map(len, garbage)), len(garbage[3]))


def test_garbage_full_of_beginnings_of_frames_is_passed_over(path: Path) -> None:
    garbage = MAGIC * 50 + frames(1)[0][:40] + MAGIC + b"\x01"
    data = frames(2)[0] + garbage + frames(2)[1]
    assert read(path, data) == ([(1, 0), (1, 1)], len(garbage), 0)


def test_a_length_that_points_beyond_the_file_hides_nothing_behind_it(path: Path) -> None:
    first, second = frames(2)
    damaged = bytearray(first)
    damaged[8:12] = b"\xff\xff\xff\x03"
    assert read(path, bytes(damaged) + second) == ([(1, 1)], len(first), 0)


def test_random_bytes_hold_no_frame(path: Path) -> None:
    noise = random.Random(1).randbytes(1 << 16)
    assert read(path, noise) == ([], 1 << 16, 1 << 16)


def test_a_reader_can_be_read_twice(path: Path) -> None:
    path.write_bytes(b"".join(frames(2)) + b"torn")
    reader = SpoolReader(path)
    assert [len(list(reader)) for _ in range(2)] == [2, 2]
    assert (reader.damaged, reader.torn) == (4, 4)


def test_payloads_stay_when_the_file_is_gone(path: Path) -> None:
    path.write_bytes(b"".join(frames(3)))
    payloads = [f.payload for f in SpoolReader(path)]
    path.unlink()
    assert bytes(payloads[2]) == b'{"text":"xx"}'


def test_a_runs_spool_is_every_spool_file_of_its_folder_by_name(tmp_path: Path) -> None:
    for name in ("b.spool", "a.spool", "a.spool.part", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in spool_files(tmp_path)] == ["a.spool", "b.spool"]


def test_frames_that_stand_in_two_files_are_read_once(tmp_path: Path) -> None:
    one = frames(4)
    (tmp_path / "a.spool").write_bytes(b"".join(one[:3]))
    (tmp_path / "b.spool").write_bytes(b"".join(one[1:]) + one[2])
    record = read_record(spool_files(tmp_path))
    assert [note["text"] for note in record.notes] == ["", "x", "xx", "xxx"]
    assert record.lost_frames == 0


def test_a_gap_in_the_numbers_is_a_loss_and_the_bytes_passed_over_are_counted(tmp_path: Path) -> None:
    one = frames(4)
    (tmp_path / "a.spool").write_bytes(one[0] + b"noise" + one[3] + one[3][:20])
    record = read_record(spool_files(tmp_path))
    assert (record.lost_frames, record.damaged_bytes, record.torn_bytes) == (2, 25, 20)


@pytest.mark.parametrize("kind", [value for name, value in vars(Kind).items() if not name.startswith("_")])
@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"[1]", b"null", b"\xff", b"[" * 5000, b"\0" * 12])
def test_a_whole_frame_with_nonsense_in_it_is_read_as_damage(tmp_path: Path, kind: int, payload: bytes) -> None:
    (tmp_path / "a.spool").write_bytes(pack(kind, 1, 0, 10, 10, payload) + frames(1, source=2)[0])
    record = read_record(spool_files(tmp_path))
    assert len(record.notes) >= 1


class ShortFile:
    """A file that only ever takes a part of what it is given, as files do at a signal or on some networks."""

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self.write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        return self.write(fd, data[:self.at_most])


def test_a_file_system_that_takes_a_part_gets_the_rest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(path)
    monkeypatch.setattr("yprovd.spool.os.write", ShortFile(7))
    writer.append(frames(3))
    monkeypatch.undo()
    writer.close()
    assert read(path) == ([(1, 0), (1, 1), (1, 2)], 0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    where = tmp_path / "small"
    where.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(where), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield where
    finally:
        detach = 2  # MNT_DETACH: also when a failed test left a file open
        assert libc.umount2(os.fsencode(where), detach) == 0


@pytest.mark.root
def test_a_full_disk_leaves_whole_frames_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    path = small_disk / "a.spool"
    packer = Packer(1, ManualClock(1, 1))
    writer = SpoolWriter(path)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(30_000))
    written = 0
    batch: list[bytes] = []

    def fill() -> None:
        nonlocal batch, written
        while True:
            batch = [packer.frame(Kind.NOTE, bytes(3001)) for _ in range(3)]
            writer.append(batch)
            written += 3

    with pytest.raises(SpoolFull) as full:
        fill()
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(path))
    assert 0 < written < 20
    whole = [(1, i) for i in range(written)]
    assert read(path) == (whole, 0, 0)
    with pytest.raises(SpoolFull):
        writer.append(batch)
    assert read(path) == (whole, 0, 0)
    ballast.unlink()
    writer.append(batch)
    writer.sync()
    writer.close()
    assert read(path) == ([(1, i) for i in range(written + 3)], 0, 0)


def test_a_failure_that_is_not_a_full_disk_is_not_called_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(path)
    writer.append(frames(1))

    def fails(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("yprovd.spool.os.write", fails)
    with pytest.raises(OSError, match="Input/output") as caught:
        writer.append(frames(2)[1:])
    monkeypatch.undo()
    assert not isinstance(caught.value, SpoolFull)
    writer.close()
    assert read(path)[0] == [(1, 0)]


def test_frames_are_views_and_no_copies(path: Path) -> None:
    path.write_bytes(b"".join(frames(2)))
    assert all(isinstance(f, Frame) and isinstance(f.payload, memoryview) for f in SpoolReader(path))
