import errno
import os

import pytest

from yprovd.sensors.files import KeptFile, Rising, read_word


def test_a_kept_file_shows_what_is_new_through_one_descriptor(tmp_path):
    path = tmp_path / "f"
    path.write_text("1")
    file = KeptFile(str(path))
    before = len(os.listdir("/proc/self/fd"))
    assert file.read() == b"1"
    path.write_text("2")
    assert file.read() == b"2"
    assert len(os.listdir("/proc/self/fd")) == before + 1
    file.close()
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENOENT, errno.ESTALE])
def test_a_descriptor_that_leads_nowhere_is_opened_again(tmp_path, monkeypatch, code):
    path = tmp_path / "f"
    path.write_text("1")
    file = KeptFile(str(path))
    file.read()
    pread, failures = os.pread, [code]

    def failing(fd, size, offset):
        if failures:
            raise OSError(failures.pop(), "gone")
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert file.read() == b"1"
    file.close()


def test_other_errors_are_the_callers_and_leak_nothing(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("1")
    file = KeptFile(str(path))
    before = len(os.listdir("/proc/self/fd"))

    def failing(fd, size, offset):
        raise OSError(errno.EIO, "bad")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(OSError, match="bad"):
        file.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_not_kept_leaves_no_descriptor(tmp_path):
    path = tmp_path / "f"
    path.write_text("1")
    file = KeptFile(str(path), keep=False)
    before = len(os.listdir("/proc/self/fd"))
    assert file.read() == file.read() == b"1"
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_all_puts_the_pages_of_a_table_together(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abcdefghij")
    file = KeptFile(str(path), 4)
    assert file.read() == b"abcd"
    assert file.read_all() == b"abcdefghij"
    file.close()


def test_a_counter_starts_at_its_first_value_and_survives_a_restart():
    count = Rising()
    assert [count(n) for n in (100, 150, 20, 30)] == [100, 150, 170, 180]


def test_a_counter_of_known_size_goes_round():
    count = Rising(1000)
    assert [count(n) for n in (990, 5, 4)] == [990, 1005, 2004]


def test_a_word_that_cannot_be_read_is_empty(tmp_path):
    (tmp_path / "w").write_text(" 12 \n")
    assert read_word(str(tmp_path / "w")) == "12"
    assert read_word(str(tmp_path / "missing")) == ""
