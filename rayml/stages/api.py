"""What a stage is: `run(step, inputs, context) -> Outcome`; the files it leaves in `context.out` are the artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rayml.artifacts.hosts import ONE_FOLDER, Hosts
from rayml.artifacts.manifest import Artifact
from rayml.plan.plan import Plan, Step

Emit = Callable[..., None]
"""`emit("progress", **fields)` tells what happens; values are JSON."""

Inputs = Mapping[str, Artifact]
"""Name of each input (the step that made it) to its artifact."""


class Execute(Protocol):
    """How a stage runs steps of its own, such as those of a trial. Travels to other processes."""

    def __call__(self, step: Step, inputs: Inputs, emit: Emit) -> Artifact:
        """Find the step's artifact, or make it."""
        ...

    def find(self, step: Step) -> Artifact | None:
        """The step's artifact, where anybody made it before."""
        ...

    def checkpoints(self, step: Step) -> Path:
        """The folder where the step keeps its checkpoints, with those that other hosts have sent."""
        ...

    def send_checkpoints(self, step: Step) -> None:
        """Let other hosts have what this one put into that folder."""
        ...


@dataclass(frozen=True)
class Context:
    """What the runner hands to a stage besides its configuration."""

    plan: Plan
    run: str
    """The run's id."""
    run_folder: Path
    """For logs and the endpoint's key; nothing here is part of an artifact."""
    out: Path
    """An empty folder. What lies here when the stage returns becomes the artifact."""
    work: Path
    """Outlives a crash and a retry of the same key. Checkpoints live here."""
    emit: Callable[..., None]
    """`emit("progress", step=..., **fields)` appends one event; values are JSON."""
    execute: Execute | None = None
    """Runs steps of the stage's own; None where nobody will."""
    hosts: Hosts = ONE_FOLDER
    """Carries files between the driver's host and those of workers."""

    @property
    def home(self) -> Path:
        """The folder of all runs and artifacts."""
        return self.run_folder.parent.parent

    def resolve(self, path: str) -> Path:
        """A path of the job file, which starts at the job file's folder."""
        return Path(self.plan.base, path)


@dataclass(frozen=True)
class Outcome:
    """What a stage says of the files that it left."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Numbers that gates, sweeps and reports read."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON that later steps and the report need to know."""


class Stage(Protocol):
    """A verb of the pipeline."""

    def __call__(self, step: Step, inputs: Inputs, context: Context) -> Outcome: ...
