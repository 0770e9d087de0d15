"""The engine on a real Ray: every scheduler, budgets that are kept, trials that fail, processes that die."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stages.tune.sweeps import EPOCHS, Curve, DiesOnce, Failing, Sleep, height, make_desk, run

from rayml.stages.tune.engine import run_sweep

pytestmark = pytest.mark.ray

LATE_S = 0.6
"""2 % of a budget of 30 s. What runs when a budget ends is killed, which takes tenths of a second."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    import ray

    # Trials run in processes of their own, which import the curves.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        ray.init(address="local", num_cpus=2, object_store_memory=2**27, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_every_trial_trains_to_its_end_and_is_recorded(tmp_path):
    told: list = []
    ended, sweep = run(tmp_path, {"budget": {"trials": 6}}, Curve(), told=told)
    assert ended == "6 trials"
    assert [trial.status for trial in sweep.trials] == ["done"] * 6
    for trial in sweep.trials:
        assert [record["epoch"] for record in trial.epochs] == list(range(1, EPOCHS + 1))
        assert trial.values["val/accuracy"] == pytest.approx(height(trial.point) * (1 - 0.5**EPOCHS))
        assert trial.attempts == 1
        assert trial.spans[0]["node"]
        assert trial.spans[0]["started"] <= trial.spans[0]["ended"]
    kinds = [event["kind"] for event in told]
    assert kinds.count("trial_started") == kinds.count("trial_done") == 6
    assert kinds.count("trial_epoch") == 6 * EPOCHS
    assert told[-1]["kind"] == "sweep"
    assert told[-1]["ended"] == "6 trials"


@pytest.mark.parametrize(
    ("scheduler", "least"),
    [
        ({"kind": "median", "grace": 2, "min_trials": 2}, 1),
        ({"kind": "asha", "grace": 1, "reduction": 3}, 4),
        ({"kind": "hyperband", "reduction": 3}, 3),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_a_scheduler_stops_bad_trials_and_never_the_best(tmp_path, scheduler, least):
    at_once = 12 if scheduler["kind"] == "hyperband" else 2
    _, sweep = run(tmp_path, {"budget": {"trials": 12}, "scheduler": scheduler}, Curve(), at_once)
    stopped = [trial for trial in sweep.trials if trial.status == "stopped"]
    done = [trial for trial in sweep.trials if trial.status == "done"]
    assert len(stopped) >= least
    assert len(stopped) + len(done) == 12
    assert all(len(trial.epochs) < EPOCHS and trial.reason.startswith(scheduler["kind"]) for trial in stopped)
    assert all(len(trial.epochs) == EPOCHS for trial in done)
    assert max(height(trial.point) for trial in done) == max(height(trial.point) for trial in sweep.trials)


@pytest.mark.parametrize("kind", ["pbt", "pb2"])
def test_a_population_takes_over_the_weights_of_the_good_ones(tmp_path, kind):
    written = {"budget": {"trials": 4}, "scheduler": {"kind": kind, "interval": 2}}
    _, sweep = run(tmp_path, written, Curve(0.02), 4)
    assert {trial.status for trial in sweep.trials} == {"done"}
    changed = [trial for trial in sweep.trials if trial.took_over]
    assert changed, "nobody took over in nine epochs"
    for trial in changed:
        assert trial.point == trial.took_over[-1]["point"]
        assert trial.population["take"] == len(trial.took_over)
        assert 0.01 <= trial.point["train.optimizer.lr"] <= 1.0, "kept in its range"
        assert all(each["trial"] != trial.number for each in trial.took_over)
        assert [record["epoch"] for record in trial.epochs] == list(range(1, EPOCHS + 1))


def test_a_limit_of_time_ends_it_with_the_trials_that_run(tmp_path):
    budget = {"trials": 100, "wall": "6s"}
    ended, sweep = run(tmp_path, {"budget": budget}, Curve(0.25))
    assert ended == "6 s of time"
    assert sweep.spent.wall_s == pytest.approx(6.0, abs=LATE_S)
    unfinished = [trial for trial in sweep.trials if trial.status == "unfinished"]
    assert 1 <= len(unfinished) <= 2
    assert any(trial.values for trial in sweep.trials), "what was reached counts"


def test_a_limit_of_cpu_hours_counts_what_trials_held(tmp_path):
    ended, sweep = run(tmp_path, {"budget": {"cpu_hours": 0.002}}, Sleep(0.5))
    assert ended == "0.002 cpu hours"
    assert sweep.spent.cpu_hours == pytest.approx(0.002, abs=2 * LATE_S / 3600)
    held = sum(trial.seconds for trial in sweep.trials) / 3600
    assert held == pytest.approx(sweep.spent.cpu_hours, rel=0.1, abs=2 * LATE_S / 3600)


def test_money_is_what_the_nodes_cost(tmp_path):
    prices = {"head": 360.0, "node": None}
    ended, sweep = run(tmp_path, {"budget": {"money": 0.5}}, Sleep(0.3), prices=prices)
    assert ended == "0.5 of money"
    assert sweep.spent.money == pytest.approx(0.5, abs=0.1 * LATE_S)
    assert sweep.spent.wall_s == pytest.approx(5.0, abs=LATE_S)


def test_a_failing_trial_is_recorded_and_does_not_end_the_sweep(tmp_path):
    ended, sweep = run(tmp_path, {"budget": {"trials": 5}}, Failing(all_of_them=False))
    assert ended == "5 trials"
    assert [trial.status for trial in sweep.trials] == ["done", "failed", "done", "failed", "done"]
    assert sweep.trials[1].error.startswith("ValueError: no luck with größe 1")
    assert sweep.trials[1].attempts == 1, "a failure of the trial itself would come back"


def test_max_failures_ends_it(tmp_path):
    ended, sweep = run(tmp_path, {"budget": {"trials": 50}, "max_failures": 3}, Failing())
    assert ended == "3 failed trials"
    assert sum(trial.status == "failed" for trial in sweep.trials) == 3
    assert len(sweep.trials) <= 3 + 2


def test_a_trial_whose_process_dies_is_tried_again(tmp_path):
    (tmp_path / "sweep").mkdir()
    ended, sweep = run(tmp_path / "sweep", {"budget": {"trials": 3}}, DiesOnce(str(tmp_path)))
    assert ended == "3 trials"
    assert [trial.status for trial in sweep.trials] == ["done"] * 3
    assert [trial.attempts for trial in sweep.trials] == [1, 2, 1]


def test_a_trial_whose_process_keeps_dying_has_failed(tmp_path):
    ended, sweep = run(tmp_path, {"budget": {"trials": 2}}, KillsItself(), retries=1)
    assert ended == "2 trials"
    assert [trial.status for trial in sweep.trials] == ["failed"] * 2
    assert "died" in sweep.trials[0].error


class KillsItself:
    """Its process is gone in each attempt."""

    def __call__(self, number, point, take, report):
        os._exit(1)


def test_a_sweep_goes_on_where_a_process_left_it(tmp_path):
    """Half of it is in the ledger: those trials do not run, and the scheduler remembers what they had."""
    written = {"budget": {"trials": 8}, "scheduler": {"kind": "asha", "grace": 1, "reduction": 3}}
    marks = tmp_path / "marks"
    marks.mkdir()
    first = make_desk(tmp_path / "sweep", {**written, "budget": {"trials": 4}})
    for _ in range(4):
        trial = first.next_trial(9)
        first.started(trial.number)
        for epoch in range(1, EPOCHS + 1):
            accuracy = 0.99 * (1 - 0.5**epoch)
            record = {"epoch": epoch, "val/accuracy": accuracy, "val/loss": 1 - accuracy}
            first.epoch(trial.number, record, "n")
        first.ended(trial.number, "done", values={"val/accuracy": accuracy, "val/loss": 1 - accuracy})
    first.ledger.close()
    ended, sweep = run(tmp_path / "sweep", written, Curve(marks=str(marks)))
    assert ended == "8 trials"
    assert sorted(int(path.name) for path in marks.iterdir()) == [4, 5, 6, 7], "what is done does not run again"
    assert all(trial.status == "stopped" for trial in sweep.trials[4:] if height(trial.point) < 0.9)


def test_a_sweep_that_is_done_starts_nothing(tmp_path):
    written = {"budget": {"trials": 2}}
    run(tmp_path, written, Curve())
    desk = make_desk(tmp_path, written)
    assert run_sweep(desk, None, Curve()) == "2 trials"
