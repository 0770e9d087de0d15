"""Sweeps without a job: curves that are formulas, so that a test takes seconds and its result is known."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayml.plan.tuning import resolve_budget, resolve_objectives, resolve_scheduler, resolve_search
from rayml.spec.space import build_space
from rayml.spec.tune import TuneSpec
from rayml.stages.tune.desk import Desk
from rayml.stages.tune.engine import Settings, run_sweep
from rayml.stages.tune.ledger import Ledger, Sweep, Trial
from rayml.stages.tune.meter import Meter
from rayml.stages.tune.proposals import Proposals, search_of
from rayml.stages.tune.schedulers import build_scheduler

LR = {"train.optimizer.lr": {"uniform": [0.01, 1.0]}}
BEST_LR = 0.3
EPOCHS = 9
PRICES = {"head": None, "node": None}


def height(point: dict[str, Any]) -> float:
    """The accuracy that a configuration ends near: best at BEST_LR."""
    return 1.0 - abs(point["train.optimizer.lr"] - BEST_LR)


@dataclass(frozen=True)
class Curve:
    """A learning curve that rises to the height of its configuration."""

    epoch_s: float = 0.0
    marks: str | None = None
    """Folder where each epoch that is trained leaves a line, in a file for each trial."""

    def __call__(self, number: int, point: dict[str, Any], take: int, report: Any) -> dict[str, Any]:
        accuracy = 0.0
        for epoch in range(1, EPOCHS + 1):
            time.sleep(self.epoch_s)
            if self.marks is not None:
                with (Path(self.marks) / f"{number}").open("a") as stream:
                    stream.write(f"{epoch} {os.getpid()}\n")
            accuracy = height(point) * (1 - 0.5**epoch)
            report({"epoch": epoch, "val/accuracy": accuracy, "val/loss": 1 - accuracy})
        return {"values": {"val/accuracy": accuracy, "val/loss": 1 - accuracy}}


@dataclass(frozen=True)
class Sleep:
    """A trial of a known length."""

    seconds: float

    def __call__(self, number: int, point: Any, take: int, report: Any) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"values": {"val/accuracy": 0.5}}


@dataclass(frozen=True)
class Failing:
    """Trials that fail, all of them or the odd ones."""

    all_of_them: bool = True

    def __call__(self, number: int, point: Any, take: int, report: Any) -> dict[str, Any]:
        if self.all_of_them or number % 2:
            raise ValueError(f"no luck with größe {number % 2}")
        return {"values": {"val/accuracy": 0.5}}


@dataclass(frozen=True)
class DiesOnce:
    """Its process is gone in the middle of the first attempt."""

    marks: str

    def __call__(self, number: int, point: Any, take: int, report: Any) -> dict[str, Any]:
        mark = Path(self.marks) / f"died-{number}"
        report({"epoch": 1, "val/accuracy": 0.1, "val/loss": 0.9})
        if number == 1 and not mark.exists():
            mark.touch()
            os._exit(1)
        return {"values": {"val/accuracy": 0.5}}


class Weightless:
    """Curves have no weights: what is taken over is how far the other one is."""

    def name(self, number: int, take: int) -> dict[str, Any]:
        return {"trial": number, "take": take}

    def __call__(self, source: Trial, target: Trial, point: dict[str, Any]) -> int:
        return int(source.epochs[-1]["epoch"]) if source.epochs else 0


def make_desk(folder: Path, written: dict[str, Any], told: list[dict[str, Any]] | None = None, **more: Any) -> Desk:
    """The books of a sweep with a `tune` section's values."""
    spec = TuneSpec.model_validate({"space": LR, "search": {"kind": "random"}, **written})
    space = build_space(spec, {})
    settings = {
        "objectives": resolve_objectives(spec),
        "budget": resolve_budget(spec, space),
        "max_failures": spec.max_failures,
        "epochs": EPOCHS,
        "metrics": ["val/accuracy", "val/loss"],
    }
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder)
    search = search_of(resolve_search(spec, space), space, 7, [each["goal"] for each in settings["objectives"]])
    proposals = Proposals(space, list(spec.known), search, more.get("refuses", lambda point: None))
    meter = Meter(settings["budget"], more.get("prices", PRICES), ledger.sweep.spent, time.monotonic())
    population = spec.scheduler.kind in ("pbt", "pb2")
    return Desk(
        ledger,
        proposals,
        meter,
        settings,
        lambda point: (1.0, 0.0),
        lambda point: {"epochs": EPOCHS, "best": {"metric": "val/accuracy", "goal": "max"}},
        lambda kind, **fields: told.append({"kind": kind, **fields}) if told is not None else None,
        Weightless() if population else None,
    )


def run(folder: Path, written: dict[str, Any], evaluate: Any, concurrency: int = 2, **more: Any) -> tuple[str, Sweep]:
    """Run a sweep on the Ray that is there; why it ended, and where it stands."""
    desk = make_desk(folder, written, **more)
    spec = TuneSpec.model_validate({"space": LR, **written})
    (folder / "ray").mkdir(exist_ok=True)
    settings = Settings(
        scheduler=build_scheduler(
            resolve_scheduler(spec, EPOCHS), desk.settings["objectives"][0], EPOCHS, build_space(spec, {})
        ),
        kind=spec.scheduler.kind,
        concurrency=concurrency,
        retries=more.get("retries", 1),
        storage=folder / "ray",
        bundle=lambda trial: {"CPU": 1.0},
    )
    return run_sweep(desk, settings, evaluate), desk.ledger.sweep
