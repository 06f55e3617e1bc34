"""What cannot be opened is an absence, whatever it raises."""

import sys
import time

import pytest

from yprovd.model import Absence
from yprovd.sensors import SENSORS, Surroundings, open_all

BROKEN = {
    "key": "raise KeyError('libamd_smi.so')",  # amdsmi without ROCm
    "attribute": "raise AttributeError('undefined symbol')",
    "os": "raise OSError('no such library')",
    "no_such_class": "",
    "constructor": "class Sensor:\n def __init__(self, where): raise ZeroDivisionError('odd')",
    "unavailable": "from yprovd.errors import SensorUnavailable\n"
                   "class Sensor:\n def __init__(self, where):\n"
                   "  raise SensorUnavailable('no GPU', hint='buy one')",
    "works": "class Sensor:\n name = 'works'\n def __init__(self, where): pass",
}


@pytest.fixture
def table(tmp_path, monkeypatch):
    for name, body in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield {name: f"broken_{name}:Sensor" for name in BROKEN} | {"missing": "broken_by_not_being_there:Sensor"}
    for name in BROKEN:
        sys.modules.pop(f"broken_{name}", None)


def test_whatever_is_raised_becomes_an_absence(table):
    sensors, absences = open_all(Surroundings(), table=table)
    assert [s.name for s in sensors] == ["works"]
    reasons = {a.sensor: a.reason for a in absences}
    assert set(reasons) == set(table) - {"works"}
    assert "KeyError" in reasons["key"]
    assert "libamd_smi.so" in reasons["key"]
    assert "undefined symbol" in reasons["attribute"]
    assert "ZeroDivisionError: odd" in reasons["constructor"]
    assert "ModuleNotFoundError" in reasons["missing"]
    assert Absence("unavailable", "no GPU", "buy one") in absences


def test_a_disabled_sensor_is_not_even_imported(table):
    sensors, absences = open_all(Surroundings(), disabled=list(table), table=table)
    assert sensors == []
    assert {a.reason for a in absences} == {"disabled in the configuration"}
    assert not any(name.startswith("broken_") for name in sys.modules)


def test_a_library_that_hangs_when_it_is_opened_holds_up_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "broken_hangs.py").write_text(
        "import threading\ngate = threading.Event()\n"
        "class Sensor:\n name = 'hangs'\n def __init__(self, where): gate.wait(60)")
    (tmp_path / "broken_quick.py").write_text("class Sensor:\n name = 'quick'\n def __init__(self, where): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    table = {name: f"broken_{name}:Sensor" for name in ("hangs", "quick")}
    began = time.monotonic()
    sensors, absences = open_all(Surroundings(), table=table, patience_s=0.2, slow=("hangs", "quick"))
    try:
        assert time.monotonic() - began < 10
        assert [s.name for s in sensors] == ["quick"]
        assert [a.sensor for a in absences] == ["hangs"]
        assert "within 0.2 s" in absences[0].reason
    finally:
        sys.modules["broken_hangs"].gate.set()
        for name in table:
            sys.modules.pop(f"broken_{name}", None)


def test_an_empty_machine_has_a_reason_for_everything(tmp_path):
    host_sensors = {name: SENSORS[name] for name in
                    ("cpu", "memory", "processes", "cgroup", "disk", "network", "rapl")}
    sensors, absences = open_all(Surroundings(str(tmp_path), "run"), table=host_sensors)
    assert sensors == []
    assert {a.sensor for a in absences} == set(host_sensors)
    assert not [a for a in absences if "Error:" in a.reason and a.reason.split(":")[0].isidentifier()]
