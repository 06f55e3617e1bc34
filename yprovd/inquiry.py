"""What a daemon of a scheduler's step asks the scheduler, and how long it waits for a sign of life.

The scheduler is asked in a thread, under a deadline, so that neither sampling nor acknowledging waits for a controller
that does not answer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from yprovd.errors import YprovError

#: Between two questions, and how long an answer may take.
PAUSE_S, ANSWER_S = 2.0, 5.0


class Inquiry:
    """Questions about one job, not more often than every `pause_s`. `job`: `RunConfig.job`. What is known stands in the
    attributes; `ask()` never waits."""

    def __init__(self, job: Mapping[str, Any], pause_s: float = PAUSE_S) -> None:
        self.job = job
        self.pause_s = pause_s
        self.verdict: tuple[str, str] | None = None  # (state, reason) once the scheduler ends the job
        self.facts: dict[str, Any] = {}
        self.failed = ""     # why the last question had no answer
        self.answers = 0
        self.answered = 0.0  # when the question was asked that was answered last (monotonic)
        # The first question comes at once, but where many ask.
        self._asked = time.monotonic() - random.uniform(0.0, pause_s) if pause_s > PAUSE_S else 0.0
        self._thread: threading.Thread | None = None

    @property
    def possible(self) -> bool:
        return self.job.get("scheduler") == "slurm"

    @property
    def silent(self) -> bool:
        """There was nobody to ask, or no answer."""
        return not self.possible or bool(self.failed)

    def ask(self) -> None:
        """Ask again, unless a question is under way or was answered just now, or all is known."""
        if self.verdict or not self.possible or (self._thread is not None and self._thread.is_alive()):
            return
        if self._asked and time.monotonic() < self._asked + self.pause_s:
            return
        self._asked = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="yprov-inquiry", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asked = self._asked
        try:
            from yprovd import slurm

            facts = slurm.show_job(str(self.job["job_id"]), timeout_s=ANSWER_S)
            verdict = slurm.ending(facts, int(self.job.get("attempt", 0)))
        except (YprovError, KeyError, ValueError) as e:
            self.failed = str(e)
            return
        self.facts, self.failed = facts, ""
        self.verdict = verdict
        self.answered = asked
        self.answers += 1


class Patience:
    """Seconds without a sign of life, of those in which we ran ourselves: a job that was suspended wakes up with a
    clock that has jumped, and nobody was silent meanwhile."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.waited_s = 0.0
        self._now = now
        self._last = now()

    def passes(self) -> float:
        """Call it about every second."""
        now = self._now()
        self.waited_s += min(now - self._last, 1.5)
        self._last = now
        return self.waited_s

    def reset(self) -> None:
        self.waited_s = 0.0
        self._last = self._now()
