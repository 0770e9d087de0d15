"""Making one step: find its artifact, or run its stage once and commit what it left. The same for a run and a trial."""

from __future__ import annotations

import functools
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rayml.artifacts.hosts import CHECKPOINTS
from rayml.artifacts.manifest import Artifact, Manifest
from rayml.artifacts.store import Store
from rayml.errors import RaymlError, StageError, machine_failure
from rayml.plan.plan import Plan, Step
from rayml.run.provenance import made_with
from rayml.stages.api import Context, Outcome
from rayml.stages.table import load_stage

LIBRARIES = ("ray", "torch", "numpy", "pyarrow", "onnx", "onnxruntime", "scikit-learn", "optuna")


@dataclass(frozen=True)
class Maker:
    """Makes steps of one run."""

    plan: Plan
    store: Store
    run_folder: Path

    def attempt(
        self, step: Step, inputs: Mapping[str, Artifact], emit: Callable[..., None], committing: Callable[[], None]
    ) -> tuple[Artifact, Outcome, float]:
        """Run the stage once and commit what it left; with what it said and the seconds that it took.

        Args:
            committing: called between the two.
        """
        started = time.perf_counter()
        hosts = self.store.hosts()
        for artifact in inputs.values():
            hosts.bring(artifact)
        out = self.store.staging(step.name, step.key)
        try:
            outcome = call_stage(step, inputs, self.context(step, out, emit))
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
        seconds = time.perf_counter() - started
        committing()
        return self.store.commit(out, self.manifest(step, outcome, seconds)), outcome, seconds

    def context(self, step: Step, out: Path, emit: Callable[..., None]) -> Context:
        """What the stage gets besides its configuration."""
        return Context(
            plan=self.plan,
            run=self.run_folder.name,
            run_folder=self.run_folder,
            out=out,
            work=self.store.work(step.name, step.key),
            emit=emit,
            execute=InnerSteps(self.plan, self.store, self.run_folder),
            hosts=self.store.hosts(),
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
            made_with=made_with(step.name, self.plan.code),
            run=self.run_folder.name,
            job=self.plan.job,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(seconds, 3),
        )


@dataclass(frozen=True)
class InnerSteps:
    """What a stage runs steps of its own with, such as the trials of a sweep. It travels to other processes."""

    plan: Plan
    store: Store
    run_folder: Path

    def find(self, step: Step) -> Artifact | None:
        """The step's artifact, where anybody made it before."""
        return self.store.find(step.name, step.key)

    def checkpoints(self, step: Step) -> Path:
        """The folder where the step keeps its checkpoints, with those that other hosts have sent."""
        folder = self.store.work(step.name, step.key) / CHECKPOINTS
        self.store.hosts().fetch(folder)
        return folder

    def send_checkpoints(self, step: Step) -> None:
        """Let other hosts have what this one put into that folder."""
        self.store.hosts().send(self.store.work(step.name, step.key) / CHECKPOINTS)

    def __call__(self, step: Step, inputs: Mapping[str, Artifact], emit: Callable[..., None]) -> Artifact:
        """Find the step's artifact, or make it, alone among all that want the same key."""
        with self.store.exclusive(step.name, step.key, lambda: emit("note", text="waits: another trial makes this")):
            found = self.find(step)
            if found is not None:
                return found
            if self.plan.code is not None:
                self.store.hosts().fetch(Path(self.plan.code))
            return Maker(self.plan, self.store, self.run_folder).attempt(step, inputs, emit, nothing)[0]


def nothing() -> None:
    """A trial has nothing to do between a stage and its commit."""


def call_stage(step: Step, inputs: Mapping[str, Artifact], context: Context) -> Outcome:
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
