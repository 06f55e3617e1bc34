"""What a report says of questions that documents about these machines leave open: figures from several sources, put
beside each other. Pure, but for `Pairs`, which collects powers while sensors are watched.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from yprov.seen import Seen
from yprov.watching import Watch

#: Powers of accelerators are compared where they varied by so many watts (standard deviation). A match is clear with
#: such a correlation, and with so much less of the second best.
_METERS = ("gpu", "module")
_VARIED_W, _CLEAR, _AHEAD = 2.0, 0.8, 0.1
#: Looks of which the mean is compared (a second).
_SMOOTH = 4


def device_of(seen: Seen) -> str:
    """`class/id`, "" for the node."""
    device = seen.metric.device
    return "" if device is None else f"{device.cls}/{device.id}"


class Pairs:
    """Powers of the accelerators of pm_counters, and of the GPUs' own meters, at the same times."""

    def __init__(self) -> None:
        self._powers: dict[str, list[float]] = {}
        self._rows = 0

    def take(self, watches: Sequence[Watch]) -> None:
        now = {}
        for watch in watches:
            for seen, value in zip(watch.seen, watch.latest, strict=False):
                device = seen.metric.device
                if seen.metric.name == "hw.power" and device is not None and device.attributes.get("meter") in _METERS:
                    now[device_of(seen)] = value
        for name, value in now.items():
            column = self._powers.setdefault(name, [math.nan] * self._rows)
            column.append(value)
        self._rows += 1
        for column in self._powers.values():
            column += [math.nan] * (self._rows - len(column))

    def result(self) -> dict[str, Any]:
        """`matches`: of each accelerator the meter that goes with it best; `clear`: none other does nearly as well."""
        ours = {n: c for n, c in self._powers.items() if n.startswith("cray/accel")}
        theirs = {n: c for n, c in self._powers.items() if not n.startswith("cray/")}
        if not ours or not theirs:
            return {}
        table = {a: {b: _correlation(x, y) for b, y in theirs.items()} for a, x in ours.items()}
        matches = {}
        for accel, row in table.items():
            ranked = sorted(((r, name) for name, r in row.items() if r is not None), reverse=True)
            if ranked:
                second = ranked[1][0] if len(ranked) > 1 else -1.0
                matches[accel] = {"with": ranked[0][1], "correlation": ranked[0][0],
                                  "clear": ranked[0][0] >= _CLEAR and ranked[0][0] - second >= _AHEAD}
        taken = [m["with"] for m in matches.values()]
        for match in matches.values():
            match["clear"] = match["clear"] and taken.count(match["with"]) == 1
        return {"looks": self._rows, "correlations": table, "matches": matches}


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """None where one of the two hardly varied: noise goes with anything."""
    both = [(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b]
    if len(both) < _SMOOTH + 8:
        return None
    a, b = (_smooth(column) for column in zip(*both, strict=True))
    if min(statistics.pstdev(a), statistics.pstdev(b)) < _VARIED_W:
        return None
    return round(statistics.correlation(a, b), 4)


def _smooth(column: Sequence[float]) -> list[float]:
    """Moving means: the two are not scanned at the same moment, and an edge may show in one look and not yet in the
    other."""
    return [statistics.fmean(column[i:i + _SMOOTH]) for i in range(len(column) - _SMOOTH + 1)]


def open_points(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What documents do not tell of such machines, and what was seen here; `data` is empty where nothing was."""
    timed = [r for r in doc["paths"] if "p50_us" in r]
    pm = {r["path"].rpartition("/")[2]: r for r in timed if "/pm_counters/" in r["path"]}
    gpu = [r for r in timed if r["path"].endswith("/gpu_metrics")]
    energies = {m["device"]: {"update_s": m["update_s"], "looked_s": m["looked_s"], "step": m["step"]}
                for m in doc["metrics"] if m["name"] == "hw.energy" and m["update_s"] == m["update_s"]}
    protected = {r["path"]: r["outcome"] for r in doc["paths"]
                 if "powercap" in r.get("path", "") or r.get("path", "").startswith("/dev/")}
    dies = {c["pci"]: c["shows"] for c in doc["cards"] if "shows" in c}
    answers = {row["pci"]: {"energy": row["energy_count"], "power": row["power_info"]}
               for row in (doc["library"] or {}).get("gpus", ())}
    told = {c["pci"]: row for c in doc["cards"] if "pci" in c
            and (row := {k: v for k, v in c.items() if k.startswith("xgmi") or k == "numa_node"})}
    links = {node["node"]: node["links"] for node in doc["topology"] if node.get("links")}
    matches = doc["pairs"].get("matches", {})
    clear = [f"{a.removeprefix('cray/')} = {m['with']}" for a, m in matches.items() if m["clear"]]
    groups = {s["sensor"]: s["outcome"] for s in doc["sources"] if s["sensor"] in ("cgroup", "rapl")}
    seldom = "nothing of the kind is here"
    return [
        {"point": "accelN of pm_counters and GPUs", "data": matches,
         "seen": ", ".join(clear) or ("no clear match: put a load on one GPU after the other" if doc["pairs"] else
                                      seldom)},
        {"point": "dies without a meter of their own", "data": {"files": dies, "library": answers} if dies else {},
         "seen": ", ".join([*(f"{n} x {what}" for what, n in _counted(dies.values())),
                            *(f"{n} x {what} (library)" for what, n in _counted(map(_energy, answers.values())))])
         or seldom},
        {"point": "reading a file of pm_counters", "data": {n: r["p50_us"] for n, r in pm.items()},
         "seen": _worst(list(pm.values())) or seldom},
        {"point": "reading gpu_metrics", "data": {r["path"]: r["p50_us"] for r in gpu}, "seen": _worst(gpu) or seldom},
        {"point": "RAPL, control group and device files", "data": {**groups, **protected},
         "seen": ", ".join(f"{k} {v}" for k, v in groups.items()) + "".join(
             f", {k} {v}" for k, v in list(protected.items())[:6])},
        {"point": "what tells the dies of a module", "data": {"files": told, "links": links} if told or links else {},
         "seen": ", ".join([*sorted({k for row in told.values() for k in row}), *_linked(links)]) or seldom},
        {"point": "energy counters are renewed", "data": energies, "seen": _renewed(energies) or seldom},
    ]


def _energy(answer: Mapping[str, Any]) -> str:
    """Of a die, by the library."""
    energy = answer["energy"]
    if not isinstance(energy, dict):
        return str(energy)
    count = energy.get("energy_accumulator", energy.get("power"))
    return f"an energy of {count}" if not isinstance(count, int) or count == 0 else "an energy counter"


def _linked(links: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Whether of each die's links one is stronger than all others."""
    single = 0
    for row in links.values():
        strengths = sorted(link.get("max_bandwidth", 0) for link in row)
        single += len(strengths) > 1 and strengths[-1] > strengths[-2]
    return [f"the strongest of its links, for {single} of {len(links)} dies"] if links else []


def _renewed(energies: Mapping[str, Mapping[str, float]]) -> str:
    """By class: the medians of its devices."""
    said = []
    for cls in dict.fromkeys(name.partition("/")[0] for name in energies):
        rows = [row for name, row in energies.items() if name.partition("/")[0] == cls]
        update_s, looked_s, step = (statistics.median(r[key] for r in rows) for key in ("update_s", "looked_s", "step"))
        oftener = " or oftener" if update_s < 1.5 * looked_s else ""
        said.append(f"{len(rows)} x {cls} each {1e3 * update_s:.3g} ms{oftener}, by {step:.3g} J at least")
    return "; ".join(said)


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    return (f"{statistics.median(r['p50_us'] for r in rows):.0f} us, the slowest of {len(rows)} files "
            f"{max(r['max_us'] for r in rows):.0f} us")


def _counted(words: Any) -> list[tuple[str, int]]:
    listed = list(words)
    return [(word, listed.count(word)) for word in dict.fromkeys(listed)]
