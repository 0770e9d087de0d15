"""A trial of the job itself: the walk of its plan with the trial's values, up to the metrics that are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayml.artifacts.manifest import Artifact
from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.build import build_trial
from rayml.plan.plan import Origin, Step
from rayml.spec.tune import COMPRESS_METRICS, EPOCH_METRICS, EXPORT_METRICS
from rayml.stages.api import Execute
from rayml.stages.tune.worker import Report

EPOCH_FIELDS = ("epoch", "val/accuracy", "val/loss", "train/loss", "samples_per_s")
HISTORY_FILE = "history.json"


@dataclass(frozen=True)
class Walk:
    """Evaluates trials. Travels to their nodes."""

    origin: Origin
    execute: Execute
    sweep: str
    """Key of the tune step."""
    takes_over: bool
    """Whether trials may go on from the weights of others."""

    def __call__(self, number: int, point: dict[str, Any], take: int, report: Report) -> dict[str, Any]:
        """Make each step, or find it; training reports its epochs."""
        population = population_of(self.sweep, number, take) if self.takes_over else None
        made: dict[str, Artifact] = {}
        steps = build_trial(self.origin, point, population)
        for step in steps:
            inputs = {name: made[name] for name in step.inputs}
            if step.name == "train":
                made["train"] = self.train(step, inputs, report)
            elif step.name == "data":
                made["data"] = found_data(self.execute, step)
            else:
                made[step.name] = self.execute(step, inputs, ignore)
        found = {name: value for artifact in made.values() for name, value in artifact.manifest.metrics.items()}
        values = {name: found[name] for name in (*EPOCH_METRICS, *EXPORT_METRICS) if name in found}
        if "compress" in made:
            told = made["compress"].manifest.metrics
            values |= {name: told[name.removeprefix("compress/")] for name in COMPRESS_METRICS}
        return {"values": values, "keys": {step.name: step.key for step in steps if step.name != "data"}}

    def train(self, step: Step, inputs: dict[str, Artifact], report: Report) -> Artifact:
        """Train from where the newest checkpoint stands, or find it trained; the sweep hears of every epoch once."""
        heard = 0

        def tell(record: dict[str, Any]) -> None:
            nonlocal heard
            if record["epoch"] > heard:
                heard = record["epoch"]
                report({name: record[name] for name in EPOCH_FIELDS})

        if self.execute.find(step) is None:
            for record in past_epochs(self.execute.checkpoints(step)):
                tell(record)
        artifact = self.execute(step, inputs, lambda kind, **fields: tell(fields) if kind == "epoch" else None)
        # Of an artifact that was there, or that another sweep made while this trial waited for it.
        for record in json.loads((artifact.path / HISTORY_FILE).read_text()):
            tell(record)
        return artifact


def population_of(sweep: str, number: int, take: int) -> dict[str, Any]:
    """What is part of a train step's key where its weights have a history that its configuration does not tell."""
    return {"sweep": sweep, "trial": number, "take": take}


def found_data(execute: Execute, step: Step) -> Artifact:
    """The rows of a trial, made before the first one: a trial holds the places that Ray Data would need."""
    artifact = execute.find(step)
    assert artifact is not None, "every data step of a sweep is made before its trials"
    return artifact


def past_epochs(checkpoints: Path) -> Iterator[dict[str, Any]]:
    """The epochs that an earlier process finished."""
    if not checkpoints.exists():
        return
    newest, _ = newest_checkpoint(checkpoints)
    if newest is not None:
        yield from newest.state["history"]


def ignore(kind: str, **fields: Any) -> None:
    """Only training is listened to."""
