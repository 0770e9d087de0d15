"""How a training goes, as metrics that Ray exports to Prometheus: `rayml_train_steps_total` and `rayml_train_loss`.

Ray puts `ray_` before their names. They come from the driver, so a node's exporter has them for each run that is
walked on it.
"""

from __future__ import annotations

import sys
from typing import Any

from rayml.observe.events import Event

TAGS = ("run", "rayml_job")
"""Not `job`, which Prometheus sets itself."""


class Meters:
    """Takes a run's events and keeps its metrics up. It does nothing while the process is in no Ray cluster."""

    def __init__(self, run: str, job: str) -> None:
        self._tags = {"run": run, "rayml_job": job}
        self._steps: Any = None
        self._loss: Any = None
        self._seen: int | None = None

    def show(self, event: Event) -> None:
        """Count the optimizer steps that an event tells of, and keep the loss."""
        if event["kind"] not in ("progress", "epoch") or not self._is_joined():
            return
        if event["kind"] == "progress" and "batches" in event:
            self._count((event["epoch"] - 1) * event["batches"] + event["batch"])
            self._loss.set(event["loss"], tags=self._tags)
        elif event["kind"] == "epoch" and "step_index" in event:
            self._count(event["step_index"])
            self._loss.set(event["train/loss"], tags=self._tags)

    def _count(self, step: int) -> None:
        """Those of an earlier driver are not counted again; steps that are taken again after a failure are."""
        taken = 0 if self._seen is None else step - self._seen
        self._seen = step
        if taken > 0:
            self._steps.inc(taken, tags=self._tags)

    def _is_joined(self) -> bool:
        """Whether this process is in a cluster; the metrics are made then."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return False
        if self._steps is None:
            from ray.util.metrics import Counter, Gauge

            self._steps = Counter("rayml_train_steps", "Optimizer steps taken.", tag_keys=TAGS)
            self._loss = Gauge("rayml_train_loss", "Mean loss of the epoch so far.", tag_keys=TAGS)
        return True
