"""The pipeline passes the contract, alone and with copies of the model; and where a model is cut."""

from __future__ import annotations

import json

import pytest
import torch
from contract.strategy import StrategyContract, history, train_with
from hypothesis import given
from hypothesis import strategies as some
from stages.train.ranks import make_shards
from torch import nn

from rayml.errors import StageError
from rayml.stages.train.strategies.cuts import cut, deal, describe
from rayml.stages.train.strategies.relay import filled_up

MLP = {"kind": "mlp", "hidden": [16, 12], "dropout": 0.0}
CNN = {"kind": "small_cnn", "width": 8, "dropout": 0.0}


def section(**changes):
    return {"kind": "pipeline", "stages": "auto", "data": 1, "schedule": "1f1b", **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


class TestMlp(StrategyContract):
    strategy = section()
    model = MLP


class TestCnn(StrategyContract):
    strategy = section(schedule="gpipe")
    model = CNN
    recipes = ("clip by norm, accumulation",)


class TestTwoCopies(StrategyContract):
    strategy = section(stages=2, data=2)
    model = MLP
    recipes = ("clip by norm, accumulation",)
    world_size = 4


@pytest.mark.parametrize(
    ("changes", "world_size"),
    [
        pytest.param({"accumulation": 4}, 3, id="three stages"),
        pytest.param({"freeze": [{"pattern": "network.[14].*", "until_epoch": 1}]}, 2, id="the first stage rests"),
        pytest.param({"freeze": [{"pattern": "network.7.*", "until_epoch": None}]}, 2, id="the last layer rests"),
        pytest.param({"average": {"kind": "ema", "decay": 0.9, "ramp": True, "start_step": 0}}, 2, id="averaged"),
        pytest.param({"activation_checkpointing": True, "blocks": ["Linear"]}, 2, id="computed twice"),
        pytest.param({"on_nonfinite": "skip", "batch_size": 12, "accumulation": 3}, 2, id="odd sizes"),
    ],
)
def test_the_losses_are_those_of_one_process(tmp_path, data, changes, world_size):
    mine = train_with(data, tmp_path / "mine", section(), world_size, model=MLP, epochs=2, **changes)
    whole = train_with(data, tmp_path / "whole", {"kind": "local"}, 1, model=MLP, epochs=2, **changes)
    for name, values in history(whole).items():
        assert history(mine)[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
    assert mine.tensors("average").keys() == whole.tensors("average").keys()
    for name, mean in whole.tensors("average").items():
        assert torch.allclose(mine.tensors("average")[name], mean, atol=1e-5), name


def test_the_run_says_where_the_model_was_cut(tmp_path, data):
    train_with(data, tmp_path, section(), 2, model=MLP, epochs=1)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    notes = [event["text"] for event in events if event["kind"] == "note"]
    assert [note for note in notes if note.startswith("2 stages: preprocess to network.3 (")]


def test_channels_last_goes_through(tmp_path, data):
    mine = train_with(data, tmp_path / "mine", section(), 2, model=CNN, epochs=1, channels_last=True)
    whole = train_with(data, tmp_path / "whole", {"kind": "local"}, 1, model=CNN, epochs=1)
    assert history(mine)["val/loss"] == pytest.approx(history(whole)["val/loss"], rel=1e-5)


@given(some.lists(some.integers(0, 50), min_size=1, max_size=8), some.integers(1, 8))
def test_the_largest_stage_is_as_small_as_can_be(works, stages):
    stages = min(stages, len(works))
    firsts = deal(works, stages)
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts))
    assert len(firsts) == stages
    assert largest(works, firsts) == best(tuple(works), stages)


def largest(works, firsts):
    return max(sum(works[first:last]) for first, last in zip(firsts, [*firsts[1:], len(works)], strict=True))


def best(works, stages):
    """By trying all."""
    if stages == 1:
        return sum(works)
    return min(max(sum(works[:end]), best(works[end:], stages - 1)) for end in range(1, len(works) - stages + 2))


def chain(*modules):
    return [(f"network.{place}", module) for place, module in enumerate(modules)]


def test_a_stage_begins_with_weights():
    parts = chain(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    stages = cut(parts, 3, torch.zeros(1, 2, 3))
    assert [stage.names for stage in stages] == [
        ("network.0", "network.1", "network.2"),
        ("network.3", "network.4"),
        ("network.5",),
    ]
    assert [stage.output for stage in stages] == [(8,), (8,), (2,)]
    assert [stage.parameters for stage in stages] == [56, 72, 18]
    assert [stage.work for stage in stages] == [2 * 6 * 8 + 56, 2 * 8 * 8 + 72, 2 * 8 * 2 + 18]
    assert describe(stages).startswith("3 stages: network.0 to network.2 (38% of the work, 56 parameters); ")


class TwoTensors(nn.Linear):
    def forward(self, rows):
        return rows, super().forward(rows)


def test_models_that_cannot_be_cut():
    example = torch.zeros(1, 4)
    with pytest.raises(StageError, match="2 parts with weights, and 3 stages need one each"):
        cut(chain(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), 3, example)
    with pytest.raises(StageError, match=r"network\.1 makes something else than one tensor"):
        cut(chain(nn.Linear(4, 4), TwoTensors(4, 4)), 2, example)
    tied = nn.Linear(4, 4)
    with pytest.raises(StageError, match=r"stages 1 and 2 share a weight of \[4, 4\]"):
        cut(chain(tied, nn.ReLU(), tied), 2, example)


def test_a_short_micro_batch_is_filled_up_with_its_own_rows():
    rows = torch.arange(6).reshape(3, 2)
    assert filled_up(rows, 7)[:, 0].tolist() == [0, 2, 4, 0, 2, 4, 0]
    assert filled_up(rows, 3) is rows
