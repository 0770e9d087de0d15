"""Tensor parallelism passes the contract, alone and with copies of the model."""

from __future__ import annotations

import pytest
import torch
from contract.strategy import StrategyContract, history, train_with
from stages.train.ranks import make_shards
from stages.train.test_sharded_recipe import on_ranks
from torch import nn

from rayml.errors import StageError
from rayml.plan.parallel import auto_layers
from rayml.stages.train.strategies.streams import OwnStream
from rayml.stages.train.strategies.tensor_parallel import chosen_layers, is_paired, require_parts

MLP = {"kind": "mlp", "hidden": [16, 12], "dropout": 0.0}
TRANSFORMER = {"kind": "transformer", "width": 8, "depth": 2, "heads": 2, "patch": 3, "dropout": 0.0}


def section(model, **changes):
    return {"kind": "tensor_parallel", "tensor": "auto", "data": 1, "layers": auto_layers(model), **changes}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


class TestMlp(StrategyContract):
    strategy = section(MLP)
    model = MLP


class TestTransformer(StrategyContract):
    strategy = section(TRANSFORMER)
    model = TRANSFORMER


class TestTwoCopies(StrategyContract):
    strategy = section(MLP, tensor=2, data=2)
    model = MLP
    recipes = ("clip by norm, accumulation",)
    world_size = 4


@pytest.mark.parametrize(
    "layers",
    [
        {"network.1": "colwise"},
        {"network.4": "rowwise"},
        {"network.4": "colwise", "network.7": "rowwise"},
        {"network.1": "rowwise", "network.4": "rowwise"},
    ],
)
def test_layers_that_the_job_names_change_nothing_but_where_they_are_computed(tmp_path, data, layers):
    mine = train_with(data, tmp_path / "mine", section(MLP, layers=layers), 2, model=MLP, epochs=1)
    whole = train_with(data, tmp_path / "whole", {"kind": "local"}, 1, model=MLP, epochs=1)
    assert history(mine)["val/loss"] == pytest.approx(history(whole)["val/loss"], rel=1e-5)


def test_blocks_that_are_computed_twice_drop_the_same_units_twice(tmp_path, data):
    model = {**TRANSFORMER, "dropout": 0.3}
    once = train_with(data, tmp_path / "once", section(model), 2, model=model, epochs=2)
    twice = train_with(
        data,
        tmp_path / "twice",
        section(model),
        2,
        model=model,
        epochs=2,
        blocks=["Block"],
        activation_checkpointing=True,
    )
    assert history(twice)["train/loss"] == pytest.approx(history(once)["train/loss"], rel=1e-6)


def prepared(model):
    """A network that two ranks hold in parts, its strategy, and 40 rows."""
    import torch.distributed as dist

    from rayml.ml.models import build_model
    from rayml.ml.schema import Normalization, Schema, VectorFeature
    from rayml.stages.train.strategies.base import MicroBatch, Recipe, Seat
    from rayml.stages.train.strategies.tensor_parallel import TensorParallel

    schema = Schema(
        feature=VectorFeature(columns=("Länge", "Höhe", "b")),
        label="Größe",
        classes=("klein", "groß"),
        normalization=Normalization(offset=(0.0,) * 3, scale=(1.0,) * 3),
    )
    torch.manual_seed(3)
    network = build_model(model, schema, None)
    recipe = Recipe(
        loss=lambda logits, labels: nn.functional.cross_entropy(logits, labels, reduction="sum"),
        make_optimizer=lambda named: torch.optim.SGD(
            [{"params": [each for _, each in named], "names": [name for name, _ in named], "base_lr": 0.1}], lr=0.1
        ),
        example=torch.zeros(1, 3),
    )
    seat = Seat(dist.get_rank(), 2, torch.device("cpu"))
    strategy = TensorParallel({"tensor": 2, "data": 1, "layers": auto_layers(model)}, seat)
    strategy.prepare(network, recipe)
    return network, strategy, MicroBatch(torch.rand(40, 3), torch.randint(0, 2, (40,)), 1 / 40)


def same_on_two_ranks(mesh):
    """Whether these are: the units that dropout let through, between the layers of a pair and behind them; weights."""
    import torch.distributed as dist

    network, strategy, batch = prepared({"kind": "mlp", "hidden": [64, 32], "dropout": 0.5})
    seen = {}
    for name, place in (("between", 3), ("behind", 6)):
        network.network[place].register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: (output != 0) & (inputs[0] != 0)})
        )
    for step in range(5):
        torch.manual_seed(step)
        strategy.step([batch])
    found = {}
    for name, tensor in (*seen.items(), ("head", network.network[7].weight.detach())):
        both = [torch.empty_like(tensor) for _ in range(2)]
        dist.all_gather(both, tensor.contiguous())
        found[name] = torch.equal(*both)
    return found


def test_ranks_of_a_copy_drop_other_units_of_a_pair_and_the_same_of_the_whole():
    assert on_ranks(2, same_on_two_ranks) == {"between": False, "behind": True, "head": True}


def messages_of_a_step(mesh):
    from torch.distributed.tensor.debug import CommDebugMode

    _, strategy, batch = prepared(
        {"kind": "transformer", "width": 8, "depth": 3, "heads": 2, "patch": 1, "dropout": 0.1}
    )
    with CommDebugMode() as messages:
        strategy.step([batch])
    return messages.get_total_counts()


def test_a_block_costs_two_messages_in_each_direction():
    """One for attention and one for the feed-forward layers, although q, k and v are three layers."""
    assert on_ranks(2, messages_of_a_step) == 3 * 4


def test_a_stream_is_left_where_it_was_entered():
    layer = nn.Linear(2, 2)
    streams = [OwnStream(torch.device("cpu"), part) for part in range(2)]
    inside, behind = [], []
    for stream in streams:
        torch.manual_seed(7)
        stream.enter(layer, (), None)
        stream.enter(layer, (), None)
        inside.append(torch.rand(3))
        stream.leave(layer, ())
        behind.append(torch.rand(3))
        stream.enter(layer, (), None)
        inside.append(torch.rand(3))
        stream.leave(layer, ())
    assert torch.equal(*behind)
    assert len({tuple(each.tolist()) for each in inside}) == 4
    torch.manual_seed(7)
    streams[0].enter(layer.eval(), (), None)
    assert torch.initial_seed() == 7, "nothing is drawn in evaluation mode"


def test_which_layers_are_paired():
    layers = {"q": "colwise", "k": "colwise", "o": "rowwise", "down": "rowwise", "head": "colwise"}
    assert {name: is_paired(name, layers) for name in layers} == {
        "q": True,
        "k": True,
        "o": True,
        "down": False,
        "head": False,
    }


@pytest.mark.parametrize(
    ("patterns", "what"),
    [
        ({"netwrok.1": "colwise"}, "`netwrok.1` matches no linear layer of the model; did you mean `network.1`?"),
        ({"network.1": "colwise", "*.1": "rowwise"}, "`network.1` is to be cut colwise and rowwise"),
    ],
)
def test_patterns_that_do_not_fit_the_model(patterns, what):
    model = nn.ModuleDict({"network": nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))})
    with pytest.raises(StageError) as caught:
        chosen_layers(model, patterns)
    assert what in str(caught.value)


def test_a_width_that_does_not_divide():
    with pytest.raises(StageError, match=r"6 inputs of `network\.3` do not divide by tensor 4"):
        require_parts("network.3", nn.Linear(6, 8), "rowwise", 4)
