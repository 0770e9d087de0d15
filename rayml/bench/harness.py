"""How two sides are compared: laps in turn, the median of their ratios, and a proof that both did the same work.

The laps are interleaved A B B A A B B A ..., so that a machine that gets slower in the course of a bench is as unkind
to one side as to the other. A verdict is given on the interval of the ratio and never on one lap.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rayml.bench.machine import SystemTimes, system_times
from rayml.errors import StageError

RESAMPLES = 5000
PARITY = 0.98
"""A goal of 1.0 is met where the interval holds it and does not reach below this part of it."""


@dataclass(frozen=True)
class Lap:
    """What one side did in one turn."""

    value: float
    """In the unit of the row."""
    cpu_s: float | None = None
    """Processor seconds, user and system, of all processes of the side; None where they cannot be counted."""
    proof: Any = None
    """What the work left (losses, predictions, rows): the contest's check compares two of them."""


Side = Callable[[], Lap]
Check = Callable[[Any, Any], str | None]
"""(proof of ours, proof of the alternative) -> a sentence on what differs, or None where both did the same work."""


@dataclass(frozen=True)
class Goal:
    """What a row has to reach."""

    bound: float
    of: Literal["ours", "ours_at_least", "ratio"]
    """`ours` is at most the bound, in the row's unit, or at least; the `ratio` is at least the bound."""


@dataclass(frozen=True)
class Contest:
    """One row, before it is measured."""

    name: str
    unit: str
    better: Literal["less", "more"]
    ours: Side
    alternative: Side | None = None
    alternative_is: str | None = None
    check: Check | None = None
    """None where the two programs have no work in common that could be compared."""
    goal: Goal | None = None
    limit: float | None = None
    """What the machine could do at best, in the row's unit, measured in the same run."""
    limit_is: str | None = None


@dataclass(frozen=True)
class Row:
    """What was measured."""

    name: str
    unit: str
    ours: float
    """Median over the laps, as are all values of a row."""
    alternative: float | None
    alternative_is: str | None
    ratio: float | None
    """Above 1 where ours is better: less of what should be little, more of what should be much."""
    interval: tuple[float, float] | None
    """95 % of the ratio's bootstrap medians; None below two pairs."""
    cpu_ratio: float | None
    """Processor seconds of the alternative by those of ours."""
    same_work: bool | None
    """Whether both sides left the same at every lap; None where there is nothing to compare."""
    difference: str | None
    """The first thing that was not the same."""
    limit: float | None
    limit_is: str | None
    goal: float | None
    goal_of: str | None
    met: bool | None
    """None where there is no goal, or where the interval is too wide to say."""
    pairs: int
    ours_cpu_s: float | None
    alternative_cpu_s: float | None
    steal: float
    """Share of the machine's processor time that the hypervisor gave to others while the row was measured."""
    others: float | None
    """Share of it that went to processes of this machine which are no part of the laps, this harness included."""


def compete(
    contest: Contest,
    pairs: int,
    warm_up: int = 1,
    say: Callable[[str], None] = lambda text: None,
    times: Callable[[], SystemTimes] = system_times,
) -> Row:
    """Measure one row: `warm_up` pairs that do not count, then `pairs` that do.

    Args:
        contest: the sides, and what is asked of them.
        pairs: of laps; without an alternative, laps of ours.
        warm_up: pairs that are run first and left out.
        say: takes one line per lap.
        times: the machine's processor times so far.
    """
    ours: list[Lap] = []
    alternative: list[Lap] = []
    before = times()
    for number in range(-warm_up, pairs):
        if number == 0:
            before = times()
        for name, side, laps in turn(contest, number, ours, alternative):
            lap = side()
            laps.append(lap)
            counted = f"{number + 1} of {pairs}" if number >= 0 else "warm-up"
            say(f"{contest.name}: {counted}: {name} {lap.value:,.4g} {contest.unit}")
    spent = times() - before
    return judge(contest, ours, alternative, warm_up, spent)


def turn(contest: Contest, number: int, ours: list[Lap], alternative: list[Lap]) -> list[tuple[str, Side, list[Lap]]]:
    """The sides of a pair in the order in which they run: every second pair the other way round."""
    sides: list[tuple[str, Side, list[Lap]]] = [("ours", contest.ours, ours)]
    if contest.alternative is not None:
        sides.append(("alternative", contest.alternative, alternative))
    return sides if number % 2 == 0 else sides[::-1]


def judge(contest: Contest, ours: list[Lap], alternative: list[Lap], warm_up: int, spent: SystemTimes) -> Row:
    """The row of a contest that was run. Work is compared over all laps, figures are taken after the warm-up."""
    laps = list(zip(ours, alternative, strict=True)) if contest.alternative is not None else []
    found = [contest.check(a.proof, b.proof) for a, b in laps] if contest.check is not None else []
    differences = [difference for difference in found if difference is not None]
    pairs, ours, alternative = laps[warm_up:], ours[warm_up:], alternative[warm_up:]
    ratios = [ratio(contest.better, a.value, b.value) for a, b in pairs]
    cpu_ratios = [b.cpu_s / a.cpu_s for a, b in pairs if a.cpu_s and b.cpu_s]
    measured = statistics.median(lap.value for lap in ours)
    middle = statistics.median(ratios) if ratios else None
    interval = bootstrap(ratios) if len(ratios) > 1 else None
    cpu = [lap.cpu_s for lap in [*ours, *alternative] if lap.cpu_s is not None]
    goal = contest.goal
    return Row(
        name=contest.name,
        unit=contest.unit,
        ours=measured,
        alternative=statistics.median(lap.value for lap in alternative) if alternative else None,
        alternative_is=contest.alternative_is if alternative else None,
        ratio=middle,
        interval=interval,
        cpu_ratio=statistics.median(cpu_ratios) if cpu_ratios else None,
        same_work=not differences if found else None,
        difference=differences[0] if differences else None,
        limit=contest.limit,
        limit_is=contest.limit_is,
        goal=None if goal is None else goal.bound,
        goal_of=None if goal is None else goal.of,
        met=verdict(goal, measured, middle, interval),
        pairs=len(ours),
        ours_cpu_s=median_cpu(ours),
        alternative_cpu_s=median_cpu(alternative),
        steal=spent.steal_s / spent.total_s if spent.total_s else 0.0,
        others=max(0.0, spent.busy_s - sum(cpu)) / spent.total_s if cpu and spent.total_s else None,
    )


def ratio(better: Literal["less", "more"], ours: float, alternative: float) -> float:
    """How many times as good ours is."""
    return alternative / ours if better == "less" else ours / alternative


def median_cpu(laps: list[Lap]) -> float | None:
    """Median of the laps' processor seconds, where they were counted."""
    counted = [lap.cpu_s for lap in laps if lap.cpu_s is not None]
    return statistics.median(counted) if counted else None


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the medians of resamples (Efron, 1979). Equal values give equal bounds."""
    draw = random.Random(seed)  # noqa: S311 (statistics, and repeatable)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[round(0.025 * (RESAMPLES - 1))], medians[round(0.975 * (RESAMPLES - 1))]


def verdict(goal: Goal | None, ours: float, ratio: float | None, interval: tuple[float, float] | None) -> bool | None:
    """Whether a goal is met. Of a ratio it is the interval that says so, and None is "cannot be said"."""
    if goal is None:
        return None
    if goal.of == "ours":
        return ours <= goal.bound
    if goal.of == "ours_at_least":
        return ours >= goal.bound
    if ratio is None or interval is None:
        return None
    low, high = interval
    if high < goal.bound:
        return False
    return True if low >= PARITY * goal.bound else None


def document(bench: str, mode: str, machine: dict[str, Any], command: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What `rayml bench NAME --json` prints."""
    return {
        "bench": bench,
        "command": command,
        "machine": machine,
        "mode": mode,
        "pairs": max(row.pairs for row in rows),
        "rows": [{**asdict(row), "interval": row.interval and list(row.interval)} for row in rows],
    }


def refuse_unequal(document: dict[str, Any]) -> None:
    """StageError where a row's two sides did not do the same work: its ratio means nothing."""
    unequal = [row for row in document["rows"] if row["same_work"] is False]
    if unequal:
        raise StageError(
            "; ".join(f"{row['name']}: {row['difference']}" for row in unequal),
            where=f"bench {document['bench']}",
            hint="the two sides did not do the same work, so the ratio beside it says nothing",
        )
