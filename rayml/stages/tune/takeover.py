"""Population based training: the weights of one trial in the place of another's."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.build import build_trial
from rayml.plan.plan import Origin, Step
from rayml.spec.space import Point
from rayml.stages.api import Execute
from rayml.stages.tune.ledger import Trial
from rayml.stages.tune.walk import population_of


@dataclass(frozen=True)
class Takeover:
    """Copies checkpoints when the scheduler decides, while the source is still there."""

    origin: Origin
    execute: Execute
    sweep: str
    """Key of the tune step."""

    def name(self, number: int, take: int) -> dict[str, Any]:
        return population_of(self.sweep, number, take)

    def __call__(self, source: Trial, target: Trial, point: Point) -> int:
        """The epoch that the weights are at: 0 where neither trial has a whole checkpoint, and training starts anew."""
        after = self.training(target.number, point, len(target.took_over) + 1)
        folder = self.execute.checkpoints(after)
        for trial in (source, target):
            before = self.training(trial.number, trial.point, len(trial.took_over))
            copy_checkpoints(self.execute.checkpoints(before), folder)
            newest, _ = newest_checkpoint(folder)
            if newest is not None:
                self.execute.send_checkpoints(after)
                return int(newest.state["epoch"])
            shutil.rmtree(folder)
        return 0

    def training(self, number: int, point: Point, take: int) -> Step:
        """The train step of a trial."""
        return build_trial(self.origin, point, self.name(number, take))[1]


def copy_checkpoints(source: Path, target: Path) -> None:
    """Copy the checkpoints of a trial that goes on writing and removing some meanwhile."""
    target.mkdir(parents=True, exist_ok=True)
    for folder in sorted(source.iterdir()) if source.exists() else []:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, shutil.Error):
            shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)
