"""Which parameters are treated alike."""

from __future__ import annotations

import pytest
from stages.train.recipe import network, section
from torch import nn

from rayml.errors import StageError
from rayml.stages.train.groups import depths_from_output, layer_of, parameter_groups


def groups_of(model=None, **changes):
    model = model or network()
    return {
        (group.lr_factor, group.weight_decay): group.names
        for group in parameter_groups(section("adamw", **changes), model.named_parameters())
    }


def test_one_group_where_nothing_is_said():
    assert groups_of() == {(1.0, 0.01): [name for name, _ in network().named_parameters()]}


def test_biases_and_norms_without_weight_decay():
    groups = groups_of(no_decay="vectors")
    matrices = [f"network.{layer}.weight" for layer in (0, 4, 7, 8, 9)]
    assert groups[1.0, 0.01] == matrices
    assert sorted([*matrices, *groups[1.0, 0.0]]) == sorted(name for name, _ in network().named_parameters())


def test_patterns_for_weight_decay():
    assert groups_of(no_decay=["*.4.*", "network.9.bias"])[1.0, 0.0] == [
        "network.4.weight",
        "network.4.bias",
        "network.9.bias",
    ]


def test_the_first_learning_rate_that_matches():
    rules = [{"match": "*.bias", "factor": 2}, {"match": "network.9.*", "factor": 0.5}]
    groups = groups_of(lr_by=rules)
    assert groups[0.5, 0.01] == ["network.9.weight"]
    assert "network.9.bias" in groups[2.0, 0.01]


def test_layers_learn_less_the_farther_they_are_from_the_output():
    groups = groups_of(layer_decay=0.5, lr_by=[{"match": "network.4.bias", "factor": 3}])
    assert groups == {
        (0.5**4, 0.01): ["network.0.weight", "network.0.bias", "network.1.weight", "network.1.bias"],
        (0.5**3, 0.01): ["network.4.weight", "network.5.weight", "network.5.bias"],
        (3 * 0.5**3, 0.01): ["network.4.bias"],
        (0.5**2, 0.01): ["network.7.weight", "network.7.bias"],
        (0.5, 0.01): ["network.8.weight"],
        (1.0, 0.01): ["network.9.weight", "network.9.bias"],
    }


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("network.blocks.11.attention.weight", "network.blocks.11"),
        ("network.encoder.layers.encoder_layer_3.ln_1.weight", "network.encoder.layers.encoder_layer_3"),
        ("network.layer1.0.conv1.weight", "network.layer1"),
        ("network.stem.weight", "network.stem"),
        ("network.class_token", "network"),
        ("scale", ""),
    ],
)
def test_the_layer_of_a_name(name, layer):
    assert layer_of(name) == layer


def test_depths_of_a_real_network():
    from torchvision.models import resnet18

    named = [(f"network.{name}", parameter) for name, parameter in resnet18().named_parameters()]
    depths = depths_from_output(named)
    assert depths["network.fc.weight"] == 0
    assert depths["network.layer4.1.bn2.bias"] == 1
    assert depths["network.layer1.0.conv1.weight"] == 4
    assert depths["network.conv1.weight"] == depths["network.bn1.weight"] == 5


def test_a_norm_in_front_belongs_to_the_first_layer():
    model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.Linear(4, 2))
    assert depths_from_output(list(model.named_parameters())) == {
        "0.weight": 1,
        "0.bias": 1,
        "1.weight": 1,
        "1.bias": 1,
        "2.weight": 0,
        "2.bias": 0,
    }


def test_frozen_parameters_are_left_out_and_keep_their_layer():
    model = network()
    model.network[9].requires_grad_(False)
    groups = groups_of(model, layer_decay=0.5)
    assert groups[0.5, 0.01] == ["network.8.weight"]
    assert not any("network.9" in name for names in groups.values() for name in names)


def test_a_tied_parameter_counts_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    names = list(model.named_parameters(remove_duplicate=False))
    assert [name for name, _ in names] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    (group,) = parameter_groups(section("adamw"), names)
    assert group.names == ["0.weight", "0.bias", "1.bias"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("no_decay", ["network.O.weight"]), ("lr_by", [{"match": "network.O.weight", "factor": 1}])],
)
def test_a_pattern_that_matches_nothing(field, value):
    with pytest.raises(StageError, match=r"`network.O.weight` matches no parameter of the model; did you mean `net"):
        groups_of(**{field: value})
