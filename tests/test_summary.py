"""What `yprov show` tells of a run's energy and GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.stitch.golden.small import account, config, small_attribution, small_record, small_series
from yprov.runs import RunView, plain
from yprov.summary import facts, lines
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.provenance import build_document


def view(**energy: Any) -> RunView:
    """The small run, with another report of its energy."""
    small = small_attribution()
    attribution: Attribution = replace(small, energy=replace(small.energy, **energy))
    document = json.loads(build_document(small_record(), attribution, small_series()))
    records = {kind: {i.removeprefix("run:"): r for i, r in document[kind].items()} for kind in ("activity", "entity")}
    return RunView(Path("/runs/r"), config(), "completed", records, plain(records["activity"]["run"]))


def line(view: RunView, name: str) -> str:
    (found,) = [text.removeprefix(f"  {name}").strip() for text in lines(view) if text.startswith(f"  {name} ")]
    return found


def test_energy_says_how_it_was_got_and_what_is_not_in_it() -> None:
    assert line(view(not_covered=("memory", "network, disks")), "energy") == (
        "100.0 J (measured), partial: without memory, network, disks; other jobs may have used a part of it")
    assert line(view(scope="node", not_covered=(), shared=False), "energy") == "100.0 J (measured), node"
    assert line(view(shared=False, reason="1 of 3 nodes have no meter: no RAPL"), "energy").endswith(
        "; 1 of 3 nodes have no meter: no RAPL")


def test_a_figure_with_holes_says_so() -> None:
    holes = view(coverage=0.53, gpu_coverage=0.456, gpu_scope="module", not_covered=(), shared=False)
    assert line(holes, "energy") == "100.0 J (measured for 53 % of the time), partial"
    assert line(holes, "gpu").startswith(
        "40.0 J (measured for 46 % of the time) with the processor and memory of its module, 0.005 GPU hours")


def test_a_name_cannot_speak_to_the_terminal() -> None:
    told = view()
    told = replace(told, config=told.config._replace(name="a\x1b[31mred\x07\nline " + "x" * 500))
    assert lines(told)[0].startswith("a [31mred line xxx")
    assert "\x1b" not in "".join(lines(told))
    assert len(lines(told)[0]) < 150


def test_many_kinds_of_devices_stay_on_a_line() -> None:
    told = view()
    told.records["entity"]["nodes"]["yp:devices"] = "\n".join(f"hwmon: 1 x CPU Power Socket {i}" for i in range(16))
    assert line(told, "node").endswith("hwmon: 1 x CPU Power Socket 3, 12 more kinds of devices")


def test_gpus_have_a_line_of_their_own_and_contexts_their_share() -> None:
    assert line(view(), "gpu") == "40.0 J (measured), 0.005 GPU hours, 37.3 GiB peak"
    training = next(text for text in lines(view()) if "training:" in text)
    assert "70.0 J, 40.0 J of GPUs" in training


def test_a_meter_that_was_passed_over_is_told() -> None:
    assert line(view(), "meter") == "gpu001: cray/node does not count: it covers 3 % of the run"


def test_facts_hold_the_figures_for_a_program() -> None:
    found = facts(view())
    assert {k: found[k] for k in ("energy_j", "energy_method", "energy_scope", "energy_coverage", "shared",
                                  "gpu_energy_j", "gpu_energy_method", "gpu_hours", "gpu_peak_memory_bytes")} == {
        "energy_j": 100.0, "energy_method": "measured", "energy_scope": "partial", "energy_coverage": 0.99,
        "shared": True, "gpu_energy_j": 40.0, "gpu_energy_method": "measured", "gpu_hours": 0.005,
        "gpu_peak_memory_bytes": 40_000_000_000}
    assert found["not_covered"] == ["gpu[001-002]: memory", "gpu[001-002]: network, disks"]
    assert found["contexts"]["training"]["gpu_energy_j"] == 40.0
    assert found["contexts"]["validation"]["gpu_energy_j"] is None


def test_what_was_run_and_with_what_is_told() -> None:
    told = view()
    assert line(told, "command") == "python train.py --note 'two words'"
    assert line(told, "params").startswith("bad NaN, big 1180591620717411303424, layers [64, 64], limit inf, lr 0.01,")
    assert line(told, "step") == "4242.0: train.py, 2 ranks, 8.0 s, 80.0 J"
    assert not any(text.startswith("  results") for text in lines(told))
    (step,) = facts(told)["steps"]
    assert step == {"step": "4242.0", "label": "step 4242.0: train.py", "ranks": 2, "duration_s": 8.0,
                    "energy_j": 80.0}


def test_what_was_declared_and_not_there_is_told_and_is_no_made_file() -> None:
    told = view()
    run = {**told.run, "missingFileCount": 5, "missingFiles": "output /a: No such file\nmodel /b: No such file\n"
           "output /c: No such file\noutput /d: No such file\noutput /e: No such file"}
    told = replace(told, run=run)
    assert line(told, "missing") == ("output /a: No such file; model /b: No such file; output /c: No such file; "
                                     "and 2 more")
    assert facts(told)["missing_files"]["count"] == 5
    assert not any(text.startswith("  missing") for text in lines(view()))


def test_rejected_calls_are_told_with_the_first_reason_and_are_not_lost() -> None:
    told = view()
    told = replace(told, run={**told.run, "callsRejected": 2, "rejectReason": "log_metric('m'): not a number: 'x'",
                              "framesLost": 0, "eventsDropped": 0, "damagedBytes": 0})
    assert line(told, "rejected") == "2 calls of yprov, the first: log_metric('m'): not a number: 'x'"
    assert not any(text.startswith("  lost") for text in lines(told))
    assert facts(told)["rejected"] == {"calls": 2, "reason": "log_metric('m'): not a number: 'x'"}


def test_many_parameters_and_long_values_stay_on_a_line() -> None:
    told = view()
    for i in range(20):
        told.records["entity"][f"result/r{i}"] = {"prov:label": f"r{i:02d}", "prov:value": "x\n" * 100}
    text = line(told, "results")
    assert text.startswith("r00 x x x")
    assert text.endswith(", and 12 more")
    assert len(text) < 500


def test_epochs_are_counted_also_where_the_document_has_no_room_for_them() -> None:
    small = small_attribution()
    epochs = [account(("ctx/training", f"epoch/{k}"), 1, 2) for k in range(777)]
    document = json.loads(build_document(small_record(), replace(small, accounts=[*small.accounts[:2], *epochs]), []))
    records = {kind: {i.removeprefix("run:"): r for i, r in document[kind].items()} for kind in ("activity", "entity")}
    told = replace(view(), records=records)
    assert facts(told)["contexts"]["training"]["epochs"] == 777


def test_an_archive_of_before_these_attributes_is_shown_as_it_was() -> None:
    old = view()
    for record in (*old.records["entity"].values(), *old.records["activity"].values()):
        for key in [k for k in record if k.startswith("yp:") and (
                "gpu" in k or k in ("yp:energyScope", "yp:notCovered", "yp:shared", "yp:energyNotes"))]:
            del record[key]
    old = replace(old, run=plain(old.records["activity"]["run"]))
    assert line(old, "energy") == "100.0 J (measured)"
    assert not any(text.startswith(("  gpu", "  meter")) for text in lines(old))


def test_what_was_cut_is_counted() -> None:
    """Of more than a thousand parameters the document has a thousand, inputs first."""
    told = view()
    inputs = {k: v for k, v in told.records["entity"].items() if k.startswith("param/")}
    for name in [k for k in told.records["entity"] if k.startswith("result/")]:
        del told.records["entity"][name]
    shown = len(inputs)
    cut = replace(told, run={**told.run, "parametersOmitted": 2000, "seriesOmitted": 7})
    assert line(cut, "params").endswith(f", and {max(0, shown - 8) + 2000} more")
    assert facts(cut)["omitted"] == {"parameters": 2000, "series": 7}
    assert facts(told)["omitted"] == {}
    assert any(text == "  metrics  and 7 series more, which only series.zarr has room for" for text in lines(cut))
    cut.records["entity"]["result/r"] = {"prov:label": "r", "prov:value": "1"}
    assert line(cut, "results") == "r 1, and 2000 more"
    assert "2000" not in line(cut, "params")


def test_more_metrics_than_a_line_has_room_for_are_counted() -> None:
    told = view()
    shown = len(facts(told)["metrics"]["run"])
    for i in range(20):
        told.records["entity"][f"series/metrics/run/m{i:02d}"] = {
            "prov:label": f"m{i:02d}", "yprov:context": "run", "yprov:source": "script",
            "yp:last": {"$": "1.5", "type": "xsd:double"}}
    assert line(told, "metrics").endswith(f", m{7 - shown:02d} 1.5, and {shown + 12} more")
