"""Writes a table of metrics with yProv4ML's own writer: `table_yprov4ml.py TABLE.npz FORMAT FOLDER`.

FORMAT: csv, nc, zarr (Blosc-zstd). TABLE.npz holds `steps`, `times` (ms) and one array per metric. Prints the bytes and
files of the run's folder, and the seconds from the first `log_metric` to the end of `end_run`, as JSON.
"""

import json
import os
import sys
import time

import numpy as np
from yprov4ml_alone import yprov4ml

#: Its default. Its Zarr mode appends to the store so often; at 100 that takes minutes, so it gets its chunk size.
SAVE_AFTER = {"csv": 100, "nc": 100, "zarr": 1000}


def main(table, kind, folder):
    os.chdir(folder)
    with np.load(table) as data:
        steps, times = data["steps"].tolist(), data["times"].tolist()
        columns = {name: data[name].tolist() for name in data.files if name not in ("steps", "times")}
    compressor = {"csv": None, "nc": True, "zarr": yprov4ml.CompressorType.BLOSC_ZSTD}[kind]
    yprov4ml.start_run("bench", provenance_save_dir="out", metrics_file_type=kind, rank=0,
                       save_after_n_logs=SAVE_AFTER[kind], use_compressor=compressor)
    began = time.perf_counter()
    for i, (step, at) in enumerate(zip(steps, times, strict=True)):
        for name, column in columns.items():
            yprov4ml.log_metric(name, column[i], "training", step, timestamp=at)
    yprov4ml.end_run()
    took = time.perf_counter() - began
    files = [os.path.join(root, name) for root, _, names in os.walk("out") for name in names]
    print(json.dumps({"bytes": sum(map(os.path.getsize, files)), "files": len(files), "seconds": took,
                      "values": len(steps) * len(columns)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
