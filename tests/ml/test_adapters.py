"""Adapters of every kind: the answers stay at first, only what should trains, and merging gives back a plain model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from rayml.errors import StageError
from rayml.ml import adapters
from rayml.ml.adapters import CONFIGS, add_adapter, merge_adapter
from rayml.ml.models import Classifier, build_model
from rayml.ml.onnx_export import session_outputs, write_onnx
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.spec.model import Mlp, SmallCnn, TorchvisionModel, Transformer
from rayml.spec.start import Adapter

pytest.importorskip("peft", reason="the extra `finetune` is not installed")

IMAGES = Schema(
    feature=ImageFeature(height=11, width=9, channels=3),
    label="Tier",
    classes=("Hund", "Känguru", "Maus"),
    normalization=Normalization(offset=(120.0,) * 3, scale=(60.0,) * 3),
)
NUMBERS = Schema(
    feature=VectorFeature(columns=("Alter", "Größe", "Gewicht", "x", "y")),
    label="krank",
    classes=("nein", "ja"),
    normalization=Normalization(offset=(0.0,) * 5, scale=(1.0,) * 5),
)
MODELS = {
    "mlp": (Mlp(kind="mlp", hidden=(12, 7), dropout=0.3), NUMBERS),
    "small_cnn": (SmallCnn(kind="small_cnn", width=8), IMAGES),
    "transformer": (Transformer(kind="transformer", width=12, depth=2, heads=3), IMAGES),
    "resnet18": (TorchvisionModel(kind="torchvision", small_images=True), IMAGES),
    "swin": (TorchvisionModel(kind="torchvision", name="swin_t", resize=32), IMAGES),
}


def build(name: str) -> tuple[Classifier, Schema, torch.Tensor]:
    spec, schema = MODELS[name]
    torch.manual_seed(2)
    model = build_model(spec.model_dump(mode="json"), schema, None)
    rng = np.random.default_rng(4)
    shape = (6, *schema.feature.shape)
    rows = (
        rng.integers(0, 256, shape).astype(np.uint8) if schema is IMAGES else rng.normal(size=shape).astype(np.float32)
    )
    return model, schema, torch.from_numpy(rows)


def settings(kind: str, **changes: object) -> dict[str, object]:
    section = TypeAdapter(Adapter).validate_python({"kind": kind, **changes}).model_dump(mode="json")
    return {**section, "alpha": 2.0 * section["rank"]} if section.get("alpha") == "auto" else section


def train(model: nn.Module, rows: torch.Tensor, steps: int = 5) -> None:
    model.train()
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows), torch.arange(len(rows)) % 2).backward()
        optimizer.step()
    model.eval()


def test_every_kind_is_here():
    assert {
        each["properties"]["kind"]["const"] for each in TypeAdapter(Adapter).json_schema()["$defs"].values()
    } == set(CONFIGS)


PAIRS = [
    (name, kind)
    for name in ("mlp", "small_cnn", "transformer")
    for kind in CONFIGS
    if (name, kind) != ("small_cnn", "oft")
]


@pytest.mark.parametrize(("name", "kind"), [*PAIRS, ("resnet18", "lora")])
def test_added_trained_and_merged(name, kind):
    model, schema, rows = build(name)
    plain = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    first = model(rows).detach()
    report = add_adapter(model, settings(kind), schema)
    torch.testing.assert_close(model(rows), first, atol=1e-5, rtol=1e-5)

    base = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("base_layer.weight")}
    assert len(base) == len(report.layers) > 0
    train(model, rows)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in base.items())
    trained = model(rows).detach()
    assert (trained - first).abs().max() > 1e-3

    assert merge_adapter(model, rows) < 1e-5
    merged = model.state_dict()
    assert list(merged) == list(plain)
    assert not any("peft" in type(module).__module__ for module in model.modules())
    rebuilt, _, _ = build(name)
    rebuilt.load_state_dict(merged)
    torch.testing.assert_close(rebuilt.eval()(rows), trained, atol=1e-5, rtol=1e-5)


def test_what_trains_and_what_is_said():
    model, schema, _ = build("transformer")
    report = add_adapter(model, settings("lora", rank=2, targets=["*.q", "*.v"]), schema)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        "network.head.weight",
        "network.head.bias",
        *(
            f"network.blocks.{block}.attention.{layer}.lora_{side}.default.weight"
            for block in (0, 1)
            for layer in "qv"
            for side in "AB"
        ),
    }
    assert report.trained == 4 * 2 * (12 + 12) + 3 * 12 + 3
    assert report.sentence().startswith(
        "lora on 4 layers, and network.head is trained itself: 231 parameters to train, "
    )

    model, schema, _ = build("mlp")
    assert add_adapter(model, settings("ia3", train_head=False), schema).head is None
    assert not model.get_submodule("network.7").weight.requires_grad


def test_the_merged_model_is_exported_as_it_answers(tmp_path):
    model, schema, rows = build("small_cnn")
    add_adapter(model, settings("lora"), schema)
    train(model, rows)
    expected = torch.softmax(model(rows), 1).detach().numpy()
    merge_adapter(model, rows)
    write_onnx(model, rows[:2].numpy(), schema, 20, {"rayml": "0"}, tmp_path / "model.onnx")
    _, got = session_outputs(tmp_path / "model.onnx", "image", rows.numpy())
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mlp", {"kind": "lora", "targets": ["network.11"]}, r"targets: `network.11` matches no layer .* `network.1`"),
        ("mlp", {"kind": "lora", "targets": ["network.7"]}, "matches no layer that can have an adapter"),
        ("small_cnn", {"kind": "oft"}, "no layer for an adapter of kind oft"),
        ("swin", {"kind": "lora", "targets": ["*.qkv"]}, "qkv is never called.* would do nothing"),
    ],
)
def test_a_mistake_is_told(name, changes, said):
    model, schema, _ = build(name)
    with pytest.raises(StageError, match=said):
        add_adapter(model, settings(**changes), schema)


def test_layers_whose_weights_are_read_by_others_are_passed_over():
    model, schema, _ = build("swin")
    report = add_adapter(model, settings("lora"), schema)
    assert any(name.endswith(".mlp.0") for name in report.layers)
    assert not any(name.endswith(".qkv") for name in report.layers)


def test_an_adapter_that_changes_the_answers_is_refused(monkeypatch):
    """As peft's oft does on padded convolutions, which is why it is not offered there."""
    monkeypatch.setattr(adapters, "LINEAR_ONLY", ())
    model, schema, _ = build("small_cnn")
    with pytest.raises(StageError, match=r"peft's oft on 2 layers, before the first step, changes the model's answers"):
        add_adapter(model, settings("oft"), schema)


def test_an_adapter_that_blew_up_is_not_merged():
    model, schema, rows = build("mlp")
    add_adapter(model, settings("lora"), schema)
    with torch.no_grad():
        next(parameter for name, parameter in model.named_parameters() if "lora_B" in name).fill_(torch.inf)
    with pytest.raises(StageError, match=r"the adapter of network\.1 cannot be merged: .*NaNs"):
        merge_adapter(model, rows)
