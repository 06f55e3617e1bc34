"""prov.json: what the run was, did, used and made, as one W3C PROV-JSON document.

A few hundred records, whatever the node count: what every node and every step did is in the Zarr store. The document
is a pure function of the record (see `yprovd.stitch.document` for what holds for every identifier and value).

    id (each with the prefix `run:`)    kind      is
    run                                 activity  the wrapped command, from begin to end
    ctx/<context>[/epoch/<k>][/span/<name>]       a context, an epoch with its last metrics, all spans of one name
    step/<job>.<step>                   activity  an srun, mpirun... of the command, with its ranks and what it cost
    monitoring                          activity  the daemons at work
    command                             entity    what was executed: the run brings it about, it starts the contexts
    job job/script experiment environment packages container nodes energy code code.diff code.bundle script telemetry
    param/<name>  result/<name>  series/<path>  devices/<class>  source/<name>  original/<name>
    input/<name>  output/<name>  dataset/<name>  model/<name>
    user/<name>  org/<name>  software/<name>      agents

`prov:type` is a standard class or the string that yProv4ML's readers look for, `yp:type` is our own class. A name says
its unit (`energyJ`, `durationSeconds`, `sizeBytes`); an absent figure is not there. Raise `FORMAT` when a record or an
attribute changes its meaning; the golden file is tests/stitch/golden/prov.json.

A model is derived from the version before it and, the first one, from the inputs and datasets that were in use by then:
of the run itself, of the model's context and what holds it, or, for a model that was declared outside of contexts, of
every context that is not for validation or testing.

`record.run` as the launcher writes it, all of it optional: config (`RunConfig.to_json`), user, uid, host, python, code,
environment, packages, container... (`yprovd.stitch.sources`), scheduler (the facts of `yprovd.slurm`, see
`yprovd.stitch.scheduling`), daemons
{placed_by, fallbacks [..], expected [hosts], ready, dark}, previous {run_id, directory}: the run of the attempt before,
which is the activity `previous:run`, the very `run:run` of that run's own document; imported, of a run that another
tool recorded (`yprovd.stitch.originals`).
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prov.model import QualifiedName

from yprovd.stitch.attribution import Account, Attribution
from yprovd.stitch.carbon import carbon_attributes, footprint_of
from yprovd.stitch.document import Document, json_text, qname, slug, time_of
from yprovd.stitch.epochs import final_metrics
from yprovd.stitch.facts import (
    Version,
    command_of,
    energy_attributes,
    host_list,
    lines_of,
    parameters_of,
    part,
    run_id_of,
    versions_of,
    watch_of,
    whole,
)
from yprovd.stitch.machines import device_kinds, node_attributes
from yprovd.stitch.originals import Originals
from yprovd.stitch.presence import presence_of
from yprovd.stitch.record import DeclaredFile, Record
from yprovd.stitch.scheduling import attempt_of, job_attributes, job_of
from yprovd.stitch.sources import add_code, add_surroundings
from yprovd.stitch.states import state_attributes

if TYPE_CHECKING:
    from yprovd.stitch.series import SeriesInfo

FORMAT = 1
STORE = "series.zarr"
#: What is beyond stays in the Zarr store only; the run says how many (`yp:epochsOmitted`...).
MOST = {"context": 200, "epoch": 500, "span": 100, "param": 1000, "series": 1000, "step": 200, "source": 20}
#: yProv4ML's names for what a context is for.
_LEARNING = {
    **dict.fromkeys(("train", "training"), "provml:TrainingExecution"),
    **dict.fromkeys(("val", "valid", "validation", "evaluation"), "provml:ValidationExecution"),
    **dict.fromkeys(("test", "testing"), "provml:TestingExecution"),
}
_NOT_LEARNED_FROM = ("provml:ValidationExecution", "provml:TestingExecution")
_FILE_TYPES = {"input": "provml:Dataset", "dataset": "provml:Dataset", "model": "provml:Model"}
_FILE_CLASSES = {"input": "yp:Input", "dataset": "yp:Dataset", "output": "yp:Artifact", "model": "yp:Model",
                 "code": "yp:SourceFile"}


def build_document(record: Record, attribution: Attribution, series: Sequence[SeriesInfo]) -> bytes:
    """The bytes of prov.json. Does not raise for what a job did or a damaged spool lacks."""
    return _Build(record, attribution, series).document()


class _Build:
    """One document in the making; each method adds the records of one subject."""

    def __init__(self, record: Record, attribution: Attribution, series: Sequence[SeriesInfo]) -> None:
        self.record = record
        self.attribution = attribution
        self.series = sorted(series, key=lambda s: s.name)
        self.about = record.run
        self.config = part(record.run, "config")
        self.settings = part(self.config, "settings")
        self.run_id = run_id_of(record)
        self.footprint = footprint_of(attribution.energy, self.settings)
        self.watch = watch_of(record)
        self.job = job_of(record)
        account = attribution.accounts[0]
        self.presence = presence_of(record, account.begin_ns, account.end_ns)
        self.doc = Document(self.run_id)
        self.originals = Originals(part(record.run, "imported"))
        self.activities: dict[tuple[str, ...], QualifiedName] = {}
        self.epochs = Counter(a.path[:-1] for a in attribution.accounts if a.kind == "epoch")
        self.in_use: list[tuple[DeclaredFile, QualifiedName]] = []
        self.final = final_metrics(record.metrics, record.processes)
        self.omitted: dict[str, int] = {}

    def document(self) -> bytes:
        # What is left out is said by the run, and records are written once: so choose first.
        accounts = self._chosen_accounts()
        files, self.omitted["files"] = versions_of(self.record.files)
        params = [(role, name, values) for role in ("input", "output")
                  for name, values in parameters_of(self.record, role).items()]
        self.omitted["parameters"] = max(0, len(params) - MOST["param"])
        self.omitted["series"] = max(0, len(self.series) - MOST["series"])
        self.omitted["steps"] = max(0, len(self.attribution.steps) - MOST["step"])
        self._run()
        self._monitoring()
        self._code()
        self._job()
        self._people()
        self._surroundings()
        self._steps()
        for account in accounts:
            self._part_of_run(account)
        for role, name, values in params[:MOST["param"]]:
            self._parameter(role, name, values)
        self._series()
        for versions in sorted(files, key=lambda v: v[0].first.role == "model"):  # models come from what is there
            self._file(versions)
        return self.doc.to_json()

    def _chosen_accounts(self) -> list[Account]:
        left = dict(MOST)
        kept: list[Account] = []
        paths: set[tuple[str, ...]] = {()}
        for account in self.attribution.accounts[1:]:
            if left[account.kind] > 0 and account.path[:-1] in paths:
                left[account.kind] -= 1
                paths.add(account.path)
                kept.append(account)
            else:
                key = f"{account.kind}s"
                self.omitted[key] = self.omitted.get(key, 0) + 1
        return kept

    def _account(self, account: Account) -> dict[str, Any]:
        return {
            "yp:energyJ": account.energy_j,
            "yp:energyOutsideJ": account.energy_outside_j,
            "yp:energyMethod": self.attribution.energy.method if account.energy_j is not None else "absent",
            "yp:cpuSeconds": account.cpu_s,
            "yp:cpuOutsideSeconds": account.cpu_outside_s,
            "yp:peakMemoryBytes": whole(account.memory_peak_bytes),
            "yp:gpuEnergyJ": account.gpu_energy_j,
            "yp:gpuEnergyOutsideJ": account.gpu_energy_outside_j,
            "yp:gpuHours": account.gpu_hours,
            "yp:gpuPeakMemoryBytes": whole(account.gpu_memory_peak_bytes),
            "yp:durationSeconds": account.duration_s,
            "yp:epochCount": self.epochs[account.path] or None,
            "yp:firstStep": account.first_step,
            "yp:lastStep": account.last_step,
        }

    def _run(self) -> None:
        record, account = self.record, self.attribution.accounts[0]
        end = record.end or {}
        rusage = part(end, "rusage")
        processes = record.processes
        ranks = {p.rank for p in processes if p.rank is not None}
        name = str(self.config.get("name") or "run")
        tags = part(self.settings, "tags")
        self.run = self.doc.activity("run", account.begin_ns, account.end_ns, {
            "prov:type": "provml:LearningExecution",  # plain: the Explorer's search reads no typed value of an activity
            "dcterms:type": qname("mls:Run"),
            "prov:label": name,
            "yprov:experiment_name": str(self.settings.get("experiment") or name),
            "yprov:run_id": self.run_id,
            "yp:type": qname("yp:Run"),
            "yp:format": FORMAT,
            **state_attributes(record),
            "yp:exitCode": end.get("exit_code"),
            "yp:signal": end.get("signal"),
            "yp:command": shlex.join(command_of(record)),
            "yp:cwd": self.config.get("cwd"),
            "yp:python": next((p.attributes["python"] for p in processes if "python" in p.attributes), None),
            "yp:host": self.about.get("host"),
            "yp:attempt": attempt_of(self.job),
            "yp:tags": json_text(tags) if tags else None,
            "yp:nodeCount": len({n.host for n in record.nodes} or {p.host for p in processes}),
            "yp:worldSize": max([len(ranks), *(p.world_size for p in processes if p.world_size),
                                  *(t.world_size for t in record.tasks if t.world_size)]) or None,
            "yp:processCount": len(processes),
            "yp:processesWithoutGoodbye": sum(p.logged is None for p in processes),
            "yp:eventsDropped": sum(p.dropped for p in processes),
            "yp:framesLost": record.lost_frames,
            "yp:damagedBytes": record.damaged_bytes,
            "yp:tornBytes": record.torn_bytes,
            "yp:rusageUserSeconds": rusage.get("user_s"),
            "yp:rusageSystemSeconds": rusage.get("system_s"),
            "yp:rusageMaxRssBytes": rusage.get("max_rss_bytes"),
            **self.originals.run_attributes(),
            **self._account(account),
            **self._rusage_instead(account, rusage),
            "yp:co2eGrams": self.footprint.grams if self.footprint else None,
            **{f"yp:{what}Omitted": n for what, n in self.omitted.items() if n},
        })
        self.activities[()] = self.run
        self.begin, self.end = self.doc.times(self.run)
        argv = command_of(record)
        self.command = self.doc.entity("command", {
            "prov:label": "command", "yp:type": qname("yp:Command"), "prov:value": shlex.join(argv),
            "yp:argv": json_text(argv) if argv else None,
        })
        self.doc.generated(self.command, self.run, self.begin)

    @staticmethod
    def _rusage_instead(account: Account, rusage: Mapping[str, Any]) -> dict[str, Any]:
        """A command that was over before a sample could see it still has the kernel's own account, getrusage(2)."""
        out: dict[str, Any] = {}
        if account.cpu_s is None and rusage.get("user_s") is not None:
            out |= {"yp:cpuSeconds": float(rusage["user_s"]) + float(rusage.get("system_s") or 0.0),
                    "yp:cpuMethod": "rusage"}
        if account.memory_peak_bytes is None and rusage.get("max_rss_bytes") is not None:
            out |= {"yp:peakMemoryBytes": whole(rusage["max_rss_bytes"]), "yp:peakMemoryMethod": "rusage"}
        return out

    def _steps(self) -> None:
        for step in self.attribution.steps[:MOST["step"]]:
            activity = self.doc.activity(f"step/{slug(step.id)}", step.begin_ns, step.end_ns, step.attributes(),
                                         within=self.run)
            self.doc.informed(activity, self.run)
            self.doc.started(activity, self.command, self.run)

    def _part_of_run(self, account: Account) -> None:
        """A context lies in the context whose name is the front of its own; an epoch and a span in what their path
        says. An epoch is informed by its context only: a trigger for each would hide the tree from a reader's eye."""
        parent = self.activities[account.path[:-1]]
        attributes: dict[str, Any] = {"prov:label": account.name, "yp:opened": account.count}
        if account.kind == "context":
            parent = self.activity_of(account.name.rpartition("/")[0] or None, None)
            attributes["yp:type"] = qname("yp:Context")
            attributes["prov:type"] = _LEARNING.get(account.name.lower())
        elif account.kind == "epoch":
            attributes["yp:type"] = qname("yp:Epoch")
            attributes["prov:label"] = f"{account.context or 'epoch'} {account.name}"
            if account.epoch is not None:
                attributes["yp:metrics"] = self.final.get((account.context, account.epoch))
        else:
            attributes["yp:type"] = qname("yp:Span")
        attributes |= {"yp:context": account.context, "yp:epoch": account.epoch, **self._account(account)}
        wanted = "/".join(slug(p) for p in account.path)
        activity = self.doc.activity(wanted, account.begin_ns, account.end_ns, attributes, within=parent)
        self.activities[account.path] = activity
        self.doc.informed(activity, parent)
        if account.kind == "context":
            self.doc.started(activity, self.command, self.run)

    def activity_of(self, context: str | None, epoch: int | None) -> QualifiedName:
        """The innermost activity of the document that something in this context and epoch belongs to."""
        while True:
            path = (f"ctx/{context}",) if context is not None else ()
            if epoch is not None and (*path, f"epoch/{epoch}") in self.activities:
                return self.activities[*path, f"epoch/{epoch}"]
            if path in self.activities:
                return self.activities[path]
            context = (context or "").rpartition("/")[0] or None

    def _monitoring(self) -> None:
        w, daemons = self.watch, part(self.about, "daemons")
        fallbacks = daemons.get("fallbacks")
        begin, end = (w.begin_ns, w.end_ns) if w.end_ns else (self.begin, self.end)
        self.monitoring = self.doc.activity("monitoring", begin, max(end, self.begin), {
            "prov:label": "monitoring",
            "yp:type": qname("yp:Monitoring"),
            "yp:intervalSeconds": w.interval_ns / 1e9 if w.interval_ns else self.settings.get("interval"),
            "yp:sensors": ", ".join(w.sensors),
            "yp:absences": lines_of(w.absences),
            "yp:absenceCount": len(w.absences),
            "yp:sampleCount": w.samples,
            "yp:missedTicks": w.missed_ticks,
            "yp:sensorFailures": w.failures,
            "yp:sensorReadsLate": w.late,
            "yp:noteCount": len(w.notes),
            "yp:notes": lines_of(w.notes),
            "yp:placedBy": str(daemons.get("placed_by") or ""),
            "yp:fallbacks": lines_of(str(f) for f in fallbacks) if isinstance(fallbacks, (list, tuple)) else None,
        })
        self.monitoring_end = self.doc.times(self.monitoring)[1]
        self.doc.informed(self.monitoring, self.run)
        software = self.doc.agent("software/yprov", {
            "prov:type": qname("prov:SoftwareAgent"), "prov:label": "yprov",
            "schema:softwareVersion": self.config.get("software"),
        })
        self.doc.associated(self.monitoring, software)

    def _code(self) -> None:
        self.plan = add_code(self.doc, self.run, self.about)

    def _job(self) -> None:
        """The scheduler's allocation, as the launcher described it or as Slurm's variables do. It starts the run."""
        self._previous_attempt()
        if not self.job:
            return
        attributes = job_attributes(self.job)
        record = part(part(self.job, "stored"), "job")
        job = self.doc.entity("job", {"yp:type": qname("yp:Job"), **attributes, "prov:location": record.get("path"),
                                      "yp:sha256": record.get("sha256")})
        self.doc.started(self.run, job)
        name = attributes["yp:scheduler"]
        scheduler = self.doc.agent(f"software/{slug(name)}", {
            "prov:type": qname("prov:SoftwareAgent"), "prov:label": name,
            "schema:softwareVersion": self.job.get("version"),
        })
        self.doc.associated(self.run, scheduler, role="scheduler")
        if script := part(part(self.job, "stored"), "batch_script"):
            plan = self.doc.entity("job/script", {
                "prov:type": qname("prov:Plan"), "yp:type": qname("yp:BatchScript"), "prov:label": "batch script",
                "prov:location": script.get("path"), "yp:path": self.job.get("command"),
                "yp:sha256": script.get("sha256"),
            })
            self.doc.used(self.run, plan, role="batch script")

    def _previous_attempt(self) -> None:
        """A requeued job has a run for each attempt."""
        previous = part(self.about, "previous")
        run_id = str(previous.get("run_id") or "")
        if run_id and run_id != self.run_id:
            before = self.doc.foreign_activity("previous", run_id, "run", {
                "prov:label": "the attempt before", "yp:type": qname("yp:Run"), "yp:runId": run_id,
                "prov:location": previous.get("directory"),
            })
            self.doc.informed(self.run, before)

    def _people(self) -> None:
        person, organisation = part(self.settings, "user"), part(self.settings, "organisation")
        login = self.about.get("user")
        user = None
        if name := str(person.get("name") or login or ""):
            user = self.doc.agent(f"user/{slug(str(login or name))}", {
                "prov:type": qname("prov:Person"), "prov:label": name, "schema:identifier": person.get("id"),
                "yp:login": login, "yp:uid": self.about.get("uid"),
            })
            self.doc.associated(self.run, user, self.plan, role="operator")
        if name := str(organisation.get("name") or organisation.get("id") or ""):
            agent = self.doc.agent(f"org/{slug(name)}", {
                "prov:type": qname("prov:Organization"), "prov:label": name,
                "schema:identifier": organisation.get("id"),
            })
            self.doc.associated(self.run, agent, role="organisation")  # a delegation is not drawn by the Explorer
            if user is not None:
                self.doc.acted_for(user, agent, self.run)

    def _surroundings(self) -> None:
        if name := str(self.settings.get("experiment") or ""):
            experiment = self.doc.entity("experiment", {
                "prov:type": qname("prov:Collection"), "prov:label": name, "yp:type": qname("yp:Experiment")})
            self.doc.influenced(experiment, self.run)
            self.doc.member(experiment, self.command)  # an influence is not drawn by the Explorer
        add_surroundings(self.doc, self.run, self.about)
        if self.record.nodes or self.presence.expected:
            expected, dark = self.presence.expected, self.presence.dark_hosts
            nodes = self.doc.entity("nodes", {
                "prov:type": qname("prov:Collection"), "prov:label": "nodes", "yp:type": qname("yp:NodeSet"),
                "prov:location": f"{STORE}/nodes" if self.record.nodes else None, **node_attributes(self.record.nodes),
                "yp:expectedCount": len(expected) or None, "yp:expected": host_list(expected),
                "yp:darkCount": len(dark) if dark or expected else None, "yp:dark": host_list(dark),
                "yp:darkReasons": lines_of(self.presence.lines()),
            })
            self.doc.used(self.run, nodes, role="nodes")
            for kind in device_kinds(self.record.nodes):
                self.doc.member(nodes, self.doc.entity(f"devices/{slug(kind.cls)}", kind.attributes()))

    def _parameter(self, role: str, name: str, values: list[Any]) -> None:
        value, kind = values[-1], None
        if isinstance(value, float) and math.isnan(value):
            value, kind = "NaN", "float"  # as xsd:double no document would equal its own copy
        elif not isinstance(value, (str, int, float)):
            value, kind = json_text(value), "json"
        param = self.doc.entity(f"{'param' if role == 'input' else 'result'}/{slug(name)}", {
            "prov:type": "provml:HyperParameter", "prov:label": name or '""', "yp:type": qname("yp:Parameter"),
            "dcterms:type": qname("mls:HyperParameterSetting"), "prov:value": value if value != "" else None,
            "yp:valueType": kind or ("str" if value == "" else None),
            "yp:values": len(values) if len(values) > 1 else None,
        })
        if role == "input":
            self.doc.used(self.run, param, role="parameter")
        else:
            self.doc.generated(param, self.run, self.end, role="result")

    def _series(self) -> None:
        telemetry = self.doc.entity("telemetry", {
            "prov:type": qname("prov:Collection"), "prov:label": "series", "yp:type": qname("yp:Telemetry"),
            "prov:location": STORE, "yp:seriesCount": len(self.series),
        })
        self.doc.generated(telemetry, self.monitoring, self.monitoring_end)
        self.originals.describe(self.doc, self.run, telemetry)
        report = self.attribution.energy
        energy = self.doc.entity("energy", {
            "prov:label": "energy", "yp:type": qname("yp:EnergyReport"),
            "prov:location": f"{STORE}/meters" if report.rows else None, **energy_attributes(report),
            **carbon_attributes(self.footprint),
        })
        from_power = {row.cls for row in report.rows
                      if (row.counts or row.counts_gpu) and row.method in ("integrated", "estimated")}
        self.doc.generated(energy, self.monitoring, self.monitoring_end)
        for s in self.series[:MOST["series"]]:
            entity = self.doc.entity(f"series/{slug(s.name)}", {
                "prov:type": "provml:Metric", "prov:label": s.metric or '""', "yp:type": qname("yp:Series"),
                "prov:location": f"{STORE}/{s.name}", "dcterms:identifier": STORE,
                "yprov:context": s.context or "run", "yprov:source": s.source,
                "yp:originalSource": self.originals.source(s.context, s.metric),
                "yp:unit": s.unit, "yp:count": s.count, "yp:missing": s.missing, "yp:nonFinite": s.non_finite,
                "yp:min": s.min, "yp:mean": s.mean, "yp:max": s.max, "yp:last": s.last, "yp:total": s.total,
            })
            self.doc.member(telemetry, entity)
            maker = self.monitoring if s.source == "yprov" else self.activity_of(s.context, None)
            self.doc.generated(entity, maker, self.doc.times(maker)[1])
            counter = s.total is not None and "energy" in s.metric
            power = s.metric == "hw.power" and s.group.partition("_")[0] in from_power
            if s.source == "yprov" and (counter or power):
                self.doc.derived(energy, entity)

    def _file(self, versions: list[Version]) -> None:
        """One entity for each version; several versions of one thing have an entity for the thing as well."""
        role, name = versions[0].first.role, versions[0].first.name or versions[0].first.path
        wanted = f"{'source' if role == 'code' else slug(role)}/{slug(name)}"
        whole_thing = None
        if versions[0].of > 1:
            whole_thing = self.doc.entity(wanted, {**_file_types(role), "prov:label": name or '""',
                                                   "yp:versions": versions[0].of})
        previous = None
        for version in versions:
            f = version.first
            entity = self.doc.entity(wanted if whole_thing is None else f"{wanted}/{version.number}", {
                **_file_types(role), "prov:label": name or '""', **self._file_facts(f),
                "yp:declarations": version.declarations if version.declarations > 1 else None,
            })
            activity = self.activity_of(f.context, f.epoch)
            reads = role in ("input", "dataset", "code")
            for thing in [entity] if whole_thing is None or previous else [whole_thing, entity]:
                # the thing itself began with its first version; a specialisation alone is not drawn by the Explorer
                if reads:
                    self.doc.used(activity, thing, f.wall_ns, role=f.how or role)
                else:
                    self.doc.generated(thing, activity, f.wall_ns, role=f.how or role)
            if reads:
                self.in_use.append((f, entity))
            if whole_thing is not None:
                self.doc.specialises(entity, whole_thing)
            if role == "model":
                for source in self._learned_from(f) if previous is None else [previous]:
                    self.doc.derived(entity, source)
            previous = entity

    def _learned_from(self, model: DeclaredFile) -> list[QualifiedName]:
        def counts(f: DeclaredFile) -> bool:
            if f.role == "code" or f.wall_ns > model.wall_ns:
                return False
            if f.context is None or f"{model.context}/".startswith(f"{f.context}/"):
                return True
            return model.context is None and _LEARNING.get(f.context.lower()) not in _NOT_LEARNED_FROM

        return [entity for f, entity in self.in_use if counts(f)][:MOST["source"]]

    def _file_facts(self, f: DeclaredFile) -> dict[str, Any]:
        process = self.record.processes[f.process] if 0 <= f.process < len(self.record.processes) else None
        return {
            "prov:location": f.stored or f.path, "dcterms:identifier": f.stored or f.path, "yp:path": f.path,
            "yp:host": process.host if process else None, "yp:rank": process.rank if process else None,
            "yp:context": f.context, "yp:epoch": f.epoch, "yp:sizeBytes": f.size, "yp:sha256": f.sha256,
            "yp:masked": True if f.masked else None,
            "yp:checksumAbsent": None if f.sha256 else f.reason or "no reason was recorded",
            "yp:modified": time_of(f.modified_ns) if f.modified_ns is not None else None,
            "yp:copiedFrom": self.originals.copied_from(f.path),
        }


def _file_types(role: str) -> dict[str, Any]:
    return {"prov:type": _FILE_TYPES.get(role), "yp:type": qname(_FILE_CLASSES.get(role, "yp:File")),
            "dcterms:type": qname("fair4ml:MLModel") if role == "model" else None}
