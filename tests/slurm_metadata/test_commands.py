"""Asking Slurm: deadlines, missing commands, and what is made of the answers. The commands are stand-ins."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import eventually
from tests.slurm_metadata.answers import FIXTURES, Commands, variables
from yprov.allocation import facts_of
from yprovd import slurm
from yprovd.errors import YprovError
from yprovd.secrets import Masker
from yprovd.slurm.commands import run

#: A command that hangs, and what it starts with it; both are told by their pids.
HANGS = "sleep 60 & echo $! $$ > {pids}.part; mv {pids}.part {pids}; wait"


def gone(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_command_that_hangs_is_killed_with_all_that_it_started(commands: Commands, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    commands(scontrol=HANGS.format(pids=pids))
    began = time.monotonic()
    with pytest.raises(slurm.SlurmUnavailable, match=r"`scontrol` did not answer within 0.5 s"):
        slurm.show_job("7", timeout_s=0.5)
    assert time.monotonic() - began < 3
    for pid in pids.read_text().split():
        eventually(lambda pid=pid: gone(pid), what=f"{pid} ends")


def test_a_process_that_hides_in_a_session_of_its_own_does_not_keep_us_either(
    commands: Commands, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    commands(srun=f"setsid sh -c 'echo $$ > {pids}; exec sleep 60' & exit 0")  # it holds our pipe
    began = time.monotonic()
    try:
        with pytest.raises(slurm.SlurmUnavailable, match="did not answer"):
            slurm.version(timeout_s=0.5)
        assert time.monotonic() - began < 3
    finally:
        pid = eventually(lambda: pids.exists() and pids.read_text().strip())
        os.kill(int(pid), 9)


def test_describing_a_job_takes_no_longer_than_it_may(commands: Commands, tmp_path: Path) -> None:
    commands(scontrol=HANGS.format(pids=tmp_path / "a"), srun=HANGS.format(pids=tmp_path / "b"))
    began = time.monotonic()
    facts = slurm.describe("1", variables("22.05", "plain.batch"), timeout_s=0.6)
    assert time.monotonic() - began < 3
    assert facts["nodes"] == ["n1", "n2"]
    assert facts["missing"] == {"job": "`scontrol` did not answer within 0.6 s",
                                "version": "no time was left to ask `srun`"}


def test_without_slurms_commands_the_environment_tells_and_the_rest_has_a_reason(commands: Commands) -> None:
    commands()
    facts = slurm.describe("", variables("24.11", "plain.batch"), timeout_s=5)
    assert (facts["job_id"], facts["account"], facts["node_count"]) == ("1", "physics", 2)
    assert facts["missing"] == {"job": "`scontrol` is not in PATH", "version": "`srun` is not in PATH"}
    for ask in (slurm.show_job, slurm.accounting, slurm.active_steps, slurm.cancel):
        with pytest.raises(slurm.SlurmUnavailable, match="is not in PATH"):
            ask("7", timeout_s=5)


def test_what_slurm_cannot_say_is_an_error_for_a_person() -> None:
    assert issubclass(slurm.SlurmUnavailable, YprovError)
    assert str(slurm.SlurmUnavailable("why")) == slurm.SlurmUnavailable("why").reason == "why"


def test_a_command_that_may_not_be_run_is_a_reason(commands: Commands) -> None:
    path = commands(scontrol="true") / "scontrol"
    path.write_text("not a program")
    with pytest.raises(slurm.SlurmUnavailable, match="`scontrol` cannot be run: Exec format error"):
        slurm.controller(timeout_s=5)


def test_slurms_own_words_are_the_reason(commands: Commands) -> None:
    commands(scontrol="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
             srun="echo 'srun: error: fetch_config: DNS SRV lookup failed' >&2\n"
                  "echo 'srun: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(slurm.SlurmUnavailable, match="`scontrol`: slurm_load_jobs error: Invalid job id specified"):
        slurm.show_job("99", timeout_s=5)
    with pytest.raises(slurm.SlurmUnavailable, match="`srun`: fatal: Could not establish a configuration source"):
        slurm.version(timeout_s=5)


def test_commands_get_no_input_and_none_of_the_users_settings_of_their_output(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_FORMAT", "SACCT_FORMAT", "SCONTROL_ALL", "SLURM_CLUSTERS", "SLURM_BITSTR_LEN", "LANGUAGE"):
        monkeypatch.setenv(name, "odd")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    commands(sinfo="cat; env")
    told = dict(line.split("=", 1) for line in run(["sinfo"]).splitlines())
    assert told["LC_ALL"] == "C"
    assert told["TZ"] == "UTC"
    assert told["SLURM_CONF"] == "/etc/slurm.conf"
    assert told["SLURM_TIME_FORMAT"] == "%Y-%m-%dT%H:%M:%S%z"
    assert "odd" not in told.values()


@pytest.mark.parametrize(("text", "expected"), [("slurm-wlm 22.05.8", (22, 5)), ("slurm 24.11.5", (24, 11)),
                                                ("slurm 26.05.0-0rc1", (26, 5))])
def test_the_version_of_the_commands(commands: Commands, text: str, expected: tuple[int, int]) -> None:
    commands(srun=f"[ $1 = --version ] && echo '{text}'")
    assert slurm.version(timeout_s=5) == expected


def test_a_version_that_is_none_is_a_reason(commands: Commands) -> None:
    commands(srun="echo Segmentation fault")
    with pytest.raises(slurm.SlurmUnavailable, match="says `Segmentation fault`"):
        slurm.version(timeout_s=5)


def test_show_job_gives_the_job_asked_for_and_its_text(commands: Commands) -> None:
    commands(scontrol=f'[ "$*" = "show job -dd 8" ] && cat {FIXTURES}/24.11/array.job.txt')
    facts = slurm.show_job("8", timeout_s=5)
    assert (facts["job_id"], facts["array_task_id"]) == ("8", "1")
    assert facts["raw"] == (FIXTURES / "24.11" / "array.job.txt").read_text()


def test_show_job_by_the_name_of_a_task_or_a_part(commands: Commands) -> None:
    commands(scontrol=f"cat {FIXTURES}/24.11/array.job.txt {FIXTURES}/24.11/het.job.txt")
    assert slurm.show_job("7_3", timeout_s=5)["job_id"] == "9"
    assert slurm.show_job("10+1", timeout_s=5)["job_id"] == "11"
    with pytest.raises(slurm.SlurmUnavailable, match="tells nothing of job 12"):
        slurm.show_job("12", timeout_s=5)


@pytest.mark.parametrize(("json_of", "expected"), [
    (f"cat {FIXTURES}/24.11/cancelling.scontrol.json", ("CANCELLED", ["COMPLETING"])),
    ("echo 'scontrol: unrecognized option' >&2; exit 1", ("COMPLETING", None)),  # 22.05
    ("echo '{'", ("COMPLETING", None)),
])
def test_the_state_behind_completing_is_asked_for_in_json(
    commands: Commands, json_of: str, expected: tuple[str, list[str] | None]
) -> None:
    commands(scontrol=f'case "$*" in *--json) {json_of};; *) cat {FIXTURES}/24.11/cancelling.job.txt;; esac')
    facts = slurm.show_job("1", timeout_s=5)
    assert (facts["state"], facts.get("state_flags")) == expected
    assert slurm.ending(facts, 0) == ("cancelled", "cancelled")


def test_describe_joins_the_environment_and_the_controller(commands: Commands) -> None:
    commands(scontrol=f"cat {FIXTURES}/22.05/restarted.job.txt", srun="echo slurm-wlm 22.05.8")
    environ = variables("22.05", "restarted.batch") | {"SLURM_RESTART_COUNT": "0"}  # it is on its way to the next
    facts = slurm.describe("14", environ, timeout_s=5)
    assert (facts["version"], facts["cluster"], facts["batch_host"]) == ("22.05", "yp", facts["nodes"][0])
    assert facts["restart_count"] == 0
    assert "missing" not in facts
    assert "tasks" not in facts


def test_describe_of_another_job_does_not_take_this_environment(commands: Commands) -> None:
    commands(scontrol="exit 1", srun="exit 1")
    facts = slurm.describe("15", variables("22.05", "plain.batch"), timeout_s=5)
    assert set(facts) == {"name", "job_id", "missing"}


def test_describe_outside_of_a_job_says_so(commands: Commands) -> None:
    commands()
    assert slurm.describe("", {}, timeout_s=5) == {"missing": {"job": "not inside of a Slurm job"}}


def sacct(*, text: str = "exit 1", as_json: str = "exit 1", fields: str = "JobID JobIDRaw State ExitCode") -> str:
    return f'case "$*" in *--helpformat) echo "{fields}";; *--json) {as_json};; *) {text};; esac'


def test_accounting_asks_for_the_fields_that_this_version_has(commands: Commands, tmp_path: Path) -> None:
    said = tmp_path / "said"
    commands(sacct=sacct(text=f'echo "$*" > {said}; printf "JobID\\037State\\n7\\037COMPLETED\\n"'))
    assert slurm.accounting("7", timeout_s=5)["state"] == "COMPLETED"
    assert "--format=JobID,JobIDRaw,State,ExitCode" in said.read_text().split()


@pytest.mark.parametrize(("version", "attempt", "state"), [
    ("22.05", 0, "REQUEUED"), ("22.05", 1, "RUNNING"), ("22.05", None, "RUNNING"),
    ("24.11", 0, "REQUEUED"), ("24.11", 1, "RUNNING"), ("24.11", None, "RUNNING"),
])
def test_accounting_of_a_requeued_job_is_of_one_attempt(
    commands: Commands, version: str, attempt: int | None, state: str
) -> None:
    commands(sacct=sacct(text=f"cat {FIXTURES}/{version}/restarted.sacct.txt"))
    facts = slurm.accounting("14", attempt=attempt, timeout_s=5)
    assert facts["state"] == state
    assert facts["restart_count"] == (1 if attempt is None else attempt)
    assert [s["step_id"] for s in facts["steps"]] == ["14.batch", "14.0"]
    with pytest.raises(slurm.SlurmUnavailable, match="does not know job 14, attempt 2"):
        slurm.accounting("14", attempt=2, timeout_s=5)


def test_accounting_of_a_lost_node_tells_what_the_controller_forgot(commands: Commands) -> None:
    commands(sacct=sacct(text=f"cat {FIXTURES}/24.11/node_fail_requeue.sacct.txt"))
    assert slurm.final(slurm.accounting("19", attempt=0, timeout_s=5)) == ("node_fail", "node failure", None)


def test_accounting_in_json_where_the_text_fails(commands: Commands) -> None:
    commands(sacct=sacct(as_json=f"cat {FIXTURES}/24.11/failed.sacct.json"))
    assert slurm.final(slurm.accounting("4", timeout_s=5)) == ("failed", "exit code 7", 7)


def test_without_slurmdbd_sacct_says_nothing_at_all(commands: Commands) -> None:
    commands(sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    with pytest.raises(slurm.SlurmUnavailable, match="keeps no accounting"):
        slurm.accounting("7", timeout_s=5)


@pytest.mark.parametrize(("script", "reason"), [
    ("echo 'Slurm accounting storage is disabled' >&2; exit 1", "keeps no accounting"),
    ("echo JobID; exit 0", "`sacct` does not know job 7"),
    ("echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1", "Connection refused"),
])
def test_accounting_that_is_not_there_has_a_reason(commands: Commands, script: str, reason: str) -> None:
    commands(sacct=sacct(text=script))
    with pytest.raises(slurm.SlurmUnavailable, match=reason):
        slurm.accounting("7", timeout_s=5)


def test_the_batch_script_is_kept_for_its_owner_only(commands: Commands, tmp_path: Path) -> None:
    commands(scontrol='[ "$*" = "write batch_script 7 -" ] && printf "#!/bin/bash\\n# \\374\\r\\ntrue"')
    target = tmp_path / "script.sh"
    assert slurm.batch_script("7", target, timeout_s=5) == ""
    assert target.read_bytes() == b"#!/bin/bash\n# \xfc\r\ntrue"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert set(os.listdir(tmp_path)) == {"bin", "script.sh"}


def test_a_batch_script_that_cannot_be_had_has_a_reason(commands: Commands, tmp_path: Path) -> None:
    commands(scontrol="echo 'job script retrieval failed: Job script not available' >&2; exit 1")
    assert "Job script not available" in slurm.batch_script("7", tmp_path / "script.sh", timeout_s=5)
    assert not (tmp_path / "script.sh").exists()
    commands(scontrol="echo 'job script retrieval failed: Invalid job id specified' >&2; exit 0")  # as it does
    assert slurm.batch_script("7", tmp_path / "script.sh", timeout_s=5) == "Slurm shows no batch script of job 7"
    assert not (tmp_path / "script.sh").exists()
    commands(scontrol="echo '#!/bin/sh'")
    assert "No such file or directory" in slurm.batch_script("7", tmp_path / "none" / "script.sh", timeout_s=5)


def test_steps_and_cancelling(commands: Commands, tmp_path: Path) -> None:
    said = tmp_path / "said"
    listed = "7.0 yprovd\\n7.batch batch\\n7+1.3 a b\\n"
    commands(squeue=f'echo "$@" >> {said}; printf "{listed}"', scancel=f'echo "$@" >> {said}')
    assert slurm.active_steps("7", timeout_s=5) == {"7.0": "yprovd", "7.batch": "batch", "7+1.3": "a b"}
    slurm.cancel("7.0", timeout_s=5)
    assert said.read_text().splitlines() == ["--steps --noheader --format=%i %j --jobs=7", "7.0"]


def test_asking_is_imported_without_the_heavier_modules() -> None:
    code = "import sys, yprovd.slurm; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])
    assert not set(done.stdout.split()) & {"subprocess", "json", "datetime", "dataclasses", "asyncio", "pathlib"}


def test_what_looks_like_a_secret_in_a_jobs_command_line_is_masked_wherever_it_is_kept(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (FIXTURES / "23.02/job.txt").read_text()
    line = next(line for line in text.splitlines() if line.strip().startswith("Command="))
    (tmp_path / "shown").write_text(text.replace(line, f"{line} --api-key sesame --lr 1 TOKEN=mellon"))
    commands(scontrol=f'case "$*" in *"show job"*) cat {tmp_path / "shown"};; *) exit 1;; esac')
    monkeypatch.setenv("SLURM_JOB_ID", "")
    job = re.search(r"JobId=(\d+)", text)
    assert job is not None
    facts = facts_of({"scheduler": "slurm", "job_id": job[1]}, tmp_path / "source")
    assert facts["command"].endswith("--api-key *** --lr 1 TOKEN=***")
    kept = json.dumps(facts) + "".join(p.read_text() for p in (tmp_path / "source").iterdir())
    assert "sesame" not in kept
    assert "mellon" not in kept


def test_secrets_in_a_jobs_comment_and_batch_script_are_masked_and_it_is_said(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (FIXTURES / "23.02/job.txt").read_text()
    token = "ghp_0123456789abcdefghij0123456789abcdef"
    text = re.sub(r"\n *Comment=[^\n]*", "", text)
    (tmp_path / "shown").write_text(f"{text.rstrip()}\n   Comment=use {token} or known-value-1\n")
    (tmp_path / "script").write_text(f"#!/bin/bash\nexport HF_TOKEN={token}\nsrun x --api-key known-value-1\n")
    commands(scontrol=f'case "$*" in *"show job"*) cat {tmp_path / "shown"};; *write*) cat {tmp_path / "script"};; '
                      '*) exit 1;; esac')
    monkeypatch.setenv("SLURM_JOB_ID", "")
    job = re.search(r"JobId=(\d+)", text)
    assert job is not None
    facts = facts_of({"scheduler": "slurm", "job_id": job[1]}, tmp_path / "source", Masker(["known-value-1"]))
    kept = json.dumps(facts) + "".join(p.read_text() for p in (tmp_path / "source").iterdir())
    assert facts["comment"] == "use *** or ***"
    assert (token in kept, "known-value-1" in kept) == (False, False)
    script = tmp_path / "source" / "batch-script.sh"
    assert script.read_text() == "#!/bin/bash\nexport HF_TOKEN=***\nsrun x --api-key ***\n"
    stored = facts["stored"]["batch_script"]
    assert (stored["masked"], stored["sha256"]) == (True, hashlib.sha256(script.read_bytes()).hexdigest())
