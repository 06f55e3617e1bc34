"""The part of prov.json that says what the run used and made: parameters, series, energy, files, models.

A model is derived from the version before it and from the inputs and datasets that came into use since then: of the run
itself, of the model's context and what holds it, or, for a model that was declared outside of contexts, of
every context that is not for validation or testing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prov.model import QualifiedName

from yprovd.stitch.document import Document, json_text, qname, slug, time_of
from yprovd.stitch.facts import energy_attributes
from yprovd.stitch.originals import Originals
from yprovd.stitch.record import DeclaredFile, Record
from yprovd.stitch.report import EnergyReport
from yprovd.stitch.versions import Version

if TYPE_CHECKING:
    from yprovd.stitch.series import SeriesInfo

STORE = "series.zarr"
MOST_SERIES = 1000
_MOST_SOURCES = 20
_LONG_AGO = -(1 << 63)
#: yProv4ML's names for what a context is for.
LEARNING = {
    **dict.fromkeys(("train", "training"), "provml:TrainingExecution"),
    **dict.fromkeys(("val", "valid", "validation", "evaluation"), "provml:ValidationExecution"),
    **dict.fromkeys(("test", "testing"), "provml:TestingExecution"),
}
_NOT_LEARNED_FROM = ("provml:ValidationExecution", "provml:TestingExecution")
_FILE_TYPES = {"input": "provml:Dataset", "dataset": "provml:Dataset", "model": "provml:Model"}
_FILE_CLASSES = {"input": "yp:Input", "dataset": "yp:Dataset", "output": "yp:Artifact", "model": "yp:Model",
                 "code": "yp:SourceFile"}


class Products:
    """`run`, `monitoring`: activities of `doc`. `activity_of(context, epoch)`: the innermost activity there that
    something belongs to."""

    def __init__(
        self, doc: Document, record: Record, run: QualifiedName, monitoring: QualifiedName,
        activity_of: Callable[[str | None, int | None], QualifiedName], originals: Originals,
    ) -> None:
        self.doc, self.record, self.run, self.monitoring = doc, record, run, monitoring
        self.activity_of, self.originals = activity_of, originals
        self.end, self.monitoring_end = doc.times(run)[1], doc.times(monitoring)[1]
        self.in_use: list[tuple[DeclaredFile, QualifiedName]] = []

    def parameter(self, role: str, name: str, values: list[Any]) -> None:
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

    def series(self, infos: Sequence[SeriesInfo], report: EnergyReport, carbon: Mapping[str, Any]) -> None:
        telemetry = self.doc.entity("telemetry", {
            "prov:type": qname("prov:Collection"), "prov:label": "series", "yp:type": qname("yp:Telemetry"),
            "prov:location": STORE, "yp:seriesCount": len(infos),
        })
        self.doc.generated(telemetry, self.monitoring, self.monitoring_end)
        self.originals.describe(self.doc, self.run, telemetry)
        energy = self.doc.entity("energy", {
            "prov:label": "energy", "yp:type": qname("yp:EnergyReport"),
            "prov:location": f"{STORE}/meters" if report.rows else None, **energy_attributes(report),
            **carbon,
        })
        from_power = {row.cls for row in report.rows
                      if (row.counts or row.counts_gpu) and row.method in ("integrated", "estimated")}
        self.doc.generated(energy, self.monitoring, self.monitoring_end)
        for s in infos[:MOST_SERIES]:
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

    def file(self, versions: list[Version]) -> None:
        """One entity for each version; several versions of one thing have an entity for the thing as well."""
        role, name = versions[0].first.role, versions[0].first.name or versions[0].first.path
        wanted = f"{'source' if role == 'code' else slug(role)}/{slug(name)}"
        whole_thing = None
        if versions[0].of > 1:
            whole_thing = self.doc.entity(wanted, {**_file_types(role), "prov:label": name or '""',
                                                   "yp:versions": versions[0].of})
        previous: tuple[QualifiedName, int] | None = None
        reads, made_at = role in ("input", "dataset", "code"), _LONG_AGO
        for version in versions:
            f = version.first
            entity = self.doc.entity(wanted if whole_thing is None else f"{wanted}/{version.number}", {
                **_file_types(role), "prov:label": name or '""', **self._file_facts(f),
                "yp:declarations": version.declarations if version.declarations > 1 else None,
            })
            activity = self.activity_of(f.context, f.epoch)
            at: int | None = f.wall_ns
            if not reads:
                activity, at, made_at = self._made(activity, f.wall_ns, made_at)
            for thing in [entity] if whole_thing is None or previous else [whole_thing, entity]:
                # the thing itself began with its first version; a specialisation alone is not drawn by the Explorer
                if reads:
                    self.doc.used(activity, thing, at, role=f.how or role)
                else:
                    self.doc.generated(thing, activity, at, role=f.how or role)
            if reads:
                self.in_use.append((f, entity))
            if whole_thing is not None:
                self.doc.specialises(entity, whole_thing)
            if role == "model":
                for source in [*([previous[0]] if previous else []), *self._learned_from(f, previous and previous[1])]:
                    self.doc.derived(entity, source)
            previous = entity, f.wall_ns

    def _made(self, activity: QualifiedName, ns: int, earliest: int) -> tuple[QualifiedName, int | None, int]:
        """Which activity made a version, when, and when at the earliest the next one was made. What is told of an
        activity may be of other times than the declaration (frames were lost, clocks differ): a version must not seem
        to be made before the one before it. It then has no time, or was made by the run, which lasts long enough."""
        at = self.doc.fit(activity, ns)
        if at >= earliest:
            return activity, ns, at
        return activity if self.doc.times(activity)[1] >= earliest else self.run, None, earliest

    def _learned_from(self, model: DeclaredFile, since_ns: int | None) -> list[QualifiedName]:
        def counts(f: DeclaredFile) -> bool:
            if since_ns is not None and f.wall_ns <= since_ns:
                return False
            if f.role == "code" or f.how or f.wall_ns > model.wall_ns:  # what was only seen open is not named
                return False
            if f.context is None or f"{model.context}/".startswith(f"{f.context}/"):
                return True
            return model.context is None and LEARNING.get(f.context.lower()) not in _NOT_LEARNED_FROM

        return [entity for f, entity in self.in_use if counts(f)][:_MOST_SOURCES]

    def _file_facts(self, f: DeclaredFile) -> dict[str, Any]:
        process = self.record.processes[f.process] if 0 <= f.process < len(self.record.processes) else None
        return {
            "prov:location": f.stored or f.path, "dcterms:identifier": f.stored or f.path, "yp:path": f.path,
            "yp:host": process.host if process else None, "yp:rank": process.rank if process else None,
            "yp:context": f.context, "yp:epoch": f.epoch, "yp:sizeBytes": f.size, "yp:sha256": f.sha256,
            "yp:masked": True if f.masked else None,
            "yp:checksumAbsent": None if f.sha256 else f.reason or "no reason was recorded",
            "yp:modified": time_of(f.modified_ns) if f.modified_ns is not None else None,
            "yp:changedAfterSeconds": round(f.changed_after_ns / 1e9, 3) or None, "yp:changedText": changed_text(f),
            "yp:copiedFrom": self.originals.copied_from(f.path),
        }


def changed_text(f: DeclaredFile) -> str:
    """What is to be known of a file that was changed before it was looked at; "" where it was not."""
    if not f.changed_after_ns:
        return ""
    what = "the checksum is" if f.sha256 else "its size is"
    return f"it was changed {f.changed_after_ns / 1e9:.3g} s after it was logged: {what} that of the later content"


def changed_files(files: Sequence[DeclaredFile]) -> list[str]:
    """`model final.pt: it was changed...`, for each declaration whose file was changed before it was looked at."""
    return [f"{f.role} {f.name or f.path}: {changed_text(f)}" for f in sorted(files, key=lambda f: f.wall_ns)
            if f.changed_after_ns]


def _file_types(role: str) -> dict[str, Any]:
    return {"prov:type": _FILE_TYPES.get(role), "yp:type": qname(_FILE_CLASSES.get(role, "yp:File")),
            "dcterms:type": qname("fair4ml:MLModel") if role == "model" else None}
