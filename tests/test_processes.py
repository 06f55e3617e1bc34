"""Who a process is, which belong to a run, and ending them all, also those that do not want to."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import environment
from yprovd.processes import (
    MARKER,
    ProcessId,
    about_source,
    boot_id,
    carries_marker,
    end_job,
    is_alive,
    job_processes,
    process_id,
    stat_fields,
)

STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""
DAEMONISED = """
import os, sys, signal
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
os.close(1)
signal.pause()
"""


@pytest.fixture
def run_id() -> str:
    return f"test-{uuid.uuid4().hex}"


@contextlib.contextmanager
def program(code: str, run_id: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python program of the run, and its first line."""
    with subprocess.Popen([sys.executable, "-S", "-c", code], env=environment(**{MARKER: run_id}),
                          stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            for process in job_processes(run_id):
                os.kill(process.pid, signal.SIGKILL)
            running.wait()


WAITING = "import signal; print('ready', flush=True); signal.pause()"


def test_a_process_is_its_pid_and_its_start() -> None:
    me = process_id(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(ProcessId(me.pid, me.start + 1))  # the pid came back
    assert process_id(2**22 + 1) is None
    assert not is_alive(ProcessId(2**22 + 1, 1))


def test_a_process_that_ended_and_waits_for_its_parent_is_not_alive(run_id: str) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    zombie = process_id(pid)
    assert zombie is not None
    assert not is_alive(zombie)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("name", ["python", "a b", "a) R 1 (b", "(", ") ) )"])
def test_a_command_name_may_be_anything(tmp_path: Path, name: str) -> None:
    where = tmp_path / "proc" / "7"
    where.mkdir(parents=True)
    (where / "stat").write_text(f"7 ({name}) S " + " ".join(map(str, range(4, 53))) + "\n")
    assert process_id(7, str(tmp_path)) == ProcessId(7, 22)
    fields = stat_fields(7, str(tmp_path))
    assert fields is not None
    assert fields[0] == b"S"
    assert is_alive(ProcessId(7, 22), str(tmp_path))


def test_a_boot_has_a_name(tmp_path: Path) -> None:
    assert len(boot_id()) == 36
    assert boot_id(str(tmp_path)) == "unknown"


def test_a_source_says_where_it_is() -> None:
    about = about_source("node")
    assert about["role"] == "node"
    assert about["host"] == os.uname().nodename
    assert (about["pid"], about["start"]) == process_id(os.getpid())
    assert about["boot_id"] == boot_id()


@pytest.mark.parametrize(
    ("environ", "carries"),
    [(b"YPROV_RUN_ID=a\0X=1\0", True), (b"X=1\0YPROV_RUN_ID=a\0", True), (b"X=1\0YPROV_RUN_ID=a", True),
     (b"YPROV_RUN_ID=ab\0", False), (b"MY_YPROV_RUN_ID=a\0", False), (b"X=YPROV_RUN_ID=a\0", False), (b"", False)],
)
def test_the_marker_is_a_whole_variable(tmp_path: Path, environ: bytes, carries: bool) -> None:
    where = tmp_path / "proc" / "7"
    where.mkdir(parents=True)
    (where / "environ").write_bytes(environ)
    assert carries_marker(7, "a", str(tmp_path)) is carries
    assert not carries_marker(8, "a", str(tmp_path))


def test_the_processes_of_a_run_are_found_by_their_marker(run_id: str) -> None:
    with program(WAITING, run_id) as (running, _), program(WAITING, run_id + "x"):
        assert [p.pid for p in job_processes(run_id)] == [running.pid]
        assert list(job_processes("another")) == []


def test_a_process_that_has_left_its_session_and_its_parent_belongs_to_its_run(run_id: str) -> None:
    with program(DAEMONISED, run_id) as (_running, pid):
        assert [p.pid for p in job_processes(run_id)] == [int(pid)]
        assert end_job(run_id, grace_s=5) == 1
        assert list(job_processes(run_id)) == []


def test_ending_a_run_that_has_ended_takes_no_time(run_id: str) -> None:
    began = time.monotonic()
    assert end_job(run_id, grace_s=5) == 0
    assert time.monotonic() - began < 1


def test_processes_end_at_the_first_word(run_id: str) -> None:
    with program(WAITING, run_id) as (one, _), program(WAITING, run_id) as (other, _):
        began = time.monotonic()
        assert end_job(run_id, grace_s=20) == 2
        assert time.monotonic() - began < 10
        assert (one.wait(), other.wait()) == (-signal.SIGTERM, -signal.SIGTERM)


def test_processes_that_ignore_sigterm_are_killed_after_the_grace(run_id: str) -> None:
    with program(STUBBORN, run_id) as (stubborn, _), program(WAITING, run_id) as (willing, _):
        began = time.monotonic()
        assert end_job(run_id, grace_s=0.3) == 2
        assert 0.3 <= time.monotonic() - began < 3
        assert stubborn.wait() == -signal.SIGKILL
        assert willing.wait() == -signal.SIGTERM
        assert list(job_processes(run_id)) == []


def test_a_stopped_process_is_woken_to_end(run_id: str) -> None:
    with program(WAITING, run_id) as (stopped, _):
        os.kill(stopped.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
        assert end_job(run_id, grace_s=20) == 1
        assert stopped.wait() == -signal.SIGTERM


def test_nobody_ends_himself(run_id: str) -> None:
    code = f"from yprovd.processes import *; print(list(job_processes('{run_id}')), end_job('{run_id}', grace_s=0))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(**{MARKER: run_id}), capture_output=True,
                          text=True, check=True)
    assert done.stdout == "[] 0\n"


def test_a_program_that_was_ended_closes_what_it_wrote_to(run_id: str) -> None:
    with program(STUBBORN, run_id) as (running, line):
        assert line == "ready"
        end_job(run_id, grace_s=0)
        assert running.stdout is not None
        assert select.select([running.stdout], [], [], 5)[0]
        assert running.stdout.read() == ""
