"""The graph in Graphviz's language, and as SVG. Shapes and colours are those of the W3C's PROV diagrams: an entity is a
yellow ellipse, an activity a blue rectangle, an agent an orange house. An edge goes from what came later to what was
there before; time goes from left to right.

No text of a run is part of the language: every string is quoted, and of what a label could contain `&` begins an
entity, a backslash an escape, and both are written so that they do not.
"""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from yprov.graph import Box, Cluster, Edge, Graph
from yprovd.errors import YprovError

_SHAPES = {"entity": 'ellipse margin="0.02,0.02"', "activity": "box", "agent": 'house margin="0.06,0.04"'}
#: Inside and edge.
_COLOURS = {"entity": ("#FFFC87", "#808080"), "activity": ("#9FB1FC", "#0000FF"), "agent": ("#FED37F", "#B26200")}
#: What is written at an edge, and how it is drawn. PROV's own word is in the tooltip: its length would make the picture
#: half as wide again.
_EDGES = {
    "used": ("used", 'color="#606060"'), "wasGeneratedBy": ("made by", 'color="#A07800"'),
    "wasDerivedFrom": ("from", 'color="#7A3E9D"'), "wasInformedBy": ("informed by", 'color="#3050C8"'),
    "wasStartedBy": ("started by", 'color="#3050C8" style=dashed'), "wasEndedBy": ("ended by", 'color="#3050C8"'),
    "wasInvalidatedBy": ("invalidated by", 'color="#A07800" style=dashed'),
    "wasAssociatedWith": ("by", 'color="#C86400"'), "actedOnBehalfOf": ("for", 'color="#C86400" style=dashed'),
    "wasAttributedTo": ("by", 'color="#C86400"'), "hadMember": ("has", 'color="#909090" style=dotted'),
    "specializationOf": ("version of", 'color="#7A3E9D" style=dotted'),
    "alternateOf": ("same as", 'color="#7A3E9D" style=dotted'),
    "wasInfluencedBy": ("influenced by", 'color="#909090"'),
}
#: Seconds that Graphviz may take: two for 500 boxes.
DOT_S = 300.0
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def _printable(text: str) -> str:
    return _CONTROL.sub(lambda m: f"\\u{ord(m[0]):04x}", text.replace("\n", " "))


def quoted(*lines: str) -> str:
    """Lines of text as a string of the language."""
    def escaped(text: str) -> str:
        text = _printable(text)
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")

    return '"' + "\\n".join(escaped(line) for line in lines) + '"'


def dot_text(graph: Graph) -> str:
    """The same graph gives the same text."""
    out = [
        "digraph run {",
        f"  graph [rankdir=RL newrank=true label={quoted(graph.title)} labelloc=t fontsize=18",
        '         fontname="Helvetica" nodesep=0.12 ranksep=0.3 splines=spline charset="UTF-8"];',
        '  node [style=filled fontname="Helvetica" fontsize=11 height=0.35 width=0.6];',
        '  edge [fontname="Helvetica" fontsize=9 fontcolor="#404040" arrowsize=0.7];',
    ]
    names = {name: f"cluster_{i}" for i, name in enumerate(graph.clusters)}
    inner: dict[str, list[int]] = {}
    for number, box in enumerate(graph.boxes):
        inner.setdefault(box.home, []).append(number)
    out += _cluster("", graph, names, inner, "  ")
    out += [f"  {_edge(edge, graph)}" for edge in graph.edges]
    return "\n".join([*out, "}", ""])


def _cluster(
    name: str, graph: Graph, names: Mapping[str, str], inner: Mapping[str, list[int]], indent: str
) -> Iterator[str]:
    for number in inner.get(name, []):
        yield f"{indent}n{number} [{_node(graph.boxes[number])}];"
    for chain in graph.chains:
        if graph.boxes[chain[0]].home == name and len(chain) > 1:
            yield from _chain(chain, inner.get(name, []), graph, indent)
    for child, cluster in graph.clusters.items():
        if cluster.parent == name:
            yield f"{indent}subgraph {names[child]} {{"
            yield f"{indent}  {_frame(cluster)}"
            yield from _cluster(child, graph, names, inner, indent + "  ")
            yield f"{indent}}}"


def _chain(chain: list[int], beside: list[int], graph: Graph, indent: str) -> Iterator[str]:
    """Epochs and spans above each other, in the column after that of their context."""
    whole = [n for n in beside if graph.boxes[n].things[0].type == "Context"]
    yield f"{indent}{{rank=same; {' -> '.join(f'n{n}' for n in reversed(chain))} [style=invis]}}"
    yield from (f"{indent}n{chain[0]} -> n{n} [style=invis];" for n in whole)


def _frame(cluster: Cluster) -> str:
    return (f'graph [label={quoted(cluster.title)} style="rounded,filled" fillcolor="#F3F5FC" color="#A0A8C0" '
            'fontname="Helvetica" fontsize=12 labeljust=l margin=10];')


def _node(box: Box) -> str:
    if box.cells:
        return f"label={_table(box)} tooltip={quoted(*box.lines)} shape=plain style=solid"
    tip = ", ".join(t.id for t in box.things[:20]) + (", …" if len(box.things) > 20 else "")
    look = f'shape={_SHAPES[box.kind]} fillcolor="{_COLOURS[box.kind][0]}" color="{_COLOURS[box.kind][1]}"'
    many = " peripheries=2" if len(box.things) > 1 else ""
    return f"label={quoted(*box.lines)} tooltip={quoted(tip)} {look}{many}"


def _table(box: Box) -> str:
    """Cells of 1.7 by 0.5 inches, column by column, in a field three times as wide as high: tables come to stand above
    each other."""
    columns = max(1, round(math.sqrt(len(box.cells))))
    rows = math.ceil(len(box.cells) / columns)
    look = _COLOURS[box.kind]
    out = [f'<<TABLE BORDER="1" COLOR="{look[1]}" CELLBORDER="1" CELLSPACING="3" CELLPADDING="3" BGCOLOR="white">'
           f'<TR><TD BORDER="0" COLSPAN="{columns}"><B>{_html(box.lines)}</B></TD></TR>']
    for row in range(rows):
        cells = range(row, len(box.cells), rows)
        out.append("<TR>" + "".join(f'<TD BGCOLOR="{look[0]}">{_html(box.cells[n])}</TD>' for n in cells)
                   + "<TD BORDER=\"0\"></TD>" * (columns - len(cells)) + "</TR>")
    return "".join(out) + "</TABLE>>"


def _html(lines: Sequence[str]) -> str:
    return "<BR/>".join(html.escape(_printable(line)) for line in lines) or " "


def _edge(edge: Edge, graph: Graph) -> str:
    word, style = _EDGES[edge.relation]
    label = quoted(word + (f" ({edge.count})" if edge.count > 1 else ""))
    tip = quoted(edge.relation)
    more = ""
    if edge.relation == "wasDerivedFrom" and graph.boxes[edge.source].home != graph.boxes[edge.target].home:
        more += " constraint=false"  # a long way; what it begins and ends at has its place by other edges
    return f"n{edge.source} -> n{edge.target} [label={label} tooltip={tip} labeltooltip={tip} {style}{more}];"


def svg(dot: str) -> bytes:
    """By Graphviz. Raises YprovError."""
    program = shutil.which("dot")
    if program is None:
        raise YprovError("Graphviz draws the picture, and there is no `dot` in PATH",
                         hint="apt-get install graphviz, or: yprov export RUN --to dot")
    try:
        done = subprocess.run([program, "-Tsvg"], input=dot.encode(), capture_output=True, timeout=DOT_S, check=True)
    except subprocess.TimeoutExpired:
        raise YprovError(f"Graphviz did not finish within {DOT_S:.0f} s", hint="leave out --full") from None
    except (OSError, subprocess.CalledProcessError) as e:
        said = getattr(e, "stderr", None) or str(e).encode()
        raise YprovError(f"Graphviz failed: {said.decode(errors='replace').strip()[:300]}",
                         hint="yprov export RUN --to dot   writes what it was given") from None
    return done.stdout
