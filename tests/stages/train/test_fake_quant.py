"""Training with the rounding of int8: the arithmetic of ONNX Runtime, names that stay, and what it is worth."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from stages.train.ranks import loop_settings, make_shards, run_ranks
from torch import nn

from rayml.ml.checkpoint import newest_checkpoint
from rayml.ml.models import build_model
from rayml.ml.shards import ShardSet, load_schema
from rayml.stages.train import fake_quant
from rayml.stages.train.fake_quant import InputRange, add_fake_quantization, round_weight
from rayml.stages.train.merging import without_helpers

MODEL = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
QUANTIZE = {"per_channel": True, "activations": "uint8"}
NETWORK = {"bucket_mb": 25, "static_graph": False, "compress": "none"}
STRATEGIES = {
    "network": {"kind": "ddp", **NETWORK, "transport": "network"},
    "shared_memory": {"kind": "ddp", **NETWORK, "transport": "shared_memory"},
    "fsdp": {"kind": "fsdp", "replicate": 1, "shard": 2, "offload": False, "reshard": True, "reduce": "fp32"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def trained(tmp_path, name, data, world_size=2, **changes):
    changes = {"model": MODEL, "quantize": QUANTIZE, "epochs": 2, **changes}
    settings = loop_settings(data, tmp_path / name, **changes)
    codes = run_ranks(settings, world_size)
    assert codes == [0] * world_size, (tmp_path / name / "errors.log").read_text()[-3000:]
    checkpoint, _ = newest_checkpoint(tmp_path / name / "checkpoints")
    return checkpoint


def as_onnxruntime(values, signed, symmetric, limit=127):
    """Values as int8 or uint8 holds them, by the functions with which ONNX Runtime makes a QDQ file."""
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    low, high = (-limit, limit) if symmetric else ((-128, 127) if signed else (0, 255))
    kind = np.int8 if signed else np.uint8
    smallest, largest = values.min().numpy(), values.max().numpy()
    zero, scale = compute_scale_zp(smallest, largest, np.array(low, kind), np.array(high, kind), symmetric)
    whole = np.clip(np.round(values.numpy() / scale) + zero, low, high)
    return torch.from_numpy(((whole - zero) * scale).astype(np.float32))


@pytest.mark.parametrize("limit", [127, 64])
def test_weights_are_rounded_as_onnxruntime_does(limit):
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([0.1, 1.0, 5.0, 20.0])[:, None, None, None]
    found = round_weight(limit, weight, per_channel=True)
    for channel in range(4):
        expected = as_onnxruntime(weight[channel], signed=True, symmetric=True, limit=limit)
        torch.testing.assert_close(found[channel], expected)
    whole = round_weight(limit, weight, per_channel=False)
    torch.testing.assert_close(whole, as_onnxruntime(weight, signed=True, symmetric=True, limit=limit))
    assert (found - weight)[0].abs().max() < (whole - weight)[0].abs().max()


@pytest.mark.parametrize(("dtype", "signed"), [("uint8", False), ("int8", True)])
@pytest.mark.parametrize("shift", [-3.0, 0.2, 3.0])
def test_activations_are_rounded_as_onnxruntime_does_in_a_range_that_holds_0(dtype, signed, shift):
    torch.manual_seed(0)
    values = torch.randn(50, 4) + shift
    layer = InputRange(dtype).train()
    found = layer(values)
    expected = as_onnxruntime(values, signed=signed, symmetric=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert layer.low <= 0 <= layer.high


def test_a_range_is_the_mean_of_the_first_batches_and_follows_the_later_ones_slowly():
    layer = InputRange("uint8").train()
    for largest in (1.0, 2.0, 6.0):
        layer(torch.tensor([0.0, largest]))
    assert layer.high == pytest.approx(3.0)
    layer.seen += 1000
    layer(torch.tensor([-1.0, 103.0]))
    assert (layer.low.item(), layer.high.item()) == (pytest.approx(-0.01), pytest.approx(4.0))
    layer.eval()(torch.tensor([500.0]))
    assert layer.high == pytest.approx(4.0)


def test_gradients_pass_the_rounding_and_not_what_was_cut_off():
    layer = InputRange("uint8").train()
    layer(torch.tensor([0.0, 1.0]))
    values = torch.tensor([0.3, 0.7, 9.0], requires_grad=True)
    layer.eval()(values).sum().backward()
    assert values.grad.tolist() == [1, 1, 0]
    weight = torch.randn(3, 4, requires_grad=True)
    round_weight(127, weight, per_channel=True).sum().backward()
    assert torch.equal(weight.grad, torch.ones(3, 4))


def test_every_convolution_and_linear_layer_is_trained_so_under_its_own_name(data):
    schema = load_schema(data)
    model = build_model({"kind": "torchvision", "name": "resnet18", "norm": "batch", "small_images": True,
                         "resize": None}, schema, None)  # fmt: skip
    names = list(model.state_dict())
    parameters = [name for name, _ in model.named_parameters()]
    assert add_fake_quantization(model, QUANTIZE) == "21 layers trained with the rounding of int8"
    assert [name for name, _ in model.named_parameters()] == parameters
    assert list(without_helpers(dict(model.state_dict()))) == names


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_end_with_plain_weights_and_ranges_that_they_share(tmp_path, data, strategy):
    run = trained(tmp_path, strategy, data, strategy=STRATEGIES[strategy])
    weights = run.tensors("model")
    assert {name for name in weights if name.endswith(".seen")} == {
        f"network.{layer}.input_range.seen" for layer in (0, 4, 10)
    }
    assert weights["network.4.input_range.seen"] == 2 * 5
    assert weights["network.4.input_range.high"] > weights["network.4.input_range.low"]
    build_model(MODEL, load_schema(data), None).load_state_dict(without_helpers(weights))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, data, strategy):
    chosen = STRATEGIES[strategy]
    whole = trained(tmp_path, "whole", data, strategy=chosen, every_steps=2)
    settings = loop_settings(
        data, tmp_path / "cut", model=MODEL, quantize=QUANTIZE, epochs=2, every_steps=2, strategy=chosen
    )
    assert run_ranks({**settings, "die_at": {"rank": 0, "call": 8}}, 2)[0] != 0
    assert run_ranks(settings, 2) == [0, 0]
    resumed, _ = newest_checkpoint(tmp_path / "cut" / "checkpoints")
    mine, theirs = whole.tensors("model"), resumed.tensors("model")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def loss_in_levels(weights, data, limit):
    """Validation loss of weights that are rounded to -limit ... limit, one scale for each tensor."""
    model = build_model(MODEL, load_schema(data), None)
    model.load_state_dict(weights)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = round_weight(limit, module.weight.data, per_channel=False)
    rows = ShardSet.open(data, "val")
    records, labels = (torch.from_numpy(each) for each in rows.gather(np.arange(len(rows))))
    with torch.no_grad():
        return nn.functional.cross_entropy(model.eval()(records), labels).item()


def test_weights_that_were_trained_with_few_levels_serve_better_in_them(tmp_path, monkeypatch):
    """With weights of -1, 0 and 1: 255 levels cost too little to be seen on images of 30 pixels."""
    data = make_shards(tmp_path / "shards", train=100, val=100, classes=5)
    rows = ShardSet.open(data, "train")
    records, labels = (torch.from_numpy(each) for each in rows.gather(np.arange(len(rows))))

    def fit(model, epochs):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(epochs):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(records), labels).backward()
            optimizer.step()
        return without_helpers(dict(model.state_dict()))

    torch.manual_seed(0)
    plain = build_model(MODEL, load_schema(data), None)
    fit(plain, 25)
    aware = copy.deepcopy(plain)
    monkeypatch.setattr(
        fake_quant, "round_weight", lambda _, weight, per_channel: round_weight(1, weight, per_channel=False)
    )
    add_fake_quantization(aware, QUANTIZE)
    without, aware_of_it = (loss_in_levels(fit(model, 25), data, 1) for model in (plain, aware))
    assert aware_of_it < 0.5 * without
