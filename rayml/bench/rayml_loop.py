"""rayml's side of `rayml bench train`: the train stage as a run starts it, on Ray, with a gate after every lap.

`python -m rayml.bench.rayml_loop SETTINGS`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from rayml.artifacts.store import LocalStore
from rayml.bench.gate import Gate
from rayml.bench.train_settings import TrainSettings, load_settings
from rayml.observe.relay import Relay
from rayml.plan.build import build_plan
from rayml.plan.facts import gather_facts
from rayml.plan.plan import Plan
from rayml.process import die_with_parent
from rayml.run.session import Session
from rayml.spec.cluster import LocalCluster
from rayml.spec.job import JobSpec
from rayml.stages.api import Context
from rayml.stages.train import stage
from rayml.stages.train.launchers import processes, ray_train
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.launchers.processes import run_rank


class GatedEmit:
    """What the first rank's events go through: on as ever, and at the end of an epoch to the gate."""

    def __init__(self, emit: Callable[..., None], gate: Gate) -> None:
        self._emit, self._gate = emit, gate

    def __call__(self, kind: str, **fields: Any) -> None:
        self._emit(kind, **fields)
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
    if step.resources.ray:
        session.start(note=forget)
    # The one thing that a run does not have: the loop is ours to measure, so nothing in it knows of a gate.
    gated: Any = patch.object(ray_train, "Relay", gated_relay(settings))
    if step.policy["launcher"] == "processes":
        gated = patch.object(processes, "run_rank", run_gated_rank)
    try:
        with gated:
            rows: Any = SimpleNamespace(path=settings.data)  # made without a store
            stage.fit(step, {"data": rows}, checkpoints, context)
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
            "model": settings.model,
            "train": {
                "workers": settings.ranks,
                "strategy": settings.strategy,
                "launcher": settings.launcher,
                "epochs": settings.epochs,
                "batch_size": settings.batch_size,
                "optimizer": {"kind": "adamw", "lr": settings.lr},
                "best": {"metric": "val/loss"},
                "blocks": settings.blocks or "auto",
                **settings.recipe,
            },
        }
    )
    cluster = LocalCluster.model_validate({"cpus": cpus, "gpus": 0})
    return build_plan(job, cluster, gather_facts(job, cluster, Path()), "rayml bench train", Path())


def gated_relay(settings: TrainSettings) -> Callable[[Callable[..., None]], Relay]:
    """The relay of Ray Train's workers, with a gate before what it hands to them."""

    def make(emit: Callable[..., None]) -> Relay:
        relay = Relay(emit)
        relay.sender = GatedEmit(relay.sender, open_gate(settings))  # type: ignore[assignment]
        return relay

    return make


def run_gated_rank(order: Order, number: int, meeting: Path, voice: Connection) -> None:
    """A forked rank whose events go through the gate."""
    settings = load_settings(str(order.logs.parents[1] / "settings.json"))
    gated = GatedEmit(partial(processes.tell, voice), open_gate(settings))
    with patch.object(processes, "tell", lambda _, kind, **fields: gated(kind, **fields)):
        run_rank(order, number, meeting, voice)


def open_gate(settings: TrainSettings) -> Gate:
    """The gate of this side."""
    return Gate(str(settings.folder), settings.epochs_per_lap)


def forget(*args: Any, **fields: Any) -> None:
    """Takes the events, which nobody reads here."""


if __name__ == "__main__":
    main(sys.argv[1])
