"""What a user may set, and the resolved configuration that the daemons get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yprov.settings import resolve
from yprovd.config import RUN_FILE, Person, RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.grids import Carbon
from yprovd.ids import unknown_licence
from yprovd.secrets import Masker

CONFIG = RunConfig("id-1", "name", 1_700_000_000_000_000_000, ("python", "train.py"), "/home/u", "/tmp/yprov-1",
                   Settings())


def settings(**data: Any) -> Settings:
    return Settings.from_mapping(data, where="`settings.yaml`", sensors=("cpu", "memory", "network"))


def refused(**data: Any) -> YprovError:
    with pytest.raises(YprovError) as caught:
        settings(**data)
    assert str(caught.value).startswith("`settings.yaml`: ")
    return caught.value


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("intervall", "interval"), ("tag", "tags"), ("input", "inputs"), ("keep-spool", "keep_spool"),
     ("organization", "organisation"), ("license", "licence"), ("Name", "name")],
)
def test_an_unknown_key_is_named_and_offers_the_nearest(key: str, nearest: str) -> None:
    error = refused(**{key: 1})
    assert str(error) == f"`settings.yaml`: unknown key `{key}`"
    assert error.hint == f"did you mean `{nearest}`?"


def test_a_key_like_no_other_gets_the_list() -> None:
    assert refused(zzz=1).hint.startswith("known keys: name, experiment, dir, interval")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("interval", v, "a number of seconds from 0.01 to 3600")
     for v in ("1", 0, 0.009, 3601, -1, True, None, float("nan"), float("inf"), [1])]
    + [(key, v, "a list") for key in ("inputs", "outputs", "disable") for v in ("a", 1, None, {"a": 1})]
    + [("tags", v, "a mapping of names to values") for v in ("a=b", ["a"], 1)]
    + [(key, v, "true or false") for key in ("keep_spool", "opened_files") for v in ("yes", 1, None)]
    + [("hash_limit", v, "a number of bytes, or one with a unit such as `4GiB`")
       for v in ("", "many", "4 apples", -1, True, None, 1.5, "-1", "1e9", "4GiBi")]
    + [(key, v, "a name, or a mapping with `name` and `id`")
       for key in ("user", "organisation") for v in (1, ["a"], {"orcid": "x"}, None)]
    + [(key, v, "text") for key in ("name", "experiment", "dir", "licence", "scheduler", "launch_with",
                                     "interface") for v in (None, True, ["a"], {"a": 1})],
)
def test_a_wrong_type_or_range_is_named_with_what_was_expected(key: str, value: Any, expected: str) -> None:
    error = refused(**{key: value})
    assert f"`{key}` must be {expected}, not `{value}`" in str(error)


@pytest.mark.parametrize("value", [0.01, 1, 3600, 3600.0])
def test_the_edges_of_the_interval_are_allowed(value: float) -> None:
    assert settings(interval=value).interval == value


@pytest.mark.parametrize(("value", "size"), [
    (0, 0), (5, 5), ("1048576", 1 << 20), ("4GiB", 4 << 30), ("4 gib", 4 << 30), ("1.5 MB", 1_500_000), ("2k", 2000),
    ("1Ti", 1 << 40), ("7B", 7),
])
def test_a_limit_is_a_number_of_bytes_with_or_without_a_unit(value: Any, size: int) -> None:
    assert settings(hash_limit=value).hash_limit == size


def test_settings_are_recorded_without_secrets() -> None:
    token = "ghp_0123456789abcdefghij0123456789abcdef"
    shown = settings(name="x", tags={"api_key": "abc", "a": token, "team": "vision"}, inputs=[f"{token}.csv"],
                     user={"name": token, "id": "0000-0002-1825-0097"}, disable=["cpu"],
                     carbon={"intensity": 12, "source": f"by {token}"}).without_secrets(Masker())
    assert shown.carbon == Carbon(12.0, source="by ***")
    assert shown.tags == {"api_key": "***", "a": "***", "team": "vision"}
    assert shown.user == Person("***", "0000-0002-1825-0097")
    assert (shown.inputs, shown.disable, shown.name) == (("***.csv",), ("cpu",), "x")


def test_a_sensor_that_is_not_known_offers_the_nearest() -> None:
    assert refused(disable=["cpu", "memorry"]).hint == "did you mean `memory`?"
    assert refused(disable=["zzz"]).hint == "sensors: cpu, memory, network"
    assert settings(disable=["cpu"]).disable == ("cpu",)


def test_numbers_become_text_where_text_is_wanted() -> None:
    found = settings(name=1, experiment=2.5, tags={1: 2, "b": True}, inputs=[1, "x"], user="Ada",
                     organisation={"name": "ACME", "id": "https://ror.org/02mhbdp94"})
    assert (found.name, found.experiment, found.tags, found.inputs) == ("1", "2.5", {"1": "2", "b": "True"}, ("1", "x"))
    assert found.user == Person("Ada")
    assert found.organisation == Person("ACME", "https://ror.org/02mhbdp94")


# -- who, and what may be done with it ---------------------------------------------------------------------------------

ORCID, ROR = "0000-0002-1825-0097", "02mhbdp94"


@pytest.mark.parametrize("given", [
    ORCID, "0000-0002-1694-233X", f"https://orcid.org/{ORCID}", f"http://www.orcid.org/{ORCID}", f"orcid.org/{ORCID}",
    "https://isni.org/isni/0000000121032683", "https://ada.example.org/#me", ""])
def test_a_person_is_an_orcid_or_another_address(given: str) -> None:
    assert settings(user={"name": "Ada", "id": given}).user == Person("Ada", given)


@pytest.mark.parametrize("given", [
    ROR, f"https://ror.org/{ROR}", f"ror.org/{ROR}", "https://www.wikidata.org/wiki/Q42944", "",
    "01qz5mb56", "042nb2s44", "05trd4x28", "00rqy9422"])
def test_an_organisation_is_a_ror_or_another_address(given: str) -> None:
    assert settings(organisation={"name": "ACME", "id": given}).organisation == Person("ACME", given)


@pytest.mark.parametrize("given", ["0000-0002-1825-0098", "https://orcid.org/0000-0002-1825-0907",
                                   "0000-0002-1694-2330", "0000-0002-1825-009X"])
def test_a_mistyped_orcid_is_found_by_its_check_digit(given: str) -> None:
    error = refused(user={"name": "Ada", "id": given})
    assert f"`user.id` is no ORCID: the check digit of `{given}` would be " in str(error)
    assert error.hint.startswith("is a digit mistyped?")


def test_a_mistyped_ror_is_found_by_its_check_digits() -> None:
    error = refused(organisation={"id": "ror.org/02mhbdp49"})
    assert str(error) == ("`settings.yaml`: `organisation.id` is no ROR: the check digits of `ror.org/02mhbdp49` "
                          "would be 94")


@given(at=st.integers(0, 15), by=st.integers(1, 9))
def test_every_single_wrong_digit_of_an_orcid_is_found(at: int, by: int) -> None:
    digits = list("0000000218250097")
    digits[at] = str((int(digits[at]) + by) % 10)
    text = "".join(digits)
    refused(user={"id": "-".join(text[i:i + 4] for i in range(0, 16, 4))})


@pytest.mark.parametrize("given", [
    "x", "Ada", "0000000218250097", "0000-0002-1694-233x", "https://orcid.org/", "https://orcid.org/ada",
    "https://orcid.org/0000-0002-1825-0097/works", ROR, f"https://ror.org/{ROR}", "http://a b", "ada@example.org"])
def test_what_is_no_address_of_a_person_is_refused_with_an_example(given: str) -> None:
    error = refused(user={"id": given})
    assert f"`user.id` must be an ORCID or another web address, not `{given}`" in str(error)
    assert error.hint == "id: https://orcid.org/0000-0002-1825-0097"


@pytest.mark.parametrize("given", ["x", "2mhbdp94", "https://ror.org/1", ORCID, f"https://orcid.org/{ORCID}", "ACME"])
def test_what_is_no_address_of_an_organisation_is_refused_with_an_example(given: str) -> None:
    error = refused(organisation={"name": "ACME", "id": given})
    assert f"`organisation.id` must be a ROR or another web address, not `{given}`" in str(error)
    assert error.hint == "id: https://ror.org/02mhbdp94"


@pytest.mark.parametrize(("value", "recorded"), [
    ("MIT", "MIT"), ("cc-by-4.0", "CC-BY-4.0"), ("apache-2.0", "Apache-2.0"), (" MIT ", "MIT"), ("", ""),
    ("https://example.org/terms", "https://example.org/terms"), ("LicenseRef-ours", "LicenseRef-ours"),
    ("MIT OR Apache-2.0", "MIT OR Apache-2.0"), ("(MIT AND CC0-1.0) OR GPL-2.0+", "(MIT AND CC0-1.0) OR GPL-2.0+"),
    ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
])
def test_a_licence_is_an_expression_of_spdx_or_an_address(value: str, recorded: str) -> None:
    assert settings(licence=value).licence == recorded
    assert unknown_licence(recorded) == ""


@pytest.mark.parametrize(("value", "hint"), [
    ("CC BY 4.0", "did you mean `CC-BY-4.0`?"), ("Apache 2.0", "did you mean `Apache-2.0`?"),
    ("all rights reserved", "licence: CC-BY-4.0   or LicenseRef-NAME for one of your own"),
    ("MIT OR", "licence: CC-BY-4.0   or LicenseRef-NAME for one of your own"), ("ask:ada", "licence: CC-BY-4.0 "),
    ("MIT or Apache-2.0", "licence: CC-BY-4.0 "),
])
def test_what_can_be_no_licence_is_refused(value: str, hint: str) -> None:
    error = refused(licence=value)
    assert str(error) == f"`settings.yaml`: `licence` must be an SPDX identifier or a web address, not `{value}`"
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(("value", "doubt"), [
    ("CC-BY-4", "; did you mean `CC-BY-4.0`?"), ("Apache2", "; did you mean `Apache-2.0`?"), ("Glulxe", "")])
def test_a_licence_that_is_not_known_is_kept_and_doubted(value: str, doubt: str) -> None:
    assert settings(licence=value).licence == value
    assert unknown_licence(value) == f"`licence: {value}` is no SPDX identifier that we know{doubt}"


# -- the file and the options ------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_options_win_over_the_file_and_tags_are_merged(file: Path) -> None:
    file.write_text("name: from-file\ninterval: 2\nkeep_spool: true\ntags: {a: 1, b: 2}\ninputs: [x]\n")
    found = resolve(file, {"name": "by-hand", "interval": None, "keep_spool": None, "tags": ["b=3", "c=x=y", "d="],
                           "inputs": [], "outputs": ["o"]})
    assert (found.name, found.interval, found.keep_spool) == ("by-hand", 2.0, True)
    assert found.tags == {"a": "1", "b": "3", "c": "x=y", "d": ""}
    assert (found.inputs, found.outputs) == (("x",), ("o",))


def test_an_empty_file_is_the_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    file.write_text("# nothing yet\n")
    assert resolve(file, {}) == Settings()._replace(experiment=file.parent.name)
    assert resolve(None, {}) == resolve(file, {})


def test_an_experiment_is_the_folder_unless_it_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert resolve(None, {}).experiment == "root"
    assert resolve(None, {"experiment": "digits"}).experiment == "digits"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML: while parsing a flow node"), ("\t- x", "is not YAML"), ("just text", "must hold settings"),
     ("- a\n- b", "must hold settings"), ("5", "must hold settings"),
     ("a: !!python/object:os.system {}", "is not YAML"),
     ("name: 2024-01-01", "`name` must be text"), ("1: 2", "unknown key `1`")],
)
def test_a_file_without_settings_in_it_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(YprovError) as caught:
        resolve(file, {})
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_named(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(YprovError, match="is not YAML"):
        resolve(file, {})


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(YprovError, match=r"cannot read the configuration `.*settings\.yaml`: No such file"):
        resolve(file, {})
    with pytest.raises(YprovError, match="Is a directory"):
        resolve(file.parent, {})


def test_a_mistake_is_looked_for_where_it_was_made(file: Path) -> None:
    file.write_text("interval: 2\n")
    with pytest.raises(YprovError, match=r"^options: `interval` must be"):
        resolve(file, {"interval": 0})
    file.write_text("interval: 0\n")
    with pytest.raises(YprovError, match=r"settings\.yaml`: `interval` must be"):
        resolve(file, {"interval": 2})


@pytest.mark.parametrize("text", ["tags: [a]", "tags: 5", "tags: text", "tags:"])
def test_tags_in_the_file_that_are_none_are_named_also_beside_tags_by_option(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(YprovError, match="`tags` must be a mapping"):
        resolve(file, {"tags": ["a=b"]})


@pytest.mark.parametrize("tag", ["novalue", "=value", ""])
def test_a_tag_that_is_not_a_name_and_a_value_is_refused(tag: str) -> None:
    with pytest.raises(YprovError, match="is not a name and a value") as caught:
        resolve(None, {"tags": [tag]})
    assert caught.value.hint == "--tag dataset=digits"


# -- run.json ----------------------------------------------------------------------------------------------------------

people = st.builds(Person, st.text(), st.text())
texts = st.lists(st.text(), max_size=3).map(tuple)
configs = st.builds(
    RunConfig, run_id=st.text(), name=st.text(), created_ns=st.integers(0, 1 << 62), command=texts, cwd=st.text(),
    runtime_dir=st.text(), root=st.text(), software=st.text(),
    launcher=st.dictionaries(st.text(), st.text() | st.integers(), max_size=3),
    settings=st.builds(Settings, name=st.text(), experiment=st.text(), dir=st.text(), interval=st.floats(0.01, 3600),
                       inputs=texts, outputs=texts, tags=st.dictionaries(st.text(), st.text(), max_size=3),
                       keep_spool=st.booleans(), disable=texts, user=people, organisation=people, licence=st.text(),
                       scheduler=st.text(), launch_with=st.text(), interface=st.text(),
                       carbon=st.builds(Carbon, st.none() | st.floats(0, 5000), st.text(), st.none() | st.floats(1, 10),
                                        st.text(), st.none() | st.integers(1990, 2200))),
    nodes=texts, job=st.dictionaries(st.text(), st.text() | st.integers(), max_size=3),
    grace_s=st.floats(0, 1e6),
)


@given(config=configs)
def test_a_configuration_survives_json(config: RunConfig) -> None:
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_configuration_is_read_from_the_runs_directory(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps(CONFIG.to_json()))
    assert RunConfig.read(tmp_path) == CONFIG
    assert CONFIG.interval_ns == 10**9
    assert CONFIG._replace(settings=Settings(interval=0.1)).interval_ns == 10**8


def test_what_a_later_program_adds_to_a_run_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({**CONFIG.to_json(), "later": 1}))
    assert RunConfig.read(tmp_path) == CONFIG


def test_a_run_of_a_newer_format_says_so(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({**CONFIG.to_json(), "version": 2}))
    with pytest.raises(YprovError, match="newer yprov") as caught:
        RunConfig.read(tmp_path)
    assert caught.value.hint == "pip install --upgrade yprovd"


GOOD = CONFIG.to_json()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", "{}", '{"format": "other"}', '{"format": "yprov-run"}', "[" * 100_000,
     json.dumps({**GOOD, "version": "x"}), json.dumps({**GOOD, "settings": []}),
     json.dumps({**GOOD, "settings": {}}), json.dumps({**GOOD, "command": None}),
     json.dumps({k: v for k, v in GOOD.items() if k != "run_id"}),
     json.dumps({**GOOD, "settings": {**GOOD["settings"], "what": 1}}),
     json.dumps({**GOOD, "settings": {**GOOD["settings"], "user": "Ada"}}),
     json.dumps({**GOOD, "settings": {**GOOD["settings"], "carbon": 5}})],
    ids=range(17),
)
def test_a_damaged_run_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(YprovError, match="damaged or not written by yprov"):
        RunConfig.read(tmp_path)


def test_every_truncation_of_a_run_file_is_noticed(tmp_path: Path) -> None:
    text = json.dumps(GOOD)
    for size in range(0, len(text), 7):
        (tmp_path / RUN_FILE).write_text(text[:size])
        with pytest.raises(YprovError, match="damaged"):
            RunConfig.read(tmp_path)


def test_a_run_file_that_is_not_text_is_damaged(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(YprovError, match="damaged"):
        RunConfig.read(tmp_path)


def test_a_folder_that_is_no_run_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(YprovError, match="is not a run") as caught:
        RunConfig.read(tmp_path)
    assert caught.value.hint.startswith("yprov ls")
    (tmp_path / RUN_FILE).mkdir()
    with pytest.raises(YprovError, match=r"cannot read .*: Is a directory"):
        RunConfig.read(tmp_path)
