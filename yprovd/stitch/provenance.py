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

`record.run` as the launcher writes it, all of it optional: config (`RunConfig.to_json`), user, uid, host, python, code,
environment, packages, container... (`yprovd.stitch.sources`), scheduler (the facts of `yprovd.slurm`, see
`yprovd.stitch.scheduling`), daemons
{placed_by, fallbacks [..], expected [hosts], ready, dark}, previous {run_id, directory}: the run of the attempt before,
which is the activity `previous:run`, the very `run:run` of that run's own document; imported, of a run that another
tool recorded (`yprovd.stitch.originals`).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prov.model import QualifiedName

from yprovd.stitch.attribution import Account, Attribution
from yprovd.stitch.carbon import carbon_attributes, footprint_of
from yprovd.stitch.document import Document, json_text, qname, slug
from yprovd.stitch.epochs import final_metrics
from yprovd.stitch.facts import command_of, lines_of, parameters_of, part, run_id_of, watch_of, whole
from yprovd.stitch.originals import Originals
from yprovd.stitch.parties import Parties
from yprovd.stitch.presence import presence_of
from yprovd.stitch.products import LEARNING, MOST_SERIES, Products, changed_files
from yprovd.stitch.record import Record
from yprovd.stitch.scheduling import attempt_of, job_of
from yprovd.stitch.sources import add_code
from yprovd.stitch.states import state_attributes
from yprovd.stitch.versions import missing_files, versions_of

if TYPE_CHECKING:
    from yprovd.stitch.series import SeriesInfo

FORMAT = 1
#: What is beyond stays in the Zarr store only; the run says how many (`yp:epochsOmitted`...).
MOST = {"context": 200, "epoch": 500, "span": 100, "param": 1000, "series": MOST_SERIES, "step": 200}


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
        plan = add_code(self.doc, self.run, self.about)
        parties = Parties(self.doc, self.record, self.run, self.command, self.presence)
        parties.job()
        parties.people(plan)
        parties.surroundings()
        self._steps()
        for account in accounts:
            self._part_of_run(account)
        products = Products(self.doc, self.record, self.run, self.monitoring, self.activity_of, self.originals)
        for role, name, values in params[:MOST["param"]]:
            products.parameter(role, name, values)
        products.series(self.series, self.attribution.energy, carbon_attributes(self.footprint))
        for versions in sorted(files, key=lambda v: v[0].first.role == "model"):  # models come from what is there
            products.file(versions)
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
            "yp:peakMemoryMethod": account.memory_peak_method,
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
        missing, changed = missing_files(record.files), changed_files(record.files)
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
            "yp:processCount": len(processes) + record.unheard,
            "yp:processesWithoutGoodbye": sum(p.logged is None for p in processes) + record.unheard,
            "yp:processesUnheard": record.unheard or None,
            "yp:eventsDropped": sum(p.dropped for p in processes),
            "yp:callsRejected": sum(p.rejected for p in processes) or None,
            "yp:rejectReason": next((p.reject_reason for p in processes if p.reject_reason), None),
            "yp:missingFileCount": len(missing) or None,
            "yp:missingFiles": lines_of(missing),
            "yp:changedFileCount": len(changed) or None,
            "yp:changedFiles": lines_of(changed),
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
        if account.cpu_s is not None or rusage.get("user_s") is None:
            return {}
        return {"yp:cpuSeconds": float(rusage["user_s"]) + float(rusage.get("system_s") or 0.0),
                "yp:cpuMethod": "rusage"}

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
            attributes["prov:type"] = LEARNING.get(account.name.lower())
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
        self.doc.informed(self.monitoring, self.run)
        software = self.doc.agent("software/yprov", {
            "prov:type": qname("prov:SoftwareAgent"), "prov:label": "yprov",
            "schema:softwareVersion": self.config.get("software"),
        })
        self.doc.associated(self.monitoring, software)
