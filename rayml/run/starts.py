"""What another run left, for a job that starts from it: weights, or the trials of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore, Store
from rayml.errors import PlanError
from rayml.observe.runs import Home, NoSuchRun
from rayml.plan.facts import Weights
from rayml.plan.plan import Plan
from rayml.plan.settle import read_sweep
from rayml.run.storage import open_storage


@dataclass(frozen=True)
class Origins:
    """Where runs are looked for: on this machine, then in the storage of the cluster that the job is for."""

    home: Home
    storage: str | None = None

    def weights(self, run: str) -> Weights:
        """The best weights of a run's train step. PlanError where the run trained nothing that is still there."""
        plan, store = self._find(run)
        step = next((step for step in plan.steps if step.name == "train"), None)
        path = None if step is None else place(store, "train", step.key)
        if step is None or path is None:
            raise PlanError(
                f"run {run} left no trained weights",
                where="train.start.run",
                hint="name a run whose train step is done; `rayml report RUN` shows its steps",
            )
        return Weights(step.key, path, step.config["model"])

    def trials(self, run: str) -> list[dict[str, Any]]:
        """`point`, `status` and `values` of the trials of a run's sweep. PlanError where it has none that is there."""
        plan, store = self._find(run)
        step = next((step for step in plan.steps if step.name == "tune"), None)
        artifact = None if step is None else store.find("tune", step.key)
        if artifact is None:
            raise PlanError(
                f"run {run} left no sweep",
                where="tune.warm_start",
                hint="name a run whose tune step is done; `rayml report RUN` shows its steps",
            )
        kept = ("point", "status", "values")
        return [{name: trial[name] for name in kept} for trial in read_sweep(artifact)["trials"]]

    def _find(self, run: str) -> tuple[Plan, Store]:
        """The plan of a run, and the store that has its artifacts. NoSuchRun where neither place knows it."""
        try:
            return self.home.find_run(run).plan(), LocalStore(self.home.artifacts)
        except NoSuchRun as error:
            if self.storage is None:
                raise
            storage = open_storage(self.storage, to_read=True)
            storage.refresh()
            try:
                return storage.home.find_run(run).plan(), storage.store
            except NoSuchRun:
                hint = f"it is not in {self.storage} either; rayml runs --storage {self.storage} lists its runs"
                raise NoSuchRun(error.what, hint=hint) from None


def place(store: Store, kind: str, key: str) -> str | None:
    """Where the files of an artifact are: a folder, or `s3://bucket/prefix`, which is not downloaded."""
    if isinstance(store, S3Store):
        return store.address(kind, key)
    artifact = store.find(kind, key)
    return None if artifact is None else str(artifact.path.resolve())
