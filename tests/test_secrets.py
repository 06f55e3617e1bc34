"""What looks like a secret does not stay, whatever form it has; what only resembles one does."""

from __future__ import annotations

import base64
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planted import PLANTED
from yprovd.masking import masked_frames
from yprovd.secrets import OVERLAP, Masker, known_values, masked, values_of_command
from yprovd.shapes import is_secret
from yprovd.stitch import mask_logs
from yprovd.wire import Frame, Kind, frames_of, from_json, pack, pack_metrics, to_json, unpack_metrics


@pytest.mark.parametrize("name", [
    "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "AWS_SESSION_TOKEN", "token", "--api-key",
    "password", "DB_PASSWORD", "db.passwd", "clientSecret", "apiKey", "accessToken", "_authToken", "AccountKey",
    "X-Amz-Signature", "sig", "MYSQL_PWD", "GITHUB_PAT", "SLURM_JWT", "SSH_PRIVATE_KEY", "credentials", "DB_PASS",
    "SINGULARITYENV_HF_TOKEN", "my secret", "model/api_key",
])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", [
    "pad_token", "--eos-token", "max_token", "num_tokens", "tokens", "tokenizer", "key", "image_key", "PWD", "OLDPWD",
    "PATH", "keyboard", "secretary", "author", "sign", "monkey", "lr", "", "-", "bypass", "forward_pass", "compass",
])
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(("text", "masked_text"), [
    ("bash -c 'python s.py --token \"two words\"'", "bash -c 'python s.py --token \"***\"'"),
    ("python s.py --auth-token 'two words' --lr 1", "python s.py --auth-token '***' --lr 1"),
    ("token: 4dm1n-pass step=3 loss=0.5", "token: *** step=3 loss=0.5"),
    ("api_key: k3y0fmine, lr: 3", "api_key: ***, lr: 3"),
    ("token: str | None = 'k3y0fmine'", "token: str | None = '***'"),
    ("token: Optional[str] = 'k3y0fmine'", "token: Optional[str] = '***'"),
    ('curl -H "X-Api-Key: abcdefgh" https://h/', 'curl -H "X-Api-Key: ***" https://h/'),
    ("curl --header 'Private-Token: two words' x", "curl --header 'Private-Token: ***' x"),
    ("http -H'Api-Key:abcdefgh' x", "http -H'Api-Key:***' x"),
    ('curl -H "Cookie: sid=abcd; theme=dark" x', 'curl -H "Cookie: ***" x'),
    ('"curl -H \\"X-Auth-Token: abcdefgh\\" x"', '"curl -H \\"X-Auth-Token: ***\\" x"'),
    ("HF_TOKEN=$(echo abcdefgh) python s.py", "HF_TOKEN=$(echo ***) python s.py"),
    ("HF_TOKEN=`echo abcdefgh` python s.py", "HF_TOKEN=`echo ***` python s.py"),
    ('HF_TOKEN="$(echo -n "two words")" python s.py', 'HF_TOKEN="$(echo -n "***")" python s.py'),
    ("export HF_TOKEN=$(printf '%s' abcdefgh | tr a b)", "export HF_TOKEN=$(printf '%s' *** | tr a b)"),
    ("HF_TOKEN=$(base64 -d <<< 'YWJjZGVm')", "HF_TOKEN=$(base64 -d <<< '***')"),
])
def test_only_the_value_goes_from_among_other_words(text: str, masked_text: str) -> None:
    assert Masker().text(text) == masked_text


@pytest.mark.parametrize("form", PLANTED, ids=lambda form: form.name)
@pytest.mark.parametrize("around", ["{}", "before {} after", "+{}\n", '{{"a": 1}} {}', "x\n{}\ny"])
def test_every_planted_form_is_found_in_a_text(form: Any, around: str) -> None:
    text = Masker().text(around.format(form.text))
    for value in form.values:
        assert value not in text, text


@pytest.mark.parametrize("form", PLANTED, ids=lambda form: form.name)
def test_every_planted_form_is_found_in_a_diff_and_in_json(form: Any) -> None:
    diff = "".join(f"+{line}\n" for line in form.text.split("\n"))
    document = json.dumps(Masker().document({"note": form.text, "list": [form.text], form.text: 1}))
    for value in form.values:
        for line in value.split("\n"):
            assert line not in Masker().text(diff)
            assert line not in document


@pytest.mark.parametrize("text", [
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55", "commit 3f0ed31b06671437956eb1ffc6907bd86366fe1d",
    "swh:1:dir:3f0ed31b06671437956eb1ffc6907bd86366fe1d",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "md5=d41d8cd98f00b204e9800998ecf8427e",
    "--hash=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "GPU-5fc92a3e-aab1-9f11-cafe-000000000000", "--pad-token=<pad>", "--pad-token <pad>", "--eos-token-id 2",
    "eos_token=</s>", "tokens/s: 1234.5", "max_token=4096", "token=tokenizer.eos_token", "self.token = token",
    "def f(token: str = None):", "token: Optional[str] = None", "api_key = os.environ['X_API_KEY']",
    "os.getenv('HF_TOKEN', None)", "api_key=api_key", "password = getpass.getpass()", "token = get_token(1)",
    "export HF_TOKEN=$MY_TOKEN", "HF_TOKEN=$(cat ~/.token) python s.py", "export TOKEN=$(pass show hf/token)",
    "TOKEN=$(echo $OTHER)", 'TOKEN=$(echo "$OTHER" | cut -d= -f2)', "TOKEN=$(rev <<< $OTHER)", "N=$(echo hello)",
    "PAD_TOKEN=$(echo hello)", "NAME=`echo hello`", "max_token=$(echo 5)", 'curl -H "Accept: application/json" x',
    'curl -H "X-Request-Id: abcdefgh" x', 'curl -H "X-Api-Key: $KEY" x', "curl -H 'X-Api-Key: ${KEY}' x",
    "x-api-key: required", "the X-Api-Key: a header", 'grep -H "key: value" x', "ssh -H host",
    "export KEY=${WANDB_API_KEY}", "secret: false", "auth: none",
    'parser.add_argument("--token", help="the token of the service")', "if token == 5:",
    "basic understanding of things", "a bearer of good news", "the password is not given",
    "password 5 characters long", "image_key=pixel_values9", "disk-aaaaaaaaaaaaaaaaaaaaaaaa1",
    "task-0123456789abcdef0123456789", "risk-averse", "git@github.com:a/b.git", "ssh://git@github.com/x/y.git",
    "https://host:8080/x@y", "https://example.org/a:b", "docker run -u 1000:1000 x", "key = jax.random.PRNGKey(0)",
    "step 10: loss 0.5, 3 tokens", "key-value", "input_tokens=55", "--max-token 512",
    "from yprovd.secrets import Masker", "import secrets", "pypi-publish-the-package-now", "eyJust-a-name",
    "hf_transfer", "AKIAMAKI", "https://hooks.example.org/services/abc", "sig=1", "cookie-cutter",
    "num_attention_heads: 12", "docker run -u $(id -u):$(id -g) x", "docker run --user $UID:$GID x",
    "date -u +%H:%M:%S", 'f"https://{user}:{password}@host/"', "https://me:${PASSWORD}@host/", "ftp://me:$PW@host/",
])
def test_what_resembles_a_secret_stays(text: str) -> None:
    assert Masker().text(text) is text
    assert Masker().text(f"x {text} y") == f"x {text} y"


@pytest.mark.parametrize(("command", "shown"), [
    (["--password", "hunter2", "x"], ["--password", "***", "x"]),
    (["--api-key=X", "--hf-token=Y"], ["--api-key=***", "--hf-token=***"]),
    (["TOKEN='hunter2' x"], ["TOKEN=*** x"]),
    (["--pad-token", "<pad>", "--token", "--flag"], ["--pad-token", "<pad>", "--token", "--flag"]),
    (["bash", "-c", "WANDB_API_KEY=abc python t.py --password=x"],
     ["bash", "-c", "WANDB_API_KEY=*** python t.py --password=***"]),
    (["bash", "-c", "python t.py --api-key hunter2 --lr 0.1"], ["bash", "-c", "python t.py --api-key *** --lr 0.1"]),
    (["curl", "-u", "ada:hunter2", "https://u:hunter2@h/"], ["curl", "-u", "ada:***", "https://u:***@h/"]),
    (["-H", "Authorization: Bearer abcdef123456"], ["-H", "Authorization: Bearer ***"]),
    (["curl", "-H", "X-Api-Key: abcdefgh", "x"], ["curl", "-H", "X-Api-Key: ***", "x"]),
    (["curl", "--header", "Cookie: a=b; c=d"], ["curl", "--header", "Cookie: ***"]),
    (["curl", "-H", "Accept: text/html", "-H", "Expect:"], ["curl", "-H", "Accept: text/html", "-H", "Expect:"]),
    (["bash", "-c", 'curl -H "X-Api-Key: abcdefgh"'], ["bash", "-c", 'curl -H "X-Api-Key: ***"']),
    (["bash", "-c", "HF_TOKEN=$(echo (a) abcdefgh) x"], ["bash", "-c", "HF_TOKEN=*** x"]),
    (["bash", "-c", 'HF_TOKEN="$(echo "abc defgh")" x'], ["bash", "-c", "HF_TOKEN=*** x"]),
    (["bash", "-c", "HF_TOKEN=`echo abc defgh` x"], ["bash", "-c", "HF_TOKEN=*** x"]),
    (["bash", "-c", "N=$(echo hello) PAD_TOKEN=$(echo x) y"], ["bash", "-c", "N=$(echo hello) PAD_TOKEN=$(echo x) y"]),
    (["docker", "run", "-e", "HF_TOKEN=abc", "x"], ["docker", "run", "-e", "HF_TOKEN=***", "x"]),
])
def test_a_command_line_is_told_without_its_secrets(command: list[str], shown: list[str]) -> None:
    assert masked(command) == shown


def test_one_long_word_is_searched_at_once() -> None:
    word = "0123456789abcdef" * 8000  # a configuration in hexadecimal
    began = time.process_time()
    assert masked(["train", word]) == ["train", word]
    assert time.process_time() - began < 5.0  # from each of its letters on it would be a minute


def test_what_is_secret_in_the_environment_and_the_command_is_known() -> None:
    environ = {"HF_TOKEN": "known-value-1", "SHORT_TOKEN": "abc", "PWD": "/home/ada/code", "A_TOKEN": "/path/to/file",
               "NUM_PASSWORD": "12345678", "B_SECRET": "disabled"}
    assert known_values(environ) == {"known-value-1"}
    command = ["x", "--api-key", "from-argv-1", "bash -c 'TOKEN=inside-bash-2 y'", "https://u:in-an-url-3@h/", "--lr"]
    assert values_of_command(command) == {"from-argv-1", "inside-bash-2", "in-an-url-3"}


def test_what_a_command_line_makes_in_place_or_sends_in_a_header_is_known() -> None:
    assert values_of_command(["curl", "-H", "X-Api-Key: abcdefgh", "-H", "Accept: text/html"]) == {"abcdefgh"}
    assert values_of_command(["bash", "-c", "HF_TOKEN=$(echo SECRETVALUE) x"]) == {"SECRETVALUE"}
    assert values_of_command(["bash", "-c", "HF_TOKEN=$(cat /home/ada/token) A_TOKEN=`cat` x"]) == set()


def test_a_known_value_is_found_however_it_is_written() -> None:
    value = 'pässwörd "1"\\x/y'
    masker = Masker([value])
    in_a_url, in_a_path = "p%C3%A4ssw%C3%B6rd%20%221%22%5Cx%2Fy", "p%C3%A4ssw%C3%B6rd%20%221%22%5Cx/y"
    in_a_form, in_json = "p%C3%A4ssw%C3%B6rd+%221%22%5Cx%2Fy", json.dumps(value)
    for text in (value, in_json, json.dumps(value, ensure_ascii=False), json.dumps(in_json),
                 in_json.replace("/", "\\/"), in_a_url, in_a_path, in_a_form):
        assert "ssw" not in masker.text(f"a {text} b")
    assert b"ssw" not in masker.data(f"a {value} b".encode())


@pytest.mark.parametrize("value", ["kn0wnVal", "known-value-1", "a?known>value/with~all", "p\xe4ssw\xf6rd-\u20ac-1"])
@pytest.mark.parametrize("around", ["{}", "u:{}", "me:{}:x", "ada:{}\n"])
def test_a_known_value_is_found_in_base_64(value: str, around: str) -> None:
    """Where a proxy or a client writes `user:token`, at each of its three places; nothing of it is left to decode."""
    data = around.format(value).encode()
    for encoded in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        masked_text = Masker([value]).text(f"a {encoded} b")
        assert masked_text != f"a {encoded} b"
        left = masked_text[2:-2].replace("***", "*")
        before, after = left.split("*") if "*" in left else (left, "")
        kept = base64.urlsafe_b64decode(before.replace("+", "-").replace("/", "_")[:len(before) // 4 * 4])
        assert around.partition("{")[0].encode().startswith(kept), kept
        assert len(after.rstrip("=")) <= 4 * len(around.partition("}")[2].encode()) // 3 + 2
        assert Masker(["another-value"]).text(f"a {encoded} b") == f"a {encoded} b"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_known_value_is_found_in_utf_16(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "out.log"
    path.write_bytes(f"a known-value-1 p\xe4ssword-2 b\r\n{'x' * 5000}".encode(encoding))
    masker = Masker(["known-value-1", "p\xe4ssword-2"])
    assert masker.in_binary(path)
    size = path.stat().st_size
    masker.overwrite(path)
    assert path.stat().st_size == size
    text = path.read_bytes().decode("utf-16" if encoding == "utf-16" else encoding)
    shown = ["\u2a2a" * (n - 1) for n in (13, 10)]  # and a `*` for the letter whose zero is left
    shown = [f"*{one}" if encoding.endswith("be") else f"{one}*" for one in shown]
    assert text == f"a {shown[0]} {shown[1]} b\r\n" + "x" * 5000


def test_a_known_value_need_not_be_utf_8() -> None:
    """A password in Latin-1 in the environment: it is as it was given, and holds nothing up."""
    given = b"p\xe4ssword-1"
    masker = Masker(known_values({"DB_PASSWORD": os.fsdecode(given)}))
    assert masker.data(b"x " + given + b" y") == b"x *** y"
    assert masker.text(f"x {os.fsdecode(given)} y") == "x *** y"
    assert masker.text("x p%E4ssword-1 y") == "x *** y"


def test_a_text_without_a_secret_is_the_same_object() -> None:
    text, data = "nothing here", b"nothing here"
    assert Masker().text(text) is text
    assert Masker().data(data) is data


@given(st.text(max_size=300), st.integers(0, 20))
def test_masking_again_changes_nothing(text: str, at: int) -> None:
    masker = Masker()
    once = masker.text(f"{text[:at]} ghp_{'a1' * 18} {text[at:]}")
    assert masker.text(once) == once
    assert "ghp_" not in once or "ghp_" in text


def test_values_of_keys_with_secret_names_go_whatever_they_are() -> None:
    document = {"api_key": "abc", "tags": {"hf-token": "xyz", "team": "vision"}, "password": 1234, "max_token": 5,
                "use_auth_token": True, "token": None}
    assert Masker().document(document) == {
        "api_key": "***", "tags": {"hf-token": "***", "team": "vision"}, "password": "***", "max_token": 5,
        "use_auth_token": True, "token": None}


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1000, 4096, 256 << 10])
def test_a_secret_is_overwritten_in_place_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Also across the borders of blocks: length, and everything else, stay."""
    monkeypatch.setattr("yprovd.secrets._BLOCK", block)
    monkeypatch.setattr("yprovd.secrets.OVERLAP", 200)
    log = tmp_path / "out.log"
    secret, rng = b"ghp_" + b"a1" * 18, random.Random(0)
    clean = bytearray(rng.choices(b"abc \n", k=9000))
    with_secrets = bytearray(clean)
    for at in range(50, 8900, 211):
        clean[at:at + 42], with_secrets[at:at + 42] = b" " + b"*" * 40 + b" ", b" " + secret + b" "
    log.write_bytes(with_secrets)
    assert Masker().overwrite(log) == 9000
    assert log.read_bytes() == bytes(clean)


def test_a_log_that_still_grows_is_looked_at_from_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "out.log"
    masker = Masker()
    with open(log, "ab", buffering=0) as f:
        f.write(b"x" * 2 * OVERLAP + b" ghp_" + b"a1" * 10)  # it is being written
        upto = masker.overwrite(log, final=False)
        assert b"ghp_" in log.read_bytes()
        f.write(b"b2" * 8 + b"\nnext")
        assert masker.overwrite(log, upto, final=False) > upto
        f.write(b" line")
    assert log.read_bytes() == b"x" * 2 * OVERLAP + b" " + b"*" * 40 + b"\nnext line"


def test_how_far_a_large_file_was_looked_at_is_told_and_a_later_look_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yprovd.secrets._BLOCK", 1000)
    monkeypatch.setattr("yprovd.secrets.OVERLAP", 200)
    monkeypatch.setattr("yprovd.secrets._TOLD", 3000)
    log, secret = tmp_path / "out.log", b"ghp_" + b"a1" * 18
    told: list[int] = []

    def stop(upto: int) -> None:
        told.append(upto)
        raise InterruptedError

    for k in range(2700, 3700, 37):  # wherever it stands beside the place
        log.write_bytes(b" " * k + secret + b" " * 6000)
        with pytest.raises(InterruptedError):
            Masker().overwrite(log, told=stop)
        assert 3000 <= told[-1] < 4000
        assert Masker().overwrite(log, told[-1]) == k + 6040
        assert log.read_bytes() == b" " * k + b"*" * 40 + b" " * 6000


KEY = ("-----BEGIN RSA PRIVATE KEY-----\n" + ("Ab" * 32 + "\n") * 20 + "-----END RSA PRIVATE KEY-----\n").encode()


@pytest.mark.parametrize("cut", [3 * 65 + 32 + n for n in (0, 1, 7, 15, 16, 40, 64)])
def test_a_key_of_many_lines_is_overwritten_as_a_whole(tmp_path: Path, cut: int) -> None:
    """Also where it is looked at while it is being printed, and where two blocks of the log meet in it."""
    hidden = b"*" * (len(KEY) - 1) + b"\n"
    log = tmp_path / "out.log"
    with open(log, "ab", buffering=0) as f:
        f.write(KEY[:cut])
        upto = Masker().overwrite(log, final=False)
        f.write(KEY[cut:] + b"next")
    Masker().overwrite(log, upto)
    assert log.read_bytes() == hidden + b"next"
    before = b"." * ((256 << 10) + OVERLAP - cut - 1) + b"\n"
    log.write_bytes(before + KEY + b"next")
    Masker().overwrite(log)
    assert log.read_bytes() == before + hidden + b"next"


def test_a_key_without_an_end_is_overwritten_at_last(tmp_path: Path) -> None:
    log = tmp_path / "out.log"
    log.write_bytes(KEY[:100])
    upto = Masker().overwrite(log, final=False)
    Masker().overwrite(log, upto)
    assert log.read_bytes()[:96] == b"*" * 96


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("ghp_" + "a1" * 18)
    (tmp_path / "out.log").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic links"):
        Masker().overwrite(tmp_path / "out.log")
    assert "ghp_" in (tmp_path / "mine").read_text()


def test_a_binary_file_is_searched_whatever_its_size(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(os.urandom(1 << 20))
    assert not Masker(["a-known-value"]).in_binary(path)
    for secret in (b"ghp_" + b"a1" * 18, b"a-known-value"):
        path.write_bytes(b"\0" * (256 * 1024 - 10) + secret + b"\0" * 100)
        assert Masker(["a-known-value"]).in_binary(path)


def test_the_stitch_masks_the_logs_of_a_run_and_no_file_elsewhere(tmp_path: Path) -> None:
    """A run's directory may come from anybody: a link in it leads to no harm, nor does a figure that is none."""
    secret = "ghp_" + "a1" * 18
    for folder in ("mine", "run/logs", "linked"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine" / "a.log").write_text(secret)
    (tmp_path / "run" / "logs" / "a.log").write_text(secret)
    (tmp_path / "linked" / "logs").symlink_to(tmp_path / "mine")
    for run, looked_to in (("run", 1 << 80), ("run", "x"), ("linked", 0)):
        mask_logs(tmp_path / run, {"a.log": looked_to})
        assert (tmp_path / "run" / "logs" / "a.log").read_text() == secret
    mask_logs(tmp_path / "run", None)
    assert (tmp_path / "run" / "logs" / "a.log").read_text() == "*" * 40
    assert (tmp_path / "mine" / "a.log").read_text() == secret


# -- frames -----------------------------------------------------------------------------------------------------------


def through(kind: int, payload: bytes, masker: Masker | None = None) -> Frame:
    data = pack(kind, 7, 3, 1000, 2000, payload)
    (frame,) = frames_of(masked_frames(frames_of(data), data, masker or Masker()))
    assert (frame.kind, frame.source, frame.seq, frame.wall_ns, frame.mono_ns) == (kind, 7, 3, 1000, 2000)
    return frame


def test_frames_without_a_secret_are_the_same_object() -> None:
    data = pack(Kind.EVENTS, 1, 1, 1, 1, to_json([{"e": "begin", "t": 1, "id": 1, "name": "tokenize"}]))
    assert masked_frames(frames_of(data), data, Masker()) is data
    samples = pack(Kind.SAMPLES, 1, 2, 1, 1, b"ghp_" + b"a1" * 18)  # numbers, whatever they look like
    assert masked_frames(frames_of(samples), samples, Masker()) is samples


def test_parameters_events_and_names_are_masked() -> None:
    token = "ghp_" + "a1" * 18
    rows = [{"e": "param", "t": 1, "name": "openai_api_key", "value": "hunter2"},
            {"e": "param", "t": 1, "name": "max_token", "value": 512},
            {"e": "param", "t": 1, "name": "config", "value": {"db": {"password": "x"}, "lr": float("inf")}},
            {"e": "param", "t": 1, "name": token, "value": [token]},
            {"e": "event", "t": 1, "name": "login", "attributes": {"url": "https://u:pw123@h/"}, "context": token}]
    after = from_json(through(Kind.EVENTS, to_json(rows)).payload)
    assert after == [
        {"e": "param", "t": 1, "name": "openai_api_key", "value": "***"},
        {"e": "param", "t": 1, "name": "max_token", "value": 512},
        {"e": "param", "t": 1, "name": "config", "value": {"db": {"password": "***"}, "lr": float("inf")}},
        {"e": "param", "t": 1, "name": "***", "value": ["***"]},
        {"e": "event", "t": 1, "name": "login", "attributes": {"url": "https://u:***@h/"}, "context": "***"}]


def test_names_of_metrics_are_masked_and_their_numbers_stay() -> None:
    secret = "a-known-value"
    rows = [(5, f"loss/{secret}", 0.5, 1, "training", 0), (6, "acc", float("nan"), None, secret, None)]
    after = unpack_metrics(through(Kind.METRICS, pack_metrics(rows), Masker([secret])).payload)
    assert after[0] == (5, "loss/***", 0.5, 1, "training", 0)
    assert (after[1].name, after[1].context, after[1].step, after[1].epoch) == ("acc", "***", None, None)
