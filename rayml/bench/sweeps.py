"""rayml's sweep engine as the tune stage drives it, without a job: desk, ledger on the disk, proposals, Ray Tune.

Trials sleep or look up a curve; everything around them is what a job's trials have around them.
"""

from __future__ import annotations

import heapq
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rayml.bench.curves import Table
from rayml.plan.plan import ClusterPlan, Plan
from rayml.plan.tuning import resolve_budget, resolve_objectives, resolve_scheduler, resolve_search
from rayml.run.session import Session
from rayml.spec.space import Point, Space, build_space
from rayml.spec.tune import TuneSpec
from rayml.stages.tune.desk import Desk
from rayml.stages.tune.ledger import Ledger, Sweep
from rayml.stages.tune.meter import Meter
from rayml.stages.tune.proposals import Proposals, search_of
from rayml.stages.tune.worker import Evaluate, Report

Enough = Callable[[Sweep], bool]
UNUSED = {"train.optimizer.lr": {"uniform": [0.01, 1.0]}}
"""The space of trials whose values do not matter."""


@dataclass(frozen=True)
class Sleep:
    """Trials of known lengths; one of 0 s does nothing."""

    lengths_s: tuple[float, ...]

    def __call__(self, number: int, point: Point, take: int, report: Report) -> dict[str, Any]:
        time.sleep(self.lengths_s[number])
        return {"values": {"val/loss": 0.5}}


@dataclass(frozen=True)
class Lookup:
    """Trials whose learning curves are known."""

    table: Table
    tells_epochs: bool
    """A scheduler wants to hear them; a search looks at what came out."""

    def __call__(self, number: int, point: Point, take: int, report: Report) -> dict[str, Any]:
        for record in self.table.curve(point) if self.tells_epochs else ():
            report(record)
        return {"values": self.table.values(point)}


@contextmanager
def ray_here(folder: Path, cluster: ClusterPlan) -> Iterator[None]:
    """Ray as a run starts it, for as long as the `with` block runs."""
    folder.mkdir(parents=True)
    session = Session(
        Plan(rayml="", job="bench", seed=0, job_file="", base="", code=None, cluster=cluster, steps=()), folder
    )
    try:
        session.start(lambda **fields: None)
        yield
    finally:
        session.stop()


def draws(space: Space, seed: int, trials: int) -> list[Point]:
    """The configurations of a random search: what its sweep proposes, trial after trial."""
    proposals = Proposals(space, [], search_of({"kind": "random"}, space, seed, ["min"]), lambda point: None)
    found = []
    for number in range(trials):
        proposal = proposals.next(number)
        assert proposal is not None, "the space has more configurations than are drawn"
        proposals.accept(number, proposal)
        found.append(proposal.point)
    return found


@dataclass(frozen=True)
class SweepSettings:
    """A sweep of the bench."""

    section: dict[str, Any]
    """The job's `tune` section."""
    seed: int = 7
    epochs: int = 1
    concurrency: int = 2


class BenchDesk(Desk):
    """A desk that ends the sweep where it has shown what it was run for."""

    enough: Enough | None = None

    def over(self) -> str | None:
        enough = self.enough is not None and self.enough(self.ledger.sweep)
        return "it was enough" if enough else super().over()


def run_sweep_here(folder: Path, settings: SweepSettings, evaluate: Evaluate, enough: Enough | None = None) -> Sweep:
    """Run a sweep on the Ray that this process is connected to; what its ledger says at the end.

    Args:
        folder: a new one, for the ledger and for what Ray Tune writes.
        enough: ends the sweep early, without an error.
    """
    from rayml.stages.tune.engine import Settings, run_sweep
    from rayml.stages.tune.schedulers import build_scheduler

    spec = TuneSpec.model_validate(settings.section)
    space = build_space(spec, {})
    desk = make_desk(folder, spec, settings)
    desk.enough = enough
    storage = folder / "ray"
    storage.mkdir()
    engine = Settings(
        scheduler=build_scheduler(
            resolve_scheduler(spec, settings.epochs), desk.settings["objectives"][0], settings.epochs, space
        ),
        kind=spec.scheduler.kind,
        concurrency=settings.concurrency,
        retries=1,
        storage=storage,
        bundle=lambda trial: {"CPU": 1.0},
    )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it looks for files that nobody asked it to write
    with patch.dict(os.environ):  # what the engine tells Ray Tune is not for the other side
        run_sweep(desk, engine, evaluate)
    desk.ledger.close()
    return desk.ledger.sweep


def make_desk(folder: Path, spec: TuneSpec, settings: SweepSettings) -> BenchDesk:
    """The books of a new sweep."""
    space = build_space(spec, {})
    objectives, budget = resolve_objectives(spec), resolve_budget(spec, space)
    resolved = {
        "objectives": objectives,
        "budget": budget,
        "max_failures": spec.max_failures,
        "epochs": settings.epochs,
        "metrics": [each["metric"] for each in objectives],
    }
    folder.mkdir(parents=True)
    ledger = Ledger(folder)
    search = search_of(resolve_search(spec, space), space, settings.seed, [each["goal"] for each in objectives])
    meter = Meter(budget, {"head": None, "node": None}, ledger.sweep.spent, time.monotonic())
    proposals = Proposals(space, list(spec.known), search, lambda point: None)
    recipe = {"epochs": settings.epochs, "best": objectives[0]}
    return BenchDesk(ledger, proposals, meter, resolved, lambda point: (1.0, 0.0), lambda point: recipe, forget)


def forget(kind: str, **fields: Any) -> None:
    """Takes the events, which nobody reads here."""


def run_sleepers(folder: Path, lengths_s: Sequence[float], concurrency: int) -> tuple[list[float], Sweep]:
    """A sweep of trials of these lengths, in this order; the lengths of those that were done."""
    section = {"space": UNUSED, "search": {"kind": "random"}, "budget": {"trials": len(lengths_s)}}
    settings = SweepSettings(section, concurrency=concurrency)
    sweep = run_sweep_here(folder, settings, Sleep(tuple(lengths_s)))
    return sorted(lengths_s[trial.number] for trial in sweep.trials if trial.status == "done"), sweep


def list_schedule(lengths_s: Sequence[float], slots: int) -> float:
    """Seconds until all are done where each begins, in their order, as soon as a slot is free."""
    free_at = [0.0] * slots
    for length_s in lengths_s:
        heapq.heappush(free_at, heapq.heappop(free_at) + length_s)
    return max(free_at)


def same_lengths(ours: list[float], alternative: list[float]) -> str | None:
    """The same trials were done."""
    if ours == alternative:
        return None
    return f"{len(ours)} trials of {sum(ours):g} s were done, and {len(alternative)} of {sum(alternative):g} s"
