"""The graph of a run: few boxes whatever the number of records, nothing lost, and no text that could break it."""

from __future__ import annotations

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.graphs import large_document, records
from yprov import graph_dot
from yprov.graph import MOST_BOXES, RELATIONS, Graph, graph_of
from yprov.graph_dot import dot_text, quoted, svg
from yprovd.errors import YprovError

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "stitch/golden/prov.json").read_text())


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return large_document()


def titles(graph: Graph) -> list[str]:
    return [box.lines[0] for box in graph.boxes]


def box(graph: Graph, title: str) -> int:
    (found,) = [n for n, b in enumerate(graph.boxes) if b.lines[0] == title]
    return found


def edges(graph: Graph) -> set[tuple[str, str, str, int]]:
    return {(e.relation, graph.boxes[e.source].lines[0], graph.boxes[e.target].lines[0], e.count) for e in graph.edges}


def test_five_hundred_records_are_fifty_boxes_at_most(large: dict[str, Any]) -> None:
    assert records(large) > 450
    graph = graph_of(large)
    assert 30 < len(graph.boxes) <= 50
    assert sum(len(b.things) for b in graph.boxes) == records(large)


def test_each_record_is_in_one_box_and_each_relation_in_one_edge_of_the_full_graph(large: dict[str, Any]) -> None:
    for document in (large, GOLDEN):
        graph = graph_of(document, full=True)
        drawn = Counter(t.id for b in graph.boxes for t in b.things)
        assert set(drawn) == {i for kind in ("entity", "activity", "agent") for i in document[kind]}
        assert set(drawn.values()) == {1}
        at = {t.id: n for n, b in enumerate(graph.boxes) for t in b.things}
        told: Counter[tuple[str, int, int]] = Counter()
        for relation, (source, target) in RELATIONS.items():
            for record in document.get(relation, {}).values():
                for one in record if isinstance(record, list) else [record]:
                    ends = at[one[f"prov:{source}"]], at[one[f"prov:{target}"]]
                    if ends[0] != ends[1]:
                        told[relation, *ends] += 1
        assert {(e.relation, e.source, e.target): e.count for e in graph.edges} == told
        assert all(len(b.cells) in (0, len(b.things)) for b in graph.boxes)


def test_parameters_and_series_are_one_box_each_with_their_names(large: dict[str, Any]) -> None:
    graph = graph_of(large)
    parameters = graph.boxes[box(graph, "47 parameters")]
    assert parameters.lines[1:4] == ["bad = NaN", "big = 1180591620717411303424", "layers = [64, 64]"]
    assert parameters.lines[-1] == "… 42 more"
    assert {"25 series of gpu", "25 series of host", "25 series of cray", "25 series of disk"} <= set(titles(graph))
    assert "accuracy 0.5, loss 0.5," in graph.boxes[box(graph, "4 metrics of training")].lines


def test_epochs_are_the_first_the_last_and_those_between_with_their_energy(large: dict[str, Any]) -> None:
    graph = graph_of(large)
    (between,) = [b for b in graph.boxes if b.lines[0] == "… 58 more epochs" and b.home == "training"]
    assert between.lines[1] == "7 min 44 s, 17.1 kJ"
    assert {"training 0", "training 59"} <= set(titles(graph))
    order = [graph.boxes[n].lines[0] for chain in graph.chains for n in chain if graph.boxes[n].home == "training"]
    assert order[:3] == ["training 0", "… 58 more epochs", "training 59"]
    assert any("90.0 J" in line for line in graph.boxes[box(graph, "training")].lines)


def test_contexts_are_named_clusters_in_which_their_parts_lie(large: dict[str, Any]) -> None:
    graph = graph_of(large)
    assert {c.title for c in graph.clusters.values()} == {
        "context training", "context validation", "context testing", "monitoring"}
    homes = {b.lines[0]: b.home for b in graph.boxes}
    assert homes["model resnet"] == homes["4 metrics of training"] == homes["training 0"] == "training"
    assert graph.clusters[homes["25 series of gpu"]].title == "monitoring"
    nested = graph_of(GOLDEN)
    assert nested.clusters["training/augment"].parent == "training"


def test_small_run_is_drawn_with_its_relations() -> None:
    graph = graph_of(GOLDEN)
    assert {("used", "resnet", "7 parameters", 7), ("wasAssociatedWith", "resnet", "Ada Lovelace", 1),
            ("actedOnBehalfOf", "Ada Lovelace", "Analytical Engines", 1), ("wasGeneratedBy", "command", "resnet", 1),
            ("wasStartedBy", "training", "command", 1)} <= edges(graph)
    for e in graph.edges:  # what lies in a cluster is not also said by an edge
        assert not (e.relation == "wasInformedBy" and graph.boxes[e.source].things[0].type in ("Epoch", "Context"))


def test_many_contexts_are_one_cluster_beyond_the_first() -> None:
    document = json.loads(json.dumps(GOLDEN))
    pattern = document["activity"]["run:ctx/training"]
    for k in range(150):
        document["activity"][f"run:ctx/c{k}"] = {**pattern, "prov:label": f"c{k}", "yp:context": f"c{k}"}
        for e in range(6):
            document["activity"][f"run:ctx/c{k}/epoch/{e}"] = {
                **document["activity"]["run:ctx/training/epoch/0"], "prov:label": f"c{k} {e}", "yp:context": f"c{k}"}
            document["entity"][f"run:output/{k}-{e}"] = {
                **document["entity"]["run:output/report.txt"], "yp:context": f"c{k}"}
    graph = graph_of(document)
    assert len(graph.boxes) <= MOST_BOXES
    assert any(re.fullmatch(r"\d+ more contexts", c.title) for c in graph.clusters.values())


@pytest.mark.parametrize("size", [(500, 1000, 300, 250), (3, 2, 200, 1), (1, 0, 0, 0)])
def test_number_of_boxes_is_bounded(size: tuple[int, int, int, int]) -> None:
    assert len(graph_of(large_document(*size)).boxes) <= MOST_BOXES


def test_record_of_a_kind_that_is_not_known_is_drawn_all_the_same() -> None:
    document = {"activity": {"run:run": {}, "x:a": [{"prov:label": "one"}, {"prov:label": "two"}]},
                "entity": {f"x:e{k}": {"prov:type": {"$": "x:Thing", "type": "prov:QUALIFIED_NAME"}} for k in range(9)},
                "wasStartedBy": {"_:1": {"prov:activity": "x:a", "prov:starter": "run:run"}},
                "used": {"_:2": {"prov:activity": "x:gone", "prov:entity": "x:e1"}}}
    graph = graph_of(document)
    assert "9 Thing records" in titles(graph)
    assert {(e.relation, e.count) for e in graph.edges} == {("wasStartedBy", 1)}


NASTY = ['"', "\\", "\\N", "\\\"", "a\nb", "<b>", "&amp;", "&#60;", "]];}", "é漢\U0001f600", "\x00\x1b", "\ud800", " ",
         "", "#", "{|}", "\\l", "%"]


def named(text: str, full: bool) -> str:
    """A run in which everything that has a name is called so."""
    document = json.loads(json.dumps(GOLDEN))
    for kind in ("activity", "entity", "agent"):
        for record in document[kind].values():
            for key in ("prov:label", "yp:context", "prov:value", "yp:commit", "prov:location"):
                if key in record:
                    record[key] = text
        document[kind] = {f"{k}{text if n else ''}": v for n, (k, v) in enumerate(sorted(
            document[kind].items(), key=lambda item: item[0] != "run:run"))}
    return dot_text(graph_of(document, full=full))


@pytest.mark.parametrize("full", [False, True])
def test_no_name_breaks_the_picture(graphviz: str, full: bool) -> None:
    """Graphviz reads it without a word, and the picture is XML in which each name stands as it is."""
    for text in NASTY:
        done = subprocess.run([graphviz, "-Tsvg"], input=named(text, full).encode(), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), (text, done.stderr)
        drawn = "".join(ET.fromstring(done.stdout).itertext())
        shown = "".join(f"\\u{ord(c):04x}" if (c < " " and c != "\n") or "\ud800" <= c <= "\udfff" else c for c in text)
        assert shown.replace("\n", " ").strip() in drawn.replace("\xa0", " ").replace("\n", " "), text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1))
def test_quoted_text_is_one_string_of_the_language(lines: list[str]) -> None:
    """As Graphviz's scanner sees it: a quote ends a string unless a backslash stands before it."""
    text = quoted(*lines)
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', text)
    assert "\n" not in text
    back = re.sub(r"\\(.)", lambda m: "\x00" if m[1] == "n" else m[1], text[1:-1]).replace("&amp;", "&")
    assert back.count("\x00") == len(lines) - 1


def sizes(dot: str, program: str) -> tuple[tuple[float, float], list[tuple[float, float, float, float]]]:
    """(inches of the picture, (left, bottom, right, top) of each box), by Graphviz's own layout."""
    plain = subprocess.run([program, "-Tplain"], input=dot.encode(), capture_output=True, check=True).stdout.decode()
    width, height = (float(x) for x in plain.split("\n", 1)[0].split()[2:4])
    found: dict[int, tuple[float, float, float, float]] = {}
    for line in plain.splitlines():
        if line.startswith("node "):
            name, *place = line.split()[1:6]
            x, y, w, h = (float(v) for v in place)
            found[int(name[1:])] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return (width, height), [found[n] for n in sorted(found)]


@pytest.mark.parametrize(("what", "full", "most"), [("small", False, 25), ("large", False, 25), ("large", True, 60)])
def test_picture_is_legible(graphviz: str, large: dict[str, Any], what: str, full: bool, most: float) -> None:
    """No box over another, no stripe, and small enough for its letters of 11 points: of 5 on a landscape A4."""
    (width, height), boxes = sizes(dot_text(graph_of(large if what == "large" else GOLDEN, full=full)), graphviz)
    assert max(width, height) <= most
    assert 1 / 3 <= width / height <= 3
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] + 0.01 or b[2] <= a[0] + 0.01 or a[3] <= b[1] + 0.01 or b[3] <= a[1] + 0.01


def test_epochs_stand_in_their_order(graphviz: str) -> None:
    graph = graph_of(GOLDEN)
    _size, boxes = sizes(dot_text(graph), graphviz)
    first, last = (boxes[box(graph, title)] for title in ("training 0", "training 1"))
    assert first[1] > last[3]  # above it: y grows upwards
    assert abs(first[0] + first[2] - last[0] - last[2]) < 0.1


def test_shapes_and_colours_are_those_of_the_w3c() -> None:
    dot = dot_text(graph_of(GOLDEN))
    assert re.search(r'label="Ada Lovelace".*shape=house .*fillcolor="#FED37F"', dot)
    assert re.search(r'label="command.*shape=ellipse .*fillcolor="#FFFC87"', dot)
    assert re.search(r'label="resnet.*shape=box .*fillcolor="#9FB1FC"', dot)
    assert dot == dot_text(graph_of(GOLDEN))


def test_svg_is_a_picture_with_the_ids_of_the_records(graphviz: str) -> None:
    text = svg(dot_text(graph_of(GOLDEN))).decode()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "run:ctx/training/epoch/0" in text


def test_without_graphviz_the_hint_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(YprovError, match="no `dot` in PATH") as e:
        svg("digraph {}")
    assert e.value.hint == "apt-get install graphviz, or: yprov export RUN --to dot"


def test_graphviz_that_fails_or_hangs_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dot"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for script, message in (("echo broken >&2; exit 1", "Graphviz failed: broken"),
                            ("exec sleep 60", "did not finish within 0 s")):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(graph_dot, "DOT_S", 0.2 if "sleep" in script else 60)
        with pytest.raises(YprovError, match=message):
            svg("digraph {}")
