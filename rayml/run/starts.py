"""The weights that another run left, for a job that starts from them."""

from __future__ import annotations

from rayml.artifacts.store import LocalStore
from rayml.errors import PlanError
from rayml.observe.runs import Home
from rayml.plan.facts import Weights


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
    return Weights(step.key, str(artifact.path), step.config["model"])
