"""The protocol of a launcher, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayml.artifacts.hosts import ONE_FOLDER, Hosts
from rayml.artifacts.manifest import Artifact
from rayml.plan.plan import Resources
from rayml.stages.api import Emit


@dataclass(frozen=True)
class Order:
    """What is to be trained. Plain values: it travels to the ranks."""

    loop: dict[str, Any]
    """The values of rayml.stages.train.state.LoopConfig, by name: ranks build it where torch is imported."""
    resources: Resources
    logs: Path
    """Folder of the ranks' output."""
    storage: Path
    """Folder for what the launcher itself keeps."""
    run: str
    """The run's id."""
    hosts: Hosts = ONE_FOLDER
    inputs: tuple[Artifact, ...] = ()
    """What ranks read."""
    folders: tuple[Path, ...] = ()
    """What else they read, of the run's own: the user's code, weights to start from."""


class Launcher(Protocol):
    """Starts every rank, hands on the first one's events, and returns when all are done.

    Raises what rayml.stages.train.failures makes of it: WorkerLost where a process died, StageError where the loop
    failed. When it returns or raises, no rank is left.
    """

    def __call__(self, order: Order, emit: Emit) -> None: ...
