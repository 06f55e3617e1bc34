"""The documents that the stitch builds survive every syntax of PROV, whatever a job calls its things."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prov.model import ProvDocument
from prov.serializers.provjson import ProvJSONSerializer

from tests.stitch.golden.small import (
    T0,
    S,
    account,
    file,
    series_info,
    small_attribution,
    small_record,
)
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import MetricTable, Param, Record
from yprovd.stitch.validate import check_document

ODD = st.one_of(
    st.sampled_from(["", " ", "/", "//", "a b", "../..", "epoch/3", "training/epoch/0", "ü\"'\\", "a:b", "prov:x",
                     "x" * 5000, "%", "%41", "_", "-a.", "\x00", "\ud800", "日本\n語", "run:run", "{}", "a\r\nb", "NaN",
                     "true", "1", "<&>]]>", "\ufffe", "\t", "'''", '"""', "\\u0041", "$", "@", "e\u0301", "\u202e"]),
    st.text(max_size=20),
    st.text(st.characters(), max_size=5),
)
VALUES = st.one_of(
    ODD, st.integers(), st.integers(-(1 << 300), 1 << 300), st.floats(), st.booleans(), st.none(),
    st.lists(ODD, max_size=2), st.dictionaries(ODD, st.one_of(st.floats(), ODD), max_size=2))
FIGURES = st.one_of(st.none(), st.just(math.nan), st.floats(), st.floats(0, 1e12))
NONE = np.zeros(0, dtype=np.int64)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A small run, in which everything that a job may name, log or declare is drawn."""
    names = draw(st.lists(ODD, min_size=1, max_size=3))
    name = st.sampled_from(names) | ODD
    record = small_record()
    run = record.run
    run["config"]["name"], run["config"]["run_id"] = draw(name), draw(name)
    run["config"]["command"] = draw(st.lists(name, max_size=3))
    run["user"] = draw(name)
    run["environment"] = dict.fromkeys(names, draw(name))
    run["code"] = {"remote": draw(name), "commit": draw(name), "branch": draw(name), "dirty": draw(st.booleans())}
    record = Record(
        run=run, end={"state": "failed", "reason": draw(name), "exit_code": draw(st.integers(0, 255))}, nodes=[],
        processes=record.processes[:1], spans=[], params=[Param(n, draw(VALUES), 0, T0 + S) for n in names], events=[],
        files=[file(draw(st.sampled_from(["input", "output", "model", "dataset", "code"])), n, draw(st.floats(0, 10)),
                    path=draw(name), context=draw(st.none() | name), sha256=draw(st.none() | st.just("0" * 64)),
                    reason=draw(name), size=draw(st.integers(0, 1 << 62))) for n in names],
        metrics=MetricTable([], NONE, NONE, NONE, np.zeros(0), NONE),
        notes=[{"text": draw(name), "wall_ns": T0}], first_ns=T0, last_ns=T0 + 10 * S)
    begin = draw(st.integers(0, 12))
    accounts = [account((), 0, 10, energy_j=draw(FIGURES))]
    for n in dict.fromkeys(names[:2]):
        accounts += [account((f"ctx/{n}",), begin, 9, energy_j=draw(FIGURES)),
                     account((f"ctx/{n}", f"span/{draw(name)}"), 1, 2)]
    accounts.append(account((accounts[1].path[0], "epoch/3"), 1, 3, energy_j=draw(FIGURES)))
    series = [series_info(f"metrics/{i}", metric=n, context=n, source="script", unit=draw(name), min=draw(FIGURES),
                          mean=draw(FIGURES), max=draw(FIGURES), last=draw(FIGURES))
              for i, n in enumerate(names)]
    return build_document(record, replace(small_attribution(), accounts=accounts, steps=[]), series)


def patched_schema() -> dict[str, Any]:
    """The JSON schema of the Member Submission, with its two faults mended: it spells `wasEndedby`, and has no array
    for records that share an identifier (section 2.2 of the submission does)."""
    spec = importlib.util.find_spec("prov")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "tests" / "schemas" / "prov-json.schema.json"
    if not path.is_file():
        pytest.skip("this prov was installed without its tests, where the schema is")
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").replace("wasEndedby", "wasEndedBy"))
    for properties in (schema["properties"], schema["definitions"]["bundle"]["properties"]):
        for section in properties.values():
            one = section.get("additionalProperties")
            if isinstance(one, dict) and "$ref" in one:
                section["additionalProperties"] = {"anyOf": [one, {"type": "array", "items": one}]}
    return schema


@pytest.fixture(scope="module")
def follows_the_schema() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft4Validator(patched_schema()).validate


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=documents())
def test_any_run_makes_a_valid_document_that_survives_every_syntax(data: bytes, follows_the_schema: Any) -> None:
    """200 runs: about 20 s of a processor, half of it for RDF."""
    text = data.decode()
    doc = json.loads(text)
    assert check_document(doc) == []
    follows_the_schema(doc)
    one = ProvJSONSerializer().deserialize(io.StringIO(text))
    for name, needed in (("json", ""), ("provn", ""), ("xml", "lxml"), ("rdf", "rdflib")):
        if not needed or importlib.util.find_spec(needed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # rdflib's, for how prov calls it
                written = one.serialize(format=name)
                assert ProvDocument.deserialize(content=written, format=name) == one, name
