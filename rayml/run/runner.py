"""Who walks the plan. A key that the store has is not computed again; a gate is judged every time."""

from __future__ import annotations

import functools
import platform
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rayml.artifacts.manifest import Manifest
from rayml.artifacts.store import Artifact, Store
from rayml.errors import RaymlError, StageError, machine_failure
from rayml.observe.events import EventLog
from rayml.plan.plan import Plan, Step
from rayml.run import gates, policy
from rayml.run.session import Session
from rayml.stages.api import Context, Outcome
from rayml.stages.table import load_preparation, load_stage

LIBRARIES = ("ray", "torch", "numpy", "pyarrow", "onnx", "onnxruntime", "scikit-learn")


class Runner:
    """One run of one plan."""

    def __init__(self, plan: Plan, store: Store, run_folder: Path, log: EventLog, session: Session) -> None:
        self.plan, self.store, self.run_folder, self.log, self.session = plan, store, run_folder, log, session

    def run(self) -> dict[str, Artifact]:
        """Walk the plan; the artifact of every step. Raises the RaymlError that ended it."""
        done: dict[str, Artifact] = {}
        self.prepare()
        for step in self.plan.steps:
            inputs = {name: done[name] for name in step.inputs}
            done[step.name] = self.find(step) or self.make(step, inputs)
            self.judge(step, done[step.name])
        return done

    def prepare(self) -> None:
        """Let the stages that will have to run start what takes long to start, beside the steps before them."""
        for step in self.plan.steps:
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
        started = time.perf_counter()
        out = self.store.staging(step.name, step.key)
        try:
            outcome = call_stage(step, inputs, self.context(step, out))
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        seconds = time.perf_counter() - started
        if step.resources.alone and self.needs_ray_later(step):
            self.session.begin()
        artifact = self.store.commit(out, self.manifest(step, outcome, seconds))
        self.log.emit(
            "step_done", step=step.name, key=step.key, seconds=seconds, metrics=outcome.metrics, path=str(artifact.path)
        )
        return artifact

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

    def context(self, step: Step, out: Path) -> Context:
        """What the stage gets besides its configuration."""
        emit: Callable[..., None] = functools.partial(self.log.emit, step=step.name)
        return Context(
            plan=self.plan,
            run=self.run_folder.name,
            run_folder=self.run_folder,
            out=out,
            work=self.store.work(step.name, step.key),
            emit=emit,
        )

    def manifest(self, step: Step, outcome: Outcome, seconds: float) -> Manifest:
        """The record of a step that was just run; the store adds the files."""
        return Manifest(
            kind=step.name,
            key=step.key,
            files=(),
            config=step.config,
            inputs=step.inputs,
            code=step.code,
            metrics=outcome.metrics,
            facts=outcome.facts,
            environment=environment(),
            run=self.run_folder.name,
            job=self.plan.job,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(seconds, 3),
        )


def call_stage(step: Step, inputs: dict[str, Artifact], context: Context) -> Outcome:
    """Run a stage; an exception that is neither a RaymlError nor a broken promise of ours becomes a StageError."""
    try:
        return load_stage(step.name)(step, inputs, context)
    except (RaymlError, AssertionError):
        raise
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, OSError) and (refused := machine_failure(error, step.name)):
            raise refused from error
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise StageError(
            f"{type(error).__name__}: {first_line}",
            where=step.name,
            hint=f"the whole traceback is in {context.run_folder / 'driver.log'}",
        ) from error


@functools.cache
def environment() -> dict[str, str]:
    """What the result may depend on and no key holds: versions and the processor."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {
        "rayml": metadata.version("rayml"),
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "processor": processor(),
        "system": platform.system(),
    }


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
