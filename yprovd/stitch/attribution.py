"""Joules, CPU seconds and peak memory of the run and of every context, epoch and span."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Account:
    """What one node of the run's tree cost. The tree is run > context (`training/augment` lies in `training`) >
    epoch > span names; a context is one account however often it was opened, on however many ranks.

    `path`: () for the run, then e.g. ("ctx/training",), ("ctx/training", "epoch/3"),
    ("ctx/training", "epoch/3", "span/forward"). `begin_ns`, `end_ns`: wall clock, first begin to last end.
    `count`: how many times it was opened. Figures include the children, `*_outside` is what no child covers, None is
    absent (there is no meter), never 0. children + outside = the account itself.
    """

    path: tuple[str, ...]
    kind: str  # "run" | "context" | "epoch" | "span"
    name: str
    context: str | None
    epoch: int | None
    begin_ns: int
    end_ns: int
    count: int
    energy_j: float | None
    energy_outside_j: float | None
    cpu_s: float | None
    cpu_outside_s: float | None
    memory_peak_bytes: float | None
    first_step: int | None = None
    last_step: int | None = None


@dataclass(frozen=True)
class EnergyReport:
    """The energy of the run. `method` is "measured" (differences of hardware counters) or "absent", then with
    `reason`. `meters`: the devices summed, as "host: rapl/package-0". `coverage`: part of the run's time between
    the first and the last reading of the meters, 0 to 1."""

    energy_j: float | None
    method: str
    meters: tuple[str, ...]
    coverage: float | None
    reason: str = ""


@dataclass(frozen=True)
class Attribution:
    """`accounts[0]` is the run; parents come before children. `span_energy_j`, `span_cpu_s`, `span_peak_bytes` and
    `span_duration_s` align with `Record.spans`, NaN where there is no figure."""

    accounts: list[Account]
    energy: EnergyReport
    span_energy_j: list[float]
    span_cpu_s: list[float]
    span_peak_bytes: list[float]
    span_duration_s: list[float]
