"""The carbon intensity of electricity: what a user says of the grid that a run was fed from, and a table of countries.

A run has no CO2e unless its configuration says how much CO2e a kWh stands for:

    carbon: {intensity: 120, source: "our provider's report", year: 2025, pue: 1.1}
    carbon: {country: DE, pue: 1.35}

`intensity`: g CO2e per kWh; `country`: a row of the table instead. `pue`: power usage effectiveness, the power of the
whole data centre over that of its computers (ISO/IEC 30134-2), so >= 1.

The table: mean of the year over the electricity that a country generates (imports are not in it), emissions of the
whole life cycle, from Ember's *Yearly Electricity Data* (https://ember-energy.org/data/yearly-electricity-data, CC BY
4.0), as packaged by the Green Web Foundation's CO2.js, `data/output/average-intensities.json`. The year of each row is
its own. An hour, a region or a contract may be far from such a mean: who knows better gives `intensity`. A country
without a value is not in the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from yprovd.errors import YprovError

SOURCE = "Ember, Yearly Electricity Data"
#: More than any grid has (coal from old plants: some 1,300 g); below 1 it was meant in kg.
MOST_INTENSITY = 5000.0
MOST_PUE = 10.0


class Carbon(NamedTuple):
    """What was configured, resolved: with a country, `intensity`, `source` and `year` are those of its row. Without an
    intensity nothing was."""

    intensity: float | None = None
    country: str = ""
    pue: float | None = None
    source: str = ""
    year: int | None = None


class Grid(NamedTuple):
    """ISO 3166-1 alpha-2 and alpha-3, name, g CO2e per kWh, the year that it is the mean of."""

    code: str
    long_code: str
    name: str
    intensity: float
    year: int


GRIDS = {row[0]: Grid(*row) for row in (
    ("AE", "ARE", "United Arab Emirates", 492.70, 2023), ("AM", "ARM", "Armenia", 244.34, 2024),
    ("AR", "ARG", "Argentina", 358.95, 2024), ("AT", "AUT", "Austria", 102.62, 2024),
    ("AU", "AUS", "Australia", 551.59, 2024), ("AZ", "AZE", "Azerbaijan", 633.07, 2024),
    ("BA", "BIH", "Bosnia and Herzegovina", 637.76, 2024), ("BD", "BGD", "Bangladesh", 694.63, 2024),
    ("BE", "BEL", "Belgium", 117.58, 2024), ("BG", "BGR", "Bulgaria", 264.21, 2024),
    ("BR", "BRA", "Brazil", 103.21, 2024), ("BY", "BLR", "Belarus", 313.62, 2024),
    ("CA", "CAN", "Canada", 174.81, 2024), ("CH", "CHE", "Switzerland", 36.60, 2024),
    ("CL", "CHL", "Chile", 265.52, 2024), ("CN", "CHN", "China", 559.55, 2024),
    ("CO", "COL", "Colombia", 285.80, 2024), ("CR", "CRI", "Costa Rica", 63.01, 2024),
    ("CY", "CYP", "Cyprus", 512.24, 2024), ("CZ", "CZE", "Czechia", 413.86, 2024),
    ("DE", "DEU", "Germany", 344.14, 2024), ("DK", "DNK", "Denmark", 143.30, 2024),
    ("DO", "DOM", "Dominican Republic", 566.05, 2024), ("EC", "ECU", "Ecuador", 209.70, 2024),
    ("EE", "EST", "Estonia", 341.02, 2024), ("EG", "EGY", "Egypt", 571.92, 2024),
    ("ES", "ESP", "Spain", 146.15, 2024), ("FI", "FIN", "Finland", 72.25, 2024),
    ("FR", "FRA", "France", 44.18, 2024), ("GB", "GBR", "United Kingdom", 210.89, 2024),
    ("GE", "GEO", "Georgia", 143.06, 2024), ("GR", "GRC", "Greece", 319.76, 2024),
    ("HK", "HKG", "Hong Kong", 681.99, 2023), ("HR", "HRV", "Croatia", 174.48, 2024),
    ("HU", "HUN", "Hungary", 182.82, 2024), ("ID", "IDN", "Indonesia", 682.43, 2023),
    ("IE", "IRL", "Ireland", 279.70, 2024), ("IL", "ISR", "Israel", 567.26, 2023),
    ("IN", "IND", "India", 708.32, 2024), ("IS", "ISL", "Iceland", 28.33, 2023),
    ("IT", "ITA", "Italy", 287.53, 2024), ("JP", "JPN", "Japan", 482.32, 2024),
    ("KE", "KEN", "Kenya", 88.79, 2024), ("KR", "KOR", "South Korea", 414.27, 2024),
    ("KW", "KWT", "Kuwait", 637.24, 2024), ("KZ", "KAZ", "Kazakhstan", 801.95, 2024),
    ("LT", "LTU", "Lithuania", 139.34, 2024), ("LU", "LUX", "Luxembourg", 134.62, 2024),
    ("LV", "LVA", "Latvia", 136.22, 2024), ("MA", "MAR", "Morocco", 577.65, 2024),
    ("MD", "MDA", "Moldova", 631.68, 2024), ("ME", "MNE", "Montenegro", 413.51, 2024),
    ("MK", "MKD", "North Macedonia", 568.97, 2024), ("MT", "MLT", "Malta", 484.16, 2024),
    ("MX", "MEX", "Mexico", 484.83, 2024), ("MY", "MYS", "Malaysia", 609.85, 2024),
    ("NG", "NGA", "Nigeria", 507.85, 2024), ("NL", "NLD", "Netherlands", 253.31, 2024),
    ("NO", "NOR", "Norway", 30.75, 2024), ("NZ", "NZL", "New Zealand", 120.11, 2024),
    ("OM", "OMN", "Oman", 545.25, 2024), ("PE", "PER", "Peru", 263.27, 2024),
    ("PH", "PHL", "Philippines", 613.38, 2024), ("PK", "PAK", "Pakistan", 398.61, 2024),
    ("PL", "POL", "Poland", 614.98, 2024), ("PT", "PRT", "Portugal", 112.29, 2024),
    ("QA", "QAT", "Qatar", 602.83, 2024), ("RO", "ROU", "Romania", 245.55, 2024),
    ("RS", "SRB", "Serbia", 673.16, 2024), ("RU", "RUS", "Russia", 449.20, 2024),
    ("SA", "SAU", "Saudi Arabia", 696.31, 2023), ("SE", "SWE", "Sweden", 35.82, 2024),
    ("SG", "SGP", "Singapore", 498.74, 2024), ("SI", "SVN", "Slovenia", 227.65, 2024),
    ("SK", "SVK", "Slovakia", 96.49, 2024), ("TH", "THA", "Thailand", 554.50, 2024),
    ("TN", "TUN", "Tunisia", 560.25, 2024), ("TR", "TUR", "Türkiye", 469.70, 2024),
    ("TW", "TWN", "Taiwan", 635.65, 2024), ("UA", "UKR", "Ukraine", 256.21, 2022),
    ("US", "USA", "United States", 383.55, 2024), ("UY", "URY", "Uruguay", 96.70, 2024),
    ("VN", "VNM", "Viet Nam", 471.16, 2024), ("ZA", "ZAF", "South Africa", 708.88, 2024),
)}
_ALIASES = {grid.long_code: code for code, grid in GRIDS.items()} | {"UK": "GB", "EL": "GR"}


def checked(where: str, value: Any) -> Carbon:
    """The mapping of a configuration as `Carbon`. Raises YprovError that says what is wrong with which key."""
    if not isinstance(value, Mapping):
        raise YprovError(f"{where}: `carbon` must be a mapping, not `{value}`", hint="carbon: {country: DE, pue: 1.2}")
    known = Carbon._fields
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise YprovError(f"{where}: unknown key `{key}` in `carbon`",
                             hint=f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}")
    pue = value.get("pue")
    if pue is not None and not (_is_number(pue) and 1 <= pue <= MOST_PUE):
        raise YprovError(f"{where}: `carbon`: `pue` must be a number from 1 to {MOST_PUE:g}, not `{pue}`",
                         hint="it is the power of the whole data centre over that of its computers")
    overhead = None if pue is None else float(pue)
    intensity, country = value.get("intensity"), value.get("country")
    if intensity is not None:
        return Carbon(_intensity(where, intensity), _code(country), overhead, str(value.get("source") or ""),
                      _year(where, value.get("year")))
    if country is None:
        raise YprovError(f"{where}: `carbon` has neither an `intensity` nor a `country`",
                         hint="carbon: {intensity: 120}   in g CO2e per kWh, or carbon: {country: DE}")
    for key in ("source", "year"):
        if value.get(key) is not None:
            raise YprovError(f"{where}: `carbon`: `{key}` is for an `intensity`; a `country` has its own")
    grid = grid_of(where, country)
    return Carbon(grid.intensity, grid.code, overhead, SOURCE, grid.year)


def grid_of(where: str, country: Any) -> Grid:
    """The row of a country by its code of two or three letters. Raises YprovError with the nearest one."""
    code = _code(country)
    if grid := GRIDS.get(_ALIASES.get(code, code)):
        return grid
    names = {grid.name.upper(): grid.code for grid in GRIDS.values()}
    # Of two letters many are near: only who writes a name or three is likely to mean something like it.
    near = difflib.get_close_matches(code, [*names, *_ALIASES], n=1) if len(code) > 2 else []
    known = names.get(near[0]) or _ALIASES.get(near[0]) if near else None
    raise YprovError(f"{where}: `carbon`: there is no intensity for the country `{country}`",
                     hint=f"did you mean `{known}` ({GRIDS[known].name})?" if known else
                     "give the intensity of the grid in g CO2e per kWh instead: carbon: {intensity: 380}")


def _code(country: Any) -> str:
    if country is False:
        return "NO"  # what YAML 1.1 makes of Norway
    return "" if country is None else str(country).strip().upper()


def _intensity(where: str, value: Any) -> float:
    if not (_is_number(value) and 0 <= value <= MOST_INTENSITY):
        raise YprovError(f"{where}: `carbon`: `intensity` must be a number from 0 to {MOST_INTENSITY:g}, not `{value}`",
                         hint="it is in g CO2e per kWh")
    if 0 < value < 1:
        raise YprovError(f"{where}: `carbon`: an `intensity` of {value:g} g per kWh is that of no grid",
                         hint=f"if it was in kg: {value * 1000:g}")
    return float(value)


def _year(where: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1990 <= value <= 2200:
        raise YprovError(f"{where}: `carbon`: `year` must be a year, not `{value}`")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
