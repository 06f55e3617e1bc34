"""CO2e of a run: only where a grid was configured, only of what was metered, with the numbers that it was made of."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stitch.golden.small import small_attribution, small_record, small_series
from yprov.settings import resolve
from yprovd.config import RunConfig, Settings
from yprovd.errors import YprovError
from yprovd.grids import GRIDS, SOURCE, Carbon, checked, grid_of
from yprovd.stitch.carbon import carbon_attributes, footprint_of
from yprovd.stitch.provenance import build_document
from yprovd.stitch.report import EnergyReport
from yprovd.stitch.validate import check_document

KWH = 3.6e6


def report(energy_j: float | None = KWH, **more: Any) -> EnergyReport:
    return EnergyReport(energy_j, "measured" if energy_j is not None else "absent", (), 1.0, **more)


def settings(**carbon: Any) -> dict[str, Any]:
    return {"carbon": carbon}


# -- the figure --------------------------------------------------------------------------------------------------------


@given(joules=st.floats(0, 1e15), intensity=st.floats(1, 5000), pue=st.none() | st.floats(1, 10))
def test_is_energy_times_overhead_times_intensity(joules: float, intensity: float, pue: float | None) -> None:
    found = footprint_of(report(joules), settings(intensity=intensity, pue=pue))
    assert found is not None
    assert found.grams == pytest.approx(joules / KWH * (pue or 1.0) * intensity)


def test_text_has_the_formula_the_intensity_the_source_and_the_year() -> None:
    found = footprint_of(report(2 * KWH, scope="node"), checked_settings(country="DE", pue=1.5))
    assert found is not None
    assert found.text == (f"1032.42 g CO2e = 2 kWh x PUE 1.5 x 344.14 g/kWh (DE, {SOURCE}, 2024); "
                          "of energy that is measured, scope node")


def checked_settings(**carbon: Any) -> dict[str, Any]:
    return {"carbon": checked("a file", carbon)._asdict()}


def test_text_says_that_others_may_have_used_a_part_of_it() -> None:
    found = footprint_of(report(shared=True), settings(intensity=100))
    assert found is not None
    assert "other jobs may have used a part of it" in found.text


def test_text_says_what_is_not_in_the_figure() -> None:
    seen = replace(report(scope="partial", not_covered=("memory", "network")), coverage=0.8)
    found = footprint_of(seen, settings(intensity=100))
    assert found is not None
    assert found.grams == pytest.approx(100.0)  # nothing is added for the fifth of the time that no meter saw
    assert found.text == ("100 g CO2e = 1 kWh x 100 g/kWh (as configured); of energy that is measured, scope partial; "
                          "without memory, network; for 80 % of the time; without the data centre's overhead")


def test_without_energy_there_is_no_figure_but_a_reason() -> None:
    found = footprint_of(report(None, reason="no meter"), settings(intensity=100))
    assert found is not None
    assert (found.grams, found.text) == (None, "no CO2e: no energy was measured (no meter)")


@pytest.mark.parametrize("known", [{}, {"carbon": None}, {"carbon": Carbon()._asdict()}, {"carbon": "x"},
                                   {"carbon": {"intensity": "many"}}])
def test_absent_unless_configured(known: dict[str, Any]) -> None:
    assert footprint_of(report(), known) is None
    assert carbon_attributes(None) == {}


# -- in the document ---------------------------------------------------------------------------------------------------


def document(**carbon: Any) -> dict[str, Any]:
    record = small_record()
    if carbon:
        known = {**record.run["config"]["settings"], "carbon": carbon}
        record.run["config"] = {**record.run["config"], "settings": known}
    doc: dict[str, Any] = json.loads(build_document(record, small_attribution(), small_series()))
    assert check_document(doc) == []
    return doc


def number(value: Any) -> float:
    return float(value["$"] if isinstance(value, dict) else value)


def test_document_has_it_on_the_energy_and_the_run() -> None:
    doc = document(intensity=360.0, pue=1.25, source="our provider", year=2025, country="")
    energy = doc["entity"]["run:energy"]
    assert number(energy["yp:co2eGrams"]) == pytest.approx(100.0 / KWH * 1.25 * 360)
    assert number(doc["activity"]["run:run"]["yp:co2eGrams"]) == number(energy["yp:co2eGrams"])
    assert (number(energy["yp:carbonIntensityGramsPerKWh"]), number(energy["yp:pue"])) == (360.0, 1.25)
    assert (energy["yp:carbonSource"], number(energy["yp:carbonYear"])) == ("our provider", 2025)
    assert "360 g/kWh (our provider, 2025)" in energy["yp:co2eText"]
    assert not any("co2e" in key for key in doc["activity"]["run:ctx/training"])


def test_document_has_nothing_of_it_unless_configured() -> None:
    assert not re.search(":(co2e|carbon|pue)", json.dumps(document()), re.IGNORECASE)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_rows_are_countries_with_plausible_values() -> None:
    assert len(GRIDS) > 60
    assert len({g.long_code for g in GRIDS.values()}) == len({g.name for g in GRIDS.values()}) == len(GRIDS)
    for code, grid in GRIDS.items():
        assert re.fullmatch("[A-Z]{2}", code)
        assert re.fullmatch("[A-Z]{3}", grid.long_code)
        assert 10 < grid.intensity < 1000
        assert 2022 <= grid.year <= 2024


@pytest.mark.parametrize(("said", "code"), [("DE", "DE"), ("de", "DE"), ("DEU", "DE"), ("UK", "GB"), (" fr ", "FR"),
                                            (False, "NO")])  # what YAML makes of `NO`
def test_country_by_its_code(said: Any, code: str) -> None:
    assert grid_of("here", said).code == code


@pytest.mark.parametrize(("said", "nearest"), [("Germny", "`DE` (Germany)"), ("DUE", "`DE` (Germany)"),
                                               ("United States", "`US` (United States)"), ("Swtzerland", "`CH`")])
def test_unknown_country_offers_the_nearest(said: str, nearest: str) -> None:
    with pytest.raises(YprovError, match=f"no intensity for the country `{said}`") as caught:
        grid_of("here", said)
    assert nearest in caught.value.hint


@pytest.mark.parametrize("said", ["XX", "EU", "", "?!", "Atlantis", 7, True, None])
def test_country_like_no_other_is_told_to_give_the_intensity(said: Any) -> None:
    with pytest.raises(YprovError) as caught:
        grid_of("here", said)
    assert "carbon: {intensity: 380}" in caught.value.hint


# -- the configuration -------------------------------------------------------------------------------------------------


def test_country_is_resolved_when_it_is_configured() -> None:
    """So that a stitch next year, with next year's table, gives the same."""
    assert checked("here", {"country": "fra", "pue": 1}) == Carbon(44.18, "FR", 1.0, SOURCE, 2024)
    assert checked("here", {"intensity": 12, "source": "x", "year": 2025}) == Carbon(12.0, "", None, "x", 2025)
    assert checked("here", {"intensity": 0}).intensity == 0.0


@pytest.mark.parametrize("value", [-1, -0.0001, math.nan, math.inf, -math.inf, 5001, "380", True, [380], {}])
def test_intensity_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(YprovError, match=r"^here: `carbon`: `intensity` must be a number from 0 to 5000, not"):
        checked("here", {"intensity": value})


def test_intensity_in_kilograms_is_refused() -> None:
    with pytest.raises(YprovError, match=r"0\.38 g per kWh is that of no grid") as caught:
        checked("here", {"intensity": 0.38})
    assert caught.value.hint == "if it was in kg: 380"


@pytest.mark.parametrize("value", [0.99, 0, -1, math.nan, math.inf, 10.1, "1.2", True])
def test_pue_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(YprovError, match="`pue` must be a number from 1 to 10, not"):
        checked("here", {"country": "DE", "pue": value})


@pytest.mark.parametrize(("value", "message", "hint"), [
    ("DE", "`carbon` must be a mapping, not `DE`", "carbon: {country"),
    ({}, "neither an `intensity` nor a `country`", "carbon: {intensity: 120}"),
    ({"pue": 1.2}, "neither an `intensity` nor a `country`", "carbon: {intensity: 120}"),
    ({"contry": "DE"}, "unknown key `contry`", "did you mean `country`?"),
    ({"zzz": 1}, "unknown key `zzz`", "known keys: intensity, country"),
    ({"country": "DE", "year": 2020}, "`year` is for an `intensity`", ""),
    ({"intensity": 1, "year": "last"}, "`year` must be a year", ""),
    ({"intensity": 1, "year": True}, "`year` must be a year", ""),
])
def test_mistake_is_named(value: Any, message: str, hint: str) -> None:
    with pytest.raises(YprovError, match=re.escape(message)) as caught:
        Settings.from_mapping({"carbon": value}, where="`f.yaml`")
    assert str(caught.value).startswith("`f.yaml`: ")
    assert hint in caught.value.hint


def test_option_takes_the_place_of_the_files_grid_and_leaves_its_pue(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("carbon: {country: NO, pue: 1.4}\n")
    assert resolve(file, {}).carbon == Carbon(30.75, "NO", 1.4, SOURCE, 2024)
    assert resolve(file, {"carbon": "120"}).carbon == Carbon(120.0, "", 1.4)
    assert resolve(file, {"carbon": "at", "pue": 1.1}).carbon == Carbon(102.62, "AT", 1.1, SOURCE, 2024)
    assert resolve(file, {"pue": 1.1}).carbon.country == "NO"
    assert resolve(None, {}).carbon == Carbon()
    for wrong in ("-1", "nan", "inf", "Atlantis"):
        with pytest.raises(YprovError, match=r"^options: `carbon`"):
            resolve(file, {"carbon": wrong})
    with pytest.raises(YprovError, match="neither an `intensity` nor a `country`"):
        resolve(None, {"pue": 1.1})


def test_run_of_before_has_none() -> None:
    config = RunConfig("id", "name", 1, ("true",), "/", "/tmp/x", Settings(carbon=Carbon(12.0, pue=1.1)))
    doc = json.loads(json.dumps(config.to_json()))
    assert RunConfig.from_json(doc) == config
    del doc["settings"]["carbon"]
    assert RunConfig.from_json(doc).settings.carbon == Carbon()
