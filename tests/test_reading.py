"""yprov.open_run: what was recorded is what is read, from a directory and from a zip file."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import os
import pickle
import random
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

import yprov
from tests.archives import ODD, ROWS, Kept, leave_spool, make_run
from tests.running import environment
from tests.stitch.builders import RunSpool, ns
from tests.stitch.golden.small import config
from yprov.export import export
from yprov.export_netcdf import write_netcdf
from yprov.reading import RecordedRun
from yprov.reading_columns import KEYS
from yprov.reading_zip import ZippedRun
from yprovd.errors import YprovError
from yprovd.stitch import stitch

WAYS = ("directory", "zip", "unpacked", "packed by others", "compressed by others")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def ways(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run in every form in which somebody may have it."""
    folder = tmp_path_factory.mktemp("ways")
    with yprov.open_run(kept.path) as run:
        export(run, "zip", str(folder / "run.zip"))
    with zipfile.ZipFile(folder / "run.zip") as z:
        z.extractall(folder / "unpacked")
    shutil.make_archive(str(folder / "others"), "zip", kept.path.parent, kept.path.name)
    with zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for path in (folder / "unpacked").rglob("*"):
            z.write(path, path.relative_to(folder / "unpacked"))
    return {"directory": kept.path, "zip": folder / "run.zip", "unpacked": folder / "unpacked",
            "packed by others": folder / "others.zip", "compressed by others": folder / "deflated.zip"}


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, ways: dict[str, Path]) -> Iterator[RecordedRun]:
    with yprov.open_run(ways[request.param]) as opened:
        yield opened


def test_run_says_who_it_is(run: RecordedRun) -> None:
    assert (run.id, run.name, run.state) == ("0b7c1a52-3f6e-4d1c-9a43-6d2f8e1b7c55", "resnet", "completed")
    assert run.config.command == ("python", "train.py", "--note", "two words")
    assert run.prov["activity"]["run:run"]["prov:label"] == "resnet"
    assert run.read("source/train.py") == b"print()\n"
    assert {"run.json", "prov.json", "logs/stdout.log", "ro-crate-metadata.json"} <= set(run.names())
    with pytest.raises(FileNotFoundError):
        run.read("source/other.py")


def test_parameters_have_their_types_and_last_values(run: RecordedRun) -> None:
    found = run.parameters
    assert math.isnan(found.pop("bad"))
    assert found == {"lr": 0.01, "layers": [64, 64], "big": 1 << 70, "on": True, ODD: ODD, "nul\0": None,
                     "text": "a,b\n\"c\"\0d"}
    assert found["on"] is True
    assert run.results == {}


def test_metrics_are_what_was_logged(run: RecordedRun, kept: Kept) -> None:
    table = run.metrics()
    assert list(table.columns[:5]) == ["context", "step", "epoch", "rank", "time"]
    assert dict(table.dtypes[["step", "epoch", "time", "loss"]]) == {
        "step": "Int64", "epoch": "Int64", "time": "datetime64[ns]", "loss": "float64"}
    assert len(table) == sum(map(len, kept.metrics.values()))
    for context, rows in kept.metrics.items():
        part = run.metrics(context).sort_values(["rank", "epoch", "step"])
        assert set(part["context"]) == {context}
        expected = sorted(rows, key=lambda r: (r[2], r[1] or 0, r[0] or 0))
        for name, column in (("step", 0), ("epoch", 1), ("rank", 2)):
            assert [None if pd.isna(v) else v for v in part[name]] == [r[column] for r in expected]
        for name in expected[0][3]:
            shown = "%73tep" if name == "step" else name  # a metric that is called as a key is
            np.testing.assert_array_equal(part[shown], [r[3][name] for r in expected])
    training = run.metrics("training")
    assert np.signbit(training["%73tep"]).all()
    assert training["time"].iloc[0].value == ns(2.0)


def test_short_decimals_are_exact_to_the_last_bit(run: RecordedRun) -> None:
    exact = [round(0.001 * i, 3) for i in range(ROWS)]
    assert run.root["metrics/many/short"].dtype.kind == "i"
    assert run.metrics("many")["short"].tolist() == exact
    assert run.series("metrics/many").short.values.tolist() == exact


def test_series_are_decoded_and_what_is_missing_is_nan(run: RecordedRun) -> None:
    host = run.series("host")
    assert host.cpu_utilization.dims == ("node", "time")
    assert host.cpu_utilization.attrs["units"] == "percent"
    row = host.cpu_utilization.sel(node=0).values
    assert np.isnan(row[[3, 5]]).all()
    assert set(np.delete(row, [3, 5])) == {25.0}
    assert host.time.values[0] == np.datetime64(ns(0.0), "ns")
    gpu = run.series("gpu")
    assert gpu.power.sel(device="GPU-0").values[:3].tolist() == [100.0, 101.0, 102.0]
    assert np.isnan(gpu.power.sel(device="GPU-3").values).all()
    for group in run.groups:
        run.series(group).load()


def test_series_are_those_that_xarray_reads(run: RecordedRun, kept: Kept) -> None:
    for group in run.groups:
        if group != "metrics/many":  # where xarray is off by one unit in the last place
            theirs = xr.open_dataset(kept.path / "series.zarr", group=group, engine="zarr", consolidated=False,
                                     chunks=None)
            assert run.series(group).load().identical(theirs.load()), group


def test_energy_is_told_of_the_run_and_its_parts(run: RecordedRun) -> None:
    table = run.energy()
    assert table["kind"].tolist()[0] == "run"
    assert table["energy_j"].iloc[0] == pytest.approx(200.0, abs=0.1)
    assert table["duration_s"].iloc[0] == 10.0
    assert table["begin"].iloc[0].value == ns(0.0)
    contexts = run.energy("context").set_index("context")
    assert set(contexts.index) == {"training", ODD}
    assert contexts.loc["training", "energy_j"] == pytest.approx(160.0, abs=0.1)
    epochs = run.energy("epoch")
    assert epochs["epoch"].tolist() == [0, 1]
    assert epochs["energy_j"].tolist() == pytest.approx([78.0, 78.0], abs=0.1)
    assert (epochs["peak_memory_bytes"].isna()).all()
    assert list(epochs.index) == [0, 1]


def test_files_and_artifacts(run: RecordedRun) -> None:
    assert run.files[["role", "path"]].values.tolist() == [["input", "/data/täst,1.csv"], ["model", "/out/m.pt"],
                                                            ["model", "/out/m.pt"]]
    assert set(run.artifacts["name"]) == {"best"}
    assert run.files["epoch"].isna().all()


def test_document_is_that_of_prov(run: RecordedRun) -> None:
    ids = {str(r.identifier) for r in run.document.get_records()}
    assert {"run:run", "run:monitoring", "run:ctx/training"} <= ids


@pytest.mark.parametrize("form", ["zip", "packed by others", "compressed by others"])
def test_packed_store_gives_the_parts_that_are_asked_for(ways: dict[str, Path], kept: Kept, form: str) -> None:
    """As zarr asks for them: a part, from a place on, the last bytes; never those of the entry behind it."""
    key = "host/zarr.json"
    whole = (kept.path / "series.zarr" / key).read_bytes()
    size = len(whole)
    with yprov.open_run(ways[form]) as run:
        store, prototype = run.root.store, zarr.core.buffer.default_buffer_prototype()
        for request, expected in (
            (None, whole), (RangeByteRequest(3, 9), whole[3:9]), (RangeByteRequest(size - 2, size + 9), whole[-2:]),
            (OffsetByteRequest(5), whole[5:]), (SuffixByteRequest(4), whole[-4:]), (SuffixByteRequest(size + 4), whole),
        ):
            assert asyncio.run(store.get(key, prototype, request)).to_bytes() == expected
        assert asyncio.run(store.get("host/nothing", prototype)) is None
        for refused in (store.set(key, None), store.delete(key)):
            with pytest.raises(PermissionError):
                asyncio.run(refused)


def test_unknown_group_names_the_nearest(run: RecordedRun) -> None:
    with pytest.raises(YprovError, match="no series `hosst`") as e:
        run.series("hosst")
    assert e.value.hint == "did you mean `host`?"


def test_run_without_metrics_and_contexts(tmp_path: Path, kept: Kept) -> None:
    path = tmp_path / "run"
    shutil.copytree(kept.path, path)
    for name in ("metrics", "accounts", "params", "files"):
        shutil.rmtree(path / "series.zarr" / name)
    root = json.loads((path / "series.zarr/zarr.json").read_text())
    del root["consolidated_metadata"]
    (path / "series.zarr/zarr.json").write_text(json.dumps(root))
    with yprov.open_run(path) as run:
        assert run.parameters == {}
        assert run.metrics().empty
        assert run.metrics().dtypes["step"] == "Int64"
        assert run.files.empty
        assert run.artifacts.empty
        table = run.energy()
        assert table["kind"].tolist() == ["run"]
        assert table["energy_j"].iloc[0] == pytest.approx(200.0, abs=0.1)
        assert table["begin"].iloc[0].value == ns(0.0)
        assert table.dtypes.astype(str).to_dict() == yprov.open_run(kept.path).energy().dtypes.astype(str).to_dict()


def test_run_is_found_by_name_or_as_the_last(kept: Kept) -> None:
    for given in ("last", "resnet", kept.path.name):
        with yprov.open_run(given, kept.path.parent) as run:
            assert run.directory == kept.path
    with pytest.raises(YprovError, match="no run `other`"):
        yprov.open_run("other", kept.path.parent)


def test_run_that_was_not_stitched_says_what_to_type(tmp_path: Path, kept: Kept) -> None:
    path = tmp_path / "run"
    shutil.copytree(kept.path, path)
    (path / "prov.json").unlink()
    leave_spool(path)
    with pytest.raises(YprovError, match="was not stitched yet") as e:
        yprov.open_run(path)
    assert e.value.hint == f"yprov stitch {path}"


def test_run_without_its_series_is_read_as_far_as_it_goes(tmp_path: Path, kept: Kept) -> None:
    path = tmp_path / "run"
    shutil.copytree(kept.path, path, ignore=shutil.ignore_patterns("series.zarr"))
    with yprov.open_run(path) as run:
        assert run.state == "completed"
        with pytest.raises(YprovError, match=r"has no series\.zarr"):
            run.series("host")


@pytest.mark.parametrize(("content", "message"), [(b"no zip", "is no zip file"), (None, "holds no prov.json")])
def test_file_that_is_no_packed_run_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("other.txt", "x")
    else:
        path.write_bytes(content)
    with pytest.raises(YprovError, match=message):
        yprov.open_run(path)


@pytest.mark.parametrize("form", ["zip", "compressed by others"])
def test_a_zip_that_was_damaged_on_its_way_is_told_of(form: str, ways: dict[str, Path], tmp_path: Path) -> None:
    """Whatever zipfile says of it: a checksum, a header, a method or an encryption that is none."""
    whole, path = ways[form].read_bytes(), tmp_path / "x.zip"
    rng = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data[-rng.randrange(1, 3000)] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(YprovError):
            zipped = ZippedRun(path)
            try:
                for name in zipped.names():
                    zipped.read(name)
                zipped.store()
            finally:
                zipped.close()


@pytest.mark.parametrize("name", ["/etc/passwd", "../../other.txt", "logs/../../../other.txt", "away/other.txt", "link",
                                  "a\0b"])
def test_a_path_that_leads_out_of_the_run_is_refused(name: str, tmp_path: Path, kept: Kept) -> None:
    (tmp_path / "other.txt").write_text("of somebody else")
    path = tmp_path / "runs/run"
    shutil.copytree(kept.path, path, ignore=shutil.ignore_patterns("series.zarr"))
    (path / "link").symlink_to(tmp_path / "other.txt")
    (path / "away").symlink_to(tmp_path)
    with yprov.open_run(path) as run:
        with pytest.raises(YprovError, match="lies outside of the run") as e:
            run.read(name)
        assert e.value.hint == "names() are the paths within it"
        assert name not in run.names()


def test_links_and_detours_within_a_run_are_read_and_what_is_no_file_is_not(tmp_path: Path, kept: Kept) -> None:
    path = tmp_path / "run"
    shutil.copytree(kept.path, path, ignore=shutil.ignore_patterns("series.zarr"))
    (path / "same.json").symlink_to("run.json")
    (tmp_path / "newest").symlink_to("run")
    os.mknod(path / "socket", stat.S_IFSOCK | 0o600)
    with yprov.open_run(tmp_path / "newest") as run:
        assert run.read("same.json") == run.read("logs/../run.json") == (path / "run.json").read_bytes()
        assert "same.json" in run.names()
        for name in ("socket", "logs", "nothing"):
            with pytest.raises(FileNotFoundError):
                run.read(name)


def test_no_way_out_of_a_zip_either(ways: dict[str, Path]) -> None:
    with yprov.open_run(ways["packed by others"]) as run:
        for name in ("/etc/passwd", "../run.json"):
            with pytest.raises(FileNotFoundError):
                run.read(name)


@pytest.mark.parametrize("given", [None, 7, ["last"]])
def test_what_is_no_path_is_said(given: Any) -> None:
    with pytest.raises(YprovError, match="a run is a path or a part of a name, not ") as e:
        yprov.open_run(given)
    assert 'yprov.open_run("last")' in e.value.hint


def test_a_path_may_be_bytes_and_not_empty(kept: Kept) -> None:
    with yprov.open_run(os.fsencode(kept.path)) as run:  # type: ignore[arg-type]  # as `open` takes it
        assert run.directory == kept.path
    with pytest.raises(YprovError, match="the name is empty"):
        yprov.open_run("")


def test_damaged_documents_are_told_of(tmp_path: Path, kept: Kept) -> None:
    path = tmp_path / "run"
    shutil.copytree(kept.path, path, ignore=shutil.ignore_patterns("series.zarr"))
    (path / "prov.json").write_text("{")
    with pytest.raises(YprovError, match="is damaged"):
        yprov.open_run(path)


def test_example_of_the_readme_runs(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "yprov-runs").symlink_to(kept.path.parent)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r"```python no-run\n(import yprov\n(?:(?!```).)*?open_run.*?)```", readme, re.S)
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resnet completed {")


def test_closed_zip_leaves_no_file_open(ways: dict[str, Path]) -> None:
    code = """
import os, sys, yprov
for path in sys.argv[1:]:
    with yprov.open_run(path) as run:
        run.series("host").load()
links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
names = [os.readlink(link) for link in links if os.path.lexists(link)]
print([name for name in names if "zip" in name or "(deleted)" in name])
"""
    done = subprocess.run([sys.executable, "-c", code, *(str(p) for p in ways.values())], capture_output=True,
                          text=True, env=environment(), check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("form", ["zip", "compressed by others"])
def test_a_run_that_is_closed_twice_closes_no_other_file(form: str, ways: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"of somebody else")
    run = yprov.open_run(ways[form])
    late = run.series("host")
    run.close()
    others = [open(tmp_path / "other", "rb") for _ in range(4)]  # noqa: SIM115  # they have the numbers that are free
    try:
        run.close()
        for ask in (late.load, lambda: run.read("run.json"), lambda: run.series("host")):
            with pytest.raises(YprovError, match="the run was closed"):
                ask()
        assert [f.read() for f in others] == [b"of somebody else"] * len(others)
    finally:
        for f in others:
            f.close()


@pytest.mark.parametrize("form", ["zip", "compressed by others"])
def test_a_run_that_nobody_has_any_more_leaves_no_file_open(form: str, ways: dict[str, Path]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        yprov.open_run(ways[form]).series("host").load()
    gc.collect()
    left = [os.readlink(f"/proc/self/fd/{n}") for n in set(os.listdir("/proc/self/fd")) - before
            if os.path.lexists(f"/proc/self/fd/{n}")]
    assert [name for name in left if "zip" in name or "(deleted)" in name] == []


def test_what_was_loaded_goes_to_another_process(ways: dict[str, Path]) -> None:
    for path in ways.values():
        with yprov.open_run(path) as run:
            table = run.series("host").load().copy()
            assert pickle.loads(pickle.dumps(table)).identical(table)


#: Metrics that are called as what each table has beside its metrics, and one that HDF5 cannot hold.
HARD = (*KEYS, "nul\0", "%63ontext")


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hard") / "20260101T000000Z-hard-0b7c1a52"
    (path / "spool").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(config().to_json()))
    spool = RunSpool(path / "spool")
    spool.begin(config=config().to_json(), user="ada")
    process = spool.process("n1", rank=0)
    for number, name in enumerate(HARD):
        process.metric(2.0, name, 100.0 + number, step=7)
    process.exit(3.0)
    spool.finish(10.0, exit_code=0)
    spool.close()
    stitch(path)
    return path


def test_a_metric_may_be_called_as_a_key_of_its_table(hard: Path) -> None:
    with yprov.open_run(hard) as run:
        (row,) = run.metrics().to_dict("records")
        assert (row["context"], row["step"], row["rank"]) == (None, 7, 0)
        names = [f"%{ord(name[0]):02X}{name[1:]}" for name in KEYS]
        assert [row[name] for name in names] == [100.0 + i for i in range(len(KEYS))]
        assert row["%2563ontext"] == 107.0
        assert {f"{array}" for array in run.root["metrics/run"]} >= set(names)


def test_a_run_of_before_with_a_metric_called_context_is_read(hard: Path, tmp_path: Path) -> None:
    path = tmp_path / hard.name
    shutil.copytree(hard, path)
    store = path / "series.zarr"
    (store / "metrics/run/%63ontext").rename(store / "metrics/run/context")
    root = json.loads((store / "zarr.json").read_text())
    inside = root["consolidated_metadata"]["metadata"]
    inside["metrics/run/context"] = inside.pop("metrics/run/%63ontext")
    (store / "zarr.json").write_text(json.dumps(root))
    with yprov.open_run(path) as run:
        (row,) = run.metrics().to_dict("records")
        assert (row["context"], row["%63ontext"]) == (None, 100.0)


def test_a_nul_in_a_name_is_written_into_netcdf_as_it_is_in_texts(hard: Path, tmp_path: Path) -> None:
    with yprov.open_run(hard) as run:
        write_netcdf(run, run.groups, tmp_path / "run.nc", lambda stage: None)
    with xr.open_dataset(tmp_path / "run.nc", group="metrics/run", engine="h5netcdf") as found:
        assert found["nul%00"].attrs["long_name"] == "nul\\u0000"
        assert found["nul%00"].values.tolist() == [106.0]


def test_metrics_outside_of_contexts_and_of_a_context_that_is_called_run(hard: Path, run: RecordedRun) -> None:
    with yprov.open_run(hard) as plain:
        assert len(plain.metrics("run")) == 1
        assert plain.metrics("run").equals(plain.metrics())
    for context in ("run", "nosuch"):
        with pytest.raises(yprov.YprovError, match=f"has no metrics of `{context}`; it has .*many, .*training"):
            run.metrics(context)
    with pytest.raises(yprov.YprovError, match="has no metrics of `trainin`") as e:
        run.metrics("trainin")
    assert e.value.hint == "did you mean `training`?"


def test_a_kind_of_which_no_energy_is_told_is_refused(run: RecordedRun) -> None:
    with pytest.raises(yprov.YprovError, match="energy is told of no `nosuch`") as e:
        run.energy("nosuch")
    assert e.value.hint == "of each run, context, epoch, span"


def test_a_context_called_run_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "20260101T000000Z-hard-0b7c1a52"
    (path / "spool").mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(config().to_json()))
    spool = RunSpool(path / "spool")
    spool.begin(config=config().to_json(), user="ada")
    process = spool.process("n1", rank=0)
    process.metric(2.0, "loss", 1.0)
    with process.span(3.0, 5.0, "context", "run"):
        process.metric(4.0, "loss", 2.0)
    process.exit(6.0)
    spool.finish(10.0, exit_code=0)
    spool.close()
    stitch(path)
    with yprov.open_run(path) as run:
        assert run.metrics("run")["loss"].tolist() == [2.0]
        assert sorted(run.metrics()["loss"]) == [1.0, 2.0]
