"""The bench of sweeps: what it counts, that its table is rayml's training, and both sides on a real Ray."""

from __future__ import annotations

import math
import os

import pytest

from rayml.bench import autoscaled, fronts, tune
from rayml.bench.curves import Table, TableSettings, Trainings, make_table, name_of
from rayml.bench.harness import Contest, Goal, Lap, compete
from rayml.bench.sweeps import (
    Lookup,
    SweepSettings,
    draws,
    list_schedule,
    make_desk,
    ray_here,
    run_sweep_here,
    same_lengths,
)
from rayml.bench.train import made_rows
from rayml.plan.plan import ClusterPlan
from rayml.spec.space import build_space
from rayml.spec.tune import TuneSpec
from rayml.stages.tune.ledger import Sweep

SPACE = {"train.optimizer.lr": [1e-3, 1e-2], "model.hidden": [[8], [16]]}


def made_up_table(epochs=3):
    """The larger the learning rate and the layer, the better, from the first epoch on."""
    curves, sizes = {}, {}
    for point in TableSettings(folder="", epochs=epochs, space=SPACE).points():
        width = point["model.hidden"][0]
        height = 1 / width + 1e-3 / point["train.optimizer.lr"]
        curves[name_of(point)] = [
            {"epoch": epoch, "val/loss": height / epoch, "val/accuracy": 0.5} for epoch in range(1, epochs + 1)
        ]
        sizes[name_of(point)] = 4.0 * width
    return Table(epochs, curves, sizes)


@pytest.mark.parametrize(
    ("lengths", "slots", "seconds"),
    [([], 2, 0.0), ([3.0], 2, 3.0), ([1, 1, 1, 1], 2, 2), ([1, 1, 4], 2, 5), ([4, 1, 1], 2, 4), ([1, 2, 3], 1, 6)],
)
def test_a_list_schedule_fills_the_slots_in_the_order_of_the_trials(lengths, slots, seconds):
    assert list_schedule(lengths, slots) == seconds


def test_the_best_static_size_is_the_cheapest_of_the_fast_ones():
    assert autoscaled.best_static([6.0], 3) == 1
    assert autoscaled.best_static([1.0] * 60, 3) == 3
    assert autoscaled.best_static([*[1.0] * 18, 60.0], 3) == 2, "69 s on two nodes, 66 s on three"
    assert autoscaled.best_static(autoscaled.LENGTHS_S, autoscaled.MOST) == 3


@pytest.mark.parametrize(
    ("changes", "end", "spent"),
    [([(0, 2)], 10, 20), ([(0, 0), (4, 3), (6, 1)], 10, 10), ([(-0.5, 0), (4, 3)], 5, 3), ([], 5, 0)],
)
def test_nodes_cost_for_as_long_as_they_are_there(changes, end, spent):
    assert autoscaled.node_seconds(changes, end) == spent


@pytest.mark.parametrize(("ratio", "ours", "met"), [(1.7, 109.0, True), (1.7, 111.0, False), (1.6, 90.0, False)])
def test_what_costs_less_must_not_take_longer(ratio, ours, met):
    contest = Contest(
        "cost", "node-s", "less", lambda: Lap(1.0), lambda: Lap(ratio), "3 nodes", goal=Goal(1 / 0.6, "ratio")
    )
    row = autoscaled.judged(compete(contest, 1, warm_up=0), ours, 100.0)
    assert row.met is met
    assert f"ours {ours:.0f} s" in row.alternative_is


def sweep_of(*trials):
    """Trials with `(t, loss)` for each epoch, that ended in this order."""
    sweep = Sweep()
    for number, epochs in enumerate(trials):
        proposed = {"point": {"x": number}, "origin": "draw", "again": 0, "population": None}
        sweep.apply({"kind": "proposed", "trial": number, **proposed})
        for epoch, (t, loss) in enumerate(epochs, 1):
            sweep.apply({"kind": "epoch", "trial": number, "t": t, "record": {"epoch": epoch, "val/loss": loss}})
    for number, epochs in enumerate(trials):
        values = {"val/loss": min(loss for _, loss in epochs)}
        told = {"status": "done", "reason": "", "values": values, "error": None, "keys": {}}
        sweep.apply({"kind": "ended", "trial": number, "t": 9.0, **told})
    return sweep


@pytest.mark.parametrize(
    ("target", "epochs", "trials"), [(0.9, 1, 1), (0.5, 3, 1), (0.45, 4, 2), (0.2, 5, 2), (0.1, None, None)]
)
def test_epochs_count_in_the_order_in_which_they_came_and_trials_in_that_of_their_ends(target, epochs, trials):
    sweep = sweep_of([(1.0, 0.9), (3.0, 0.5)], [(2.0, 0.8), (4.0, 0.4), (5.0, 0.2)])
    assert tune.epochs_of(sweep) == 5
    assert tune.epochs_until(sweep, target) == epochs
    assert tune.trials_until(sweep, target) == trials


def test_the_share_of_the_hypervolume():
    """Of a front of two corners the reference is (2.1, 2.1): all is 1.1 + 1.1 - 0.01 squares, a corner 0.11."""
    front = [(1.0, 2.0), (2.0, 1.0)]
    assert tune.share_of_hypervolume(front, [*front, (9.0, 9.0)]) == pytest.approx(1.0)
    whole = 1.1 * 0.1 * 2 - 0.1**2
    assert tune.share_of_hypervolume([front[0]], front) == pytest.approx(0.11 / whole)
    assert tune.share_of_hypervolume([(2.0, 2.0)], front) == pytest.approx(0.01 / whole)
    assert tune.share_of_hypervolume([(9.0, 1.0)], front) == 0.0


def test_work_is_the_same_where_lengths_and_configurations_are():
    assert same_lengths([1.0, 2.0], [1.0, 2.0]) is None
    assert "2 trials of 3 s were done, and 1 of 3 s" in same_lengths([1.0, 2.0], [3.0])
    assert tune.none_missing(0, 0) is None
    assert "0 trials were not done, and 1" in tune.none_missing(0, 1)
    assert tune.same_points([{"x": 1}], [{"x": 1}, {"x": 2}]) is None
    assert "trial 1 is {'x': 3}" in tune.same_points([{"x": 1}, {"x": 3}], [{"x": 1}, {"x": 2}])


def test_the_draws_are_what_a_sweep_proposes(tmp_path):
    section = {"space": {path: {"choice": values} for path, values in SPACE.items()}, "search": {"kind": "random"}}
    spec = TuneSpec.model_validate({**section, "budget": {"trials": 4}})
    desk = make_desk(tmp_path / "sweep", spec, SweepSettings(section, seed=3))
    proposed = [desk.next_trial(4).point for _ in range(4)]
    assert draws(build_space(spec, {}), 3, 4) == proposed
    assert len({name_of(point) for point in proposed}) == 4


def test_a_trial_of_the_table_has_the_values_of_the_checkpoint_that_would_be_kept():
    point = {"train.optimizer.lr": 1e-2, "model.hidden": [8]}
    curve = [
        {"epoch": place + 1, "val/loss": loss, "val/accuracy": 1 - loss} for place, loss in enumerate((0.5, 0.2, 0.3))
    ]
    table = Table(3, {name_of(point): curve}, {name_of(point): 32.0})
    told = []
    outcome = Lookup(table, tells_epochs=True)(0, point, 0, told.append)
    assert told == curve
    assert outcome["values"] == {"val/loss": 0.2, "val/accuracy": 0.8, "size_bytes": 32.0}


@pytest.mark.parametrize("wanted", [["makespan"], ["asha epochs", "tpe trials"], tune.names("full")])
def test_the_rows_that_are_wanted_are_measured_and_the_table_is_trained_where_one_needs_it(monkeypatch, wanted):
    trained = []
    monkeypatch.setattr(tune, "make_table", lambda settings: trained.append(settings) or made_up_table())
    monkeypatch.setattr(tune, "ray_here", lambda folder, cluster: pytest.MonkeyPatch.context())
    monkeypatch.setattr(tune, "bare_calls_per_s", lambda actors: 1000.0)
    monkeypatch.setattr(tune, "compete", lambda contest, pairs, **_: contest.name)
    monkeypatch.setattr(tune.Bench, "pair", lambda self, point: (1.0, 1.0))
    monkeypatch.setattr(tune.autoscaled, "measure", lambda folder, say: tune.autoscaled.NAME)
    assert tune.run("full", print, wanted[::-1]) == sorted(wanted, key=tune.names("full").index)
    assert len(trained) == (wanted != ["makespan"])


def test_a_curve_of_the_table_is_that_of_the_training_loop(tmp_path):
    """The loop with its checkpoints on the same configuration: every loss and accuracy to the last bit."""
    import torch

    from rayml.plan.build import build_trial
    from rayml.stages.train.loop import train
    from rayml.stages.train.state import LoopConfig
    from rayml.stages.train.strategies.base import Seat

    made_rows(tmp_path / "data", 100, val_rows=50)
    point = {"train.optimizer.lr": 1e-2, "model.hidden": [16], "model.dropout": 0.2, "train.batch_size": 32}
    space = {path: [value] for path, value in point.items()}
    trainings = Trainings(TableSettings(folder=tmp_path, epochs=3, space=space))
    curve, size = trainings.train(point)
    config = next(step.config for step in build_trial(trainings.origin, point) if step.name == "train")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    loop = LoopConfig(config, 0, 1, 1, str(tmp_path / "data"), str(checkpoints), None)
    state = train(loop, Seat(0, 1, torch.device("cpu")), lambda kind, **fields: None)
    assert curve == [{name: record[name] for name in curve[0]} for record in state.history]
    assert size == 4 * (64 * 16 + 16 + 16 * 10 + 10)


def test_the_table_is_trained_in_processes_that_share_it(tmp_path):
    settings = TableSettings(folder=tmp_path / "curves", epochs=2, space=SPACE)
    table = make_table(settings)
    assert set(table.curves) == set(table.sizes) == {name_of(point) for point in settings.points()}
    for point in settings.points():
        assert [record["epoch"] for record in table.curve(point)] == [1, 2]
        assert all(math.isfinite(record["val/loss"]) for record in table.curve(point))
    assert len({curve[-1]["val/loss"] for curve in table.curves.values()}) == 4


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A bench with a table that needs no training, beside a Ray of two CPUs."""
    folder = tmp_path_factory.mktemp("bench")
    size = tune.Size(no_op_trials=3, plain_no_op_trials=2, sleeping_trials=3, seeds=1, epochs=3, batch_sizes=(32,))
    found = tune.Bench(folder, size, print)
    found.__dict__["table"] = made_up_table()
    with ray_here(folder / "runs" / "run", ClusterPlan(cpus=2, gpus=0, object_store=2**27)):
        yield found


@pytest.mark.ray
def test_both_engines_do_the_same_trials_print_nothing_and_ours_leaves_the_environment_alone(bench, capsys):
    before = dict(os.environ)
    lengths = [0.02, 0.01, 0.03]
    assert bench.sleep(lengths) == sorted(lengths)
    assert dict(os.environ) == before
    assert bench.sleep_plainly(lengths) == sorted(lengths)
    assert capsys.readouterr().out == ""


@pytest.mark.ray
def test_a_sweep_ends_where_it_has_shown_enough(bench):
    section = {"space": {path: {"choice": values} for path, values in SPACE.items()}, "search": {"kind": "random"}}
    section |= {"objectives": [{"metric": "val/loss"}], "scheduler": {"kind": "asha"}}
    lookup = Lookup(bench.table, tells_epochs=True)
    settings = SweepSettings(section, seed=1, epochs=3, concurrency=1)
    whole = run_sweep_here(bench.new_folder(), settings, lookup)
    assert len(whole.trials) == 4
    first = whole.trials[0].epochs[0]["val/loss"]
    short = run_sweep_here(
        bench.new_folder(), settings, lookup, lambda sweep: tune.epochs_until(sweep, first) is not None
    )
    assert tune.epochs_until(short, first) == 1
    assert len(short.trials) < 4


@pytest.mark.parametrize("name", list(fronts.SHAPES))
def test_the_known_front_is_where_all_but_the_first_variable_are_0(name):
    import moocore
    import numpy as np

    problem = fronts.KnownFront(name)
    every = np.array(problem.every())
    assert len(every) == 300
    first, *others = fronts.LEVELS
    curve = [{first: place / 11, **dict.fromkeys(others, 0.0)} for place in range(12)]
    front = {tuple(row) for row in every[moocore.is_nondominated(every)]}
    assert front <= {problem.pair(point) for point in curve}
    assert len(front) == 12 or name == "zdt3"
    assert problem(0, curve[0], 0, lambda record: None)["values"] == {"val/loss": 0.0, "size_bytes": 1.0}
