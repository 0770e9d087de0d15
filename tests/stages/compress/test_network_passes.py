"""Passes that change the network: what they leave is built again from JSON, is smaller in the exported graph too."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from stages.compress.passes import CNN, FINETUNE, KINDS, MLP, RESNET, TRANSFORMER, export, make_work

from rayml.errors import StageError
from rayml.ml.checkpoint import save_weights
from rayml.ml.models import build_model
from rayml.ml.onnx_session import open_session
from rayml.ml.surgery import thin
from rayml.ml.trained import frozen_sample
from rayml.stages.compress.passes import factorize, prune, share

PRUNE = {
    "kind": "prune",
    "structured": 0.5,
    "unstructured": None,
    "pattern": None,
    "importance": "magnitude",
    "scope": "layer",
    "rounds": 1,
    "multiple": "auto",
}
FACTORIZE = {"kind": "factorize", "energy": None, "rank": 0.2}
SHARE = {"kind": "share", "every": 2}


def rebuilt(work, made):
    """The network as a later step builds it: from JSON and named weights alone."""
    network = build_model(json.loads(json.dumps(made.config)), work.schema, None)
    network.load_state_dict(made.weights)
    return network.eval()


def weights_in(path) -> int:
    return sum(int(np.prod(each.dims)) for each in onnx.load(path).graph.initializer)


def parameters(network) -> int:
    return sum(each.numel() for each in network.parameters())


CASES = [(prune.run, PRUNE, kind) for kind in KINDS] + [(factorize.run, FACTORIZE, kind) for kind in KINDS]
CASES += [(share.run, SHARE, "transformer")]


@pytest.mark.parametrize(("run", "config", "kind"), CASES, ids=[f"{c['kind']}-{kind}" for _, c, kind in CASES])
def test_what_a_pass_leaves_is_a_smaller_network_that_exports(tmp_path, run, config, kind):
    model = {**KINDS[kind], "depth": 4} if kind == "transformer" else KINDS[kind]
    work = make_work(tmp_path, model, config)
    made = run(work)
    network = rebuilt(work, made)
    _, records = frozen_sample(work.data, 8)
    logits = network(torch.from_numpy(records))
    assert logits.shape == (len(records), len(work.schema.classes))
    assert parameters(network) < 0.8 * parameters(work.parent.network(work.schema, None))
    path = tmp_path / "after.onnx"
    export(network, work.data, path)
    assert weights_in(path) < 0.85 * weights_in(work.parent.onnx)
    session = open_session(path, threads=1)
    _, answers = session.run(None, {work.schema.feature.name: records})
    np.testing.assert_allclose(answers, torch.softmax(logits, 1).detach().numpy(), atol=1e-4)


def test_the_share_that_goes_is_the_one_that_is_written(tmp_path):
    made = prune.run(make_work(tmp_path, MLP, {**PRUNE, "structured": 0.25, "multiple": 1}))
    assert made.facts["layers"]["network.1"]["after"][0] == 48
    assert made.facts["layers"]["network.4"]["after"] == [36, 48]


def test_rounds_take_the_same_share_in_parts_with_training_between(tmp_path):
    trained = []

    def train(model, start, settings):
        trained.append((len(model["surgery"]), settings["epochs"]))
        return dict(start)

    config = {**PRUNE, "rounds": 3, "multiple": 1, "finetune": {**FINETUNE, "epochs": 6}}
    made = prune.run(make_work(tmp_path, MLP, config, train))
    assert trained == [(1, 2), (2, 2), (3, 2)]
    assert made.facts["layers"]["network.1"]["after"][0] == pytest.approx(32, abs=2)


def test_layers_that_are_kept_stay_as_they_are(tmp_path):
    made = prune.run(make_work(tmp_path, MLP, {**PRUNE, "keep": ["network.1"]}))
    assert "network.1" not in made.facts["layers"]
    assert made.facts["layers"]["network.4"]["after"][0] == 24
    made = factorize.run(make_work(tmp_path / "again", MLP, {**FACTORIZE, "keep": ["network.1"]}))
    assert "network.1" not in made.facts["layers"]


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn_scale"])
def test_every_importance_ranks_channels(tmp_path, importance):
    made = prune.run(make_work(tmp_path, RESNET, {**PRUNE, "importance": importance}))
    assert made.facts["layers"]["network.conv1"]["after"][0] == 32


def test_heads_are_ranked_by_their_gradients_too(tmp_path):
    work = make_work(tmp_path, TRANSFORMER, {**PRUNE, "importance": "taylor"})
    made = prune.run(work)
    assert parameters(rebuilt(work, made)) < 0.7 * parameters(work.parent.network(work.schema, None))


def test_heads_and_units_that_do_nothing_go_and_the_answers_stay(tmp_path):
    """Half of the heads and units write nothing: without them the network answers as before, and is as wide."""
    work = make_work(tmp_path, TRANSFORMER, PRUNE)
    network = work.parent.network(work.schema, None)
    with torch.no_grad():
        for block in network.network.blocks:
            idle = torch.arange(32).reshape(4, 8)[[1, 2]].flatten()
            for layer in (block.attention.q, block.attention.k, block.attention.v):
                layer.weight[idle] = 0
            block.attention.o.weight[:, idle] = 0
            block.feed_forward.up.weight[::2] = 0
            block.feed_forward.down.weight[:, ::2] = 0
    save_weights(work.parent.folder, network.state_dict())
    after = rebuilt(work, prune.run(work))
    _, records = frozen_sample(work.data, 8)
    with torch.no_grad():
        torch.testing.assert_close(after(torch.from_numpy(records)), network(torch.from_numpy(records)))
    for block in after.network.blocks:
        assert (block.attention.q.out_features, block.attention.o.out_features) == (16, 32)
        assert block.feed_forward.up.out_features == 64


def test_a_circular_convolution_stays_circular():
    layer = torch.nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")
    first, second, bias = factorize.split(layer, 6)
    pair = thin(layer, 6)
    pair.load_state_dict({"0.weight": first, "1.weight": second, "1.bias": bias})
    images = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(pair(images), layer(images), atol=1e-5, rtol=1e-4)


def test_blocks_that_stride_differently_are_not_alike():
    blocks = [torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, stride=stride, padding=1)) for stride in (1, 2)]
    assert share.shape_of(blocks[0]) != share.shape_of(blocks[1])


@pytest.mark.parametrize("way", [{"unstructured": 0.6}, {"pattern": "2:4"}])
def test_zeros_in_place_are_said_to_be_that(tmp_path, way):
    work = make_work(tmp_path, CNN, {**PRUNE, "structured": None, **way})
    made = prune.run(work)
    assert made.masked
    assert made.config == work.parent.config
    assert 0.3 < made.facts["zeros"] < 0.7
    assert "no sparse kernels" in made.facts["what_it_brings"]
    if "pattern" in way:
        weight = made.weights["network.4.weight"].flatten(1).reshape(-1, 4)
        assert ((weight != 0).sum(1) <= 2).all()


def test_weights_compete_in_their_layer_or_all_over_the_network(tmp_path):
    shares = {}
    for scope in ("layer", "global"):
        (tmp_path / scope).mkdir()
        work = make_work(tmp_path / scope, MLP, {**PRUNE, "structured": None, "unstructured": 0.5, "scope": scope})
        weights = prune.run(work).weights
        shares[scope] = [float((weights[f"network.{place}.weight"] == 0).float().mean()) for place in (1, 4)]
    assert shares["layer"] == pytest.approx([0.5, 0.5], abs=0.01)
    assert abs(shares["global"][0] - shares["global"][1]) > 0.05


RESHAPING = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.second = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.head = torch.nn.Linear(480, 3)
    def forward(self, x):
        x = self.second(torch.relu(self.first(x)))
        return self.head(x.reshape(len(x), 4, 4, 30).flatten(1))
def build(schema):
    return Net()
"""
ATTENDING = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(5, 16)
        self.attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = torch.nn.Linear(16, 3)
    def forward(self, x):
        x = self.first(x.squeeze(1))
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))
def build(schema):
    return Net()
"""


def own_work(tmp_path, name, source, config):
    (tmp_path / f"{name}.py").write_text(source)
    work = make_work(tmp_path, MLP, config)
    model = {"kind": "callable", "function": f"{name}:build", "args": {}}
    network = build_model(model, work.schema, str(tmp_path))
    (work.parent.folder / "model.json").write_text(json.dumps({"model": model, "task": "image_classification"}))
    save_weights(work.parent.folder, network.state_dict())
    export(network.eval(), work.data, work.parent.onnx)
    return replace(work, code=str(tmp_path))


def test_a_layer_that_cannot_lose_channels_is_named_and_the_rest_can_be_pruned(tmp_path):
    with pytest.raises(StageError, match=r"`network\.second` cannot lose channels") as caught:
        prune.run(own_work(tmp_path, "reshaping", RESHAPING, PRUNE))
    assert "keep: [network.second]" in caught.value.hint
    (tmp_path / "again").mkdir()
    made = prune.run(own_work(tmp_path / "again", "reshaping", RESHAPING, {**PRUNE, "keep": ["network.second"]}))
    assert made.facts["layers"]["network.first"]["after"][0] == 8


def test_an_attention_of_torch_is_pruned_or_named(tmp_path):
    work = own_work(tmp_path, "attending", ATTENDING, PRUNE)
    made = prune.run(work)
    network = build_model(json.loads(json.dumps(made.config)), work.schema, work.code)
    network.load_state_dict(made.weights)
    export(network.eval(), work.data, work.out / "model.onnx")
    assert weights_in(work.out / "model.onnx") < 0.8 * weights_in(work.parent.onnx)


def test_a_low_rank_that_keeps_everything_computes_the_same(tmp_path):
    work = make_work(tmp_path, MLP, {**FACTORIZE, "rank": None, "energy": 0.999999})
    with pytest.raises(StageError, match="no layer becomes smaller: `network"):
        factorize.run(work)
    network = work.parent.network(work.schema, None)
    layer = network.get_submodule("network.1")
    first, second, _ = factorize.split(layer, min(layer.weight.shape))
    torch.testing.assert_close(second @ first, layer.weight.detach(), atol=1e-5, rtol=1e-4)


def test_shared_blocks_compute_what_one_does_twice(tmp_path):
    work = make_work(tmp_path, TRANSFORMER, SHARE)
    made = share.run(work)
    assert made.facts["groups"] == [
        ["network.blocks.0", "network.blocks.1"],
        ["network.blocks.2", "network.blocks.3"],
    ]
    network = rebuilt(work, made)
    block, values = network.network.blocks[0], torch.randn(2, 5, 32)
    torch.testing.assert_close(block(values), block.block(block.block(values)))


@pytest.mark.parametrize(
    ("run", "model", "config", "said"),
    [
        (prune.run, MLP, {**PRUNE, "keep": ["network.77"]}, "no layer is called `network.77`"),
        (prune.run, MLP, {**PRUNE, "importance": "bn_scale"}, "the network has none"),
        (prune.run, MLP, {**PRUNE, "keep": ["network.*"]}, "takes no channel out of any layer"),
        (share.run, MLP, SHARE, r"no 2 blocks that follow each other are alike.*there are no blocks"),
    ],
)
def test_what_a_network_cannot_give_is_said(tmp_path, run, model, config, said):
    with pytest.raises(StageError, match=said) as caught:
        run(make_work(tmp_path, model, config))
    assert caught.value.hint


def test_tied_weights_are_named(tmp_path):
    network = build_model(MLP, make_work(tmp_path, MLP, PRUNE).schema, None)
    network.network[4].weight = torch.nn.Parameter(torch.zeros(64, 64))
    network.network.add_module("twin", torch.nn.Linear(64, 64))
    network.network.twin.weight = network.network[4].weight
    with pytest.raises(StageError, match=r"`network\.4\.weight` and `network\.twin\.weight` are the same weights"):
        prune.refuse_tied(network)
