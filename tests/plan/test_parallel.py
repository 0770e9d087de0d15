"""What tensor parallelism and pipelines refuse before a worker starts, and how the plan resolves `layers: auto`."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from torch import nn

from rayml.errors import PlanError
from rayml.ml.models import build_model
from rayml.ml.networks import sequential_parts
from rayml.ml.schema import ImageFeature, Normalization, Schema
from rayml.plan.parallel import auto_layers, check_parts, resolve_parallel

SCHEMA = Schema(
    feature=ImageFeature(height=7, width=5, channels=1),
    label="Größe",
    classes=("klein", "groß", "größer"),
    normalization=Normalization(offset=(60.0,), scale=(40.0,)),
)
MLP = {"kind": "mlp", "hidden": [16, 12, 9], "dropout": 0.0}
TRANSFORMER = {"kind": "transformer", "width": 12, "depth": 2, "heads": 3, "patch": 4, "dropout": 0.0}
CNN = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
RESNET = {"kind": "torchvision", "name": "resnet18", "norm": "batch", "small_images": True, "resize": None}
OWN = {"kind": "callable", "function": "nets:build", "args": {}}


def step(strategy, model, **changes):
    """What the checks read of a train step's configuration."""
    base = {"optimizer": {"kind": "adamw"}, "adapter": None, "compile": False, "average": None}
    return {**base, "strategy": strategy, "model": model, **changes}


def tensor_parallel(tensor, layers="auto"):
    return {"kind": "tensor_parallel", "tensor": tensor, "data": 1, "layers": layers}


def pipeline(stages):
    return {"kind": "pipeline", "stages": stages, "data": 1, "schedule": "1f1b"}


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        (MLP, []),
        ({**MLP, "hidden": [16, 12]}, ["network.7"]),
        ({**MLP, "hidden": [16]}, []),
        (TRANSFORMER, ["network.head"]),
    ],
)
def test_the_proposed_layers_are_linear_layers_of_the_model(model, whole):
    names = [name for name, each in build_model(model, SCHEMA, None).named_modules() if isinstance(each, nn.Linear)]
    patterns = auto_layers(model)
    matched = {name: side for name in names for pattern, side in patterns.items() if fnmatchcase(name, pattern)}
    assert [name for name in names if name not in matched] == whole
    assert list(matched.values()).count("rowwise") == len([p for p in patterns.values() if p == "rowwise"]) * (
        TRANSFORMER["depth"] if model is TRANSFORMER else 1
    )


def test_layers_that_the_job_names_stay():
    named = {"network.up": "colwise"}
    assert resolve_parallel(step(tensor_parallel(2, named), OWN))["layers"] == named


@pytest.mark.parametrize(
    ("config", "what", "hint"),
    [
        (step(tensor_parallel(2), CNN), "small_cnn has no pair of linear layers", "mlp with a hidden layer"),
        (step(tensor_parallel(2), {**MLP, "hidden": []}), "mlp has no pair", "transformer"),
        (step(tensor_parallel(2), RESNET), "torchvision has no pair", "name those of another model"),
        (step(tensor_parallel(2), MLP), "9 = tensor 2 x 4.5", "can be 1;"),
        (step(tensor_parallel(5), {**MLP, "hidden": [12, 5, 18]}), "12 = tensor 5 x 2.4", "1, 2, 3 or 6"),
        (step(tensor_parallel(2), TRANSFORMER), "3 = tensor 2 x 1.5", "1 or 3"),
        (step(pipeline(5), MLP), "5 stages, and mlp has 4 parts", "at most 4"),
        (step(pipeline(6), CNN), "6 stages, and small_cnn has 5 parts", "at most 5"),
        (step(pipeline(6), TRANSFORMER), "6 stages, and transformer has 5 parts", "at most 5"),
        (step(pipeline(2), {**RESNET, "name": "vit_b_16"}), "vit_b_16 has a forward pass of its own", "ResNets"),
    ],
)
def test_what_does_not_fit_is_refused(config, what, hint):
    with pytest.raises(PlanError) as caught:
        resolve_parallel(config)
    assert what in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        step(pipeline(2), RESNET, average={"kind": "ema"}),
        step(pipeline(2), {**RESNET, "norm": "group"}, average={"kind": "swa"}),
        step(pipeline(7), OWN),
        step({"kind": "ddp"}, CNN, compile=True, adapter={"kind": "lora"}),
    ],
)
def test_what_fits_is_left_as_it_is(config):
    assert resolve_parallel(config) == config["strategy"]


@pytest.mark.parametrize("model", [MLP, CNN, TRANSFORMER])
def test_the_plan_counts_the_parts_that_the_model_has(model):
    parts = sequential_parts(build_model(model, SCHEMA, None))
    weighty = sum(any(True for _ in module.parameters()) for _, module in parts)
    check_parts(weighty, model)
    with pytest.raises(PlanError):
        check_parts(weighty + 1, model)
