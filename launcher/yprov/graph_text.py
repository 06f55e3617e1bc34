"""A record of the graph, and what stands in its box: a title and some lines, short enough to be read."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yprov.wording import duration, energy, size

_WIDTH = 24
_MOST_LINES = 4
#: Names listed in a box of many.
_MOST_NAMES = 6
#: (one, many) of what has a name of its own in a box of many.
_NAMES = {
    "Parameter": ("parameter", "parameters"), "Result": ("result", "results"), "Series": ("series", "series"),
    "Input": ("input", "inputs"), "Artifact": ("output", "outputs"), "Model": ("model", "models"),
    "Dataset": ("dataset", "datasets"), "SourceFile": ("source file", "source files"), "Epoch": ("epoch", "epochs"),
    "Span": ("span", "spans"), "Step": ("step", "steps"), "Context": ("context", "contexts"),
}
#: What says of itself only its name.
_CALLED = {"Script": "script", "Experiment": "experiment", "Input": "input", "Artifact": "output",
           "SourceFile": "source file"}


@dataclass(frozen=True)
class Thing:
    """A record. `kind`: entity, activity or agent; `type`: our own class (`Parameter`), else that of PROV. `home`: the
    cluster that it lies in, "" for none. `about`: attributes by their full names, as plain values."""

    id: str
    kind: str
    type: str
    home: str
    about: Mapping[str, Any]

    def get(self, name: str) -> Any:
        return self.about.get(f"yp:{name}")

    @property
    def label(self) -> str:
        return str(self.about.get("prov:label") or self.id.partition(":")[2])


def lines_of(thing: Thing) -> list[str]:
    """One record: its title, and what of its attributes a reader looks for first."""
    title, more = thing.label, _more(thing)
    if thing.type in _CALLED:
        title = f"{_CALLED[thing.type]} {title.rpartition('/')[2] or title}"
    elif thing.type in _NAMES and thing.type not in ("Epoch", "Context", "Step"):
        metric = thing.type == "Series" and thing.about.get("yprov:source") == "script"
        title = f"{'metric' if metric else _NAMES[thing.type][0]} {title}"
    return [*_wrap(title, 3), *(line for text in more if text for line in _wrap(text, 3))][:_MOST_LINES + 2]


def title_of_group(things: Sequence[Thing], *, between: bool = False) -> list[str]:
    """Many records alike: how many they are, then their names or what they cost together. `between`: the first and the
    last of them stand beside it."""
    first = things[0]
    one, many = _NAMES.get(first.type, (first.type, f"{first.type} records"))
    if first.type in ("Epoch", "Step", "Context", "Span"):
        names = {t.label for t in things}
        if first.type == "Span" and len(names) == 1:
            title = f"span {first.label}, {sum(int(t.get('opened') or 1) for t in things)} times"
        else:
            title = f"… {len(things)} more {many}" if between or first.type == "Context" else f"{len(things)} {many}"
        return [*_wrap(title, 2), *_wrap(_cost_of(things), 2)]
    if first.type == "Series":
        group = str(first.about.get("prov:location") or "").partition("/")[2].rpartition("/")[0]
        what = "metric" if group.startswith("metrics/") else "series"
        where = group.removeprefix("metrics/")
        title = f"{_count(len(things), what)} of {where}"
        return [*_wrap(title, 2), *_listed([_last(t) for t in things] if what == "metric" else _short(things))]
    if first.type in ("Parameter", "Result"):
        return [_count(len(things), one, many), *_listed([_assigned(t) for t in things], lines=True)]
    labels = list(dict.fromkeys(t.label for t in things))
    if first.type == "Model" and len(labels) == 1:
        versions = sum(1 for t in things if t.get("versions") is None)
        epochs = [e for t in things if isinstance(e := t.get("epoch"), int)]
        return [*_wrap(f"model {labels[0]}", 2), _count(versions, "version"),
                *([f"the last of epoch {max(epochs)}"] if epochs else [])]
    return [_count(len(things), one, many), *_listed([name.rpartition("/")[2] or name for name in labels])]


def _more(thing: Thing) -> list[str]:
    kind, get = thing.type, thing.get
    if kind == "Run":
        ranks = get("worldSize")
        state = f"{get('state') or ''} in {_took(get('durationSeconds'))}"
        return [state, ", ".join(filter(None, [_count(get("nodeCount"), "node"), _count(ranks, "rank")])), _cost(thing)]
    if kind in ("Context", "Epoch", "Span", "Step"):
        of = f"in epoch {get('epoch')}" if kind == "Span" and get("epoch") is not None else ""
        return [of, _took(get("durationSeconds")), _cost(thing)]
    if kind in ("Parameter", "Result"):
        return [f"= {thing.about.get('prov:value', '')}"]
    if kind == "Command":
        return [" ".join(_tail(word) for word in str(thing.about.get("prov:value") or "").split())]
    if kind == "DeviceSet":
        return [f"{get('deviceCount')} of class {get('deviceClass')}"]
    if kind == "SourceCode":
        return [" ".join(filter(None, [str(get("commit") or "")[:10], str(get("branch") or "")])),
                "with uncommitted changes" if get("dirty") else ""]
    if kind == "NodeSet":
        return [_count(get("nodeCount"), "node"), str(get("nodeList") or "")]
    if kind == "Monitoring":
        seconds = get("intervalSeconds")
        return [f"every {seconds:g} s" if isinstance(seconds, (int, float)) else "",
                _count(get("sampleCount"), "sample")]
    if kind == "Telemetry":
        return [f"{get('seriesCount')} in series.zarr"]
    if kind == "EnergyReport":
        joules = get("energyJ")
        gpu = get("gpuEnergyJ")
        return [f"{energy(joules)} ({get('energyMethod')})" if joules is not None else "absent",
                f"{energy(gpu)} of GPUs" if gpu is not None else ""]
    if kind == "Series":
        last = get("last") if thing.about.get("yprov:source") == "script" else None
        unit = str(get("unit") or "")
        return [f"last {last:.4g}" if isinstance(last, (int, float)) else "", unit if unit != "1" else ""]
    if kind == "Job":
        return [" ".join(str(x) for x in (get("scheduler"), get("jobId")) if x), str(get("jobName") or "")]
    bytes_, epoch = get("sizeBytes"), get("epoch")
    return [f"of epoch {epoch}" if epoch is not None else "", size(bytes_) if isinstance(bytes_, (int, float)) else ""]


def _cost(thing: Thing) -> str:
    joules, hours, peak = thing.get("energyJ"), thing.get("gpuHours"), thing.get("gpuPeakMemoryBytes")
    peak = thing.get("peakMemoryBytes") if peak is None else peak
    return ", ".join(filter(None, [energy(joules) if joules is not None else "",
                                   f"{hours:.3g} GPU h" if hours else "", f"peak {size(peak)}" if peak else ""]))


def _cost_of(things: Sequence[Thing]) -> str:
    """Together; of spans within spans only the outer ones would count, so times and joules of other names stay out."""
    if len({t.label for t in things}) > 1 and things[0].type == "Span":
        return _names(Counter(t.label for t in things))
    seconds = [t.get("durationSeconds") for t in things]
    joules = [j for t in things if (j := t.get("energyJ")) is not None]
    return ", ".join(filter(None, [_took(sum(s for s in seconds if s is not None)) if any(seconds) else "",
                                   energy(sum(joules)) if joules else ""]))


def _names(counts: Counter[str]) -> str:
    named = [name for name, _n in counts.most_common(_MOST_NAMES)]
    return ", ".join(named) + (f", … {len(counts) - len(named)} more" if len(counts) > len(named) else "")


def _short(things: Sequence[Thing]) -> list[str]:
    return [str(t.about.get("prov:location") or t.label).rpartition("/")[2].removesuffix("_increment") for t in things]


def _last(thing: Thing) -> str:
    last = thing.get("last")
    return f"{thing.label} {last:.4g}" if isinstance(last, (int, float)) else thing.label


def _assigned(thing: Thing) -> str:
    return f"{thing.label} = {thing.about.get('prov:value', '')}"


def _listed(names: Sequence[str], *, lines: bool = False) -> list[str]:
    left = len(names) - _MOST_NAMES
    shown = [*names[:_MOST_NAMES - (left > 0)], *([f"… {left + 1} more"] if left > 0 else [])]
    if lines:
        return [textwrap.shorten(" ".join(n.split()), _WIDTH + 4, placeholder="…") for n in shown]
    return _wrap(", ".join(shown), _MOST_LINES)


def _count(n: Any, one: str, many: str = "") -> str:
    if n is None:
        return ""
    return f"{n:,} {one if n == 1 or one == 'series' else many or one + 's'}" if isinstance(n, int) else f"{n} {one}"


def _tail(word: str) -> str:
    """A long path by its end."""
    return f"…/{word.rpartition('/')[2]}" if len(word) > _WIDTH // 2 and "/" in word.rstrip("/") else word


def _took(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def _wrap(text: str, most: int) -> list[str]:
    """At most so many lines; a word that is too long is broken."""
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH)
    if len(lines) > most:
        lines = [*lines[:most - 1], lines[most - 1][:_WIDTH - 1] + "…"]
    return lines
