"""How long prov.json of a large run takes, and how large it is: 1,024 nodes, 8,192 GPUs and ranks, 500 epochs.

    .venv/bin/python -m benchmarks.document

prints one JSON object: bytes, records, and the seconds of each time that it was built and written.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Row, Spread, call, folder, last_json


def main(times: int = 5) -> dict[str, Any]:
    from tests.stitch.golden.large import large_attribution, large_record, large_series
    from yprovd.stitch import write_whole
    from yprovd.stitch.provenance import build_document

    record, attribution, series = large_record(), large_attribution(), large_series()
    seconds = []
    with folder() as cwd:
        path = Path(cwd) / "prov.json"
        for _ in range(times):
            began = time.perf_counter()
            write_whole(path, build_document(record, attribution, series))
            seconds.append(time.perf_counter() - began)
        data = path.read_bytes()
    records = sum(len(found) for kind, found in json.loads(data).items() if kind != "prefix")
    return {"bytes": len(data), "records": records, "seconds": seconds}


def document(quick: bool) -> list[Row]:
    """`benchmarks/document.py`: prov.json of 1,024 nodes, 8,192 GPUs and ranks and 500 epochs, from the record to the
    file on disk, five times in one process (quick: twice)."""
    script = f"import json; from benchmarks.document import main; print(json.dumps(main({2 if quick else 5})))"
    found = last_json(call([sys.executable, "-c", script], ROOT))
    spread, size = Spread(found["seconds"]), found["bytes"] / 1e6
    return [
        Row("prov.json of 1,024 nodes, 500 epochs, written", spread.text("s", digits=2), "<= 0.5 s",
            spread.median <= 0.5, [], found),
        Row("prov.json of 1,024 nodes, 500 epochs", f"{size:.2f} MB, {found['records']} records",
            "<= 1 MB, 2,000", size <= 1 and found["records"] <= 2000, [], found),
    ]


if __name__ == "__main__":
    print(json.dumps(main()))
