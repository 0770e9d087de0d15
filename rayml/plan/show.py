"""What a plan means today: which steps are there already, why the others run, and how long that took last time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import Fault, Store
from rayml.plan.costs import Costs, costs_of
from rayml.plan.diff import diff_steps
from rayml.plan.estimate import MemoryEstimate, estimate_key, kept_estimate, schema_of
from rayml.plan.plan import Plan, Step


class PlannedStep(BaseModel):
    """One row of the table."""

    name: str
    key: str
    resources: str
    status: str
    """`cached` or `run`."""
    reason: str
    estimate_s: float | None
    """Seconds that this step took when this job last ran it; None where it never ran here."""
    config: dict[str, Any]
    policy: dict[str, Any]


class Forecast(BaseModel):
    """The plan held against the store."""

    steps: list[PlannedStep]
    resolved: dict[str, Any]
    """What only the data can say: classes, shape, rows; `from data` until the data step is there."""
    memory: MemoryEstimate | None = None
    """Of one training worker, where it was estimated before."""
    costs: Costs = Costs()

    @property
    def work(self) -> list[PlannedStep]:
        """The steps that will run."""
        return [step for step in self.steps if step.status == "run"]


def forecast(plan: Plan, store: Store, previous: Plan | None, home: Path | None = None) -> Forecast:
    """Hold a plan against what the store has.

    Args:
        previous: the plan of this job's last run.
        home: the folder that keeps estimates.
    """
    found = {step.name: store.find(step.name, step.key) for step in plan.steps}
    history = last_seconds(plan.job, store)
    rows = [
        PlannedStep(
            name=step.name,
            key=step.key,
            resources=str(step.resources),
            status="cached" if found[step.name] else "run",
            reason=explain(step, found, previous, store.damage(step.name, step.key)),
            estimate_s=0.0 if found[step.name] else history.get(step.name),
            config=step.config,
            policy=step.policy,
        )
        for step in plan.steps
    ]
    data, train = found.get("data"), next((step for step in plan.steps if step.name == "train"), None)
    memory = None
    if home is not None and data is not None and train is not None:
        memory = kept_estimate(home, estimate_key(train, schema_of(data)))
    return Forecast(
        steps=rows,
        resolved=resolve_from_data(data),
        memory=memory,
        costs=costs_of(plan.cluster, total_seconds([row.estimate_s for row in rows])),
    )


def total_seconds(estimates: list[float | None]) -> float | None:
    """Of all steps; None where one is not known."""
    known = [seconds for seconds in estimates if seconds is not None]
    return sum(known) if len(known) == len(estimates) else None


def explain(step: Step, found: dict[str, Artifact | None], previous: Plan | None, damage: list[Fault]) -> str:
    """Why a step runs, or that it does not."""
    artifact = found[step.name]
    if artifact is not None:
        return f"made by {artifact.manifest.run}"
    if damage:
        return f"damaged: {Path(damage[0].file).name} {damage[0].what}"
    before = next((old for old in previous.steps if old.name == step.name), None) if previous else None
    changes = [] if before is None else diff_steps(before, step)
    if changes:
        return "; ".join(str(change).removeprefix(f"{step.name}: ") for change in changes)
    upstream = [name for name in step.inputs if found[name] is None]
    if upstream:
        return f"{' and '.join(upstream)} {'runs' if len(upstream) == 1 else 'run'} first"
    if before is None:
        return "never ran"
    return "was not finished" if before.key == step.key else "its input changed"


def last_seconds(job: str, store: Store) -> dict[str, float]:
    """Step to the seconds that its newest artifact of this job took."""
    newest: dict[str, tuple[str, float]] = {}
    for artifact in store.artifacts():
        manifest = artifact.manifest
        if manifest.job == job and manifest.created > newest.get(manifest.kind, ("", 0.0))[0]:
            newest[manifest.kind] = (manifest.created, manifest.seconds)
    return {kind: seconds for kind, (_, seconds) in newest.items()}


def resolve_from_data(data: Artifact | None) -> dict[str, Any]:
    """Classes, shape and rows, from the data step's manifest."""
    if data is None:
        return {"classes": "from data", "shape": "from data", "rows": "from data"}
    facts, metrics = data.manifest.facts, data.manifest.metrics
    return {"classes": len(facts["classes"]), "shape": facts["shape"], "rows": int(metrics["rows"])}
