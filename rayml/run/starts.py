"""What another run left, for a job that starts from it: weights, or the trials of a sweep."""

from __future__ import annotations

from typing import Any

from rayml.artifacts.store import LocalStore
from rayml.errors import PlanError
from rayml.observe.runs import Home
from rayml.plan.facts import Weights
from rayml.plan.settle import read_sweep


def run_weights(home: Home, run: str) -> Weights:
    """The best weights of a run's train step. PlanError where the run trained nothing that is still here."""
    plan = home.find_run(run).plan()
    step = next((step for step in plan.steps if step.name == "train"), None)
    artifact = None if step is None else LocalStore(home.artifacts).find("train", step.key)
    if step is None or artifact is None:
        raise PlanError(
            f"run {run} left no trained weights",
            where="train.start.run",
            hint="name a run whose train step is done; `rayml report RUN` shows its steps",
        )
    return Weights(step.key, str(artifact.path.resolve()), step.config["model"])


def run_trials(home: Home, run: str) -> list[dict[str, Any]]:
    """`point`, `status` and `values` of the trials of a run's sweep. PlanError where it has none that is still here."""
    plan = home.find_run(run).plan()
    step = next((step for step in plan.steps if step.name == "tune"), None)
    artifact = None if step is None else LocalStore(home.artifacts).find("tune", step.key)
    if artifact is None:
        raise PlanError(
            f"run {run} left no sweep",
            where="tune.warm_start",
            hint="name a run whose tune step is done; `rayml report RUN` shows its steps",
        )
    kept = ("point", "status", "values")
    return [{name: trial[name] for name in kept} for trial in read_sweep(artifact)["trials"]]
