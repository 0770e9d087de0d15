"""Which trial gets a process that is free."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from stages.tune.sweeps import EPOCHS, LR, make_desk

from rayml.spec.space import build_space
from rayml.spec.tune import TuneSpec
from rayml.stages.tune.judge import Judge
from rayml.stages.tune.schedulers import build_scheduler

OBJECTIVE = {"metric": "val/accuracy", "goal": "max"}


def controller(*statuses: str) -> SimpleNamespace:
    """Ray Tune's, with trials 0, 1, ... of these statuses."""
    trials = [Trial("stub", trial_id=f"{number:05d}", stub=True) for number in range(len(statuses))]
    for trial, status in zip(trials, statuses, strict=True):
        trial.set_status(status)
    return SimpleNamespace(get_live_trials=lambda: set(trials), get_trials=lambda: trials)


def judge(tmp_path, scheduler: dict) -> Judge:
    space = build_space(TuneSpec.model_validate({"space": LR}), {})
    desk = make_desk(tmp_path / "sweep", {"budget": {"trials": 4}, "scheduler": scheduler})
    return Judge(build_scheduler(scheduler, OBJECTIVE, EPOCHS, space), desk, scheduler["kind"])


ASHA = {"kind": "asha", "grace": 1, "reduction": 3, "brackets": 1}
MEDIAN = {"kind": "median", "grace": 1, "min_trials": 3}


@pytest.mark.parametrize("scheduler", [{"kind": "fifo"}, ASHA, MEDIAN], ids=lambda each: each["kind"])
@pytest.mark.parametrize(
    ("statuses", "chosen"),
    [
        (("PENDING", "RUNNING", "PENDING"), "00002"),
        (("PAUSED", "PENDING", "RUNNING"), "00001"),
        (("PAUSED", "RUNNING"), "00000"),
        (("RUNNING",), None),
    ],
)
def test_the_newest_goes_first_and_one_that_was_paused_is_not_forgotten(tmp_path, scheduler, statuses, chosen):
    found = judge(tmp_path, scheduler).choose_trial_to_run(controller(*statuses))
    assert (found and found.trial_id) == chosen


def test_median_stopping_pauses_nobody(tmp_path):
    """Ray Tune's would, after each epoch with too few trials to judge by, and behind all that are still to come."""
    found = judge(tmp_path, MEDIAN)
    ray_tune = controller("RUNNING", "PENDING")
    first = ray_tune.get_trials()[0]
    found.inner.on_trial_add(ray_tune, first)
    for epoch in range(1, EPOCHS):
        result = {"epoch": epoch, "val/accuracy": 0.5}
        assert found.inner.on_trial_result(ray_tune, first, result) == "CONTINUE"
