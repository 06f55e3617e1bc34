"""The sbatch templates, without a cluster: stand-ins for Slurm's commands run the scripts on this machine.

tests/slurm/test_templates.py submits the same to a real one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import typer.main

from tests.running import YPROV, environment, eventually, only_run, state, yprov
from yprov import templating
from yprov.cli import app
from yprov.templating import OPTIONS, Template, changes, fill, load, names, parse
from yprovd.errors import YprovError

ROOT = Path(__file__).parent.parent
STAND_INS = {
    # Takes the options, keeps its words, and runs the script here, in place of Slurm.
    "sbatch": """
        printf '%s\\0' "$@" >sbatch.words
        while [ "${1#--}" != "$1" ]; do shift; done
        cp "$1" submitted.sbatch; shift
        echo 4711
        bash submitted.sbatch "$@" >job.out 2>&1 </dev/null; echo $? >job.status""",
    "srun": """
        while [ "${1#-}" != "$1" ]; do shift; done
        export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1
        exec "$@" """,
    "scontrol": """
        case "$1 $2" in
        "show hostnames") printf '%s\\n' n1 n2 ;;
        requeue*) echo "$2" >>requeued ;;
        *) exit 1 ;;
        esac""",
    "sbcast": """shift; cp "$1" "$2" """,
    "module": """echo "$@" >>modules""",
    "apptainer": """
        echo "$@" >apptainer.words
        shift
        while [ "${1#-}" != "$1" ]; do [ "$1" != --bind ] || shift; shift; done
        shift; exec "$@" """,
    # The real one, which takes this machine for all the nodes there are.
    "yprov": f"""
        case $1 in
        run) shift; exec {" ".join(YPROV)} run --scheduler none "$@" ;;
        stitch) printf '%s\\n' "$*" >>stitched ;;
        esac""",
}
JOB = {"SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2",
       "SLURM_CPUS_PER_TASK": "8", "SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "2", "USER": "someone"}
SETTINGS = {"apptainer": ["image=my image.sif"], "frontier_ddp": ["nvme=node's disk"],
            "array_sweep": ["params=my params.txt"]}
WORDS = ["a b", "", "it's", '"$HOME"', "two\nlines", "--set", "*", "\\", "é"]
SHOW = [sys.executable, "-c", "import json, sys; print('words', json.dumps(sys.argv[1:]))"]


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's commands are the stand-ins; the submit directory is tmp_path."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name, text in STAND_INS.items():
        (bin_dir / name).write_text("#!/bin/bash\n" + text + "\n")
        (bin_dir / name).chmod(0o755)
    return environment(**JOB, SLURM_SUBMIT_DIR=str(tmp_path), PATH=f"{bin_dir}:{os.environ['PATH']}")


def prepare(name: str, tmp_path: Path) -> None:
    if name == "array_sweep":
        (tmp_path / "my params.txt").write_text("--lr 1\n--lr 2 'c d'\n")
    (tmp_path / "my image.sif").write_text("")
    (tmp_path / "node's disk").mkdir()


def script(text: str) -> Template:
    return Template("t", text)


# --- the scripts


@pytest.mark.parametrize("name", names())
def test_a_template_is_bash_and_says_what_it_is_for_and_how_it_is_called(name: str) -> None:
    template = load(name)
    subprocess.run(["bash", "-n"], input=template.text, text=True, check=True)
    assert template.text.startswith("#!/bin/bash\n# ")
    assert template.description.endswith(".")
    assert f"{name}.sbatch " in template.text.split("#SBATCH")[0], "how it is called by hand"
    options = {s.name for s in template.settings if not s.name.isupper()}
    assert options >= {"job-name", "time", "output"}
    assert options <= OPTIONS
    for setting in template.settings:
        assert setting.name.lower() not in OPTIONS or not setting.name.isupper(), "--set must mean one thing"
        assert setting.about or not setting.name.isupper(), f"{setting.name} is not explained"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(["shellcheck", *(ROOT / "slurm_templates").glob("*.sbatch")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(set(names()) - {"refresh"}))
def test_a_template_runs_to_the_end_with_the_words_of_the_command(
    name: str, tmp_path: Path, cluster: dict[str, str]
) -> None:
    prepare(name, tmp_path)
    given = [f"--set={setting}" for setting in SETTINGS.get(name, [])]
    done = yprov("submit", name, *given, "--", *SHOW, *WORDS, cwd=tmp_path, env=cluster)
    output = (tmp_path / "job.out").read_text()
    assert (done.returncode, done.stdout) == (0, "4711\n"), done.stderr
    assert (tmp_path / "job.status").read_text() == "0\n", output
    line = next(line for line in output.splitlines() if line.startswith("words "))
    further = ["--lr", "2", "c d"] if name == "array_sweep" else []
    assert json.loads(line.removeprefix("words ")) == WORDS + further
    run_dir = only_run(tmp_path)
    assert state(run_dir) == "completed"
    assert ("4700_2" if name == "array_sweep" else "-4711-") in run_dir.name


def test_a_job_that_fails_has_the_exit_status_of_its_command(tmp_path: Path, cluster: dict[str, str]) -> None:
    for name in ("single_node", "multi_node_ddp", "requeue_checkpoint"):
        yprov("submit", name, "--", "bash", "-c", "exit 7", cwd=tmp_path, env=cluster)
        assert (tmp_path / "job.status").read_text() == "7\n", name
    assert not (tmp_path / "requeued").exists()


def test_ranks_find_each_other(tmp_path: Path, cluster: dict[str, str]) -> None:
    show = "echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $SRUN_CPUS_PER_TASK"
    yprov("submit", "multi_node_ddp", "--", "bash", "-c", show, cwd=tmp_path, env=cluster)
    assert "0 0 1 n1 24711 8" in (tmp_path / "job.out").read_text().splitlines()


def test_on_frontier_the_environment_goes_to_the_nodes_own_disk(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/activate").write_text(f"export PATH='{tmp_path}/nvme/env/bin':$PATH\n")
    (tmp_path / "env/bin/conda-unpack").write_text("#!/bin/sh\necho unpacked\n")
    (tmp_path / "env/bin/conda-unpack").chmod(0o755)
    with tarfile.open(tmp_path / "my_env.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "env/bin", "bin")
    (tmp_path / "nvme").mkdir()
    show = 'command -v conda-unpack; cd "$MIOPEN_USER_DB_PATH"; pwd; echo "$FI_CXI_RDZV_PROTO"'
    yprov("submit", "frontier_ddp", "--set=nvme=nvme", "--set=env_tar=my_env.tar.gz", "--set=rocm=9", "--",
          "bash", "-ec", show, cwd=tmp_path, env=cluster)
    output = [line for line in (tmp_path / "job.out").read_text().splitlines() if not line.startswith("yprov:")]
    assert (tmp_path / "job.status").read_text() == "0\n", output
    assert output == ["unpacked", f"{tmp_path}/nvme/env/bin/conda-unpack", f"{tmp_path}/nvme/miopen-4711", "alt_read"]
    assert "rocm/9" in (tmp_path / "modules").read_text()


def test_an_array_task_without_a_line_says_so(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "params.txt").write_text("--lr 1\n")
    yprov("submit", "array_sweep", "--", "true", cwd=tmp_path, env=cluster)
    assert (tmp_path / "job.status").read_text() == "2\n"
    assert (tmp_path / "job.out").read_text() == "array_sweep: params.txt has no line 2\n"
    assert not (tmp_path / "yprov-runs").exists()


def test_refresh_takes_every_run_of_a_job(tmp_path: Path, cluster: dict[str, str]) -> None:
    for name in ("1-job-4711-aa", "2-job-4711-bb", "3-job-4712-cc", "4-job-47110-dd", "5-job-4711_2-4711ffff"):
        (tmp_path / "yprov-runs" / name).mkdir(parents=True)
    yprov("submit", "refresh", "--set", "dependency=afterany:4711", "--", "4711", cwd=tmp_path, env=cluster)
    assert (tmp_path / "job.status").read_text() == "0\n"
    assert "#SBATCH --dependency=afterany:4711\n" in (tmp_path / "submitted.sbatch").read_text()
    stitched = (tmp_path / "stitched").read_text().splitlines()
    assert [line.split("/")[-2] for line in stitched] == [
        "1-job-4711-aa", "2-job-4711-bb", "5-job-4711_2-4711ffff"]
    assert all(line.startswith("stitch --refresh-slurm ") for line in stitched)


TRAINING = """
import os, pathlib, signal, sys, time
asked = False
def ask(*_):
    global asked; asked = True
signal.signal(signal.SIGUSR1, ask)
checkpoint = pathlib.Path("checkpoint")
if checkpoint.exists():
    print("resumed at", checkpoint.read_text()); sys.exit(0)
pathlib.Path("training").touch()
deadline = time.monotonic() + 120
while not asked and time.monotonic() < deadline:
    time.sleep(0.01)
checkpoint.write_text("step 5")
sys.exit(75 if asked else 1)
"""


def test_a_job_that_is_asked_in_time_saves_a_checkpoint_and_goes_back_into_the_queue(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    template = str(ROOT / "slurm_templates/requeue_checkpoint.sbatch")
    command = ["bash", template, sys.executable, "-c", TRAINING]
    first = subprocess.Popen(command, cwd=tmp_path, env=cluster, text=True, stdout=subprocess.PIPE)
    eventually((tmp_path / "training").exists, what="the training has begun")
    first.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B: does
    out, _ = first.communicate(timeout=30)
    assert first.returncode == 0, out
    assert (tmp_path / "requeued").read_text() == "4711\n"
    assert only_run(tmp_path), "the record was complete before"
    second = subprocess.run(command, cwd=tmp_path, env=cluster | {"SLURM_RESTART_COUNT": "1"}, text=True,
                            stdout=subprocess.PIPE, timeout=30)
    assert (second.returncode, second.stdout) == (0, "resumed at step 5\n")
    assert (tmp_path / "requeued").read_text() == "4711\n"
    assert len(list((tmp_path / "yprov-runs").iterdir())) == 2


def test_a_job_is_not_requeued_for_ever(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = yprov("submit", "requeue_checkpoint", "--set=attempts=3", "--", "bash", "-c", "exit 75",
                 cwd=tmp_path, env=cluster | {"SLURM_RESTART_COUNT": "2"})
    assert done.returncode == 0
    assert (tmp_path / "job.status").read_text() == "75\n"
    assert not (tmp_path / "requeued").exists()


def test_a_requeueing_job_that_is_cancelled_passes_the_signal_on(tmp_path: Path, cluster: dict[str, str]) -> None:
    template = str(ROOT / "slurm_templates/requeue_checkpoint.sbatch")
    command = ["bash", template, "bash", "-c", "touch training; exec sleep 60"]
    going = subprocess.Popen(command, cwd=tmp_path, env=cluster)
    eventually((tmp_path / "training").exists)
    going.send_signal(signal.SIGTERM)
    assert going.wait(30) == 128 + signal.SIGTERM
    assert state(only_run(tmp_path)) == "cancelled"


# --- filling them in


HEADER = "#!/bin/bash\n# What it is.\n#SBATCH --nodes=2\n#SBATCH --constraint=nvme\n\n"


@pytest.mark.parametrize(("given", "difference", "words"), [
    ("nodes=4", ["-#SBATCH --nodes=2", "+#SBATCH --nodes=4"], ["--nodes=4"]),
    ("--nodes=4", ["-#SBATCH --nodes=2", "+#SBATCH --nodes=4"], ["--nodes=4"]),
    ("cpus_per_task=7", ["+#SBATCH --cpus-per-task=7"], ["--cpus-per-task=7"]),
    ("exclusive", ["+#SBATCH --exclusive"], ["--exclusive"]),
    ("constraint=", ["-#SBATCH --constraint=nvme"], []),
    ("account=", [], []),
    ("array=1-100%8", ["+#SBATCH --array=1-100%8"], ["--array=1-100%8"]),
    ("constraint=[a*2&b]|c", ["-#SBATCH --constraint=nvme", "+#SBATCH --constraint=[a*2&b]|c"],
     ["--constraint=[a*2&b]|c"]),
    ('comment=a "b" #c\\', ['+#SBATCH --comment="a \\"b\\" #c\\\\"'], ['--comment=a "b" #c\\']),
])
def test_an_option_takes_the_place_of_the_templates_own(given: str, difference: list[str], words: list[str]) -> None:
    before = script(HEADER + "true\n")
    after, line = fill(before, parse([given]))
    assert changes(before, after) == difference
    assert line == words
    assert after.text.endswith("\n\ntrue\n")


@pytest.mark.parametrize("own", ["-N2", "-N 2 --exclusive", "--nodes=2 --exclusive", "--nodes 2", "--nodes=2  # two"])
def test_however_a_script_of_ones_own_says_it_the_new_value_comes_last(own: str) -> None:
    after, _ = fill(script(f"#!/bin/bash\n#SBATCH {own}\n#SBATCH -t 5\nsrun x\n"), {"nodes": "4"})
    lines = after.text.splitlines()
    assert lines.index("#SBATCH --nodes=4") < lines.index("srun x")
    assert not any("nodes=2" in line or "-N" in line for line in lines[lines.index("#SBATCH --nodes=4"):])


def test_a_script_without_options_gets_them_at_the_top() -> None:
    after, _ = fill(script("#!/bin/sh\ntrue\n#SBATCH --nodes=9\n"), {"nodes": "4"})
    assert after.text == "#!/bin/sh\n#SBATCH --nodes=4\ntrue\n#SBATCH --nodes=9\n"


@pytest.mark.parametrize("value", ["x.sif", "", "it's", "a b", "$HOME `x` \\ }", "two\nlines"])
def test_a_variable_has_exactly_the_value(value: str) -> None:
    before = script('#!/bin/bash\nexport IMAGE="${IMAGE:-image.sif}"  # the container\nprintf %s "$IMAGE"; exit\n')
    after, words = fill(before, parse([f"image={value}"]))
    assert words == []
    assert subprocess.run(["bash"], input=after.text, capture_output=True, text=True,
                          env={**os.environ, "IMAGE": "other"}).stdout == value
    assert before.settings == [templating.Setting("IMAGE", "image.sif", "the container")]


def test_a_home_directory_is_found() -> None:
    assert parse(["image=~/x.sif"]) == {"image": os.path.expanduser("~/x.sif")}


@pytest.mark.parametrize(("given", "message", "hint"), [
    ("node=4", "`node`", "nodes"),
    ("imgae=4", "`imgae`", "image"),
    ("zzz=4", "`zzz`", "yprov template show apptainer"),
    ("wait", "`wait`", "yprov template write apptainer"),
    ("image", "`image` needs a value", "--set image=VALUE"),
    ("=4", "`--set =4`", "--set nodes=4"),
    ("comment=a\nb", "line break", ""),
])
def test_what_cannot_be_set_is_said_with_what_is_near(given: str, message: str, hint: str) -> None:
    with pytest.raises(YprovError, match=message) as error:
        fill(load("apptainer"), parse([given]))
    assert hint in error.value.hint


def test_an_option_that_only_this_sites_sbatch_knows_is_taken(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho '      --container-image=x   of a plugin'\n")
    done = yprov("submit", "single_node", "--set=container-image=x", "--dry-run", "--", "true", cwd=tmp_path,
                 env=cluster)
    assert "#SBATCH --container-image=x\n" in done.stdout, done.stderr


# --- the commands


def test_submit_says_what_it_changes_and_what_it_calls(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = yprov("submit", "single_node", "--set", "nodes=4", "--set", "mem=10G", "--", "echo", "a b", cwd=tmp_path,
                 env=cluster)
    assert done.stderr.splitlines() == [
        "-#SBATCH --nodes=1", "+#SBATCH --nodes=4", "+#SBATCH --mem=10G",
        "sbatch --parsable --nodes=4 --mem=10G single_node.sbatch echo 'a b'"]
    words = (tmp_path / "sbatch.words").read_bytes().decode().split("\0")[:-1]
    assert words[:3] == ["--parsable", "--nodes=4", "--mem=10G"]
    assert words[3].endswith("/single_node.sbatch")
    assert words[4:] == ["echo", "a b"]
    assert not Path(words[3]).exists()


def test_a_dry_run_prints_the_script_and_submits_nothing(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = yprov("submit", "single_node", "--set", "nodes=4", "--dry-run", "--", "true", cwd=tmp_path, env=cluster)
    assert done.stdout == fill(load("single_node"), {"nodes": "4"})[0].text
    assert not (tmp_path / "sbatch.words").exists()


def test_submit_for_programs(tmp_path: Path, cluster: dict[str, str]) -> None:
    dry, real = (json.loads(yprov("submit", "single_node", "--json", *more, "--", "true", cwd=tmp_path,
                                  env=cluster).stdout) for more in (["--dry-run"], []))
    assert dry.pop("job_id") is None
    assert real.pop("job_id") == "4711"
    assert dry == real
    assert real["sbatch"] == ["sbatch", "--parsable", "single_node.sbatch", "true"]
    assert real["script"] == load("single_node").text


def test_a_file_of_ones_own_is_a_template_too(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "mine.sbatch").write_text("#!/bin/bash\n#SBATCH -N 2\nprintf '<%s>' \"$@\"\n")
    done = yprov("submit", "./mine.sbatch", "--set=nodes=3", "--", "a b", "c", cwd=tmp_path, env=cluster)
    assert (done.returncode, (tmp_path / "job.out").read_text()) == (0, "<a b><c>"), done.stderr


@pytest.mark.parametrize(("sbatch", "error", "hint"), [
    ("echo 'sbatch: error: invalid partition specified: x' >&2; exit 1", "refused the job: invalid partition", "--set"),
    ("exit 1", "refused the job: exit status 1", "--dry-run"),
    ("echo Welcome", "no job id: 'Welcome'", "squeue --me"),
])
def test_what_sbatch_says_is_passed_on(
    tmp_path: Path, cluster: dict[str, str], sbatch: str, error: str, hint: str
) -> None:
    (tmp_path / "bin/sbatch").write_text(f"#!/bin/sh\n{sbatch}\n")
    done = yprov("submit", "single_node", "--", "true", cwd=tmp_path, env=cluster)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()[-2:]
    assert error in said[0]
    assert hint in said[1]


def test_the_cluster_of_a_job_and_words_of_the_site_do_not_disturb(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho Welcome to x; echo '42;frontier'; echo be nice >&2\n")
    done = yprov("submit", "single_node", "--", "true", cwd=tmp_path, env=cluster)
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("42\n", "be nice")


def test_an_sbatch_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setenv("PATH", cluster["PATH"])
    monkeypatch.setattr(templating, "SUBMIT_SECONDS", 0.2)
    with pytest.raises(YprovError, match="did not answer") as error:
        templating.submit(load("single_node"), [], ["true"])
    assert "squeue" in error.value.hint


def test_without_sbatch_a_copy_is_offered(tmp_path: Path, cluster: dict[str, str]) -> None:
    done = yprov("submit", "single_node", "--", "true", cwd=tmp_path, env=cluster | {"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "sbatch was not found" in done.stderr
    assert "yprov template write single_node" in done.stderr
    assert "warning: `yprov` is not in PATH" in done.stderr


@pytest.mark.parametrize(("arguments", "hint"), [
    (["submit", "single_nod", "--", "true"], "yprov template show single_node"),
    (["submit", "xyz", "--", "true"], "yprov template list"),
    (["submit", "single_node"], "yprov submit single_node -- python train.py"),
    (["template", "show", "frontier"], "yprov template show frontier_ddp"),
    (["template", "write", "no/such"], "yprov template list"),
])
def test_a_mistake_has_a_hint(tmp_path: Path, arguments: list[str], hint: str) -> None:
    done = yprov(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"hint: {hint}"


def test_list_and_show(tmp_path: Path) -> None:
    listed = yprov("template", "list", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == names()
    assert json.loads(yprov("template", "list", "--json", cwd=tmp_path).stdout) == [
        {"name": n, "description": load(n).description} for n in names()]
    assert yprov("template", "show", "apptainer", cwd=tmp_path).stdout == load("apptainer").text
    shown = json.loads(yprov("template", "show", "apptainer", "--json", cwd=tmp_path).stdout)
    assert {"name": "IMAGE", "value": "image.sif", "about": "the container"} in shown["settings"]
    assert {"name": "nodes", "value": "1", "about": ""} in shown["settings"]


def test_write_never_overwrites_unless_told(tmp_path: Path) -> None:
    done = yprov("template", "write", "single_node", "--set", "nodes=3", cwd=tmp_path)
    path = tmp_path / "single_node.sbatch"
    assert done.stdout == "single_node.sbatch\n"
    assert "#SBATCH --nodes=3\n" in path.read_text()
    path.write_text("mine")
    again = yprov("template", "write", "single_node", cwd=tmp_path)
    assert (again.returncode, path.read_text()) == (1, "mine")
    assert "--force" in again.stderr
    assert yprov("template", "write", "single_node", "--force", cwd=tmp_path).returncode == 0
    assert path.read_text() == load("single_node").text
    (tmp_path / "jobs").mkdir()
    other = yprov("template", "write", "apptainer", "--to", "jobs", "--json", cwd=tmp_path)
    assert json.loads(other.stdout) == {"path": "jobs/apptainer.sbatch"}
    nowhere = yprov("template", "write", "apptainer", "--to", "no/such", cwd=tmp_path)
    assert "cannot write `no/such`" in nowhere.stderr


def test_each_command_below_template_is_explained() -> None:
    group = typer.main.get_command(app).commands["template"]  # type: ignore[attr-defined]
    readme = (ROOT / "README.md").read_text()
    for name, command in group.commands.items():
        assert f"Example:  yprov template {name}" in command.help
        assert f"`yprov template {name}" in readme
        options = [o for p in command.params for o in p.opts if o.startswith("-")]
        assert "--json" in options
        for option in options:
            assert f"`{option}" in readme, f"template {name} {option}"
    for name in names():
        assert f"| `{name}` |" in readme


def test_the_templates_travel_in_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="builds wheels; `make wheel` has it")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {n: wheel.read(n).decode() for n in wheel.namelist() if n.startswith("yprov/templates/")}
    assert packed == {f"yprov/templates/{name}.sbatch": load(name).text for name in names()}
