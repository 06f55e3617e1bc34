"""The job's processes among those of this machine: real ones, which burn CPU time, fork, daemonise and
end."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from yprovd.processes import MARKER, end_job
from yprovd.sensors import Surroundings
from yprovd.sensors.processes import ProcessesSensor

BURN = """
import os, sys, time
def burn(s):
    end = time.process_time() + s
    while time.process_time() < end: pass
def child(s):
    if not (pid := os.fork()):
        burn(s)
        os._exit(0)
    return pid
def say(word):
    print(word, flush=True)
def wait():
    sys.stdin.readline()
"""


class Job:
    def __init__(self, script):
        self.run_id = uuid.uuid4().hex
        self.sensor = ProcessesSensor(Surroundings("/", self.run_id))
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", BURN + script], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, MARKER: self.run_id})
        self.last = None

    def read(self):
        values = dict(zip([m.name.removeprefix("process.") for m in self.sensor.metrics], self.sensor.read(),
                          strict=True))
        if self.last:
            for name in ("cpu.time", "io.read", "io.write", "disk.read", "disk.write"):
                assert values[name] >= self.last[name], name
        self.last = values
        return values

    def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition(values := self.read()):
            assert time.monotonic() < deadline, values
        return values

    def hear(self, word):
        assert self.process.stdout.readline().strip() == word

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        end_job(self.run_id, grace_s=0.0)
        self.process.wait(20)
        self.process.stdin.close()
        self.process.stdout.close()
        self.sensor.close()


@pytest.fixture
def start():
    jobs = []

    def begin(script):
        jobs.append(Job(script))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.end()


def test_a_child_that_burns_and_ends(start):
    job = start("say('up'); wait(); pid = child(0.3); say('forked')\n"
                "os.waitpid(pid, 0); say('reaped'); wait()")
    job.hear("up")
    job.until(lambda v: v["count"] == 1)
    job.go()
    job.hear("forked")
    job.until(lambda v: v["count"] == 2)
    job.hear("reaped")
    used = job.until(lambda v: v["count"] == 1)["cpu.time"]
    assert 0.25 <= used <= 1.5  # counted, and not twice: the rest is the interpreter's start
    job.go()
    assert job.until(lambda v: v["count"] == 0)["cpu.time"] >= used


def test_children_that_were_never_seen(start):
    job = start("say('up'); wait(); [os.waitpid(child(0.05), 0) for _ in range(6)]; say('done'); wait()")
    job.hear("up")
    before = job.until(lambda v: v["count"] == 1)["cpu.time"]
    job.go()
    job.hear("done")
    after = job.read()
    assert after["count"] == 1
    assert 0.2 <= after["cpu.time"] - before <= 1.0


def test_a_daemon_that_forked_twice(start):
    job = start("""
say('up'); wait()
if not os.fork():
    os.setsid()
    if not os.fork():
        burn(0.1); say('daemon'); wait(); burn(0.1); say('burnt'); wait(); os._exit(0)
    os._exit(0)
os.wait(); wait = None
time.sleep(60)
""")
    job.hear("up")
    job.until(lambda v: v["count"] == 1)
    job.go()
    job.hear("daemon")
    before = job.until(lambda v: v["count"] == 2)["cpu.time"]
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait(20)
    left = job.until(lambda v: v["count"] == 1)
    assert left["cpu.time"] >= before
    job.go()
    job.hear("burnt")
    assert job.read()["cpu.time"] >= before + 0.08
    job.go()
    assert job.until(lambda v: v["count"] == 0)["cpu.time"] >= before + 0.08


def test_many_short_children_seen_and_not_seen_are_counted_once(start):
    """Read as fast as possible while children come and go: whatever is seen of them, the sum is the
    kernel's."""
    job = start("""
say('up'); wait()
for _ in range(40):
    pids = [child(0.002 * i) for i in range(4)]
    for pid in pids: os.waitpid(pid, 0)
say(sum(os.times()[:4])); wait()
""")
    job.hear("up")
    job.go()
    os.set_blocking(job.process.stdout.fileno(), False)
    said = ""
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        job.read()
        said = job.process.stdout.readline()
    assert job.read()["cpu.time"] == pytest.approx(float(said), abs=0.06)


def test_a_parent_that_ignores_its_children(start):
    job = start("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); say('up'); wait()\n"
                "pid = child(0.2); say('forked'); wait(); say('still'); wait()")
    job.hear("up")
    job.until(lambda v: v["count"] == 1)
    job.go()
    job.hear("forked")
    peak = job.until(lambda v: v["count"] == 2)["cpu.time"]
    peak = job.until(lambda v: v["count"] == 1)["cpu.time"]
    assert peak >= 0.1
    job.go()
    job.hear("still")
    assert job.read()["cpu.time"] >= peak


def test_memory_threads_and_io_of_a_real_process(start, tmp_path):
    job = start(f"""
import threading
keep = bytearray(50_000_000)
threading.Thread(target=wait, daemon=True).start()
open({str(tmp_path / "f")!r}, "wb").write(keep)
say('up'); time.sleep(60)
""")
    job.hear("up")
    values = job.until(lambda v: v["count"] == 1)
    assert 50e6 < values["memory.rss"] < 500e6
    assert values["threads"] == 2
    assert values["io.write"] >= 50_000_000
    assert values["io.read"] > 0
