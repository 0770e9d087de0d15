"""Averaged weights, held to torch's AveragedModel; a resumed average; and a model that is given back as it was."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import TypeAdapter
from stages.train.recipe import gradients, network
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from rayml.errors import StageError
from rayml.spec import averaging as spec
from rayml.stages.train.averaging import build_average, refresh_statistics

STEPS_PER_EPOCH, EPOCHS = 3, 4
STEPS = STEPS_PER_EPOCH * EPOCHS


def average(steps_per_epoch=STEPS_PER_EPOCH, epochs=EPOCHS, **fields):
    section = TypeAdapter(spec.Average).validate_python(fields).model_dump(mode="json")
    return build_average(section, steps_per_epoch, epochs)


def train(model, made, first=0, last=STEPS, after_step=lambda step: None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in gradients(model, first, last):
        optimizer.step()
        made.update(model, step + 1)
        after_step(step + 1)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


SWA_STEPS = {
    "epoch ends": ({"start": 0.5}, (6, 9, 12)),
    "every two steps": ({"start": 0.5, "every_steps": 2}, (6, 8, 10, 12)),
    "from the start": ({"start": 0.0}, (3, 6, 9, 12)),
    "from a step within an epoch": ({"start": 0.6, "every_steps": 3}, (8, 11)),
    "the last one only": ({"start": 0.99}, (12,)),
}


@pytest.mark.parametrize("name", SWA_STEPS)
def test_swa_is_the_mean_that_torch_takes(name):
    fields, steps = SWA_STEPS[name]
    model, made = network(), average(kind="swa", **fields)
    reference = AveragedModel(model)
    train(model, made, after_step=lambda step: reference.update_parameters(model) if step in steps else None)
    assert made.plain() == {"count": len(steps)}
    torch.testing.assert_close(made.tensors(), weights(reference.module), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("start_step", [0, 5])
def test_ema_is_the_mean_that_torch_takes(start_step):
    model, made = network(), average(kind="ema", decay=0.9, start_step=start_step, ramp=False)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    train(model, made, after_step=lambda step: reference.update_parameters(model) if step >= start_step else None)
    assert_same(made.tensors(), weights(reference.module))


def test_ema_looks_back_less_at_first():
    model, made = network(), average(kind="ema", decay=0.35)
    mean, name = None, "network.4.weight"

    def follow(step):
        nonlocal mean
        live = weights(model)[name]
        decay = min(0.35, step / (9 + step))
        mean = live if mean is None else decay * mean + (1 - decay) * live

    train(model, made, after_step=follow)
    torch.testing.assert_close(made.tensors()[name], mean)


@pytest.mark.parametrize("fields", [{"kind": "ema", "decay": 0.8}, {"kind": "swa", "start": 0.2, "every_steps": 1}])
@pytest.mark.parametrize("stopped_after", [1, 2, 7])
def test_an_average_that_was_saved_goes_on_to_the_last_bit(fields, stopped_after):
    whole, model = network(), network()
    made = average(**fields)
    train(whole, made)
    first = average(**fields)
    train(model, first, last=stopped_after)
    again = average(**fields)
    again.load({name: mean.clone() for name, mean in first.tensors().items()}, json.loads(json.dumps(first.plain())))
    assert_same(again.tensors(), first.tensors())
    train(model, again, first=stopped_after)
    assert_same(made.tensors(), again.tensors())


def test_the_model_is_given_back_as_it_was():
    model, made = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)), None
    made = average(kind="ema", decay=0.9)
    train(model, made)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stopped"), made.applied(model):
        assert_same(weights(model), made.tensors())
        assert not torch.equal(model[0].weight, before["0.weight"])
        model.train()
        model(torch.randn(4, 1, 4, 4))
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
        raise RuntimeError("stopped")
    assert_same(model.state_dict(), before)


def test_nothing_is_applied_before_the_first_mean():
    model, made = network(), average(kind="ema", start_step=10)
    train(model, made, last=9)
    before = weights(model)
    with made.applied(model):
        assert_same(weights(model), before)
    assert not made.begun
    assert made.tensors() == {}
    again = average(kind="ema", start_step=10)
    again.load(made.tensors(), made.plain())
    train(model, again, first=9, last=10)
    assert_same(again.tensors(), weights(model))


def test_a_loaded_average_can_be_applied_at_once():
    model, made = network(), average(kind="swa", start=0.0)
    train(model, made)
    again = average(kind="swa")
    again.load(made.tensors(), made.plain())
    with again.applied(model):
        assert_same(weights(model), made.tensors())


def test_batch_norm_is_measured_anew_for_the_mean_of_swa():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    made = average(kind="swa", start=0.0, every_steps=1)
    assert not made.needs_statistics(model)
    reference = AveragedModel(model)
    train(model, made, after_step=lambda step: reference.update_parameters(model))
    assert made.needs_statistics(model)
    assert not made.needs_statistics(network())
    batches = [torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    update_bn(batches, reference)
    with made.applied(model):
        refresh_statistics(model, batches)
        torch.testing.assert_close(model.state_dict(), reference.module.state_dict(), rtol=1e-5, atol=1e-6)
    assert not average(kind="ema").needs_statistics(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_half_precision_weights_is_kept_in_full(dtype):
    layer = nn.Linear(1, 1, bias=False).to(dtype)
    made = average(kind="ema", decay=0.999, ramp=False)
    nn.init.constant_(layer.weight, 1.0)
    made.update(layer, 1)
    nn.init.constant_(layer.weight, 2.0)
    for step in range(2, 102):
        made.update(layer, step)
    assert made.tensors()["weight"].dtype == torch.float32
    assert made.tensors()["weight"].item() == pytest.approx(2 - 0.999**100, abs=1e-5)
    with made.applied(layer):
        assert layer.weight.dtype == dtype
    assert layer.weight.item() == 2.0


def test_an_average_that_never_begins():
    with pytest.raises(StageError, match="begins after 13 optimizer steps, and the whole training has 12"):
        average(kind="ema", start_step=13)


def test_an_average_of_another_model():
    model, made = network(), average(kind="ema")
    made.load({"network.4.weight": torch.zeros(7, 24)}, {"count": 1})
    with pytest.raises(StageError, match=r"of another model: 'network.0.bias' is not in both"):
        made.update(model, 1)


def test_no_section_no_average():
    assert build_average(None, 1, 1) is None
