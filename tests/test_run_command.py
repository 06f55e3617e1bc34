"""The command's fate under `yprov run`: its status, output, input and signals are its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.running import (
    YPROV,
    attribute,
    document,
    environment,
    eventually,
    nothing_left,
    only_run,
    processes_about,
    start,
    state,
    yprov,
)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["false"], 1),
        (["bash", "-c", "exit 3"], 3),
        (["bash", "-c", "exit 255"], 255),
        (["bash", "-c", "kill -9 $$"], 137),
        (["bash", "-c", "kill -SEGV $$"], 139),
        (["bash", "-c", "kill -TERM $$"], 143),
    ],
)
def test_exit_status_is_the_commands(tmp_path: Path, command: list[str], status: int) -> None:
    assert yprov("run", "-q", "--", *command, cwd=tmp_path).returncode == status
    nothing_left(only_run(tmp_path))


def test_a_command_that_is_not_there_is_127_and_leaves_no_run(tmp_path: Path) -> None:
    done = yprov("run", "--", "no-such-program-here", cwd=tmp_path)
    assert done.returncode == 127
    assert "no-such-program-here" in done.stderr
    assert not (tmp_path / "yprov-runs").exists()


def test_a_file_that_is_not_executable_is_126_with_a_hint(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("echo hi\n")
    done = yprov("run", "--", "./script.sh", cwd=tmp_path)
    assert done.returncode == 126
    assert "hint: chmod +x ./script.sh" in done.stderr


def test_a_script_with_a_missing_interpreter_is_reported_and_recorded(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = yprov("run", "--", "./script", cwd=tmp_path)
    assert done.returncode in (126, 127)
    assert state(only_run(tmp_path)) == "failed"


def test_no_command_is_a_clear_error(tmp_path: Path) -> None:
    done = yprov("run", cwd=tmp_path)
    assert done.returncode == 2
    assert "no command" in done.stderr
    assert "hint: yprov run -- python train.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_stdout_and_stderr_are_unchanged_and_kept(tmp_path: Path) -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 999); sys.stderr.write('to err\\n')"
    done = subprocess.run([*YPROV, "run", "-q", "--", sys.executable, "-c", program], cwd=tmp_path,
                          capture_output=True, env=environment(), check=False)
    assert done.stdout == bytes(range(256)) * 999
    assert done.stderr == b"to err\n"
    logs = only_run(tmp_path) / "logs"
    assert (logs / "stdout.log").read_bytes() == done.stdout
    assert (logs / "stderr.log").read_bytes() == done.stderr


def test_order_is_kept_where_both_go_to_one_file(tmp_path: Path) -> None:
    program = "for i in $(seq 500); do echo out $i; echo err $i >&2; done"
    with open(tmp_path / "both", "w") as both:
        subprocess.run([*YPROV, "run", "-q", "--", "bash", "-c", program], cwd=tmp_path, stdout=both, stderr=both,
                       env=environment(), check=True)
    expected = "".join(f"out {i}\nerr {i}\n" for i in range(1, 501))
    assert (tmp_path / "both").read_text() == expected
    assert (only_run(tmp_path) / "logs" / "output.log").read_text() == expected


def test_stdin_is_the_commands(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    done = subprocess.run([*YPROV, "run", "-q", "--", "cat"], cwd=tmp_path, input=data, capture_output=True,
                          env=environment(), check=True)
    assert done.stdout == data


def test_a_reader_that_goes_away_ends_the_command_as_without_us(tmp_path: Path) -> None:
    program = f"{' '.join(YPROV)} run -q -- yes | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          timeout=60, check=True)
    assert done.stdout == "y\n141\n"


def test_a_reader_that_has_gone_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    """As without us, at the next line: and what was written until then is in the log."""
    line = "echo a; read gone; echo b; echo c"
    with start("run", "-q", "--", "bash", "-c", line, cwd=tmp_path, stdin=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "a\n"
        shell = next(p for p in processes_about(line) if p != running.pid)
        pipe = os.stat(f"/proc/{shell}/fd/1").st_ino
        running.stdout.close()
        eventually(lambda: not holds(running.pid, pipe), what="our end of the pipe is closed")
        running.stdin.write("\n")
        running.stdin.close()
        assert running.wait(60) == 141
        assert "warning" not in running.stderr.read()
    assert (only_run(tmp_path) / "logs" / "stdout.log").read_text() == "a\n"


def holds(pid: int, inode: int) -> bool:
    try:
        return any(os.stat(f"/proc/{pid}/fd/{fd}").st_ino == inode for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return True  # one was closed while we looked


@pytest.mark.parametrize(("command", "status"), [(["seq", "10"], 1), (["seq", "100000"], 141), (["yes"], 141),
                                                 (["bash", "-c", "echo x; exit 3"], 3)])
def test_a_full_device_ends_the_command_and_is_told(tmp_path: Path, command: list[str], status: int) -> None:
    with open("/dev/full", "wb") as full:
        done = yprov("run", "-q", "--", *command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == status
    assert "output could not be written on: No space left on device" in done.stderr
    run_dir = only_run(tmp_path)
    assert state(run_dir) == "failed"
    assert (run_dir / "logs" / "stdout.log").stat().st_size > 0
    if command == ["seq", "10"]:
        run = document(run_dir)["activity"]["run"]
        assert attribute(run, "stateReason") == (
            "exit status 0, but its output could not be written: No space left on device")
        assert attribute(run, "exitCode") == 0
        assert (run_dir / "logs" / "stdout.log").read_text() == "".join(f"{n}\n" for n in range(1, 11))
        assert yprov("validate", str(run_dir), cwd=tmp_path).returncode == 0


def test_a_full_disk_costs_lines_and_no_job(tmp_path: Path) -> None:
    """A limit of the file's size stands for the disk. The command runs to its end, and what it said is in the log."""
    line = f"ulimit -S -f 64; {' '.join(YPROV)} run -q -- bash -c 'seq 100000; echo end >&2' > out.txt"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          timeout=60, check=False)
    assert "end\n" in done.stderr
    assert done.returncode == 1, done.stderr
    assert "output could not be written on: File too large" in done.stderr
    assert state(only_run(tmp_path)) == "failed"
    assert (tmp_path / "out.txt").stat().st_size == 64 << 10


def test_stderr_on_a_full_device_is_no_failure_of_the_command(tmp_path: Path) -> None:
    """Programs do not look whether their messages could be written."""
    with open("/dev/full", "wb") as full:
        done = yprov("run", "-q", "--", "bash", "-c", "echo x >&2", cwd=tmp_path, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 0
    assert (only_run(tmp_path) / "logs" / "stderr.log").read_text() == "x\n"


def test_there_is_no_terminal_unless_there_was_one(tmp_path: Path) -> None:
    program = "import os; print(os.isatty(0), os.isatty(1), os.isatty(2))"
    done = yprov("run", "-q", "--", sys.executable, "-c", program, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.stdout == "False False False\n"


def test_a_terminal_stays_one_of_the_same_size(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 33, 123, 0, 0))
    program = "import os; print(os.isatty(1), os.get_terminal_size(1).columns)"
    with subprocess.Popen([*YPROV, "run", "-q", "--", sys.executable, "-c", program], cwd=tmp_path, stdout=theirs,
                          stderr=theirs, stdin=subprocess.DEVNULL, env=environment()) as running:
        running.wait(60)
    os.close(theirs)
    assert os.read(ours, 4096) == b"True 123\r\n"
    os.close(ours)


def test_only_three_variables_are_added(tmp_path: Path) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    done = yprov("run", "-q", "--", sys.executable, "-c", program, cwd=tmp_path)
    bare = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, env=environment(),
                          check=True)
    changed = json.loads(done.stdout).items() ^ json.loads(bare.stdout).items()
    assert {name for name, _ in changed} == {"YPROV_RUN_ID", "YPROV_RUN_DIR", "YPROV_ENDPOINT"}


TRAPS = """
import signal, sys, time
got = []
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, name), lambda n, f: got.append(signal.Signals(n).name))
print("ready", flush=True)
deadline = time.monotonic() + 20
while time.monotonic() < deadline and not (got and got[-1] == "SIGUSR2"):
    time.sleep(0.01)
print(*got, flush=True)
"""


def test_signals_are_forwarded_once_each(tmp_path: Path) -> None:
    with start("run", "-q", "--", sys.executable, "-c", TRAPS, cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            running.send_signal(signum)
        running.send_signal(signal.SIGUSR2)
        out = running.stdout.read()
        assert sorted(out.split()) == ["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"]
        assert running.wait(30) == 0
    assert state(only_run(tmp_path)) == "completed"


def test_a_command_that_ends_by_the_forwarded_signal_is_cancelled(tmp_path: Path) -> None:
    with start("run", "--", "bash", "-c", "echo ready; exec sleep 60", cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 143
    assert state(only_run(tmp_path)) == "cancelled"
    nothing_left(only_run(tmp_path))


def test_a_second_interrupt_ends_at_once_and_the_run_can_be_stitched(tmp_path: Path) -> None:
    stubborn = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done"
    with start("run", "--", "bash", "-c", stubborn, cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "no\n"
        pause = subprocess.Popen(["sleep", "0.1"])  # a person is not faster
        pause.wait()
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert "yprov stitch" in running.communicate()[1]
    run_dir = only_run(tmp_path)
    nothing_left(run_dir)
    assert yprov("stitch", "last", cwd=tmp_path).returncode == 0
    assert state(run_dir) == "cancelled"


def test_a_pipeline_and_what_it_leaves_in_the_background(tmp_path: Path) -> None:
    done = yprov("run", "-q", "--", "bash", "-c", "(sleep 0.7; echo late) & seq 3 | tac", cwd=tmp_path)
    assert done.stdout == "3\n2\n1\nlate\n"
    assert done.returncode == 0
    nothing_left(only_run(tmp_path))


DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for fd in (0, 1, 2):
    os.close(fd)
open("pid", "w").write(str(os.getpid()))
time.sleep(60)
"""


def test_a_program_that_daemonises_lives_on_untouched(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--", sys.executable, "-c", DAEMON, cwd=tmp_path).returncode == 0
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="the daemon"))
    os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)
    nothing_left(only_run(tmp_path))


def test_a_run_within_a_run_is_a_run_of_its_own(tmp_path: Path) -> None:
    inner = " ".join([*YPROV, "run", "-q", "--dir", "inner", "--", "echo", "hi"])
    assert yprov("run", "-q", "--", "bash", "-c", inner, cwd=tmp_path).stdout == "hi\n"
    assert state(only_run(tmp_path)) == "completed"
    (inner_run,) = (tmp_path / "inner").iterdir()
    assert state(inner_run) == "completed"


def test_without_daemons_the_command_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "broken" / "zmq").mkdir(parents=True)
    (tmp_path / "broken" / "zmq" / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    done = yprov("run", "--", "echo", "hi", cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path / "broken")))
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert "warning" in done.stderr
    assert "hint" in done.stderr
    assert state(only_run(tmp_path)) == "completed"
    assert not processes_about(str(only_run(tmp_path)))


def test_a_module_of_the_users_folder_does_not_reach_the_daemons(tmp_path: Path) -> None:
    for name in ("queue.py", "zarr.py", "socket.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    done = subprocess.run([os.path.join(os.path.dirname(sys.executable), "yprov"), "run", "-q", "--", "true"],
                          cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert state(only_run(tmp_path)) == "completed"


def test_a_compiled_program_runs(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--", "/bin/echo", "-n", "a  b", cwd=tmp_path).stdout == "a  b"


def test_files_that_the_command_is_given_open_stay_open(tmp_path: Path) -> None:
    program = f"{' '.join(YPROV)} run -q -- cat <(echo from a substitution) /dev/fd/9 9< <(echo from nine)"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          check=True)
    assert done.stdout == "from a substitution\nfrom nine\n"


def test_a_signal_to_our_group_ends_the_whole_command(tmp_path: Path) -> None:
    program = f"timeout 2 {' '.join(YPROV)} run -q -- bash -c 'echo ready; sleep 30; true' | cat"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          timeout=20, check=True)
    assert done.stdout == "ready\n"
    assert state(only_run(tmp_path)) == "cancelled"


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    with start("run", "-q", "--", "bash", "-c", "echo ready; read line; exit 1", cwd=tmp_path, stdin=subprocess.PIPE,
               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGHUP)
        running.communicate("\n", timeout=30)
        assert running.returncode == 1
    assert state(only_run(tmp_path)) == "failed"


def test_a_checkpoint_signal_does_not_make_a_later_failure_a_cancellation(tmp_path: Path) -> None:
    program = ("import signal; signal.signal(10, lambda *_: print('saved', flush=True)); print('ready', flush=True); "
               "1 / len(input())")
    with start("run", "-q", "--", sys.executable, "-c", program, cwd=tmp_path, stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.stdout.readline() == "saved\n"
        running.communicate("\n", timeout=30)
        assert running.returncode == 1
    assert state(only_run(tmp_path)) == "failed"


def test_started_without_stderr_or_stdout_nothing_of_ours_takes_their_place(tmp_path: Path) -> None:
    inner = "import os; print(*[fd for fd in (0, 1, 2) if not os.path.exists(f'/proc/self/fd/{fd}')])"
    program = f"{' '.join(YPROV)} run -- {sys.executable} -c \"{inner}\" 2>&-; echo $?"
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          check=True)
    assert done.stdout == "2\n0\n"
    assert state(only_run(tmp_path)) == "completed"
    closed = f"{' '.join(YPROV)} run -q --dir closed -- bash -c 'echo x; exit 3' >&- <&-; echo $? >&2"
    done = subprocess.run(["bash", "-c", closed], cwd=tmp_path, capture_output=True, text=True, env=environment(),
                          check=True)
    assert done.stderr.splitlines()[-1] == "3"


def test_secrets_of_the_command_line_are_not_recorded(tmp_path: Path) -> None:
    command = ["env", "MY_API_KEY=hunter2", "true", "--password", "hunter2", "--hf-token=hunter2", "--pad-token=<pad>",
               "TOKEN='hunter2' x"]
    assert yprov("run", "--", *command, cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    for path in run_dir.rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path
    assert "--pad-token=<pad>" in (run_dir / "prov.json").read_text()


def test_a_command_shorter_than_a_sample_has_the_kernels_figures(tmp_path: Path) -> None:
    program = "x = bytearray(50_000_000); sum(range(1_000_000))"
    assert yprov("run", "-q", "--interval", "60", "--", sys.executable, "-c", program, cwd=tmp_path).returncode == 0
    run = document(only_run(tmp_path))["activity"]["run"]
    assert attribute(run, "cpuSeconds") > 0.01
    assert attribute(run, "cpuMethod") == "rusage"
    assert attribute(run, "peakMemoryBytes") > 50_000_000
    assert attribute(run, "energyJ") is None


def test_a_peak_that_is_only_ours_is_not_told_as_the_commands(tmp_path: Path) -> None:
    done = yprov("run", "--interval", "60", "--experiment", "x", "--", "true", cwd=tmp_path)
    run = document(only_run(tmp_path))["activity"]["run"]
    assert (attribute(run, "peakMemoryBytes"), attribute(run, "rusageMaxRssBytes")) == (None, None)
    assert "peak" not in done.stderr


def test_a_run_without_its_run_json_is_stitched_from_the_spool_alone(tmp_path: Path) -> None:
    assert yprov("run", "-q", "--keep-spool", "--name", "alone", "--", "true", cwd=tmp_path).returncode == 0
    run_dir = only_run(tmp_path)
    before = (run_dir / "prov.json").read_bytes()
    for name in ("run.json", "prov.json"):
        (run_dir / name).unlink()
    done = yprov("stitch", str(run_dir), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run_dir / "prov.json").read_bytes() == before
