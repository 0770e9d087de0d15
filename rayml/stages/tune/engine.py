"""The sweep on Ray Tune: its controller starts trials and asks the scheduler what to do; the desk keeps books.

Every trial that Ray Tune sees is one of the ledger's, with the same number as id, in this process and in every later
one. Ray Tune's own state is not kept: a sweep that goes on starts a new controller with the trials that are left, and
schedulers hear again what the ledger says of the others.
"""

from __future__ import annotations

import copy
import json
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
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a thread that is stopped finishes its epoch's checkpoint
    "RAY_AIR_NEW_OUTPUT": "0",
}
LOOK_EVERY_S = 1.0
REPLAYED = ("fifo", "median", "asha")
"""Schedulers whose judgement is a function of reported values alone: they can be told what happened before."""


@dataclass(frozen=True)
class Settings:
    """What the engine needs besides the desk."""

    scheduler: TrialScheduler
    kind: str
    """The scheduler's kind, for the reasons in the ledger."""
    epochs: int
    concurrency: int
    """Trials at a time, at the cluster's largest size."""
    retries: int
    """How often a trial is started again whose process or node died."""
    storage: Path
    """A folder for what Ray Tune itself writes."""
    bundle: Callable[[Trial], dict[str, float]] = field(repr=False)
    """The resources of a trial."""


def run_sweep(desk: Desk, settings: Settings, evaluate: Evaluate) -> str:
    """Run the sweep to its end, or to that of its budget; why it ended, in words. Ray is initialized."""
    os.environ.update(ENVIRONMENT)
    if not desk.is_finished() and not desk.over():
        watch = Watch(desk)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, evaluate=evaluate), resources_of),
            tune_config=tune.TuneConfig(
                search_alg=Feeder(desk, settings),
                scheduler=Judge(settings.scheduler, desk, settings),
                reuse_actors=True,
                num_samples=-1,
                trial_dirname_creator=name_of,
                trial_name_creator=name_of,
            ),
            run_config=tune.RunConfig(
                name=f"sweep-{os.getpid()}-{time.time_ns()}",
                storage_path=str(settings.storage),
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


class NotKept:
    """Has no part in the pickles that Ray Tune writes of itself: the ledger is what a sweep goes on from."""

    def __reduce__(self) -> tuple[Any, ...]:
        return NotKept, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> NotKept:
        return self


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


class Judge(NotKept, TrialScheduler):
    """Ray Tune's scheduler, with the desk beside it: it hears every result first."""

    def __init__(self, inner: TrialScheduler, desk: Desk, settings: Settings) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inner, self.desk, self.settings = inner, desk, settings
        self.told_past = settings.kind not in REPLAYED

    @property
    def metric(self) -> Any:
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        self.tell_past(tune_controller)
        self.inner.on_trial_add(tune_controller, trial)
        if self.settings.kind in REPLAYED:
            self.replay(tune_controller, trial, self.desk.trial(int(trial.trial_id)))

    def tell_past(self, tune_controller: Any) -> None:
        """Let the scheduler hear what it said of trials that are over."""
        if self.told_past:
            return
        self.told_past = True
        for number in {number for kind, number in self.desk.ledger.sweep.order if kind == "ended"}:
            stub = RayTrial("stub", trial_id=f"{number:05d}", stub=True)
            self.inner.on_trial_add(tune_controller, stub)
            self.replay(tune_controller, stub, self.desk.trial(number))

    def replay(self, tune_controller: Any, trial: RayTrial, past: Trial) -> None:
        """What a trial reported before this controller."""
        for record in past.epochs:
            if record["epoch"] < self.settings.epochs:
                self.inner.on_trial_result(tune_controller, trial, dict(record))

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        number = int(trial.trial_id)
        if "outcome" in result:
            self.desk.place(number, result["node"])
            outcome = json.loads(result["outcome"])
            status = "failed" if outcome.get("error") else "done"
            self.desk.ended(number, status, **outcome)
            return TrialScheduler.CONTINUE
        record, past = json.loads(result["record"]), self.desk.trial(number)
        if past.epochs and not past.rewound and record["epoch"] <= past.epochs[-1]["epoch"]:
            # Said by an earlier process already, and by this one again since it goes on from there.
            return TrialScheduler.CONTINUE
        self.desk.epoch(number, record, result["node"])
        if record["epoch"] >= self.settings.epochs:
            # It has trained to its end: whatever the scheduler thinks of it, what is left is to keep the result.
            return TrialScheduler.CONTINUE
        decision: str = self.inner.on_trial_result(tune_controller, trial, {**result, **record})
        self.note(number, trial, decision)
        return decision

    def note(self, number: int, trial: RayTrial, decision: str) -> None:
        """Keep books of what the scheduler decided."""
        if decision == TrialScheduler.STOP:
            epoch = self.desk.trial(number).epochs[-1]["epoch"]
            self.desk.ended(number, "stopped", reason=f"{self.settings.kind}: after {epoch:g} epochs")
        elif decision in (TrialScheduler.PAUSE, TrialScheduler.NOOP):
            self.desk.paused(number)
        source = trial.config["trial"]
        if source != number:
            kept = ("trial", "take", "bundle")
            point = {path: value for path, value in trial.config.items() if path not in kept}
            self.desk.took_over(number, source, point)
            take = len(self.desk.trial(number).took_over)
            trial.set_config({**trial.config, "trial": number, "take": take})  # type: ignore[no-untyped-call]

    def on_trial_complete(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> None:
        past = self.desk.trial(int(trial.trial_id))
        if past.epochs:
            self.inner.on_trial_complete(tune_controller, trial, {**result, **past.epochs[-1]})
        else:
            self.inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        number = int(trial.trial_id)
        self.desk.left(number)
        if not trial.should_recover():  # type: ignore[no-untyped-call]
            self.desk.ended(number, "failed", error=f"its process or its node died: {last_words(trial)}")
        self.inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: RayTrial) -> None:
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return str(self.inner.debug_string())


def last_words(trial: RayTrial) -> str:
    """What Ray says of a trial whose process is gone, on one line."""
    file = trial.error_file
    lines = Path(file).read_text(errors="replace").strip().splitlines() if file else []
    return lines[-1].strip() if lines else "it said nothing"


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
