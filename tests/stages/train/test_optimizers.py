"""The optimizers: what they compute, and a state that goes on to the last bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from stages.train.recipe import BASE, gradients, network, section
from torch import nn

from rayml.errors import StageError
from rayml.stages.train.optimizers import build_optimizer, load_named_state, named_state


def train(model, optimizer, first, last):
    for _ in gradients(model, first, last):
        optimizer.step()


def built(name, model, **changes):
    return build_optimizer(section(name, **changes), model.named_parameters())


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize("name", BASE)
def test_a_state_that_was_saved_goes_on_to_the_last_bit(name):
    whole, half = network(), network()
    train(whole, built(name, whole), 0, 6)
    optimizer = built(name, half)
    train(half, optimizer, 0, 3)
    saved = {key: tensor.clone() for key, tensor in reversed(named_state(optimizer).items())}

    again = network(seed=1)
    again.load_state_dict(half.state_dict())
    # The order of the parameters does not matter, except to muon, which leaves the last matrix out.
    reordered = list(again.named_parameters())[::-1] if name != "muon" else list(again.named_parameters())
    rebuilt = build_optimizer(section(name), reordered)
    load_named_state(rebuilt, saved)
    assert {key: tensor.dtype for key, tensor in named_state(rebuilt).items()} == {
        key: tensor.dtype for key, tensor in saved.items()
    }
    train(again, rebuilt, 3, 6)
    assert same(whole, again)
    assert not same(whole, half)


def test_a_state_in_other_groups():
    whole, again = network(), network()
    optimizer = built("adamw", whole)
    train(whole, optimizer, 0, 3)
    again.load_state_dict(whole.state_dict())
    rebuilt = built("adamw", again, lr_by=[{"match": "*.bias", "factor": 1.0000001}])
    assert len(rebuilt.param_groups) == 2
    load_named_state(rebuilt, named_state(optimizer))
    for group in rebuilt.param_groups:
        group["lr"] = 1e-3
    train(whole, optimizer, 3, 6)
    train(again, rebuilt, 3, 6)
    assert same(whole, again)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_state_laid_out_like_channels_last_weights(name):
    """The fused kernels walk memory in order: a contiguous moment beside a channels-last weight would be mixed up."""
    whole, half = (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2))
    half.load_state_dict(whole.state_dict())
    assert not half.weight.is_contiguous()
    grads = [torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step)) for step in range(4)]

    def steps(model, optimizer, part):
        for grad in part:
            model.weight.grad = grad.to(memory_format=torch.channels_last)
            model.bias.grad = torch.ones(4)
            optimizer.step()

    steps(whole, built(name, whole), grads)
    optimizer = built(name, half)
    steps(half, optimizer, grads[:2])
    rebuilt = built(name, half)
    load_named_state(rebuilt, {key: tensor.contiguous() for key, tensor in named_state(optimizer).items()})
    steps(half, rebuilt, grads[2:])
    assert same(whole, half)


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("adamw", {"step", "exp_avg", "exp_avg_sq"}),
        ("sgd", {"momentum_buffer"}),
        ("plain sgd", set()),
        ("adafactor", {"step", "row_var", "col_var", "variance"}),
        ("lamb", {"step", "exp_avg", "exp_avg_sq"}),
        ("lars", {"momentum_buffer"}),
        ("lion", {"exp_avg"}),
        ("muon", {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"}),
    ],
)
def test_the_state_is_named_by_parameter(name, slots):
    model = network()
    optimizer = built(name, model)
    assert named_state(optimizer) == {}
    train(model, optimizer, 0, 1)
    names = {name for name, _ in model.named_parameters()}
    found = {tuple(key.rsplit(".", 1)) for key in named_state(optimizer)}
    assert {slot for _, slot in found} == slots
    assert {name for name, _ in found} == (names if slots else set())


def test_groups_carry_names_and_learning_rates():
    model = network()
    optimizer = built("sgd", model, layer_decay=0.5, no_decay="vectors")
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {group["base_lr"] for group in optimizer.param_groups} == {0.05 * 0.5**depth for depth in range(5)}
    assert all(group["lr"] == group["base_lr"] for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_and_not_are_the_same_optimizer(name):
    fused, plain = network(), network()
    train(fused, built(name, fused), 0, 5)
    optimizer = build_optimizer(section(name), plain.named_parameters(), fused=False)
    assert not any(group.get("fused") for group in optimizer.param_groups)
    train(plain, optimizer, 0, 5)
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BASE)
def test_a_factor_of_0_leaves_parameters_as_they_are(name):
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(model, built(name, model, lr_by=[{"match": "network.4.*", "factor": 0}]), 0, 3)
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if not key.startswith("network.4.")}


def rule_of_the_paper(kind, config, weight, grads, exempt=False):
    """One tensor by the algorithm as printed, in float64."""
    x, lr, decay = weight.double().clone(), config["lr"], 0.0 if exempt else config["weight_decay"]
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    b1, b2 = config.get("betas", (0, 0))
    for t, grad in enumerate(grads, start=1):
        g = grad.double()
        if kind == "lion":
            x -= lr * ((b1 * m + (1 - b1) * g).sign() + decay * x)
            m = b2 * m + (1 - b2) * g
        elif kind == "lars":
            local = 1.0 if exempt else config["trust"] * x.norm() / (g.norm() + decay * x.norm())
            m = config["momentum"] * m + lr * local * (g + decay * x)
            x = x - m
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            r = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + config["eps"]) + decay * x
            ratio = 1.0 if exempt else x.norm() / r.norm()
            x = x - lr * ratio * r
    return x


@pytest.mark.parametrize("kind", ["lion", "lars", "lamb"])
def test_our_own_rules_are_those_of_the_papers(kind):
    config = section(kind, weight_decay=0.1, no_decay=["b"])
    generator = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(5, 3, generator=generator) for name in "ab"}
    grads = {name: [torch.randn(5, 3, generator=generator) for _ in range(6)] for name in weights}
    parameters = {name: nn.Parameter(weight.clone()) for name, weight in weights.items()}
    optimizer = build_optimizer(config, parameters.items())
    for step in range(6):
        for name, parameter in parameters.items():
            parameter.grad = grads[name][step].clone()
        optimizer.step()
    for name, parameter in parameters.items():
        expected = rule_of_the_paper(kind, config, weights[name], grads[name], exempt=name == "b")
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["lamb", "lars"])
def test_weights_of_0_are_not_scaled_to_0(kind):
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([1.0, -2.0, 0.5, 0.0])
    build_optimizer(section(kind), [("bias", parameter)]).step()
    assert parameter[0] < 0 < parameter[1]
    assert parameter.isfinite().all()


def test_a_parameter_without_a_gradient_waits():
    model = network()
    for name in BASE:
        optimizer = built(name, model)
        model.zero_grad(set_to_none=True)
        optimizer.step()
        assert named_state(optimizer) == {}


def test_muon_trains_hidden_matrices_and_adamw_the_rest():
    model = network()
    optimizer = built("muon", model, no_decay="vectors", layer_decay=0.5)
    train(model, optimizer, 0, 1)
    by_muon = {key.removesuffix(".momentum_buffer") for key in named_state(optimizer) if "momentum" in key}
    assert by_muon == {"network.4.weight", "network.7.weight", "network.8.weight"}
    rest = {
        name: (group["base_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        if "betas" in group
        for name in group["names"]
    }
    assert rest == {
        "network.0.weight": (1e-3 / 16, 0.01),
        **dict.fromkeys(["network.0.bias", "network.1.weight", "network.1.bias"], (1e-3 / 16, 0.0)),
        **dict.fromkeys(["network.4.bias", "network.5.weight", "network.5.bias"], (1e-3 / 8, 0.0)),
        "network.7.bias": (1e-3 / 4, 0.0),
        "network.9.weight": (1e-3, 0.01),
        "network.9.bias": (1e-3, 0.0),
    }


def test_muon_is_one_optimizer():
    """A learning rate set on its groups counts, and so does what torch itself loads."""
    model, other = network(), network()
    optimizer, twin = built("muon", model), built("muon", other)
    train(model, optimizer, 0, 2)
    train(other, twin, 0, 2)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 2, 3)
    train(other, twin, 2, 3)
    assert same(model, other)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 3, 4)
    assert same(model, other)
    assert optimizer.step(lambda: math.pi) == math.pi


def test_muon_knows_the_output_layer_whatever_the_groups():
    rules = [{"match": "network.[47].*", "factor": 0.5}]
    model = network()
    train(model, optimizer := built("muon", model, lr_by=rules, no_decay=["network.8.*"]), 0, 1)
    assert "network.9.weight.exp_avg" in named_state(optimizer)
    assert "network.7.weight.momentum_buffer" in named_state(optimizer)


def test_muon_under_a_frozen_output_layer():
    model = network()
    model.network[9].requires_grad_(False)
    train(model, optimizer := built("muon", model), 0, 1)
    assert "network.8.weight.momentum_buffer" in named_state(optimizer)


def test_muon_is_told_what_to_leave_out():
    model = network()
    train(model, optimizer := built("muon", model, not_on=["network.[47].*"]), 0, 1)
    assert {key for key in named_state(optimizer) if "momentum" in key} == {
        "network.8.weight.momentum_buffer",
        "network.9.weight.momentum_buffer",
    }


def test_muon_without_a_hidden_matrix():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(StageError, match="none of 4 parameters is one"):
        built("muon", model)


def test_a_model_that_is_frozen():
    with pytest.raises(StageError, match="every parameter of the model is frozen"):
        built("sgd", network().requires_grad_(False))


def test_a_state_of_another_model():
    model = network()
    optimizer = built("adamw", model)
    with pytest.raises(StageError, match=r"trains no 'network.4.wieght'; the nearest is 'network.4.weight'"):
        load_named_state(optimizer, {"network.4.wieght.exp_avg": torch.zeros(7, 24)})
    with pytest.raises(StageError, match=r"has the shape \[24, 7\], and the parameter \[7, 24\]"):
        load_named_state(optimizer, {"network.4.weight.exp_avg": torch.zeros(24, 7)})
