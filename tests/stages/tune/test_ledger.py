"""The ledger: what a killed process wrote is what the next one starts from."""

from __future__ import annotations

import json

import pytest
from stages.tune.sweeps import make_desk

from rayml.errors import StageError
from rayml.stages.tune.ledger import Ledger


def proposed(ledger: Ledger, number: int) -> None:
    ledger.write(
        "proposed",
        trial=number,
        point={"train.optimizer.lr": 0.1},
        origin="draw",
        again=0,
        population=None,
        durable=True,
    )


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    ledger = Ledger(tmp_path)
    proposed(ledger, 0)
    ledger.write("started", trial=0, t=1.0)
    ledger.write("epoch", trial=0, t=2.0, record={"epoch": 1, "val/loss": 0.5})
    ledger.write("epoch", trial=0, t=3.0, record={"epoch": 2, "val/loss": 0.4})
    ledger.write("left", trial=0, node="ab", started=1.0, ended=4.0)
    ledger.write("ended", trial=0, t=4.0, status="done", values={"val/loss": 0.4}, reason="", error=None, keys={})
    proposed(ledger, 1)
    ledger.write("started", trial=1, t=5.0)
    ledger.write("spent", spent={"wall_s": 9.0, "cpu_hours": 0.1, "gpu_hours": 0.0, "money": 0.2})
    ledger.close()

    again = Ledger(tmp_path).sweep
    assert [trial.status for trial in again.trials] == ["done", "waiting"], "what ran is not running now"
    assert [record["val/loss"] for record in again.trials[0].epochs] == [0.5, 0.4]
    assert again.trials[0].seconds == 3.0
    assert again.spent.wall_s == 9.0
    assert again.order == [("proposed", 0), ("ended", 0), ("proposed", 1)]
    assert [trial.number for trial in again.unfinished()] == [1]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_that_a_crash_cut_short_is_left_out_and_written_over(tmp_path, cut):
    ledger = Ledger(tmp_path)
    proposed(ledger, 0)
    proposed(ledger, 1)
    ledger.close()
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-cut])
    again = Ledger(tmp_path)
    assert len(again.sweep.trials) == 1
    proposed(again, 1)
    again.close()
    assert ledger.path.read_bytes() == whole
    assert [json.loads(line)["trial"] for line in ledger.path.read_bytes().splitlines()] == [0, 1]


def test_an_epoch_that_a_crash_let_happen_twice_counts_once(tmp_path):
    ledger = Ledger(tmp_path)
    proposed(ledger, 0)
    for epoch in (1, 2, 3, 2):
        ledger.write("epoch", trial=0, t=epoch, record={"epoch": epoch, "val/loss": 0.5})
    assert [record["epoch"] for record in ledger.sweep.trials[0].epochs] == [1, 2]


def test_a_desk_goes_on_with_what_was_not_finished_and_proposes_no_number_twice(tmp_path):
    folder, budget = tmp_path / "sweep", {"budget": {"trials": 4}}
    first = make_desk(folder, budget)
    points = [first.next_trial(9).point for _ in range(3)]
    first.ended(1, "done", values={"val/accuracy": 0.9})
    first.ledger.close()

    told: list = []
    second = make_desk(folder, budget, told=told)
    assert [second.next_trial(9).number for _ in range(3)] == [0, 2, 3]
    assert [trial.point for trial in second.ledger.sweep.trials[:3]] == points
    assert second.next_trial(9) is None
    assert second.is_finished()
    assert make_desk(tmp_path / "other", budget).next_trial(9).point == points[0], "a draw is a function of its number"


def test_trials_at_a_time_are_counted_without_those_that_wait_for_others(tmp_path):
    desk = make_desk(tmp_path, {"budget": {"trials": 9}})
    assert [desk.next_trial(2).number for _ in range(2)] == [0, 1]
    assert desk.next_trial(2) is None
    desk.started(0)
    desk.paused(0)
    assert desk.next_trial(2).number == 2
    desk.ended(1, "failed", error="x")
    assert desk.next_trial(2).number == 3


def test_what_is_kept_is_the_epoch_whose_checkpoint_is_kept(tmp_path):
    desk = make_desk(tmp_path, {"budget": {"trials": 1}})
    desk.next_trial(1)
    desk.started(0)
    for epoch, accuracy in enumerate((0.5, 0.9, 0.7), start=1):
        desk.epoch(0, {"epoch": epoch, "val/accuracy": accuracy, "val/loss": epoch / 10}, "node")
    desk.ended(0, "stopped", reason="asha: after 3 epochs")
    assert desk.trial(0).values == {"val/accuracy": 0.9, "val/loss": 0.2}
    assert desk.trial(0).spans[0]["node"] == "node"


def ended(ledger: Ledger, number: int, status: str) -> None:
    ledger.write("ended", trial=number, t=1.0, status=status, values={}, reason="", error="x", keys={})


@pytest.mark.parametrize(
    ("statuses", "again"),
    [
        (("failed", "failed"), ["waiting", "waiting"]),
        (("failed", "done"), ["failed", "done"]),
        (("unfinished", "done"), ["waiting", "done"]),
        (("stopped", "failed"), ["stopped", "failed"]),
    ],
)
def test_what_was_cut_short_goes_on_and_so_do_all_where_all_failed(tmp_path, statuses, again):
    ledger = Ledger(tmp_path)
    for number, status in enumerate(statuses):
        proposed(ledger, number)
        ended(ledger, number, status)
    ledger.close()
    second = Ledger(tmp_path)
    assert [trial.status for trial in second.sweep.trials] == again
    assert [number for kind, number in second.sweep.order if kind == "ended"] == [
        number for number, status in enumerate(again) if status != "waiting"
    ]
    ended(second, 0, "done")
    second.close()
    assert Ledger(tmp_path).sweep.order.count(("ended", 0)) == 1


@pytest.mark.parametrize(
    "line", ["garbage", "", '{"kind": "ended", "trial": 7}', '{"kind": "proposed", "trial": 5}', "[]"]
)
def test_a_line_that_is_none_is_named(tmp_path, line):
    ledger = Ledger(tmp_path)
    proposed(ledger, 0)
    ledger.close()
    with ledger.path.open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(StageError) as caught:
        Ledger(tmp_path)
    assert caught.value.where == f"{ledger.path}:2"


def test_what_a_newer_version_added_is_passed_over(tmp_path):
    ledger = Ledger(tmp_path)
    proposed(ledger, 0)
    ledger.write("spent", spent={"wall_s": 2.0, "watts": 3.0})
    ledger.write("applause", trial=0, loudness=3)
    ledger.close()
    assert Ledger(tmp_path).sweep.spent.wall_s == 2.0
