"""Processes that are killed are missed: also those of which nothing arrived."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.running import attribute, document, eventually, nothing_left, only_run, yprov
from tests.stitch.builders import RunSpool
from tests.stitch.golden.small import config
from tests.support import Listener, run_script, start_script
from yprovd.node_intake import MOST_NAMES, Intake
from yprovd.processes import about_source
from yprovd.secrets import Masker
from yprovd.transport import DATA, Message
from yprovd.wire import Kind, Packer


def marks(listener: Listener) -> list[str]:
    return (listener.dir / "clients").read_text().splitlines()


def test_a_process_is_marked_from_its_first_call_to_its_goodbye() -> None:
    with Listener() as listener:
        (listener.dir / "clients").touch()
        run_script("import yprov, os\n"
                   "yprov.context('unused'); yprov.flush()\n"
                   f"assert os.path.getsize({str(listener.dir / 'clients')!r}) == 0\n"
                   "yprov.log_metric('m', 1); yprov.log_metric('m', 2)\n"
                   f"assert os.path.getsize({str(listener.dir / 'clients')!r}) == 18\n", listener.endpoint)
        began, ended = marks(listener)
        assert (began[0], ended[0], began[1:]) == ("+", "-", ended[1:])
        assert [source for source, _seq in listener._frames] == [int(began[1:], 16)] * len(listener._frames)


def test_a_process_that_is_killed_at_its_first_call_leaves_its_mark_and_so_does_a_fork_of_it() -> None:
    code = """
import os, signal, yprov
yprov.log_metric("m", 1)
pid = os.fork()
if pid:
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
else:
    yprov.log_metric("m", 2)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with Listener() as listener:
        (listener.dir / "clients").touch()
        run_script(code, listener.endpoint)
        parent, child, goodbye = marks(listener)
        assert goodbye == "-" + parent[1:]
        assert child[0] == "+"
        assert child[1:] != parent[1:]


def test_what_is_not_on_disk_is_no_goodbye() -> None:
    with Listener(acknowledge=False) as listener:
        (listener.dir / "clients").touch()
        run_script("import yprov\nyprov.log_metric('m', 1)", listener.endpoint)
        assert [mark[0] for mark in marks(listener)] == ["+"]


def test_first_words_are_sent_at_once_and_so_are_those_after_a_rest() -> None:
    code = """
import sys, time, yprov
outbox = sys.modules["yprov.outbox"]
outbox.PERIOD_S = 60.0
yprov.log_metric("first", 1)
input()
outbox.PERIOD_S = 0.01
client = sys.modules["yprov.client"].client
client._wake_up()
while not client._idle:
    time.sleep(0.001)
outbox.PERIOD_S = 60.0
yprov.log_metric("rested", 2)
input()
"""
    with Listener() as listener, start_script(code, listener.endpoint) as running:
        assert running.stdin is not None
        for heard in (1, 2):
            eventually(lambda n=heard: listener.messages and len(listener.only().metrics) == n)
            running.stdin.write("\n")
            running.stdin.flush()
        assert running.wait(20) == 0


def intake(folder: Path) -> Intake:
    told = config()._replace(runtime_dir=str(folder))
    return Intake(Talk(), told, "n1", Masker(), lambda source, declaration: None)  # type: ignore[arg-type]


class Talk:
    """A receiver that has taken one message, from the process `7`."""

    malformed = 0

    def receive(self) -> list[Message]:
        class Clock:
            wall_ns = mono_ns = staticmethod(lambda: 1)

        frame = Packer(7, Clock()).json(Kind.SOURCE, about_source("process"))
        return [Message(b"peer", DATA, 0, False, [frame], None)]


def test_the_daemon_counts_whom_it_has_not_heard_and_leaves_no_file(tmp_path: Path) -> None:
    daemon = intake(tmp_path)
    file = tmp_path / "clients"
    assert daemon.unheard() is None
    assert not file.exists()
    daemon = intake(tmp_path)
    file.write_text("+0000000000000007\n+0000000000000008\n+0000000000000009\n-0000000000000008\n+00000000")
    daemon = intake(tmp_path)  # it was started again
    daemon.take()
    found = daemon.unheard()
    assert found is not None
    assert (found["silent"], found["silent_count"]) == (["0000000000000009"], 1)
    assert not file.exists()
    assert daemon.unheard() is None
    file.write_text("".join(f"+{n:016x}\n" for n in range(MOST_NAMES + 5)) + "+no text \xff\n")
    found = daemon.unheard()
    assert found is not None
    assert (len(found["silent"]), found["silent_count"]) == (MOST_NAMES, MOST_NAMES + 4)


def test_those_of_whom_nothing_arrived_are_counted_once(tmp_path: Path) -> None:
    run = RunSpool(tmp_path)
    run.begin()
    node, process = run.node("n1", []), run.process("n1")
    process.metric(1.0, "m", 1.0)
    known = f"{process.packer.source:016x}"
    for at in (8.0, 9.0):  # by a daemon, and by the one after it
        node.json(at, Kind.LOSS, {"silent": [known, "00000000000000aa"], "silent_count": 2 if at == 8.0 else 5})
    for nonsense in ({"silent": 5}, {"silent": [], "silent_count": "many"}, {"silent": None, "silent_count": 7}):
        node.json(9.5, Kind.LOSS, nonsense)
    run.finish(10.0)
    record = run.record()
    assert (len(record.processes), record.unheard) == (1, 1 + 3)


CHILDREN = """
import os, signal, sys, yprov
def child(work):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)
    work()
    os.kill(os.getpid(), int(sys.argv[1]))
def heard():
    yprov.log_metric("heard", 1)
    yprov.flush(20)
child(lambda: yprov.log_metric("unheard", 1))
child(heard)
child(lambda: None)
yprov.log_metric("main", 1)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_document_counts_processes_that_ended_without_a_goodbye(tmp_path: Path, signum: int) -> None:
    done = yprov("run", "--", sys.executable, "-c", CHILDREN, str(int(signum)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = document(only_run(tmp_path))["activity"]["run"]
    counts: list[Any] = [attribute(run, name) for name in (
        "processCount", "processesWithoutGoodbye", "processesUnheard", "eventsDropped")]
    assert counts == [3, 2, 1, 0]
    assert "silent   2 processes ended without a goodbye: their last words may be missing" in done.stderr
    nothing_left(only_run(tmp_path))
