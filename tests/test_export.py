"""yprov export: every format is read back by a reader of others, and says what the archive says."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from prov.model import ProvDocument

import yprov
from tests.archives import ODD, Kept, leave_spool, make_run
from tests.running import YPROV, environment
from tests.running import yprov as command
from yprov import export_netcdf, export_tables
from yprov.export import FORMATS, export, format_of, text_of
from yprov.export_zip import crate_of_zip
from yprov.reading import RecordedRun
from yprovd.errors import YprovError
from yprovd.stitch.crate import archive_files
from yprovd.stitch.validate import validate_run

READ_BACK = {"provn": {"format": "provn"}, "xml": {"format": "xml"}, "jsonld": {"format": "jsonld"},
             "ttl": {"format": "rdf", "rdf_format": "turtle"}, "rdf": {"format": "rdf", "rdf_format": "xml"}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(kept: Kept) -> Iterator[RecordedRun]:
    with yprov.open_run(kept.path) as opened:
        yield opened


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
@pytest.mark.parametrize("to", READ_BACK)
def test_prov_documents_are_read_back_by_prov(run: RecordedRun, tmp_path: Path, to: str) -> None:
    done = export(run, to, str(tmp_path))
    assert done.path == tmp_path / f"resnet.{to}"
    assert ProvDocument.deserialize(done.path, **READ_BACK[to]) == run.document


def raw(run: RecordedRun, group: str) -> dict[str, Any]:
    return {name: array[...] for name, array in run.root[group].arrays()}


@pytest.mark.parametrize("part", [export_netcdf.PART, 64])
def test_netcdf_has_every_group_with_equal_values_and_attributes(
    run: RecordedRun, tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_netcdf, "PART", part)
    path = tmp_path / "run.nc"
    export_netcdf.write_netcdf(run, run.groups, path, lambda stage: None)  # in this process, with our parts
    for group in run.groups:
        ours = xr.open_dataset(path, group=group, engine="h5netcdf", decode_cf=False)
        theirs = xr.open_dataset(run.directory / "series.zarr", group=group, engine="zarr", consolidated=False,
                                 decode_cf=False, chunks=None)
        assert set(ours.variables) == set(theirs.variables), group
        assert ours.attrs == theirs.attrs
        for name in theirs.variables:
            assert ours[name].dims == theirs[name].dims
            assert {k: v.item() if hasattr(v, "item") else v for k, v in ours[name].attrs.items()} == theirs[name].attrs
            values = np.asarray(theirs[name].values)
            if values.dtype.kind in "iuf":
                assert ours[name].dtype == values.dtype
                np.testing.assert_array_equal(ours[name].values, values)
            else:
                expected = [str(v).replace("\0", "\\u0000") for v in values.reshape(-1)]
                assert [str(v) for v in ours[name].values.reshape(-1)] == expected
        ours.close()


def test_netcdf_opens_as_xarray_opens_things_and_missing_is_nan(run: RecordedRun, tmp_path: Path) -> None:
    path = export(run, "netcdf", str(tmp_path)).path
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert {g.strip("/") for g in tree.groups} == {"", "metrics", *run.groups}
        assert tree.attrs["Conventions"] == "CF-1.11"
        assert tree.attrs["run"] == run.id
    with xr.open_dataset(path, group="host") as host:
        assert np.isnan(host.cpu_utilization.values[0, [3, 5]]).all()
        assert host.cpu_utilization.values[0, 0] == 25.0
        assert host.time.dtype == "datetime64[ns]"
        assert (host.time.values == run.series("host").time.values).all()


def test_netcdf_holds_only_the_groups_that_were_asked_for(run: RecordedRun, tmp_path: Path) -> None:
    path = export(run, "netcdf", str(tmp_path / "x.nc"), groups=["metrics", "h*"]).path
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        wanted = {"host", *(g for g in run.groups if g.startswith("metrics/"))}
        assert {g.strip("/") for g in tree.groups} == {"", "metrics", *wanted}


def grid(run: RecordedRun, group: str, name: str) -> Any:
    """A variable of a group in the order of the tables: (device, time) by rows."""
    return run.series(group)[name].values.reshape(-1)


def read_table(folder: Path, group: str, suffix: str) -> pd.DataFrame:
    if suffix == "csv":
        return pd.read_csv(folder / f"{group}.csv", keep_default_na=False, na_values=[""])
    return pd.read_parquet(folder / f"{group}.parquet")


@pytest.mark.parametrize("part", [export_tables.PART, 400])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_group_is_a_table_with_the_values_of_the_store(
    run: RecordedRun, tmp_path: Path, suffix: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_tables, "PART", part)
    done = export(run, suffix, str(tmp_path))
    assert done.path == tmp_path / f"resnet-{suffix}"
    assert {str(f.relative_to(done.path)) for f in done.files} == {
        *(f"{g}.{suffix}" for g in run.groups), f"devices.{suffix}", *(["columns.csv"] if suffix == "csv" else [])}
    for group in run.groups:
        table = read_table(done.path, group, suffix)
        compared = 0
        decoded = run.series(group).load()
        for name, variable in decoded.variables.items():
            shown = str(variable.attrs["long_name"]) if group.startswith("metrics/") and name in decoded.data_vars \
                and str(name) not in ("step", "epoch", "rank", "time") else str(name)
            shown = str(name) if shown == "step" and name != "step" else shown
            if name == "device_attributes":
                continue
            expected = variable.values
            if len(decoded.sizes) == 2 and variable.dims != tuple(decoded.sizes):
                dims = [d for d in decoded.sizes if d != "time"] + ["time"]
                expected = np.broadcast_to(
                    expected if variable.dims == ("time",) else expected[:, None], [decoded.sizes[d] for d in dims])
            expected = expected.reshape(-1)
            values = table[shown]
            assert len(values) == len(expected), (group, name)
            if expected.dtype.kind == "M":
                found = pd.to_datetime(values, utc=True).dt.tz_localize(None).to_numpy("datetime64[ns]")
                np.testing.assert_array_equal(found, expected)
            elif expected.dtype.kind in "iuf":
                np.testing.assert_array_equal(values.to_numpy(np.float64), expected.astype(np.float64))
            else:
                found_text = ["" if isinstance(v, float) and math.isnan(v) else str(v) for v in values]
                assert found_text == [str(v) for v in expected], (group, name)
            compared += 1
        assert compared == len(table.columns), group


def test_parquet_keeps_types_units_and_whole_numbers(run: RecordedRun, tmp_path: Path) -> None:
    folder = export(run, "parquet", str(tmp_path)).path
    host = pq.read_table(folder / "host.parquet")
    field = host.schema.field("cpu_utilization")
    assert str(field.type) == "int32"
    assert field.metadata[b"units"] == b"percent"
    assert host.column("cpu_utilization").null_count == 4
    assert str(host.schema.field("time").type) == "timestamp[ns, tz=UTC]"
    assert host.column_names[:3] == ["time", "hostname", "node"]
    assert host.schema.metadata[b"run"] == run.id.encode()
    training = pq.read_table(folder / "metrics/training.parquet")
    assert {"loss", ODD, "%73tep", "step"} <= set(training.column_names)
    assert training.column("loss").null_count == 2


def test_one_group_is_one_file(run: RecordedRun, tmp_path: Path) -> None:
    done = export(run, "csv", str(tmp_path), groups=["gpu"])
    assert done.path == tmp_path / "resnet-gpu.csv"
    table = pd.read_csv(done.path)
    assert list(table.columns) == ["time", "device", "device_name", "node", "power"]
    assert table["device"].tolist() == [f"GPU-{g}" for g in range(4) for _ in range(12)]
    chosen = export(run, "parquet", str(tmp_path / "power.parquet"), groups=["gpu"])
    assert len(pd.read_parquet(chosen.path)) == 48


def test_csv_says_what_its_columns_are_and_what_the_devices(run: RecordedRun, tmp_path: Path) -> None:
    folder = export(run, "csv", str(tmp_path)).path
    columns = pd.read_csv(folder / "columns.csv").set_index(["table", "column"])
    assert columns.loc[("host", "cpu_utilization"), "units"] == "percent"
    assert columns.loc[("host", "time"), "units"] == "UTC"
    devices = pd.read_csv(folder / "devices.csv").set_index("device")
    assert json.loads(devices.loc["GPU-1", "device_attributes"]) == {"vendor": "nvidia", "index": 1}
    assert devices.loc["GPU-2", "node"] == 1


def test_empty_and_strange_arrays_are_exported_as_they_are(run: RecordedRun, tmp_path: Path) -> None:
    """No stitch leaves these, but a store may hold them: no rows, text only, every cell missing."""
    path = tmp_path / "run"
    shutil.copytree(run.directory, path)
    root = zarr.open_group(path / "series.zarr", mode="a", use_consolidated=False)
    empty = root.create_group("extra/empty")
    empty.create_array("n", shape=(0,), dtype="i4", dimension_names=["row"], fill_value=-(2**31),
                       attributes={"_FillValue": -(2**31)})
    empty.create_array("s", shape=(0,), dtype=str, dimension_names=["row"])
    bare = root.create_group("extra/bare")
    bare.create_array("n", shape=(2,), dtype="i4", dimension_names=["row"], fill_value=-(2**31),
                      attributes={"_FillValue": -(2**31)})
    document = json.loads((path / "series.zarr/zarr.json").read_text())
    document.pop("consolidated_metadata", None)
    (path / "series.zarr/zarr.json").write_text(json.dumps(document))
    with yprov.open_run(path) as opened:
        assert {"extra/empty", "extra/bare"} <= set(opened.groups)
        for to in ("csv", "parquet"):
            folder = export(opened, to, str(tmp_path)).path
            table = read_table(folder, "extra/empty", to)
            assert list(table.columns) == ["n", "s"]
            assert table.empty
            assert len(read_table(folder, "extra/bare", "parquet") if to == "parquet" else pd.read_csv(
                folder / "extra/bare.csv", skip_blank_lines=False)) == 2
        netcdf = export(opened, "netcdf", str(tmp_path)).path
        with xr.open_dataset(netcdf, group="extra/empty") as dataset:
            assert dataset.sizes == {"row": 0}
        with xr.open_dataset(netcdf, group="extra/bare") as dataset:
            assert np.isnan(dataset.n.values).tolist() == [True, True]


# zip


def test_zip_is_the_same_each_time_and_holds_what_the_crate_lists(run: RecordedRun, tmp_path: Path) -> None:
    first = export(run, "zip", str(tmp_path / "a.zip")).path
    copy = tmp_path / "copy"
    shutil.copytree(run.directory, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    with yprov.open_run(copy) as other:
        second = export(other, "zip", str(tmp_path / "b.zip")).path
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as z:
        assert set(z.namelist()) == {*archive_files(run.directory), "ro-crate-metadata.json", "series.zarr.zip"}
        packed = z.getinfo("series.zarr.zip")
        assert packed.compress_type == zipfile.ZIP_STORED
        assert z.getinfo("logs/stdout.log").compress_type == zipfile.ZIP_DEFLATED
        assert {i.external_attr >> 16 for i in z.infolist()} == {0o100600}
        for name in archive_files(run.directory):
            assert z.read(name) == (run.directory / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip", "copy"]


def test_packed_series_are_a_store_of_zarr(run: RecordedRun, tmp_path: Path) -> None:
    with zipfile.ZipFile(export(run, "zip", str(tmp_path / "a.zip")).path) as z:
        z.extract("series.zarr.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "series.zarr.zip") as z:
        assert {i.compress_type for i in z.infolist()} == {zipfile.ZIP_STORED}
        assert z.namelist() == sorted(z.namelist(), key=os.fsencode)
    with zarr.storage.ZipStore(tmp_path / "series.zarr.zip", mode="r") as store:
        found = xr.open_zarr(store, group="host", consolidated=False, chunks=None).load()
    assert found.identical(run.series("host").load()[list(found.data_vars)])


def test_crate_in_the_zip_is_true(run: RecordedRun, tmp_path: Path) -> None:
    """What it lists is there, with its size and checksum."""
    with zipfile.ZipFile(export(run, "zip", str(tmp_path / "a.zip")).path) as z:
        crate = {e["@id"]: e for e in json.loads(z.read("ro-crate-metadata.json"))["@graph"]}
        original = {e["@id"]: e for e in json.loads((run.directory / "ro-crate-metadata.json").read_text())["@graph"]}
        assert set(crate) == set(original) - {"series.zarr/"} | {"series.zarr.zip"}
        assert {"@id": "series.zarr.zip"} in crate["./"]["hasPart"]
        assert "series.zarr/\"" not in json.dumps(list(crate.values()))
        for part in crate["./"]["hasPart"]:
            data = z.read(part["@id"])
            about = crate[part["@id"]]
            assert about["@type"] == "File"
            assert (about["contentSize"], about["sha256"]) == (str(len(data)), hashlib.sha256(data).hexdigest())
        assert original["series.zarr/"]["sha256"] in crate["series.zarr.zip"]["description"]


def test_crate_of_others_is_packed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for metadata in (b"no json", b"{}", b'{"@graph": [{"@id": "./"}]}', b"[]"):
        assert crate_of_zip(metadata, tmp_path / "x") == metadata


def test_zip_of_an_unpacked_zip_is_that_zip(run: RecordedRun, tmp_path: Path) -> None:
    first = export(run, "zip", str(tmp_path / "a.zip")).path
    with zipfile.ZipFile(first) as z:
        z.extractall(tmp_path / "unpacked")
    with yprov.open_run(tmp_path / "unpacked") as again:
        assert export(again, "zip", str(tmp_path / "b.zip")).path.read_bytes() == first.read_bytes()
    with yprov.open_run(first) as packed:
        with pytest.raises(YprovError, match="is a zip file already"):
            export(packed, "zip", str(tmp_path / "c.zip"))
        assert export(packed, "csv", str(tmp_path / "tables"), groups=["host"]).bytes > 100


def test_spool_stays_out_of_the_zip(tmp_path: Path) -> None:
    kept = make_run(tmp_path / "runs", keep_spool=True)
    assert list((kept.path / "spool").iterdir())
    with yprov.open_run(kept.path) as run, zipfile.ZipFile(export(run, "zip", str(tmp_path)).path) as z:
        assert not [n for n in z.namelist() if n.startswith("spool")]


def test_name_that_no_zip_file_can_have_is_named(run: RecordedRun, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(run.directory, path)
    (path / "artifacts" / os.fsdecode(b"x\xff")).write_text("x")
    with yprov.open_run(path) as opened, pytest.raises(YprovError, match=r"x\\xff` cannot be in a zip file"):
        export(opened, "zip", str(tmp_path / "a.zip"))
    assert not [p.name for p in tmp_path.iterdir() if "zip" in p.name]


# where to


def test_nothing_is_written_over_unless_forced(run: RecordedRun, tmp_path: Path) -> None:
    for to in ("provn", "csv", "zip"):
        path = export(run, to, str(tmp_path)).path
        before = sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(YprovError, match="exists") as e:
            export(run, to, str(tmp_path))
        assert "--force" in e.value.hint
        if path.is_dir():
            (path / "host.csv").write_text("old")
        else:
            path.write_text("old")
        export(run, to, str(tmp_path), force=True)
        assert (path / "host.csv" if path.is_dir() else path).stat().st_size > 10
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_folder_of_something_else_is_not_removed_even_when_forced(run: RecordedRun, tmp_path: Path) -> None:
    mine = tmp_path / "resnet-csv"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(YprovError, match=r"holds `thesis\.tex`"):
        export(run, "csv", str(tmp_path), force=True)
    assert (mine / "thesis.tex").read_text() == "x"
    (tmp_path / "resnet.nc").mkdir()
    with pytest.raises(YprovError, match="is not removed"):
        export(run, "netcdf", str(tmp_path), force=True)


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_a_table_of_the_user_is_not_removed_even_when_forced(run: RecordedRun, tmp_path: Path, to: str) -> None:
    """Neither beside tables of ours, nor in a folder that has none."""
    folder = export(run, to, str(tmp_path)).path
    export(run, to, str(tmp_path), force=True)
    if to == "csv":
        (folder / "results.csv").write_text("a,b\n")
    else:
        pd.DataFrame({"a": [1]}).to_parquet(folder / "results.parquet")
    other = tmp_path / "other"
    other.mkdir()
    (other / f"host.{to}").write_text("mine")
    for where, file in ((tmp_path, folder / f"results.{to}"), (other, None)):
        if file is None:
            shutil.copytree(other, other / f"resnet-{to}")
            file = other / f"resnet-{to}/host.{to}"
        before = file.read_bytes()
        with pytest.raises(YprovError, match=f"is not removed: it holds `{file.name}`, which is no export"):
            export(run, to, str(where), force=True)
        assert file.read_bytes() == before


@pytest.mark.parametrize("where", [".", "spool", "link"])
def test_nothing_is_written_into_the_run_itself(where: str, kept: Kept, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(kept.path, run_dir)
    (run_dir / "spool").mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(run_dir)
    target = tmp_path / "link" if where == "link" else run_dir / where
    for to in ("provn", "csv", "zip"):
        done = command("export", str(run_dir), "--to", to, cwd=target)
        assert (done.returncode, done.stdout) == (1, "")
        assert "would lie in the run itself" in done.stderr
        assert f"hint: -o {os.path.relpath(tmp_path, target.resolve())} " in done.stderr
    assert validate_run(run_dir) == []


@pytest.mark.parametrize("to", ["netcdf", "parquet", "csv", "zip", "provn"])
def test_a_full_disk_is_said_and_leaves_nothing(to: str, kept: Kept, tmp_path: Path) -> None:
    """A limit on the size of files is met as a full disk is, by any user. HDF5 ends its process by SIGSEGV."""
    words = " ".join([*YPROV, "export", str(kept.path), "--to", to])
    done = subprocess.run(["bash", "-c", f"ulimit -f 1; exec {words}"], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaints(done.stderr)[0].startswith("error: cannot write `")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing_behind(run: RecordedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yprov.export_tables.write_table", full)
    with pytest.raises(YprovError, match=r"cannot write `.*resnet-csv`: No space left on device"):
        export(run, "csv", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_missing_directory_is_named(run: RecordedRun, tmp_path: Path) -> None:
    with pytest.raises(YprovError, match="there is no directory") as e:
        export(run, "provn", str(tmp_path / "a/b.provn"))
    assert e.value.hint == f"mkdir -p {tmp_path / 'a'}"


@pytest.mark.parametrize("given", ["pdf", "png", "PDF", ".png"])
def test_a_picture_that_is_no_format_says_how_it_is_made(given: str) -> None:
    with pytest.raises(YprovError, match=f"no format `{given}`; there are provn, xml") as e:
        format_of(given)
    kind = given.lower().lstrip(".")
    assert e.value.hint == f"yprov export RUN --to dot -o - | dot -T{kind} -o FILE   draws the graph so"


def test_a_format_that_is_like_no_other_is_not_guessed() -> None:
    with pytest.raises(YprovError, match="no format `df`") as e:
        format_of("df")
    assert e.value.hint == "yprov export --help"


@pytest.mark.parametrize(("given", "near"), [("jsn", "jsonld"), ("net-cdf", "netcdf"), ("parket", "parquet")])
def test_unknown_format_names_the_nearest(given: str, near: str) -> None:
    with pytest.raises(YprovError, match=f"no format `{given}`; there are provn, xml") as e:
        format_of(given)
    assert e.value.hint == f"did you mean `--to {near}`?"


def test_formats_are_known_by_their_suffixes_too() -> None:
    assert format_of("nc") is FORMATS["netcdf"]
    assert format_of(".PROVN") is FORMATS["provn"]


def test_options_that_mean_nothing_here_are_refused(run: RecordedRun, tmp_path: Path) -> None:
    for to, options, message in (("provn", {"groups": ["gpu"]}, "--group"), ("csv", {"full": True}, "--full"),
                                 ("csv", {"groups": ["gpus"]}, "no series `gpus`")):
        with pytest.raises(YprovError, match=message):
            export(run, to, str(tmp_path), **options)  # type: ignore[arg-type]
    with pytest.raises(YprovError, match="is not text"):
        text_of(run, "zip")
    assert list(tmp_path.iterdir()) == []


# the command


def test_command_writes_into_the_current_directory_and_says_what(kept: Kept, tmp_path: Path) -> None:
    done = command("export", str(kept.path), "--to", "csv", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["path"], said["format"]) == ("resnet-csv", "csv")
    assert "resnet-csv/host.csv" in said["files"]
    assert said["bytes"] == sum(p.stat().st_size for p in (tmp_path / "resnet-csv").rglob("*.csv"))
    again = command("export", str(kept.path), "--to", "csv", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: `resnet-csv` exists\nhint: --force")


def test_command_prints_text_where_it_is_asked_to(kept: Kept, tmp_path: Path) -> None:
    done = command("export", str(kept.path), "--to", "provn", "-o", "-", cwd=tmp_path)
    assert done.stdout.startswith("document\n")
    assert list(tmp_path.iterdir()) == []


def complaints(stderr: str) -> list[str]:
    """Without what a busy machine takes long for."""
    return [line for line in stderr.splitlines() if not line.endswith(" s so far)")]


@pytest.mark.parametrize(("to", "groups"), [
    ("csv", ["host"]), ("csv", ["metrics/tr*ning"]), ("parquet", ["gpu"]), ("netcdf", []), ("netcdf", ["host"]),
    ("zip", []), ("dot", []), ("ttl", [])])
def test_command_prints_what_is_one_file(kept: Kept, tmp_path: Path, to: str, groups: list[str]) -> None:
    chosen = [word for group in groups for word in ("--group", group)]
    with open(tmp_path / "printed", "wb") as out:
        done = command("export", str(kept.path), "--to", to, *chosen, "-o", "-", cwd=tmp_path, stdout=out,
                       stderr=subprocess.PIPE, env=environment(TMPDIR=str(tmp_path)))
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert [p.name for p in tmp_path.iterdir()] == ["printed"]
    with yprov.open_run(kept.path) as run:
        written = export(run, to, str(tmp_path / "written"), groups=groups).path
    if to == "netcdf":  # HDF5 keeps times of its own
        assert (tmp_path / "printed").stat().st_size == written.stat().st_size
        assert xr.open_dataset(tmp_path / "printed", group="host").identical(xr.open_dataset(written, group="host"))
    elif to == "ttl":  # blank nodes have random names
        assert b"prov:Activity" in (tmp_path / "printed").read_bytes()
    else:
        assert (tmp_path / "printed").read_bytes() == written.read_bytes()


def test_many_tables_are_not_printed(kept: Kept, tmp_path: Path) -> None:
    done = command("export", str(kept.path), "--to", "csv", "-o", "-", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert " groups is a folder, and one table is printed\nhint: --group host\n" in done.stderr


def test_bytes_are_not_printed_to_a_terminal(kept: Kept, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        for to, group in (("zip", []), ("netcdf", []), ("parquet", ["--group", "host"])):
            done = command("export", str(kept.path), "--to", to, *group, "-o", "-", cwd=tmp_path, stdout=theirs,
                           stderr=subprocess.PIPE)
            assert done.returncode == 1
            assert done.stderr == (f"error: {to} is not text, and is not printed to a terminal\n"
                                   f"hint: yprov export RUN --to {to} -o FILE\n")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_has_enough_ends_it_quietly(kept: Kept, tmp_path: Path) -> None:
    words = " ".join([*YPROV, "export", str(kept.path), "--to", "csv", "--group", "metrics/many", "-o", "-"])
    done = subprocess.run(["bash", "-c", f"{words} | head -1"], cwd=tmp_path, env=environment(), text=True,
                          capture_output=True, check=False)
    assert done.stdout.startswith('"step"')
    assert done.stdout.count("\n") == 1
    assert complaints(done.stderr) == []


def test_command_on_a_run_without_an_archive_says_what_to_type(kept: Kept, tmp_path: Path) -> None:
    shutil.copytree(kept.path, tmp_path / "run")
    (tmp_path / "run/prov.json").unlink()
    leave_spool(tmp_path / "run")
    done = command("export", "run", "--to", "svg", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: `run` was not stitched yet\nhint: yprov stitch run\n"
