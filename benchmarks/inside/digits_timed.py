"""Runs examples/digits.py and prints how long it took from its first to its last line, as JSON.

Its modules are loaded before the clock starts, and a first event is sent, for which the client loads ZeroMQ (25 ms,
once): what is compared is the training, beyond its start. Arguments go to the example.
"""

import json
import runpy
import sys
import time
from pathlib import Path

import sklearn.datasets
import sklearn.metrics
import sklearn.model_selection
import sklearn.neural_network  # noqa: F401

import yprov

example = Path(__file__).resolve().parent.parent.parent / "examples" / "digits.py"
sys.argv = [str(example), *sys.argv[1:]]
yprov.event("ready")
yprov.flush()
wall, cpu = time.perf_counter(), time.process_time()
runpy.run_path(str(example), run_name="__main__")
print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}), flush=True)
