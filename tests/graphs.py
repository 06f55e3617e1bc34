"""Documents of many records, for the tests of the graph: as the stitch writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.stitch.golden.small import T0, account, file, series_info, small_attribution, small_record
from yprovd.stitch.provenance import build_document
from yprovd.stitch.record import Param


def large_document(epochs: int = 60, params: int = 40, files: int = 30, series: int = 25) -> dict[str, Any]:
    """Some 500 records: three contexts with epochs and spans, series of four classes of devices, versions of a model,
    many files."""
    record = small_record()
    record.params += [Param(f"optimizer.p{k}", 0.5 * k, 0, T0) for k in range(params)]
    record.files += [file("model", "resnet", 2 + 0.1 * k, path=f"/scratch/{k}.pt", context="training", epoch=k,
                          sha256=f"{k:064x}") for k in range(files)]
    record.files += [file("input", f"shard-{k:03}.tar", 0.5, path=f"/data/shard-{k:03}.tar") for k in range(files)]
    record.files += [file("output", f"figure-{k}.png", 9.5, path=f"/out/figure-{k}.png") for k in range(files // 3)]
    costs: dict[str, Any] = {"gpu_energy_j": 1234.5, "gpu_hours": 0.125, "gpu_memory_peak_bytes": 5.5e10}
    accounts = [account((), 0, 10, **costs)]
    for name, at in (("training", 1), ("validation", 3), ("testing", 9)):
        accounts.append(account((f"ctx/{name}",), at, 10, **costs))
        count = epochs if name != "testing" else 0
        accounts += [account((f"ctx/{name}", f"epoch/{k}"), at, 9, energy_j=10.0 * k) for k in range(count)]
        accounts += [account((f"ctx/{name}", f"epoch/{k}", f"span/{span}"), at, 9) for k in range(min(count, 15))
                     for span in ("forward", "backward", "step")]
    listed = [series_info(f"{cls}/metric_{k}", metric=f"hw.{cls}.metric_{k}") for cls in ("host", "gpu", "cray", "disk")
              for k in range(series)]
    listed += [series_info(f"metrics/{name}/{metric}", metric=metric, context=name, source="script")
               for name in ("training", "validation") for metric in ("loss", "accuracy", "top5", "lr")]
    return dict(json.loads(build_document(record, replace(small_attribution(), accounts=accounts), listed)))


def records(document: dict[str, Any]) -> int:
    return sum(len(document.get(kind, {})) for kind in ("entity", "activity", "agent"))
