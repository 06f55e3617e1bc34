"""yprov in a script: say what the program does, and never notice that somebody listens.

    import yprov

    yprov.log_param("lr", 3e-4)
    for k in range(epochs):
        with yprov.context("training"), yprov.epoch(k):
            yprov.log_metric("loss", loss, step=step)

Under `yprov run` the calls are recorded; anywhere else they do nothing. They never raise, never wait and never print
to stdout (`YPROV_STRICT=1` makes them raise, for tests). Importing this needs nothing but the standard library; the
first call that records something needs `pyzmq`.
"""

from __future__ import annotations

from yprov.client import Run
from yprov.client import client as _client

TYPE_CHECKING = False  # importing typing is slow
if TYPE_CHECKING:
    import os

    from yprov.reading import RecordedRun
    from yprovd.errors import YprovError

context = _client.context
current_run = _client.current_run
epoch = _client.epoch
event = _client.event
flush = _client.flush
log_artifact = _client.log_artifact
log_dataset = _client.log_dataset
log_input = _client.log_input
log_metric = _client.log_metric
log_metrics = _client.log_metrics
log_model = _client.log_model
log_param = _client.log_param
log_params = _client.log_params
span = _client.span


def open_run(path: str | os.PathLike[str] = "last", directory: str | os.PathLike[str] = "yprov-runs") -> RecordedRun:
    """Open a recorded run to read it: its directory, a zip file of it, or, within `directory`, its name or a part, its
    id, or `last`. See `yprov.reading.RecordedRun`. Unlike all the rest of this module it may raise (`YprovError`), and
    loads numpy, zarr and xarray as they are needed.

        with yprov.open_run("last") as run:
            print(run.parameters, run.metrics("training"), run.energy("epoch"))
    """
    from yprov.reading import open_run as opened

    return opened(path, directory)


def __getattr__(name: str) -> object:
    """`yprov.YprovError`, what `open_run` and its runs raise: loaded when it is asked for, as all of `yprovd`."""
    if name == "YprovError":
        from yprovd.errors import YprovError

        return YprovError
    raise AttributeError(f"module 'yprov' has no attribute {name!r}")


__all__ = [
    "Run",
    "YprovError",
    "context",
    "current_run",
    "epoch",
    "event",
    "flush",
    "log_artifact",
    "log_dataset",
    "log_input",
    "log_metric",
    "log_metrics",
    "log_model",
    "log_param",
    "log_params",
    "open_run",
    "span",
]
