"""From what a sweep left to what the steps after it run with. Pure but for reading the sweep's artifact.

The choice is not in the sweep's key: another `choose`, `limits` or `final` decides anew, and runs no trial again.
"""

from __future__ import annotations

import json
from typing import Any

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import Store
from rayml.errors import GateError, StageError
from rayml.plan.build import rebuild_plan
from rayml.plan.front import front, has_all, knee, turned, wilson
from rayml.plan.plan import Decision, Plan
from rayml.spec.evaluate import parse_gate
from rayml.spec.words import count, listed

SWEEP_FILE = "sweep.json"
Trial = dict[str, Any]
"""A trial of sweep.json."""


def settle(plan: Plan, store: Store) -> Plan:
    """The plan with the decision of its sweep, where the sweep is done; the plan itself where not, or without one.

    Raises:
        GateError: no trial keeps to the limits.
    """
    step = next((step for step in plan.steps if step.name == "tune"), None)
    artifact = None if step is None else store.find("tune", step.key)
    if step is None or artifact is None:
        return plan
    return rebuild_plan(plan, decide(read_sweep(artifact), step.policy))


def settle_if_possible(plan: Plan, store: Store) -> Plan:
    """As `settle`; the plan itself where the sweep does not decide, which the run will say."""
    try:
        return settle(plan, store)
    except (GateError, StageError):
        return plan


def read_sweep(artifact: Artifact) -> dict[str, Any]:
    """What the sweep found."""
    document: dict[str, Any] = json.loads((artifact.path / SWEEP_FILE).read_bytes())
    return document


def decide(sweep: dict[str, Any], policy: dict[str, Any]) -> Decision:
    """The trial that the job goes on with.

    Args:
        sweep: the document sweep.json.
        policy: of the tune step: `choose`, `limits`, `final`.
    Raises:
        GateError: no trial keeps to the limits.
        StageError: no trial has all objectives.
    """
    objectives = sweep["objectives"]
    names = [objective["metric"] for objective in objectives]
    trials = candidates(sweep["trials"], [*names, *policy["limits"]])
    within = [trial for trial in trials if keeps_to(trial, policy["limits"])]
    if not within:
        raise none_within(trials, policy["limits"])
    rows = [turned(trial["values"], objectives) for trial in within]
    on_front = front(rows)
    if policy["choose"] == "knee":
        chosen = within[on_front[knee([rows[place] for place in on_front])]]
        why = "the only one on the front" if len(on_front) == 1 else f"the knee of a front of {len(on_front)}"
    else:
        chosen = within[max(range(len(within)), key=lambda place: (rows[place], -within[place]["number"]))]
        why = f"the best {names[0]}" + (f" of those with {limits_in_words(policy['limits'])}" * bool(policy["limits"]))
    interval = interval_of(chosen["values"][names[0]], names[0], sweep["val_rows"])
    tied = ties(chosen, within, objectives, interval, policy["choose"])
    if tied:
        why += f", tied with {count(len(tied), 'other')}"
    return Decision(
        trial=chosen["number"],
        values={**chosen["point"], **final_values(chosen, policy["final"])},
        population=chosen.get("population"),
        objectives={name: chosen["values"][name] for name in names},
        why=why,
        tied=tuple(tied),
        interval=interval,
    )


def candidates(trials: list[Trial], metrics: list[str]) -> list[Trial]:
    """Trials that came to their end, or else those that were cut short, with every metric that is asked for."""
    able = [trial for trial in trials if has_all(trial["values"], metrics)]
    done = [trial for trial in able if trial["status"] == "done"]
    found = done or [trial for trial in able if trial["status"] != "failed"]
    if not found:
        raise StageError(
            f"no trial came as far as to have {listed(metrics, 'and')}",
            where="tune",
            hint="give the sweep a larger budget, or a scheduler that stops less",
        )
    return found


def keeps_to(trial: Trial, limits: dict[str, str]) -> bool:
    """Whether a trial is within every limit."""
    for metric, gate in limits.items():
        compare, bound = parse_gate(gate)
        if not compare(trial["values"][metric], bound):
            return False
    return True


def none_within(trials: list[Trial], limits: dict[str, str]) -> GateError:
    """What is said where every trial breaks a limit: the one that is nearest, and what it misses."""

    def excess(trial: Trial) -> float:
        bounds = {metric: parse_gate(gate)[1] for metric, gate in limits.items()}
        broken = [metric for metric, gate in limits.items() if not keeps_to(trial, {metric: gate})]
        values: dict[str, float] = trial["values"]
        return max(abs(values[metric] - bounds[metric]) / (abs(bounds[metric]) or 1.0) for metric in broken)

    nearest = min(trials, key=excess)
    missed = [
        f"{metric} is {nearest['values'][metric]:.6g}, the limit is {gate}"
        for metric, gate in limits.items()
        if not keeps_to(nearest, {metric: gate})
    ]
    return GateError(
        f"none of {count(len(trials), 'trial')} is within the limits; the nearest is trial {nearest['number']}: "
        f"{'; '.join(missed)}",
        where="tune.limits",
        hint="loosen the limit, or widen the space; the trials are kept, and no trial runs again for another limit",
    )


def limits_in_words(limits: dict[str, str]) -> str:
    return " and ".join(f"{metric} {gate}" for metric, gate in limits.items())


def interval_of(value: float, metric: str, val_rows: int) -> tuple[float, float] | None:
    """95 % interval of an accuracy; other metrics have none that follows from the value alone."""
    return wilson(value, val_rows) if metric == "val/accuracy" and val_rows else None


def ties(
    chosen: Trial,
    within: list[Trial],
    objectives: list[dict[str, str]],
    interval: tuple[float, float] | None,
    choose: str,
) -> list[int]:
    """Trials that are as good as the chosen one, as far as can be told: within the interval of its first objective.

    Where a knee was chosen, a trial that is worse in another objective is no tie.
    """
    metric = objectives[0]["metric"]
    value = chosen["values"][metric]
    low, high = interval or (value, value)
    best = turned(chosen["values"], objectives)[1:]
    return [
        trial["number"]
        for trial in within
        if trial is not chosen
        and low <= trial["values"][metric] <= high
        and (
            choose == "best" or all(a >= b for a, b in zip(turned(trial["values"], objectives)[1:], best, strict=True))
        )
    ]


def final_values(chosen: Trial, final: str) -> dict[str, Any]:
    """What training changes besides the trial's values where it starts anew on all rows.

    With a constant learning rate it ends at the epoch that was best; another schedule is one of all its epochs. No rows
    are left to stop early by.
    """
    if final == "checkpoint":
        return {}
    changes: dict[str, Any] = {"train.rows": "train_and_val", "train.early_stopping": None}
    if chosen["constant_lr"] and chosen["epochs"]:
        sign = 1.0 if chosen["best"]["goal"] == "max" else -1.0
        best = max(chosen["epochs"], key=lambda record: sign * record[chosen["best"]["metric"]])
        changes["train.epochs"] = best["epoch"]
    return changes
