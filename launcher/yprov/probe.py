"""A report of a machine that we never saw, small enough to be sent: what its sensors are, what their numbers really do
and how long a look at them takes.

The file `yprov-probe-<host>-<UTC stamp>.json` is one object. What could not be seen is null or left out; times are
seconds unless a name says otherwise (`_us`); nothing in it is a command line, a job's name or data, or a user's name.

    format      "yprov-probe"
    version     1; it changes when a program that reads an older one would be wrong
    made        at (UTC), yprov, asked_s, watched_s, ended_early, anonymous, root (only when it is not /)
    host        host; kernel, processor, memory, product, drivers, libraries, our control group (yprov.sightings)
    variables   of the environment, those that say which devices a job has
    sources     a row per sensor: those of `yprov doctor --json`, and reads, p50_us, p99_us, max_us of reads in a row,
                slowest_us of all the others
    devices     a row per device: class, id, name, attributes
    metrics     a row per number: source, device (class/id), name, unit, kind, resolution (as announced), reads, absent,
                changes, backward (changes to less), first, last, min, max, distinct (at most 1000 are counted), step
                (the smallest change), update_s (median time between changes), looked_s (median time between looks: an
                update_s near it may be less in truth), traced (recorded by the device itself); where the device stamps
                it: stamp {update_s, lag_min_s, lag_median_s, lag_max_s}, the age of the value when it was read
    meters      a row per energy counter with a power beside it: device, meter, seconds, joules, integrated_j, ratio
                (counter / integrated), resets; without a ratio, why
    modules     a row per meter that several dies share: device, members; and of which no member has a meter
    pairs       the accelerators of pm_counters and the GPUs' own meters: rows of correlations, the best match of each
    cards       AMD: a row per card, with gpu_metrics as it is (hex)
    library     AMD: outcome, version, and what the library answers of power, energy and modules, per GPU
    topology    AMD: KFD's nodes and links
    paths       known files: mode, owner, outcome, latency; device files: whether they may be opened
    open_points questions that documents leave open, and what was seen here: point, seen, data
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from yprov import doctor, sightings
from yprov.discretion import Discretion
from yprov.findings import Pairs, device_of, open_points
from yprov.seen import DISTINCT
from yprov.watching import CALL_S, OPEN_S, Watch, Worker, watch_all
from yprovd import __version__
from yprovd.errors import YprovError
from yprovd.sensors import SENSORS

FORMAT, VERSION = "yprov-probe", 1
#: For so long, and so often, each source is read quickly while the others are quiet: one with a meter, and any other.
_METERED_S, _OTHER_S, _READS = 0.5, 0.05, 500


def take(
    root: str, seconds: float, *, stop: threading.Event, anonymous: bool = False, table: Mapping[str, str] = SENSORS,
    progress: Callable[[str], None] = lambda stage: None, open_s: float = OPEN_S,
) -> dict[str, Any]:
    """Watch every source for `seconds`, or until `stop` is set, and say what was seen. What the kernel or a driver
    holds up for longer than its deadline is left out, and said."""
    at = datetime.now(UTC)
    pairs = Pairs()

    def tick(elapsed: float, watches: Sequence[Watch]) -> None:
        progress(f"watching {len(table)} sources: {elapsed:.0f} of {seconds:.0f} s")
        pairs.take(watches)

    def quickly_s(watch: Watch) -> float:
        return _METERED_S if any(m.name in ("hw.energy", "hw.power") for m in watch.metrics) else _OTHER_S

    watches, watched_s = watch_all(doctor.surroundings(root), table, reads=_READS, burst_s=quickly_s, seconds=seconds,
                                   stop=stop, tick=tick, open_s=open_s)
    progress("looking at files")
    sources = [_source(w, root) for w in watches]
    looked = {name: _bounded(name, look) for name, look in {
        "paths": lambda: sightings.paths(root), "cards": lambda: sightings.cards(root),
        "topology": lambda: sightings.topology(root), "identity": lambda: sightings.identity(root)}.items()}
    library: dict[str, Any] = {}
    if looked["cards"]:
        library = _bounded("library", lambda: sightings.library(doctor.surroundings(root))) or {"outcome": "hangs"}
    doc: dict[str, Any] = {
        "format": FORMAT, "version": VERSION,
        "made": {"at": at.isoformat(timespec="seconds"), "yprov": __version__, "asked_s": seconds,
                 "watched_s": round(watched_s, 2), "ended_early": stop.is_set(), "anonymous": anonymous,
                 **({"root": root} if root != "/" else {})},
        "host": {**doctor.host(), **cast(dict[str, Any], looked["identity"] or {})},
        "variables": sightings.variables(os.environ),
        "sources": sources, "devices": _devices(watches),
        "metrics": [row for w in watches for row in _metrics(w)],
        "meters": [row for w in watches for row in _meters(w)], "modules": _modules(watches),
        "pairs": pairs.result(), "library": library, "cards": looked["cards"] or [],
        "topology": looked["topology"] or [], "paths": looked["paths"] or [],
    }
    doc["open_points"] = open_points(doc)
    return cast(dict[str, Any], Discretion(anonymous=anonymous).document(_finite(doc)))


def ensure_writable(folder: Path) -> None:
    """Before a long look. Raises YprovError."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise YprovError(f"cannot write the report to `{folder.absolute()}`: {e.strerror}",
                         hint="cd to a directory that you may write to") from None


def write(doc: Mapping[str, Any], folder: Path) -> Path:
    """The report as a file with a name of its own. Raises YprovError."""
    stamp = datetime.fromisoformat(doc["made"]["at"]).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"yprov-probe-{doc['host']['host'].partition('.')[0]}-{stamp}.json"
    try:
        beside = path.with_suffix(".tmp")
        beside.write_text(_text(doc), encoding="utf-8")
        beside.rename(path)
    except OSError as e:
        raise YprovError(f"cannot write `{path}`: {e.strerror}", hint="is there room on the disk?") from None
    return path


def _text(doc: Mapping[str, Any]) -> str:
    """JSON with a line for each row: half the size of an indented one, and easier to look through."""
    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    parts = [f"{text(name)}: " + ("[\n  " + ",\n  ".join(map(text, value)) + "\n ]" if isinstance(value, list) and value
                                  else text(value)) for name, value in doc.items()]
    return "{\n " + ",\n ".join(parts) + "\n}\n"


@contextmanager
def ended_by_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; a second one acts as it always did."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def handle(signum: int, _frame: object) -> None:
        stop.set()
        signal.signal(signum, before[signum])

    for signum in (signal.SIGINT, signal.SIGTERM):
        before[signum] = signal.signal(signum, handle)
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def lines(doc: Mapping[str, Any]) -> list[str]:
    """What a person wants to know of it at once: the meters, and what was seen of the open points."""
    out = []
    if doc["meters"]:
        out = [f"{'METER':<28}{'SECONDS':>8}{'JOULES':>12}{'POWER x TIME':>14}{'RATIO':>8}"]
        for m in doc["meters"]:
            name = doctor.brief(m["device"])
            out.append(f"{name:<28}  {m['why']}" if "why" in m else
                       f"{name:<28}{m['seconds']:>8.1f}{m['joules']:>12.1f}{m['integrated_j']:>14.1f}{m['ratio']:>8.3f}")
        out.append("")
    return out + [f"{p['point']}: {p['seen']}" for p in doc["open_points"] if p["data"]]


def _bounded(name: str, look: Callable[[], Any]) -> Any:
    """What it returns; None when it fails or takes too long. A file system may hang, too."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(look())
        except Exception as e:  # noqa: BLE001  a strange machine is what this is for: the rest of the report counts
            why = {"outcome": f"{type(e).__name__}: {e}"}
            found.append(why if name in ("identity", "library") else [why])

    worker = Worker(name)
    worker.ask(name, run)
    worker.wait(5 * CALL_S)
    worker.end()
    return found[0] if found else None


def _source(watch: Watch, root: str) -> dict[str, Any]:
    times = [1e6 * s for s in watch.burst_s]
    more: dict[str, Any] = {"reads": watch.good, "slowest_us": round(1e6 * watch.slow_s, 1)}
    return asdict(doctor.source_of(watch, root)) | more | (sightings.latency(times) if times else {})


def _devices(watches: Sequence[Watch]) -> list[dict[str, Any]]:
    found = {(m.device.cls, m.device.id): m.device for w in watches
             for m in (*w.metrics, *(t.metric for t in w.traced)) if m.device is not None}
    return [{"class": d.cls, "id": d.id, "name": d.name, "attributes": dict(d.attributes)} for d in found.values()]


def _metrics(watch: Watch) -> list[dict[str, Any]]:
    stamps = {(device_of(s), s.metric.name.removesuffix(".time")): s for s in watch.seen if s.metric.kind == "time"}
    rows = []
    for seen in (*watch.seen, *watch.traced):
        m = seen.metric
        if m.kind == "time":
            continue
        row = {"source": watch.name, "device": device_of(seen), "name": m.name, "unit": m.unit, "kind": m.kind,
               "resolution": m.resolution, "reads": seen.reads, "absent": seen.absent, "changes": seen.changes,
               "backward": seen.backward, "first": seen.first, "last": seen.last, "min": seen.min, "max": seen.max,
               "distinct": min(len(seen.values), DISTINCT), "step": _digits(seen.step),
               "update_s": _digits(seen.update_s), "looked_s": _digits(seen.looked_s)}
        if any(seen is t for t in watch.traced):
            row["traced"] = True
        if (stamp := stamps.get((device_of(seen), m.name))) is not None and stamp.lags:
            strides = stamp.strides or (math.nan,)
            row["stamp"] = {"update_s": _digits(statistics.median(strides)), "lag_min_s": _digits(min(stamp.lags)),
                            "lag_median_s": _digits(statistics.median(stamp.lags)),
                            "lag_max_s": _digits(max(stamp.lags))}
        rows.append(row)
    return rows


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _meters(watch: Watch) -> list[dict[str, Any]]:
    rows = []
    for meter in watch.meters:
        energy = watch.seen[meter.at[0]]
        device = energy.metric.device
        row: dict[str, Any] = {"device": device_of(energy),
                               "meter": device.attributes.get("meter", "") if device is not None else "",
                               "resets": meter.resets}
        seconds, joules, integrated = meter.result()
        if joules == joules and integrated > 0:
            row.update(seconds=_digits(seconds), joules=_digits(joules), integrated_j=_digits(integrated),
                       ratio=_digits(joules / integrated))
        else:
            power = watch.seen[meter.at[1]]
            row["why"] = ("its counter was never there" if energy.absent == energy.reads
                          else "no power beside it" if power.absent == power.reads
                          else f"its counter changed {energy.changes} times, which is too seldom to compare")
        rows.append(row)
    return rows


def _modules(watches: Sequence[Watch]) -> list[dict[str, Any]]:
    """Meters that are shared by several dies; and which of those dies have an energy of their own all the same."""
    metered = {device_of(s).partition("/")[2] for w in watches for s in w.seen
               if s.metric.name == "hw.energy" and s.absent < s.reads}
    rows = []
    for device in _devices(watches):
        if members := str(device["attributes"].get("members") or ""):
            ids = [m.strip() for m in members.split(",")]
            rows.append({"device": f"{device['class']}/{device['id']}", "members": ids,
                         "members_with_energy": [m for m in ids if m in metered]})
    return rows


def _finite(value: Any) -> Any:
    """What is not there is null: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
