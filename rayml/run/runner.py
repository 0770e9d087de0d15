"""Who walks the plan. A key that the store has is not computed again; a gate is judged every time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from rayml.artifacts.durable import write_atomic
from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import Store
from rayml.errors import RaymlError
from rayml.observe.events import EventLog
from rayml.observe.runs import RunFolder
from rayml.plan.build import cut_after
from rayml.plan.plan import Plan, Step
from rayml.plan.settle import settle
from rayml.run import gates, policy
from rayml.run.making import Maker
from rayml.stages.table import load_preparation


class Session(Protocol):
    """Ray, for as long as a run needs it (rayml.run.session, rayml.run.joined)."""

    def start(self, note: Callable[..., None]) -> None:
        """Have it there. BackendError where it does not come up."""

    def begin(self) -> None:
        """Let it start beside what goes on; `start` waits for it."""

    def stop(self) -> None:
        """Let go of it."""


class Runner:
    """One run of one plan."""

    def __init__(self, plan: Plan, store: Store, run_folder: Path, log: EventLog, session: Session) -> None:
        self.plan, self.store, self.run_folder, self.log, self.session = plan, store, run_folder, log, session

    def run(self) -> dict[str, Artifact]:
        """Walk the plan; the artifact of every step. Raises the RaymlError that ended it."""
        done: dict[str, Artifact] = {}
        self.prepare()
        for name in [step.name for step in self.plan.steps]:
            step = self.plan.step(name)
            inputs = {name: done[name] for name in step.inputs}
            done[name] = self.find(step) or self.make(step, inputs)
            self.judge(step, done[name])
            if name == "tune" and self.plan.decision is None:
                done["data"] = self.decide(done["data"])
        return done

    def decide(self, data: Artifact) -> Artifact:
        """Go on with what the sweep found: the plan of the steps after it, and the data that they read."""
        last = self.plan.steps[-1].name
        self.plan = cut_after(settle(self.plan, self.store), last)
        decision = self.plan.decision
        assert decision is not None, "a sweep that is done decides, or says why it cannot"
        write_atomic(RunFolder(self.run_folder).plan_path, self.plan.model_dump_json(indent=1).encode())
        self.log.emit("decided", step="tune", **decision.model_dump())
        return self.find(self.plan.step("data")) or data

    def prepare(self) -> None:
        """Let the stages that will have to run start what takes long to start, beside the steps before them."""
        for step in self.plan.steps:
            if step.name == "tune" and self.plan.decision is None:
                return  # what comes after it, the sweep decides, and most often has made
            prepare = load_preparation(step.name)
            if prepare is not None and self.store.find(step.name, step.key) is None:
                prepare(step)

    def find(self, step: Step) -> Artifact | None:
        """The step's artifact, where an earlier run made it."""
        artifact = self.store.find(step.name, step.key)
        if artifact is not None:
            self.log.emit("step_cached", step=step.name, key=step.key, reason=f"made by {artifact.manifest.run}")
        return artifact

    def make(self, step: Step, inputs: dict[str, Artifact]) -> Artifact:
        """Run the step, alone among all runs that want the same key, as often as its policy says."""
        waiting = functools.partial(self.log.emit, "note", step=step.name, text="waits: another run makes this step")
        with self.store.exclusive(step.name, step.key, waiting):
            if artifact := self.find(step):
                return artifact
            for fault in self.store.damage(step.name, step.key)[:1]:
                self.log.emit("note", step=step.name, text=f"made anew: {fault.file} {fault.what}")
            attempt = 1
            while True:
                try:
                    return self.attempt(step, inputs, attempt)
                except RaymlError as error:
                    decision = policy.decide(error, attempt, step.policy.get("retries", 0))
                    if isinstance(decision, policy.Raise):
                        self.log.emit("step_failed", step=step.name, error=error.to_json())
                        raise
                    self.log.emit("retry", step=step.name, attempt=attempt, reason=str(error), after_s=decision.after_s)
                    time.sleep(decision.after_s)
                    attempt += 1

    def attempt(self, step: Step, inputs: dict[str, Artifact], attempt: int) -> Artifact:
        """Execute the stage once and commit what it left."""
        if step.resources.ray:
            self.session.start(functools.partial(self.log.emit, "note", step=step.name))
        elif step.resources.alone:
            self.session.stop()
        self.log.emit("step_started", step=step.name, key=step.key, attempt=attempt)
        maker = Maker(self.plan, self.store, self.run_folder)
        emit = functools.partial(self.log.emit, step=step.name)
        artifact, outcome, seconds = maker.attempt(step, inputs, emit, functools.partial(self.begin_ray_again, step))
        self.log.emit(
            "step_done", step=step.name, key=step.key, seconds=seconds, metrics=outcome.metrics, path=str(artifact.path)
        )
        return artifact

    def begin_ray_again(self, step: Step) -> None:
        """Let Ray start beside what follows, where a step was alone and a later one needs it."""
        if step.resources.alone and self.needs_ray_later(step):
            self.session.begin()

    def needs_ray_later(self, step: Step) -> bool:
        """Whether a step after this one will have to run on Ray."""
        later = self.plan.steps[self.plan.steps.index(step) + 1 :]
        return any(each.resources.ray and self.store.find(each.name, each.key) is None for each in later)

    def judge(self, step: Step, artifact: Artifact) -> None:
        """Hold the step's metrics against its gates; GateError where one is not met."""
        verdicts = gates.judge(step, artifact.manifest.metrics)
        for verdict in verdicts:
            self.log.emit("gate", **asdict(verdict))
        gates.refuse(verdicts, artifact)
