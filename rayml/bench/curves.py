"""A table of learning curves of the digits, made by rayml's own training: what `rayml bench tune` looks trials up in.

`python -m rayml.bench.curves SETTINGS` trains its share of the configurations, one after the other in one process, and
writes their curves. Plan, steps, order of the rows and validation are those of a trial; no checkpoints are written.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rayml.errors import StageError
from rayml.process import die_with_parent
from rayml.spec.space import Point

TRAIN_ROWS, VAL_ROWS = 1200, 597
"""All digits, a third of them to validate on: a difference of a fifth of a per cent of accuracy can be seen."""
BYTES_PER_WEIGHT = 4
Curve = list[dict[str, float]]


class TableSettings(BaseModel):
    """Which configurations are trained, for how long, and which of them by one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    epochs: int
    space: dict[str, list[Any]]
    """Key of the job to its values: the table has every combination."""
    shares: int = 2
    share: int = 0

    @property
    def path(self) -> Path:
        return self.folder / f"share-{self.share}.json"

    @property
    def curves(self) -> Path:
        return self.folder / f"curves-{self.share}.json"

    @property
    def section(self) -> dict[str, Any]:
        """The `space` of a job that searches the table."""
        return {path: {"choice": values} for path, values in self.space.items()}

    def points(self) -> list[Point]:
        """Every configuration."""
        combinations = itertools.product(*self.space.values())
        return [dict(zip(self.space, values, strict=True)) for values in combinations]


@dataclass(frozen=True)
class Table:
    """What became of every configuration. Travels to the trials."""

    epochs: int
    curves: dict[str, Curve]
    """`name_of` a point to its epochs: `epoch`, `val/loss`, `val/accuracy`."""
    sizes: dict[str, float]
    """`name_of` a point to the bytes of its weights."""

    def curve(self, point: Point) -> Curve:
        return self.curves[name_of(point)]

    def values(self, point: Point) -> dict[str, float]:
        """The metrics of the epoch whose checkpoint would be kept, that with the lowest validation loss; the size."""
        kept = min(self.curve(point), key=lambda record: record["val/loss"])
        metrics = {name: kept[name] for name in ("val/loss", "val/accuracy")}
        return {**metrics, "size_bytes": self.sizes[name_of(point)]}


def name_of(point: Point) -> str:
    """A text that is the same for equal points."""
    return json.dumps(point, sort_keys=True)


def make_table(settings: TableSettings) -> Table:
    """Train every configuration, the shares at the same time. StageError where a process fails."""
    from rayml.bench.train import made_rows

    made_rows(settings.folder / "data", TRAIN_ROWS, val_rows=VAL_ROWS)
    shares = [settings.model_copy(update={"share": number}) for number in range(settings.shares)]
    with ExitStack() as stack:
        processes = []
        for share in shares:
            share.path.write_text(share.model_dump_json())
            argv = [sys.executable, "-m", "rayml.bench.curves", str(share.path)]
            processes.append(stack.enter_context(subprocess.Popen(argv)))
        for process in processes:
            if process.wait() != 0:
                raise StageError(f"ended with exit code {process.returncode}", where="the table of learning curves")
    found = [json.loads(share.curves.read_text()) for share in shares]
    merged = {name: {key: value for each in found for key, value in each[name].items()} for name in ("curves", "sizes")}
    return Table(settings.epochs, **merged)


def main(path: str) -> None:
    """Train one share, and write its curves."""
    import torch

    die_with_parent()
    settings = TableSettings.model_validate_json(Path(path).read_bytes())
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {"curves": {}, "sizes": {}}
    trainings = Trainings(settings)
    for point in settings.points()[settings.share :: settings.shares]:
        curve, size = trainings.train(point)
        found["curves"][name_of(point)], found["sizes"][name_of(point)] = curve, size
    settings.curves.write_text(json.dumps(found))


class Trainings:
    """The trials of one job."""

    def __init__(self, settings: TableSettings) -> None:
        from rayml.plan.build import build_plan
        from rayml.plan.facts import gather_facts
        from rayml.spec.cluster import LocalCluster
        from rayml.spec.job import JobSpec

        self.settings = settings
        job = JobSpec.model_validate(job_document(settings))
        cluster = LocalCluster.model_validate({"cpus": 1, "gpus": 0})
        plan = build_plan(job, cluster, gather_facts(job, cluster, Path()), "rayml bench tune", Path())
        assert plan.origin is not None, "the plan of a whole job says what it was made from"
        self.origin = plan.origin

    def train(self, point: Point) -> tuple[Curve, float]:
        """A configuration's curve, and the bytes of its weights."""
        import torch

        from rayml.plan.build import build_trial
        from rayml.stages.train.state import LoopConfig
        from rayml.stages.train.strategies.base import Seat
        from rayml.stages.train.trial import Trial
        from rayml.stages.train.validation import validate

        step = next(step for step in build_trial(self.origin, point) if step.name == "train")
        data = str(self.settings.folder / "data")
        config = LoopConfig(step.config, every_steps=0, keep=1, threads=1, data=data, checkpoints=data, code=None)
        trial = Trial(config, Seat(0, 1, torch.device("cpu")))
        model = trial.training.model
        steps = -(-len(trial.training.train_set) // config.train["batch_size"])
        curve = []
        for epoch in range(1, self.settings.epochs + 1):
            model.train()
            for _ in range(steps):
                trial.step()
            loss, accuracy = validate(trial.training)
            curve.append({"epoch": epoch, "val/loss": loss, "val/accuracy": accuracy})
        weights = sum(parameter.numel() for parameter in model.parameters())
        return curve, float(BYTES_PER_WEIGHT * weights)


def job_document(settings: TableSettings) -> dict[str, Any]:
    """The job whose trials the table has."""
    return {
        "name": "curves",
        "seed": 7,
        "data": {"source": {"kind": "sklearn", "name": "digits"}},
        "task": {"kind": "image_classification"},
        "model": {"kind": "mlp"},
        "train": {
            "workers": 1,
            "epochs": settings.epochs,
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "best": {"metric": "val/loss"},
        },
        "tune": {"space": settings.section},
    }


if __name__ == "__main__":
    main(sys.argv[1])
