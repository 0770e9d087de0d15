"""The sweep on Ray Tune: its controller starts trials and asks the scheduler what to do; the desk keeps books.

Every trial that Ray Tune sees is one of the ledger's, with the same number as id, in this process and in every later
one. Ray Tune's own state is not kept: a sweep that goes on starts a new controller with the trials that are left, and
schedulers hear again what the ledger says of the others.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, PlacementGroupFactory, Stopper
from ray.tune.experiment import Trial as RayTrial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.search_algorithm import SearchAlgorithm

from rayml.stages.tune.desk import Desk
from rayml.stages.tune.judge import Judge, NotKept
from rayml.stages.tune.ledger import Trial
from rayml.stages.tune.meter import look_at_nodes
from rayml.stages.tune.worker import Evaluate, run_trial

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # its state files are pickles, and nobody reads them
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # the desk says how many: what a grown cluster holds, not today's
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last report has no epoch's metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Settings:
    """What the engine needs besides the desk."""

    scheduler: TrialScheduler
    kind: str
    """The scheduler's kind, for the reasons in the ledger."""
    concurrency: int
    """Trials at a time, at the cluster's largest size."""
    retries: int
    """How often a trial is started again whose process or node died."""
    storage: Path | str
    """A folder for what Ray Tune itself writes."""
    bundle: Callable[[Trial], dict[str, float]] = field(repr=False)
    """The resources of a trial."""
    filesystem: Any = None
    """pyarrow's, on which all hosts see `storage`; the local one where it is None."""


def run_sweep(desk: Desk, settings: Settings, evaluate: Evaluate) -> str:
    """Run the sweep to its end, or to that of its budget; why it ended, in words. Ray is initialized."""
    os.environ.update(ENVIRONMENT)
    if not desk.is_finished() and not desk.over():
        watch = Watch(desk)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, evaluate=evaluate, takes_over=desk.take_over is not None), resources_of
            ),
            tune_config=tune.TuneConfig(
                search_alg=Feeder(desk, settings),
                scheduler=Judge(settings.scheduler, desk, settings.kind),
                reuse_actors=True,
                num_samples=-1,
                trial_dirname_creator=name_of,
                trial_name_creator=name_of,
            ),
            run_config=tune.RunConfig(
                name=f"sweep-{os.getpid()}-{time.time_ns()}",
                storage_path=str(settings.storage),
                storage_filesystem=settings.filesystem,
                verbose=0,
                callbacks=[watch],
                stop=BudgetStop(desk, watch),
                failure_config=tune.FailureConfig(max_failures=settings.retries),
            ),
        )
        desk.meter.last = time.monotonic()
        desk.saw_nodes(look_at_nodes(ray.nodes))
        tuner.fit()
        desk.tick(time.monotonic())
    return desk.close()


def name_of(trial: RayTrial) -> str:
    """A trial's folder and name: its number."""
    return str(trial.trial_id)


def resources_of(config: dict[str, Any]) -> PlacementGroupFactory:
    """What Ray Tune reserves for a trial, on one node."""
    return PlacementGroupFactory([config["bundle"]])


class Feeder(NotKept, SearchAlgorithm):
    """Hands the desk's trials to Ray Tune."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk, self.settings = desk, settings
        self.parser = _make_parser()
        self.spec: dict[str, Any] = {}

    def add_configurations(self, experiments: Any) -> None:
        self.spec = (experiments[0] if isinstance(experiments, list) else experiments).spec

    def next_trial(self) -> RayTrial | None:
        trial = self.desk.next_trial(self.settings.concurrency)
        if trial is None:
            return None
        spec = copy.copy(self.spec)
        spec["config"] = {
            **copy.deepcopy(trial.point),
            "trial": trial.number,
            "take": len(trial.took_over),
            "bundle": self.settings.bundle(trial),
        }
        made: RayTrial = _create_trial_from_spec(
            spec, self.parser, evaluated_params={}, experiment_tag=str(trial.number), trial_id=f"{trial.number:05d}"
        )
        return made

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = int(trial_id)
        if error:
            # The judge heard why.
            self.desk.ended(number, "failed", error="its process or its node died")
        else:
            # Ended by its last report already, unless the scheduler stopped it.
            self.desk.ended(number, "stopped", reason=self.settings.kind)

    def is_finished(self) -> bool:
        return self._finished or self.desk.is_finished()


class Watch(NotKept, Callback):
    """Tells the desk when trials get resources, and lets time pass."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.looked = time.monotonic()
        self.trials: list[RayTrial] = []

    def on_step_begin(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        now, self.trials = time.monotonic(), trials
        if now - self.looked >= LOOK_EVERY_S:
            self.looked = now
            self.desk.saw_nodes(look_at_nodes(ray.nodes))
        self.desk.tick(now)

    def on_trial_start(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self.desk.started(int(trial.trial_id))


class BudgetStop(NotKept, Stopper):
    """Ends the sweep when the desk says so.

    What runs then is killed: Ray Tune would wait ten seconds for an epoch to end, on resources that are used up. The
    checkpoints are whole at any moment.
    """

    def __init__(self, desk: Desk, watch: Watch) -> None:
        self.desk, self.watch = desk, watch
        self.killed = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        over = self.desk.over() is not None
        if over and not self.killed:
            self.killed = True
            for trial in self.watch.trials:
                actor = trial.temporary_state.ray_actor
                if actor is not None and not trial.is_finished():  # type: ignore[no-untyped-call]
                    ray.kill(actor)
        return over
