"""The tune stage, on the driver: run the sweep that the step describes, or go on with it, and leave what it found."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import dataclass
from typing import Any

from rayml.errors import RaymlError, StageError
from rayml.plan.build import build_trial
from rayml.plan.plan import Step
from rayml.plan.settle import SWEEP_FILE
from rayml.spec.job import JobSpec
from rayml.spec.point import base_values
from rayml.spec.space import Point, Space, space_of
from rayml.spec.words import count
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.tune.desk import Desk
from rayml.stages.tune.engine import Settings, run_sweep
from rayml.stages.tune.ledger import Ledger, Trial
from rayml.stages.tune.meter import Meter
from rayml.stages.tune.outcome import sweep_document
from rayml.stages.tune.proposals import Proposals, Search, identity, search_of
from rayml.stages.tune.schedulers import build_scheduler
from rayml.stages.tune.takeover import Takeover
from rayml.stages.tune.walk import Walk, ignore

SHOWN_ERRORS = 5


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Run trials until the budget ends; leave `sweep.json`.

    Raises:
        StageError: every trial failed.
    """
    sweep = Preparation(step, inputs, context)
    sweep.make_data()
    ended = run_sweep(sweep.desk, sweep.engine_settings(), sweep.walk())
    for problem in sorted(set(sweep.desk.proposals.refused)):
        context.emit("note", text=f"a configuration was left out: {problem}")
    sweep.ledger.close()
    trials = sweep.ledger.sweep.trials
    refuse_failures(trials, step.policy["max_failures"])
    document = sweep_document(sweep.ledger.sweep, sweep.space, sweep.settings, sweep.kept_by, ended)
    (context.out / SWEEP_FILE).write_text(json.dumps(document, indent=1))
    return Outcome(summarize(trials, sweep.settings["objectives"]), {"ended": ended, "spent": document["spent"]})


@dataclass(frozen=True)
class Training:
    """What a sweep has to know of a trial's train step."""

    epochs: int
    best: dict[str, str]
    """`metric` and `goal` by which an epoch's checkpoint is kept."""
    has_constant_lr: bool
    cpus: float
    gpus: float
    """Of all its workers."""


def training_of(step: Step) -> Training:
    """From a trial's train step."""
    config, resources = step.config, step.resources
    return Training(
        epochs=config["epochs"],
        best=config["best"],
        has_constant_lr=config["schedule"]["kind"] == "constant",
        cpus=float(resources.workers * resources.cpus_per_worker),
        gpus=float(resources.workers * resources.gpus_per_worker),
    )


class Preparation:
    """Everything that a sweep is made of, from the step."""

    def __init__(self, step: Step, inputs: Inputs, context: Context) -> None:
        origin = context.plan.origin
        assert origin is not None and context.execute is not None, "a sweep is run by a runner, from a whole plan"
        self.step, self.context, self.origin, self.execute = step, context, origin, context.execute
        config = step.config
        job = JobSpec.model_validate(origin.job)
        self.space: Space = space_of(job)
        train = config["trial"]["train"]["config"]
        self.settings: dict[str, Any] = {
            **{name: config[name] for name in ("objectives", "scheduler", "search", "budget")},
            "max_failures": step.policy["max_failures"],
            "epochs": train["epochs"],
            "metrics": [*(each["metric"] for each in config["objectives"]), *step.policy["limits"]],
            "val_rows": int(inputs["data"].manifest.metrics["rows_val"]),
        }
        self.trainings: dict[str, Training] = {}
        self.takes_over = config["scheduler"]["kind"] in ("pbt", "pb2")
        self.ledger = Ledger(context.work)
        self.desk = Desk(
            self.ledger,
            Proposals(self.space, self.known(job), self.search(), self.refusal),
            Meter(config["budget"], step.policy["prices"], self.ledger.sweep.spent, time.monotonic()),
            self.settings,
            self.holds,
            self.recipe,
            context.emit,
            Takeover(origin, self.execute, step.key) if self.takes_over else None,
        )

    def make_data(self) -> None:
        """Make the rows of every trial, while no trial holds the places that Ray Data needs."""
        searched = [each for each in self.space.dimensions if each.path.startswith("data.")]
        for values in itertools.product(*[each.levels or () for each in searched]):
            point = {each.path: value for each, value in zip(searched, values, strict=True)}
            step = build_trial(self.origin, point)[0]
            if self.execute.find(step) is None:
                self.context.emit("note", text=f"makes the rows of {', '.join(f'{k}={v}' for k, v in point.items())}")
                self.execute(step, {}, ignore)

    def training(self, point: Point) -> Training:
        """The training of a trial, planned once. RaymlError where the job's rules refuse it."""
        known = self.trainings.get(identity(point))
        if known is None:
            known = self.trainings[identity(point)] = training_of(build_trial(self.origin, point)[1])
        return known

    def recipe(self, point: Point) -> dict[str, Any]:
        """What the books need to know of a trial's training."""
        training = self.training(point)
        return {"epochs": training.epochs, "best": training.best}

    def kept_by(self, point: Point) -> dict[str, Any]:
        """What decides which epoch of a trial is kept, and whether a retraining may end there."""
        training = self.training(point)
        return {"best": training.best, "constant_lr": training.has_constant_lr}

    def search(self) -> Search:
        """The search, which knows what earlier sweeps found."""
        config = self.step.config
        goals = [objective["goal"] for objective in config["objectives"]]
        search = search_of(config["search"], self.space, config["seed"], goals)
        learned = 0
        for point, values in self.step.policy["warm"]:
            if self.space.holds(point):
                search.add(point, values)
                learned += 1
        if self.step.policy["warm"]:
            self.context.emit("note", text=f"starts from {learned} of {len(self.step.policy['warm'])} earlier trials")
        return search

    def known(self, job: JobSpec) -> list[Point]:
        """The points that the job names, with the job's own values for the keys that they leave out."""
        own = base_values(job)
        found = []
        for written in self.step.config["known"]:
            point: Point = {}
            for dimension in self.space.dimensions:
                value = written.get(dimension.path, own.get(dimension.path))
                if dimension.is_active(point) and value is not None and dimension.holds(value):
                    point[dimension.path] = value
            found.append(point)
        return found

    def refusal(self, point: Point) -> str | None:
        """Why a configuration cannot be planned: found before it costs anything."""
        try:
            self.training(point)
        except RaymlError as error:
            return f"{error.where}: {error.what}"
        return None

    def holds(self, point: Point) -> tuple[float, float]:
        """CPUs and GPUs of a trial."""
        training = self.training(point)
        return training.cpus, training.gpus

    def bundle(self, trial: Trial) -> dict[str, float]:
        """What Ray reserves for a trial, on one node."""
        cpus, gpus = self.holds(trial.point)
        return {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}

    def engine_settings(self) -> Settings:
        """What the engine needs."""
        config, policy = self.step.config, self.step.policy
        filesystem, storage = self.storage()
        return Settings(
            scheduler=build_scheduler(
                config["scheduler"], config["objectives"][0], self.settings["epochs"], self.space
            ),
            kind=config["scheduler"]["kind"],
            concurrency=policy["handed_out"],
            retries=policy["retries_of_a_trial"],
            storage=storage,
            bundle=self.bundle,
            filesystem=filesystem,
        )

    def storage(self) -> tuple[Any, str]:
        """Where Ray Tune writes what nobody reads: a file system that all hosts see, and a folder of it."""
        folder = self.context.work / "ray"
        folder.mkdir(exist_ok=True)
        return self.context.hosts.filesystem(folder)

    def walk(self) -> Walk:
        """What evaluates a trial."""
        return Walk(self.origin, self.execute, self.step.key, self.takes_over)


def refuse_failures(trials: list[Trial], most: int | None) -> None:
    """StageError with the distinct errors where no trial came to anything, or more failed than the job takes.

    Nothing is committed: the same command tries failed trials again where all failed, and others are kept.
    """
    failed = [trial for trial in trials if trial.status == "failed"]
    came_to_something = any(trial.values for trial in trials)
    if not failed or (came_to_something and (most is None or len(failed) < most)):
        return
    errors = list(dict.fromkeys((trial.error or "").splitlines()[0] for trial in failed))
    shown = "; ".join(errors[:SHOWN_ERRORS])
    more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
    raise StageError(
        f"{len(failed)} of {count(len(trials), 'trial')} failed: {shown}{more}",
        where="tune",
        hint=f"`rayml show RUN --trial {failed[0].number}` prints a job file that fails in the same way",
    )


def summarize(trials: list[Trial], objectives: list[dict[str, str]]) -> dict[str, float]:
    """Counts, and the best value of each objective."""
    metrics = {"trials": float(len(trials))}
    for status in ("done", "stopped", "failed", "unfinished"):
        metrics[status] = float(sum(trial.status == status for trial in trials))
    metrics["epochs"] = float(sum(len(trial.epochs) for trial in trials))
    for objective in objectives:
        values = [trial.values[objective["metric"]] for trial in trials if objective["metric"] in trial.values]
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            metrics[f"best {objective['metric']}"] = (max if objective["goal"] == "max" else min)(finite)
    return metrics
