"""A trial of the job itself: the walk of its plan with the trial's values, up to the metrics that are asked for."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayml.artifacts.store import Artifact
from rayml.errors import StageError
from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.build import build_trial
from rayml.plan.plan import Origin, Step
from rayml.spec.tune import EPOCH_METRICS, EXPORT_METRICS
from rayml.stages.api import Execute
from rayml.stages.tune.worker import Report

EPOCH_FIELDS = ("epoch", "val/accuracy", "val/loss", "train/loss", "samples_per_s")
HISTORY_FILE = "history.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Walk:
    """Evaluates trials. Travels to their nodes."""

    origin: Origin
    execute: Execute
    sweep: str
    """Key of the tune step."""
    takes_over: bool
    """Whether trials may go on from the weights of others."""

    def __call__(
        self, number: int, point: dict[str, Any], take: int, pointer: dict[str, Any] | None, report: Report
    ) -> dict[str, Any]:
        """Make each step, or find it; training reports its epochs."""
        population = population_of(self.sweep, number, take) if self.takes_over else None
        made: dict[str, Artifact] = {}
        steps = build_trial(self.origin, point, population)
        for step in steps:
            inputs = {name: made[name] for name in step.inputs}
            if step.name == "train":
                made["train"] = self.train(step, inputs, number, pointer, report)
            else:
                made[step.name] = self.execute(step, inputs, ignore)
        found = {name: value for artifact in made.values() for name, value in artifact.manifest.metrics.items()}
        values = {name: found[name] for name in (*EPOCH_METRICS, *EXPORT_METRICS) if name in found}
        return {"values": values, "keys": {step.name: step.key for step in steps if step.name != "data"}}

    def train(
        self, step: Step, inputs: dict[str, Artifact], number: int, pointer: dict[str, Any] | None, report: Report
    ) -> Artifact:
        """Train from where the newest checkpoint stands, and let the sweep hear of every epoch."""
        found = self.execute.find(step)
        if found is not None:
            for record in json.loads((found.path / HISTORY_FILE).read_text()):
                report(told(record))
            return found
        checkpoints = self.execute.work(step) / CHECKPOINTS
        if pointer is not None and pointer["trial"] != number and not checkpoints.exists():
            take_weights(Path(pointer["checkpoints"]), checkpoints)
        for record in past_epochs(checkpoints):
            report(told(record))

        def hear(kind: str, **fields: Any) -> None:
            if kind == "epoch":
                mine = {"trial": number, "checkpoints": str(checkpoints)} if self.takes_over else None
                report(told(fields), mine)

        return self.execute(step, inputs, hear)


def population_of(sweep: str, number: int, take: int) -> dict[str, Any]:
    """What is part of a train step's key where its weights have a history that its configuration does not tell."""
    return {"sweep": sweep, "trial": number, "take": take}


def told(record: dict[str, Any]) -> dict[str, Any]:
    """What the sweep keeps of an epoch."""
    return {name: record[name] for name in EPOCH_FIELDS}


def past_epochs(checkpoints: Path) -> Iterator[dict[str, Any]]:
    """The epochs that an earlier process finished."""
    if not checkpoints.exists():
        return
    newest, _ = newest_checkpoint(checkpoints)
    if newest is not None:
        yield from newest.state["history"]


def take_weights(source: Path, target: Path) -> None:
    """Copy another trial's checkpoints, which goes on writing and removing some meanwhile.

    Raises:
        StageError: none of them is whole.
    """
    target.mkdir(parents=True)
    for folder in sorted(source.iterdir()):
        with contextlib.suppress(FileNotFoundError, shutil.Error):
            shutil.copytree(folder, target / folder.name)
    if newest_checkpoint(target)[0] is None:
        shutil.rmtree(target)
        raise StageError("the trial that was to be gone on from has no whole checkpoint", where=str(source))


def ignore(kind: str, **fields: Any) -> None:
    """Only training is listened to."""
