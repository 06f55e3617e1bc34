"""The CO2e of a run: the energy that was metered, as electricity of the grid that the configuration names. Pure.

    CO2e [g] = energy [J] / 3,600,000 [J/kWh] x PUE x grid intensity [g/kWh]

Only where an intensity or a country was configured (`yprovd.grids`), and only of the energy that the run's report
gives: nothing is added for what no meter sees or for the time that it does not cover; the text says so. Without a PUE
the data centre's overhead is not in it. What making the machines emitted is not in it either.

In prov.json, on the entity `energy` (and the first one on the run): `yp:co2eGrams`, `yp:carbonIntensityGramsPerKWh`,
`yp:pue`, `yp:carbonCountry`, `yp:carbonSource`, `yp:carbonYear`, `yp:co2eText`; without a figure the text says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yprovd.stitch.report import EnergyReport

J_PER_KWH = 3_600_000.0


@dataclass(frozen=True)
class Footprint:
    """`grams` is None without energy; `text` is for a person, and has the formula with its numbers."""

    grams: float | None
    intensity: float
    pue: float | None
    country: str
    source: str
    year: int | None
    text: str


def footprint_of(report: EnergyReport, settings: Mapping[str, Any]) -> Footprint | None:
    """None where nothing was configured. `settings`: those of the run, as its record has them."""
    carbon = settings.get("carbon")
    if not isinstance(carbon, Mapping) or not isinstance(carbon.get("intensity"), int | float):
        return None
    intensity, pue = float(carbon["intensity"]), carbon.get("pue")
    pue = float(pue) if isinstance(pue, int | float) else None
    country, source = str(carbon.get("country") or ""), str(carbon.get("source") or "")
    year = carbon["year"] if isinstance(carbon.get("year"), int) else None
    grams = None
    if report.energy_j is None:
        text = f"no CO2e: no energy was measured{f' ({report.reason})' if report.reason else ''}"
    else:
        kwh = report.energy_j / J_PER_KWH
        grams = kwh * (1.0 if pue is None else pue) * intensity
        text = "; ".join([f"{grams:.6g} g CO2e = {kwh:.6g} kWh" + (f" x PUE {pue:g}" if pue is not None else "")
                          + f" x {intensity:g} g/kWh ({_where(country, source, year)})", *_limits(report, pue)])
    return Footprint(grams, intensity, pue, country, source, year, text)


def _where(country: str, source: str, year: int | None) -> str:
    return ", ".join([*filter(None, [country, source or "as configured"]), *([str(year)] if year else [])])


def _limits(report: EnergyReport, pue: float | None) -> list[str]:
    """What the figure is not."""
    out = [f"of energy that is {report.method}" + (f", scope {report.scope}" if report.scope else "")]
    if report.not_covered:
        out.append("without " + ", ".join(report.not_covered))
    if report.coverage is not None and report.coverage < 0.995:
        out.append(f"for {100 * report.coverage:.0f} % of the time")
    if report.shared:
        out.append("other jobs may have used a part of it")
    if pue is None:
        out.append("without the data centre's overhead")
    return out


def carbon_attributes(footprint: Footprint | None) -> dict[str, Any]:
    """The attributes of the entity that stands for the energy of the run."""
    if footprint is None:
        return {}
    return {
        "yp:co2eGrams": footprint.grams, "yp:carbonIntensityGramsPerKWh": footprint.intensity,
        "yp:pue": footprint.pue, "yp:carbonCountry": footprint.country, "yp:carbonSource": footprint.source,
        "yp:carbonYear": footprint.year, "yp:co2eText": footprint.text,
    }
