"""rayml's side of `rayml bench train`: the train stage as a run starts it, on Ray, with a gate after every lap.

`python -m rayml.bench.rayml_loop SETTINGS`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rayml.artifacts.store import LocalStore
from rayml.bench.gate import Gate
from rayml.bench.train_settings import TrainSettings, load_settings
from rayml.observe.relay import Relay, Sender
from rayml.plan.build import build_plan
from rayml.plan.facts import gather_facts
from rayml.plan.plan import Plan
from rayml.run.process import die_with_parent
from rayml.run.session import Session
from rayml.spec.cluster import ClusterSpec
from rayml.spec.job import JobSpec
from rayml.stages.api import Context
from rayml.stages.train import stage


class GatedSender:
    """What a worker's events go through: on to the driver as ever, and at the end of an epoch to the gate."""

    def __init__(self, sender: Sender, gate: Gate) -> None:
        self._sender, self._gate = sender, gate

    def __call__(self, kind: str, **fields: Any) -> None:
        self._sender(kind, **fields)
        if kind == "epoch":
            self._gate.epoch(
                {"loss": fields["train/loss"], "val_loss": fields["val/loss"], "rows": fields["rows_seen"]}
            )


def main(path: str) -> None:
    """Train until the last lap, then shut Ray down."""
    die_with_parent()
    settings = load_settings(path)
    plan = train_plan(settings)
    step = plan.step("train")
    run_folder = settings.folder / "run"
    run_folder.mkdir()
    work = LocalStore(settings.folder / "artifacts").work(step.name, step.key)
    checkpoints = work / "checkpoints"
    checkpoints.mkdir()
    context = Context(plan, "bench", run_folder, out=settings.folder, work=work, emit=forget)
    session = Session(plan, run_folder)
    session.start(note=forget)
    try:
        # The one thing that a run does not have: the loop is ours to measure, so nothing in it knows of a gate.
        with patch.object(stage, "Relay", gated_relay(Gate(str(settings.folder), settings.epochs_per_lap))):
            stage.fit(step, settings.data, checkpoints, context)
    finally:
        session.stop()


def train_plan(settings: TrainSettings) -> Plan:
    """The plan of a job with these settings."""
    cpus = settings.ranks * settings.threads
    job = JobSpec.model_validate(
        {
            "name": "bench",
            "seed": settings.seed,
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": {"kind": "small_cnn", "width": settings.width},
            "train": {
                "workers": settings.ranks,
                "strategy": {"kind": "ddp"},
                "epochs": settings.epochs,
                "batch_size": settings.batch_size,
                "optimizer": {"kind": "adamw", "lr": settings.lr},
                "best": {"metric": "val/loss"},
            },
        }
    )
    cluster = ClusterSpec.model_validate({"cpus": cpus, "gpus": 0})
    return build_plan(job, cluster, gather_facts(job, cluster, Path()), "rayml bench train", Path())


def gated_relay(gate: Gate) -> Callable[[Callable[..., None]], Relay]:
    """The stage's relay, with a gate behind what it hands to the workers."""

    def make(emit: Callable[..., None]) -> Relay:
        relay = Relay(emit)
        relay.sender = GatedSender(relay.sender, gate)  # type: ignore[assignment]
        return relay

    return make


def forget(*args: Any, **fields: Any) -> None:
    """Takes the events, which nobody reads here."""


if __name__ == "__main__":
    main(sys.argv[1])
