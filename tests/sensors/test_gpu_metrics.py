import ctypes
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sensors.amd_trees import TABLES, table, unknown_table
from yprovd.sensors.gpu_metrics import ENERGY_UNIT, FIELDS, LAYOUTS, SANE, Unknown, clean, grown, layout_of, revision

#: Of a GCD under load, written by hand with the offsets of the header file: 120 bytes of v1.3.
GOLDEN = bytearray(b"\xff" * 120)
for offset, format, *values in (
    (0, "<HBB", 120, 1, 3), (4, "<HHH", 51, 57, 63), (16, "<HHH", 98, 41, 0), (22, "<H", 487),
    (24, "<QQ", 65536 * 123456789 + 1, 987654321000), (54, "<H", 1695), (58, "<H", 1600), (68, "<I", 0x40000014),
    (80, "<II", 7, 8), (88, "<HHHH", 60, 61, 63, 62), (96, "<Q", 5), (112, "<Q", 1 << 57),
):
    struct.pack_into(format, GOLDEN, offset, *values)


def values_of(data):
    values, residencies = layout_of(data).values(data)
    return dict(zip(FIELDS, values, strict=True)), residencies


def present(values):
    return {name: value for name, value in values.items() if not math.isnan(value)}


def test_a_table_of_an_mi250x():
    values, residencies = values_of(bytes(GOLDEN))
    assert present(values) == pytest.approx({
        "edge": 51, "hotspot": 57, "memory": 63, "gfx": 0.98, "umc": 0.41, "power": 487,
        "energy": 123456789 + 2**-16, "clock": 987654321000, "gfxclk": 1.695e9, "uclk": 1.6e9, "reasons": 0x40000014})
    assert values["energy"] == 123456789 + 2**-16
    assert residencies == ()


def test_energy_is_in_units_of_two_to_the_minus_sixteen():
    values, _ = values_of(table("1.3", energy_accumulator=10**9))
    assert values["energy"] == 10**9 / 65536
    by_the_librarys_constant = 15.3e-6 / ENERGY_UNIT
    assert by_the_librarys_constant == pytest.approx(1.0027, abs=1e-4)


@pytest.mark.parametrize("name", TABLES)
def test_the_layouts_are_the_kernels(name):
    declared = TABLES[name]
    layout = LAYOUTS[int(name[2]), ctypes.sizeof(declared)]
    assert layout.header == struct.pack("<HBB", ctypes.sizeof(declared), 1, int(name[2]))
    links = [1 << n for n in range(8)]
    has = {field for field, *_ in declared._fields_}
    members = {
        "temperature_hotspot": 11, "temperature_mem": 12, "power": 13, "average_gfx_activity": 14,
        "average_umc_activity": 15, "energy_accumulator": 16 * 65536, "system_clock_counter": 17,
        "current_uclk": 18, "throttle_status": 19, "current_gfxclk": [20, 22] if name != "1.3" else 21,
        "xgmi_read_data_acc": links, "xgmi_write_data_acc": [2 * n for n in links], "temperature_edge": 23,
        "prochot_residency_acc": 24, "ppt_residency_acc": 25, "socket_thm_residency_acc": 26,
        "vr_thm_residency_acc": 27, "hbm_thm_residency_acc": 28,
    }
    values, residencies = values_of(table(name, **{k: v for k, v in members.items() if k in has}))
    expected = {"hotspot": 11, "memory": 12, "power": 13, "gfx": 0.14, "umc": 0.15, "energy": 16, "clock": 17,
                "uclk": 18e6, "gfxclk": 21e6}
    expected |= {"edge": 23} if name == "1.3" else {"xgmi_read": 255 * 1024, "xgmi_write": 510 * 1024}
    expected |= {"reasons": 19} if "throttle_status" in has else {}
    assert present(values) == pytest.approx(expected)
    assert residencies == (() if "throttle_status" in has else (24, 25, 26, 27, 28))
    assert set(present(values)) | ({"reasons"} if residencies else set()) == layout.fields


@pytest.mark.parametrize("name", TABLES)
def test_what_is_all_ones_is_absent(name):
    values, residencies = values_of(table(name))
    assert present(values) == {}
    assert math.isnan(grown(residencies, residencies))


@pytest.mark.parametrize(("member", "raw", "field"), [
    ("average_gfx_activity", 101, "gfx"), ("average_umc_activity", 6500, "umc"), ("power", 5001, "power"),
    ("temperature_hotspot", 251, "hotspot"), ("current_uclk", 10001, "uclk"), ("current_gfxclk", 65534, "gfxclk"),
    ("energy_accumulator", 2**63, "energy"),
])
def test_nonsense_is_absent(member, raw, field):
    values, _ = values_of(table("1.3", **{member: raw}))
    assert math.isnan(values[field])


@pytest.mark.parametrize("raw", ["N/A", None, 0xFFFF, 0xFFFFFFFF, 2**64 - 1, 2**63 - 1, -1, 5001])
def test_one_rule_for_what_is_no_number(raw):
    assert math.isnan(clean(raw, "power"))
    assert clean(90, "power") == 90


def test_the_hottest_stack_where_there_is_no_temperature_of_the_memory():
    values, _ = values_of(table("1.3", temperature_hbm=[60, 0xFFFF, 64, 61]))
    assert values["memory"] == 64


def test_dies_and_links_that_are_not_there_do_not_count():
    values, _ = values_of(table("1.8", current_gfxclk=[2000, 0xFFFF, 1000], xgmi_read_data_acc=[5, 2**64 - 1]))
    assert values["gfxclk"] == 1.5e9
    assert values["xgmi_read"] == 5 * 1024


def test_two_tables_are_called_one_point_six():
    early, late = (values_of(table(name, energy_accumulator=65536, ppt_residency_acc=3)) for name in ("1.6", "1.6b"))
    assert early[0]["energy"] == late[0]["energy"] == 1
    assert late[1][1] == 3


@pytest.mark.parametrize(("data", "says"), [
    (unknown_table(1, 9), "v1.9 of 200 bytes is not known"), (unknown_table(2, 4), "v2.4"),
    (unknown_table(3, 0), "v3.0"), (unknown_table(1, 3, 96), "v1.3 of 96 bytes is not known"),
    (table("1.3")[:100], "v1.3 ends after 100 of 120 bytes"), (b"", "of 0 bytes"), (b"\x78\x00\x01", "of 3 bytes"),
])
def test_what_is_not_known_is_refused_by_its_name(data, says):
    with pytest.raises(Unknown, match=says):
        layout_of(data)


def test_the_revision_is_that_of_the_header():
    assert revision(table("1.3")) == "v1.3"
    assert revision(b"") == ""


def test_the_counters_that_grew_are_the_reasons():
    assert grown((0, 10, 0, 0, 0), (0, 12, 0, 1, 0)) == 0b01010
    assert grown((0, 0, 0, 0, 0), (0, 0, 0, 0, 0)) == 0
    assert grown((5, 5, 5, 5, 2**32 - 1), (6, 5, 5, 5, 2**32 - 1)) == 1
    assert math.isnan(grown((), (0, 0, 0, 0, 0)))


@given(st.sampled_from(sorted(TABLES)), st.binary(min_size=3872, max_size=3872))
def test_whatever_a_table_holds_is_sane_or_absent(name, noise):
    size = ctypes.sizeof(TABLES[name])
    data = table(name)[:4] + noise[4:size]
    for field, value in present(values_of(data)[0]).items():
        factor, top = SANE[field]
        assert 0 <= value <= factor * top * (8 if field.startswith("xgmi") else 1)


@given(st.binary(max_size=200))
def test_no_bytes_are_read_past_their_end(data):
    try:
        layout = layout_of(data)
    except Unknown:
        return
    assert len(layout.values(data)[0]) == len(FIELDS)
