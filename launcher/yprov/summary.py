"""One run in a few lines: read from prov.json, which is all that it takes. All runs in a table: `yprov.listing`."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Callable
from typing import Any, TypeVar

from yprov.identifying import stated_in, urn_of
from yprov.runs import RunView, plain
from yprov.wording import count, duration, energy, on_one_line, shortened, size
from yprovd.errors import YprovError

T = TypeVar("T")

_MOST_METRICS = 8
_MOST_VALUES = 8
_MOST_DEVICES = 4
#: Coverage of a run from its first to its last sample: the edges cost less than this.
_WHOLE = 0.99
_MOST_STEPS = 5
#: What the run's activity says the document had no room for.
_OMITTED = ("contexts", "epochs", "spans", "files", "parameters", "series", "steps")
_MOST_REASONS = 3
_UNDER_WAY = ("CONFIGURING", "RUNNING", "COMPLETING")


def or_damaged(tell: Callable[[RunView], T]) -> Callable[[RunView], T]:
    """Whatever somebody has put into a document in the place of a number or a record, no traceback comes of it."""
    @functools.wraps(tell)
    def told(view: RunView) -> T:
        try:
            return tell(view)
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as e:
            raise YprovError(f"the archive in `{view.directory}` is damaged ({e})",
                             hint=f"yprov validate {view.directory}") from None
    return told


@or_damaged
def facts(view: RunView) -> dict[str, Any]:
    """What `yprov show --json` prints: state, duration, energy and why it is absent, peak memory, contexts with their
    epochs' number, last value of each metric, parameters, results, steps, the scheduler's job, nodes, those of them
    that were dark (at some time, or always) and why, losses; `omitted`: of what there is more than the document had
    room for, and how much. Of a run that goes on (`running_s`) what run.json says. Figures in s, J, bytes; None:
    absent."""
    run = view.run
    entities = {k: plain(v) for k, v in view.records["entity"].items() if isinstance(v, dict)}
    activities = {k: plain(v) for k, v in view.records["activity"].items() if isinstance(v, dict)}
    energy, nodes, job, code = (entities.get(name, {}) for name in ("energy", "nodes", "job", "code"))
    contexts = {}
    for name, a in activities.items():
        if (a.get("type") is not None and str(a["type"]).endswith("Context")) or (name.startswith("ctx/") and not (
                "/epoch/" in name or "/span/" in name)):
            contexts[str(a.get("context") or a.get("label"))] = {
                "duration_s": a.get("durationSeconds"), "energy_j": a.get("energyJ"), "cpu_s": a.get("cpuSeconds"),
                "peak_memory_bytes": a.get("peakMemoryBytes"), **_gpu(a),
                "epochs": a.get("epochCount") or 0,
            }
    # Of a run that goes on: where daemons were asked for, or this machine.
    awaited = [] if view.run else list(view.config.nodes) or [str(h) for h in [view.config.launcher.get("host")] if h]
    metrics: dict[str, dict[str, Any]] = {}
    non_finite: dict[str, dict[str, int]] = {}
    for key, e in entities.items():
        if key.startswith("series/metrics/") and e.get("source") == "script":
            metrics.setdefault(str(e.get("context")), {})[str(e.get("label"))] = e.get("last")
            if e.get("nonFinite"):
                non_finite.setdefault(str(e.get("context")), {})[str(e.get("label"))] = e["nonFinite"]
    return {
        "run_id": view.config.run_id, "name": view.config.name, "experiment": view.config.settings.experiment,
        "tags": dict(view.config.settings.tags), "commit": code.get("commit"), "dirty": code.get("dirty"),
        "directory": str(view.directory), "state": view.state,
        "reason": run.get("stateReason") if view.running_s is None else None,
        "exit_code": run.get("exitCode"), "command": list(view.config.command),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(view.config.created_ns / 1e9)),
        "duration_s": run.get("durationSeconds"), "running_s": view.running_s,
        "energy_j": energy.get("energyJ"), "energy_method": energy.get("energyMethod"),
        "energy_reason": energy.get("energyReason"), "energy_scope": energy.get("energyScope"),
        "energy_coverage": energy.get("coverage"), "shared": bool(energy.get("shared")),
        "not_covered": str(energy.get("notCovered") or "").splitlines(),
        "energy_notes": str(energy.get("energyNotes") or "").splitlines(),
        "co2e_g": energy.get("co2eGrams"), "co2e_text": energy.get("co2eText"),
        **_gpu(run), "gpu_energy_method": energy.get("gpuEnergyMethod"),
        "gpu_energy_scope": energy.get("gpuEnergyScope"), "gpu_energy_coverage": energy.get("gpuCoverage"),
        "cpu_s": run.get("cpuSeconds"), "peak_memory_bytes": run.get("peakMemoryBytes"),
        "nodes": run.get("nodeCount", len(awaited) or None),
        "hosts": nodes.get("nodeList", ", ".join(awaited) or None),
        "devices": nodes.get("devices"), "device_errors": str(nodes.get("deviceErrors") or "").splitlines(),
        "expected_nodes": nodes.get("expectedCount"),
        "dark": {"nodes": nodes.get("darkCount") or 0, "hosts": nodes.get("dark"),
                 "reasons": str(nodes.get("darkReasons") or "").splitlines()},
        "job": {"scheduler": job.get("scheduler"), "id": job.get("jobId"), "name": job.get("jobName"),
                "array_job_id": job.get("arrayJobId"), "array_task_id": job.get("arrayTaskId"),
                "attempt": run.get("attempt", job.get("attempt")), "state": job.get("jobState"),
                "nodes": job.get("nodeCount")} if job else None,
        "contexts": contexts, "metrics": metrics, "non_finite": non_finite,
        "omitted": {what.lower(): run[f"{what}Omitted"] for what in _OMITTED if run.get(f"{what}Omitted")},
        "params": {str(e.get("label")): e.get("value") for k, e in entities.items() if k.startswith("param/")},
        "results": {str(e.get("label")): e.get("value") for k, e in entities.items() if k.startswith("result/")},
        "steps": [{"step": a.get("stepId"), "label": a.get("label"), "ranks": a.get("rankCount"),
                   "duration_s": a.get("durationSeconds"), "energy_j": a.get("energyJ")}
                  for k, a in activities.items() if k.startswith("step/")],
        "files": {role: sorted(k.partition("/")[2] for k, e in entities.items()
                               if k.startswith(f"{role}/") and "versions" not in e)  # those have records of their own
                  for role in ("input", "dataset", "output", "model")},
        "missing_files": {"count": run.get("missingFileCount", 0),
                          "files": str(run.get("missingFiles") or "").splitlines()},
        "changed_files": {"count": run.get("changedFileCount", 0),
                          "files": str(run.get("changedFiles") or "").splitlines()},
        "lost": {"frames": run.get("framesLost", 0), "events": run.get("eventsDropped", 0),
                 "damaged_bytes": run.get("damagedBytes", 0)},
        "without_goodbye": run.get("processesWithoutGoodbye", 0),
        "rejected": {"calls": run.get("callsRejected", 0), "reason": run.get("rejectReason")},
    }


@or_damaged
def lines(view: RunView) -> list[str]:
    """The same for a person: a headline and one line per subject."""
    f = facts(view)
    took = f" in {duration(f['duration_s'])}" if f["duration_s"] is not None else ""
    reason = f["reason"]
    if f["running_s"] is not None:
        took = f" for {duration(f['running_s'])}"
        reason = f"the figures are of the first {duration(f['duration_s'])}" if view.run else ""
    out = [f"{shortened(view.config.name)}: {view.state}{took}" + (f" ({reason})" if reason else "")]

    def say(name: str, text: str) -> None:
        if text:
            out.append(f"  {name:<8} {on_one_line(text)}")

    kinds = str(f["devices"] or "").splitlines()
    devices = ", ".join(kinds[:_MOST_DEVICES] + ([f"{len(kinds) - _MOST_DEVICES} more kinds of devices"]
                                                 if len(kinds) > _MOST_DEVICES else []))
    say("command", shortened(shlex.join(f["command"])))
    say("labels", _labels(f))
    say("job", _job(f))
    say("node", ", ".join(filter(None, [count(f["nodes"], "node"), str(f["hosts"] or ""), devices])))
    if not view.run:
        return [*out, f"  run      {f['directory']}"]
    reasons = f["dark"]["reasons"]
    say("dark", "; ".join(reasons[:_MOST_REASONS]
                          + ([f"and {len(reasons) - _MOST_REASONS} more"] if len(reasons) > _MOST_REASONS else [])))
    faults = f["device_errors"]
    say("errors", "; ".join(faults[:_MOST_REASONS]
                            + ([f"and {len(faults) - _MOST_REASONS} more"] if len(faults) > _MOST_REASONS else [])))
    say("energy", _energy(f))
    say("carbon", str(f["co2e_text"] or ""))
    say("gpu", _gpu_text(f))
    for note in f["energy_notes"][:_MOST_REASONS]:
        say("meter", note)
    if f["cpu_s"] is not None:
        say("cpu", f"{f['cpu_s']:.1f} CPU seconds")
    if f["peak_memory_bytes"] is not None:
        say("memory", f"{size(f['peak_memory_bytes'])} peak")
    # The document takes inputs first: where it has a result, it has all of them.
    omitted = f["omitted"].get("parameters", 0)
    say("params", _values(f["params"], 0 if f["results"] else omitted))
    say("results", _values(f["results"], omitted if f["results"] else 0))
    steps = f["steps"]
    for step in steps[:_MOST_STEPS]:
        say("step", ", ".join(filter(None, [
            str(step["label"]).removeprefix("step "), count(step["ranks"], "rank"), duration(step["duration_s"]),
            energy(step["energy_j"]) if step["energy_j"] is not None else ""])))
    if len(steps) > _MOST_STEPS:
        say("step", f"and {len(steps) - _MOST_STEPS} more: yprov show --json")
    for name, c in f["contexts"].items():
        parts = [duration(c["duration_s"]), count(c["epochs"], "epoch") if c["epochs"] else "",
                 energy(c["energy_j"]) if c["energy_j"] is not None else "",
                 f"{energy(c['gpu_energy_j'])} of GPUs" if c["gpu_energy_j"] is not None else ""]
        say("context", f"{name}: " + ", ".join([*filter(None, parts), *_metrics(f, name)]))
    for name in f["metrics"]:
        if name not in f["contexts"]:
            say("metrics", ", ".join(_metrics(f, name)))
    if f["omitted"].get("series"):
        say("metrics", f"and {f['omitted']['series']} series more, which only series.zarr has room for")
    say("files", ", ".join(count(len(names), role) for role, names in f["files"].items() if names))
    missing = f["missing_files"]
    say("missing", "; ".join([*map(shortened, missing["files"][:_MOST_REASONS]),
                              *([f"and {missing['count'] - _MOST_REASONS} more"]
                                if missing["count"] > _MOST_REASONS else [])]))
    if n := f["changed_files"]["count"]:
        say("changed", f"{count(n, 'file')} {'was' if n == 1 else 'were'} changed after being logged, and before the "
                       "checksum was taken")
    lost = f["lost"]
    if any(lost.values()):
        say("lost", ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in lost.items() if n))
    if n := f["without_goodbye"]:
        whose = "process ended without a goodbye: its" if n == 1 else "processes ended without a goodbye: their"
        say("silent", f"{n} {whose} last words may be missing")
    if f["rejected"]["calls"]:
        first = shortened(f"the first: {f['rejected']['reason']}") if f["rejected"]["reason"] else ""
        say("rejected", ", ".join(filter(None, [f"{count(f['rejected']['calls'], 'call')} of yprov", first])))
    say("id", stated_in(view.directory) or "")
    say("run", f["directory"])
    return out


def identifiers(view: RunView) -> dict[str, Any]:
    """`urn`, `content_id`: what `yprov show --json` prints beside `facts`; read from the crate, so not for every run of
    a list."""
    return {"urn": urn_of(view.config.run_id), "content_id": stated_in(view.directory)}


def _labels(f: dict[str, Any]) -> str:
    """experiment demo, model=resnet, commit 0123456789ab with changes."""
    commit = f"commit {str(f['commit'])[:12]}{' with changes' if f['dirty'] else ''}" if f["commit"] else ""
    tags = [shortened(f"{key}={value}", 60) for key, value in f["tags"].items()]
    more = [f"and {len(tags) - _MOST_VALUES} tags more"] if len(tags) > _MOST_VALUES else []
    experiment = f"experiment {shortened(f['experiment'], 60)}" if f["experiment"] else ""
    return ", ".join(filter(None, [experiment, *tags[:_MOST_VALUES], *more, commit]))


def _values(values: dict[str, Any], omitted: int) -> str:
    """lr 0.001, layers [64, 64], and 12 more. `omitted`: so many are not in the document."""
    shown = [f"{name} {shortened(str(value), 40)}" for name, value in list(values.items())[:_MOST_VALUES]]
    more = max(0, len(values) - _MOST_VALUES) + omitted
    return ", ".join(shown + ([f"and {more} more"] if more > 0 else []))


def _gpu(record: dict[str, Any]) -> dict[str, Any]:
    return {"gpu_energy_j": record.get("gpuEnergyJ"), "gpu_hours": record.get("gpuHours"),
            "gpu_peak_memory_bytes": record.get("gpuPeakMemoryBytes")}


def _energy(f: dict[str, Any]) -> str:
    """12.1 kJ (measured for 53 % of the time), partial: without memory, network...; or why there is no figure."""
    if f["energy_j"] is None:
        return f"absent: {f['energy_reason'] or 'no meter'}"
    missing = ", ".join(f["not_covered"])
    scope = f", {f['energy_scope']}{f': without {missing}' if missing else ''}" if f["energy_scope"] else ""
    got = _got(f["energy_method"], f["energy_coverage"])
    return "; ".join(filter(None, [f"{energy(f['energy_j'])} ({got}){scope}", f["energy_reason"],
                                   "other jobs may have used a part of it" if f["shared"] else ""]))


def _got(method: Any, coverage: Any) -> str:
    """`measured`, or `measured for 53 % of the time`: a figure with holes must not look like a whole one."""
    if not isinstance(coverage, (int, float)) or coverage >= _WHOLE:
        return str(method)
    return f"{method} for {100 * coverage:.0f} % of the time"


def _gpu_text(f: dict[str, Any]) -> str:
    """9.1 kJ (measured), 0.25 GPU hours, 40.0 GiB peak."""
    joules, hours, peak = f["gpu_energy_j"], f["gpu_hours"], f["gpu_peak_memory_bytes"]
    beside = " with the processor and memory of its module" if f["gpu_energy_scope"] == "module" else ""
    return ", ".join(filter(None, [
        f"{energy(joules)} ({_got(f['gpu_energy_method'], f['gpu_energy_coverage'])}){beside}"
        if joules is not None else "",
        f"{hours:.3g} GPU hours" if hours is not None else "", f"{size(peak)} peak" if peak is not None else "",
    ]))


def _metrics(f: dict[str, Any], context: str) -> list[str]:
    """Last finite values, and how often a metric was NaN or infinite: a training that diverges must show."""
    out = []
    for name, last in f["metrics"].get(context, {}).items():
        bad = f["non_finite"].get(context, {}).get(name)
        value = f"{name} {last:.4g}" if isinstance(last, (int, float)) else name
        out.append(value + (f" ({bad} times NaN or infinite)" if bad else ""))
    return out[:_MOST_METRICS] + ([f"and {len(out) - _MOST_METRICS} more"] if len(out) > _MOST_METRICS else [])


def _job(f: dict[str, Any]) -> str:
    """slurm 4242 (train), task 7 of array 4200, attempt 1, 4 nodes, 1 dark."""
    job = f["job"]
    if not job:
        return ""
    name = f" ({job['name']})" if job["name"] else ""
    task = f"task {job['array_task_id']} of array {job['array_job_id']}" if job["array_task_id"] is not None else ""
    attempt = f"attempt {job['attempt']}" if job["attempt"] else ""
    nodes = job["nodes"] if isinstance(job["nodes"], int) else f["expected_nodes"]
    dark = f"{f['dark']['nodes']} dark" if f["dark"]["nodes"] else ""
    # Asked while it ran, unless it was asked again.
    state = "" if job["state"] in _UNDER_WAY else str(job["state"] or "").lower()
    return ", ".join(filter(None, [f"{job['scheduler']} {job['id'] or '?'}{name}", task, attempt,
                                   count(nodes, "node"), dark, state]))
