"""The books of a sweep while it runs: every trial that starts, reports, leaves and ends passes here.

It writes the ledger, tells the search, holds the meter, and emits the events. Ray Tune's controller calls it through
engine.py; nothing of Ray is imported here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from rayml.spec.space import Point
from rayml.stages.api import Emit
from rayml.stages.tune.ledger import Ledger, Trial
from rayml.stages.tune.meter import Meter, Nodes, in_words
from rayml.stages.tune.proposals import Proposal, Proposals

TOLD_EVERY_S = 1.0


class TakeOver(Protocol):
    """How a trial goes on from the weights of another."""

    def name(self, number: int, take: int) -> dict[str, Any]:
        """What names a trial's weights after it took over others so often."""

    def __call__(self, source: Trial, target: Trial, point: Point) -> int:
        """Put the weights of `source` where `target` goes on with the values of `point`; the epoch they are at."""


class Desk:
    """Books of one sweep.

    Args:
        settings: objectives, budget, max_failures, epochs (of the job itself), metrics (objectives and limits).
        recipe: `epochs`, `best` (by which an epoch's checkpoint is kept) of a trial with these values.
        holds: the CPUs and GPUs that a trial with these values holds.
        take_over: puts the weights of one trial in the place of another's, which goes on with new values; the name of
            the weights and the epoch that they are at. None where no trial does.
    """

    def __init__(
        self,
        ledger: Ledger,
        proposals: Proposals,
        meter: Meter,
        settings: dict[str, Any],
        holds: Callable[[Point], tuple[float, float]],
        recipe: Callable[[Point], dict[str, Any]],
        emit: Emit,
        take_over: TakeOver | None = None,
    ) -> None:
        self.ledger, self.proposals, self.meter, self.settings = ledger, proposals, meter, settings
        self.holds, self.recipe, self.emit, self.take_over = holds, recipe, emit, take_over
        self.waiting = [trial.number for trial in ledger.sweep.unfinished()]
        """Trials of an earlier process that have to go on first."""
        self.live: set[int] = set()
        """Trials that hold resources or wait for them. Paused ones do neither."""
        self.where: dict[int, tuple[str, float]] = {}
        """Running trial to its node and when it came there."""
        self.exhausted = False
        """Whether there is no configuration left to try."""
        self.told = 0.0
        self.teach_search()

    def teach_search(self) -> None:
        """Let the search see what happened before this process, in the order in which it happened."""
        trials = self.ledger.sweep.trials
        for kind, number in self.ledger.sweep.order:
            if kind == "proposed":
                trial = trials[number]
                self.proposals.accept(number, Proposal(trial.point, trial.origin, trial.again))
            else:
                self.learn(trials[number])

    def learn(self, trial: Trial) -> None:
        objectives = self.settings["objectives"]
        complete = trial.status == "done" and all(each["metric"] in trial.values for each in objectives)
        values = [trial.values[each["metric"]] for each in objectives] if complete else None
        first = objectives[0]["metric"]
        curve = [(int(record["epoch"]), record[first]) for record in trial.epochs if first in record]
        self.proposals.search.learn(trial.number, values, curve, complete=complete)

    def trial(self, number: int) -> Trial:
        return self.ledger.sweep.trials[number]

    # What the engine asks.

    def next_trial(self, concurrency: int) -> Trial | None:
        """A trial to start now, or None."""
        if len(self.live) >= concurrency or self.over():
            return None
        if self.waiting:
            number = self.waiting.pop(0)
        else:
            number = len(self.ledger.sweep.trials)
            if self.all_proposed() or not self.propose(number):
                return None
        self.live.add(number)
        return self.trial(number)

    def propose(self, number: int) -> bool:
        """Write the next configuration down; False where there is none."""
        proposal = self.proposals.next(number)
        if proposal is None:
            self.exhausted = True
            return False
        self.ledger.write(
            "proposed",
            durable=True,
            trial=number,
            point=proposal.point,
            origin=proposal.origin,
            again=proposal.again,
            population=None if self.take_over is None else self.take_over.name(number, 0),
        )
        self.proposals.accept(number, proposal)
        return True

    def all_proposed(self) -> bool:
        """Whether no further trial will be proposed."""
        trials = self.settings["budget"]["trials"]
        return self.exhausted or (trials is not None and len(self.ledger.sweep.trials) >= trials)

    def is_finished(self) -> bool:
        """Whether every trial that there will be has been handed out."""
        return not self.waiting and self.all_proposed()

    def over(self) -> str | None:
        """Why the sweep ends now, with trials that run; None while it may go on."""
        failures = self.settings["max_failures"]
        if failures is not None and self.ledger.sweep.failures >= failures:
            return f"{failures} failed trials"
        return self.meter.exhausted()

    # What the engine tells.

    def started(self, number: int) -> None:
        """A trial got its resources."""
        trial, now = self.trial(number), time.time()
        self.live.add(number)
        self.ledger.write("started", trial=number, t=now)
        self.where[number] = ("", now)
        self.meter.holding[number] = self.holds(trial.point)
        self.emit(
            "trial_started", trial=number, point=trial.point, origin=trial.origin, attempt=trial.attempts, node=""
        )

    def epoch(self, number: int, record: dict[str, Any], node: str) -> None:
        """A trial finished an epoch."""
        self.place(number, node)
        self.ledger.write("epoch", trial=number, t=time.time(), record=record)
        values = {name: value for name, value in record.items() if name != "epoch"}
        self.emit(
            "trial_epoch",
            trial=number,
            epoch=record["epoch"],
            epochs=self.recipe(self.trial(number).point)["epochs"],
            values=values,
            node=node,
        )

    def place(self, number: int, node: str) -> None:
        """Where a trial runs is known from what it reports."""
        if number in self.where:
            self.where[number] = (node, self.where[number][1])

    def left(self, number: int) -> None:
        """A trial gave its resources back: it ended, was paused, or its node died."""
        self.meter.holding.pop(number, None)
        node, began = self.where.pop(number, ("", None))
        if began is not None:
            self.ledger.write("left", trial=number, node=node, started=began, ended=time.time())

    def paused(self, number: int) -> None:
        """A trial waits for others, and leaves its place to them."""
        self.left(number)
        self.live.discard(number)

    def took_over(self, number: int, source: int, point: Point) -> None:
        """A trial will go on from another's weights, with other numbers."""
        trial = self.trial(number)
        assert self.take_over is not None, "only a population takes over"
        epoch = self.take_over(self.trial(source), trial, point)
        marker = self.take_over.name(number, len(trial.took_over) + 1)
        self.ledger.write("took_over", trial=number, epoch=epoch, source=source, point=point, population=marker)
        self.emit("note", text=f"trial {number} goes on from trial {source} at epoch {epoch:g}")

    def ended(
        self,
        number: int,
        status: str,
        *,
        values: dict[str, float] | None = None,
        reason: str = "",
        error: str | None = None,
        keys: dict[str, str] | None = None,
    ) -> None:
        """A trial came to its end. What was stopped has the values of the checkpoint that it would keep."""
        trial = self.trial(number)
        if trial.is_over:
            return
        self.left(number)
        self.live.discard(number)
        if values is None and status != "failed":
            values = self.kept_values(trial)
        self.ledger.write(
            "ended",
            durable=True,
            trial=number,
            t=time.time(),
            status=status,
            values=values or {},
            reason=reason,
            error=error,
            keys=keys or {},
        )
        self.learn(trial)
        self.emit(
            "trial_done",
            trial=number,
            status=status,
            values=trial.values,
            epochs=len(trial.epochs),
            seconds=trial.seconds,
            reason=reason,
            error=error,
        )
        self.tell(force=True)

    def kept_values(self, trial: Trial) -> dict[str, float]:
        """The metrics of the epoch whose checkpoint would be kept, as far as training knows them."""
        best = self.recipe(trial.point)["best"]
        sign = 1.0 if best["goal"] == "max" else -1.0
        if not trial.epochs:
            return {}
        kept = max(trial.epochs, key=lambda record: (sign * record[best["metric"]], -record["epoch"]))
        return {name: kept[name] for name in self.settings["metrics"] if name in kept}

    def saw_nodes(self, nodes: Nodes) -> None:
        """The cluster as it is now."""
        if nodes != self.meter.nodes:
            self.meter.nodes = nodes
            self.ledger.write("nodes", t=time.time(), nodes=nodes.workers, cpus=nodes.cpus)

    def tick(self, now: float) -> None:
        """Called many times a second."""
        self.meter.tick(now)
        self.tell()

    def tell(self, *, force: bool = False) -> None:
        """Write down what was spent, and tell where the sweep stands, about once a second."""
        now = time.monotonic()
        if now - self.told < (0.2 if force else TOLD_EVERY_S):
            return
        self.told = now
        self.ledger.write("spent", spent=asdict(self.meter.spent))
        self.emit("sweep", **self.standing())

    def standing(self) -> dict[str, Any]:
        """Counts and what was spent, for those who watch."""
        statuses = [trial.status for trial in self.ledger.sweep.trials]
        return {
            "objectives": self.settings["objectives"],
            "running": len(self.where),
            "waiting": sum(status == "waiting" for status in statuses),
            **{name: statuses.count(name) for name in ("done", "stopped", "failed")},
            "budget": self.settings["budget"],
            "spent": {**asdict(self.meter.spent), "trials": len(statuses)},
            "nodes": self.meter.nodes.workers,
            "cpus": self.meter.nodes.cpus,
        }

    def close(self) -> str:
        """End what is still open; why the sweep ended, in words."""
        over = self.over()
        for trial in self.ledger.sweep.unfinished():
            self.ended(trial.number, "unfinished", reason=over or "the sweep ended")
        self.ledger.write("spent", spent=asdict(self.meter.spent))
        trials = len(self.ledger.sweep.trials)
        ended = over or ("every configuration was tried" if self.exhausted else in_words("trials", trials))
        self.emit("sweep", **self.standing(), ended=ended)
        return ended
