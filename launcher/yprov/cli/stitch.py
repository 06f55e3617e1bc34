"""`yprov stitch`: the archive from the spool, once more or with the last word of Slurm."""

from __future__ import annotations

from typing import Annotated

import typer

from yprov.cli.common import Dir, Json, Progress, RunArg, print_json, say_note
from yprovd.errors import YprovError


def stitch(
    run: RunArg, directory: Dir = "yprov-runs",
    keep_spool: Annotated[bool | None, typer.Option("--keep-spool", help="Keep the raw frames.")] = None,
    force: Annotated[bool, typer.Option(help="Also while the run seems to be going on.")] = False,
    refresh_slurm: Annotated[bool, typer.Option(
        "--refresh-slurm", help="Ask Slurm how the job ended, and put that into the archive.")] = False,
    as_json: Json = False,
) -> None:
    """Make the archive of a run from whatever spool there is: how a killed run is recovered. Can be repeated.

    Examples:  yprov stitch last  |  yprov stitch --refresh-slurm last
    """
    from yprov.runs import clear_runtime, find, still_going, view
    from yprovd.config import RUN_FILE, RunConfig
    from yprovd.stitch import stitch as make

    run_dir = find(run, directory, say_note)
    going = (run_dir / RUN_FILE).exists() and still_going(run_dir, RunConfig.read(run_dir))
    if going and refresh_slurm:
        raise YprovError(f"`{run_dir}` is still going", hint="Slurm knows the end of a job when it has ended")
    if going and not force:
        raise YprovError(f"`{run_dir}` is still going", hint=f"yprov stitch --force {run_dir}   makes an archive of it "
                                                             "as it is now; the run goes on")
    if not going:
        clear_runtime(run_dir)
    if refresh_slurm:
        from yprov.refreshing import refresh
        from yprovd import slurm

        with Progress("asking Slurm") as progress:
            fresh = refresh(run_dir, slurm, keep_spool=keep_spool, progress=progress)
        if as_json:
            print_json({"directory": str(run_dir), "state": fresh.state, "reason": fresh.reason,
                         "job_id": fresh.job_id, "job_state": fresh.job_state})
        else:
            print(f"{run_dir}: {fresh.state}" + (f" ({fresh.reason})" if fresh.reason else "")
                  + f"; Slurm's job {fresh.job_id}: {fresh.job_state}")
        return
    with Progress("looking at the run") as progress:
        done = make(run_dir, keep_spool=True if going else keep_spool, progress=progress)
    state = done.state or str(view(run_dir).state)
    if as_json:
        print_json({"directory": str(run_dir), "made": done.made, "state": state, "reason": done.reason,
                     "damaged_bytes": done.damaged_bytes, "lost_frames": done.lost_frames})
    else:
        print(f"{run_dir}: " + ("the archive is made" if done.made else "the archive was complete already")
              + f"; state of the run: {state}" + (f" ({done.reason})" if done.reason else ""))
        if done.damaged_bytes or done.lost_frames:
            print(f"  {done.damaged_bytes} bytes damaged, {done.lost_frames} frames lost")
