"""Which parameters rest in which epoch, and what that does to a model in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rayml.errors import StageError
from rayml.ml.freezing import apply_freeze, keep_frozen_statistics, trainable

NAMES = [f"network.{layer}.{part}" for layer in (0, 1, 10) for part in ("weight", "bias")]


def rule(pattern: str, until: int | None = None) -> dict[str, object]:
    return {"pattern": pattern, "until_epoch": until}


@pytest.mark.parametrize(
    ("rules", "epoch", "layers"),
    [
        ([], 0, {0, 1, 10}),
        ([rule("network.1.*")], 99, {0, 10}),
        ([rule("network.1*")], 0, {0}),
        ([rule("network.[01].*", 2)], 1, {10}),
        ([rule("network.[01].*", 2)], 2, {0, 1, 10}),
        ([rule("network.0.*"), rule("network.1.*", 1)], 0, {10}),
        ([rule("network.0.*"), rule("network.1.*", 1)], 1, {1, 10}),
        ([rule("network.0.*", 1), rule("*.0.*", 3)], 2, {1, 10}),
    ],
)
def test_what_is_trained(rules, epoch, layers):
    assert trainable(NAMES, rules, epoch) == {name for name in NAMES if int(name.split(".")[1]) in layers}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            [rule("netwrk.0.weight")],
            "`netwrk.0.weight` matches no parameter of the model; did you mean `network.0.weight`",
        ),
        ([rule("layer")], "`layer` matches no .*; they go from `network.0.weight` to `network.10.bias`"),
        ([rule("network.*", 3)], "all 6 parameters are frozen in epoch 2"),
        ([rule("Network.*")], "matches no parameter"),
    ],
)
def test_a_mistake_is_told(rules, said):
    with pytest.raises(StageError, match=said):
        trainable(NAMES, rules, 1)


def small_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2))


def train_once(model: nn.Module) -> None:
    model.train()
    keep_frozen_statistics(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()


def test_frozen_weights_and_statistics_do_not_move_until_their_epoch():
    model = small_net()
    rules = [rule("[01].*", 2)]
    assert apply_freeze(model, rules, 0)
    assert not apply_freeze(model, rules, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_once(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name[0] in "34"}
    assert model[4].training
    assert not model[1].training

    assert apply_freeze(model, rules, 2)
    train_once(model)
    after = model.state_dict()
    # The bias before a batch norm has no gradient but for rounding; all else moves.
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_what_no_rule_names_stays_as_its_author_left_it():
    model = small_net()
    model[3].weight.requires_grad_(False)
    apply_freeze(model, [rule("0.*", 1)], 0)
    apply_freeze(model, [rule("0.*", 1)], 1)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["3.weight"]


def test_a_frozen_parameter_loses_its_gradient():
    """Or the optimizer would go on with the last one."""
    model = small_net()
    model(torch.randn(8, 3)).sum().backward()
    apply_freeze(model, [rule("0.weight")], 0)
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None
