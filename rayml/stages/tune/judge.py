"""Ray Tune's scheduler with the desk beside it, which hears every result first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import TrialScheduler

from rayml.stages.tune.desk import Desk
from rayml.stages.tune.ledger import Trial

REPLAYED = ("fifo", "median", "asha")
"""Schedulers whose judgement is a function of reported values alone: they can be told what happened before."""


class NotKept:
    """Has no part in the pickles that Ray Tune writes of itself: the ledger is what a sweep goes on from."""

    def __reduce__(self) -> tuple[Any, ...]:
        return NotKept, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> NotKept:
        return self


class Judge(NotKept, TrialScheduler):
    """Ray Tune's scheduler, with the desk beside it: it hears every result first."""

    def __init__(self, inner: TrialScheduler, desk: Desk, kind: str) -> None:
        """
        Args:
            kind: the scheduler's, for the reasons in the ledger.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.inner, self.desk, self.kind = inner, desk, kind
        self.told_past = kind not in REPLAYED

    @property
    def metric(self) -> Any:
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: RayTrial) -> None:
        self.tell_past(tune_controller)
        self.inner.on_trial_add(tune_controller, trial)
        if self.kind in REPLAYED:
            self.replay(tune_controller, trial, self.desk.trial(int(trial.trial_id)))

    def tell_past(self, tune_controller: Any) -> None:
        """Let the scheduler hear what it said of trials that are over."""
        if self.told_past:
            return
        self.told_past = True
        for number in {number for kind, number in self.desk.ledger.sweep.order if kind == "ended"}:
            stub = RayTrial("stub", trial_id=f"{number:05d}", stub=True)
            self.inner.on_trial_add(tune_controller, stub)
            self.replay(tune_controller, stub, self.desk.trial(number))

    def replay(self, tune_controller: Any, trial: RayTrial, past: Trial) -> None:
        """What a trial reported before this controller."""
        for record in past.epochs:
            if record["epoch"] < self.last_epoch(past):
                self.inner.on_trial_result(tune_controller, trial, dict(record))

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        number = int(trial.trial_id)
        if "outcome" in result:
            self.desk.place(number, result["node"])
            outcome = json.loads(result["outcome"])
            status = "failed" if outcome.get("error") else "done"
            self.desk.ended(number, status, **outcome)
            return TrialScheduler.CONTINUE
        record, past = json.loads(result["record"]), self.desk.trial(number)
        if past.epochs and record["epoch"] <= past.epochs[-1]["epoch"]:
            # Said by an earlier process already, and by this one again since it goes on from there.
            return TrialScheduler.CONTINUE
        self.desk.epoch(number, record, result["node"])
        if record["epoch"] >= self.last_epoch(past):
            # It has trained to its end: whatever the scheduler thinks of it, what is left is to keep the result.
            return TrialScheduler.CONTINUE
        decision: str = self.inner.on_trial_result(tune_controller, trial, {**result, **record})
        self.note(number, trial, decision)
        return decision

    def last_epoch(self, trial: Trial) -> int:
        """The epoch at which a trial ends, which may be searched too."""
        return int(self.desk.recipe(trial.point)["epochs"])

    def note(self, number: int, trial: RayTrial, decision: str) -> None:
        """Keep books of what the scheduler decided."""
        if decision == TrialScheduler.STOP:
            epoch = self.desk.trial(number).epochs[-1]["epoch"]
            self.desk.ended(number, "stopped", reason=f"{self.kind}: after {epoch:g} epochs")
        elif decision in (TrialScheduler.PAUSE, TrialScheduler.NOOP):
            self.desk.paused(number)
        source = trial.config["trial"]
        if source != number:
            kept = ("trial", "take", "bundle")
            point = {path: value for path, value in trial.config.items() if path not in kept}
            self.desk.took_over(number, source, point)
            take = len(self.desk.trial(number).took_over)
            trial.set_config({**trial.config, "trial": number, "take": take})  # type: ignore[no-untyped-call]

    def on_trial_complete(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> None:
        past = self.desk.trial(int(trial.trial_id))
        if past.epochs:
            self.inner.on_trial_complete(tune_controller, trial, {**result, **past.epochs[-1]})
        else:
            self.inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: RayTrial) -> None:
        number = int(trial.trial_id)
        self.desk.left(number)
        if not trial.should_recover():  # type: ignore[no-untyped-call]
            self.desk.ended(number, "failed", error=f"its process or its node died: {last_words(trial)}")
        self.inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: RayTrial) -> None:
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTrial | None:
        """The newest of the waiting trials, where none waits for others; else what the scheduler chooses.

        Whatever is chosen takes the process of a trial that has just ended. The older ones have asked for processes of
        their own, on nodes that are coming. Ray Tune's own choice, the oldest, takes that back at the end of each
        trial: a node stands idle as long as trials are shorter than the start of a process.
        """
        live: set[RayTrial] = tune_controller.get_live_trials()
        waiting = [trial for trial in live if trial.status == RayTrial.PENDING]
        if waiting and self.kind in REPLAYED:
            return max(waiting, key=lambda trial: str(trial.trial_id))
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return str(self.inner.debug_string())


def last_words(trial: RayTrial) -> str:
    """What Ray says of a trial whose process is gone, on one line."""
    file = trial.error_file
    lines = Path(file).read_text(errors="replace").strip().splitlines() if file else []
    return lines[-1].strip() if lines else "it said nothing"
