"""The loop: the same numbers for every world size, every row once, and a resumed run equal to the last bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from stages.train.ranks import loop_settings, make_shards, run_ranks

from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.training import dump
from rayml.spec.optimizer import Sgd


def events(settings, kind):
    lines = Path(settings["events"]).read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def trained(tmp_path, name, data, world_size=2, **changes):
    work = tmp_path / name
    settings = loop_settings(data, work, **changes)
    codes = run_ranks(settings, world_size)
    checkpoint, _ = newest_checkpoint(work / "checkpoints")
    return codes, checkpoint, settings


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """An uninterrupted run on two ranks."""
    codes, checkpoint, settings = trained(tmp_path_factory.mktemp("whole"), "whole", data)
    assert codes == [0, 0]
    return checkpoint, settings


def test_it_learns_and_sees_every_row_once_an_epoch(whole):
    checkpoint, settings = whole
    history = checkpoint.state["history"]
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["rows_seen"] for record in history] == [70, 70, 70]
    assert history[-1]["val/accuracy"] > 0.8
    assert events(settings, "epoch") == [{"kind": "epoch", "epochs": 3, **record} for record in history]
    assert checkpoint.state["step"] == 3 * 5


def test_the_same_seed_gives_the_same_bits(whole, tmp_path, data):
    _, again, _ = trained(tmp_path, "again", data)
    weights, others = whole[0].tensors("model"), again.tensors("model")
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_losses_do_not_depend_on_the_world_size(tmp_path, data, world_size):
    model = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
    _, two, _ = trained(tmp_path, "two", data, model=model)
    codes, other, _ = trained(tmp_path, "other", data, world_size=world_size, model=model)
    assert codes == [0] * world_size
    for mine, theirs in zip(two.state["history"], other.state["history"], strict=True):
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)
        assert mine["val/loss"] == pytest.approx(theirs["val/loss"], rel=1e-4)


def test_a_batch_with_fewer_rows_than_ranks_is_handled(tmp_path):
    data = make_shards(tmp_path / "tiny", train=17, val=2)
    one = trained(tmp_path, "one", data, world_size=1, model={"kind": "mlp", "hidden": [8], "dropout": 0.0})
    three = trained(tmp_path, "three", data, world_size=3, model={"kind": "mlp", "hidden": [8], "dropout": 0.0})
    assert three[0] == [0, 0, 0]
    losses = [[record["train/loss"] for record in run[1].state["history"]] for run in (one, three)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert three[1].state["history"][0]["rows_seen"] == 17


@pytest.mark.parametrize(("rank", "call"), [(0, 5), (1, 8), (0, 13)])
def test_a_killed_rank_costs_steps_and_not_the_result(whole, tmp_path, data, rank, call):
    """Killed in each of the three epochs, with a checkpoint every 2 steps: the end is equal to the last bit."""
    work = tmp_path / "killed"
    settings = loop_settings(data, work, every_steps=2)
    codes = run_ranks({**settings, "die_at": {"rank": rank, "call": call}}, 2)
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] != 0

    interrupted, _ = newest_checkpoint(work / "checkpoints")
    assert interrupted is not None
    assert call - 5 <= interrupted.state["step"] <= call, (
        "at most the steps of two checkpoints, one of them being written, are lost"
    )
    assert run_ranks(settings, 2) == [0, 0]

    resumed, _ = newest_checkpoint(work / "checkpoints")
    weights, others = whole[0].tensors("model"), resumed.tensors("model")
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    keys = ("epoch", "train/loss", "val/loss", "val/accuracy", "rows_seen")
    for mine, theirs in zip(whole[0].state["history"], resumed.state["history"], strict=True):
        assert [mine[key] for key in keys[1:]] == pytest.approx([theirs[key] for key in keys[1:]], rel=1e-12)
    assert resumed.state["best_checkpoint"] in {path.name for path in (work / "checkpoints").iterdir()}


def test_a_run_that_is_finished_is_not_trained_again(whole, tmp_path):
    _, settings = whole
    assert run_ranks(settings, 2) == [0, 0]
    assert len(events(settings, "epoch")) == 3


def test_a_loss_that_is_not_a_number_ends_with_a_sentence(tmp_path, data):
    work = tmp_path / "nan"
    work.mkdir()
    settings = loop_settings(data, work, optimizer=dump(Sgd(kind="sgd", lr=1e30)))
    assert run_ranks(settings, 2) != [0, 0]
    assert "the training loss became" in (work / "errors.log").read_text()


def test_a_validation_loss_that_is_not_a_number_ends_with_a_sentence(tmp_path, data):
    (tmp_path / "sound_only_in_training.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(30, 3)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x.flatten(1)) * (1.0 if self.training else float('nan'))\n"
        "def build(schema):\n"
        "    return Net()\n"
    )
    model = {"kind": "callable", "function": "sound_only_in_training:build", "args": {}}
    settings = loop_settings(data, tmp_path, model=model, code=str(tmp_path))
    assert run_ranks(settings, 2) != [0, 0]
    assert "the validation loss became nan" in (tmp_path / "errors.log").read_text()


def test_many_shards_are_one_order(tmp_path, whole):
    data = make_shards(tmp_path / "many", shard_rows=11)
    _, checkpoint, _ = trained(tmp_path, "many-run", data)
    weights, others = whole[0].tensors("model"), checkpoint.tensors("model")
    assert all(torch.equal(weights[name], others[name]) for name in weights)
