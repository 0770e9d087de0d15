"""What a sweep decides: best, knee, limits, ties and their intervals, and what is trained after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from rayml.errors import GateError, StageError
from rayml.plan.build import build_plan, rebuild_plan
from rayml.plan.code import STAGE_CODE
from rayml.plan.facts import GIB, Facts
from rayml.plan.front import dominates, front, knee, wilson
from rayml.plan.plan import Decision
from rayml.plan.settle import decide
from rayml.spec.cluster import LocalCluster
from rayml.spec.load import load_job

JOBS = Path(__file__).parents[2] / "jobs"
CODE = {stage: f"{stage:_<16.16}" * 2 for stage in STAGE_CODE}

POLICY = {"choose": "best", "limits": {}, "final": "checkpoint"}


def trial(number: int, status: str = "done", epochs=(), constant_lr: bool = True, **values: float) -> dict:
    named = {"accuracy": "val/accuracy", "loss": "val/loss", "size": "size_bytes"}
    return {
        "number": number,
        "point": {"model.width": 8 * (number + 1)},
        "status": status,
        "values": {named[name]: value for name, value in values.items()},
        "epochs": [{"epoch": place + 1, "val/loss": loss} for place, loss in enumerate(epochs)],
        "population": None,
        "best": {"metric": "val/loss", "goal": "min"},
        "constant_lr": constant_lr,
    }


def sweep(*trials: dict, objectives=(("val/accuracy", "max"),)) -> dict:
    return {
        "objectives": [{"metric": metric, "goal": goal} for metric, goal in objectives],
        "trials": list(trials),
        "val_rows": 180,
    }


BOTH = (("val/accuracy", "max"), ("size_bytes", "min"))


def test_the_best_is_the_best_and_the_first_of_equals():
    found = decide(sweep(trial(0, accuracy=0.90), trial(1, accuracy=0.97), trial(2, accuracy=0.97)), POLICY)
    assert found.trial == 1
    assert found.values == {"model.width": 16}
    assert found.tied == (2,)
    assert "tied with 1 other" in found.why
    assert found.interval == pytest.approx((0.9333, 0.9867), abs=2e-3)
    lowest = sweep(trial(0, loss=0.3), trial(1, loss=0.1), objectives=(("val/loss", "min"),))
    assert decide(lowest, POLICY).trial == 1
    assert decide(lowest, POLICY).interval is None
    assert decide(lowest, POLICY).tied == ()


def test_what_lies_within_the_interval_is_a_tie_and_what_lies_outside_is_not():
    found = decide(sweep(trial(0, accuracy=0.95), trial(1, accuracy=0.97), trial(2, accuracy=0.80)), POLICY)
    assert (found.trial, found.tied) == (1, (0,))


def test_a_trial_that_was_cut_short_counts_only_where_none_came_to_its_end():
    stopped, done = trial(0, "stopped", accuracy=0.99), trial(1, accuracy=0.9)
    assert decide(sweep(stopped, done), POLICY).trial == 1
    assert decide(sweep(stopped, trial(1, "failed")), POLICY).trial == 0
    with pytest.raises(StageError, match="no trial came as far as to have `val/accuracy`"):
        decide(sweep(trial(0, "failed")), POLICY)


def test_the_knee_is_nearest_to_the_ideal():
    trials = [trial(0, accuracy=0.80, size=10), trial(1, accuracy=0.95, size=20), trial(2, accuracy=0.96, size=100)]
    trials.append(trial(3, accuracy=0.79, size=50))
    found = decide(sweep(*trials, objectives=BOTH), {**POLICY, "choose": "knee"})
    assert found.trial == 1
    assert found.why.startswith("the knee of a front of 3")
    assert found.objectives == {"val/accuracy": 0.95, "size_bytes": 20}


def test_limits_decide_and_name_the_nearest_where_none_keeps_to_them():
    trials = [trial(0, accuracy=0.99, size=200), trial(1, accuracy=0.95, size=90), trial(2, accuracy=0.90, size=50)]
    policy = {**POLICY, "limits": {"size_bytes": "<= 100"}}
    found = decide(sweep(*trials, objectives=BOTH), policy)
    assert found.trial == 1
    assert "of those with size_bytes <= 100" in found.why
    with pytest.raises(GateError) as caught:
        decide(sweep(*trials, objectives=BOTH), {**POLICY, "limits": {"size_bytes": "<= 40"}})
    assert "nearest is trial 2: size_bytes is 50, the limit is <= 40" in str(caught.value)
    assert caught.value.exit_code == 3


def test_retraining_ends_at_the_epoch_that_was_best_where_the_rate_is_constant():
    policy = {**POLICY, "final": "retrain"}
    losses = [0.5, 0.2, 0.3]
    always = {"model.width": 8, "train.rows": "train_and_val", "train.early_stopping": None}
    constant = trial(0, accuracy=0.9, epochs=losses)
    assert decide(sweep(constant), policy).values == {**always, "train.epochs": 2}
    falling = trial(0, accuracy=0.9, epochs=losses, constant_lr=False)
    assert decide(sweep(falling), policy).values == always


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30)


@given(ROWS)
def test_a_front_is_what_nothing_dominates(rows):
    places = front(rows)
    kept = [rows[place] for place in places]
    assert len(set(kept)) == len(kept)
    assert not any(dominates(one, other) for one in rows for other in kept)
    assert all(row in kept or any(dominates(other, row) for other in kept) for row in rows)
    assert 0 <= knee(kept) < len(kept)


def test_the_front_is_that_of_a_library():
    import moocore
    import numpy as np

    rows = np.random.default_rng(0).integers(0, 20, size=(200, 3)).astype(float)
    mine = {tuple(rows[place]) for place in front([tuple(row) for row in rows])}
    assert mine == {tuple(row) for row in rows[moocore.is_nondominated(rows, maximise=True)]}


@pytest.mark.parametrize(("correct", "rows"), [(174, 180), (0, 20), (20, 20), (1, 3)])
def test_wilsons_interval_is_that_of_scipy(correct, rows):
    from scipy.stats import binomtest

    share = accuracy_score([1] * rows, [1] * correct + [0] * (rows - correct))
    expected = binomtest(correct, rows).proportion_ci(method="wilson")
    assert wilson(share, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_plan_after_a_decision_finds_the_users_code_where_the_run_has_it():
    facts = Facts(cpus=2, gpus=0, memory=8 * GIB, source="f" * 32, code=CODE, own=CODE)
    job = JOBS / "digits-sweep.yaml"
    plan = build_plan(load_job(job, ()), LocalCluster(), facts, "jobs/digits-sweep.yaml", JOBS)
    moved = plan.model_copy(update={"code": "/elsewhere/runs/digits-1/code"})
    decision = Decision(trial=0, values={"model.width": 16}, objectives={}, why="best")
    assert rebuild_plan(moved, decision).code == "/elsewhere/runs/digits-1/code"
