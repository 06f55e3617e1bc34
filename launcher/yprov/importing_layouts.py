"""The documents of yProv4ML, one rank each, by their layout: `rank_of(document, ...)`.

Measured on 1.0.0, 2.0.10, 3.2.4 and 3.2.8 (tests/fixtures/yprov4ml holds what they wrote):

      run is                                 a parameter is                 contexts are        times are
1.x   entity `<exp>_GR<k>` (prov-ml:*)       entity, `parameter_value`      of the metrics      unix, as parameters
2.x   activity `context:<exp>_GR<k>_<id>`    attribute of a context         `context:Context.X` unix, as parameters
3.x   activity `<exp>_GR<k>_<id>` (yprov:*)  entity with `prov:value`       any other activity  local, `time_zone`

A metric is an entity: lists of text (1.x), the path of a file in `path` (2.x) or `dcterms:identifier` (3.x). One id may
have several records, each of them said on its own: 2.x gives `loss` of two contexts one id. A parameter or file of a
context bears the context's name in front (`TRAINING/dropout`). The contexts of a context are nested by `wasInformedBy`;
an activity `<source>//<context>` is the context itself. What else stands on a dataset or model
(`train_stat_batch_size`) is a parameter.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from yprov.imported import ForeignFile, Notes, Param, Rank, Series
from yprov.importing_contexts import ContextNames
from yprov.importing_paths import inside
from yprov.importing_series import read_file, read_lists
from yprov.importing_values import first, local, plain, records, text_of, time_ns, typed, zone_of

_NAMED = re.compile(r"(.*)_GR(\d{1,9})(?:_(\d+))?", re.DOTALL)
_COMMIT = re.compile(r"(.*)/([0-9a-f]{40}(?:[0-9a-f]{24})?)")
_MODELS = (".pt", ".pth", ".torch")
#: Attributes that are known by themselves; any other of a file is a parameter.
_OF_FILES = frozenset({
    "type", "label", "identifier", "generatedAtTime", "fullLabel", "file_size", "role", "context", "source", "value",
    "path", "model_name", "artifact_path", "artifact_uri", "creation_timestamp",
    "last_modified_timestamp", "startedAtTime", "endedAtTime",
})
#: Attributes of the run in 2.x, whose parameters stand beside them.
_OF_RUNS_2 = frozenset({
    "level", "provenance_path", "artifact_uri", "experiment_dir", "experiment_name", "run_id", "python_version",
    "global_rank", "local_rank", "node_rank", "execution_start_time", "execution_end_time",
})
_ABOUT = ("operating_system", "release", "machine", "processor", "runtime_type", "PID", "job_id", "node_rank",
          "local_rank")


def layout_of(document: Any) -> str:
    """`1.x`, `2.x`, `3.x`, or nothing for a document of somebody else."""
    prefixes = document.get("prefix") if isinstance(document, dict) else None
    if not isinstance(prefixes, dict) or "yp" in prefixes:
        return ""
    if "yProv4ML" in prefixes:
        return "2.x"
    if "yProv4ML" in str(prefixes.get("yprov", "")):
        return "3.x"
    return "1.x" if "prov-ml" in prefixes else ""


def named(name: str) -> tuple[str, int | None, str]:
    """(experiment, rank, run id) of `<experiment>_GR<rank>_<id>`."""
    match = _NAMED.fullmatch(name)
    return (match[1], int(match[2]), match[3] or "") if match else (name, None, "")


def run_of(document: dict[str, Any], layout: str) -> tuple[str, dict[str, Any]]:
    """(id, attributes) of the run's own record; nothing where there is none."""
    found: dict[str, Any] = {}
    identifier = ""
    for name, record in records(document, "entity" if layout == "1.x" else "activity"):
        if "experiment_name" in record or name == identifier or (layout == "1.x" and "provenance_path" in record):
            identifier, found = identifier or name, found | record
    return identifier, found


def rank_of(document: dict[str, Any], layout: str, folder: Path, key: str, zone: int, notes: Notes) -> Rank:
    """What one document says. `zone`: of times without one, where the document does not name it."""
    return _Reading(document, layout, folder, key, zone, notes).rank


def zone_named(document: dict[str, Any], layout: str) -> int | None:
    return zone_of(first(run_of(document, layout)[1].get("time_zone")))


class _Reading:
    def __init__(
        self, document: dict[str, Any], layout: str, folder: Path, key: str, zone: int, notes: Notes
    ) -> None:
        self.document, self.layout, self.folder, self.notes = document, layout, folder, notes
        self.root, run = run_of(document, layout)
        named_zone = zone_of(first(run.get("time_zone")))
        self.zone = zone if named_zone is None else named_zone
        experiment, rank, run_id = named(text_of(first(run.get("experiment_name"))))
        rank = rank if rank is not None else _int(run.get("global_rank")) or 0
        self.rank = Rank(rank if 0 <= rank < 10**9 else 0, key, experiment, text_of(first(run.get("run_id"))) or run_id)
        self.rank.host = text_of(first(run.get("host_name")))
        self.rank.python = text_of(first(run.get("python_version"))).partition(" ")[0]
        self.rank.user = local(next((name for name, _r in records(document, "agent")), ""))
        self.rank.about = {k: v for k in _ABOUT if (v := text_of(first(run.get(k))))}
        home = text_of(first(run.get("experiment_dir"))) or text_of(first(run.get("artifact_uri"))).rpartition("/")[0]
        self.home = f"{home}/" if home else ""
        self.inside = ContextNames(document, self.root)
        {"1.x": self._layout_1, "2.x": self._layout_2, "3.x": self._layout_3}[layout](run)
        self._collapse_copies()

    # the three layouts

    def _layout_1(self, run: dict[str, Any]) -> None:
        rank = self.rank
        if requirements := text_of(run.get("requirements")):
            rank.texts[f"requirements-GR{rank.rank}.txt"] = requirements + "\n"
        for _name, record in records(self.document, "activity"):
            if commit := text_of(first(record.get("source_git_commit"))):
                rank.code = {"commit": commit}
        merged: dict[str, dict[str, Any]] = {}
        for name, record in records(self.document, "entity"):
            merged.setdefault(name, {}).update(record)
        for name, record in merged.items():
            kind = record.get("type")
            if name in (self.root, "source_code", "datasets"):
                continue
            if "metric_value_list" in record or kind == "Metric":
                steps, values, times = (record.get(f"metric_{of}_list") for of in ("epoch", "value", "timestamp"))
                context = _context_1(text_of(record.get("context")))
                label = text_of(record.get("name")) or name
                rank.series.append(Series(label, context, text_of(record.get("source")), 0,
                                          partial(read_lists, steps, values, times, _label(label, context))))
            elif "parameter_value" in record or kind == "Parameter":
                self._param_or_time(name, typed(str(record.get("parameter_value", ""))))
            elif path := text_of(record.get("artifact_path")) or text_of(record.get("artifact_uri")):
                self._file(name.rpartition("/")[2], record, path, None, is_input=False)
            elif kind == "Dataset":
                self._file(name, record | {"type": "provml:Dataset"}, "", None, is_input=True)

    def _layout_2(self, run: dict[str, Any]) -> None:
        for name, record in records(self.document, "activity"):
            context = self.inside.path(name)
            for key, value in record.items():
                several = value if isinstance(value, list) else [value]
                for one in several:
                    if name == self.root and key in _OF_RUNS_2 and not key.startswith("execution_"):
                        continue
                    if key != "level":
                        self._param_or_time(_inside(context, key), plain(one))
            if name != self.root and set(record) - {"level"}:
                self.rank.contexts.setdefault(str(context), 0)
        for name, record in records(self.document, "entity"):
            path = text_of(record.get("path"))
            label = text_of(record.get("label")) or local(name)
            if "source" in record and "context" in record:
                self._metric(label, record, path, self.inside.path(f"context:{text_of(record['context'])}"), 0)
            else:
                self._file(label, record, path, self.inside.of(name), is_input=record.get("role") == "input")

    def _layout_3(self, run: dict[str, Any]) -> None:
        self.rank.begin_ns = self._time(run, "startedAtTime", "startTime")
        self.rank.end_ns = self._time(run, "endedAtTime", "endTime")
        for name, record in records(self.document, "activity"):
            if name != self.root and (context := self.inside.path(name)) is not None:
                begins = (self._time(record, "startedAtTime", "startTime"), self.rank.contexts.get(context, 0))
                self.rank.contexts[context] = min((b for b in begins if b), default=0)
        for name, record in records(self.document, "entity"):
            context, role = self._context_of(name, record), text_of(first(record.get("role")))
            label = self._plain_label(name, record)
            if record.get("type") == "provml:Metric":
                self._metric(label, record, text_of(record.get("identifier")), context,
                             time_ns(record.get("generatedAtTime"), self.zone))
            elif "value" in record:
                is_input = role == "input" if role else name in self.inside.used
                value = typed(str(first(record["value"])))
                self.rank.params.append(Param(_inside(context, label), value, "input" if is_input else "output"))
                self._code(label, value)
            else:
                self._file(label, record, text_of(record.get("identifier")), context, is_input=role == "input")

    # parts

    def _context_of(self, name: str, record: dict[str, Any]) -> str | None:
        told = text_of(first(record.get("context")))
        return self.inside.path(told) if told and name not in self.inside.activity_of else self.inside.of(name)

    def _plain_label(self, name: str, record: dict[str, Any]) -> str:
        """What the script called it: before 3.2.5 the label is the whole id, `[<source>//]<label>//<context>`."""
        label, activity = text_of(first(record.get("label"))) or name, self.inside.activity_of.get(name, "")
        if "fullLabel" in record:
            return label
        source, _, context = activity.rpartition("//")
        return label.removesuffix(f"//{context}").removeprefix(f"{source}//" if source else "")

    def _time(self, record: dict[str, Any], *names: str) -> int:
        return next((t for name in names if (t := time_ns(record.get(name), self.zone))), 0)

    def _param_or_time(self, name: str, value: Any) -> None:
        """1.x and 2.x write begin and end of the run as parameters."""
        if name == "execution_start_time":
            self.rank.begin_ns = self.rank.begin_ns or time_ns(value, 0)
        elif name == "execution_end_time":
            self.rank.end_ns = time_ns(value, 0)
        else:
            self.rank.params.append(Param(name, value))
            self._code(name, value)

    def _code(self, name: str, value: Any) -> None:
        """`source_code`: the remote and the commit, joined by a slash."""
        if name == "source_code" and (match := _COMMIT.fullmatch(str(value))):
            self.rank.code = {"remote": match[1], "commit": match[2]}

    def _metric(self, label: str, record: dict[str, Any], path: str, context: str | None, since_ns: int) -> None:
        found = self._find(path)
        about = _label(label, context)
        if found is None:
            self.notes.say(f"rank {self.rank.rank}: the file of the metric {about} is missing: {path or 'no path'}")
            return
        self.rank.series.append(Series(label, context, text_of(first(record.get("source"))), since_ns,
                                       partial(read_file, found, about)))

    def _file(
        self, label: str, record: dict[str, Any], path: str, context: str | None, *, is_input: bool
    ) -> None:
        is_model = text_of(first(record.get("type"))) in ("provml:Model", "ModelVersion") or path.endswith(_MODELS)
        statistics = [k for k in record if k not in _OF_FILES]
        is_dataset = text_of(first(record.get("type"))) == "provml:Dataset" or (
            is_input and not path and any("_stat_" in k for k in statistics))
        role = "dataset" if is_dataset else "input" if is_input else "model" if is_model else "output"
        found = self._find(path)
        at = time_ns(record.get("generatedAtTime") or record.get("creation_timestamp"), self.zone)
        if self.rank.begin_ns and not self.rank.begin_ns <= at <= (self.rank.end_ns or at):
            at = 0  # 1.x: local time of an unknown zone
        self.rank.files.append(ForeignFile(
            role, path, label, context, at, _int(record.get("file_size")), found,
            path.removeprefix(self.home) if found else ""))
        stem = label.partition(".")[0]
        for key in statistics:
            value = plain(first(record[key]))
            if text_of(value):
                self.rank.params.append(Param(_inside(context, key if key.startswith(stem) else f"{stem}_{key}"),
                                              typed(value) if isinstance(value, str) else value,
                                              "input" if is_input else "output"))

    def _find(self, path: str) -> Path | None:
        """Where a path of the document lies in the imported folder; never outside of it, by no `..` and no link."""
        inner = path.removeprefix(self.home) if self.home and path.startswith(self.home) else ""
        parts = [p for p in inner.split("/") if p not in ("", ".")]
        return inside(self.folder, self.folder.joinpath(*parts)) if parts and ".." not in parts else None

    def _collapse_copies(self) -> None:
        """A file and its copy in the run's folder are one file, which is in the folder."""
        rank = self.rank
        origin = {text_of(r.get("generatedEntity")): text_of(r.get("usedEntity"))
                  for _n, r in records(self.document, "wasDerivedFrom")}
        paths = {name: text_of(r.get("identifier")) or text_of(r.get("path"))
                 for name, r in records(self.document, "entity")}
        copied = {paths[copy]: (paths[of], of) for copy, of in origin.items() if copy in paths and of in paths}
        originals = {path for path, _of in copied.values()}
        roles = {f.path: f.role for f in rank.files if f.path in originals}
        rank.files = [
            f if f.path not in copied else
            ForeignFile(roles.get(copied[f.path][0], f.role), f.path, f.name, f.context, f.time_ns, f.size, f.found,
                        f.within, copied[f.path][0])
            for f in rank.files if f.path not in originals or f.path in copied
        ]


def _context_1(text: str) -> str | None:
    return text.removeprefix("Context.") or None


def _inside(context: str | None, name: str) -> str:
    return f"{context}/{name}" if context else name


def _label(name: str, context: str | None) -> str:
    return f"`{_inside(context, name)}`"


def _int(value: Any) -> int | None:
    try:
        return int(float(text_of(first(value))))
    except (ValueError, OverflowError):
        return None

